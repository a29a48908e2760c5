"""The planner server: answers clients that know the token, over TCP."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, final

import numpy as np

from agentkd.errors import AgentkdError, ConfigError, PlannerError, SpecError, WireError
from agentkd.planners.planner import Planner
from agentkd.planners.remote.wire import (
    MOST_BYTES,
    MOST_UNPROVEN,
    PROTOCOL,
    TOKEN,
    Frame,
    Line,
    answer_frame,
    is_loopback,
    proof,
    proven,
)
from agentkd.printable import logger
from agentkd.spec import from_json, to_json
from agentkd.types import Floats

log = logger(__name__)

_STRANGERS = 32
"""Connections that may be open without having proven themselves."""
_HANDSHAKE, _MESSAGE, _SENDING = 10.0, 60.0, 10.0
"""Seconds for the handshake, for a question from its first byte on, for an answer."""
_LOOK = 0.2
_SIGNS = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""Seconds of silence, seconds between two questions, how many stay unanswered."""


class _RefusedError(Exception):
    """Why a connection gets no place; `retry` if it may get one later."""

    def __init__(self, text: str, *, retry: bool = False) -> None:
        super().__init__(text)
        self.retry = retry


class _LostError(Exception):
    """The connection was lost while the planner thought; the cause says how."""


_Offer = Callable[[Mapping[str, Any], Sequence[Floats]], None]


