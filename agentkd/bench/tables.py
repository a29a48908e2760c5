"""What the rows of a run say: a sentence, tables and plots."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agentkd.bench.rows import Row
from agentkd.bench.scores import Contender, Scores, Task, paired, scores_of
from agentkd.measure.aggregates import (
    iqm_interval,
    paired_difference,
    performance_profile,
    probability_of_improvement,
)
from agentkd.measure.intervals import Interval
from agentkd.report.model import Column, Plot, Report, Section, Series, Table

_MOST_PAIRS = 40
_MOST_CURVES = 8
_POINTS = 81
_MOST_TOLD = 500_000
"""Values of the rows that a report repeats: `read_report` reads twice as many."""
_RETENTION = Column("retention", form=".3f", help="IQM: 0 is random actions, 1 the planner.")
_WIDE = Column("95 % interval", form=".3f")
_LATE = Column("late", "ticks", help="By how much the planner's answer is late.")
_RUNS = Column("runs", spare=True)
_OVERALL = (
    *("who acts", _LATE, "tasks", _RUNS, _RETENTION, _WIDE),
    Column("parameters", form=",", spare=True),
)
_BY_TASK = (
    *("who acts", _LATE, _RUNS, Column("return", form=",.1f", help="IQM over the runs.")),
    *(Column("its 95 %", form=",.1f"), _RETENTION, _WIDE),
)
_COMPARED = (
    *("who", "against", _LATE, Column("tasks", spare=True)),
    Column("P(better)", form=".2f", help="That a run of the first beats one of the second."),
    Column("its 95 %", form=".2f"),
    Column("difference", form="+.3f", help="Of retention, run by run: IQM."),
    Column("95 % interval", form="+.3f"),
)
_HOW = (
    "Interquartile means over the runs on all tasks, with 95 % intervals by the stratified "
    "bootstrap. A run is a seed; its return is the mean over its episodes."
)


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What a contender keeps, over the tasks that it has; `tasks` and `runs` count them."""

    who: Contender
    tasks: int
    runs: int
    retention: Interval
    parameters: int


@dataclass(frozen=True, slots=True)
class Compared:
    """One contender beside another, on the tasks and seeds that both have."""

    who: Contender
    against: Contender
    tasks: int
    better: Interval
    difference: Interval

    @property
    def late(self) -> int | None:
        """By how much the planner is late, where one takes part."""
        return self.who.late if self.against.late is None else self.against.late


def report_of(
    name: str, about: str, rows: Sequence[Row], wanted: int, *, interrupted: bool = False
) -> Report:
    """Make the report of a suite's rows, also where some of its `wanted` cells are missing."""
    scores = scores_of(rows)
    failed = [row for row in rows if row.error]
    overall = aggregates(scores)
    compared, left_out = comparisons(scores)
    notes = []
    if len(rows) < wanted:
        notes.append(f"{len(rows)} of {wanted} cells are measured; go on with --resume.")
    if failed:
        notes.append(f"{len(failed)} of {wanted} cells failed; --resume tries them again.")
    more = (f"{left_out} further pairs are left out.",) if left_out else ()
    picture, *plots = _overall_plots(scores, overall)
    sections = [
        Section("Over all tasks", about, _overall_table(overall), tuple(plots), tuple(notes)),
        Section("In pairs", "", _compared_table(compared), (), more),
        *(_task_section(scores, task) for task in scores.tasks),
    ]
    if failed:
        cells = [[_said(row), row.error] for row in failed]
        sections.append(Section("Cells that failed", "", Table(["cell", "error"], cells)))
    data = {
        "command": "bench",
        "suite": name,
        "cells": wanted,
        "interrupted": interrupted,
        "results": _results(rows),
        "aggregates": [
            {**_named(e.who), "tasks": e.tasks, "runs": e.runs, **_told("retention", e.retention)}
            for e in overall
        ],
        "comparisons": [
            {
                "who": _named(e.who),
                "against": _named(e.against),
                "tasks": e.tasks,
                **_told("better", e.better),
                **_told("difference", e.difference),
            }
            for e in compared
        ],
    }
    return Report(data, sections, lead=lead(overall), picture=picture if overall else None)


