"""Rollouts in every order of events, against what has to hold in each."""

from __future__ import annotations

import json
import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agentkd.errors import ConfigError
from agentkd.fleet.audit import AuditLog, Entry
from agentkd.fleet.decisions import command, decide, judged, push_event, transition
from agentkd.fleet.known import FAILURES, Plan
from agentkd.fleet.messages import ENDS, Report
from agentkd.fleet.rollout import Fleet, fold

OTHER = "f" * 64
NAMES = st.sampled_from([f"d{index}" for index in range(7)])


class Rollouts(RuleBasedStateMachine):
    """Devices report what they like, operators command what they like, and time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[Entry] = []
        self.fleet, self.now = Fleet(), 0.0
        self.sessions: Counter[str] = Counter()
        self.most_seen: dict[str, int] = {}
        self.pushed = 0
        self._write({"what": "created", "site": "plant"})

    def _write(self, *events: Any) -> None:
        for event in events:
            entry = Entry(len(self.lines) + 1, self.now, event, "")
            self.lines.append(entry)
            self.fleet.apply(entry)

    def _settle(self) -> None:
        for _ in range(50):
            due = decide(self.fleet, self.now)
            if not due:
                return
            self._write(*due)
        raise AssertionError("what is due never ends")

    @rule(
        name=NAMES,
        online=st.booleans(),
        phase=st.sampled_from(["IDLE", "FETCHING", "STAGED", "TRIAL", *ENDS]),
        heard=st.booleans(),
        again=st.booleans(),
    )
    def report(self, name: str, online: bool, phase: Any, heard: bool, again: bool) -> None:
        """A device reports something."""
        rollout, known = self.fleet.rollout, self.fleet.devices.get(name)
        self.sessions[name] += again
        target = known.target if known is not None else None
        seen = target.revision if target is not None and heard else 0
        digest = rollout.plan.digest if rollout is not None and phase != "IDLE" else ""
        active = digest if phase == "CONFIRMED" else OTHER
        said = Report(
            "0" * 16,
            self.sessions[name],
            online,
            seen=seen,
            phase=phase,
            digest=digest,
            active=active,
        )
        event = transition(said, name, known)
        if event is not None:
            self._write(event)
        self._settle()

    @rule(seconds=st.sampled_from([0.0, 1.0, 9.0, 11.0, 100.0]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        self._settle()

    @rule(
        waves=st.sampled_from([(100.0,), (30.0, 100.0), (10.0, 50.0, 100.0)]),
        sample=st.integers(1, 4),
        share=st.sampled_from([0.0, 0.2, 0.5]),
        back=st.booleans(),
    )
    def push(self, waves: tuple[float, ...], sample: int, share: float, back: bool) -> None:
        """An operator pushes another executor."""
        if self.fleet.rollout is not None and self.fleet.rollout.course == "running":
            return
        self.pushed += 1
        abort: dict[str, float] = {str(kind): share for kind in FAILURES}
        plan = Plan(
            f"{self.pushed:064x}",
            "x.akd",
            9,
            waves=waves,
            sample=sample,
            abort=abort,
            limit=10.0,
            back=back,
        )
        self._write(push_event(plan, "me"))
        self._settle()

    @precondition(lambda self: self.fleet.rollout is not None)
    @rule(what=st.sampled_from(["pause", "resume", "rollback"]))
    def order(self, what: Any) -> None:
        """An operator gives a command."""
        try:
            self._write(command(self.fleet, what, "me"))
        except ConfigError:
            return
        self._settle()

    @rule(anew=st.booleans())
    def checkpoint(self, anew: bool) -> None:
        """A checkpoint is written; a server starts from it alone, or goes on."""
        event = json.loads(json.dumps(self.fleet.checkpoint()))
        if anew:
            self.lines.append(Entry(len(self.lines) + 1, self.now, event, ""))
            self.fleet = fold(self.lines[-1:])
        else:
            self._write(event)

    @rule(what=st.sampled_from(["wave", "finish", "resume", "abort", "pause"]))
    def late(self, what: str) -> None:
        """An event that was decided on for a former state comes late."""
        rollout = self.fleet.rollout
        if rollout is None or rollout.course == "running":
            return
        before = rollout.course
        fits = before == "paused" and what in ("resume", "abort")
        self._write({"what": what, "rollout": rollout.number, "index": 0, "by": "x", "text": "x"})
        assert fits or rollout.course == before
        self._settle()

    @invariant()
    def the_counts_are_those_of_the_devices(self) -> None:
        """Nothing is counted twice or forgotten."""
        fleet = self.fleet
        if fleet.rollout is None:
            return
        found = Counter(each.outcome for each in fleet.devices.values())
        assert +fleet.counts == found
        assert fleet.online == sum(each.online for each in fleet.devices.values())
        pending = {name for name, each in fleet.devices.items() if each.outcome == "pending"}
        assert fleet.pending == pending

    @invariant()
    def no_wave_asks_too_many(self) -> None:
        """Besides the absent, and those asked for them, a wave asks its share."""
        fleet, rollout = self.fleet, self.fleet.rollout
        if rollout is None or rollout.wave < 0:
            assert rollout is None or not any(each.asked for each in fleet.devices.values())
            return
        asked = sum(each.asked > 0 for each in fleet.devices.values())
        share = rollout.plan.waves[rollout.wave] / 100
        # One that was absent when others were asked for it may have come back.
        back = sum(
            1
            for entry in self.lines
            if entry.event["what"] == "device" and not entry.event["online"]
        )
        assert asked <= math.ceil(share * len(fleet.devices)) + back

    @invariant()
    def what_runs_is_within_its_thresholds(self) -> None:
        """A running rollout has no more failures than may be, once enough came to an end."""
        fleet, rollout = self.fleet, self.fleet.rollout
        if rollout is None or rollout.course != "running":
            return
        ended, present, needed = judged(fleet)
        if rollout.wave >= 0 and ended >= needed:
            for kind in FAILURES:
                assert fleet.counts[kind] / max(present, 1) <= rollout.plan.abort[kind]

    @invariant()
    def what_is_stopped_lets_nobody_begin(self) -> None:
        """Paused or given up, no device that has not begun is asked to."""
        rollout = self.fleet.rollout
        if rollout is None or rollout.course in ("running", "finished"):
            return
        for each in self.fleet.devices.values():
            target = each.target
            if target is None or target.rollout != rollout.number:
                continue
            if rollout.course == "rolled-back":
                assert target.action == ("rollback" if each.begun else "hold")
            elif target.action == "apply":
                assert each.begun or each.end not in (None, "timed-out")

    @invariant()
    def revisions_grow(self) -> None:
        """What a device is told last has the greatest number it was ever told."""
        for name, each in self.fleet.devices.items():
            revision = each.target.revision if each.target is not None else 0
            assert revision >= self.most_seen.get(name, 0)
            self.most_seen[name] = revision

    def teardown(self) -> None:
        """The lines alone give the same state, wherever they are cut in two."""
        again = fold(self.lines)
        assert (again.devices, again.rollout) == (self.fleet.devices, self.fleet.rollout)
        assert (+again.counts, again.pending) == (+self.fleet.counts, self.fleet.pending)


Rollouts.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestRollouts = Rollouts.TestCase


def test_the_state_is_the_fold_of_the_file(tmp_path: Path) -> None:
    """What hypothesis does in memory is what a trail on disk gives."""
    from agentkd.fleet.audit import create

    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        log = create(Path(folder), {"what": "created", "site": "plant"})
        plan = Plan("1" * 64, "x.akd", 9)
        log.append(lambda _: [push_event(plan, "me")])
        found = fold(AuditLog(folder).read())
        assert found.rollout is not None
        assert found.rollout.plan == plan
