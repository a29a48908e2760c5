"""A planner on another machine, as a policy: what `agentkd serve` serves.

A lost connection makes the planner late and nothing else: the question is put again over a new one.
Each reply carries the number of its question and its episode; one that does not fit ends the
connection, so that a late reply never answers the next question.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, final

from agentkd.errors import AgentkdError, ConfigError, PlannerError, WireError
from agentkd.extras import needing
from agentkd.frames import MOST_BYTES, Frame, answer_of, names_of
from agentkd.planners.remote.line import Line, cut, settings
from agentkd.planners.remote.wire import CA_FILE, address_of, bearer, token_of_environment
from agentkd.printable import logger, printable
from agentkd.spec import Spec
from agentkd.spec_json import from_json, to_json
from agentkd.types import ActionDist, Floats, Guidance, State

with needing("A planner on another machine"):
    from websockets.exceptions import (
        ConnectionClosed,
        InvalidHandshake,
        InvalidMessage,
        InvalidStatus,
    )
    from websockets.sync.client import connect

log = logger(__name__)

_BACKOFF, _MOST_BACKOFF = 0.1, 5.0
_HANDSHAKE = 10.0
"""Seconds for one try to connect, all of the handshake included."""
_MOST_HORIZON = 1 << 16
_ABOUT = {
    "spec": dict,
    "name": str,
    "horizon": int,
    "parameters": int,
    "recurrent": bool,
    "anytime": bool,
    "doubts": bool,
}
"""What the other end tells of its planner."""
Said = TypeVar("Said")


@final
class RemotePlanner:
    """A planner behind `ws://host:port` or, over TLS, `wss://host:port`.

    It has `initial_state`, `improve` and `disagreement` where the planner has, and `horizon`. It
    waits for its answers, so give it to the runtime as it is (it then gets a thread) or by its
    address, never on the tick.

    `episode` goes with each question and comes back; `restarts` counts under "lost" how often the
    connection was lost.

    Args:
        address: "ws://host:port" or "wss://host:port".
        spec: The environment; None to take the other end's.
        token: What the server wants to know; None for AGENTKD_TOKEN, or what the file
            AGENTKD_TOKEN_FILE holds.
        ca: A file of certificates that sign the server's; None for AGENTKD_CA_FILE, or the
            system's.
        answer_seconds: For a question and its answer, or for each better answer.
        patience: Seconds for which a question is put again, over new connections, also to a server
            that is full. The last try takes at most ten seconds more.
        most_bytes: The largest message that is taken.

    Raises:
        ConfigError: If the address is none, a token would cross a network unencrypted, or the
            certificates cannot be read.
        PlannerError: If nobody answers there, or not as one should.
    """

    def __init__(
        self,
        address: str,
        spec: Spec | None = None,
        *,
        token: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        answer_seconds: float = 30.0,
        patience: float = 30.0,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self.address = address
        self._where = address_of(address)
        self._token = token_of_environment() if token is None else token
        if self._token and not (self._where.secure or self._where.is_loopback):
            raise ConfigError(
                f"The token would go to {address} unencrypted. Serve with --cert and "
                "--key and use wss://, or use a tunnel (ssh -L) and ws://127.0.0.1."
            )
        self._tls = _trusting(ca) if self._where.secure else None
        self._answer_seconds, self._patience = answer_seconds, patience
        self._most = most_bytes
        self._asked_spec = spec
        self.episode = 0
        self.restarts = {"lost": 0}
        self._id = 0
        self._line: Line | None = None
        self._handle: socket.socket | None = None
        self._gone = threading.Event()
        self._about: dict[str, Any] | None = None
        about = self._with_patience(self._connect)
        self.spec: Spec = spec or from_json(about["spec"])
        self.name, self.horizon = printable(about["name"]), int(about["horizon"])
        self.parameters = int(about["parameters"])
        if about["recurrent"]:
            self.initial_state = self._initial_state
        if about["anytime"]:
            self.improve = self._improve
        if about["doubts"]:
            self.disagreement = self._disagreement

    def __call__(self, obs: Floats, state: State | None = None, /) -> Any:
        """Answer for a batch of observations, (batch, size), as the planner does."""
        frame = self._asked("call", [obs] if state is None else [obs, *state])
        answer = answer_of(frame, self.spec)
        if state is None:
            return answer
        return answer, tuple(frame.arrays[len(names_of(frame)) :])

    def interrupt(self) -> None:
        """Give up whatever is waited for, until `resume`."""
        self._gone.set()
        self._hang_up()

    def resume(self) -> None:
        """Let it be asked again after an `interrupt`; the next question connects."""
        self._gone.clear()

    def _initial_state(self, batch: int) -> State:
        return self._asked("begin", [], batch=batch).arrays

    def _disagreement(self, obs: Floats) -> Floats:
        arrays = self._asked("disagreement", [obs]).arrays
        if len(arrays) != 1 or arrays[0].shape != (len(obs),):
            shapes = [array.shape for array in arrays]
            raise WireError(f"A disagreement of the shapes {shapes}.")
        return arrays[0]

    def _improve(self, obs: Floats) -> Iterator[ActionDist | Guidance]:
        whole = False
        try:
            end = self._with_patience(lambda: self._put("improve", [obs]))
            while not whole:
                frame = self._hear(end)
                whole = bool(frame.header.get("last"))
                if not whole or frame.arrays:
                    yield answer_of(frame, self.spec)
                end = time.monotonic() + self._answer_seconds
        except OSError as error:
            self._lost(error)
            if not self._gone.is_set():
                # Whatever came before was an answer; the next question connects.
                raise PlannerError(self._words(error)) from error
        finally:
            if not whole:
                # The rest of it would come in the way of the next question's answer.
                self._hang_up()

    def _asked(self, method: str, arrays: Sequence[Floats], **more: Any) -> Frame:
        """Ask until there is an answer, over new connections where need be."""
        return self._with_patience(lambda: self._hear(self._put(method, arrays, more)))

    def _put(
        self,
        method: str,
        arrays: Sequence[Floats],
        more: Mapping[str, Any] | None = None,
        end: float | None = None,
    ) -> float:
        """Send a question, over a new connection if need be; give when to give up."""
        if self._line is None:
            self._connect()
        line = self._line
        if line is None:
            raise ConnectionError("the connection was given up")
        end = end or time.monotonic() + self._answer_seconds
        self._id += 1
        question = {"id": self._id, "episode": self.episode, "method": method}
        left = max(end - time.monotonic(), 0.0)
        line.send({**question, **(more or {})}, arrays, left)
        return end

    def _hear(self, end: float) -> Frame:
        line = self._line
        if line is None:
            raise ConnectionError("the connection was given up")
        try:
            frame = line.receive(max(end - time.monotonic(), 0.0))
            said = frame.header.get("id"), frame.header.get("episode")
            _need(
                said == (self._id, self.episode),
                f"{self.address} answered question {said[0]} of episode {said[1]}; it "
                f"was asked {self._id} of {self.episode}.",
            )
        except WireError:
            self._hang_up()
            raise
        if frame.header.get("type") == "failed":
            raise PlannerError(str(frame.header.get("text")))
        return frame

    def _with_patience(self, ask: Callable[[], Said]) -> Said:
        """Ask until there is an answer, with longer pauses, until patience ends."""
        end, pause = time.monotonic() + self._patience, _BACKOFF
        while True:
            if self._gone.is_set():
                raise PlannerError(f"{self.address} was given up.")
            try:
                return ask()
            except OSError as error:
                self._lost(error)
                left = end - time.monotonic()
                if self._gone.is_set() or left <= 0:
                    raise PlannerError(self._words(error)) from error
                self._gone.wait(min(pause, left))
                pause = min(2 * pause, _MOST_BACKOFF)

    def _lost(self, error: Exception) -> None:
        there = self._line is not None
        self._hang_up()
        if not there:
            return
        self.restarts["lost"] += 1
        count = self.restarts["lost"]
        if count & (count - 1) == 0 and not self._gone.is_set():
            log.warning("%s Lost %d times.", self._words(error), count)

    def _words(self, error: Exception) -> str:
        said = "it took too long" if isinstance(error, TimeoutError) else str(error)
        return f"The planner at {self.address} cannot be reached: {said.rstrip('.')}."

    def _hang_up(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            cut(handle)
            handle.close()
        line, self._line = self._line, None
        if line is not None:
            line.close()

    def _connect(self) -> dict[str, Any]:
        """Connect once; give what the other end says of its planner.

        An OSError says that nobody answers in time, or that all places are taken; a PlannerError,
        that whoever answers is not the planner, or refuses.
        """
        end = time.monotonic() + _HANDSHAKE
        spec = to_json(self._asked_spec) if self._asked_spec else None
        try:
            self._open(end)
            self._put("about", [], {"spec": spec}, end)
            about = _checked(self._hear(end).header, self.address)
        except BaseException:
            self._hang_up()
            raise
        if self._about is not None and about != self._about:
            self._hang_up()
            raise PlannerError(
                f"Another planner is at {self.address} now: {about['name']}, in place "
                f"of {self._about['name']}."
            )
        self._about = about
        return about

    def _open(self, end: float) -> None:
        where = self._where
        try:
            raw = socket.create_connection((where.host, where.port), _HANDSHAKE)
        except ValueError as error:
            raise ConfigError(f"{where.host!r} is not a host: {error}.") from error
        # TLS takes the socket over: this one ends the waiting from another thread.
        self._handle = raw.dup()
        raw.settimeout(None)
        if self._gone.is_set():
            raw.close()
            raise ConnectionError("it was given up")
        headers = {"Authorization": bearer(self._token)} if self._token else None
        try:
            connection = connect(
                str(where),
                sock=raw,
                ssl=self._tls,
                additional_headers=headers,
                user_agent_header=None,
                open_timeout=max(end - time.monotonic(), 0.0),
                # Whether the server is there is seen when it is asked.
                ping_interval=None,
                **settings(self._most),
            ).__enter__()
        except ssl.SSLCertVerificationError as error:
            raise PlannerError(
                f"The certificate of {self.address} is not trusted: "
                f"{error.verify_message}. Name the file of its CA in {CA_FILE}."
            ) from error
        except InvalidStatus as error:
            text = (error.response.body or b"")[:1000].decode(errors="replace").strip()
            full = error.response.status_code == 503
            # A place may become free; nothing else that is refused changes by itself.
            kind = ConnectionError if full else PlannerError
            raise kind(f"{self.address} refuses: {text or error}") from error
        except (ConnectionClosed, InvalidMessage) as error:  # or this end met itself
            raise ConnectionError(str(error)) from error
        except InvalidHandshake as error:
            raise PlannerError(f"{self.address} serves no planner: {error}.") from error
        self._line = Line(connection, self._most)


def _trusting(ca: str | os.PathLike[str] | None) -> ssl.SSLContext:
    path = ca or os.environ.get(CA_FILE) or None
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as error:
        raise ConfigError(f"The certificates {path}: {error.strerror}.") from error


def _checked(told: Any, address: str) -> dict[str, Any]:
    """Make sure that what the other end says of itself is complete."""
    said = f"{told!r:.500}"
    for key, kind in _ABOUT.items():
        _need(type(told.get(key)) is kind, f"{address} does not tell its {key}: {said}")
    _need(1 <= told["horizon"] <= _MOST_HORIZON, f"{address} has no horizon: {said}")
    try:
        from_json(told["spec"])
    except AgentkdError as error:
        raise WireError(f"{address} has no spec: {error}") from error
    return {key: told[key] for key in _ABOUT}


def _need(fits: bool, text: str) -> None:
    if not fits:
        raise WireError(text)
