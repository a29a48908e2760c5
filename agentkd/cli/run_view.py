"""What `agentkd run` shows while it lives: who acted and why, how late, how well."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from agentkd.cli.run_sections import count
from agentkd.cli.terminal import Console
from agentkd.executors.executor import Executor
from agentkd.measure.live import ArmLook, Lived, Setting
from agentkd.planners import Planner
from agentkd.runtime.clock import GRANTED

_LINE_EVERY = 5.0
_RECENT = 20


@final
class RunView:
    """Shows a run: a live panel on a terminal, lines elsewhere."""

    def __init__(self, setting: Setting, planner: Planner, executor: Executor) -> None:
        """Say who runs where, and how late the planner is."""
        self.console = Console()
        self._setting = setting
        self._planner_return = self._random_return = 0.0
        late = (
            "as late as it is"
            if setting.latency is None
            else f"{setting.latency} ticks late ({1000 * setting.latency / setting.hz:.0f} ms)"
        )
        self.console.print(
            Text.assemble(
                (setting.env, "bold"),
                f" at {setting.hz:g} Hz, {setting.clock} clock   planner ",
                (planner.name, "cyan"),
                f" ({planner.parameters:,} parameters), {late}   executor ",
                (executor.architecture, "cyan"),
                f" ({executor.parameters:,})",
            )
        )

    def say(self, text: str) -> None:
        """Write a line."""
        self.console.print(text, style="dim")

    def goals(self, planner: Sequence[float], random: Sequence[float]) -> None:
        """Take the returns between which every arm stands."""
        self._planner_return = sum(planner) / len(planner)
        self._random_return = sum(random) / len(random)
        self.console.print(
            f"planner that is never late {self._planner_return:.1f}   "
            f"random actions {self._random_return:.1f}"
        )

    def retention(self, value: float) -> float | None:
        """Where a return stands between random actions (0) and the planner (1)."""
        apart = self._planner_return - self._random_return
        return (value - self._random_return) / apart if apart else None

    @contextlib.contextmanager
    def arm(self, name: str, setting: Setting) -> Iterator[Callable[[ArmLook], None]]:
        """Show an arm as it lives."""
        printed = time.monotonic()

        def lines(look: ArmLook) -> None:
            nonlocal printed
            if time.monotonic() - printed < _LINE_EVERY:
                return
            printed = time.monotonic()
            recent = look.returns[-_RECENT:]
            score = f"{sum(recent) / len(recent):.1f}" if recent else "–"
            self.console.print(
                f"{name:>9} {look.done:4.0%}  {look.ticks:>8,} ticks  return {score}  "
                f"agreement {_share(look.metrics['executor_agreement'])}  "
                f"version {look.metrics['executor_version']}"
            )

        if not self.console.is_interactive:
            yield lines
            return
        with Live(console=self.console, refresh_per_second=8, transient=True) as screen:

            def panel(look: ArmLook) -> None:
                screen.update(_panel(name, look, setting, self.retention))

            yield panel

    def arm_ended(self, name: str, lived: Lived) -> None:
        """Write how an arm ended, in a line."""
        returns = lived.result.returns[-_RECENT:]
        count = len(lived.result.returns)
        score = f"{sum(returns) / len(returns):8.1f}" if returns else "       –"
        who = _sources(lived.result.metrics)
        note = ("  interrupted" if lived.interrupted else "", "yellow")
        if lived.fault:
            note = (f"  {lived.fault}", "red")
        text = f"{name:>9}  return {score}  {count} episodes, "
        text += f"{lived.result.ticks:,} ticks  {who}"
        self.console.print(Text.assemble(text, note))
        for what, told in lived.result.metrics.get("realtime", {}).items():
            if told != GRANTED:
                self.console.print(Text(f"{'':>9}  {what}: {told}", style="yellow"))


def _sources(metrics: Any) -> str:
    total = max(1, metrics["ticks_total"])
    shares = {
        source: sum(reasons.values()) / total
        for source, reasons in metrics["decisions_total"].items()
    }
    ordered = sorted(shares.items(), key=lambda each: -each[1])
    return ", ".join(f"{source} {share:.1%}" for source, share in ordered)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _panel(
    name: str, look: ArmLook, setting: Setting, retention: Callable[[float], float | None]
) -> Panel:
    metrics = look.metrics
    recent = look.returns[-_RECENT:]
    mean = sum(recent) / len(recent) if recent else None
    kept = retention(mean) if mean is not None else None
    decision = look.decision
    grid = Table.grid(padding=(0, 3))
    for _ in range(4):
        grid.add_column()
    grid.add_row(
        "return, last 20",
        Text("–" if mean is None else f"{mean:,.1f}", "bold"),
        "retention",
        Text("–" if kept is None else f"{kept:.3f}", "bold"),
    )
    grid.add_row(
        "episodes, ticks",
        f"{len(look.returns)}, {look.ticks:,}",
        "this episode",
        f"{look.current:,.1f}",
    )
    grid.add_row(
        "acting now",
        Text.assemble((decision.source, "bold cyan"), f" ({decision.reason})"),
        "who acted",
        _sources(metrics),
    )
    latency = metrics["decision_latency_us"]
    age = metrics["strategy_age_ticks"]
    grid.add_row(
        "decision",
        f"p50 {latency.get('p50', 0):.1f} µs, p99 {latency.get('p99', 0):.1f} µs",
        "strategy's age",
        f"p50 {age.get('p50', 0):.0f} ticks" if age.get("count") else "none served",
    )
    late = metrics["planner_latency_ticks"]
    grid.add_row(
        "planner's answers",
        f"{metrics['planner_answers_total']:,}, {late.get('p50', 0):.0f} ticks late at p50",
        "deadlines missed",
        f"{count(metrics['deadline_miss_total'])} (+ {metrics['missed_cycles_total']:,} cycles)",
    )
    refused = sum(sum(each.values()) for each in metrics["vetoes_total"].values())
    grid.add_row(
        "ticks that nobody decided",
        f"{metrics['starved_ticks_total']:,}",
        "refused by routers",
        f"{refused:,}",
    )
    grid.add_row(
        "executor's version",
        f"{metrics['executor_version']}",
        "agreement",
        _share(metrics["executor_agreement"]),
    )
    if "distiller_steps_total" in metrics:
        grid.add_row(
            "labels",
            f"{metrics.get('labels_total', 0):,}",
            "gradient steps",
            f"{metrics['distiller_steps_total']:,}",
        )
    left = look.seconds * (1 / look.done - 1) if look.done else 0.0
    bar = ProgressBar(total=1.0, completed=look.done, width=60)
    foot = Text(f"{look.done:.0%}, {left:.0f} s left", style="dim")
    title = Text(f"{name}, {setting.clock} clock")
    return Panel(Group(grid, bar, foot), title=title, title_align="left")
