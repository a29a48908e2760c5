"""What a run leaves behind: the report and the last lines on the screen."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table as Grid
from rich.text import Text

from agentkd.bench.arms import Lived, Setting
from agentkd.bench.evaluate import Evaluation
from agentkd.bench.intervals import mean_interval, retention
from agentkd.bench.report import Plot, Section, Series, Table, write_report
from agentkd.cli.run_view import RunView
from agentkd.executors.frozen import Frozen
from agentkd.planners import Planner
from agentkd.runtime.result import SOURCES

if TYPE_CHECKING:
    from agentkd.cli.run import Options

_MEANING = {
    "planner": "acts when its answer arrives, and holds in between",
    "executor": "acts alone, at once",
    "runtime": "the planner where it is in time, else the executor",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that was measured.

    Attributes:
        setting: What the arms had in common.
        planner: The planner.
        executor: The executor, as the arms used it.
        reference: The planner that is never late.
        random: Random actions.
        learnt: The live learning before, None for an executor file.
        arms: The arms by name.
        interrupted: Whether not all arms lived to their end.
    """

    setting: Setting
    planner: Planner
    executor: Frozen
    reference: Evaluation
    random: Evaluation
    learnt: Lived | None
    arms: Mapping[str, Lived]
    interrupted: bool


def write(options: Options, out: Path, outcome: Outcome, view: RunView) -> int:
    """Write report.json and report.html, and print the table that people read.

    Returns:
        The command's exit status: 1 if the environment raised, 130 after Ctrl-C.
    """
    data = _data(options, out, outcome)
    write_report(out, data, _sections(data, outcome))
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


def _sections(data: dict[str, Any], outcome: Outcome) -> list[Section]:
    rows = [
        ["planner, never late", *_cells(data, "planner"), "", "the reference"],
        *(
            [
                name,
                _figure(arm["return"], 1),
                _interval(arm["return_interval"]),
                _figure(arm["retention"], 3),
                _MEANING[name],
            ]
            for name, arm in data["arms"].items()
        ),
        ["random actions", *_cells(data, "random"), "", "the floor"],
    ]
    late = data["planner_latency_ticks"]
    how = "as late as it is" if late is None else f"{late} ticks late"
    sections = [
        Section(
            "The arms, on the same seeds",
            f"The planner is {how} at {data['hz']:g} Hz on the {data['clock']} clock.",
            Table(
                ["arm", "return", "95 % interval", "retention", "what it does"],
                rows,
                "Retention: 0 is random actions, 1 the planner that is never late.",
            ),
            (_returns_plot(outcome),),
        )
    ]
    if outcome.learnt is not None and outcome.learnt.learning:
        sections.append(_learning_section(data, outcome.learnt))
    if data["arms"]:
        sections.append(_timing_section(data, outcome))
    return sections


def _cells(data: dict[str, Any], name: str) -> list[str]:
    return [f"{data[f'{name}_return']:.1f}", _interval(data[f"{name}_return_interval"])]


def _interval(pair: list[float]) -> str:
    if math.isnan(pair[0]):
        return "no episode ended"
    return f"[{pair[0]:.1f}, {pair[1]:.1f}]"


def _figure(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _returns_plot(outcome: Outcome) -> Plot:
    def episodes(name: str, returns: Any) -> Series:
        return Series(name, list(range(1, len(returns) + 1)), list(returns))

    series = [episodes("planner, never late", outcome.reference.returns)]
    series += [
        episodes(name, each.result.returns) for name, each in outcome.arms.items()
    ]
    return Plot("Return of each episode", "episode", "return", tuple(series), "")


def _learning_section(data: dict[str, Any], learnt: Lived) -> Section:
    ticks = [tick for tick, _ in learnt.learning]
    span = [ticks[0], ticks[-1]]
    plot = Plot(
        "Return while it learns live, from nothing",
        "ticks",
        "return",
        (
            Series("executor", ticks, [value for _, value in learnt.learning]),
            Series("planner, never late", span, [data["planner_return"]] * 2),
            Series("random actions", span, [data["random_return"]] * 2),
        ),
        "Each point is an episode that the executor lived while it learnt.",
    )
    text = (
        f"{data['labels']:,} labels: every state that the agent visited, answered late "
        "by the planner."
    )
    return Section("Learning from late answers", text, None, (plot,))


def _timing_section(data: dict[str, Any], outcome: Outcome) -> Section:
    rows = []
    for name, arm in data["arms"].items():
        metrics = arm["metrics"]
        latency, late = metrics["decision_latency_us"], metrics["tick_lateness_us"]
        rows.append(
            [
                name,
                _slashed(latency, ("p50", "p99", "p99.9"), "{:.1f}"),
                _slashed(late, ("p50", "p99", "max"), "{:.0f}"),
                f"{metrics['deadline_miss_total']:,}",
                f"{metrics['missed_cycles_total']:,}",
                _who(metrics),
            ]
        )
    table = Table(
        [
            "arm",
            "decision µs p50/p99/p99.9",
            "tick's lateness µs p50/p99/max",
            "deadlines missed",
            "cycles missed",
            "decisions by source and reason",
        ],
        rows,
        "A tick is late by what its clock woke late; virtual ticks never are.",
    )
    name, lived = list(outcome.arms.items())[-1]
    timeline = lived.result.timeline
    plots = [
        Plot(
            f"Who acted ({name})",
            "tick",
            "",
            (Series("source", list(timeline["tick"]), list(timeline["source"])),),
            levels=SOURCES,
        ),
        Plot(
            f"Time for a decision ({name})",
            "tick",
            "µs",
            (Series("decision", list(timeline["tick"]), list(timeline["latency_us"])),),
            "",
        ),
    ]
    return Section("Time and who acted", "", table, tuple(plots))


def _slashed(summary: Mapping[str, float], keys: Sequence[str], form: str) -> str:
    return " / ".join(form.format(summary.get(key, 0.0)) for key in keys)


def _who(metrics: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{source} ({reason}) {count:,}"
        for source, reasons in sorted(metrics["decisions_total"].items())
        for reason, count in sorted(reasons.items())
    )


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
    grid.add_row("planner, never late", *_cells(data, "planner"), "1.000", "")
    for name, arm in data["arms"].items():
        colour = "green" if arm["retention"] >= 0.9 else "red"
        grid.add_row(
            name,
            _figure(arm["return"], 1),
            _interval(arm["return_interval"]),
            f"[{colour}]{_figure(arm['retention'], 3)}[/]",
            f"[dim]{_MEANING[name]}[/]",
        )
    grid.add_row("random actions", *_cells(data, "random"), "0.000", "")
    console = view.console
    console.print(grid)
    if data["interrupted"]:
        console.print(
            "[yellow]It ended early: this is what was measured until then.[/]"
        )
    if "decision_latency_us" in data:
        latency = data["decision_latency_us"]
        console.print(
            f"one decision p50 {latency.get('p50', 0):.1f} µs, p99 "
            f"{latency.get('p99', 0):.1f} µs   deadlines missed "
            f"{data['deadline_miss_total']:,}   cycles missed "
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
