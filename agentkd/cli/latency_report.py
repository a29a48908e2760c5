"""What `agentkd latency` says and writes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table as Grid
from rich.text import Text

from agentkd.cli.terminal import Console
from agentkd.executors.executor import Executor
from agentkd.measure.latency import Latency
from agentkd.report.report import Section, Table, write_report

if TYPE_CHECKING:
    from agentkd.cli.latency import Options
    from agentkd.measure.energy import Bill, Energy
    from agentkd.planners import Planner

_BASES = ("SB3 predict", "planner here")
_ACTS = "Agent.act"


def show_and_write(
    console: Console,
    options: Options,
    executor: Executor,
    planner: Planner | None,
    latencies: Sequence[Latency],
    timer: float,
    bill: Bill | None,
) -> None:
    """Print the table, and write the report if a folder was named."""
    base = base_of(latencies)
    energy = {} if bill is None else {each.name: each for each in bill.rows}
    rows = [_row(each, base, energy.get(each.name)) for each in latencies]
    columns = ["one decision, µs", "p50", "p99", "p99.9", "faster", "µJ", ""]
    if bill is None:
        columns.remove("µJ")
        rows = [[*row[:5], row[6]] for row in rows]
    grid = Grid(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for index, column in enumerate(columns):
        last = index == len(columns) - 1
        grid.add_column(column, justify="left" if not index or last else "right")
    for row in rows:
        # As text: a note may hold square brackets.
        grid.add_row(*row[:-1], Text(row[-1], "dim"))
    console.print(grid)
    note = f"Each call is timed by itself; the timer takes {timer:.2f} µs of each."
    if base is not None:
        note = f'"Faster" compares medians with {base.name}. {note}'
    if options.planner is None:
        note = f"No --planner: SB3's model is an untrained one. {note}"
    if bill is not None:
        note = f"{note} {bill.text}"
    console.print(Text(note, "dim"))
    if options.out is None:
        return
    data = _data(options, executor, planner, latencies, timer, base)
    data |= _energy(latencies, data["forms"], bill, options)
    text = (
        f"{executor.architecture}, {executor.parameters:,} parameters, "
        f"{executor.spec.obs.size} numbers in. Forms are timed in turns."
    )
    section = Section("One decision, in every form", text, Table(columns, rows, note))
    write_report(options.out, data, [section])
    console.print(f"report    {options.out / 'report.html'}")


def base_of(latencies: Sequence[Latency]) -> Latency | None:
    """What ratios are against: SB3, or else the planner as it runs here."""
    named = {each.name: each for each in latencies if each.calls}
    return next((named[name] for name in _BASES if name in named), None)


def _row(latency: Latency, base: Latency | None, energy: Energy | None) -> list[str]:
    if not latency.calls:
        return [latency.name, "-", "-", "-", "", "", latency.note]
    times = (latency.p50, latency.p99, latency.p999)
    factor = f"{base.p50 / latency.p50:,.1f}x" if base is not None else ""
    known = energy is not None and math.isfinite(energy.microjoules)
    cost = f"{energy.microjoules:,.1f}" if energy is not None and known else ""
    shown = (f"{each:,.2f}" for each in times)
    return [latency.name, *shown, factor, cost, latency.note]


def _energy(
    latencies: Sequence[Latency], forms: list[dict[str, Any]], bill: Bill | None, options: Options
) -> dict[str, Any]:
    """Put each form's energy into its row; give how all of it is known."""
    costs = {} if bill is None else {each.name: each for each in bill.rows}
    for latency, form in zip(latencies, forms, strict=True):
        cost = costs.get(latency.name)
        form["energy_uj"] = math.nan if cost is None else cost.microjoules
    if bill is None:
        return {"energy_source": "", "energy_watts": math.nan}
    watts = options.watts if bill.source == "estimate" else bill.idle_watts
    return {"energy_source": bill.source, "energy_watts": watts}


def _data(
    options: Options,
    executor: Executor,
    planner: Planner | None,
    latencies: Sequence[Latency],
    timer: float,
    base: Latency | None,
) -> dict[str, Any]:
    acts = next(each for each in latencies if each.name == _ACTS)
    return {
        "command": "latency",
        "env": "",
        "executor": None if options.executor is None else str(options.executor),
        "architecture": executor.architecture,
        "executor_parameters": executor.parameters,
        "observation_size": executor.spec.obs.size,
        "planner": [] if options.planner is None else [options.planner],
        "planner_name": "" if planner is None else planner.name,
        "planner_parameters": 0 if planner is None else planner.parameters,
        "decision_latency_us": acts.summary(),
        "forms": [
            {
                "name": each.name,
                "latency_us": each.summary(),
                "ratio": math.nan if base is None else base.p50 / each.p50,
                "note": each.note,
            }
            for each in latencies
        ],
        "ratio_to": "" if base is None else base.name,
        "timer_us": timer,
    }
