"""`agentkd bench distill`: what distillation keeps, over many planners and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table as Grid

from agentkd.bench.suite import (
    Case,
    Row,
    cases_of,
    find_cases,
    interquartile_mean,
    kept,
    measure,
    with_env_args,
)
from agentkd.cli.terminal import Console
from agentkd.errors import ConfigError
from agentkd.report.model import Plot, Report, Section, Series, Table
from agentkd.report.rows import Rows
from agentkd.report.write import prepare_out, write_report

_COLUMNS = (
    "planner",
    "executor",
    "its return",
    "executor's",
    "retention",
    "95 % interval",
    "parameters",
    "of planner's",
    "labels",
    "seconds",
    "labels/s",
    "planner alone, labels/s",
    "gradient steps/s",
    "MB",
)
_SHOWN = (0, 1, 2, 3, 4, 5)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Distil every planner of a folder, once for each seed, and print one table.

    Example: agentkd bench distill --planners planners --seconds 60 --seeds 3

    Any planner in any environment, and executors of several kinds from each: agentkd bench distill
    --pairs LunarLander-v3=policies/lunarlander --executor mlp:64,64 gru:32
    """

    planners: Path | None = None
    """A folder of folders named ALGORITHM-ENVIRONMENT, such as sac-Swimmer-v5."""
    pairs: tuple[str, ...] = ()
    """Besides or instead, environments and planners as ENV=PLANNER."""
    only: tuple[str, ...] = ()
    """Names of some of these folders; all of them, if none is given."""
    env_args: tuple[str, ...] = ()
    """Arguments of every environment: KEY=VALUE, such as gravity=-5, or JSON."""
    executor: tuple[str, ...] = ("mlp:64,64",)
    """The executor's architecture; each planner is distilled into each of several."""
    seconds: float = 60.0
    """How long each distillation takes."""
    seeds: int = 3
    """How many distillations of each planner; seeds 0, 1, …."""
    episodes: int = 20
    """Episodes to measure each policy over, on the same seeds."""
    eval_seed: int = 1000
    """The first of the seeds to measure on."""
    out: Path | None = None
    """Where to write report.json and report.html; nothing is written without it."""
    overwrite: bool = False
    """Replace the report that is there."""
    resume: bool = False
    """Go on from what an earlier run with the same options left in --out."""


def run(options: Options) -> int:
    """Distil and measure, one planner after another."""
    import torch

    torch.set_num_threads(1)
    if options.seeds < 1 or options.episodes < 1 or not options.seconds > 0:
        raise ConfigError(
            f"--seeds {options.seeds} --episodes {options.episodes} --seconds "
            f"{options.seconds:g}: at least 1, at least 1, above 0."
        )
    chosen = _chosen(options)
    if options.out is not None:
        prepare_out(options.out, overwrite=options.overwrite, resume=options.resume)
    kept_rows = Rows(options.out, resume=options.resume)
    works = [(case, executor) for case in chosen for executor in options.executor]
    console = Console()
    rows: list[Row] = []
    interrupted = False
    for number, (case, executor) in enumerate(works, 1):
        what = f"{case.name} to {executor} ({number} of {len(works)})"
        with console.status("") as status:

            def show(text: str, what: str = what) -> None:
                status.update(f"{what}: {text}")

            try:
                row = measure(
                    case,
                    executor,
                    seconds=options.seconds,
                    seeds=range(options.seeds),
                    episodes=options.episodes,
                    eval_seed=options.eval_seed,
                    watch=show,
                    rows=kept_rows,
                )
            except KeyboardInterrupt:
                interrupted = True
                break
        rows.append(row)
        cells = _cells(row)
        said = f"{cells[0]} to {cells[1]}  retention {cells[4]} {cells[5]}"
        console.print(said, highlight=False)
    _show(console, rows)
    if options.out is not None:
        _write(options, options.out, rows, interrupted=interrupted)
        console.print(f"report    {options.out / 'report.html'}")
    return 130 if interrupted else 0


def _chosen(options: Options) -> list[Case]:
    cases = cases_of(options.pairs)
    if options.planners is not None:
        cases = (*find_cases(options.planners), *cases)
    cases = with_env_args(cases, options.env_args)
    if not cases or not options.executor:
        raise ConfigError(
            "Nothing to distil: give --planners FOLDER or --pairs ENV=PLANNER, and at "
            "least one --executor."
        )
    unknown = set(options.only) - {case.name for case in cases}
    if unknown:
        raise ConfigError(f"No {sorted(unknown)}; there are {[case.name for case in cases]}.")
    return [case for case in cases if not options.only or case.name in options.only]


