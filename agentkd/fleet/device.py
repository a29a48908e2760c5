"""The device's side of a fleet: it fetches what is desired, and takes it to the device's gate."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Self, final

from agentkd.device.device import Device
from agentkd.device.state import Held, State
from agentkd.errors import AgentkdError, LoadError
from agentkd.fleet.errand import Errand, Pace, Patience, Standing
from agentkd.fleet.messages import Report, read_desired
from agentkd.fleet.sharing import Outbox, Sharing
from agentkd.printable import logger
from agentkd.transport.names import Topics, device_name
from agentkd.transport.thread import LineThread, wait_for
from agentkd.transport.transport import Connect, Message, Transport

log = logger(__name__)

_NEVER = (-1, 0, 0)


@final
class Follower:
    """Brings onto a device what a fleet's server desires, and reports how far it came.

        connect = partial(MqttTransport, MqttOptions("mqtts://broker:8883"))
        with Follower(device, connect, site="plant", name="arm-7"):
            while agent.tick():
                ...

    It works in a thread of its own; or `asyncio.run(follower.run())`, in a program of its own. An
    executor comes in through the device's gate alone, which checks signatures if it has `trust`,
    and its trial is that of the robot's program (`agentkd.device.Trial`). What is fetched lies in
    `incoming/` in the device's folder meanwhile. One follower at a time may use a folder.

    Args:
        device: The device.
        connect: Makes the transport: `Hub.line`, or `partial(MqttTransport, options)`.
        site: The name of the fleet.
        name: The name of this device in it.
        pace: How often it looks, asks and reports.
        sharing: What may leave the device of what a `Notebook` noted; None for nothing.
        seen: Called with each report that says something new, in the follower's thread.
        seed: Of the jitter; None for one of the system's.

    Raises:
        LoadError: If a name is not one word.
    """

    def __init__(
        self,
        device: Device,
        connect: Connect,
        site: str,
        name: str,
        *,
        pace: Pace | None = None,
        sharing: Sharing | None = None,
        seen: Callable[[Report], None] | None = None,
        seed: int | None = None,
    ) -> None:
        self.strange: Counter[str] = Counter()
        """Messages that were not what they should be, by kind."""
        self.report = Report(os.urandom(8).hex(), 0, online=False)
        """What was reported last."""
        self.transport: Transport | None = None
        """The line, once it follows."""
        self._device, self._connect, self._pace = device, connect, pace or Pace()
        self._topics, self._name = Topics(site), device_name(name)
        self._seen, self._sharing = seen, sharing
        self._random = random.Random(seed)  # noqa: S311 (of the jitter)
        self._errand: Errand | None = None
        self._session = self._revision = 0
        self._standing = Standing("IDLE")
        self._state, self._facts = State(), _NEVER
        self._starting: Held | None = None
        self._broken = ""
        self._told = False
        self._again = 0.0
        self._wake = asyncio.Event()
        self._thread: LineThread | None = None

    @property
    def alive(self) -> bool:
        """Whether it follows in a thread."""
        return self._thread is not None and self._thread.alive

    async def run(self) -> None:
        """Follow the server until it is cancelled, and report that."""
        transport = self.transport = self._connect(self._topic("desired"), will=self._will)
        self._wake = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(transport))
                group.create_task(self._work(transport))
                if self._sharing is not None and self._sharing.leave:
                    group.create_task(self._share(transport, self._sharing))
        finally:
            self.report = replace(self.report, session=self._session, online=False)
            transport.send(self._message(self.report))
            await transport.aclose()

    def __enter__(self) -> Self:
        """Follow in a thread."""

        async def follow(begin: Callable[[], None]) -> None:
            begin()
            await self.run()

        self._thread = LineThread(follow, "fleet", "the fleet's server")
        return self

    def __exit__(self, *_: object) -> None:
        """End, and report that."""
        if self._thread is not None:
            self._thread.close()

    async def _read(self, transport: Transport) -> None:
        """Take what comes."""
        wanted = self._topic("desired")
        async for each in transport.receive():
            if each.connected:
                self._told = False
                if self._errand is not None:
                    self._errand.patience.renew()
                self._wake.set()
            elif each.topic == wanted:
                self._take(each.payload)
                self._wake.set()
            elif self._errand is not None:
                self._put(self._errand, each.topic, each.payload)

    def _take(self, payload: bytes) -> None:
        """Take what is desired from here on."""
        if not payload:
            return
        try:
            desired = read_desired(payload)
        except LoadError as error:
            self._strange("desired", error)
            return
        # Each one that comes is acknowledged, with the newest revision.
        self._told = False
        if desired.revision < self._revision:
            return
        self._revision = desired.revision
        if self._errand is None or self._errand.desired != desired:
            patience = Patience(self._pace, self._random)
            self._errand = Errand(desired, self._device, patience)
            self._facts = _NEVER

    def _put(self, errand: Errand, topic: str, payload: bytes) -> None:
        """Take a chunk."""
        wrong = errand.put(*self._topics.place(topic), payload)
        if wrong:
            self._strange("chunk", wrong)
        elif not errand.fetching:
            self._wake.set()

    async def _work(self, transport: Transport) -> None:
        """Do what there is to do, again and again."""
        subscribed: tuple[str, ...] = ()
        while True:
            self._wake.clear()
            await self._look()
            errand = self._errand
            standing = await self._step(errand)
            if standing is None or errand is not self._errand:
                continue
            self._standing = standing
            wanted: tuple[str, ...] = ()
            if errand is not None:
                wanted = tuple(self._topics.chunk(each, "+") for each in errand.fetching)
                for need in errand.asks():
                    transport.send(Message(self._topic("need"), need.to_bytes()))
            if wanted != subscribed:
                transport.subscribe(*wanted)
                subscribed = wanted
            self._tell(transport)
            await wait_for(self._wake, self._pace.look)

    async def _share(self, transport: Transport, sharing: Sharing) -> None:
        """Send what may leave, as the budget has it."""
        clock = asyncio.get_running_loop().time
        outbox = Outbox(self._device.folder, sharing, clock())
        while True:
            try:
                payload = await asyncio.to_thread(outbox.next, clock())
            except OSError as error:
                self._strange("note", f"what leaves could not be written down: {error}")
                payload = None
            if payload is not None:
                transport.send(Message(self._topic("note"), payload))
            await asyncio.sleep(self._pace.look)

    async def _look(self) -> None:
        """Read the device's state, if it may be another one."""
        try:
            found = self._device.path.stat()
            facts = (found.st_ino, found.st_mtime_ns, found.st_size)
        except OSError:
            facts = (0, 0, 0)
        if facts == self._facts:
            return
        self._facts, self._broken = facts, ""
        try:
            self._state = await asyncio.to_thread(self._device.status)
            self._starting = await asyncio.to_thread(self._device.starting)
        except AgentkdError as error:
            self._state, self._starting, self._broken = State(), None, str(error)

    async def _step(self, errand: Errand | None) -> Standing | None:
        if self._broken:
            return Standing("IDLE" if errand is None else "REFUSED", "damaged", self._broken)
        return (
            Standing("IDLE") if errand is None else await errand.step(self._state, self._starting)
        )

    def _strange(self, kind: str, error: object) -> None:
        """Count a message that is not what it should be; the first of a kind is logged."""
        self.strange[kind] += 1
        if self.strange[kind] == 1:
            log.warning("A message was ignored, and others of its kind will be: %s", error)

    def _tell(self, transport: Transport) -> None:
        """Report how it stands, if that is new or was not said for long."""
        now = asyncio.get_running_loop().time()
        report = self._now()
        # A connection is told of once it is there, not each time that one is tried.
        here = replace(self.report, session=report.session)
        connected = not self._told and here != self.report
        same = replace(here, fetched=report.fetched)
        # What was fetched alone is worth a message now and then.
        due = self._again - (0.9 * self._pace.report if report != here else 0.0)
        if report == same and self._told and now < due:
            return
        if not transport.send(self._message(report)):
            return
        new, self.report, self._told = report != same or connected, report, True
        self._again = now + self._pace.report * self._random.uniform(0.9, 1.1)
        if new and self._seen is not None:
            self._seen(report)

    def _now(self) -> Report:
        """Return what there is to report."""
        errand, standing = self._errand, self._standing
        return replace(
            self.report,
            session=self._session,
            online=True,
            seen=self._revision,
            phase=standing.phase,
            digest="" if errand is None else errand.digest,
            active="" if self._starting is None else self._starting.digest,
            fetched=0 if errand is None else errand.fetched,
            reason=standing.reason,
            text=standing.text,
        )

    def _topic(self, what: str) -> str:
        return self._topics.of(self._name, what)

    def _message(self, report: Report) -> Message:
        return Message(self._topic("state"), report.to_bytes(), retain=True)

    def _will(self) -> Message:
        """Return the will of the next connection."""
        self._session += 1
        return self._message(replace(self.report, session=self._session, online=False))
