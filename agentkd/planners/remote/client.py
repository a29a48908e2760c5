"""A planner on another machine, as a policy: what `agentkd serve` serves.

A lost connection makes the planner late and nothing else: the question is put again when the
connection is there again. Each reply carries the number of its question and its episode; one that
does not fit ends the connection, so that a late reply is never taken for the answer to the next
question.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, final

from agentkd.errors import AgentkdError, PlannerError, WireError
from agentkd.planners.remote.wire import (
    MOST_BYTES,
    MOST_UNPROVEN,
    PROTOCOL,
    Frame,
    Line,
    address_of,
    answer_of,
    connect,
    names_of,
    proof,
    proven,
    token_of_environment,
)
from agentkd.printable import logger, printable
from agentkd.spec import Spec, from_json, to_json
from agentkd.types import ActionDist, Floats, Guidance, State

log = logger(__name__)

_BACKOFF, _MOST_BACKOFF = 0.1, 5.0
_HANDSHAKE = 10.0
"""Seconds for one try to connect, the handshake included."""
_MOST_HORIZON = 1 << 16
Said = TypeVar("Said")


@final
class RemotePlanner:
    """A planner behind `tcp://host:port`. It is a `Policy`, or what it is there.

    It has `initial_state`, `improve` and `disagreement` where the planner has, and `horizon`. It
    waits for its answers, so give it to the runtime as it is (it then gets a thread) or by its
    address, never on the tick.

    Attributes:
        spec: The environment.
        name: What the other end calls its planner.
        horizon: How many rows it answers an observation with.
        episode: The episode, which goes with each question and comes back.
        restarts: How often the connection was lost, under "lost".

    Args:
        address: "tcp://host:port".
        spec: The environment; None to take the other end's.
        token: What both ends have to know; None to take it from the environment (AGENTKD_TOKEN, or
            the file AGENTKD_TOKEN_FILE).
        answer_seconds: For one question and its answer, or for each better answer; then the
            connection is given up.
        patience: Seconds for which a question is put again, over new connections. A server that is
            full counts as one that is not there. The last try to connect begins within this time
            and takes at most ten seconds more.
        most_bytes: The largest message that is taken.

    Raises:
        PlannerError: If nobody answers there, or not as one should.
    """

    def __init__(
        self,
        address: str,
        spec: Spec | None = None,
        *,
        token: str | None = None,
        answer_seconds: float = 30.0,
        patience: float = 30.0,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        """Connect."""
        self.address = address
        self._where = address_of(address)
        self._token = token_of_environment() if token is None else token
        self._answer_seconds, self._patience = answer_seconds, patience
        self._most = most_bytes
        self._asked_spec = spec
        self.episode = 0
        self.restarts = {"lost": 0}
        self._id = 0
        self._line: Line | None = None
        self._gone = threading.Event()
        self._about: dict[str, Any] | None = None
        about = self._connect(time.monotonic() + patience)
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
        """Answer for a batch of observations, (batch, size), as the planner does.

        Raises:
            PlannerError: If the planner raised, or cannot be reached for too long.
        """
        arrays = [obs] if state is None else [obs, *state]
        frame = self._asked("call", arrays)
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
        return self._asked("begin", [], {"batch": batch}).arrays

    def _disagreement(self, obs: Floats) -> Floats:
        arrays = self._asked("disagreement", [obs]).arrays
        if len(arrays) != 1 or arrays[0].shape != (len(obs),):
            shapes = [array.shape for array in arrays]
            raise WireError(f"A disagreement of the shapes {shapes}.")
        return arrays[0]

    def _improve(self, obs: Floats) -> Iterator[ActionDist | Guidance]:
        whole = False
        try:
            number = self._with_patience(lambda end: self._put(end, "improve", [obs]))
            while not whole:
                frame = self._hear(number)
                whole = bool(frame.header.get("last"))
                if not whole or frame.arrays:
                    yield answer_of(frame, self.spec)
                if self._line is not None:
                    self._line.within(self._answer_seconds)
        except OSError as error:
            self._lost(error)
            if not self._gone.is_set():
                # Whatever came before was an answer; the next question connects.
                raise PlannerError(self._words(error)) from error
        finally:
            if not whole:
                # The rest of it would come in the way of the next question's answer.
                self._hang_up()

    def _asked(
        self, method: str, arrays: Sequence[Floats], more: dict[str, Any] | None = None
    ) -> Frame:
        """Ask until there is an answer, over new connections where need be."""
        return self._with_patience(
            lambda end: self._hear(self._put(end, method, arrays, more or {}))
        )

    def _put(
        self, end: float, method: str, arrays: Sequence[Floats], more: dict[str, Any] | None = None
    ) -> int:
        self._id += 1
        question = {"type": "ask", "id": self._id, "episode": self.episode}
        line = self._line
        if line is None:
            self._connect(end)
            line = self._line
        if line is None:
            raise PlannerError(f"{self.address} was given up.")
        line.within(self._answer_seconds)
        line.send({**question, "method": method, **(more or {})}, arrays)
        return self._id

    def _hear(self, number: int) -> Frame:
        line = self._line
        if line is None:
            raise ConnectionError("the connection was given up")
        try:
            frame = line.receive()
        except WireError:
            self._hang_up()
            raise
        header = frame.header
        if (header.get("id"), header.get("episode")) != (number, self.episode):
            self._hang_up()
            raise WireError(
                f"{self.address} answered question {header.get('id')} of episode "
                f"{header.get('episode')}; it was asked {number} of {self.episode}."
            )
        if header.get("type") == "failed":
            raise PlannerError(str(header.get("text")))
        return frame

    def _with_patience(self, ask: Callable[[float], Said]) -> Said:
        """Ask until there is an answer; `ask` is told when patience ends."""
        end, pause = time.monotonic() + self._patience, _BACKOFF
        while True:
            try:
                return ask(end)
            except OSError as error:
                self._lost(error)
                if self._gone.is_set() or time.monotonic() >= end:
                    raise PlannerError(self._words(error)) from error
                self._gone.wait(pause)
                pause = min(2 * pause, _MOST_BACKOFF)

    def _lost(self, error: OSError) -> None:
        self._hang_up()
        self.restarts["lost"] += 1
        count = self.restarts["lost"]
        if count & (count - 1) == 0 and not self._gone.is_set():
            log.warning("%s Lost %d times.", self._words(error), count)

    def _words(self, error: OSError) -> str:
        said = "it took too long" if isinstance(error, TimeoutError) else str(error)
        return f"The planner at {self.address} cannot be reached: {said}."

    def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.close()

    def _connect(self, end: float) -> dict[str, Any]:
        """Connect, again and again with longer pauses, until patience ends.

        Returns:
            What the other end says of its planner.
        """
        pause = _BACKOFF
        while not self._gone.is_set():
            try:
                return self._greet()
            except OSError as error:
                self._hang_up()
                left = end - time.monotonic()
                if left <= 0:
                    raise PlannerError(self._words(error)) from error
                self._gone.wait(min(pause, left))
                pause = min(2 * pause, _MOST_BACKOFF)
        raise PlannerError(f"{self.address} was given up.")

    def _greet(self) -> dict[str, Any]:
        end = time.monotonic() + _HANDSHAKE
        line = Line(connect(*self._where, _HANDSHAKE), MOST_UNPROVEN)
        # From here on `interrupt` ends the waiting.
        self._line = line
        if self._gone.is_set():
            self._hang_up()
            raise ConnectionError("it was given up")
        try:
            line.within(end - time.monotonic())
            about = self._introduced(line)
            line.trust(self._most)
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

    def _introduced(self, line: Line) -> dict[str, Any]:
        hello = self._unrefused(line)
        if hello.get("type") != "hello" or hello.get("protocol") != PROTOCOL:
            raise WireError(f"{self.address} speaks {hello.get('protocol')!r}, not {PROTOCOL}.")
        nonces = [str(hello.get("nonce")), os.urandom(16).hex()]
        line.send(
            {
                "type": "auth",
                "protocol": PROTOCOL,
                "nonce": nonces[1],
                "proof": proof(self._token, "client", nonces),
                "spec": to_json(self._asked_spec) if self._asked_spec else None,
            }
        )
        welcome = self._unrefused(line)
        if not proven(self._token, "server", nonces, welcome.pop("proof", None)):
            raise PlannerError(
                f"{self.address} does not prove that it knows the token; it may not be "
                "the planner that it seems."
            )
        return _checked(welcome, self.address)

    def _unrefused(self, line: Line) -> dict[str, Any]:
        said = dict(line.receive().header)
        if said.get("type") == "refused":
            text = f"{self.address} refuses: {said.get('text')}"
            # A place may become free; nothing else that is refused changes by itself.
            raise ConnectionError(text) if said.get("retry") else PlannerError(text)
        return said


def _checked(welcome: dict[str, Any], address: str) -> dict[str, Any]:
    """Make sure that what the other end says of itself is complete."""
    wanted = {
        "spec": dict,
        "name": str,
        "horizon": int,
        "parameters": int,
        "recurrent": bool,
        "anytime": bool,
        "doubts": bool,
    }
    for key, kind in wanted.items():
        if type(welcome.get(key)) is not kind:
            raise WireError(f"{address} does not tell its {key}: {welcome!r:.500}")
    with contextlib.suppress(AgentkdError):
        from_json(welcome["spec"])
        if 1 <= welcome["horizon"] <= _MOST_HORIZON:
            return {key: welcome[key] for key in wanted}
    raise WireError(f"{address} tells of itself what cannot be: {welcome!r:.500}")
