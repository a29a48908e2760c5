"""`agentkd log`: read a decision log, and decide again what it says was decided."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from agentkd.cli.terminal import Console
from agentkd.errors import ConfigError, WriteError, did_you_mean
from agentkd.runtime.arbiter import ORDER
from agentkd.runtime.log import OLDER
from agentkd.runtime.logfile import Decided, Gap, Heard, LogFile, Reset, Swapped
from agentkd.runtime.replay import Replay, replay

Fits = Callable[[Decided], bool]


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
    first: int = -1
    last: int = -1
    episodes: int = 1
    answers: int = 0
    swaps: int = -1
    lost: int = 0
    missed: int = 0
    decisions: dict[str, dict[str, int]] = field(default_factory=dict)
    taken: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)

    def note(self, decided: Decided) -> None:
        """Count a decision."""
        self.ticks += 1
        self.first = decided.tick if self.first < 0 else self.first
        self.last = decided.tick
        reasons = self.decisions.setdefault(decided.source, {})
        reasons[decided.reason] = reasons.get(decided.reason, 0) + 1
        self.taken.append(decided.taken)
        self.late.append(decided.lateness)
        self.missed += decided.left - decided.taken < 0


def run(options: Options) -> int:
    """Read the log, and print what was asked for."""
    fits = _filter(options)
    log = LogFile(options.file)
    console = Console()
    written = _Csv(options.csv) if options.csv is not None else None
    try:
        summary, chosen = _read(options, log, fits, written)
    finally:
        if written is not None:
            written.close()
    again = _replayed(options, log) if options.replay or options.executor else None
    if options.json:
        data = {**_data(log, summary), "replay": _told(again)}
        sys.stdout.write(json.dumps(data, indent=1) + "\n")
    else:
        _print(console, options, log, summary, chosen)
        if written is not None:
            console.print(f"{written.rows:,} decisions in {options.csv}")
        if again is not None:
            _print_replay(console, again)
    return 1 if again is not None and again.differing else 0


def _read(
    options: Options, log: LogFile, fits: Fits, written: _Csv | None
) -> tuple[Summary, list[Decided]]:
    """Count what the log holds, and pick what fits."""
    summary = Summary()
    chosen: list[Decided] = []
    most = sys.maxsize if options.show < 0 else options.show
    for event in log.events():
        match event:
            case Decided():
                summary.note(event)
                if fits(event):
                    if len(chosen) < most:
                        chosen.append(event)
                    if written is not None:
                        written.add(event)
            case Heard():
                summary.answers += 1
            case Swapped():
                summary.swaps += 1
            case Reset():
                summary.episodes += 1
            case Gap(count):
                summary.lost += count
    return summary, chosen


def _filter(options: Options) -> Fits:
    """What the options let through.

    Raises:
        ConfigError: If one is invalid.
    """
    if options.source is not None and options.source not in ORDER:
        raise ConfigError(f"No source {options.source!r}.{did_you_mean(options.source, ORDER)}")
    if not options.tolerance >= 0:
        raise ConfigError(f"--tolerance {options.tolerance}: at least 0.")
    first, last = _range(options.ticks)

    def fits(decided: Decided) -> bool:
        return (
            (options.source is None or decided.source == options.source)
            and (options.reason is None or decided.reason == options.reason)
            and (options.episode is None or decided.episode == options.episode)
            and first <= decided.tick <= last
        )

    return fits


def _range(text: str | None) -> tuple[int, int]:
    if text is None:
        return 0, sys.maxsize
    first, colon, last = text.partition(":")
    if not colon or not all(each.isdigit() or not each for each in (first, last)):
        raise ConfigError(f"--ticks {text!r}: FIRST:LAST, such as 100:200 or 100:.")
    return int(first or 0), int(last or sys.maxsize)


class _Csv:
    """Decisions as lines of text."""

    def __init__(self, path: Path) -> None:
        self.rows = 0
        try:
            self._file = path.open("x", encoding="utf-8")
        except FileExistsError as error:
            raise ConfigError(f"{path} is there already. Name another.") from error
        except OSError as error:
            raise WriteError(f"{path} cannot be written: {error.strerror}.") from error

    def add(self, decided: Decided) -> None:
        action = np.ravel(decided.action).tolist()
        if not self.rows:
            names = ["tick", "episode", "source", "reason", "version", "taken_us"]
            names += ["lateness_us"]
            names += [f"action{i}" for i in range(len(action))]
            names += [f"obs{i}" for i in range(len(decided.obs))]
            self._file.write(",".join(names) + "\n")
        self.rows += 1
        cells: list[Any] = [
            decided.tick,
            decided.episode,
            decided.source,
            decided.reason,
            decided.version,
            f"{decided.taken * 1e6:.3f}",
            f"{decided.lateness * 1e6:.3f}",
            *action,
            *decided.obs.tolist(),
        ]
        self._file.write(",".join(map(str, cells)) + "\n")

    def close(self) -> None:
        self._file.close()


def _replayed(options: Options, log: LogFile) -> Replay:
    executor = None
    if options.executor is not None:
        from agentkd.deploy.bundle import read_bundle

        executor = read_bundle(options.executor).executor
    routers: Sequence[Any] = ()
    if options.routers is not None:
        from agentkd.cli.strategy_choice import routers_of

        routers = routers_of(options.routers)
    return replay(log, executor, routers, tolerance=options.tolerance)


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    p50, p99, p999 = np.percentile(values, [50, 99, 99.9]) * 1e6
    return {
        "p50": float(p50),
        "p99": float(p99),
        "p99.9": float(p999),
        "max": float(max(values) * 1e6),
    }


def _data(log: LogFile, summary: Summary) -> dict[str, Any]:
    return {
        "file": str(log.path),
        "header": log.header,
        "ticks": summary.ticks,
        "first_tick": summary.first,
        "last_tick": summary.last,
        "episodes": summary.episodes,
        "answers": summary.answers,
        "swaps": max(0, summary.swaps),
        "decisions": summary.decisions,
        "decision_us": _percentiles(summary.taken),
        "lateness_us": _percentiles(summary.late),
        "deadlines_missed": summary.missed,
        "lost_records": summary.lost,
        "has_beginning": log.whole,
        "ended": log.ended,
        "torn_bytes": log.torn,
    }


def _told(again: Replay | None) -> dict[str, Any] | None:
    if again is None:
        return None
    first = again.first
    return {
        "ticks": again.ticks,
        "skipped": again.skipped,
        "differing": again.differing,
        "first": None
        if first is None
        else {
            "tick": first.tick,
            "episode": first.episode,
            "logged": first.logged,
            "replayed": first.replayed,
        },
    }


def _print(
    console: Console, options: Options, log: LogFile, summary: Summary, chosen: Sequence[Decided]
) -> None:
    header = log.header
    console.print(
        Text.assemble(
            (log.path.name, "bold"),
            f"   executor {header.get('architecture')}, mode {header.get('mode')}, "
            f"routers {', '.join(header.get('routers', [])) or 'none'}",
        )
    )
    console.print(
        f"{summary.ticks:,} ticks ({summary.first:,} to {summary.last:,}), "
        f"{summary.episodes:,} episodes, {summary.answers:,} answers of the planner, "
        f"{max(0, summary.swaps):,} swaps",
        highlight=False,
    )
    for note in _notes(log, summary):
        console.print(Text(note, style="yellow"))
    if options.show:
        console.print(_rows(chosen))
    grid = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name, side in (("source", "left"), ("reason", "left"), ("ticks", "right")):
        grid.add_column(name, justify=side)  # type: ignore[arg-type]
    grid.add_column("share", justify="right")
    for source, reason, count in _counted(summary):
        grid.add_row(source, reason, f"{count:,}", f"{count / summary.ticks:.1%}")
    console.print(grid)
    taken, late = _percentiles(summary.taken), _percentiles(summary.late)
    if taken:
        console.print(
            f"one decision p50 {taken['p50']:.1f} µs, p99 {taken['p99']:.1f} µs   "
            f"ticks late by p99 {late['p99']:.0f} µs, at most {late['max']:.0f} µs   "
            f"deadlines missed {summary.missed:,}",
            highlight=False,
        )


def _counted(summary: Summary) -> Iterator[tuple[str, str, int]]:
    flat = itertools.chain.from_iterable(
        ((source, reason, count) for reason, count in reasons.items())
        for source, reasons in summary.decisions.items()
    )
    yield from sorted(flat, key=lambda each: -each[2])


def _notes(log: LogFile, summary: Summary) -> Iterator[str]:
    if not log.whole:
        yield f"Its beginning went for the limit; FILE{OLDER} has the oldest there is."
    if not log.ended:
        yield (
            "It was not closed: the program was killed, or goes on. "
            f"{log.torn} bytes at the end are no whole record."
        )
    if summary.lost:
        yield f"{summary.lost:,} records found no room: the disk was too slow."


def _rows(chosen: Sequence[Decided]) -> Table:
    grid = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("tick", "episode"):
        grid.add_column(name, justify="right")
    for name in ("source", "reason", "action"):
        grid.add_column(name)
    for name in ("µs", "late µs", "version"):
        grid.add_column(name, justify="right")
    grid.add_column("observation")
    for each in chosen:
        grid.add_row(
            f"{each.tick}",
            f"{each.episode}",
            each.source,
            each.reason,
            _short(each.action),
            f"{each.taken * 1e6:.1f}",
            f"{each.lateness * 1e6:.0f}",
            f"{each.version}",
            _short(each.obs),
        )
    return grid


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
    differing = (f"{again.differing:,} came out otherwise", "red")
    console.print(Text.assemble(differing, ", the first:"))
    console.print(
        Text(
            f"  tick {first.tick}, episode {first.episode}\n"
            f"  logged    {first.logged}\n"
            f"  replayed  {first.replayed}"
        )
    )
