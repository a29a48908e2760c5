"""Clients on other machines: a round's requests go out over a transport, and replies come back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, final

from agentkd.distillation.federated.wire import Offer, Receiving, Sending, read_boot, read_offer
from agentkd.errors import ConfigError, LoadError, check_range
from agentkd.printable import logger
from agentkd.transport.blobs import CHUNK, need, read_need
from agentkd.transport.names import Topics, device_name
from agentkd.transport.thread import LineThread, wait_for
from agentkd.transport.transport import Connect, Message, Transport

log = logger(__name__)

LARGEST = 1 << 22
"""Bytes of a reply that are taken: a million weights."""
_AWAY = "it is not connected"


@dataclass(slots=True, eq=False)
class _Asked:
    """A client that was asked, and what came of it."""

    sending: Sending
    away: float
    """When it was heard last, or the line began."""
    arriving: Receiving | None = None
    outcome: bytes | str | None = None


@final
class Caller:
    """Asks clients over a line, in one event loop.

    Args:
        line: The line, which receives what clients say.
        topics: The site's.
        names: The clients; what comes from others is ignored.
        patience: Seconds for which a client may be away before a round goes on without it.
        largest: Bytes of a reply at most.
        chunk: Bytes of a chunk.
    """

    def __init__(
        self,
        line: Transport,
        topics: Topics,
        names: Sequence[str],
        *,
        patience: float = 10.0,
        largest: int = LARGEST,
        chunk: int = CHUNK,
    ) -> None:
        self.present: dict[str, str] = {}
        """The boots of those who are there, by client."""
        self.strange: Counter[str] = Counter()
        """Messages that were not what they should be, by kind."""
        self._line, self._topics, self._names = line, topics, frozenset(names)
        self._patience, self._largest, self._chunk = patience, largest, chunk
        self._asked: dict[str, _Asked] = {}
        self._began: float | None = None
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Take what comes, until it is cancelled."""
        async for each in self._line.receive():
            if each.connected:
                self._began = asyncio.get_running_loop().time()
                for asked in self._asked.values():
                    asked.away = self._began
                    asked.sending.renew()
            else:
                self._take(each.topic, each.payload)
            self._news.set()

    async def ask(
        self, requests: Mapping[str, bytes], seconds: float | None
    ) -> dict[str, bytes | str]:
        """Ask each client, and wait for replies; see `Clients.ask`."""
        clock = asyncio.get_running_loop().time
        begun = clock()
        end = float("inf") if seconds is None else begun + seconds
        self._asked = {
            name: _Asked(
                Sending(self._line.send, self._topics.of(name, "to"), raw, chunk=self._chunk), begun
            )
            for name, raw in requests.items()
        }
        try:
            while missing := [n for n, each in self._asked.items() if each.outcome is None]:
                now = clock()
                if now >= end:
                    break
                self._news.clear()
                due = min(end, *(self._turn(name, now) for name in missing))
                await wait_for(self._news, max(0.0, due - clock()))
            found = {n: each.outcome for n, each in self._asked.items()}
            return {name: outcome for name, outcome in found.items() if outcome is not None}
        finally:
            self._asked = {}

    def _turn(self, name: str, now: float) -> float:
        """Offer a client its request if that is due, or give it up; return when to look again."""
        asked = self._asked[name]
        if name in self.present or self._began is None:
            asked.away = now
        elif now >= asked.away + self._patience:
            asked.outcome = _AWAY
            return now
        if now >= asked.sending.due:
            # Also what it has: a client that was started anew has nothing.
            asked.sending.offer(now)
        return min(asked.sending.due, asked.away + self._patience)

    def _take(self, topic: str, payload: bytes) -> None:
        """Take a message; one that is not what it should be is counted and ignored."""
        name, said = self._topics.read(topic)
        what = said.removeprefix("from/")
        if name not in self._names:
            self._ignore("client", f"{name or topic} is none of the clients")
            return
        now = asyncio.get_running_loop().time()
        asked = self._asked.get(name)
        if asked is not None:
            asked.away = now
        try:
            if what == "here":
                self._met(name, read_boot(payload))
            elif what == "offer":
                self._offered(name, read_offer(payload))
            elif what == "need" and asked is not None:
                asked.sending.needed(read_need(payload), now)
            elif what == "chunk" and asked is not None:
                self._came(name, asked, payload)
        except LoadError as error:
            self._ignore(what, f"{name}: {error}")

    def _met(self, name: str, boot: str) -> None:
        """Note that a client is there, or gone."""
        asked, before = self._asked.get(name), self.present.pop(name, "")
        if asked is not None and boot and boot != before:
            asked.sending.renew()
        if boot:
            self.present[name] = boot

    def _offered(self, name: str, offer: Offer) -> None:
        """Answer the offer of a reply with what is missing of it."""
        asked = self._asked.get(name)
        if asked is None or asked.sending.offered.request != offer.request:
            self._have(name, offer)  # it is too late
            if asked is not None:
                asked.sending.renew()
            return
        file = offer.file
        if asked.outcome is None:
            if file is None:
                asked.outcome = f"it failed with {offer.failed}, and its own log says why"
            elif file.size > self._largest:
                asked.outcome = (
                    f"a reply of {file.size:,} bytes; at most {self._largest:,} are taken "
                    "(largest=)"
                )
            elif asked.arriving is None or asked.arriving.offer != offer:
                asked.arriving = Receiving(offer)
        if asked.outcome is not None:
            self._have(name, offer)
        elif asked.arriving is not None:
            self._send(name, asked.arriving.need.to_bytes())

    def _came(self, name: str, asked: _Asked, payload: bytes) -> None:
        """Take a chunk of a reply."""
        arriving = asked.arriving
        if arriving is not None and asked.outcome is None and arriving.put(payload):
            asked.outcome = arriving.whole() or "its reply is not what it offered"
            self._have(name, arriving.offer)

    def _have(self, name: str, offer: Offer) -> None:
        """Say that nothing is missing of what a client offers."""
        self._send(name, need(offer.digest, ()).to_bytes())

    def _send(self, name: str, payload: bytes) -> None:
        self._line.send(Message(self._topics.of(name, "to/need"), payload))

    def _ignore(self, kind: str, why: str) -> None:
        """Count a message; the first of a kind is logged."""
        self.strange[kind] += 1
        if self.strange[kind] == 1:
            log.warning("A message was ignored, and others of its kind will be: %s", why)


