"""What a fleet's server knows, as the fold of its audit trail, and what it decides next.

There is no I/O here and no clock: times come with the lines, or as an argument. The same lines give
the same state, so a server that was killed goes on where its trail ends.

An event's "what" is one of: created, device, push, wave, timed-out, pause, resume, abort, rollback,
finish. An event that does not fit the state, such as a wave that was begun as someone paused, is
ignored.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal, final

from agentkd.errors import ConfigError, LoadError, check_range
from agentkd.fields import Fields
from agentkd.fleet.audit import Entry
from agentkd.fleet.messages import Action
from agentkd.transport.names import device_name

Kind = Literal["refused", "rolled-back", "timed-out"]
FAILURES: tuple[Kind, ...] = ("refused", "rolled-back", "timed-out")
Outcome = Literal["later", "absent", "pending", "confirmed", "refused", "rolled-back", "timed-out"]
"""Where a device stands in a rollout: not asked yet; asked and off line, without having begun;
under way; and the four ends."""
OUTCOMES: tuple[Outcome, ...] = ("later", "absent", "pending", "confirmed", *FAILURES)
Course = Literal["running", "paused", "aborted", "rolled-back", "finished"]
ABORT: Mapping[str, float] = {"refused": 0.1, "rolled-back": 0.05, "timed-out": 0.2}
"""The share of each failure above which a rollout is aborted, by default."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TRIED = ("STAGED", "TRIAL", "CONFIRMED", "ROLLED_BACK")
_OF = {"REFUSED": "refused", "ROLLED_BACK": "rolled-back"}
_MOST_DEVICES = 1_000_000
_MOST_REPLACED = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """What is delivered, and under which conditions.

    Raises:
        ConfigError: If a value is out of its range.
    """

    digest: str
    """SHA-256 of the executor's file, in hexadecimal."""
    name: str
    """What it was signed as."""
    size: int
    """Bytes."""
    proof: str = ""
    """SHA-256 of its proof, "" if it has none."""
    signed: str = ""
    """What the proof says, "" if it was not checked."""
    waves: tuple[float, ...] = (5.0, 25.0, 100.0)
    """Per cent of the devices that are asked in each wave and those before it."""
    sample: int = 5
    """Devices that have to come to an end before anything is judged; fewer if fewer are asked."""
    abort: Mapping[str, float] = field(default_factory=lambda: dict(ABORT))
    """By kind of failure, the share of the asked devices above which the rollout is aborted."""
    limit: float = 900.0
    """Seconds that a device may take, from when it was asked and on line."""
    back: bool = False
    """Whether an abort also rolls back the devices that took it."""

    def __post_init__(self) -> None:
        """Check the values."""
        waves = self.waves
        ordered = all(a < b for a, b in pairwise(waves))
        if not waves or not ordered or not waves[0] > 0 or waves[-1] != 100:
            told = ",".join(f"{each:g}" for each in waves)
            raise ConfigError(
                f"waves are {told or 'empty'}; they have to grow from above 0 to 100 per cent, "
                "such as 5,25,100."
            )
        check_range("sample", self.sample, least=1)
        check_range("limit", self.limit, above=0, below=math.inf)
        for kind, share in self.abort.items():
            if kind not in FAILURES:
                raise ConfigError(f"abort {kind!r}: one of {', '.join(FAILURES)}.")
            check_range(f"abort {kind}", share, least=0, most=1)


@dataclass(frozen=True, slots=True)
class Target:
    """What a device is asked for."""

    revision: int
    """The number of the line that made it so, or larger if the device has seen larger ones."""
    action: Action
    rollout: int
    """The number of the line that began the rollout."""


@dataclass(slots=True)
class Known:
    """A device, as far as it told, and where it stands in the newest rollout."""

    name: str
    boot: str = ""
    session: int = 0
    online: bool = False
    seen: int = 0
    phase: str = "IDLE"
    digest: str = ""
    active: str = ""
    reason: str = ""
    text: str = ""
    target: Target | None = None
    asked: int = 0
    """The revision with which the newest rollout asked it first, 0 if it did not."""
    begun: bool = False
    """Whether it has had the newest rollout's executor in its slots."""
    end: Outcome | None = None
    clock: float | None = None
    """When its time began to count."""
    outcome: Outcome = "later"

    def revision(self, number: int) -> int:
        """Return one above all that the device was told, at least `number`."""
        told = self.target.revision if self.target is not None else 0
        return max(number, self.seen + 1, told + 1)


