"""A client behind a transport: it does the rounds that a server asks for."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import Protocol, final

from agentkd.distillation.federated.messages import MOST_BYTES
from agentkd.distillation.federated.wire import Receiving, Sending, read_offer
from agentkd.errors import LoadError
from agentkd.printable import logger
from agentkd.transport.blobs import CHUNK, need, read_need
from agentkd.transport.names import Topics
from agentkd.transport.thread import wait_for
from agentkd.transport.transport import Connect, Message, Transport

log = logger(__name__)


class Answers(Protocol):
    """What does a round; a `Client`."""

    def answer(self, request: bytes, /) -> bytes:
        """Do a round, and return the reply."""


@final
class Member:
    """Does the rounds that a server asks its client for, over a transport.

        client = open_client("CartPole-v1", planner, "mlp:16")
        connect = partial(MqttTransport, MqttOptions("mqtts://broker:8883"))
        asyncio.run(Member(client, connect, site="plant", name="arm-1").run())

    What is sent are the client's replies, in chunks, and that it is there. Where the client raises,
    the name of the error's class is sent, and its text goes to the log here. A reply is kept until
    the next one, so a server that was killed and asks again gets it at once.

    Args:
        client: The client; the caller closes it.
        connect: Makes the transport: `Hub.line`, or `partial(MqttTransport, options)`.
        site: The name of the fleet.
        name: The name of this device in it.
        chunk: Bytes of a chunk.

    Attributes:
        rounds: Rounds that were done here.
        strange: Messages that were not what they should be, by kind.

    Raises:
        LoadError: If a name is not one word.
    """

    def __init__(
        self, client: Answers, connect: Connect, site: str, name: str, *, chunk: int = CHUNK
    ) -> None:
        self.rounds = 0
        self.strange: Counter[str] = Counter()
        self._client, self._connect = client, connect
        self._chunk = chunk
        self._asked, self._said = (Topics(site).of(name, each) for each in ("to", "from"))
        self._here = f"{self._said}/here"
        self._boot = os.urandom(8).hex().encode()
        self._arriving: Receiving | None = None
        self._todo: tuple[str, bytes] | None = None
        self._doing = ""
        self._reply: Sending | None = None
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Do rounds until it is cancelled, and say so; a round that was begun is ended first."""
        gone = Message(self._here, b"", retain=True)
        line = self._connect(f"{self._asked}/+", will=gone)
        self._wake = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(line))
                group.create_task(self._work(line))
        finally:
            line.send(gone)
            await line.aclose()

    async def _read(self, line: Transport) -> None:
        """Take what comes."""
        async for each in line.receive():
            if each.connected:
                line.send(Message(self._here, self._boot, retain=True))
                if self._reply is not None:
                    self._reply.renew()
            else:
                self._take(line, each.topic.removeprefix(f"{self._asked}/"), each.payload)
            self._wake.set()

    def _take(self, line: Transport, what: str, payload: bytes) -> None:
        try:
            if what == "offer":
                self._offered(line, payload)
            elif what == "chunk" and self._arriving is not None:
                if self._arriving.put(payload):
                    self._came(line, self._arriving)
            elif what == "need" and self._reply is not None:
                self._reply.needed(read_need(payload), asyncio.get_running_loop().time())
        except LoadError as error:
            self.strange[what] += 1
            if self.strange[what] == 1:
                log.warning("A message was ignored, and others of its kind will be: %s", error)

    def _offered(self, line: Transport, payload: bytes) -> None:
        """Answer the offer of a request: with the reply, if it is there, or what is missing."""
        offer = read_offer(payload)
        if offer.file is None or offer.file.digest != offer.request:
            raise LoadError("the offer of a request without one")
        if offer.file.size > MOST_BYTES:
            raise LoadError(f"a request of {offer.file.size:,} bytes; at most {MOST_BYTES:,}")
        if self._reply is not None and self._reply.offered.request == offer.request:
            # The server does not know of it, or not any more.
            if self._reply.done:
                self._reply.renew()
        elif offer.request in (self._doing, self._todo and self._todo[0]):
            self._send(line, need(offer.request, ()).to_bytes())
        elif not self._doing:
            if self._arriving is None or self._arriving.offer != offer:
                self._arriving = Receiving(offer)
            self._send(line, self._arriving.need.to_bytes())

    def _came(self, line: Transport, arriving: Receiving) -> None:
        """Do what was asked for, once all of it is here."""
        data, self._arriving = arriving.whole(), None
        if data is None:
            raise LoadError("a request that is not what was offered")
        self._todo = arriving.offer.request, data
        self._send(line, need(arriving.offer.request, ()).to_bytes())

    async def _work(self, line: Transport) -> None:
        """Do rounds, and offer replies until the server has them."""
        clock = asyncio.get_running_loop().time
        while True:
            self._wake.clear()
            if self._todo is not None:
                (self._doing, request), self._todo, self._reply = self._todo, None, None
                self._reply = await self._answer(line, self._doing, request)
                self._doing = ""
            reply, pause = self._reply, None
            if reply is not None and not reply.done:
                if clock() >= reply.due:
                    reply.offer(clock())
                pause = max(0.0, reply.due - clock())
            await wait_for(self._wake, pause)

    async def _answer(self, line: Transport, digest: str, request: bytes) -> Sending:
        """Let the client do a round, in a thread; what it raises ends the round only."""
        data, failed = None, ""
        try:
            data = await asyncio.to_thread(self._client.answer, request)
        except Exception as error:  # a client's environment may raise anything
            failed = type(error).__name__
            log.warning("A round failed, and the server is told %s: %s", failed, error)
        self.rounds += 1
        return Sending(
            line.send, self._said, data, request=digest, failed=failed, chunk=self._chunk
        )

    def _send(self, line: Transport, payload: bytes) -> None:
        line.send(Message(f"{self._said}/need", payload))
