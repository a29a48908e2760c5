"""A small MQTT 3.1.1 client for simulated devices: a thousand of a real one keep a processor busy.

It connects once, receives and publishes with QoS 1, and ends with an error if the line is lost.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from agentkd.errors import AgentkdError
from agentkd.transport.transport import Message, Received, Will

_KEEPALIVE = 600
_CONNACK, _PUBLISH, _PUBACK, _SUBSCRIBE, _UNSUBSCRIBE = 0x20, 0x30, 0x40, 0x82, 0xA2


@dataclass(frozen=True, slots=True)
class Lines:
    """Makes lines to a broker without TLS."""

    host: str
    port: int

    def __call__(self, *filters: str, will: Will | None = None) -> SmallLine:
        """Return a line."""
        return SmallLine(self, filters, will() if callable(will) else will)


class SmallLine(asyncio.Protocol):
    """One line; a `Transport`."""

    def __init__(self, where: Lines, filters: tuple[str, ...], will: Message | None) -> None:
        self._where, self._fixed, self._will = where, filters, will
        self._more: tuple[str, ...] = ()
        self._wire: asyncio.Transport | None = None
        self._data = b""
        self._came: deque[Received] = deque()
        self._waits: asyncio.Future[None] | None = None
        self._number = 0
        self._lost = False

    async def receive(self) -> AsyncIterator[Received]:
        """Yield what comes."""
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, self._where.host, self._where.port)
        while True:
            while self._came:
                yield self._came.popleft()
            if self._lost:
                raise AgentkdError("The broker ended a simulated device's connection.")
            self._waits = loop.create_future()
            await self._waits

    def send(self, message: Message, /) -> bool:
        """Publish a message."""
        if self._wire is None:
            return False
        head = _PUBLISH | 2 | message.retain
        self._put(head, _text(message.topic) + self._next() + message.payload)
        return True

    def subscribe(self, *filters: str) -> None:
        """Receive these too, in place of those of the last call."""
        gone = [each for each in self._more if each not in filters]
        fresh = [each for each in filters if each not in self._more]
        self._more = filters
        if gone:
            self._put(_UNSUBSCRIBE, self._next() + b"".join(map(_text, gone)))
        self._ask(fresh)

    async def aclose(self) -> None:
        """Disconnect."""
        if self._wire is not None:
            self._put(0xE0, b"")
            self._wire.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say who is there."""
        assert isinstance(transport, asyncio.Transport)
        self._wire = transport
        flags, rest = 2, _text(f"s{os.urandom(8).hex()}")
        if self._will is not None:
            flags |= 4 | 8 | 32 * self._will.retain
            rest += _text(self._will.topic) + struct.pack(">H", len(self._will.payload))
            rest += self._will.payload
        self._put(0x10, _text("MQTT") + struct.pack(">BBH", 4, flags, _KEEPALIVE) + rest)

    def data_received(self, data: bytes) -> None:
        """Take packets apart."""
        data, at = self._data + data, 0
        while (found := _packet(data, at)) is not None:
            head, begin, end = found
            self._take(head, data[begin:end])
            at = end
        self._data = data[at:]
        if self._came:
            self._wake()

    def connection_lost(self, _error: Exception | None) -> None:
        """Note it."""
        self._lost, self._wire = True, None
        self._wake()

    def _take(self, head: int, body: bytes) -> None:
        if head & 0xF0 == _PUBLISH:
            length = 2 + int.from_bytes(body[:2], "big")
            topic = body[2:length].decode()
            if head & 6:
                self._put(_PUBACK, body[length : length + 2])
                length += 2
            self._came.append(Received(topic, body[length:]))
        elif head == _CONNACK:
            if body[1]:
                raise AgentkdError(f"The broker refuses a simulated device: {body[1]}.")
            self._ask(self._fixed)
            self._came.append(Received("", b"", connected=True))

    def _ask(self, filters: tuple[str, ...] | list[str]) -> None:
        if filters:
            wanted = b"".join(_text(each) + b"\x01" for each in filters)
            self._put(_SUBSCRIBE, self._next() + wanted)

    def _wake(self) -> None:
        if self._waits is not None and not self._waits.done():
            self._waits.set_result(None)

    def _next(self) -> bytes:
        self._number = self._number % 65535 + 1
        return self._number.to_bytes(2, "big")

    def _put(self, head: int, body: bytes) -> None:
        length, size = bytearray(), len(body)
        while True:
            size, low = size >> 7, size & 127
            length.append(low | (128 if size else 0))
            if not size:
                break
        if self._wire is not None:
            self._wire.write(bytes((head, *length)) + body)


def _packet(data: bytes, start: int) -> tuple[int, int, int] | None:
    """Return a packet's head, and where its body begins and ends; None if it is not whole."""
    size = 0
    for at in range(start + 1, min(len(data), start + 5)):
        size |= (data[at] & 127) << 7 * (at - start - 1)
        if data[at] < 128:
            end = at + 1 + size
            return (data[start], at + 1, end) if len(data) >= end else None
    return None


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">H", len(data)) + data
