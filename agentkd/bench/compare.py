"""Several runs of suites side by side: what each contender keeps in each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentkd.bench.rows import FILE, read_rows
from agentkd.bench.scores import Contender, Scores, paired, scores_of
from agentkd.errors import ConfigError, LoadError
from agentkd.measure.aggregates import iqm_interval, paired_difference, probability_of_improvement
from agentkd.report.model import Column, Plot, Report, Section, Series, Table
from agentkd.report.write import read_report

_KEPT = (
    *("who acts", "run", Column("late", "ticks")),
    *(Column("tasks", spare=True), Column("runs", spare=True)),
    Column("retention", form=".3f", help="IQM: 0 is random actions, 1 the planner."),
    Column("95 % interval", form=".3f"),
)
_APART = (
    *("who acts", "run", Column("late", "ticks"), Column("tasks", spare=True)),
    Column("P(better)", form=".2f", help="Than in the first run."),
    Column("its 95 %", form=".2f"),
    Column("difference", form="+.3f", help="Of retention from the first run's: IQM."),
    Column("95 % interval", form="+.3f"),
)


def is_run(folder: Path) -> bool:
    """Whether `agentkd bench` wrote into a folder."""
    return (folder / FILE).is_file()


def comparison_of(folders: Sequence[Path]) -> Report:
    """Compare runs, the first with each other one, on the tasks and seeds that they share.

    Of a run that has its report, only the rows count that this is of.

    Raises:
        ConfigError: If there are fewer than two, or nothing that two of them share.
        LoadError: If rows or a report cannot be read.
    """
    if len(folders) < 2:
        raise ConfigError("One run has nothing to be compared with: name two or more.")
    names = _names(folders)
    found = {name: _scores(each) for name, each in zip(names, folders, strict=True)}
    who = list(dict.fromkeys(each for one in found.values() for each in one.returns))
    # The planner that is never late keeps 1 by definition.
    who = [each for each in who if not (each.arm == "planner" and each.late == 0)]
    kept = [row for each in who for row in _kept(each, found)]
    apart = [row for each in who for row in _apart(each, found)]
    if not apart:
        raise ConfigError(
            f"{' and '.join(map(str, folders))} share no contender, task and seed: nothing can be "
            "compared."
        )
    plot = Plot(
        "Retention, run by run",
        "retention",
        "",
        tuple(
            Series(f"{contender.title}, {name}", values, [mean], [ends[0]], [ends[1]])
            for contender, name, values, mean, ends in _series(who, found)
        ),
        "A dot is a seed on a task, the diamond the interquartile mean, the bar its 95 % interval.",
        kind="rows",
    )
    table = Table(_APART, apart, "On the tasks and seeds that both have, seed by seed.")
    sections = [
        Section(f"Beside {names[0]}", "", table, (plot,)),
        Section("What each keeps", "", Table(_KEPT, kept, "On all tasks that a run has.")),
    ]
    data: dict[str, Any] = {
        "command": "report",
        "runs": [str(each) for each in folders],
        "comparisons": [
            {
                "who": row[0],
                "latency": row[2],
                "run": row[1],
                "tasks": row[3],
                "better": row[4],
                "better_interval": row[5],
                "difference": row[6],
                "difference_interval": row[7],
            }
            for row in apart
        ],
    }
    return Report(data, sections, lead=_lead(names[0], apart))


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the folders' own names, or their paths where these are the same."""
    own = [each.resolve().name for each in folders]
    names = own if len(set(own)) == len(own) else [str(each) for each in folders]
    if len(set(names)) < len(names):
        raise ConfigError(f"{', '.join(names)}: name each run once.")
    return names


def _scores(folder: Path) -> Scores:
    if not is_run(folder):
        raise ConfigError(f"{folder} has no {FILE}; it is no run of agentkd bench.")
    rows, _ = read_rows(folder / FILE)
    kept = {row.key: row for row in rows}
    report = folder / "report.json"
    if report.is_file():
        # Rows whose inputs changed since stay in the file; the report is of the suite as it is.
        kept = {key: kept[key] for key in _reported(report) if key in kept}
    return scores_of(kept.values())


def _reported(path: Path) -> list[str]:
    """Return the keys of the rows that a run's report is of."""
    results = read_report(path).get("results")
    rows = results if isinstance(results, list) else [None]
    keys = [row.get("key") if isinstance(row, dict) else None for row in rows]
    known = [key for key in keys if isinstance(key, str)]
    if len(known) < len(keys):
        raise LoadError(
            f"{path} does not tell which rows it is of. Write it again with: agentkd bench SUITE "
            f"--resume --out {path.parent}"
        )
    return known


def _kept(who: Contender, found: Mapping[str, Scores]) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for name, scores in found.items():
        strata = scores.strata(who) if who in scores.returns else []
        if strata:
            told = iqm_interval(strata)
            count = sum(map(len, strata))
            ends = told.low, told.high
            rows.append([who.name, name, who.late, len(strata), count, told.mean, ends])
    return rows


def _apart(who: Contender, found: Mapping[str, Scores]) -> list[list[Any]]:
    (_, first), *others = found.items()
    rows: list[list[Any]] = []
    if who not in first.returns:
        return rows
    for name, scores in others:
        if who not in scores.returns:
            continue
        mine, theirs = paired(scores.kept(who), first.kept(who))
        if mine:
            better, apart = (
                probability_of_improvement(mine, theirs),
                paired_difference(mine, theirs),
            )
            rows.append(
                [
                    *(who.name, name, who.late, len(mine), better.mean, (better.low, better.high)),
                    *(apart.mean, (apart.low, apart.high)),
                ]
            )
    return rows


def _series(who: Sequence[Contender], found: Mapping[str, Scores]) -> list[tuple[Any, ...]]:
    series = []
    for each in who:
        for name, scores in found.items():
            strata = scores.strata(each) if each in scores.returns else []
            if strata:
                told = iqm_interval(strata)
                values = [value for runs in strata for value in runs]
                series.append((each, name, values, told.mean, (told.low, told.high)))
    return series


def _lead(first: str, apart: Sequence[Sequence[Any]]) -> str:
    """Say how many differences are seen."""
    sure = [row for row in apart if not math.isnan(row[7][0]) and row[7][0] * row[7][1] > 0]
    if all(math.isnan(row[7][0]) for row in apart):
        return f"No difference from {first} is sure: one seed has no interval. Measure more seeds."
    if not sure:
        return f"No difference from {first} is seen: each interval that there is holds 0."
    row = max(sure, key=lambda each: abs(each[6]))
    return (
        f"{len(sure)} of {len(apart)} intervals of differences from {first} leave out 0; by chance "
        f"one in twenty does. The largest: {row[0]} in {row[1]}, {row[6]:+.3f} ({row[7][0]:+.3f} … "
        f"{row[7][1]:+.3f})."
    )
