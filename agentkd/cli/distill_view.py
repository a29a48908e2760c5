"""What `agentkd distill` shows while it works."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

from agentkd.cli.terminal import Facts, View
from agentkd.distillation.progress import Progress, Watch
from agentkd.executors.executor import Executor
from agentkd.planners import Planner


@dataclass(frozen=True, slots=True)
class Goals:
    """The returns that an executor is compared with.

    Attributes:
        planner: The planner's, never late.
        random: That of random actions.
    """

    planner: float
    random: float

    def retention(self, value: float) -> float:
        """(value - random) / (planner - random); NaN where they are equal."""
        apart = self.planner - self.random
        return (value - self.random) / apart if apart else math.nan


@final
class DistillView:
    """Shows a distillation."""

    def __init__(self, env: str, planner: Planner, executor: Executor) -> None:
        """Print the planner and the executor."""
        size, share = "unknown", ""
        if planner.parameters:
            size = f"{planner.parameters:,}"
            share = f" ({executor.parameters / planner.parameters:.1%} of the planner)"
        self._view = View(
            (env, "bold"),
            "   planner ",
            (planner.name, "cyan"),
            f", {size} parameters   executor ",
            (executor.architecture, "cyan"),
            f", {executor.parameters:,} parameters{share}",
        )
        self.console, self.say = self._view.console, self._view.say

    @contextlib.contextmanager
    def live(self, goals: Goals, logs: Any) -> Iterator[Watch]:
        """Show looks as they come; `logs` is a TensorBoard writer or None."""

        def tell(look: Progress) -> Facts:
            return _facts(look, goals)

        with self._view.follow("distilling", tell) as show:

            def watch(look: Progress) -> None:
                # A full disk ends the curves, and nothing else.
                with contextlib.suppress(OSError):
                    for name, value in _curves(look, goals).items():
                        if logs is not None and math.isfinite(value):
                            logs.add_scalar(f"distill/{name}", value, look.labels)
                show(look)

            yield watch
        if logs is not None:
            with contextlib.suppress(OSError):
                logs.close()


def _curves(look: Progress, goals: Goals) -> dict[str, float]:
    return {
        "executor_return": look.executor_return,
        "retention": goals.retention(look.executor_return),
        "agreement": look.agreement,
        "divergence": look.divergence,
        "learning_rate": look.learning_rate,
        "labels_per_second": look.labels_per_second,
        "planner_share": look.planner_share,
    }


def _facts(look: Progress, goals: Goals) -> Facts:
    def number(value: float, digits: int) -> str:
        return "–" if math.isnan(value) else f"{value:,.{digits}f}"

    facts = {
        "return": number(look.executor_return, 1),
        "retention": number(goals.retention(look.executor_return), 3),
        "labels": f"{look.labels:,} ({look.labels_per_second:,.0f}/s)",
        "agreement": number(look.agreement, 3),
        "planner, random": f"{number(goals.planner, 1)}, {number(goals.random, 1)}",
        "gradient steps": f"{look.steps:,} ({look.steps_per_second:,.0f}/s)",
        "divergence": number(look.divergence, 4),
        "planner drives": f"{look.planner_share:.0%}",
    }
    if look.refused:
        facts["labels refused (NaN)"] = f"{look.refused:,}"
    return look.done, facts
