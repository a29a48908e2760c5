"""The live view of `agentkd run`: who acted and why, how late, how well."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, final

from rich.text import Text

from agentkd.cli.terminal import Facts, View
from agentkd.executors.executor import Executor
from agentkd.measure.live import ArmLook, Lived, Setting
from agentkd.planners import Planner
from agentkd.runtime.clock import GRANTED

_RECENT = 20


@final
class RunView:
    """Shows a run."""

    def __init__(self, setting: Setting, planner: Planner, executor: Executor) -> None:
        """Print what runs where, and how late the planner is."""
        late = "as late as it is"
        if setting.latency is not None:
            milliseconds = 1000 * setting.latency / setting.hz
            late = f"{setting.latency} ticks late ({milliseconds:.0f} ms)"
        self._view = View(
            (setting.env, "bold"),
            f" at {setting.hz:g} Hz, {setting.clock} clock   planner ",
            (planner.name, "cyan"),
            f" ({planner.parameters:,} parameters), {late}   executor ",
            (executor.architecture, "cyan"),
            f" ({executor.parameters:,})",
        )
        self.console, self.say = self._view.console, self._view.say
        self._planner = self._random = 0.0

    def goals(self, planner: Sequence[float], random: Sequence[float]) -> None:
        """Set the returns that every arm is compared with."""
        self._planner, self._random = _mean(planner), _mean(random)
        self.console.print(
            f"planner that is never late {self._planner:.1f}   random actions {self._random:.1f}"
        )

    def arm(self, name: str) -> AbstractContextManager[Callable[[ArmLook], None]]:
        """Show an arm as it lives."""
        return self._view.follow(f"{name:>9}", self._facts)

    def arm_ended(self, name: str, lived: Lived) -> None:
        """Print how an arm ended, in a line."""
        result = lived.result
        note = ("  interrupted" if lived.interrupted else "", "yellow")
        if lived.fault:
            note = (f"  {lived.fault}", "red")
        text = (
            f"{name:>9}  return {_figure(_mean(result.returns[-_RECENT:])):>8}  "
            f"{len(result.returns)} episodes, {result.ticks:,} ticks  "
            f"{_sources(result.metrics)}"
        )
        self.console.print(Text.assemble(text, note))
        for what, told in result.metrics.get("realtime", {}).items():
            if told != GRANTED:
                self.console.print(Text(f"{'':>9}  {what}: {told}", style="yellow"))

    def _facts(self, look: ArmLook) -> Facts:
        metrics = look.metrics
        mean, apart = _mean(look.returns[-_RECENT:]), self._planner - self._random
        kept = (mean - self._random) / apart if apart else math.nan
        latency, age = metrics["decision_latency_us"], metrics["strategy_age_ticks"]
        late = metrics["planner_latency_ticks"]
        refused = sum(sum(each.values()) for each in metrics["vetoes_total"].values())
        missed = metrics["deadline_miss_total"]
        facts = {
            "return": _figure(mean),
            "retention": _figure(kept, 3),
            "ticks": f"{look.ticks:,}, {len(look.returns)} episodes",
            "agreement": _figure(metrics["executor_agreement"], 3),
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


def _figure(value: float | None, digits: int = 1) -> str:
    return "–" if value is None or value != value else f"{value:,.{digits}f}"


def _sources(metrics: Any) -> str:
    total = max(1, metrics["ticks_total"])
    counts = {
        source: sum(reasons.values()) for source, reasons in metrics["decisions_total"].items()
    }
    ordered = sorted(counts.items(), key=lambda each: -each[1])
    return ", ".join(f"{source} {count / total:.1%}" for source, count in ordered)