@final
class Remote:
    """Clients on other machines, reached over a transport. It is a `Clients`.

        connect = partial(MqttTransport, MqttOptions("mqtts://broker:8883"))
        with Remote(connect, "plant", ["arm-1", "arm-2"]) as clients:
            result = federate(clients, executor, timeout=600)

    Each client is a `Member`, in a program of its own. Give `federate` a time limit: a client that
    is there and never replies is waited for otherwise. One that is away for longer than `patience`
    is left out of the round, and asked again in the next one.

    Args:
        connect: Makes the transport: `Hub.line`, or `partial(MqttTransport, options)`.
        site: The name of the fleet.
        names: The devices that take part. The broker has to vouch for their names: `agentkd fleet
            setup` makes rules for mosquitto.
        patience: Seconds for which a client may be away.
        largest: Bytes of a reply at most; four for each weight, and some more.

    Raises:
        LoadError: If a name is not one word.
        ConfigError: If a name stands twice, or a number is out of its range.
        Exception: What `connect` raises.
    """

    def __init__(
        self,
        connect: Connect,
        site: str,
        names: Sequence[str],
        *,
        patience: float = 10.0,
        largest: int = LARGEST,
    ) -> None:
        check_range("patience", patience, above=0)
        check_range("largest", largest, least=1, whole=True)
        self.names = tuple(device_name(each) for each in names)
        if twice := [each for each in self.names if self.names.count(each) > 1]:
            raise ConfigError(f"The client {twice[0]} stands twice among the names.")
        topics = Topics(site)

        async def hold(begin: Callable[[], None]) -> None:
            line = connect(topics.every("from/+"))
            self._caller = Caller(line, topics, self.names, patience=patience, largest=largest)
            begin()
            try:
                await self._caller.run()
            finally:
                await line.aclose()

        self._line = LineThread(hold, "federated", "the clients")

    def ask(
        self, requests: Mapping[str, bytes], timeout: float | None
    ) -> Mapping[str, bytes | str]:
        """Send each client its request, and wait for the replies.

        Raises:
            AgentkdError: If the line ended in an error, or was closed.
        """
        return self._line.call(self._caller.ask(requests, timeout))

    def close(self) -> None:
        """End the line."""
        self._line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the line."""
        self.close()
