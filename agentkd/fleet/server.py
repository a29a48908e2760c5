"""The process between a fleet's folder and its broker.

It folds the audit trail, writes down what devices report, decides what is due, and tells each
device what is desired. All that it needs after a kill is in the trail and with the devices.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final, get_args

from agentkd.errors import ConfigError, LoadError, WriteError
from agentkd.files import loading
from agentkd.fleet.audit import Entry, Event
from agentkd.fleet.decisions import Waiting, decide, without_file
from agentkd.fleet.knowledge import Knowledge
from agentkd.fleet.known import OUTCOMES, Known, Target
from agentkd.fleet.messages import Desired, Phase, Report, read_report
from agentkd.fleet.notes import LARGEST
from agentkd.fleet.office import Office
from agentkd.fleet.rollout import Fleet
from agentkd.fleet.shelf import Shelf
from agentkd.printable import logger
from agentkd.transport import Message, Received, Transport
from agentkd.transport.blobs import CHUNK, read_need
from agentkd.transport.names import Topics

log = logger(__name__)

_PAUSE = 0.02
"""Seconds from turn to turn at least: what comes meanwhile is written down together."""
_LOOK = 0.1
"""Seconds after which the trail is looked at for commands."""
_FIRST, _LONGEST = 1.0, 60.0
"""Seconds after which a device that does not answer is told again: the first time, and at most."""
_ALLOWANCE, _REFILL = 20.0, 0.2
"""Lines, or notes, that a device may cause at once, and for each second after that: one that
changes its mind for ever shall not fill the disk."""
_NOTES, _A_TURN = 1000, 50
"""Notes that wait to be kept, and how many are kept each turn: rollouts do not wait for them."""
_TELEMETRY = 10.0
"""Seconds after which the newest numbers of devices are written again."""
_COMPACT = 600.0
"""Seconds after which a checkpoint that could not be written is tried again."""
_JUMP = 10.0
"""Seconds by which the machine's clock may be ahead of what has passed, at once."""
COUNTED = (
    *("chunks_sent", "needs_answered", "desired_sent", "messages_dropped", "messages_refused"),
    *("notes_taken", "notes_dropped", "observations_taken"),
)
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
    "fleet_notes_taken_total": ("Notes of devices that were kept.",),
    "fleet_notes_dropped_total": ("Notes that came while too many waited to be kept.",),
    "fleet_observations_taken_total": ("Observations in them.",),
    "fleet_files_missing": ("Files that devices are asked for and that cannot be read.",),
}
"""For Prometheus: what each metric of a server is, and its labels."""