def _cells(row: Row) -> list[str]:
    retention = kept(row)
    executor = _mean([value for run in row.runs for value in run.returns])
    share = (
        f"{row.executor_parameters / row.planner_parameters:.1%}" if row.planner_parameters else "–"
    )
    return [
        row.case.name,
        row.executor,
        f"{_mean(row.planner.returns):,.1f}",
        f"{executor:,.1f}",
        f"{retention.mean:.3f}",
        f"[{retention.low:.3f}, {retention.high:.3f}]",
        f"{row.executor_parameters:,}",
        share,
        f"{_mean([run.labels for run in row.runs]):,.0f}",
        f"{_mean([run.seconds for run in row.runs]):.1f}",
        f"{_rate(row, 'labels'):,.0f}",
        f"{row.planner_rate:,.0f}",
        f"{_rate(row, 'steps'):,.0f}",
        f"{row.megabytes:,.0f}",
    ]


def _rate(row: Row, what: str) -> float:
    """Labels or steps a second, over all runs."""
    count = sum(getattr(run, what) for run in row.runs)
    return float(count / sum(run.seconds for run in row.runs))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _show(console: Console, rows: list[Row]) -> None:
    if not rows:
        return
    grid = Grid(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    # The rest is in the report: here everything has to fit eighty columns.
    for index in _SHOWN:
        name = _COLUMNS[index]
        grid.add_column(name, justify="right" if index > 1 else "left", no_wrap=True)
    for row in rows:
        cells = _cells(row)
        grid.add_row(*(cells[index] for index in _SHOWN))
    console.print(grid)
    for executor, middle in _middles(rows).items():
        console.print(
            f"interquartile mean over planners, {executor}: {middle:.3f}", highlight=False
        )


def _middles(rows: Sequence[Row]) -> dict[str, float]:
    """The interquartile mean over planners, by the executor's architecture."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row.executor, []).append(kept(row).mean)
    return {executor: interquartile_mean(each) for executor, each in found.items()}


def _write(options: Options, out: Path, rows: list[Row], *, interrupted: bool) -> None:
    entries: list[dict[str, Any]] = []
    for row in rows:
        retention = kept(row)
        entries.append(
            {
                "planner": row.case.name,
                "ref": row.case.planner,
                "env": row.case.env,
                "architecture": row.executor,
                "retention": retention.mean,
                "retention_interval": [retention.low, retention.high],
                "planner_returns": list(row.planner.returns),
                "random_returns": list(row.random.returns),
                "planner_parameters": row.planner_parameters,
                "executor_parameters": row.executor_parameters,
                "labels_per_second": _rate(row, "labels"),
                "planner_labels_per_second": row.planner_rate,
                "steps_per_second": _rate(row, "steps"),
                "megabytes": row.megabytes,
                "runs": [
                    {
                        "seed": run.seed,
                        "returns": list(run.returns),
                        "labels": run.labels,
                        "steps": run.steps,
                        "seconds": run.seconds,
                    }
                    for run in row.runs
                ],
            }
        )
    data = {
        "command": "bench distill",
        "architectures": list(options.executor),
        "seconds": options.seconds,
        "seeds": options.seeds,
        "episodes": options.episodes,
        "eval_seed": options.eval_seed,
        "interquartile_mean": _middles(rows),
        "entries": entries,
        "interrupted": interrupted,
    }
    intervals = [kept(row) for row in rows]
    plot = Plot(
        "Retention",
        "retention",
        "",
        tuple(
            Series(f"{row.case.name} {row.executor}", [0.0], [i.mean], [i.low], [i.high])
            for row, i in zip(rows, intervals, strict=True)
        ),
        "95 % over seeds and episodes.",
        kind="rows",
    )
    table = Table(_COLUMNS, [_cells(row) for row in rows])
    text = (
        f"{', '.join(options.executor)}; {options.seconds:g} s each, "
        f"{options.seeds} seeds, {options.episodes} episodes."
    )
    write_report(out, Report(data, [Section("What distillation keeps", text, table, (plot,))]))
