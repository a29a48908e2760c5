"""`agentkd log`: read a decision log, and decide again what it says was decided."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import tyro
from rich.text import Text

from agentkd.cli.run_options import routers_of
from agentkd.cli.terminal import Console
from agentkd.deploy.bundle import read_bundle
from agentkd.errors import ConfigError, WriteError, check_choice, check_range
from agentkd.report.console import show, show_table
from agentkd.report.model import Column, Section, Table
from agentkd.runtime.arbiter import ORDER
from agentkd.runtime.log import OLDER
from agentkd.runtime.logfile import Decided, Gap, Heard, LogFile, Reset, Swapped
from agentkd.runtime.replay import Replay, replay

_CSV = ("tick", "episode", "source", "reason", "version", "taken_us", "lateness_us")
_SHOWN = (
    *(Column("tick", form="d"), Column("episode", form="d"), "source", "reason"),
    *("action", Column("taken", "µs", ".1f"), Column("late", "µs", ".0f")),
    *(Column("version", form="d"), "observation"),
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Read a decision log: a summary, single decisions, or the run once more.

    `agentkd run --log` and `Agent(log=…)` write one. It holds every observation, every answer of
    the planner and every executor that acted, so that --replay can decide again and name the first
    tick at which something else comes out. With --executor it says what another executor would have
    done on the same observations.

    Example: agentkd log decisions.akdlog --show 20 --source hold
    """

    file: tyro.conf.Positional[Path]
    """The log; its older part, FILE.1, is read with it if it is there."""
    show: int = 0
    """Print so many decisions, the first ones that fit; -1 for all."""
    source: str | None = None
    """Only decisions of strategy, executor, hold or default."""
    reason: str | None = None
    """Only decisions with this reason, such as late."""
    episode: int | None = None
    """Only decisions of this episode, counted from 0."""
    ticks: str | None = None
    """Only ticks FIRST:LAST, either of which may be left out."""
    csv: Path | None = None
    """Write the decisions that fit into a file, observations and actions included."""
    replay: bool = False
    """Decide again; the exit status is 1 if anything differs."""
    executor: Path | None = None
    """Replay with this executor file instead of those that acted."""
    routers: str | None = None
    """The routers of the run: module:attribute of a list, or of a function that makes one. Needed
    to replay a run that had some."""
    tolerance: float = 1e-5
    """How far numbers of an action may be apart in a replay, relative to 1 + |x|."""
    json: bool = False
    """Print the summary as JSON."""


@dataclass(slots=True)
class Summary:
    """What a log holds, counted."""

    ticks: int = 0
    first_tick: int = -1
    last_tick: int = -1
    episodes: int = 1
    answers: int = 0
    swaps: int = -1
    lost_records: int = 0
    deadlines_missed: int = 0
    decisions: dict[str, Counter[str]] = field(default_factory=dict)
    taken: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)

    def note(self, decided: Decided) -> None:
        """Count a decision."""
        self.ticks += 1
        self.first_tick = decided.tick if self.first_tick < 0 else self.first_tick
        self.last_tick = decided.tick
        self.decisions.setdefault(decided.source, Counter())[decided.reason] += 1
        self.taken.append(decided.taken)
        self.late.append(decided.lateness)
        self.deadlines_missed += decided.left - decided.taken < 0


def run(options: Options) -> int:
    """Read the log, and print what was asked for."""
    fits = _filter(options)
    log = LogFile(options.file)
    console = Console()
    with nullcontext() if options.csv is None else _opened(options.csv) as file:
        summary, chosen, written = _read(options, log, fits, file)
    again = None
    if options.replay or options.executor:
        executor = None if options.executor is None else read_bundle(options.executor).executor
        routers = () if options.routers is None else routers_of(options.routers)
        again = replay(log, executor, routers, tolerance=options.tolerance)
    if options.json:
        data = _data(log, summary) | {"replay": None if again is None else asdict(again)}
        sys.stdout.write(json.dumps(data, indent=1) + "\n")
    else:
        _print(console, log, summary)
        if options.show:
            show_table(console, Table(_SHOWN, list(map(_row, chosen))))
        if options.csv is not None:
            console.print(f"{written:,} decisions in {options.csv}")
        if again is not None:
            _print_replay(console, again)
    return 1 if again is not None and again.differing else 0


def _opened(path: Path) -> TextIO:
    try:
        return path.open("x", encoding="utf-8")
    except FileExistsError as error:
        raise ConfigError(f"{path} is there already. Name another.") from error
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror}.") from error


