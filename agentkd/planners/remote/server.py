"""The planner server: answers clients that know the token, over WebSockets."""

from __future__ import annotations

import hmac
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, final

import numpy as np

from agentkd.errors import AgentkdError, ConfigError, PlannerError, SpecError, WireError
from agentkd.extras import needing
from agentkd.frames import MOST_BYTES, Frame, answer_frame
from agentkd.planners.planner import Planner
from agentkd.planners.remote.line import Line, cut, settings
from agentkd.planners.remote.wire import TOKEN, Address, bearer
from agentkd.printable import logger
from agentkd.spec_json import from_json, to_json
from agentkd.types import Floats

with needing("Serving a planner"):
    from websockets.http11 import Request, Response
    from websockets.sync.server import ServerConnection, serve

log = logger(__name__)

_STRANGERS = 32
"""Connections that may be open without having proven themselves."""
_HANDSHAKE, _SENDING = 10.0, 10.0
"""Seconds for the handshake, and for an answer."""
_SILENCE = 30.0
"""Seconds between two signs of life that are asked for, and for one to come."""
_LOOK = 0.2
_Answer = tuple[dict[str, Any], Sequence[Floats]]
"""What is said of an answer, and its arrays."""
_QUIET = logging.getLogger(f"{__name__}.websockets")
_QUIET.setLevel(logging.CRITICAL)  # strangers must not fill the log


class _LostError(Exception):
    """The connection was lost while the planner improves its answer."""


@dataclass(slots=True)
class ServerCounts:
    """What a server did so far."""

    connections: int = 0
    """Connections that proved themselves."""
    open: int = 0
    """Those that are open now."""
    refused: int = 0
    """Connections that did not prove themselves, or found all places taken."""
    questions: int = 0
    """Questions answered."""
    failed: int = 0
    """Questions at which the planner raised."""
    thinking: float = 0.0
    """Seconds that the planner took, all together."""


