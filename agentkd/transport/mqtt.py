"""A transport over an MQTT broker, by aiomqtt.

What paho-mqtt and brokers acknowledge may be lost all the same: a topic that is denied, a queue
that is full, a broker that is killed. So nothing here waits for an acknowledgement to tell that
something arrived; acknowledgements bound what is under way, and tell that the line is alive.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import socket
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, final

from agentkd.extras import needing
from agentkd.files import reason as told
from agentkd.printable import logger
from agentkd.transport.options import MqttOptions
from agentkd.transport.transport import Message, Received, Will

if TYPE_CHECKING:
    import aiomqtt

log = logger(__name__)

LARGEST = 1 << 21
"""Bytes of a packet that a broker is asked to send at most, where it can be asked (MQTT 5)."""
_BYTES = 1 << 26
"""Bytes of received messages that wait at most."""
_UNDER_WAY = 64
"""Messages that are sent before the first of them is acknowledged, if the broker says no less."""
_SHORTEST, _LONGEST = 0.5, 30.0
"""Seconds before connecting again."""
_LASTING = 10.0
"""Seconds after which a connection was a good one, and the next pause is the shortest again."""
_TIMEOUT = 10.0
"""Seconds for each answer of the broker."""
_LAST_WORDS = 3.0
"""Seconds in which what waits is sent at the end."""
_SILENT = f"the broker did not answer within {_TIMEOUT:g} s"


@final
class MqttTransport:
    """One end of a line over a broker; use it within one event loop.

    It connects when it is first received from, and again after pauses of 0.5 to 30 s with jitter.
    Each loss, and each refusal, is one line in the log.

    Args:
        options: The broker, and who one is.
        filters: What it receives.
        will: What the broker publishes when it loses the connection.

    Raises:
        ConfigError: If aiomqtt is not installed, or a certificate cannot be used.
    """

    def __init__(self, options: MqttOptions, *filters: str, will: Will | None = None) -> None:
        with needing("A line over MQTT"):
            import aiomqtt  # noqa: F401
        options.tls()
        if options.password and options.address.startswith("mqtt:"):
            log.warning("%s: the password is sent unencrypted; mqtts:// is TLS.", options.address)
        self.connected = False
        self.connections = 0
        self.error = ""
        """Why the last connection was lost or refused."""
        self.dropped_sent = 0
        self.dropped_received = 0
        self._options, self._will = options, will
        # The same for each connection: a former one that is still open is replaced. 23 letters and
        # digits are what each broker has to take.
        self._identifier = options.identifier or f"agentkd{os.urandom(8).hex()}"
        self._fixed, self._more = filters, tuple[str, ...]()
        self._sent: deque[Message] = deque()
        self._came: deque[Received] = deque()
        self._bytes = 0
        self._under_way, self._window, self._heard = 0, _UNDER_WAY, 0.0
        self._news, self._work, self._changed = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._drained = asyncio.Event()
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    def send(self, message: Message, /) -> bool:
        """Queue a message."""
        if self._closed or len(self._sent) >= self._options.queue:
            self.dropped_sent += 1
            return False
        self._sent.append(message)
        self._drained.clear()
        self._work.set()
        return True

    async def receive(self) -> AsyncIterator[Received]:
        """Yield what comes."""
        if self._task is None and not self._closed:
            self._task = asyncio.create_task(self._keep())
        while True:
            while self._came:
                found = self._came.popleft()
                self._bytes -= len(found.payload)
                yield found
            if self._closed:
                return
            self._news.clear()
            await self._news.wait()

    def subscribe(self, *filters: str) -> None:
        """Receive these too, in place of those of the last call."""
        self._more = filters
        self._changed.set()

    async def aclose(self) -> None:
        """Send what waits, and disconnect."""
        if self.connected and (self._sent or self._under_way):
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS):
                    await self._drained.wait()
        self._closed = True
        self._news.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _keep(self) -> None:
        """Connect again and again."""
        pause, drawn = _SHORTEST, random.Random()  # noqa: S311 (jitter)
        while True:
            begun, before = time.monotonic(), self.connections
            try:
                await self._live()
            except* Exception as group:
                self._lost(_first(group))
            if self._closed:
                break
            if self.connections > before and time.monotonic() - begun > _LASTING:
                pause = _SHORTEST
            await asyncio.sleep(pause * drawn.uniform(0.5, 1.5))
            pause = min(2 * pause, _LONGEST)

    async def _live(self) -> None:
        """Hold one connection, until it is lost."""
        client = self._client()
        try:
            async with client:
                if self._closed:  # aiomqtt may have swallowed the cancellation
                    return
                self._put(Received("", b"", connected=True))
                self.connected, self.error = True, ""
                self.connections += 1
                log.info("%s: connected.", self._options.address)
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._listen(client))
                    group.create_task(self._ask(client))
                    group.create_task(self._push(client))
        finally:
            self.connected = False
            self._under_way = 0
            _sever(client)

    def _client(self) -> aiomqtt.Client:
        import aiomqtt
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        options, five = self._options, self._options.protocol == "5"
        will, testament = self._will() if callable(self._will) else self._will, None
        if will is not None:
            testament = aiomqtt.Will(will.topic, will.payload, 1, will.retain)
        properties: Any = None
        if five:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.MaximumPacketSize = LARGEST
        client = aiomqtt.Client(
            options.host,
            options.port,
            identifier=self._identifier,
            username=options.user or None,
            password=options.password or None,
            protocol=aiomqtt.ProtocolVersion.V5 if five else aiomqtt.ProtocolVersion.V311,
            clean_session=None if five else True,
            will=testament,
            tls_context=options.tls(),
            keepalive=options.keepalive,
            timeout=_TIMEOUT,
            properties=properties,
            max_inflight_messages=_UNDER_WAY,
            logger=_QUIET,
        )
        client._client.on_message = self._message
        client._client.on_connect = partial(self._answered, client._client.on_connect)
        client._client.on_publish = self._acknowledged
        _end_early(client)
        return client

    async def _listen(self, client: aiomqtt.Client) -> None:
        """Notice when the connection is lost; what comes goes to `_message`."""
        async for _ in client.messages:
            pass

    async def _ask(self, client: aiomqtt.Client) -> None:
        """Subscribe to what is wanted, whenever that changes."""
        present: set[str] = set()
        while True:
            self._changed.clear()
            wanted = {*self._fixed, *self._more}
            if gone := sorted(present - wanted):
                await client.unsubscribe(gone)
            if fresh := sorted(wanted - present):
                answers = await client.subscribe([(each, 1) for each in fresh])
                for each, answer in zip(fresh, answers, strict=False):
                    if _code(answer) >= 0x80:
                        raise ConnectionRefusedError(f"subscribing to {each} is denied")
            _cancelled()
            present = wanted
            await self._changed.wait()

    async def _push(self, client: aiomqtt.Client) -> None:
        """Send what waits, a few messages ahead of their acknowledgements."""
        while True:
            while not self._sent or self._under_way >= self._window:
                await self._wait_for_work()
            message = self._sent.popleft()
            if not self._under_way:
                self._heard = time.monotonic()
            self._under_way += 1
            # aiomqtt would make two tasks of each, and wait in them.
            found = client._client.publish(message.topic, message.payload, 1, message.retain)
            if found.rc:
                raise ConnectionError("a message could not be sent")

    async def _wait_for_work(self) -> None:
        """Wait for a message to send, or an acknowledgement, which has to come in time."""
        self._work.clear()
        left = self._heard + _TIMEOUT - time.monotonic() if self._under_way else None
        with suppress(TimeoutError):
            async with asyncio.timeout(left):
                await self._work.wait()
        if self._under_way and time.monotonic() > self._heard + _TIMEOUT:
            raise ConnectionError(_SILENT)

    def _answered(self, inner: Any, *details: Any) -> None:
        """Note how many messages the broker takes at once."""
        told = getattr(details[4], "ReceiveMaximum", _UNDER_WAY)
        self._window = max(1, min(_UNDER_WAY, told))
        inner(*details)

    def _acknowledged(self, *_: Any) -> None:
        """Count an acknowledgement; it says that the line is alive, and nothing of the message."""
        self._under_way -= 1
        self._heard = time.monotonic()
        self._work.set()
        if not self._sent and not self._under_way:
            self._drained.set()

    def _message(self, _client: object, _data: object, message: Any) -> None:
        """Take a message from paho; aiomqtt's own queue would log what it drops, and count none."""
        self._put(Received(message.topic, message.payload))

    def _put(self, received: Received) -> None:
        """Let a message wait to be received, if there is room."""
        full = len(self._came) >= self._options.queue or self._bytes > _BYTES
        if full and not received.connected:
            if not self.dropped_received:
                log.warning(
                    "%s: messages come faster than they are read; they are dropped and counted.",
                    self._options.address,
                )
            self.dropped_received += 1
            return
        self._came.append(received)
        self._bytes += len(received.payload)
        self._news.set()

    def _lost(self, error: BaseException) -> None:
        """Say why the connection is lost or refused, once for the same reason."""
        text = _plainly(error)
        if self._closed or text == self.error:
            return
        self.error = text
        log.warning("%s: %s. It is tried again.", self._options.address, text)


