"""A WebSocket that carries frames, with one time limit for all of a message."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Any, final

from agentkd.errors import WireError
from agentkd.extras import needing
from agentkd.frames import MOST_HEADER, Frame, pack, unpack
from agentkd.planners.remote.wire import PROTOCOL
from agentkd.types import Floats

with needing("A planner on another machine"):
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.connection import Connection


_SMALL = 1 << 12
"""Bytes for which the system has room where it says that it has room at all."""


def settings(most: int) -> dict[str, Any]:
    """Give what both ends of a connection for arrays of `most` bytes have in common."""
    return {
        "subprotocols": [PROTOCOL],
        "compression": None,
        "close_timeout": 1.0,
        "max_size": most + MOST_HEADER + 4,
        "max_queue": 1,
    }


@final
class Line:
    """A connection that carries frames. One thread uses it; others may `cut` it."""

    def __init__(self, connection: Connection, most: int) -> None:
        self._connection, self._most = connection, most

    def send(self, header: Mapping[str, Any], arrays: Sequence[Floats], seconds: float) -> None:
        """Send a frame within so many seconds, or raise an `OSError`."""
        data = pack(header, arrays, self._most)
        timer = threading.Timer(seconds, self.cut)
        timer.daemon = True
        if len(data) > _SMALL or not _has_room(self._connection.socket):
            timer.start()  # a thread, which most messages can do without
        try:
            self._connection.send(data)
        except ConnectionClosed as error:
            raise ConnectionError(str(error)) from error
        finally:
            timer.cancel()

    def receive(self, seconds: float | None = None) -> Frame:
        """Receive a frame; an `OSError` says that the connection is lost, or the time is over.

        Raises:
            OSError: If the connection is lost, or the time is over.
            WireError: If it is not a message, or larger than the cap.
        """
        try:
            return unpack(self._connection.recv(seconds))
        except ConnectionClosed as error:
            if error.sent is not None and not error.rcvd_then_sent:
                raise WireError(f"That is not a message of agentkd's: {error}.") from error
            raise ConnectionError(str(error)) from error

    def cut(self) -> None:
        """End the connection from another thread; its own thread closes it."""
        cut(self._connection.socket)

    def close(self) -> None:
        """End the connection without waiting for the other end."""
        self.cut()
        self._connection.close()


def _has_room(connection: socket.socket) -> bool:
    try:
        poll = select.poll()
        poll.register(connection, select.POLLOUT)
        return bool(poll.poll(0))
    except ValueError:  # it is closed
        return False


def cut(connection: socket.socket) -> None:
    """End whatever waits for a socket, in any thread."""
    with contextlib.suppress(OSError):
        # Not that of TLS, which first forgets what the other thread is using.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
