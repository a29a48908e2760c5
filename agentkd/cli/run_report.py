"""The report of `agentkd run`: the arms, how it learnt, time and who acted."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from agentkd.cli.options.run import Options
from agentkd.cli.returns import COLUMNS, add_headline, cells, levels, reached
from agentkd.executors.executor import Executor
from agentkd.measure.evaluate import Evaluation
from agentkd.measure.live import Lived, Setting
from agentkd.planners import Planner
from agentkd.report.model import Column, Plot, Report, Section, Series, Table
from agentkd.runtime.loop import SOURCES

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
    """

    setting: Setting
    planner: Planner
    executor: Executor
    reference: Evaluation
    random: Evaluation
    learnt: Lived | None
    arms: Mapping[str, Lived]

    @property
    def ended(self) -> list[Lived]:
        """The learning and the arms."""
        return [*([self.learnt] if self.learnt else []), *self.arms.values()]

    @property
    def interrupted(self) -> bool:
        """Whether not all arms lived to their end."""
        return any(each.interrupted or each.fault for each in self.ended)


def report(options: Options, out: Path, outcome: Outcome) -> Report:
    """Return what was measured as a report."""
    data = _data(options, out, outcome)
    sections = [_arms(data, outcome)]
    if outcome.learnt is not None and outcome.learnt.learning:
        sections.append(_learning(data, outcome.learnt))
    if data["arms"]:
        sections.append(_timing(data, outcome))
    file = data["executor"]
    command = shlex.join(["agentkd", "eval", options.env, *options.planner, file])
    return Report(data, sections, {"executor": file, "next:": command})


def _arm(lived: Lived, outcome: Outcome) -> dict[str, Any]:
    result = lived.result
    # Without an episode that ended there is no return.
    best, floor = outcome.reference.returns, outcome.random.returns
    return reached(result.returns, best, floor) | {
        "unfinished_return": result.unfinished_return,
        "ticks": result.ticks,
        "seconds": result.seconds,
        "interrupted": lived.interrupted,
        "fault": lived.fault,
        "metrics": dict(result.metrics),
    }


def _data(options: Options, out: Path, outcome: Outcome) -> dict[str, Any]:
    setting, learnt = outcome.setting, outcome.learnt
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
        "planner_parameters": outcome.planner.parameters,
        "executor_parameters": outcome.executor.parameters,
        "arms": arms,
        "interrupted": outcome.interrupted,
    }
    best, floor = outcome.reference.returns, outcome.random.returns
    add_headline(data, "planner", reached(best, best, floor))
    add_headline(data, "random", reached(floor, best, floor))
    if "executor" in arms:
        add_headline(data, "executor", arms["executor"])
    if "runtime" in arms:
        data["runtime_return"] = arms["runtime"]["return"]
    main = arms.get("runtime") or next(iter(arms.values()), None)
    if main is not None:
        same = ("decision_latency_us", "deadline_miss_total", "missed_cycles_total")
        data |= {key: main["metrics"][key] for key in (*same, "decisions_total")}
        data["seconds"] = main["seconds"]
    if learnt is not None:
        data["learning"] = {
            "ticks": learnt.result.ticks,
            "episodes": [list(each) for each in learnt.learning],
            "metrics": dict(learnt.result.metrics),
        }
        data["labels"] = learnt.result.metrics.get("labels_total", 0)
    return data