@dataclass(slots=True)
class Rollout:
    """A rollout under way, or over."""

    number: int
    plan: Plan
    by: str
    began: float
    course: Course = "running"
    wave: int = -1
    wave_began: float = 0.0
    text: str = ""
    """Why it was aborted."""
    ended: float | None = None


@final
class Fleet:
    """The state of a fleet."""

    def __init__(self) -> None:
        self.site = ""
        self.devices: dict[str, Known] = {}
        self.rollout: Rollout | None = None
        """The newest one."""
        self.plans: dict[int, Plan] = {}
        """By the number of a rollout, what it delivers."""
        self.counts: Counter[Outcome] = Counter()
        """Devices by outcome in the newest rollout."""
        self.online = 0
        self.pending: set[str] = set()
        self.changed: set[str] = set()
        """Devices with a new target; whoever sends it empties the set."""
        self.replaced: dict[str, None] = {}
        """Digests of what the rollouts before the newest delivered, the last few: their chunks may
        still be at the broker. Who takes them back empties it."""
        self.number, self.time = 0, 0.0

    def apply(self, entry: Entry) -> None:
        """Fold a line in.

        Raises:
            LoadError: If the event is not one of a fleet's.
        """
        fields = Fields(entry.event, f"Line {entry.number}")
        what = fields.text("what")
        self.number, self.time = entry.number, entry.time
        if what == "created":
            self.site = fields.text("site")
        elif what == "device":
            self._report(fields)
        elif what == "push":
            self._push(fields)
        elif what in ("wave", "timed-out", "pause", "resume", "abort", "rollback", "finish"):
            if self.rollout is not None and fields.whole("rollout") == self.rollout.number:
                self._decided(self.rollout, what, fields)
        else:
            raise LoadError(f"Line {entry.number}: no event is called {what[:40]!r}.")

    def _report(self, fields: Fields) -> None:
        name = device_name(fields.text("device"))
        device = self.devices.get(name)
        fresh = device is None
        if device is None:
            if len(self.devices) >= _MOST_DEVICES:
                return
            device = self.devices[name] = Known(name)
            self.counts["later"] += 1
        online = fields.flag("online")
        self.online += online - device.online
        again = (fields.text("boot"), fields.whole("session"))
        if again != (device.boot, device.session) and device.target is not None:
            # It may have lost what it was told.
            self.changed.add(name)
        device.online, (device.boot, device.session) = online, again
        device.seen = fields.whole("seen")
        device.phase, device.digest = fields.text("phase"), fields.text("digest")
        device.active = fields.text("active")
        target = device.target
        if target is not None and device.seen > target.revision:
            # It has obeyed a server with another trail.
            device.target = replace(target, revision=device.revision(self.number))
            device.asked = device.target.revision if device.asked else 0
            self.changed.add(name)
        device.reason, device.text = fields.text("reason"), fields.text("text")
        rollout = self.rollout
        if rollout is None:
            return
        open_to_all = rollout.course in ("running", "finished") and rollout.wave >= 0
        if fresh and open_to_all and self._wanted(rollout) > 0:
            self._ask([device])
        self._follow(device, rollout)

    def _push(self, fields: Fields) -> None:
        plan, before = _plan(fields), self.rollout
        by = fields.text("by")
        if before is not None and before.wave >= 0:
            found = [each for each in (before.plan.digest, before.plan.proof) if each]
            self.replaced = dict.fromkeys([*self.replaced, *found][-_MOST_REPLACED:])
        self.rollout = Rollout(self.number, plan, by, self.time)
        self.plans[self.number] = plan
        self.counts = Counter()
        self.counts["later"] = len(self.devices)
        self.pending.clear()
        for device in self.devices.values():
            device.asked, device.begun, device.end = 0, False, None
            device.clock, device.outcome = None, "later"
        used = {each.target.rollout for each in self.devices.values() if each.target is not None}
        self.plans = {n: each for n, each in self.plans.items() if n in used or n == self.number}

    def _decided(self, rollout: Rollout, what: str, fields: Fields) -> None:
        course = rollout.course
        if what == "wave" and course == "running":
            index = fields.whole("index", most=len(rollout.plan.waves) - 1)
            rollout.wave, rollout.wave_began = index, self.time
            self._widen(rollout)
        elif what == "timed-out":
            for name in fields.texts("devices"):
                device = self.devices.get(name)
                if device is not None and device.outcome == "pending":
                    device.end = "timed-out"
                    self._follow(device, rollout)
        elif what == "pause" and course == "running":
            self._turn(rollout, "paused")
        elif what == "resume" and course == "paused":
            rollout.wave_began = self.time
            self._turn(rollout, "running")
            if rollout.wave >= 0:
                self._widen(rollout)
        elif what == "abort" and course in ("running", "paused"):
            rollout.text = fields.text("text")
            self._turn(rollout, "rolled-back" if rollout.plan.back else "aborted")
        elif what == "finish" and course == "running":
            self._turn(rollout, "finished")
        elif what == "rollback":
            self._turn(rollout, "rolled-back")

    def _turn(self, rollout: Rollout, course: Course) -> None:
        rollout.course = course
        over = course in ("aborted", "rolled-back", "finished")
        rollout.ended = self.time if over else None
        for device in self.devices.values():
            self._follow(device, rollout)

    def size_of(self, rollout: Rollout) -> int:
        """Return for how many devices the present wave is, with those before it."""
        share = rollout.plan.waves[rollout.wave] / 100
        return math.ceil(share * len(self.devices) - 1e-9)

    def _wanted(self, rollout: Rollout) -> int:
        """Return how many more devices the wave asks; those that are off line do not count."""
        asked = len(self.devices) - self.counts["later"]
        wave = self.size_of(rollout) + self.counts["absent"]
        return min(wave - asked, self.counts["later"])

    def _widen(self, rollout: Rollout) -> None:
        """Ask as many devices as the wave is for, first those that are on line."""
        wanted = self._wanted(rollout)
        if wanted <= 0:
            return
        digest = rollout.plan.digest
        later = [each for each in self.devices.values() if not each.asked]
        later.sort(key=lambda each: (not each.online, order(each.name, digest)))
        self._ask(later[:wanted])

    def _ask(self, devices: Iterable[Known]) -> None:
        rollout = self.rollout
        assert rollout is not None
        for device in devices:
            device.asked = device.revision(self.number)
            self._follow(device, rollout)

    def _follow(self, device: Known, rollout: Rollout) -> None:
        """Work out where a device stands, and what it is to be asked for."""
        if not device.asked:
            return
        digest = rollout.plan.digest
        about = device.digest == digest
        device.begun |= (about and device.phase in _TRIED) or device.active == digest
        if about and device.phase in _OF and device.seen >= device.asked:
            device.end = "refused" if device.phase == "REFUSED" else "rolled-back"
        elif device.active == digest or (about and device.phase == "CONFIRMED"):
            device.end = "confirmed"
        if device.end is None and not device.begun and not device.online:
            device.clock = None
        action = _action(device, rollout)
        if action == "hold" and not device.begun:
            device.clock = None
        elif device.clock is None and (device.online or device.begun):
            device.clock = self.time
        before = device.target
        if before is None or (before.action, before.rollout) != (action, rollout.number):
            device.target = Target(device.revision(self.number), action, rollout.number)
            self.changed.add(device.name)
        under_way: Outcome = "pending" if device.online or device.begun else "absent"
        outcome = device.end or under_way
        if outcome != device.outcome:
            self.counts[device.outcome] -= 1
            self.counts[outcome] += 1
            device.outcome = outcome
        if outcome == "pending":
            self.pending.add(device.name)
        else:
            self.pending.discard(device.name)


