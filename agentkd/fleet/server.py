"""The process between a fleet's folder and its broker.

It folds the audit trail, writes down what devices report, decides what is due, and tells each
device what is desired. All that it needs after a kill is in the trail and with the devices.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final, get_args

from agentkd.errors import ConfigError, LoadError
from agentkd.files import loading
from agentkd.fleet.audit import Event
from agentkd.fleet.decisions import decide, transition
from agentkd.fleet.messages import (
    CHUNK,
    Blob,
    Desired,
    Phase,
    Report,
    Topics,
    read_need,
    read_report,
)
from agentkd.fleet.office import Office
from agentkd.fleet.rollout import OUTCOMES, Fleet, Known
from agentkd.printable import logger
from agentkd.transport import Message, Received, Transport

log = logger(__name__)

_PAUSE = 0.02
"""Seconds from turn to turn at least: what comes meanwhile is written down together."""
_LOOK = 0.1
"""Seconds after which the trail is looked at for commands."""
_FIRST, _LONGEST = 1.0, 60.0
"""Seconds after which a device that does not answer is told again: the first time, and at most."""
_AGAIN, _SELDOM = 0.25, 16.0
"""Seconds in which a chunk is sent once, though many need it: at first, and at most. All that fetch
get it each time, so many slow devices that ask for it would else drown each other."""
_ALLOWANCE, _REFILL = 20.0, 0.2
"""Lines that a device may cause at once, and for each second after that: one that changes its mind
for ever shall not fill the disk."""
_MOST_NEEDED = 20_000
_OPEN = ("running", "paused")
COUNTED = ("chunks_sent", "needs_answered", "desired_sent", "messages_dropped", "messages_refused")
DESCRIBED: dict[str, tuple[str, ...]] = {
    "fleet_devices": ("Devices by how far they came with what is desired.", "phase"),
    "fleet_outcomes": ("Devices by where they stand in the newest rollout.", "outcome"),
    "fleet_online_devices": ("Devices that are on line.",),
    "fleet_trail_lines": ("Lines of the audit trail.",),
    "fleet_chunks_sent_total": ("Chunks sent.",),
    "fleet_needs_answered_total": ("Requests for missing chunks that were answered.",),
    "fleet_desired_sent_total": ("Messages that told a device what is desired.",),
    "fleet_messages_dropped_total": ("Messages that found the queue to the broker full.",),
    "fleet_messages_refused_total": ("Messages of devices that are not what they should be.",),
}
"""For Prometheus: what each metric of a server is, and its labels."""


def filters(site: str) -> tuple[str, str]:
    """Return what a server receives."""
    root = Topics(site).root
    return f"{root}/d/+/state", f"{root}/d/+/need"


@dataclass(slots=True)
class _Telling:
    """A device that has not acknowledged what is desired."""

    due: float = 0.0
    wait: float = _FIRST
    sent: bool = False
    anyway: bool = False
    """Whether it is told once more although it has acknowledged."""


@final
class Server:
    """Serves a fleet's folder over a transport.

    Args:
        office: The folder.
        transport: The line to the broker, made with `filters`.
        chunk: Bytes of a chunk.
    """

    def __init__(self, office: Office, transport: Transport, *, chunk: int = CHUNK) -> None:
        self.office = office
        self.counters: Counter[str] = Counter()
        """What was sent, answered and dropped, by the names of `DESCRIBED`, which say more."""
        self._transport, self._clock, self._chunk = transport, office.clock, chunk
        self._topics = Topics(office.fleet.site)
        self._reports: dict[str, Report] = {}
        self._later: dict[str, Report] = {}
        self._again = False
        self._seen: dict[str, int] = {}
        self._allowed: dict[str, tuple[float, float]] = {}
        self._news = asyncio.Event()
        self._telling: dict[str, _Telling] = {}
        self._blobs: dict[str, tuple[Blob, list[bytes]]] = {}
        self._published: dict[str, int] = {}
        self._needed: dict[tuple[str, int], None] = {}
        self._sent_at: dict[tuple[str, int], tuple[float, float]] = {}
        self._offered = self._cleaned = 0

    async def run(self) -> None:
        """Serve until it is cancelled.

        Raises:
            LoadError: If the trail does not verify.
            WriteError: If it cannot be written.
        """
        receiving = asyncio.create_task(self._receive(), name="fleet: receive")
        try:
            while not receiving.done():
                self._news.clear()
                reports, self._reports = {**self._later, **self._reports}, {}
                await asyncio.to_thread(self._turn, reports, self._clock())
                self._tell(self._clock())
                await asyncio.sleep(_PAUSE)
                with suppress(TimeoutError):
                    # wait_for of Python 3.11 may swallow that it is cancelled.
                    async with asyncio.timeout(_LOOK):
                        await self._news.wait()
            await receiving
        finally:
            receiving.cancel()

    async def _receive(self) -> None:
        async for received in self._transport.receive():
            if received.connected:
                self._again = True
            else:
                self._take(received)
            self._news.set()

    def _take(self, received: Received) -> None:
        """Take a device's message; what is not one is counted."""
        name, what = self._topics.device(received.topic)
        try:
            if what == "state" and received.payload:
                report = read_report(received.payload)
                self._reports[name] = report
                self._seen[name] = report.seen
                known = self.office.fleet.devices.get(name)
                target = known.target if known is not None else None
                if report.online and target is not None and report.seen < target.revision:
                    self._telling.setdefault(name, _Telling())
            elif what == "need":
                self._needs(name, received.payload)
            elif received.payload:
                self.counters["messages_refused"] += 1
        except LoadError as error:
            self.counters["messages_refused"] += 1
            log.info("%s: %s", received.topic, error)

    def _needs(self, name: str, payload: bytes) -> None:
        need = read_need(payload)
        known = self.office.fleet.devices.get(name)
        target = known.target if known is not None else None
        plan = self.office.fleet.plans.get(target.rollout) if target is not None else None
        if plan is None or need.digest not in (plan.digest, plan.proof):
            self.counters["messages_refused"] += 1
            return
        self.counters["needs_answered"] += 1
        # What it was told may have come damaged.
        self._telling.setdefault(name, _Telling(due=self._clock() + _FIRST, anyway=True))
        # Another thread may drop the file meanwhile.
        chunks = len(self._blobs.get(need.digest, (None, []))[1])
        for index in need.missing:
            if index < chunks and len(self._needed) < _MOST_NEEDED:
                self._needed[need.digest, index] = None

    def _turn(self, reports: Mapping[str, Report], now: float) -> None:
        """Write down what came and what is due."""
        office = self.office
        office.look()
        changes = list(self._changes(reports, now))
        if changes:
            office.change(lambda _: changes)
        while decide(office.fleet, now):
            office.change(lambda fleet: decide(fleet, now))
        self._load(office.fleet)

    def _changes(self, reports: Mapping[str, Report], now: float) -> Iterator[Event]:
        devices, self._later = self.office.fleet.devices, {}
        for name, report in reports.items():
            event = transition(report, name, devices.get(name))
            if event is None:
                continue
            left, at = self._allowed.get(name, (_ALLOWANCE, now))
            left = min(_ALLOWANCE, left + (now - at) * _REFILL)
            if left < 1:
                self._later[name] = report
                continue
            self._allowed[name] = (left - 1, now)
            yield event

    def _load(self, fleet: Fleet) -> None:
        """Have in memory what devices are asked for."""
        wanted = {
            digest
            for plan in fleet.plans.values()
            for digest in (plan.digest, plan.proof)
            if digest
        }
        for digest in wanted - set(self._blobs):
            self._blobs[digest] = self.office.blob(digest, self._chunk)
        for digest in set(self._blobs) - wanted:
            del self._blobs[digest]

    def _tell(self, now: float) -> None:
        """Send what devices have not heard, and the chunks that they need."""
        fleet = self.office.fleet
        changed, fleet.changed = fleet.changed, set()
        for name in changed:
            self._telling[name] = _Telling()
        if self._again:
            self._say_again(fleet)
        self._offer(fleet)
        for name, telling in list(self._telling.items()):
            if telling.due > now:
                continue
            device = fleet.devices[name]
            target = device.target
            acknowledged = target is not None and self._seen.get(name, 0) >= target.revision
            done = acknowledged if telling.sent or not telling.anyway else False
            if target is None or done or (telling.sent and not device.online):
                del self._telling[name]
                continue
            if not self._send(self._desired(device)):
                break
            telling.due, telling.sent = now + telling.wait, True
            telling.wait = min(2 * telling.wait, _LONGEST)
            self.counters["desired_sent"] += 1
        self._answer(now, retain=fleet.rollout is not None and fleet.rollout.course in _OPEN)

    def _say_again(self, fleet: Fleet) -> None:
        """Say everything once more: a broker may have lost what it kept."""
        self._again = False
        self._offered = self._cleaned = 0
        self._published.clear()
        for name, device in fleet.devices.items():
            if device.target is not None:
                self._telling[name] = _Telling(anyway=True)

    def _desired(self, device: Known) -> Message:
        target = device.target
        assert target is not None
        plan = self.office.fleet.plans[target.rollout]
        desired = Desired(target.revision)
        if target.action == "rollback":
            desired = Desired(target.revision, "rollback", plan.digest, plan.name)
        elif target.action == "apply":
            file = self._blobs[plan.digest][0]
            proof = self._blobs[plan.proof][0] if plan.proof else None
            desired = Desired(target.revision, "apply", plan.digest, plan.name, file, proof)
        topic = self._topics.of(device.name, "desired")
        return Message(topic, desired.to_bytes(), retain=True)

    def _offer(self, fleet: Fleet) -> None:
        """Publish the chunks of a rollout as it begins, and take them back as it ends."""
        rollout = fleet.rollout
        if rollout is None or rollout.wave < 0:
            return
        digests = [each for each in (rollout.plan.digest, rollout.plan.proof) if each]
        begin = rollout.course in _OPEN
        if (self._offered if begin else self._cleaned) == rollout.number:
            return
        for digest in digests:
            chunks = self._blobs[digest][1]
            for index in range(self._published.get(digest, 0), len(chunks)):
                payload = chunks[index] if begin else b""
                if not self._send(Message(self._topics.chunk(digest, index), payload, retain=True)):
                    return
                self._published[digest] = index + 1
                self.counters["chunks_sent"] += begin
        self._published.clear()
        if begin:
            self._offered = rollout.number
        else:
            self._cleaned = rollout.number

    def _answer(self, now: float, *, retain: bool) -> None:
        """Send the chunks that were asked for; one that was just sent waits its time."""
        for key in list(self._needed):
            at, wait = self._sent_at.get(key, (-1e9, _AGAIN))
            if now - at < wait:
                continue
            digest, index = key
            chunks = self._blobs.get(digest, (None, []))[1]
            if index < len(chunks):
                topic = self._topics.chunk(digest, index)
                if not self._send(Message(topic, chunks[index], retain=retain)):
                    return
            often = now - at < 4 * wait
            self._sent_at[key] = now, min(2 * wait, _SELDOM) if often else _AGAIN
            del self._needed[key]
            self.counters["chunks_sent"] += 1
        if len(self._sent_at) > _MOST_NEEDED:
            self._sent_at.clear()

    def _send(self, message: Message) -> bool:
        sent = self._transport.send(message)
        self.counters["messages_dropped"] += not sent
        return sent

    def metrics(self) -> dict[str, Any]:
        """Return what `DESCRIBED` describes."""
        fleet = self.office.fleet
        phases = Counter(each.phase for each in list(fleet.devices.values()))
        return {
            "fleet_devices": {phase: phases[phase] for phase in get_args(Phase)},
            "fleet_outcomes": {each: fleet.counts[each] for each in OUTCOMES},
            "fleet_online_devices": fleet.online,
            "fleet_trail_lines": fleet.number,
            **{f"fleet_{name}_total": self.counters[name] for name in COUNTED},
        }


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make sure that no other server serves a folder.

    Raises:
        ConfigError: If one does.
    """
    path = folder / "serve.lock"
    with loading(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"Another process serves {folder}. One at a time: end that one first."
            ) from None
        yield
    finally:
        os.close(descriptor)
