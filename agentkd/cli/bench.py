"""`agentkd bench`: a suite of cells, each measured once, in as many processes as are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import tyro
from rich.text import Text

from agentkd.bench import rows as ledgers
from agentkd.bench.cells import Cell, cells_of, digests_of
from agentkd.bench.pool import Backend, Pool
from agentkd.bench.rows import Ledger, Row, read_rows
from agentkd.bench.schedule import Plan, measure_all, plan_of
from agentkd.bench.suite import Suite, find_suite, read_suite, with_methods
from agentkd.cli.first_look import check_planner
from agentkd.cli.terminal import Facts, View
from agentkd.environments import check_name
from agentkd.errors import ConfigError, RefError, check_range
from agentkd.extras import needing
from agentkd.interrupt import held
from agentkd.refs import is_reference, resolve
from agentkd.report.console import publish

_INTERRUPTED = 130
_MANY = 1024


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure a suite: environments x planners x executors x methods x latencies x seeds.

    A suite is a small TOML file: benchmarks/suites/quick.toml, or one of your own. Each cell of it
    is measured once and appends one row to cells.csv, so a run that was killed goes on with
    --resume and repeats nothing. The tables have interquartile means with intervals. The same suite
    gives the same figures with any number of processes: budgets are labels, and time is counted in
    ticks.

    Example: agentkd bench quick --jobs 2

    A method of your own beside ours: a function (task, *, executor, labels, seed) that returns an
    Executor.

    agentkd bench mine.toml --method mine.training:method --out runs/mine
    """

    suite: tyro.conf.Positional[str]
    """A TOML file, or the name of one in benchmarks/suites. docs/reference/bench.md has its keys;
    paths in it are as seen from the working directory."""
    method: tuple[str, ...] = ()
    """Methods besides the suite's: distill, clone, or module:attribute of a function from a task to
    an executor."""
    jobs: int = 1
    """Processes that measure at the same time, with one thread each."""
    ray: str | None = None
    """Spread the cells over a Ray cluster instead: its address, HOST:PORT, or "local" for one of
    this machine."""
    only: tuple[str, ...] = ()
    """Measure only cells that have one of these words in their names, as --dry-run lists them."""
    dry_run: bool = False
    """List the cells, with an estimate of how long the missing ones take, and measure nothing."""
    out: Path | None = None
    """Where to write; by default runs/bench-SUITE."""
    overwrite: bool = False
    """Replace the rows and the report of an earlier run in this folder."""
    resume: bool = False
    """Go on from the rows in this folder. Cells whose inputs changed are measured anew, cells that
    failed are tried again."""


def run(options: Options) -> int:
    """Measure what is missing, and write the report of what there is."""
    check_range("--jobs", options.jobs, least=1, most=_MANY)
    if options.ray is not None:
        if options.jobs != 1:
            raise ConfigError("--jobs counts processes of this machine; --ray has the cluster's.")
        with needing("--ray"):
            import_module("ray")
    path = find_suite(options.suite)
    suite = with_methods(read_suite(path), options.method)
    cells = _chosen(cells_of(suite), options.only)
    _check(path, suite)
    plan = plan_of(cells, digests_of(cells))
    out = options.out or Path("runs") / f"bench-{suite.name}"
    if options.dry_run:
        return _list(plan, out, options)
    with ledgers.alone(out, overwrite=options.overwrite, resume=options.resume):
        return _measure(plan, suite, out, options)


def _chosen(cells: list[Cell], words: Sequence[str]) -> list[Cell]:
    """Return the cells that are named, with those that they are compared with."""
    if not words:
        return cells
    named = [each for each in cells if any(word in each.name for word in words)]
    if not named:
        raise ConfigError(f"--only {' '.join(words)}: no cell has that. --dry-run lists them.")
    chosen = {id(each) for each in named}
    tasks = {(each.env, each.seed) for each in named}
    planners = {(each.env, each.planner, each.seed) for each in named}
    return [
        each
        for each in cells
        if id(each) in chosen
        or (each.arm == "random" and (each.env, each.seed) in tasks)
        or (
            each.arm == "planner"
            and not each.latency
            and (each.env, each.planner, each.seed) in planners
        )
    ]