def filters(site: str, *, collect: bool = False) -> tuple[str, ...]:
    """Return what a server receives; with `collect` also what devices note down."""
    words = ("state", "need", "note") if collect else ("state", "need")
    return tuple(map(Topics(site).every, words))


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
        knowledge: Where it is kept what devices note down; None to take none of it.
        told: Called with the lines that are new in the trail, each turn.
    """

    def __init__(
        self,
        office: Office,
        transport: Transport,
        *,
        chunk: int = CHUNK,
        knowledge: Knowledge | None = None,
        told: Callable[[Sequence[Entry]], None] | None = None,
    ) -> None:
        self.office = office
        self.counters: Counter[str] = Counter()
        """What was sent, answered and dropped, by the names of `DESCRIBED`, which say more."""
        self._transport, self._told, self._knowledge = transport, told, knowledge
        self._notes: deque[tuple[str, bytes]] = deque()
        self._noted: dict[str, tuple[float, float]] = {}
        self._wrote = self._compact_at = 0.0
        self._topics = Topics(office.fleet.site)
        self._shelf = Shelf(office, self._send, self.counters, chunk)
        self._clock = Steady(office.clock, office.fleet.time)
        self._reports: dict[str, Waiting] = {}
        self._later: dict[str, Waiting] = {}
        self._again, self._rival = False, 0
        self._seen: dict[str, int] = {}
        self._allowed: dict[str, tuple[float, float]] = {}
        self._news = asyncio.Event()
        self._telling: dict[str, _Telling] = {}

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
                reports, self._reports = self._reports, {}
                entries = await asyncio.to_thread(self._turn, reports, self._clock())
                if self._told is not None and entries:
                    self._told(entries)
                for name, waiting in self._later.items():
                    fresh = self._reports.get(name)
                    self._reports[name] = waiting if fresh is None else waiting.followed(fresh)
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
        name, what = self._topics.read(received.topic)
        try:
            if what == "state" and received.payload:
                self._hear(name, read_report(received.payload))
            elif what == "need":
                self._needs(name, received.payload)
            elif what == "note" and self._knowledge is not None:
                self._note(name, received.payload)
            elif received.payload:
                self.counters["messages_refused"] += 1
        except LoadError as error:
            self.counters["messages_refused"] += 1
            log.info("%s: %s", received.topic, error)

    def _hear(self, name: str, report: Report) -> None:
        waiting = self._reports.get(name)
        self._reports[name] = Waiting(report) if waiting is None else waiting.joined(report)
        known = self.office.fleet.devices.get(name)
        if not report.online:
            # A will may be older than what is known.
            before = self._seen.get(name, known.seen if known is not None else 0)
            self._seen[name] = max(before, report.seen)
            return
        self._seen[name] = report.seen
        target, rollout = known.target if known is not None else None, self.office.fleet.rollout
        if target is None or known is None or rollout is None:
            return
        if report.seen < target.revision:
            self._telling.setdefault(name, _Telling())
        elif report.seen > target.revision and known.outbid and self._rival != rollout.number:
            self._rival = rollout.number
            log.warning(
                "%s obeys another server of %s, after this one has outbid it; it is left to that "
                "one. One folder serves a fleet: end the other server, and push again.",
                *(name, self.office.fleet.site),
            )

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
        self._shelf.need(need.digest, need.missing)

    def _note(self, name: str, payload: bytes) -> None:
        """Let a note wait to be kept, unless its device is not known or tells too often."""
        if len(payload) > LARGEST:
            raise LoadError(f"A note of {len(payload):,} bytes; at most {LARGEST:,} are read.")
        if name not in self.office.fleet.devices:
            raise LoadError("A note of a device that never reported to this fleet.")
        if not _allow(self._noted, name, self._clock()):
            self.counters["messages_refused"] += 1
        elif len(self._notes) >= _NOTES:
            self.counters["notes_dropped"] += 1
        else:
            self._notes.append((name, payload))

    def _turn(self, reports: Mapping[str, Waiting], now: float) -> list[Entry]:
        """Write down what came and what is due; return the lines that are new."""
        office = self.office
        entries, jumped = office.look(), self._clock.jump()
        if jumped:
            event = {"what": "clock", "by": jumped}
            entries += office.change(lambda _: [event], self._clock())
        self._shelf.load(office.fleet, now)
        if office.fleet.replaced:
            self._shelf.find_stale(office.fleet)
        changes = list(self._changes(reports, now))
        if changes:
            entries += office.change(lambda _: changes, self._clock())
        while self._due(office.fleet, now):
            entries += office.change(lambda fleet: self._due(fleet, now), self._clock())
        if now >= self._compact_at:
            try:
                entries += office.compact()
            except WriteError as error:
                log.warning("%s", error)
                self._compact_at = now + _COMPACT
        if self._knowledge is not None:
            self._learn(self._knowledge, now)
        return entries

    def _learn(self, knowledge: Knowledge, now: float) -> None:
        """Keep some of what devices noted down."""
        if now - self._wrote >= _TELEMETRY:
            self._wrote = now
            try:
                knowledge.write_telemetry()
            except WriteError as error:
                log.warning("%s", error)
        for _ in range(min(_A_TURN, len(self._notes))):
            name, payload = self._notes.popleft()
            try:
                self.counters["observations_taken"] += knowledge.take(name, payload)
                self.counters["notes_taken"] += 1
            except (LoadError, WriteError) as error:
                self.counters["messages_refused"] += 1
                log.info("A note of %s: %s", name, error)

    def _due(self, fleet: Fleet, now: float) -> Sequence[Event]:
        rollout = fleet.rollout
        pause = None if rollout is None else without_file(rollout, self._shelf.missing)
        return decide(fleet, now) if pause is None else [pause]

    def _changes(self, reports: Mapping[str, Waiting], now: float) -> Iterator[Event]:
        devices, self._later = self.office.fleet.devices, {}
        for name, waiting in reports.items():
            event = waiting.event(name, devices.get(name))
            if event is None:
                continue
            if _allow(self._allowed, name, now):
                yield event
            else:
                self._later[name] = waiting

    def _tell(self, now: float) -> None:
        """Send what devices have not heard, and the chunks that they need."""
        fleet = self.office.fleet
        changed, fleet.changed = fleet.changed, set()
        for name in changed:
            self._telling[name] = _Telling()
        if self._again:
            self._say_again(fleet)
        self._shelf.offer(fleet)
        for name, telling in list(self._telling.items()):
            if telling.due > now:
                continue
            device = fleet.devices[name]
            target = device.target
            ahead = -1 if target is None else self._seen.get(name, device.seen) - target.revision
            # What another server has told it since would be overwritten at the broker.
            done = ahead > 0 or (ahead == 0 and (telling.sent or not telling.anyway))
            if target is None or done or (telling.sent and not device.online):
                del self._telling[name]
                continue
            message = self._desired(device, target)
            if message is None:
                telling.due = now + _FIRST
                continue
            if not self._send(message):
                break
            telling.due, telling.sent = now + telling.wait, True
            telling.wait = min(2 * telling.wait, _LONGEST)
            self.counters["desired_sent"] += 1
        self._shelf.answer(fleet, now)

    def _say_again(self, fleet: Fleet) -> None:
        """Say everything once more: a broker may have lost what it kept."""
        self._again = False
        self._shelf.say_again()
        for name, device in fleet.devices.items():
            if device.target is not None:
                self._telling[name] = _Telling(anyway=True)

    def _desired(self, device: Known, target: Target) -> Message | None:
        """Return what a device is told; None if the file that it needs is missing."""
        plan = self.office.fleet.plans[target.rollout]
        desired = Desired(target.revision)
        if target.action == "rollback":
            desired = Desired(target.revision, "rollback", plan.digest, plan.name)
        elif target.action == "apply":
            file = self._shelf.blob(plan.digest)
            proof = self._shelf.blob(plan.proof) if plan.proof else None
            if file is None or (plan.proof and proof is None):
                return None
            desired = Desired(target.revision, "apply", plan.digest, plan.name, file, proof)
        topic = self._topics.of(device.name, "desired")
        return Message(topic, desired.to_bytes(), retain=True)

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
            "fleet_files_missing": len(self._shelf.missing),
            **{f"fleet_{name}_total": self.counters[name] for name in COUNTED},
        }


def _allow(allowed: dict[str, tuple[float, float]], name: str, now: float) -> bool:
    """Tell whether a device may cause something once more, and count it if so."""
    left, at = allowed.get(name, (_ALLOWANCE, now))
    left = min(_ALLOWANCE, left + (now - at) * _REFILL)
    allowed[name] = (left - 1 if left >= 1 else left, now)
    return left >= 1


@final
class Steady:
    """Seconds since 1970 that never go back, and go on though the machine's clock is set back.

    Args:
        clock: The machine's.
        least: A time that has been.
    """

    def __init__(self, clock: Callable[[], float], least: float) -> None:
        self._clock, self._now, self._jumped = clock, least, 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._at = 0.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        """Return the time; the first time within an event loop, then from any thread."""
        with self._lock:
            first = self._loop is None
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
                self._at = self._loop.time()
            at = self._loop.time()
            passed = self._now + at - self._at
            self._now, self._at = max(passed, self._clock()), at
            if not first and self._now > passed + _JUMP:
                self._jumped += self._now - passed
            return self._now

    def jump(self) -> float:
        """Return the seconds by which the machine's clock was set on since the last call."""
        with self._lock:
            jumped, self._jumped = self._jumped, 0.0
            return jumped


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
