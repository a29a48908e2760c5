"""What a run leaves behind: the report and the last lines on the screen."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table as Grid
from rich.text import Text

from agentkd.cli.run_sections import MEANING, Outcome, cells, count, figure, interval, sections
from agentkd.cli.run_view import RunView
from agentkd.measure.intervals import mean_interval, retention
from agentkd.measure.live import Lived
from agentkd.report.report import write_report

if TYPE_CHECKING:
    from agentkd.cli.run import Options


def write(options: Options, out: Path, outcome: Outcome, view: RunView) -> int:
    """Write report.json and report.html, and print the table that people read.

    Returns:
        The command's exit status: 1 if the environment raised, 130 after Ctrl-C.
    """
    data = _data(options, out, outcome)
    write_report(out, data, sections(data, outcome))
    _print(view, data, out, options)
    lived = [*outcome.arms.values(), *([outcome.learnt] if outcome.learnt else [])]
    if any(each.fault for each in lived):
        return 1
    return 130 if outcome.interrupted else 0


def _arm(lived: Lived, outcome: Outcome) -> dict[str, Any]:
    result = lived.result
    # Without an episode that ended there is no return, and nothing is made up.
    returns = result.returns
    interval = mean_interval(returns)
    kept = retention(returns, outcome.reference.returns, outcome.random.returns)
    return {
        "return": interval.mean,
        "return_interval": [interval.low, interval.high],
        "retention": kept.mean,
        "retention_interval": [kept.low, kept.high],
        "returns": list(result.returns),
        "unfinished_return": result.unfinished_return,
        "ticks": result.ticks,
        "seconds": result.seconds,
        "interrupted": lived.interrupted,
        "fault": lived.fault,
        "metrics": dict(result.metrics),
    }


def _data(options: Options, out: Path, outcome: Outcome) -> dict[str, Any]:
    setting = outcome.setting
    planner = mean_interval(outcome.reference.returns)
    random = mean_interval(outcome.random.returns)
    arms = {name: _arm(lived, outcome) for name, lived in outcome.arms.items()}
    data: dict[str, Any] = {
        "command": "run",
        "env": options.env,
        "planner": list(options.planner),
        "planner_name": outcome.planner.name,
        "planner_digest": outcome.planner.digest,
        "executor": str(out / "executor.akd"),
        "architecture": outcome.executor.architecture,
        "seed": options.seed,
        "clock": setting.clock,
        "hz": setting.hz,
        "planner_latency_ticks": setting.latency,
        "planner_return": planner.mean,
        "planner_return_interval": [planner.low, planner.high],
        "random_return": random.mean,
        "random_return_interval": [random.low, random.high],
        "planner_parameters": outcome.planner.parameters,
        "executor_parameters": outcome.executor.parameters,
        "returns": {
            "planner": list(outcome.reference.returns),
            "random": list(outcome.random.returns),
        },
        "arms": arms,
        "interrupted": outcome.interrupted,
    }
    if "executor" in arms:
        data["executor_return"] = arms["executor"]["return"]
        data["executor_return_interval"] = arms["executor"]["return_interval"]
        data["retention"] = arms["executor"]["retention"]
        data["retention_interval"] = arms["executor"]["retention_interval"]
    if "runtime" in arms:
        data["runtime_return"] = arms["runtime"]["return"]
    main = arms.get("runtime") or next(iter(arms.values()), None)
    if main is not None:
        metrics = main["metrics"]
        data["decision_latency_us"] = metrics["decision_latency_us"]
        data["deadline_miss_total"] = metrics["deadline_miss_total"]
        data["missed_cycles_total"] = metrics["missed_cycles_total"]
        data["decisions_total"] = metrics["decisions_total"]
        data["seconds"] = main["seconds"]
    if outcome.learnt is not None:
        learnt = outcome.learnt
        data["learning"] = {
            "ticks": learnt.result.ticks,
            "episodes": [list(each) for each in learnt.learning],
            "metrics": dict(learnt.result.metrics),
        }
        data["labels"] = learnt.result.metrics.get("labels_total", 0)
    return data


def _print(view: RunView, data: dict[str, Any], out: Path, options: Options) -> None:
    grid = Grid(show_edge=False, pad_edge=False)
    for column, side in (
        ("arm", "left"),
        ("return", "right"),
        ("95 % interval", "right"),
        ("retention", "right"),
        ("", "left"),
    ):
        grid.add_column(column, justify=side)  # type: ignore[arg-type]
    grid.add_row("planner, never late", *cells(data, "planner"), "1.000", "")
    for name, arm in data["arms"].items():
        colour = "green" if arm["retention"] >= 0.9 else "red"
        grid.add_row(
            name,
            figure(arm["return"], 1),
            interval(arm["return_interval"]),
            Text(figure(arm["retention"], 3), colour),
            Text(MEANING[name], "dim"),
        )
    grid.add_row("random actions", *cells(data, "random"), "0.000", "")
    console = view.console
    console.print(grid)
    if data["interrupted"]:
        console.print("It ended early: this is what was measured until then.", style="yellow")
    if "decision_latency_us" in data:
        latency = data["decision_latency_us"]
        console.print(
            f"one decision p50 {latency.get('p50', 0):.1f} µs, p99 "
            f"{latency.get('p99', 0):.1f} µs   deadlines missed "
            f"{count(data['deadline_miss_total'])}   cycles missed "
            f"{data['missed_cycles_total']:,}"
        )
    file = str(out / "executor.akd")
    command = shlex.join(["agentkd", "eval", options.env, *options.planner, file])
    # Unbroken and as text: they are there to be copied.
    for name, text in (
        ("executor", file),
        ("report", str(out / "report.html")),
        ("next:", command),
    ):
        console.print(Text(f"{name:<10}{text}"), soft_wrap=True)