def _check(path: Path, suite: Suite) -> None:
    """Check what can be known to be wrong before anything is measured."""
    from agentkd.bench.methods import check_method
    from agentkd.runtime.rollforward import RollForward

    for number, group in enumerate(suite.groups, 1):
        try:
            for planner in group.planner:
                check_planner(planner)
            for method in group.methods:
                check_method(method.reference, method.options)
            if group.roll_forward:
                RollForward(group.roll_forward)
                if not is_reference(group.roll_forward):
                    check_name(group.roll_forward)
            for each in (group.guard, group.holds, group.roll_forward):
                if is_reference(each):
                    resolve(each)
        except (RefError, ConfigError) as error:
            raise ConfigError(f"{path}: tasks[{number}]: {error}") from error


def _list(plan: Plan, out: Path, options: Options) -> int:
    """Print the cells, and how long those that are missing take."""
    from agentkd.bench.estimate import seconds_of

    view = View((f"{len(plan.cells)} cells", "bold"))
    file = out / ledgers.FILE
    rows = {row.key: row for row in read_rows(file)[0]} if file.exists() else {}
    missing = set(plan.missing(rows))
    for key, cell in plan.cells.items():
        view.console.print(
            Text(f"{'to do' if key in missing else 'done ':<7}{cell.name}"), soft_wrap=True
        )
    made = {plan.recipes[key] for key in missing} - {""}
    episodes = sum(plan.cells[key].episodes for key in missing)
    seconds = seconds_of(plan, rows, options.jobs)
    view.console.print(
        f"{len(missing)} of {len(plan.cells)} cells are to do: {episodes:,} episodes, "
        f"{len(made)} executors. About {_duration(seconds)} with --jobs {options.jobs}; episodes "
        "are taken to last as long as they may."
    )
    return 0


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _measure(plan: Plan, suite: Suite, out: Path, options: Options) -> int:
    view = View((f"bench {suite.name}", "bold"), f"   {len(plan.cells)} cells in {out}")
    with Ledger(out) as ledger:
        todo = len(plan.missing(ledger.rows))
        if todo < len(plan.cells):
            view.say(f"{len(plan.cells) - todo} cells are measured already.")
        interrupted = False
        try:
            if todo:
                _finish(plan, ledger, out, view, _backend(options), todo)
        except KeyboardInterrupt:
            interrupted = True
        rows = ledgers.finished(ledger.rows, list(plan.cells))
    with held():
        return _report(plan, suite, rows, out, view, interrupted=interrupted)


def _backend(options: Options) -> Backend:
    if options.ray is None:
        return Pool(options.jobs)
    from agentkd.bench.rays import Cluster

    return Cluster(options.ray)


def _finish(plan: Plan, ledger: Ledger, out: Path, view: View, backend: Backend, todo: int) -> None:
    """Measure what is missing, and print a line for each cell."""
    count = 0

    def tell(row: Row) -> Facts:
        return count / todo, {"cells": f"{count} of {todo}", "last": row.arm}

    try:
        with view.follow("bench", tell) as follow:

            def show(row: Row) -> None:
                nonlocal count
                count += 1
                said = row.error or f"{row.seconds:,.1f} s"
                line = f"{count:>4} of {todo}  {plan.cells[row.key].name}  {said}"
                view.console.print(Text(line, "red" if row.error else ""), soft_wrap=True)
                follow(row)

            measure_all(plan, ledger, out / "executors", backend, show)
    finally:
        backend.close()


def _report(
    plan: Plan, suite: Suite, rows: Sequence[Row], out: Path, view: View, *, interrupted: bool
) -> int:
    from agentkd.bench.tables import report_of

    ready = ledgers.write_parquet(out / "cells.parquet", rows)
    made = report_of(suite.name, suite.about, rows, len(plan.cells), interrupted=interrupted)
    files = {"rows": str(out / ledgers.FILE)}
    if ready:
        files["parquet"] = str(out / "cells.parquet")
    publish(view.console, replace(made, files=files), out)
    if interrupted:
        return _INTERRUPTED
    return 1 if any(row.error for row in rows) else 0
