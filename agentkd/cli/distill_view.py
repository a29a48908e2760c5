"""What `agentkd distill` shows while it works."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from agentkd.cli.terminal import Console
from agentkd.distillation.progress import Progress as Look
from agentkd.distillation.progress import Watch
from agentkd.executors.executor import Executor
from agentkd.planners import Planner

_LINE_EVERY = 5.0


@dataclass(frozen=True, slots=True)
class Goals:
    """The returns between which an executor stands.

    Attributes:
        planner: The planner's, never late.
        random: That of random actions.
    """

    planner: float
    random: float

    def retention(self, value: float) -> float:
        """(value − random) / (planner − random); NaN where they are equal."""
        apart = self.planner - self.random
        return (value - self.random) / apart if apart else math.nan


@final
class DistillView:
    """Shows a distillation: a live table on a terminal, lines elsewhere."""

    def __init__(self, env: str, planner: Planner, executor: Executor) -> None:
        """Say what is distilled into what."""
        self.console = Console()
        size = f"{planner.parameters:,}" if planner.parameters else "unknown"
        share = (
            f" ({executor.parameters / planner.parameters:.1%} of the planner)"
            if planner.parameters
            else ""
        )
        self.console.print(
            Text.assemble(
                (env, "bold"),
                "   planner ",
                (planner.name, "cyan"),
                f", {size} parameters   executor ",
                (executor.architecture, "cyan"),
                f", {executor.parameters:,} parameters{share}",
            )
        )

    def say(self, text: str) -> None:
        """Write a line."""
        self.console.print(text, style="dim")

    @contextlib.contextmanager
    def live(self, goals: Goals, logs: Any) -> Iterator[Watch]:
        """Show looks as they come; `logs` is a TensorBoard writer or None."""
        bar = Progress(
            TextColumn("distilling"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            console=self.console,
            expand=True,
        )
        task = bar.add_task("", total=1.0, left="")
        printed = 0.0

        def log(look: Look) -> None:
            # A full disk ends the curves, and nothing else.
            with contextlib.suppress(OSError):
                for name, value in _curves(look, goals).items():
                    if logs is not None and math.isfinite(value):
                        logs.add_scalar(f"distill/{name}", value, look.labels)

        def left(look: Look) -> str:
            if look.done <= 0 or look.done >= 1:
                return ""
            rest = look.seconds * (1 / look.done - 1)
            return f"{rest:.0f} s left"

        def lines(look: Look) -> None:
            nonlocal printed
            log(look)
            if look.done < 1 and time.monotonic() - printed < _LINE_EVERY:
                return
            printed = time.monotonic()
            curves = _curves(look, goals)
            self.console.print(
                f"{look.seconds:6.1f} s  {look.labels:>9,} labels  "
                f"return {_number(look.executor_return)}  "
                f"retention {_number(curves['retention'], 3)}  "
                f"agreement {_number(look.agreement, 3)}"
            )

        if not self.console.is_interactive:
            yield lines
        else:
            with Live(bar, console=self.console, refresh_per_second=8) as live:

                def table(look: Look) -> None:
                    log(look)
                    bar.update(task, completed=look.done, left=left(look))
                    live.update(Group(bar, Panel(_table(look, goals))))

                yield table
        if logs is not None:
            with contextlib.suppress(OSError):
                logs.close()


def _curves(look: Look, goals: Goals) -> dict[str, float]:
    return {
        "executor_return": look.executor_return,
        "retention": goals.retention(look.executor_return),
        "agreement": look.agreement,
        "divergence": look.divergence,
        "learning_rate": look.learning_rate,
        "labels_per_second": look.labels_per_second,
        "planner_share": look.planner_share,
    }


def _number(value: float, digits: int = 1) -> str:
    return "–" if math.isnan(value) else f"{value:,.{digits}f}"


def _table(look: Look, goals: Goals) -> Table:
    grid = Table.grid(padding=(0, 3))
    for _ in range(4):
        grid.add_column()
    kept = goals.retention(look.executor_return)
    colour = "green" if kept >= 0.95 else "yellow" if kept >= 0.5 else "red"
    grid.add_row(
        "return (last 20 of its own)",
        Text(_number(look.executor_return), "bold"),
        "planner, random",
        f"{_number(goals.planner)}, {_number(goals.random)}",
    )
    grid.add_row(
        "retention",
        Text(_number(kept, 3), f"bold {colour}"),
        "agreement on new states",
        _number(look.agreement, 3),
    )
    grid.add_row(
        "labels",
        f"{look.labels:,} ({look.labels_per_second:,.0f}/s)",
        "gradient steps",
        f"{look.steps:,} ({look.steps_per_second:,.0f}/s)",
    )
    grid.add_row(
        "divergence", f"{look.divergence:.4g}", "planner drives", f"{look.planner_share:.0%}"
    )
    if look.refused:
        grid.add_row(Text("labels refused (NaN)", "red"), f"{look.refused:,}", "", "")
    return grid