def _results(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows' values; their keys alone where a report would be too long to be read."""
    told = [row.values() for row in rows]
    if sum(len(each) + len(each["returns"]) for each in told) <= _MOST_TOLD:
        return told
    return [{"key": row.key} for row in rows]


def aggregates(scores: Scores) -> list[Aggregate]:
    """Return what each contender keeps over all its tasks, if that is defined."""
    found = []
    for who in scores.returns:
        strata = scores.strata(who)
        if strata and not (who.arm == "planner" and who.late == 0):
            runs = sum(map(len, strata))
            size = scores.parameters[who]
            found.append(Aggregate(who, len(strata), runs, iqm_interval(strata), size))
    return found


def comparisons(scores: Scores) -> tuple[list[Compared], int]:
    """Return the contenders in pairs, and how many pairs are left out."""
    pairs = list(scores.pairs())
    found = []
    for who, against in pairs[:_MOST_PAIRS]:
        mine, theirs = paired(scores.kept(who), scores.kept(against))
        if mine:
            better = probability_of_improvement(mine, theirs)
            apart = paired_difference(mine, theirs)
            found.append(Compared(who, against, len(mine), better, apart))
    return found, max(0, len(pairs) - _MOST_PAIRS)


def lead(overall: Sequence[Aggregate]) -> str:
    """Say what came out, in a sentence or two."""
    by_late: dict[int, dict[str, Aggregate]] = {}
    for each in overall:
        if each.who.late:
            by_late.setdefault(each.who.late, {}).setdefault(each.who.arm, each)
    for late in sorted(by_late, reverse=True):
        arms = by_late[late]
        if {"planner", "runtime"} <= set(arms):
            alone, both = arms["planner"], arms["runtime"]
            return (
                f"A planner that is {late} ticks late keeps {alone.retention.mean:.2f} of its "
                f"return alone, and {_kept(both)} with agentkd's {both.who.name}."
            )
    acting = [each for each in overall if each.who.arm in ("executor", "runtime")]
    if not acting:
        return ""
    best = max(acting, key=lambda each: each.retention.mean)
    few = f"{best.tasks} tasks" if best.tasks > 1 else "one task"
    return f"{best.who.title} keeps {_kept(best)} of its planner's return, over {few}."


def _kept(each: Aggregate) -> str:
    found = each.retention
    if math.isnan(found.low):
        return f"{found.mean:.2f}"
    return f"{found.mean:.2f} ({found.low:.2f} … {found.high:.2f})"


def _overall_table(overall: Sequence[Aggregate]) -> Table:
    rows = [
        [
            *(e.who.name, e.who.late, e.tasks, e.runs),
            *(e.retention.mean, _ends(e.retention), e.parameters or None),
        ]
        for e in overall
    ]
    reasons = dict.fromkeys(e.retention.reason for e in overall if e.retention.reason)
    return Table(_OVERALL, rows, " ".join([_HOW, *reasons]))


def _compared_table(compared: Sequence[Compared]) -> Table:
    rows = [
        [
            *(e.who.name, e.against.name, e.late, e.tasks),
            *(e.better.mean, _ends(e.better), e.difference.mean, _ends(e.difference)),
        ]
        for e in compared
    ]
    caption = (
        "P(better) is the Mann-Whitney statistic, the mean over tasks; ties count half. "
        "Differences are of runs with the same seed."
    )
    return Table(_COMPARED, rows, caption)


def _task_section(scores: Scores, task: Task) -> Section:
    """Show who reached what on one task."""
    rows, series = [], []
    for who, by_task in scores.returns.items():
        if task not in by_task:
            continue
        runs = list(by_task[task].values())
        reached = iqm_interval([runs])
        kept = iqm_interval([[scores.retention(task, each) for each in runs]])
        rows.append(
            [
                *(who.name, who.late, len(runs), reached.mean, _ends(reached)),
                *(kept.mean, _ends(kept)),
            ]
        )
        series.append(Series(who.title, runs, [reached.mean], [reached.low], [reached.high]))
    floor = scores.floor[task]
    caption = "" if math.isnan(floor) else f"Random actions return {floor:,.1f} on average."
    plot = Plot(task.name, "return", "", tuple(series), kind="rows")
    return Section(task.name, "", Table(_BY_TASK, rows, caption), (plot,))


def _overall_plots(scores: Scores, overall: Sequence[Aggregate]) -> tuple[Plot, ...]:
    rows = [
        Series(
            each.who.title,
            [value for runs in scores.strata(each.who) for value in runs],
            [each.retention.mean],
            [each.retention.low],
            [each.retention.high],
        )
        for each in overall
    ]
    note = "A dot is a run, the diamond the interquartile mean, the bar its 95 % interval."
    marks = (("random actions", 0.0), ("planner", 1.0))
    found = [Plot("Retention", "retention", "", tuple(rows), note, kind="rows", marks=marks)]
    found += [*_late_plot(overall), *_profile_plot(scores, overall), *_size_plot(overall)]
    return tuple(found)


def _late_plot(overall: Sequence[Aggregate]) -> Iterator[Plot]:
    """Show retention against the planner's latency, where there are several latencies."""
    ticks = sorted({each.who.late for each in overall if each.who.late is not None})
    if len(ticks) < 2:
        return
    curves: dict[str, list[Aggregate]] = {}
    for each in overall:
        curves.setdefault(each.who.name, []).append(each)
    series = []
    for name, curve in list(curves.items())[:_MOST_CURVES]:
        if curve[0].who.late is None:
            value = curve[0].retention.mean
            series.append(Series(name, [ticks[0], ticks[-1]], [value, value]))
            continue
        curve.sort(key=lambda one: one.who.late or 0)
        low, high = [e.retention.low for e in curve], [e.retention.high for e in curve]
        late = [float(e.who.late or 0) for e in curve]
        series.append(Series(name, late, [e.retention.mean for e in curve], low, high))
    title = "Retention against the planner's latency"
    yield Plot(title, "latency in ticks", "retention", tuple(series), "Bands: 95 %.")


def _profile_plot(scores: Scores, overall: Sequence[Aggregate]) -> Iterator[Plot]:
    """Show which share of the runs keeps more than so much."""
    chosen = [each.who for each in overall if each.runs > 1][:_MOST_CURVES]
    values = [value for who in chosen for runs in scores.strata(who) for value in runs]
    if not values:
        return
    low, high = max(-1.0, min(0.0, *values)), min(2.0, max(1.0, *values))
    step = (high - low) / (_POINTS - 1)
    taus = [low + step * place for place in range(_POINTS)]
    series = []
    for who in chosen:
        found = performance_profile(scores.strata(who), taus)
        bands = [each.low for each in found], [each.high for each in found]
        series.append(Series(who.title, taus, [each.mean for each in found], *bands))
    note = "The share of runs that keep more than so much; bands: 95 %, point by point."
    yield Plot("Performance profile", "retention", "share of runs", tuple(series), note)


def _size_plot(overall: Sequence[Aggregate]) -> Iterator[Plot]:
    """Show retention against size, where executors differ in it."""
    chosen = [each for each in overall if each.who.arm in ("executor", "int8") and each.parameters]
    if len({each.parameters for each in chosen}) < 2:
        return
    series = tuple(
        Series(
            e.who.name, [e.parameters], [e.retention.mean], [e.retention.low], [e.retention.high]
        )
        for e in chosen
    )
    title = "Retention against size"
    yield Plot(title, "parameters", "retention", series, "Bars: 95 %.", "points", log=True)


def _said(row: Row) -> str:
    late = f"{row.latency} late" if row.latency else ""
    words = (row.env, row.planner, row.arm, row.executor, row.method, late, f"seed {row.seed}")
    return " ".join(filter(None, words))


def _named(who: Contender) -> dict[str, Any]:
    return {"arm": who.arm, "executor": who.executor, "method": who.method, "latency": who.late}


def _told(name: str, found: Interval) -> dict[str, Any]:
    return {name: found.mean, f"{name}_interval": [found.low, found.high]}


def _ends(found: Interval) -> tuple[float, float]:
    return found.low, found.high