def _plainly(error: BaseException) -> str:
    """Say in words what aiomqtt says in codes."""
    cause = error.__cause__ or error
    known = {128: "the connection was lost", 141: "the broker is silent"}
    found = known.get(_code(getattr(cause, "rc", None)), "")
    text = re.sub(r"^\[(code:|Errno )\d+\] ", "", str(cause)).rstrip(".")
    if text == "Operation timed out":
        return _SILENT
    return found or text or told(cause)


_QUIET = logging.getLogger("agentkd.transport.paho")
_QUIET.setLevel(logging.CRITICAL)


def _cancelled() -> None:
    """Let a cancellation count that aiomqtt has swallowed, by Python 3.11's wait_for.

    Raises:
        asyncio.CancelledError: If this task was cancelled.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _code(answer: Any) -> int:
    """Return the number of a reason, which is one by itself in MQTT 3.1.1."""
    return int(getattr(answer, "value", answer) or 0)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def _end_early(client: aiomqtt.Client) -> None:
    """Give up at once if the connection is lost before it is confirmed; aiomqtt would wait on."""
    import aiomqtt

    loop, inner = asyncio.get_running_loop(), client._client.on_disconnect

    def lost(*details: Any) -> None:
        if inner is not None:
            inner(*details)
        loop.call_soon_threadsafe(fail, details[3])

    def fail(code: Any) -> None:
        # After a refusal nobody waits for it any more.
        if client._lock.locked() and not client._connected.done():
            client._connected.set_exception(aiomqtt.MqttCodeError(code))

    client._client.on_disconnect = lost


def _sever(client: aiomqtt.Client) -> None:
    """Close a connection that was given up: aiomqtt leaves it open, alive, and listened to."""
    found = client._client.socket()
    if not isinstance(found, socket.socket) or found.fileno() < 0:
        return
    loop = asyncio.get_running_loop()
    loop.remove_reader(found.fileno())
    loop.remove_writer(found.fileno())
    if client._misc_task is not None:
        client._misc_task.cancel()
    found.close()
