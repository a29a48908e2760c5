"""What `agentkd run` shows while its arms live, and its report."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.text import Text

from agentkd.cli.run_film import NAMES
from agentkd.cli.run_plots import latencies, returns_of, who_acted
from agentkd.cli.terminal import Facts, View, figure
from agentkd.distillation.task import Returns
from agentkd.executors.executor import Executor
from agentkd.measure.intervals import mean_interval
from agentkd.measure.live import ArmLook, Lived, Setting
from agentkd.planners import Planner
from agentkd.report.model import Column, Plot, Report, Section, Series, Table
from agentkd.report.returns import COLUMNS, Goals, add_headline, cells, levels, reached
from agentkd.runtime.clock import GRANTED

_RECENT = 20
_MEANING = {
    "planner": "acts when its answer arrives, and holds in between",
    "executor": "acts alone, at once",
    "runtime": "the planner where it is in time, else the executor",
}
_GUIDED = "the executor, which the planner's goals guide"
_SLASHED = partial(Column, form=",.1f", join=" / ")
_TIMING = (
    "arm",
    _SLASHED("decision µs p50/p99/p99.9"),
    _SLASHED("planner ready p50/p99"),
    _SLASHED("not ready p50/p99"),
    _SLASHED("tick's lateness µs p50/p99/max", form=",.0f"),
    *(Column("deadlines missed", form=","), Column("cycles missed", form=",")),
    "decisions by source and reason",
)


def run_view(setting: Setting, planner: Planner, executor: Executor) -> View:
    """Print what runs where and how late the planner is, and return the view of the run."""
    late = "as late as it is"
    if setting.latency is not None:
        milliseconds = 1000 * setting.latency / setting.hz
        many = "" if setting.latency == 1 else "s"
        late = f"{setting.latency} tick{many} late ({milliseconds:.0f} ms)"
    return View(
        (setting.env, "bold"),
        f" at {setting.hz:g} Hz, {setting.clock} clock   planner ",
        (planner.name, "cyan"),
        f" ({planner.parameters:,} parameters), {late}   executor ",
        (executor.architecture, "cyan"),
        f" ({executor.parameters:,})",
    )


_FEW = 5
"""Episodes that are needed to say that an arm is better."""
_ALONE = {
    "planner": "let the executor learn longer, or let the planner act alone (mode='planner').",
    "executor": "leave the planner out (mode='executor'), or find out which of its rows harm.",
}


def show_goals(view: View, returns: Returns) -> Goals:
    """Print and return what every arm's return is compared with."""
    goals = Goals(_mean(returns.planner), _mean(returns.random))
    view.console.print(
        f"planner that is never late {goals.planner:.1f}   random actions {goals.random:.1f}"
    )
    return goals


def follow_arm(
    view: View, name: str, goals: Goals
) -> AbstractContextManager[Callable[[ArmLook], None]]:
    """Show an arm as it lives: who acted and why, how late, how well."""
    return view.follow(f"{name:>9}", partial(_facts, goals))


def arm_ended(view: View, name: str, lived: Lived) -> None:
    """Print how an arm ended, in a line."""
    result = lived.result
    note = ("  interrupted" if lived.interrupted else "", "yellow")
    if lived.fault:
        note = (f"  {lived.fault}", "red")
    text = (
        f"{name:>9}  return {figure(_mean(result.returns[-_RECENT:])):>8}  "
        f"{len(result.returns)} episodes, {result.ticks:,} ticks  {_sources(result.metrics)}"
    )
    view.console.print(Text.assemble(text, note))
    for what, told in result.metrics.get("realtime", {}).items():
        if told != GRANTED:
            view.console.print(Text(f"{'':>9}  {what}: {told}", style="yellow"))