def _arms(data: dict[str, Any], outcome: Outcome) -> Section:
    best, floor = outcome.reference.returns, outcome.random.returns
    figures = {"planner, never late": reached(best, best, floor), **data["arms"]}
    figures["random actions"] = reached(floor, best, floor)
    rows = [[name, *cells(e), _MEANING.get(name, "")] for name, e in figures.items()]
    columns = ("arm", *COLUMNS, "what it does")
    late = data["planner_latency_ticks"]
    how = "as late as it is" if late is None else f"{late} ticks late"
    text = f"The planner is {how} at {data['hz']:g} Hz on the {data['clock']} clock."
    if "decision_latency_us" in data:
        latency, missed = data["decision_latency_us"], data["deadline_miss_total"]
        text += (
            f" One decision takes p50 {latency.get('p50', 0):.1f} µs, p99 "
            f"{latency.get('p99', 0):.1f} µs; deadlines missed "
            f"{'–' if missed is None else missed}, cycles missed "
            f"{data['missed_cycles_total']:,}."
        )
    plot = Plot(
        "Return of each episode",
        "episode",
        "return",
        tuple(
            Series(name, range(1, len(each["returns"]) + 1), each["returns"])
            for name, each in figures.items()
            if name != "random actions"
        ),
    )
    notes = [each.fault for each in outcome.ended if each.fault]
    if outcome.interrupted:
        notes.append("It ended early: this is what was measured until then.")
    for name, arm in data["arms"].items():
        metrics = arm["metrics"]
        if metrics.get("strategies_worse"):
            means = metrics["reward_per_tick"]
            notes.append(
                f"Warning, {name}: strategies do worse than the executor, "
                f"{means['strategy']:.4g} of reward a tick against "
                f"{means['executor']:.4g}."
            )
    return Section(
        "The arms, on the same seeds",
        text,
        Table(columns, rows, "Retention: 0 is random actions, 1 the planner that is never late."),
        (plot,),
        tuple(notes),
    )


def _learning(data: dict[str, Any], learnt: Lived) -> Section:
    ticks = [tick for tick, _ in learnt.learning]
    learning = Series("executor", ticks, [value for _, value in learnt.learning])
    ends = {"planner, never late": data["planner_return"]}
    ends["random actions"] = data["random_return"]
    plot = Plot(
        "Return while it learns live, from nothing",
        "ticks",
        "return",
        (learning, *levels(ticks, ends)),
        "Each point is an episode that the executor lived while it learnt.",
    )
    metrics = learnt.result.metrics
    refused = metrics.get("swaps_refused_total", {})
    why = ", ".join(f"{name} {count:,}" for name, count in sorted(refused.items()))
    text = (
        f"{data['labels']:,} labels: every state that the agent visited, answered late "
        f"by the planner. {metrics.get('swaps_total', 0):,} executors were swapped in, "
        f"{sum(refused.values()):,} refused{f' ({why})' if why else ''}."
    )
    return Section("Learning from late answers", text, plots=(plot,), detail=True)


def _timing(data: dict[str, Any], outcome: Outcome) -> Section:
    slashed = partial(Column, form=",.1f", join=" / ")
    columns = (
        "arm",
        slashed("decision µs p50/p99/p99.9"),
        slashed("planner ready p50/p99"),
        slashed("not ready p50/p99"),
        Column("tick's lateness µs p50/p99/max", form=",.0f", join=" / "),
        Column("deadlines missed", form=","),
        Column("cycles missed", form=","),
        "decisions by source and reason",
    )

    def quantiles(summary: Mapping[str, float], *keys: str) -> list[float] | None:
        return [summary.get(key, 0.0) for key in keys] if summary["count"] else None

    rows = []
    for name, arm in data["arms"].items():
        metrics = arm["metrics"]
        by_planner = metrics["decision_latency_by_planner_us"]
        rows.append(
            [
                name,
                quantiles(metrics["decision_latency_us"], "p50", "p99", "p99.9"),
                quantiles(by_planner["ready"], "p50", "p99"),
                quantiles(by_planner["absent"], "p50", "p99"),
                quantiles(metrics["tick_lateness_us"], "p50", "p99", "max"),
                metrics["deadline_miss_total"],
                metrics["missed_cycles_total"],
                ", ".join(
                    f"{source} ({reason}) {count:,}"
                    for source, reasons in sorted(metrics["decisions_total"].items())
                    for reason, count in sorted(reasons.items())
                ),
            ]
        )
    caption = (
        "A tick is late by what its clock woke late. Virtual ticks never are, and no "
        "deadline is counted for them."
    )
    name, lived = list(outcome.arms.items())[-1]
    timeline = {key: list(each) for key, each in lived.result.timeline.items()}
    ticks = timeline["tick"]
    who = Series("source", ticks, timeline["source"])
    taken = Series("decision", ticks, timeline["latency_us"])
    plots = (
        Plot(f"Who acted ({name})", "tick", "", (who,), levels=SOURCES),
        Plot(f"Time for a decision ({name})", "tick", "µs", (taken,)),
    )
    table = Table(columns, rows, caption)
    return Section("Time and who acted", "", table, plots, detail=True)