def _action(device: Known, rollout: Rollout) -> Action:
    """Return what a device that was asked is asked for now."""
    if rollout.course in ("running", "finished"):
        return "apply"
    if rollout.course == "rolled-back":
        return "rollback" if device.begun else "hold"
    ended = device.end in ("confirmed", "refused", "rolled-back")
    return "apply" if device.begun or ended else "hold"


def order(device: str, digest: str) -> bytes:
    """Return by what devices are ordered, so that not always the same ones are first."""
    return hashlib.sha256(f"{digest}/{device}".encode()).digest()


def _plan(fields: Fields) -> Plan:
    for name in ("digest", "proof"):
        if not _DIGEST.fullmatch(fields.text(name)) and (name == "digest" or fields.text(name)):
            raise LoadError(f"{fields.text(name)[:80]!r} is not a SHA-256 in hexadecimal.")
    abort = fields.get("abort")
    shares = Fields(abort, "abort")
    return Plan(
        digest=fields.text("digest"),
        name=fields.text("name"),
        size=fields.whole("size"),
        proof=fields.text("proof"),
        signed=fields.text("signed"),
        waves=fields.numbers("waves"),
        sample=fields.whole("sample"),
        abort={each: shares.number(each) for each in abort},
        limit=fields.number("limit"),
        back=fields.flag("back"),
    )


def fold(entries: Iterable[Entry]) -> Fleet:
    """Return the state after lines."""
    fleet = Fleet()
    for entry in entries:
        fleet.apply(entry)
    return fleet