def _facts(goals: Goals, look: ArmLook) -> Facts:
    metrics, mean = look.metrics, _mean(look.returns[-_RECENT:])
    agreement, missed = metrics["executor_agreement"], metrics["deadline_miss_total"]
    latency, age = metrics["decision_latency_us"], metrics["strategy_age_ticks"]
    late = metrics["planner_latency_ticks"]
    refused = sum(sum(each.values()) for each in metrics["vetoes_total"].values())
    facts = {
        "return": figure(mean),
        "retention": figure(goals.retention(mean), 3),
        "ticks": f"{look.ticks:,}, {len(look.returns)} episodes",
        "agreement": figure(math.nan if agreement is None else agreement, 3),
        "this episode": f"{look.current:,.1f}",
        "executor's version": f"{metrics['executor_version']}",
        "acting now": f"{look.decision.source} ({look.decision.reason})",
        "who acted": _sources(metrics),
        "decision": f"p50 {latency.get('p50', 0):.1f} µs, p99 {latency.get('p99', 0):.1f} µs",
        "strategy's age": f"p50 {age.get('p50', 0):.0f} ticks"
        if age.get("count")
        else "none served",
        "planner's answers": f"{metrics['planner_answers_total']:,}, "
        f"{late.get('p50', 0):.0f} ticks late at p50",
        "deadlines missed": f"{'–' if missed is None else missed} "
        f"(+ {metrics['missed_cycles_total']:,} cycles)",
        "ticks without a decision": f"{metrics['starved_ticks_total']:,}",
        "refused by routers": f"{refused:,}",
    }
    if "distiller_steps_total" in metrics:
        facts["labels"] = f"{metrics.get('labels_total', 0):,}"
        facts["gradient steps"] = f"{metrics['distiller_steps_total']:,}"
    return look.done, facts


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _sources(metrics: Any) -> str:
    total = max(1, metrics["ticks_total"])
    decided = metrics["decisions_total"].items()
    counts = {source: sum(reasons.values()) for source, reasons in decided}
    ordered = sorted(counts.items(), key=lambda each: -each[1])
    return ", ".join(f"{source} {count / total:.1%}" for source, count in ordered)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that was measured.

    Attributes:
        executor: As the arms used it.
        returns: Of the planner that is never late, and of random actions.
        learnt: The live learning before, None for an executor file.
        arms: By name.
        changes: What the live page changed: the arm, the tick, and the planner's latency from then.
    """

    setting: Setting
    planner: Planner
    executor: Executor
    returns: Returns
    learnt: Lived | None
    arms: Mapping[str, Lived]
    changes: tuple[tuple[str, int, int], ...] = ()

    @property
    def ended(self) -> list[Lived]:
        """The learning and the arms."""
        return [*([self.learnt] if self.learnt else []), *self.arms.values()]

    @property
    def guided(self) -> bool:
        """Whether the planner gives goals."""
        strategies = self.setting.strategies
        return strategies is not None and strategies.goals is not None

    @property
    def interrupted(self) -> bool:
        """Whether not all arms lived to their end."""
        return any(each.interrupted or each.fault for each in self.ended)

    def figures(self, returns: Sequence[float]) -> dict[str, Any]:
        """Return what a policy reached, beside the planner and random actions."""
        return reached(returns, self.returns.planner, self.returns.random)


def report(planner: Sequence[str], out: Path, outcome: Outcome, how: Sequence[str] = ()) -> Report:
    """Return what was measured as a report.

    `planner` are its references, and `how` the options by which a command reads them.
    """
    data = _data(outcome) | {"planner": list(planner), "executor": str(out / "executor.akd")}
    sections = [_arms(data, outcome)]
    if outcome.learnt is not None and outcome.learnt.learning:
        sections.append(_learning(data, outcome.learnt))
    if data["arms"]:
        acted = who_acted(outcome.setting, outcome.arms)
        sections.append(Section("Who acted, and why", plots=tuple(acted), detail=True))
        sections.append(_timing(data, outcome))
    words = ["eval", data["env"], *planner, data["executor"], *how]
    if outcome.guided:
        # Alone it has no goal.
        words = ["run", data["env"], "--planner", *planner, "--executor", data["executor"], *how]
        words += ["--hz", f"{outcome.setting.hz:g}"]
    files = {"executor": data["executor"], "next:": shlex.join(["agentkd", *words])}
    lead = " ".join(filter(None, (_lead(data), *_better_alone(outcome))))
    return Report(data, sections, files, lead, returns_of(data) if data["arms"] else None)


def _lead(data: Mapping[str, Any]) -> str:
    """Say what each arm returns, the late planner and agentkd first."""
    means = {name: arm["return"] for name, arm in data["arms"].items()}
    means = {name: mean for name, mean in means.items() if math.isfinite(mean)}
    if not means:
        return ""
    best = data["planner_return"]
    largest = max(map(abs, [*means.values(), best]))
    digits = 0 if largest >= 100 else 1 if largest >= 10 else 2
    named = {**NAMES, "planner": "late planner"}
    told = {name: f"{named[name]} {figure(mean, digits)}" for name, mean in means.items()}
    story = ("planner", "runtime") if {"planner", "runtime"} <= set(told) else tuple(told)
    first = ", ".join(told[name] for name in story)
    rest = [each for name, each in told.items() if name not in story]
    rest.append(f"planner that is never late {figure(best, digits)}")
    late = data["planner_latency_ticks"]
    how = "as late as it is"
    if late is not None:
        how = f"{late} tick{'' if late == 1 else 's'} ({1000 * late / data['hz']:.0f} ms) late"
    return (
        f"{first[0].upper()}{first[1:]}. Mean returns on the same seeds, the planner {how}; "
        f"{', '.join(rest)}."
    )


def _better_alone(outcome: Outcome) -> Iterator[str]:
    """Say which arm is better without the other, episode by episode, and what to do."""
    if "runtime" not in outcome.arms:
        return
    together = outcome.arms["runtime"].result.returns
    for name, remedy in _ALONE.items():
        if name in outcome.arms:
            alone = outcome.arms[name].result.returns
            apart = [one - both for one, both in zip(alone, together, strict=False)]
            if len(apart) < _FEW:
                continue
            found = mean_interval(apart)
            if found.low > 0:
                yield (
                    f"The {NAMES[name]} does better here, by {figure(found.mean)} "
                    f"({figure(found.low)} … {figure(found.high)}): {remedy}"
                )


def _arm(lived: Lived, outcome: Outcome) -> dict[str, Any]:
    result = lived.result
    # Without an episode that ended there is no return.
    return outcome.figures(result.returns) | {
        **{name: getattr(result, name) for name in ("unfinished_return", "ticks", "seconds")},
        "interrupted": lived.interrupted,
        "fault": lived.fault,
        "metrics": dict(result.metrics),
    }


def _data(outcome: Outcome) -> dict[str, Any]:
    setting, learnt = outcome.setting, outcome.learnt
    arms = {name: _arm(lived, outcome) for name, lived in outcome.arms.items()}
    roll = setting.strategies.roll_forward if setting.strategies is not None else None
    data: dict[str, Any] = {
        "command": "run",
        **{name: getattr(setting, name) for name in ("env", "seed", "clock", "hz")},
        "planner_name": outcome.planner.name,
        "planner_digest": outcome.planner.digest,
        "architecture": outcome.executor.architecture,
        "planner_latency_ticks": setting.latency,
        "roll_forward": None if roll is None else str(roll.model),
        "planner_parameters": outcome.planner.parameters,
        "executor_parameters": outcome.executor.parameters,
        "arms": arms,
        "interrupted": outcome.interrupted,
        "latency_changes": [list(each) for each in outcome.changes],
    }
    add_headline(data, "planner", outcome.figures(outcome.returns.planner))
    add_headline(data, "random", outcome.figures(outcome.returns.random))
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
    figures = {
        "planner, never late": outcome.figures(outcome.returns.planner),
        **data["arms"],
        "random actions": outcome.figures(outcome.returns.random),
    }
    meaning = _MEANING | ({"runtime": _GUIDED} if outcome.guided else {})
    rows = [[name, *cells(e), meaning.get(name, "")] for name, e in figures.items()]
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
    notes = [each.fault for each in outcome.ended if each.fault]
    if outcome.interrupted:
        notes.append("It ended early: this is what was measured until then.")
    if outcome.changes:
        told = ", ".join(f"{arm} at tick {at:,}: {ticks}" for arm, at, ticks in outcome.changes)
        notes.append(
            f"The live page changed the planner's latency ({told}): the arms do not compare."
        )
    for name, arm in data["arms"].items():
        if arm["metrics"].get("strategies_worse"):
            means = arm["metrics"]["reward_per_tick"]
            notes.append(
                f"Warning, {name}: strategies do worse than the executor, "
                f"{means['strategy']:.4g} of reward a tick against {means['executor']:.4g}."
            )
    caption = "Retention: 0 is random actions, 1 the planner that is never late."
    table = Table(("arm", *COLUMNS, "what it does"), rows, caption)
    return Section("The arms, on the same seeds", text, table, notes=tuple(notes))


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
    def quantiles(summary: Mapping[str, float], *keys: str) -> list[float] | None:
        return [summary.get(key, 0.0) for key in keys] if summary["count"] else None

    rows = []
    for name, arm in data["arms"].items():
        metrics = arm["metrics"]
        by_planner = metrics["decision_latency_by_planner_us"]
        decided = (
            f"{source} ({reason}) {count:,}"
            for source, reasons in sorted(metrics["decisions_total"].items())
            for reason, count in sorted(reasons.items())
        )
        rows.append(
            [
                name,
                quantiles(metrics["decision_latency_us"], "p50", "p99", "p99.9"),
                quantiles(by_planner["ready"], "p50", "p99"),
                quantiles(by_planner["absent"], "p50", "p99"),
                quantiles(metrics["tick_lateness_us"], "p50", "p99", "max"),
                *(metrics["deadline_miss_total"], metrics["missed_cycles_total"]),
                ", ".join(decided),
            ]
        )
    caption = (
        "A tick is late by what its clock woke late. Virtual ticks never are, and no "
        "deadline is counted for them."
    )
    plot = latencies(outcome.setting, outcome.arms)
    return Section("How fast", "", Table(_TIMING, rows, caption), (plot,), detail=True)
