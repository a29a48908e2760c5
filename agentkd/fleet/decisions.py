"""What a fleet's server decides: what is due now, and what a command or a report means.

Pure functions of the state, as `agentkd/fleet/rollout.py` has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from agentkd.errors import ConfigError
from agentkd.fleet.audit import Event
from agentkd.fleet.known import FAILURES, Known, Plan, Rollout
from agentkd.fleet.messages import Report
from agentkd.fleet.rollout import Fleet

_DID = {"refused": "refused it", "rolled-back": "rolled it back", "timed-out": "took too long"}


def decide(fleet: Fleet, now: float) -> list[dict[str, Any]]:
    """Return the events that are due; once they are folded in, ask again."""
    rollout = fleet.rollout
    if rollout is None or rollout.course in ("aborted", "rolled-back"):
        return []
    plan, number = rollout.plan, rollout.number
    late = sorted(name for name in fleet.pending if _late(fleet.devices[name], plan, now))
    if late:
        return [{"what": "timed-out", "rollout": number, "devices": late[:1000]}]
    if rollout.course != "running":
        return []
    if rollout.wave < 0:
        return [_wave(rollout, 0)] if fleet.devices else []
    ended, _, needed = judged(fleet)
    stop = _stop(fleet, rollout)
    if stop is not None:
        return [stop]
    if fleet.pending:
        return []
    if ended < needed:
        if now - rollout.wave_began < plan.limit:
            return []
        if any(each.online and not each.asked for each in fleet.devices.values()):
            return [_wave(rollout, rollout.wave)]
        if not ended:
            return []
    if rollout.wave + 1 < len(plan.waves):
        return [_wave(rollout, rollout.wave + 1)]
    return [{"what": "finish", "rollout": number}]


def _stop(fleet: Fleet, rollout: Rollout) -> dict[str, Any] | None:
    """Return the event of an abort, if there are too many failures of a kind.

    The share is that of all asked devices but the absent, so devices that fail fast do not count
    for more, and no end that is still to come can make it smaller.
    """
    ended, live, needed = judged(fleet)
    if ended < needed:
        return None
    for kind in FAILURES:
        count, most = fleet.counts[kind], rollout.plan.abort.get(kind, 1.0)
        share = count / max(live, 1)
        if share > most:
            text = f"{count} of {live} devices {_DID[kind]}, {share:.1%}; {most:.1%} may"
            return {"what": "abort", "rollout": rollout.number, "kind": kind, "text": text}
    return None


def judged(fleet: Fleet) -> tuple[int, int, int]:
    """Return how many devices ended, how many are not absent, and how many ends a verdict needs."""
    counts, rollout = fleet.counts, fleet.rollout
    assert rollout is not None
    ended = counts["confirmed"] + sum(counts[kind] for kind in FAILURES)
    # Devices that were asked in place of absent ones make the wave no larger.
    needed = min(rollout.plan.sample, fleet.size_of(rollout))
    return ended, ended + counts["pending"], max(1, needed)


def _late(device: Known, plan: Plan, now: float) -> bool:
    return device.clock is not None and now - device.clock >= plan.limit


def _wave(rollout: Rollout, index: int) -> dict[str, Any]:
    return {"what": "wave", "rollout": rollout.number, "index": index}


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a device told since it was last written down: its newest report, and its will's."""

    report: Report
    gone: bool = False
    """Whether the will of the report's own session came after it."""

    def joined(self, report: Report) -> Waiting:
        """Return what waits after another report; one that is older changes nothing."""
        if not supersedes(report, self.report):
            return self
        if self.report.online and not report.online:
            # A will holds what was true as the device connected.
            return Waiting(self.report, gone=True)
        return Waiting(report)

    def followed(self, later: Waiting) -> Waiting:
        """Return what waits after what came later."""
        found = self.joined(later.report)
        if later.gone and found.report is later.report:
            return later
        return found

    def event(self, name: str, known: Known | None) -> dict[str, Any] | None:
        """Return the event that it is, None if it says nothing new."""
        found = transition(self.report, name, known)
        if not self.gone:
            return found
        found = found or transition(replace(self.report, online=False), name, known)
        return None if found is None else {**found, "online": False}


