"""What delayed late ticks: what ran before and in them, as far as the system tells."""

from __future__ import annotations

import gc
import resource
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

from agentkd.report.model import Section
from agentkd.runtime.clock import Tick, WallClock
from benchmarks.runner import Column, table

LATE = 100e-6
"""Seconds by which a tick came late before it is looked into."""
_TOLD = 5
"""Late ticks that are told one by one."""
_SPIN = 200e-6
_INTERPRETER = "another thread had the interpreter"
_PROCESSOR = "the processor was given late, or taken"
_THREAD = resource.RUSAGE_THREAD

Ran = tuple[str, float, float]
"""What ran in this process: its name, its beginning and its end, in seconds of the clock."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One tick, in seconds of the clock.

    Attributes:
        index: Counts the ticks.
        entered: When the loop was done with the tick before and waited for this one.
        due: When it was due.
        came: When it came.
        missed: Periods that were skipped before it.
        switched: How often the thread gave its processor up by itself since the tick before: for
            its sleep, and each time that another thread had the interpreter.
        preempted: How often the processor was taken from it.
        faults: Pages that came from disk.
        computed: The processor time it used since the tick before.
    """

    index: int
    entered: float
    due: float
    came: float
    missed: int
    switched: int
    preempted: int
    faults: int
    computed: float

    @property
    def late(self) -> float:
        """Seconds by which it came late, counting periods that were skipped."""
        return self.came - self.due


@final
class TracedClock:
    """A wall clock that notes for each tick what the system did to its thread.

    Attributes:
        ticks: What was noted, by tick.
    """

    def __init__(self, period: float) -> None:
        self.period = period
        self.ticks: list[Seen] = []
        self._collected: list[Ran] = []
        self._clock = WallClock(period)
        self._usage = resource.getrusage(_THREAD)
        self._cpu, self._began = time.thread_time(), 0.0

    def start(self) -> None:
        """Start; the first tick is due now."""
        gc.callbacks.append(self._garbage)
        self._usage, self._cpu = resource.getrusage(_THREAD), time.thread_time()
        self._clock.start()

    def stop(self) -> list[Ran]:
        """Note nothing any more; return when garbage was looked for."""
        gc.callbacks.remove(self._garbage)
        return self._collected

    def now(self) -> float:
        """Seconds since the start."""
        return self._clock.now()

    def wait(self) -> Tick:
        """Return when the next tick is due."""
        entered = self._clock.now()
        tick = self._clock.wait()
        before, self._usage = self._usage, resource.getrusage(_THREAD)
        cpu, self._cpu = self._cpu, time.thread_time()
        now = self._usage
        # The period in which it should have come.
        due = tick.scheduled - tick.missed * self.period
        self.ticks.append(
            Seen(
                tick.index,
                entered,
                due,
                tick.scheduled + tick.lateness,
                tick.missed,
                now.ru_nvcsw - before.ru_nvcsw,
                now.ru_nivcsw - before.ru_nivcsw,
                now.ru_majflt - before.ru_majflt,
                self._cpu - cpu,
            )
        )
        return tick

    def _garbage(self, phase: str, info: Mapping[str, int]) -> None:
        if phase == "start":
            self._began = self._clock.now()
        else:
            name = f"garbage, generation {info['generation']}"
            self._collected.append((name, self._began, self._clock.now()))


@dataclass(slots=True)
class Delays:
    """Why ticks were late, all rounds together.

    Attributes:
        late: Late ticks by cause.
        missed: Periods that were missed, by cause.
        worst: The latest ticks, each with what is known of it.
        slices: How long each slice of a chore took, in µs.
    """

    late: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    worst: list[dict[str, Any]] = field(default_factory=list)
    slices: dict[str, list[float]] = field(default_factory=dict)

    def add(self, other: Delays) -> None:
        """Join a round."""
        self.late.update(other.late)
        self.missed.update(other.missed)
        self.worst = _worst(self.worst + other.worst)
        for name, took in other.slices.items():
            self.slices.setdefault(name, []).extend(took)

    def told(self) -> dict[str, Any]:
        """Return it as JSON values."""
        causes = [
            {"cause": name, "late": count, "missed": self.missed[name]}
            for name, count in self.late.most_common()
        ]
        slices = [
            {"slice": name, "count": len(took)}
            | {f"p{share}": float(np.percentile(took, share)) for share in (50, 99, 100)}
            for name, took in sorted(self.slices.items())
        ]
        return {"causes": causes, "worst": self.worst, "slices": slices}


