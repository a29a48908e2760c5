"""What a fleet asks of a transport: to send, to receive, and under which topics.

A transport may lose, repeat, delay and reorder messages, and it says nothing about their delivery:
an MQTT broker acknowledges what it then drops. So whoever needs to know is told by the receiver, in
a message of its own (`agentkd/fleet/messages.py`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent: bytes under a topic.

    Args:
        topic: Words with slashes between them.
        payload: The bytes; none takes back what was retained.
        retain: Whether the newest one is kept, for those who subscribe later.
    """

    topic: str
    payload: bytes
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Received:
    """What came: a message, or the news that the line is there again.

    After `connected` everything that was received before may be out of date, and what was sent may
    be lost.
    """

    topic: str
    payload: bytes
    connected: bool = False


Will = Message | Callable[[], Message]
"""What is published for the one who made a line when it is lost; a function is asked at each
connection, right before it."""


class Transport(Protocol):
    """One end of a line. It connects again by itself, for as long as it is used.

    It is made with the filters of what it receives, and its will.
    """

    def send(self, message: Message, /) -> bool:
        """Queue a message; False if the queue is full and the message is dropped and counted."""

    def receive(self) -> AsyncIterator[Received]:
        """Yield what comes, beginning with the first connection; it ends when it is closed."""

    def subscribe(self, *filters: str) -> None:
        """Receive also what comes under these topics, in place of those of the last call.

        `+` stands for one word of a topic and `#` at the end for all further ones. What is retained
        under a new filter comes at once. Those that the line was made with stay.
        """

    async def aclose(self) -> None:
        """Send what waits, for a few seconds at most, and end; no will is published."""


class Connect(Protocol):
    """Makes a transport: `Hub.line`, or `partial(MqttTransport, options)`."""

    def __call__(self, *filters: str, will: Will | None = None) -> Transport:
        """Return a transport that receives what comes under the filters."""
