"""What a fleet's server knows, as the fold of its audit trail, and what it decides next.

There is no I/O here and no clock: times come with the lines, or as an argument. The same lines give
the same state, so a server that was killed goes on where its trail ends.

An event's "what" is one of: created, device, push, wave, timed-out, pause, resume, abort, rollback,
finish, clock, checkpoint. An event that does not fit the state, such as a wave that was begun as
someone paused, is ignored; an unknown one raises `LoadError`.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, final

from agentkd.errors import LoadError
from agentkd.fields import Fields
from agentkd.fleet.audit import CHECKPOINT, Entry
from agentkd.fleet.known import Course, Known, Outcome, Plan, Rollout, Target, read_plan
from agentkd.fleet.messages import Action
from agentkd.fleet.snapshot import Snapshot, read_snapshot
from agentkd.transport.names import device_name

_TRIED = ("STAGED", "TRIAL", "CONFIRMED", "ROLLED_BACK")
_OF = {"REFUSED": "refused", "ROLLED_BACK": "rolled-back"}
_MOST_DEVICES = 1_000_000
_MOST_REPLACED = 8


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
        self.former: dict[str, None] = {}
        """Digests of what the rollouts before the newest delivered, the last few."""
        self.replaced: dict[str, None] = {}
        """Those of them whose chunks may still be at the broker. Who takes them back empties it."""
        self.number, self.time = 0, 0.0

    def apply(self, entry: Entry) -> None:
        """Fold a line in.

        Raises:
            LoadError: If the event is not one of a fleet's.
        """
        fields = Fields(entry.event, f"Line {entry.number}")
        what = fields.text("what")
        if what == CHECKPOINT:
            self._checkpoint(entry, fields)
            return
        self.number, self.time = entry.number, entry.time
        if what == "created":
            self.site = fields.text("site")
        elif what == "device":
            self._report(fields)
        elif what == "push":
            self._push(fields)
        elif what == "clock":
            self._set_on(fields.number("by"))
        elif what in ("wave", "timed-out", "pause", "resume", "abort", "rollback", "finish"):
            if self.rollout is not None and fields.whole("rollout") == self.rollout.number:
                self._decided(self.rollout, what, fields)
        else:
            raise LoadError(f"Line {entry.number}: no event is called {what[:40]!r}.")

    def checkpoint(self) -> dict[str, Any]:
        """Return the event that stands for all lines so far."""
        state = Snapshot(self.site, self.devices, self.rollout, self.plans, tuple(self.former))
        return {"what": CHECKPOINT, "state": state.told()}

    def _checkpoint(self, entry: Entry, fields: Fields) -> None:
        """Take the state over where lines before it were not folded in, else compare it."""
        if entry.number == self.number + 1:
            if entry.event != self.checkpoint():
                # Older ones do not tell who was outbid.
                for device in self.devices.values():
                    device.outbid = False
            if entry.event != self.checkpoint():
                raise LoadError(
                    f"Line {entry.number}: the checkpoint is not what the lines before it make. "
                    "Restore audit.log from a copy."
                )
        else:
            found = read_snapshot(fields.fields("state"))
            self.site, self.rollout = found.site, found.rollout
            self.devices, self.plans = dict(found.devices), dict(found.plans)
            self.former = dict.fromkeys(found.former)
            self.replaced = dict(self.former)
            devices = self.devices.values()
            self.counts = Counter(each.outcome for each in devices)
            self.online = sum(each.online for each in devices)
            self.pending = {each.name for each in devices if each.outcome == "pending"}
            # Who they were told is not known.
            self.changed = {each.name for each in devices if each.target is not None}
        self.number, self.time = entry.number, entry.time

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
        if target is not None and device.seen > target.revision and not device.outbid:
            # It has obeyed a server with another trail. That one is outbid once: it may be alive.
            device.outbid = True
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
        plan, before = read_plan(fields), self.rollout
        by = fields.text("by")
        if before is not None and before.wave >= 0:
            found = [each for each in (before.plan.digest, before.plan.proof) if each]
            self.former = dict.fromkeys([*self.former, *found][-_MOST_REPLACED:])
            self.replaced = dict.fromkeys([*self.replaced, *found][-_MOST_REPLACED:])
        self.rollout = Rollout(self.number, plan, by, self.time)
        self.plans[self.number] = plan
        self.counts = Counter()
        self.counts["later"] = len(self.devices)
        self.pending.clear()
        for device in self.devices.values():
            device.asked, device.begun, device.end = 0, False, None
            device.clock, device.outcome, device.outbid = None, "later", False
        used = {each.target.rollout for each in self.devices.values() if each.target is not None}
        self.plans = {n: each for n, each in self.plans.items() if n in used or n == self.number}

    def _set_on(self, seconds: float) -> None:
        """Let limits go on as if the server's clock had not been set on."""
        for device in self.devices.values():
            if device.clock is not None:
                device.clock = min(device.clock + seconds, self.time)
        if self.rollout is not None:
            self.rollout.wave_began = min(self.rollout.wave_began + seconds, self.time)

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


def fold(entries: Iterable[Entry]) -> Fleet:
    """Return the state after lines."""
    fleet = Fleet()
    for entry in entries:
        fleet.apply(entry)
    return fleet
