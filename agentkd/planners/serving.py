"""The other end of a remote planner: answers whoever connects and knows the token."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, final

import numpy as np

from agentkd.errors import (
    AgentkdError,
    ConfigError,
    PlannerError,
    SpecError,
    WireError,
)
from agentkd.planners.planner import Planner
from agentkd.planners.wire import (
    MOST_BYTES,
    PROTOCOL,
    TOKEN,
    Frame,
    Line,
    answer_frame,
    is_loopback,
    proof,
    proven,
)
from agentkd.spec import from_json, to_json
from agentkd.types import Floats

log = logging.getLogger(__name__)

_UNPROVEN = 1 << 16
"""Bytes of a payload before whoever connects has proven to know the token."""
_HANDSHAKE = 10.0
_SENDING = 10.0
_LOOK = 0.2
_SIGNS = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""Seconds of silence, seconds between two questions, how many stay unanswered."""


@dataclass(slots=True)
class ServerCounts:
    """What a server did so far.

    Attributes:
        connections: Connections that proved themselves.
        open: Those that are open now.
        refused: Connections that did not, or were one too many.
        questions: Questions answered.
        failed: Questions at which the planner raised.
        thinking: Seconds that the planner took, all together.
    """

    connections: int = 0
    open: int = 0
    refused: int = 0
    questions: int = 0
    failed: int = 0
    thinking: float = 0.0