def _worst(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: -float(row["late_us"]))[:_TOLD]


def delays(ticks: Sequence[Seen], slices: Sequence[Ran], collected: Sequence[Ran] = ()) -> Delays:
    """Find out what delayed late ticks.

    Args:
        ticks: All ticks of a run.
        slices: Of the chores that ran between ticks.
        collected: When garbage was looked for.
    """
    found = Delays()
    for name, began, ended in slices:
        found.slices.setdefault(name, []).append(1e6 * (ended - began))
    ran = sorted((*slices, *collected), key=lambda each: each[1])
    at, came, why = 0, 0.0, ""
    for tick in ticks:
        while at < len(ran) and ran[at][2] < came:
            at += 1
        if tick.late > LATE and tick.index:
            here = [each for each in ran[at:] if each[1] < tick.came]
            # What made the tick before so late that this one was due already did both.
            why = why if why and came > tick.due else cause(tick, came, here)
            found.late[why] += 1
            found.missed[why] += tick.missed
            found.worst.append({"why": why, **_told(tick, came, here)})
        else:
            why = ""
        came = tick.came
    found.worst = _worst(found.worst)
    return found


def cause(tick: Seen, before: float, ran: Sequence[Ran]) -> str:
    """Say why a tick came late, in a few words.

    `before` is when the tick before came, and `ran` is what ran since.
    """
    if tick.faults:
        return "a page came from disk"
    # It computes all the time but for its sleep, which ends 0.2 ms before the tick.
    slept = max(0.0, tick.due - _SPIN - tick.entered)
    away = tick.came - before - slept - tick.computed
    if away > tick.late / 2:
        # Each wait for the interpreter is one more switch.
        waited = tick.switched > (slept > 0) and not tick.preempted
        return _INTERPRETER if waited else _PROCESSOR
    over = [name for name, began, ended in ran if began < tick.due < ended]
    if over:
        return over[-1]
    return "decision and step" if tick.entered > tick.due else _PROCESSOR


def _told(tick: Seen, before: float, ran: Sequence[Ran]) -> dict[str, Any]:
    return {
        "tick": tick.index,
        "late_us": 1e6 * tick.late,
        "missed": tick.missed,
        "loop_us": 1e6 * (tick.entered - before),
        "computed_us": 1e6 * tick.computed,
        "preempted": tick.preempted,
        "switched": tick.switched,
        "ran": ", ".join(f"{name} {1e6 * (ended - began):.0f}" for name, began, ended in ran)
        or "–",
    }


def _where(row: Mapping[str, Any]) -> str:
    return f"{row['hz']:g} Hz, {row['loop'].removeprefix('ours, ')}"


_LOOP = Column("loop", _where)
_CAUSES = [
    _LOOP,
    Column("what delayed a tick", "cause"),
    Column("late", "late", ","),
    Column("missed", "missed", ","),
]
_SLICES = [
    _LOOP,
    Column("slice", "slice"),
    Column("times", "count", ","),
    Column("µs p50", "p50", ",.0f"),
    Column("p99", "p99", ",.0f"),
    Column("max", "p100", ",.0f"),
]
_LATEST = [
    _LOOP,
    Column("tick", "tick", ","),
    Column("late µs", "late_us", ",.0f"),
    Column("busy", "loop_us", ",.0f"),
    Column("CPU", "computed_us", ",.0f"),
    Column("switched", "switched"),
    Column("ran, µs", "ran"),
]
_CAUSE = (
    "Late: ticks that came more than 0.1 ms after they were due; missed: periods that they "
    "skipped. A tick that was due while the one before was late counts for the same cause."
)
_LATE_ONES = (
    "Busy: from the tick before until the loop waited again. CPU: processor time since the tick "
    "before. Switched: how often the thread waited, to sleep or for the interpreter."
)
_SHOWN = (
    ("What delayed our ticks", "causes", _CAUSES, _CAUSE),
    ("What our loop did between ticks", "slices", _SLICES, ""),
    ("Our latest ticks", "worst", _LATEST, _LATE_ONES),
)


def traced(rows: Sequence[Mapping[str, Any]]) -> Iterator[Section]:
    """Show what delayed our ticks; nothing of what was not traced."""
    for title, name, columns, caption in _SHOWN:
        found = [
            {**each, "hz": row["hz"], "loop": row["loop"]}
            for row in rows
            for each in row.get("delays", {}).get(name, ())
        ]
        if found:
            yield Section(title, "", table(columns, found, caption))