def supersedes(report: Report, known: Known | Report | None) -> bool:
    """Tell whether a report is newer than what is known; a will counts for its own session only."""
    if known is None or not known.boot:
        return True
    if report.boot != known.boot:
        return report.online
    return report.session == known.session or (report.online and report.session > known.session)


def transition(report: Report, name: str, known: Known | None) -> dict[str, Any] | None:
    """Return the event that a report is, None if it says nothing new."""
    if not supersedes(report, known):
        return None
    found: dict[str, Any] = {"what": "device", "device": name, "online": report.online}
    for key in ("boot", "session", "seen", "phase", "digest", "active", "reason", "text"):
        # A last will was written as the device connected: all but that it is gone is old.
        stays = known is not None and not report.online and key not in ("boot", "session")
        found[key] = getattr(known if stays else report, key)
    if known is None:
        return found
    asked = known.target.revision if known.target is not None else 0
    # Once it is left to another server, more of that says nothing new.
    ahead = known.target is not None and found["seen"] > asked and not known.outbid
    acknowledged = known.seen < asked <= found["seen"] or ahead
    same = all(found[k] == getattr(known, k) for k in found if k not in ("what", "device", "seen"))
    return None if same and not acknowledged else found


def without_file(rollout: Rollout, missing: Mapping[str, str]) -> Event | None:
    """Return the event of a pause, if a file that a running rollout delivers is missing."""
    plan = rollout.plan
    for digest in (plan.digest, plan.proof):
        if digest in missing and rollout.course == "running":
            by = f"the server: {missing[digest]}"[:500]
            return {"what": "pause", "rollout": rollout.number, "by": by}
    return None


def push_event(plan: Plan, by: str) -> dict[str, Any]:
    """Return the event that begins a rollout."""
    told = {name: getattr(plan, name) for name in Plan.__slots__}
    return {"what": "push", "by": by, **told, "waves": list(plan.waves), "abort": dict(plan.abort)}


def command(fleet: Fleet, what: Literal["pause", "resume", "rollback"], by: str) -> Event:
    """Return the event of a command.

    Raises:
        ConfigError: If it does not fit the state.
    """
    rollout = fleet.rollout
    if rollout is None:
        raise ConfigError(f"There is no rollout to {what}. Begin one: agentkd fleet push.")
    fits = {"pause": ("running",), "resume": ("paused",)}
    told = f"The rollout of {rollout.plan.name} is {rollout.course}"
    if what in fits and rollout.course not in fits[what]:
        raise ConfigError(f"{told}; {what} goes with one that is {fits[what][0]}.")
    if what == "rollback" and rollout.course == "rolled-back":
        raise ConfigError(f"{told} already. agentkd fleet status says which devices answered.")
    return {"what": what, "rollout": rollout.number, "by": by}


def waits(fleet: Fleet, now: float) -> str:
    """Say in a sentence where the newest rollout stands and what it waits for."""
    rollout = fleet.rollout
    if rollout is None:
        return "Nothing was pushed yet."
    plan, counts = rollout.plan, fleet.counts
    if rollout.course != "running":
        told = {
            "paused": "It is paused: agentkd fleet resume goes on.",
            "aborted": f"It was aborted: {rollout.text}.",
            "rolled-back": f"It is rolled back{': ' if rollout.text else ''}{rollout.text}.",
            "finished": "It is finished.",
        }[rollout.course]
        absent = counts["absent"] if rollout.course == "finished" else 0
        return told + (f" {absent} devices get it when they come back." if absent else "")
    if rollout.wave < 0:
        return "It waits for the server: agentkd fleet serve."
    ended, _, needed = judged(fleet)
    head = f"Wave {rollout.wave + 1} of {len(plan.waves)}, {plan.waves[rollout.wave]:g} %"
    if fleet.pending:
        return f"{head}: {len(fleet.pending)} devices are under way."
    if ended < needed:
        left = max(0.0, plan.limit - (now - rollout.wave_began))
        return (
            f"{head}: {ended} of {needed} devices came to an end, the others are off line; it "
            f"asks others in {left:.0f} s."
        )
    return f"{head} is over."