@dataclass(slots=True)
class ServerCounts:
    """What a server did so far.

    Attributes:
        connections: Connections that proved themselves.
        open: Those that are open now.
        refused: Connections that did not, in time, or came when all places were taken.
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

    After half a minute of silence it is asked for a sign of life, by the system; after half a
    minute without one the connection is over. Where only the asking can be had, the system's own
    times hold.
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

    Each connection has a thread; the planner is asked by one of them at a time. A connection gets a
    place when it has proven that it knows the token. If too many prove nothing, the oldest of them
    ends when another one comes.

    Args:
        planner: The planner.
        host: The address to listen at; this machine only, unless there is a token.
        port: The port; 0 for one that is free.
        token: What clients must know; "" for nothing.
        most_connections: How many may be open, apart from those not yet proven.
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
        # One question at a time; apart from it, what the threads share.
        self._turn, self._lock = threading.Lock(), threading.Lock()
        self._strangers: dict[Line, threading.Thread] = {}
        self._served: dict[Line, threading.Thread] = {}
        self._stop = threading.Event()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host, port))
            self._socket.listen()
        except (OSError, OverflowError, ValueError) as error:
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
        with self._lock:
            lines = {**self._strangers, **self._served}
            for line in lines:
                line.hang_up()
        for thread in lines.values():
            # One in which the planner still thinks ends after its answer.
            thread.join(_LOOK)

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
            try:
                self._admit(connection, peer)
            except (OSError, RuntimeError) as error:
                connection.close()
                log.warning("%s was not admitted: %s", peer, error)

    def _admit(self, connection: socket.socket, peer: Any) -> None:
        """Let a connection prove itself; if need be, the oldest unproven one ends.

        Raises:
            OSError: If the connection is lost already, or none could end for it.
            RuntimeError: If there are too many threads.
        """
        _keep_alive(connection)
        line = Line(connection, MOST_UNPROVEN)
        line.within(_HANDSHAKE)
        with self._lock:
            oldest, thread = next(iter(self._strangers.items()), (None, None))
            full = len(self._strangers) >= _STRANGERS
            if full and oldest is not None:
                oldest.hang_up()
        if full and thread is not None:
            thread.join(_LOOK)
            if thread.is_alive():
                raise ConnectionError(f"{_STRANGERS} connections prove nothing")
        thread = threading.Thread(target=self._attend, args=(line, peer), name="serve", daemon=True)
        with self._lock:
            self._strangers[line] = thread
        try:
            thread.start()
        except RuntimeError:
            with self._lock:
                del self._strangers[line]
            raise

    def _attend(self, line: Line, peer: Any) -> None:
        """Serve one connection to its end."""
        try:
            if self._greeted(line, peer):
                while not self._stop.is_set():
                    line.wait()
                    line.within(_MESSAGE)
                    self._answer(line, line.receive())
        except WireError as error:
            log.warning("%s sent no question: %s", peer, error)
        except OSError as error:
            log.info("%s is gone: %s", peer, error)
        finally:
            line.close()
            with self._lock:
                self._strangers.pop(line, None)
                self.counts.open -= self._served.pop(line, None) is not None

    def _greeted(self, line: Line, peer: Any) -> bool:
        """Whether a connection proved itself and has a place now."""
        try:
            self._greet(line)
        except (_RefusedError, WireError, OSError) as error:
            if isinstance(error, _RefusedError):
                told = {"text": str(error)[:4000], "retry": error.retry}
                with contextlib.suppress(OSError):
                    line.send({"type": "refused", **told})
            with self._lock:
                self.counts.refused += 1
                count = self.counts.refused
            # Strangers must not fill the log.
            if count & (count - 1) == 0:
                log.warning("%s was refused: %s (%d so far)", peer, error, count)
            return False
        return True

    def _greet(self, line: Line) -> None:
        nonce = os.urandom(16).hex()
        line.send({"type": "hello", "protocol": PROTOCOL, "nonce": nonce})
        said = line.receive().header
        nonces = [nonce, str(said.get("nonce"))]
        if said.get("type") != "auth" or said.get("protocol") != PROTOCOL:
            raise _RefusedError(f"This is protocol {PROTOCOL}.")
        if not proven(self._token, "client", nonces, said.get("proof")):
            raise _RefusedError(f"The token is not right. Set {TOKEN}.")
        unlike = self._unlike(said.get("spec"))
        if unlike:
            raise _RefusedError(unlike)
        policy = self._policy
        welcome = {
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
        with self._lock:
            if len(self._served) >= self._most_connections:
                text = f"{self._most_connections} connections are open."
                raise _RefusedError(text, retry=True)
            self._served[line] = self._strangers.pop(line)
            self.counts.connections += 1
            self.counts.open += 1
        line.send(welcome)
        line.trust(self._most)

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
        """Answer a question; the planner never waits for the peer to take an answer."""
        same = {"id": frame.header.get("id"), "episode": frame.header.get("episode")}
        left: list[tuple[dict[str, Any], Sequence[Floats]]] = []

        def offer(said: Mapping[str, Any], arrays: Sequence[Floats]) -> None:
            header = {"type": "answer", **same, **said}
            try:
                left[:] = [] if line.offer(header, arrays) else [(header, arrays)]
            except (OSError, WireError) as error:
                raise _LostError from error

        began = time.monotonic()
        try:
            said, arrays = self._thought(frame.header, frame.arrays, offer)
            left.append(({"type": "answer", **same, **said}, arrays))
            failed = False
        except _LostError as error:
            raise error.__cause__ or error from None
        except Exception as error:
            # What the planner raises says nothing of the connection.
            text = str(error)
            if not isinstance(error, AgentkdError):
                text = f"The planner raised {type(error).__name__}: {error}"
            left.append(({"type": "failed", **same, "text": text[:4000]}, []))
            failed = True
        with self._lock:
            self.counts.questions += not failed
            self.counts.failed += failed
            self.counts.thinking += time.monotonic() - began
        for header, arrays in left:
            line.within(_SENDING)
            line.send(header, arrays)

    def _thought(
        self, header: Mapping[str, Any], arrays: Sequence[Floats], offer: _Offer
    ) -> tuple[dict[str, Any], Sequence[Floats]]:
        """Ask the planner; gives what is said of its answer, and the answer's arrays.

        Answers that are still improved are offered meanwhile.
        """
        policy: Any = self._policy
        method, episode = header.get("method"), header.get("episode")
        if method == "begin":
            batch = header.get("batch")
            if type(batch) is not int or not 0 < batch <= 65536:
                raise PlannerError(f"A memory for {batch!r:.100} observations cannot be.")
            with self._turn:
                state = policy.initial_state(batch)
            return {}, [np.asarray(each, np.float32) for each in state]
        obs = self._observations(arrays)
        with self._turn:
            if hasattr(policy, "episode") and type(episode) is int and abs(episode) < 1 << 62:
                policy.episode = episode
            if method == "improve":
                for answer in policy.improve(obs):
                    said, found = answer_frame(answer)
                    offer({**said, "last": False}, found)
                return {"last": True}, []
            if method == "disagreement":
                return {}, [np.asarray(policy.disagreement(obs), np.float32)]
            if method == "call" and len(arrays) > 1:
                answer, state = policy(obs, tuple(arrays[1:]))
                said, found = answer_frame(answer)
                return said, [*found, *(np.asarray(s, np.float32) for s in state)]
            if method == "call":
                return answer_frame(policy(obs))
        raise PlannerError(f"No method {method!r:.100}.")

    def _observations(self, arrays: Sequence[Floats]) -> Floats:
        size = self._planner.spec.obs.size
        if not arrays or arrays[0].ndim != 2 or arrays[0].shape[1] != size:
            shapes = [array.shape for array in arrays]
            raise PlannerError(f"Observations (n, {size}) were expected: {shapes}.")
        return arrays[0]