def _read(
    options: Options, log: LogFile, fits: Callable[[Decided], bool], file: TextIO | None
) -> tuple[Summary, list[Decided], int]:
    """Count what the log holds; pick what fits, write it and count that, too."""
    summary = Summary()
    chosen: list[Decided] = []
    written = 0
    writer = None if file is None else csv.writer(file, lineterminator="\n")
    most = sys.maxsize if options.show < 0 else options.show
    for event in log.events():
        match event:
            case Decided():
                summary.note(event)
                if not fits(event):
                    continue
                if len(chosen) < most:
                    chosen.append(event)
                if writer is not None:
                    action, obs = np.ravel(event.action).tolist(), event.obs.tolist()
                    if not written:
                        names = [f"action{i}" for i in range(len(action))]
                        writer.writerow([*_CSV, *names, *(f"obs{i}" for i in range(len(obs)))])
                    times = (f"{each * 1e6:.3f}" for each in (event.taken, event.lateness))
                    known = (getattr(event, name) for name in _CSV[:-2])
                    writer.writerow([*known, *times, *action, *obs])
                    written += 1
            case Heard():
                summary.answers += 1
            case Swapped():
                summary.swaps += 1
            case Reset():
                summary.episodes += 1
            case Gap(count):
                summary.lost_records += count
    summary.swaps = max(0, summary.swaps)
    return summary, chosen, written


def _filter(options: Options) -> Callable[[Decided], bool]:
    """Return what the options let through."""
    if options.source is not None:
        check_choice("source", options.source, ORDER)
    check_range("--tolerance", options.tolerance, least=0)
    text = options.ticks or ":"
    first, colon, last = text.partition(":")
    if not colon or not all(each.isdigit() or not each for each in (first, last)):
        raise ConfigError(f"--ticks {text!r}: FIRST:LAST, such as 100:200 or 100:.")
    least, most = int(first or 0), int(last or sys.maxsize)

    def fits(decided: Decided) -> bool:
        return (
            options.source in (None, decided.source)
            and options.reason in (None, decided.reason)
            and options.episode in (None, decided.episode)
            and least <= decided.tick <= most
        )

    return fits


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return quantiles of seconds in µs; nothing of nothing."""
    if not values:
        return {}
    found = np.percentile(values, [50, 99, 99.9, 100]) * 1e6
    return dict(zip(("p50", "p99", "p99.9", "max"), found.tolist(), strict=True))


def _data(log: LogFile, summary: Summary) -> dict[str, Any]:
    counts = {each.name: getattr(summary, each.name) for each in fields(summary)}
    taken, late = counts.pop("taken"), counts.pop("late")
    return counts | {
        "file": str(log.path),
        "header": log.header,
        "decision_us": _percentiles(taken),
        "lateness_us": _percentiles(late),
        "has_beginning": log.whole,
        "ended": log.ended,
        "torn_bytes": log.torn,
    }


def _print(console: Console, log: LogFile, summary: Summary) -> None:
    header = log.header
    routers = ", ".join(header.get("routers", [])) or "none"
    run = f"   executor {header.get('architecture')}, mode {header.get('mode')}, routers {routers}"
    console.print(Text.assemble((log.path.name, "bold"), run))
    text = (
        f"{summary.ticks:,} ticks ({summary.first_tick:,} to {summary.last_tick:,}), "
        f"{summary.episodes:,} episodes, {summary.answers:,} answers of the planner, "
        f"{summary.swaps:,} swaps"
    )
    if summary.ticks:
        taken, late = _percentiles(summary.taken), _percentiles(summary.late)
        text += (
            f"\none decision p50 {taken['p50']:.1f} µs, p99 {taken['p99']:.1f} µs   "
            f"ticks late by p99 {late['p99']:.0f} µs, at most {late['max']:.0f} µs   "
            f"deadlines missed {summary.deadlines_missed:,}"
        )
    notes = []
    if not log.whole:
        notes.append(f"Its beginning went for the limit; FILE{OLDER} has the oldest there is.")
    if not log.ended:
        notes.append(
            "It was not closed: the program was killed, or goes on. "
            f"{log.torn} bytes at the end are not a whole record."
        )
    if lost := summary.lost_records:
        notes.append(f"{lost:,} records found no room: the disk was too slow.")
    rows = [
        (source, reason, count, count / summary.ticks)
        for source, reasons in summary.decisions.items()
        for reason, count in reasons.most_common()
    ]
    columns = ("source", "reason", Column("ticks", form=","), Column("share", form=".1%"))
    show(console, Section("", text, Table(columns, rows), notes=tuple(notes)))


def _row(each: Decided) -> list[Any]:
    """Return the cells of a decision."""
    return [
        *(each.tick, each.episode, each.source, each.reason, _short(each.action)),
        *(each.taken * 1e6, each.lateness * 1e6, each.version, _short(each.obs)),
    ]


def _short(value: Any) -> str:
    array = np.asarray(value)
    if not array.ndim:
        return str(value)
    shown = " ".join(f"{x:.3g}" for x in array.ravel()[:6])
    return shown + (" …" if array.size > 6 else "")


def _print_replay(console: Console, again: Replay) -> None:
    skipped = f", {again.skipped:,} could not be" if again.skipped else ""
    console.print(f"{again.ticks:,} ticks were decided again{skipped}.")
    first = again.first
    if first is None:
        console.print("Every one came out as it was logged.", style="green")
        return
    console.print(
        Text.assemble(
            (f"{again.differing:,} came out otherwise", "red"),
            f", the first:\n  tick {first.tick}, episode {first.episode}\n"
            f"  logged    {first.logged}\n  replayed  {first.replayed}",
        )
    )
