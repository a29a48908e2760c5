"""The sections of a run's report: the arms, how it learnt, time and who acted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentkd.executors.executor import Executor
from agentkd.measure.evaluate import Evaluation
from agentkd.measure.live import Lived, Setting
from agentkd.planners import Planner
from agentkd.report.report import Plot, Section, Series, Table
from agentkd.runtime.loop import SOURCES

MEANING = {
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
    executor: Executor
    reference: Evaluation
    random: Evaluation
    learnt: Lived | None
    arms: Mapping[str, Lived]
    interrupted: bool


def sections(data: dict[str, Any], outcome: Outcome) -> list[Section]:
    """Lay the figures of report.json out for people."""
    rows = [
        ["planner, never late", *cells(data, "planner"), "", "the reference"],
        *(
            [
                name,
                figure(arm["return"], 1),
                interval(arm["return_interval"]),
                figure(arm["retention"], 3),
                MEANING[name],
            ]
            for name, arm in data["arms"].items()
        ),
        ["random actions", *cells(data, "random"), "", "the floor"],
    ]
    late = data["planner_latency_ticks"]
    how = "as late as it is" if late is None else f"{late} ticks late"
    found = [
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
        found.append(_learning_section(data, outcome.learnt))
    if data["arms"]:
        found.append(_timing_section(data, outcome))
    return found


def cells(data: dict[str, Any], name: str) -> list[str]:
    """Return and interval of the planner or of random actions."""
    return [f"{data[f'{name}_return']:.1f}", interval(data[f"{name}_return_interval"])]


def interval(pair: list[float]) -> str:
    """Write an interval, or that there is none."""
    if math.isnan(pair[0]):
        return "no episode ended"
    return f"[{pair[0]:.1f}, {pair[1]:.1f}]"


def figure(value: float, digits: int) -> str:
    """Write a number, or a dash for none."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _returns_plot(outcome: Outcome) -> Plot:
    def episodes(name: str, returns: Any) -> Series:
        return Series(name, list(range(1, len(returns) + 1)), list(returns))

    series = [episodes("planner, never late", outcome.reference.returns)]
    series += [episodes(name, each.result.returns) for name, each in outcome.arms.items()]
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
    metrics = learnt.result.metrics
    refused = metrics.get("swaps_refused_total", {})
    why = ", ".join(f"{name} {count:,}" for name, count in sorted(refused.items()))
    text += (
        f" {metrics.get('swaps_total', 0):,} executors were swapped in, "
        f"{sum(refused.values()):,} refused{f' ({why})' if why else ''}."
    )
    return Section("Learning from late answers", text, None, (plot,))


def _worse(arms: Mapping[str, Any]) -> str:
    """Warn of arms in which strategies cost reward; "" if there are none."""
    told = []
    for name, arm in arms.items():
        metrics = arm["metrics"]
        if metrics.get("strategies_worse"):
            means = metrics["reward_per_tick"]
            told.append(
                f"Warning, {name}: strategies do worse than the executor, "
                f"{means['strategy']:.4g} of reward a tick against "
                f"{means['executor']:.4g}."
            )
    return " ".join(told)


def _timing_section(data: dict[str, Any], outcome: Outcome) -> Section:
    rows = []
    for name, arm in data["arms"].items():
        metrics = arm["metrics"]
        latency, late = metrics["decision_latency_us"], metrics["tick_lateness_us"]
        by_planner = metrics["decision_latency_by_planner_us"]
        with_planner, without = by_planner["ready"], by_planner["absent"]
        rows.append(
            [
                name,
                _slashed(latency, ("p50", "p99", "p99.9"), "{:.1f}"),
                _slashed(with_planner, ("p50", "p99"), "{:.1f}"),
                _slashed(without, ("p50", "p99"), "{:.1f}"),
                _slashed(late, ("p50", "p99", "max"), "{:.0f}"),
                count(metrics["deadline_miss_total"]),
                f"{metrics['missed_cycles_total']:,}",
                _who(metrics),
            ]
        )
    table = Table(
        [
            "arm",
            "decision µs p50/p99/p99.9",
            "planner ready p50/p99",
            "not ready p50/p99",
            "tick's lateness µs p50/p99/max",
            "deadlines missed",
            "cycles missed",
            "decisions by source and reason",
        ],
        rows,
        "A tick is late by what its clock woke late. Virtual ticks never are, and no "
        "deadline is counted for them.",
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
    return Section("Time and who acted", _worse(data["arms"]), table, tuple(plots))


def count(number: int | None) -> str:
    """Write a count, or a dash where nothing could be counted."""
    return "–" if number is None else f"{number:,}"


def _slashed(summary: Mapping[str, float], keys: Sequence[str], form: str) -> str:
    if not summary["count"]:
        return "–"
    return " / ".join(form.format(summary.get(key, 0.0)) for key in keys)


def _who(metrics: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{source} ({reason}) {count:,}"
        for source, reasons in sorted(metrics["decisions_total"].items())
        for reason, count in sorted(reasons.items())
    )