def _keep_alive(connection: socket.socket) -> None:
    """Notice a peer that vanished without a word, so that its place becomes free.

    After half a minute of silence it is asked for a sign of life, by the system; after
    half a minute without one the connection is over. Where only the asking can be had,
    the system's own times hold.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _SIGNS.items():
        option = getattr(socket, name, None)
        if option is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


@final
class PlannerServer:
    """Serves a planner over TCP, to one question at a time.

        with PlannerServer(planner, port=4750) as server:
            print(server.address)
            time.sleep(3600)

    Each connection has a thread; the planner is asked by one of them at a time.

    Args:
        planner: The planner.
        host: The address to listen at; this machine only, unless there is a token.
        port: The port; 0 for one that is free.
        token: What whoever connects has to know; "" for nothing.
        most_connections: How many may be open.
        most_bytes: The largest message that is taken.

    Raises:
        ConfigError: If it would be open to everybody, or the port cannot be had.
    """

    def __init__(
        self,
        planner: Planner,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str = "",
        most_connections: int = 8,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        """Bind the port; entering the block accepts connections."""
        if not token and not is_loopback(host):
            raise ConfigError(
                f"At {host} everybody who can reach this machine could use the "
                f"planner. Give a token, in a file or in {TOKEN}, or listen at "
                "127.0.0.1."
            )
        self.counts = ServerCounts()
        self._planner, self._policy = planner, planner.policy
        self._token, self._most = token, most_bytes
        self._most_connections = most_connections
        self._turn = threading.Lock()
        self._lines: set[Line] = set()
        self._stop = threading.Event()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host, port))
            self._socket.listen()
        except (OSError, OverflowError) as error:
            self._socket.close()
            raise ConfigError(
                f"Port {port} at {host} cannot be had: {error}. Another one, or 0 for "
                "any that is free?"
            ) from error
        self._socket.settimeout(_LOOK)
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        """Where it listens: "tcp://host:port"."""
        host, port = self._socket.getsockname()[:2]
        return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._accept, name="serve", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._socket.close()
        for line in list(self._lines):
            line.close()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                connection, peer = self._socket.accept()
            except TimeoutError:
                continue
            except OSError as error:
                # Too many open files, or a peer that left at once: others may come.
                if not self._stop.is_set():
                    log.warning("A connection was not accepted: %s", error)
                    self._stop.wait(_LOOK)
                continue
            _keep_alive(connection)
            line = Line(connection, _UNPROVEN)
            line.until(_HANDSHAKE)
            if len(self._lines) >= self._most_connections:
                self._refuse(line, f"{self._most_connections} connections are open.")
                line.close()
                continue
            self._lines.add(line)
            threading.Thread(
                target=self._attend, args=(line, peer), name="serve", daemon=True
            ).start()

    def _attend(self, line: Line, peer: Any) -> None:
        """Serve one connection to its end."""
        greeted = False
        try:
            greeted = self._greet(line)
            if greeted:
                line.trust(self._most)
                self.counts.connections += 1
                self.counts.open += 1
                while not self._stop.is_set():
                    line.patience(None)
                    question = line.receive()
                    # Whoever does not take an answer keeps the others waiting.
                    line.patience(_SENDING)
                    self._answer(line, question)
        except WireError as error:
            self.counts.refused += not greeted
            log.warning("%s sent no question: %s", peer, error)
        except OSError:
            self.counts.refused += not greeted
        finally:
            self.counts.open -= greeted
            self._lines.discard(line)
            line.close()

    def _greet(self, line: Line) -> bool:
        nonce = os.urandom(16).hex()
        line.send({"type": "hello", "protocol": PROTOCOL, "nonce": nonce})
        said = line.receive().header
        nonces = [nonce, str(said.get("nonce"))]
        if said.get("type") != "auth" or said.get("protocol") != PROTOCOL:
            self._refuse(line, f"This is protocol {PROTOCOL}.")
            return False
        if not proven(self._token, "client", nonces, said.get("proof")):
            self._refuse(line, f"The token is not right. Set {TOKEN}.")
            return False
        unlike = self._unlike(said.get("spec"))
        if unlike:
            self._refuse(line, unlike)
            return False
        policy = self._policy
        line.send(
            {
                "type": "welcome",
                "proof": proof(self._token, "server", nonces),
                "spec": to_json(self._planner.spec),
                "name": self._planner.name,
                "horizon": int(getattr(policy, "horizon", 1)),
                "parameters": self._planner.parameters,
                "recurrent": hasattr(policy, "initial_state"),
                "anytime": hasattr(policy, "improve"),
                "doubts": hasattr(policy, "disagreement"),
            }
        )
        return True

    def _refuse(self, line: Line, text: str) -> None:
        self.counts.refused += 1
        with contextlib.suppress(OSError):
            line.send({"type": "refused", "text": text})

    def _unlike(self, told: Any) -> str:
        """Why the environment of whoever connects is not the planner's; "" if it is."""
        if told is None:
            return ""
        mine = self._planner.spec
        try:
            theirs = from_json(told)
        except SpecError as error:
            return str(error)
        if theirs.obs.size == mine.obs.size and theirs.action == mine.action:
            return ""
        return f"The planner is for {mine}, not for {theirs}."

    def _answer(self, line: Line, frame: Frame) -> None:
        header = frame.header
        same = {"id": header.get("id"), "epoch": header.get("epoch")}
        began = time.monotonic()
        thoughts = self._thought(header, frame.arrays)
        while True:
            # What the planner raises says nothing of the connection.
            try:
                thought = next(thoughts, None)
            except WireError:
                raise
            except Exception as error:
                self.counts.failed += 1
                text = str(error)
                if not isinstance(error, AgentkdError):
                    text = f"The planner raised {type(error).__name__}: {error}"
                line.send({"type": "failed", **same, "text": text[:4000]})
                break
            if thought is None:
                self.counts.questions += 1
                break
            more, arrays = thought
            line.send({"type": "answer", **same, **more}, arrays)
        self.counts.thinking += time.monotonic() - began

    def _thought(
        self, header: Any, arrays: Sequence[Floats]
    ) -> Iterator[tuple[dict[str, Any], Sequence[Floats]]]:
        """Ask the planner; gives what is said of each answer, and its arrays."""
        policy: Any = self._policy
        method = header.get("method")
        if method == "begin":
            batch = header.get("batch")
            if not isinstance(batch, int) or not 0 < batch <= 65536:
                raise PlannerError(f"A memory for {batch!r} observations cannot be.")
            with self._turn:
                state = policy.initial_state(batch)
            yield {}, [np.asarray(each, np.float32) for each in state]
            return
        obs = self._observations(arrays)
        with self._turn:
            if hasattr(policy, "epoch") and isinstance(header.get("epoch"), int):
                policy.epoch = header["epoch"]
            if method == "improve":
                for answer in policy.improve(obs):
                    said, found = answer_frame(answer)
                    yield {**said, "last": False}, found
                yield {"last": True}, []
            elif method == "disagreement":
                yield {}, [np.asarray(policy.disagreement(obs), np.float32)]
            elif method == "call" and len(arrays) > 1:
                answer, state = policy(obs, tuple(arrays[1:]))
                said, found = answer_frame(answer)
                yield said, [*found, *(np.asarray(s, np.float32) for s in state)]
            elif method == "call":
                yield answer_frame(policy(obs))
            else:
                raise PlannerError(f"No method {method!r}.")

    def _observations(self, arrays: Sequence[Floats]) -> Floats:
        size = self._planner.spec.obs.size
        if not arrays or arrays[0].ndim != 2 or arrays[0].shape[1] != size:
            shapes = [array.shape for array in arrays]
            raise PlannerError(f"Observations (n, {size}) were expected: {shapes}.")
        return arrays[0]
