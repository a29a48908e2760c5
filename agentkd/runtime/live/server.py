"""The process that serves the live page: one page and one WebSocket, to browsers of this machine.

A browser gets in with the token in the address, from the page's own origin. Each has a task that
sends the newest state: one that stops reading misses states, and is cut off after a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import secrets
import socket
from pathlib import Path
from string import Template
from typing import Any, final

from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as listen
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Origin

from agentkd.runtime.live.page import MOST_LATENCY
from agentkd.runtime.live.summary import Summary
from agentkd.runtime.workers.channels import STEPS, STOP, Bell, Mailbox
from agentkd.runtime.workers.host import Child

_PAGE = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
_MOST_OPEN, _MOST_WATCHING = 64, 8
"""Connections, and those among them that are WebSockets."""
_MOST_BYTES = 256
"""Of a message from a browser."""
_HANDSHAKE, _SENDING, _CLOSING = 5.0, 10.0, 1.0
"""Seconds for a request to come, for a browser to take a state, and to say goodbye."""
_BEAT, _REST = 0.05, 0.02
"""Seconds between two signs of life, and after a browser's message before the next is read."""
_QUIET = logging.getLogger(f"{__name__}.websockets")
_QUIET.setLevel(logging.CRITICAL)  # strangers must not fill the log


def serve(child: Child) -> None:
    """Serve the page until told to end."""
    asyncio.run(_Server(child).run())


class _Connection(ServerConnection):
    """One of a limited number of connections: what comes beyond is closed at once."""

    open = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it."""
        type(self).open += 1
        super().connection_made(transport)
        if self.open > _MOST_OPEN:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it out."""
        type(self).open -= 1
        super().connection_lost(exc)


@final
class _Server:
    """Takes news from shared memory, and tells all browsers that look."""

    def __init__(self, child: Child) -> None:
        self._status = child.status
        self._token, self._port = child.made["token"], child.made["port"]
        self._news, self._frames = child.mailbox("news"), child.mailbox("frames")
        self._orders: Mailbox = child.mailbox("orders")
        self._bell = Bell.attach(child.shared["bell"])
        self._bell_fd = int(child.shared["bell"][0])
        self._socket = socket.socket(fileno=int(child.shared["listener"][0]))
        self._hosts = {f"{name}:{self._port}" for name in ("127.0.0.1", "localhost")}
        self._summary = Summary()
        self._state, self._frame = "", b""
        self._number, self._frame_number = 0, 0
        self._changed = asyncio.Event()
        self._watching = 0

    async def run(self) -> None:
        """Serve until the status says stop."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._bell_fd, self._rung)
        server = await listen(
            self._attend,
            sock=self._socket,
            create_connection=_Connection,
            origins=[Origin(f"http://{host}") for host in self._hosts],
            process_request=self._admit,
            server_header=None,
            compression=None,
            open_timeout=_HANDSHAKE,
            close_timeout=_CLOSING,
            max_size=_MOST_BYTES,
            max_queue=4,
            logger=_QUIET,
        )
        async with server:
            self._status.set_ready()
            while not self._status[STOP]:
                self._status.beat()
                await asyncio.sleep(_BEAT)
            server.close()

    def _rung(self) -> None:
        """Take what is new."""
        self._bell.wait(0)
        taken = self._news.take()
        for message in taken:
            self._summary.take(json.loads(message))
        if taken:
            self._state = json.dumps(self._summary.state())
            self._number += 1
        frames = self._frames.take()
        if frames:
            self._frame = frames[-1]
            self._frame_number += 1
        if taken or frames:
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a request for the page, let the page's WebSocket in, and refuse all else."""
        hosts = request.headers.get_all("Host")
        # Another host's name that leads here would make this page one of its own.
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return connection.respond(403, "This page is served at 127.0.0.1.\n")
        _, token, *rest = (*request.path.split("/"), "")
        if not hmac.compare_digest(token.encode(errors="replace"), self._token.encode()):
            return connection.respond(403, "The token in the address is not right.\n")
        if rest == ["ws", ""]:
            if self._watching >= _MOST_WATCHING:
                return connection.respond(503, f"{_MOST_WATCHING} browsers look already.\n")
            return None
        if rest == ["", ""]:
            return self._page(hosts[0])
        return connection.respond(404, "There is one page here.\n")

    def _page(self, host: str) -> Response:
        nonce = secrets.token_urlsafe(16)
        body = _PAGE.substitute(nonce=nonce, most_latency=MOST_LATENCY).encode()
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
            f"connect-src ws://{host}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        headers = Headers(
            {
                "Content-Type": "text/html; charset=utf-8",
                "Content-Length": str(len(body)),
                "Content-Security-Policy": policy,
                "Cache-Control": "no-store",
                "Referrer-Policy": "no-referrer",
                "X-Content-Type-Options": "nosniff",
                "Cross-Origin-Resource-Policy": "same-origin",
                "Cross-Origin-Opener-Policy": "same-origin",
                "Connection": "close",
            }
        )
        return Response(200, "OK", headers, body)

    async def _attend(self, connection: ServerConnection) -> None:
        """Send a browser what is new, and take its wishes."""
        self._watching += 1
        self._status[STEPS] = self._watching
        sender = asyncio.ensure_future(self._send(connection))
        try:
            async for message in connection:
                self._order(message)
                await asyncio.sleep(_REST)
        except ConnectionClosed:
            pass
        finally:
            sender.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionClosed, TimeoutError):
                await sender
            self._watching -= 1
            self._status[STEPS] = self._watching

    async def _send(self, connection: ServerConnection) -> None:
        told = shown = 0
        while True:
            changed = self._changed
            if told == self._number and shown == self._frame_number:
                await changed.wait()
            try:
                async with asyncio.timeout(_SENDING):
                    if told != self._number:
                        told = self._number
                        await connection.send(self._state)
                    if shown != self._frame_number:
                        shown = self._frame_number
                        await connection.send(self._frame)
            except TimeoutError:
                # It does not read: a goodbye would wait as well.
                connection.transport.abort()
                return

    def _order(self, message: str | bytes) -> None:
        """Hand on a wish that is one, in the words that the agent's process knows."""
        try:
            order: Any = json.loads(message)
        except (ValueError, RecursionError):
            return
        if not isinstance(order, dict) or not isinstance(order.get("do"), str):
            return
        known = {"do": order["do"][:16]}
        if type(order.get("value")) in (int, float):
            known["value"] = order["value"]
        self._orders.write(json.dumps(known).encode())