@final
class PlannerServer:
    """Serves a planner over WebSockets, to one question at a time.

        with PlannerServer(planner, port=4750) as server:
            print(server.address)
            time.sleep(3600)

    Each connection has a thread; the planner is asked by one of them at a time. A connection gets a
    place when it has proven that it knows the token. If too many prove nothing, the oldest of them
    ends when another one comes.

    Args:
        planner: The planner.
        host: The address to listen at. Any but this machine's own needs a token and a certificate.
        port: The port; 0 for one that is free.
        token: What clients must know; "" for nothing.
        cert: A file with the server's certificate, for TLS.
        key: A file with its private key; None if the certificate's file holds it.
        most_connections: How many may be open, apart from those not yet proven.
        most_bytes: The largest message that is taken.

    Raises:
        ConfigError: If it would be open to everybody, the certificate cannot be read, or the port
            is taken.
    """

    def __init__(
        self,
        planner: Planner,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str = "",
        cert: Path | None = None,
        key: Path | None = None,
        most_connections: int = 8,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        """Bind the port; entering the block accepts connections."""
        where = Address(cert is not None, host, port)
        if not where.is_loopback and not (token and cert):
            raise ConfigError(
                f"At {host} everybody who can reach this machine could use the "
                f"planner, or read the token. Give a token, in a file or in {TOKEN}, "
                "and a certificate; or listen at 127.0.0.1."
            )
        self.counts = ServerCounts()
        self._planner, self._policy = planner, planner.policy
        self._most, self._most_connections = most_bytes, most_connections
        self._bearer = bearer(token).encode() if token else b""
        # One question at a time; apart from it, what the threads share.
        self._turn, self._lock = threading.Lock(), threading.Lock()
        self._strangers: dict[socket.socket, threading.Thread] = {}
        self._served: dict[socket.socket, threading.Thread] = {}
        self._stop = threading.Event()
        tls = _certified(cert, key) if cert else None
        try:
            self._server = serve(
                self._attend,
                host,
                port,
                family=socket.AF_INET6 if ":" in host else socket.AF_INET,
                ssl=tls,
                # No page in a browser asks the planner.
                origins=[None],
                process_request=self._admit,
                server_header=None,
                open_timeout=_HANDSHAKE,
                ping_interval=_SILENCE,
                ping_timeout=_SILENCE,
                logger=_QUIET,
                **settings(most_bytes),
            )
        except (OSError, OverflowError, ValueError) as error:
            raise ConfigError(
                f"Port {port} at {host} is not available: {error}. Give another one, or 0 for "
                "any that is free?"
            ) from error
        listener = self._server.socket
        listener.settimeout(_LOOK)
        self.address = str(Address(where.secure, *listener.getsockname()[:2]))
        self._sending = ThreadPoolExecutor(most_connections, "serve-better")
        self._thread = threading.Thread(target=self._accept, name="serve", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        # Nobody is accepted any more: the library only closes what it holds.
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self._server.shutdown()
        with self._lock:
            threads = {**self._strangers, **self._served}
        for each in threads:
            cut(each)
        for thread in threads.values():
            # One in which the planner still thinks ends after its answer.
            thread.join(_LOOK)
        self._sending.shutdown(wait=False, cancel_futures=True)

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                connection, peer = self._server.socket.accept()
            except TimeoutError:
                continue
            except OSError as error:
                # Too many open files, or a peer that left at once: others may come.
                log.warning("A connection was not accepted: %s", error)
                self._stop.wait(_LOOK)
                continue
            with self._lock:
                strangers = list(self._strangers.items())
            for oldest, thread in strangers[: max(0, 1 + len(strangers) - _STRANGERS)]:
                cut(oldest)
                thread.join(_LOOK)
            thread = threading.Thread(
                target=self._hold, args=(connection, peer), name="serve", daemon=True
            )
            with self._lock:
                self._strangers[connection] = thread
            thread.start()

    def _hold(self, connection: socket.socket, peer: Any) -> None:
        """Handle one connection to its end, and give its place back."""
        self._server.handler(connection, peer)
        with self._lock:
            stranger = self._strangers.pop(connection, None) is not None
            self.counts.open -= self._served.pop(connection, None) is not None
            self.counts.refused += stranger
            count = self.counts.refused
        if stranger and count & (count - 1) == 0:
            log.warning("%s was refused (%d so far).", peer, count)

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Give a connection a place, or say why it gets none."""
        given = request.headers.get("Authorization", "").encode(errors="replace")
        # Compared in constant time.
        if self._bearer and not hmac.compare_digest(given, self._bearer):
            return connection.respond(401, f"The token is not right. Set {TOKEN}.")
        wire = connection.socket
        with self._lock:
            if len(self._served) >= self._most_connections:
                text = f"{self._most_connections} connections are open."
                return connection.respond(503, text)
            self._served[wire] = self._strangers.pop(wire)
            self.counts.open += 1
        return None

    def _attend(self, connection: ServerConnection) -> None:
        """Answer one connection's questions."""
        line, peer = Line(connection, self._most), connection.remote_address
        with self._lock:
            self.counts.connections += 1
        try:
            while not self._stop.is_set():
                self._answer(line, line.receive())
        except WireError as error:
            log.warning("%s sent no question: %s", peer, error)
        except OSError as error:
            log.info("%s is gone: %s", peer, error)

    def _answer(self, line: Line, frame: Frame) -> None:
        """Answer a question; the planner never waits for the peer to take an answer."""
        same = {"id": frame.header.get("id"), "episode": frame.header.get("episode")}
        left: list[_Answer] = []
        under_way: Future[None] = Future()
        under_way.set_result(None)

        def send(said: dict[str, Any], arrays: Sequence[Floats]) -> None:
            line.send({"type": "answer", **same, **said}, arrays, _SENDING)

        def offer(answer: _Answer) -> None:
            """Send an answer that is still improved, if the one before has gone."""
            nonlocal under_way
            left[:] = [answer]
            if under_way.done():
                if under_way.exception() is not None:
                    raise _LostError
                under_way = self._sending.submit(send, *left.pop())

        began = time.monotonic()
        try:
            left.append(self._thought(frame.header, frame.arrays, offer))
            failed = False
        except _LostError:
            failed = True
        except Exception as error:
            # What the planner raises says nothing of the connection.
            text = str(error)
            if not isinstance(error, AgentkdError):
                text = f"The planner raised {type(error).__name__}: {error}"
            left.append(({"type": "failed", "text": text[:4000]}, []))
            failed = True
        if frame.header.get("method") != "about":
            with self._lock:
                self.counts.questions += not failed
                self.counts.failed += failed
                self.counts.thinking += time.monotonic() - began
        under_way.result()
        for answer in left:
            send(*answer)

    def _thought(
        self, header: Any, arrays: Sequence[Floats], offer: Callable[[_Answer], None]
    ) -> _Answer:
        """Ask the planner; gives what is said of its answer, and the answer's arrays.

        Answers that are still improved are offered meanwhile.
        """
        policy: Any = self._policy
        method, episode = header.get("method"), header.get("episode")
        if method == "about":
            return self._about(header.get("spec")), []
        if method == "begin":
            batch = header.get("batch")
            if type(batch) is not int or not 0 < batch <= 65536:
                raise PlannerError(f"A memory was asked for {batch!r:.100} observations.")
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
                    offer(({**said, "last": False}, found))
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

    def _about(self, told: Any) -> dict[str, Any]:
        """Tell of the planner, if it is for the client's environment."""
        mine, policy = self._planner.spec, self._policy
        if told is not None:
            try:
                theirs = from_json(told)
            except SpecError as error:
                raise PlannerError(str(error)) from error
            if theirs.obs.size != mine.obs.size or theirs.action != mine.action:
                raise PlannerError(f"The planner is for {mine}, not for {theirs}.")
        return {
            "spec": to_json(mine),
            "name": self._planner.name,
            "horizon": int(getattr(policy, "horizon", 1)),
            "parameters": self._planner.parameters,
            "recurrent": hasattr(policy, "initial_state"),
            "anytime": hasattr(policy, "improve"),
            "doubts": hasattr(policy, "disagreement"),
        }

    def _observations(self, arrays: Sequence[Floats]) -> Floats:
        size = self._planner.spec.obs.size
        if not arrays or arrays[0].ndim != 2 or arrays[0].shape[1] != size:
            shapes = [array.shape for array in arrays]
            raise PlannerError(f"Observations (n, {size}) were expected: {shapes}.")
        return arrays[0]


def _certified(cert: Path, key: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or error
        raise ConfigError(f"The certificate {cert} or its key: {text}.") from error
    return context
