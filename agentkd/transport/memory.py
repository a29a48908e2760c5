"""A hub in memory, with the behaviour of an MQTT broker and, if asked for, its bad days."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import final

from agentkd.errors import check_range
from agentkd.transport.transport import Message, Received, Will

QUEUE = 10_000
"""Messages that wait at each end of a line at most."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What happens to messages on their way, on each of the two legs.

    Attributes:
        loss: The probability that one is lost.
        repeat: The probability that one comes twice.
        damage: The probability that bytes of one are changed, or missing at its end.
        delay: The longest time that one takes, in seconds; those that take unlike times change
            places.
    """

    loss: float = 0.0
    repeat: float = 0.0
    damage: float = 0.0
    delay: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("loss", "repeat", "damage"):
            check_range(name, getattr(self, name), least=0, most=1)
        check_range("delay", self.delay, least=0)


@final
class Hub:
    """Passes messages between lines of one event loop, as an MQTT broker does.

    Retained messages, wildcards and last wills work as there. Delays are waited for on the event
    loop's own clock, so a loop with a virtual clock makes runs repeat.

    Args:
        faults: What happens to messages on their way; it may be changed at any time.
        seed: Of the faults.
        queue: Messages that wait at each end of a line at most; more are dropped and counted.
    """

    def __init__(self, faults: Faults | None = None, *, seed: int = 0, queue: int = QUEUE) -> None:
        self.faults, self.queue = faults or Faults(), queue
        self.retained: dict[str, bytes] = {}
        self.published = 0
        """Messages that came to the hub."""
        self._random = random.Random(seed)  # noqa: S311 (of faults)
        self._filters: dict[str, dict[Line, None]] = {}
        self._wild: dict[str, None] = {}

    def line(self, *filters: str, will: Will | None = None) -> Line:
        """Return a new line, connected.

        Args:
            filters: What it receives: topics, in which `+` stands for one word and `#` at the end
                for all further ones.
            will: What is published when it is cut.
        """
        return Line(self, filters, will)

    def publish(self, message: Message) -> None:
        """Publish a message, as if it had come over a line without faults."""
        self.published += 1
        if message.retain:
            if message.payload:
                self.retained[message.topic] = message.payload
            else:
                self.retained.pop(message.topic, None)
        for line in self._listening(message.topic):
            self._carry(message, partial(line._deliver, line._session))

    def _listening(self, topic: str) -> list[Line]:
        found = dict(self._filters.get(topic, {}))
        for each in self._wild:
            if matches(each, topic):
                found |= self._filters[each]
        return list(found)

    def _carry(self, message: Message, arrive: Callable[[Message], None]) -> None:
        """Bring a message over one leg."""
        faults, chance = self.faults, self._random.random
        if faults.loss and chance() < faults.loss:
            return
        times = 2 if faults.repeat and chance() < faults.repeat else 1
        for _ in range(times):
            each = message
            if faults.damage and chance() < faults.damage:
                each = Message(message.topic, self._damaged(message.payload), message.retain)
            if faults.delay:
                asyncio.get_running_loop().call_later(chance() * faults.delay, arrive, each)
            else:
                arrive(each)

    def _damaged(self, payload: bytes) -> bytes:
        if not payload:
            return payload
        at = self._random.randrange(len(payload))
        if self._random.random() < 0.5:
            return payload[:at]
        return (
            payload[:at] + bytes([payload[at] ^ self._random.randrange(1, 256)]) + payload[at + 1 :]
        )

    def _listen(self, line: Line, filters: tuple[str, ...]) -> None:
        for each in filters:
            self._filters.setdefault(each, {})[line] = None
            if "+" in each or "#" in each:
                self._wild[each] = None
        for topic in self._kept(filters):
            message = Message(topic, self.retained[topic], retain=True)
            self._carry(message, partial(line._deliver, line._session))

    def _kept(self, filters: tuple[str, ...]) -> Iterator[str]:
        for each in filters:
            if each in self.retained:
                yield each
            elif each in self._wild:
                yield from [topic for topic in self.retained if matches(each, topic)]

    def _ignore(self, line: Line, filters: tuple[str, ...]) -> None:
        for each in filters:
            lines = self._filters.get(each, {})
            lines.pop(line, None)
            if not lines:
                self._filters.pop(each, None)
                self._wild.pop(each, None)


@final
class Line:
    """A transport over a hub; `Hub.line` makes it."""

    def __init__(self, hub: Hub, filters: tuple[str, ...], will: Will | None) -> None:
        self.connected = False
        self.dropped = 0
        """Messages that found a queue full."""
        self._hub, self._filters, self._will_of = hub, filters, will
        self._more: tuple[str, ...] = ()
        self._will: Message | None = None
        self._session = 0
        self._sent: deque[Message] = deque()
        self._came: deque[Received] = deque()
        self._news = asyncio.Event()
        self._closed = False
        self.restore()

    def send(self, message: Message, /) -> bool:
        """Send a message; while the line is cut it waits, and is dropped if too many do."""
        if self.connected:
            self._hub._carry(message, partial(self._arrive, self._session))
            return True
        if self._closed or len(self._sent) >= self._hub.queue:
            self.dropped += 1
            return False
        self._sent.append(message)
        return True

    async def receive(self) -> AsyncIterator[Received]:
        """Yield what comes."""
        while True:
            while self._came:
                yield self._came.popleft()
            if self._closed:
                return
            self._news.clear()
            await self._news.wait()

    def subscribe(self, *filters: str) -> None:
        """Receive these, in place of those of the last call."""
        before, self._more = self._more, filters
        if self.connected:
            gone = set(before) - set(filters) - set(self._filters)
            self._hub._ignore(self, tuple(gone))
            self._hub._listen(self, self._fresh(before))

    def cut(self) -> None:
        """Lose the connection: what is under way is lost, and the will is published."""
        if not self.connected:
            return
        self._leave()
        if self._will is not None:
            self._hub.publish(self._will)

    def restore(self) -> None:
        """Connect again: what waits is sent, what is retained comes."""
        if self.connected or self._closed:
            return
        will = self._will_of
        self._will = will() if callable(will) else will
        self.connected, self._session = True, self._session + 1
        self._put(Received("", b"", connected=True))
        self._hub._listen(self, (*self._filters, *self._fresh(())))
        while self._sent:
            self.send(self._sent.popleft())

    def close(self) -> None:
        """End the line; no will is published."""
        if self.connected:
            self._leave()
        self._closed = True
        self._news.set()

    async def aclose(self) -> None:
        """End the line."""
        self.close()

    def _fresh(self, known: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(e for e in self._more if e not in known and e not in self._filters)

    def _leave(self) -> None:
        self.connected = False
        self._hub._ignore(self, (*self._filters, *self._more))

    def _arrive(self, session: int, message: Message) -> None:
        """Come to the hub, if the connection that it was sent over is there."""
        if self.connected and session == self._session:
            self._hub.publish(message)

    def _deliver(self, session: int, message: Message) -> None:
        if self.connected and session == self._session:
            self._put(Received(message.topic, message.payload))

    def _put(self, received: Received) -> None:
        if len(self._came) >= self._hub.queue and not received.connected:
            self.dropped += 1
            return
        self._came.append(received)
        self._news.set()


def matches(pattern: str, topic: str) -> bool:
    """Tell whether a filter lets a topic through."""
    wanted, found = pattern.split("/"), topic.split("/")
    for index, word in enumerate(wanted):
        if word == "#":
            return True
        if index >= len(found) or word not in ("+", found[index]):
            return False
    return len(wanted) == len(found)
