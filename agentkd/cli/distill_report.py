"""What a distillation leaves behind: the report and the last lines on the screen."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from rich.table import Table as Grid
from rich.text import Text

from agentkd.cli.distill_view import DistillView
from agentkd.distillation.terms import to_text
from agentkd.executors.acting import NumpyForm, form
from agentkd.measure.evaluate import Evaluation
from agentkd.measure.intervals import Interval, mean_interval, retention
from agentkd.report.report import Plot, Section, Series, Table, write_report

if TYPE_CHECKING:
    from agentkd.distillation.loop import Distilled

_CALLS = 3000


class Told(Protocol):
    """The options that a report repeats."""

    @property
    def env(self) -> str:
        """The environment."""
        ...

    @property
    def planner(self) -> tuple[str, ...]:
        """References to the planner."""
        ...

    @property
    def seed(self) -> int:
        """Of the run."""
        ...

    @property
    def eval_seed(self) -> int:
        """The first of the seeds measured on."""
        ...

    @property
    def episodes(self) -> int:
        """How many episodes were measured."""
        ...


def decision_latency(result: Distilled) -> dict[str, float | str]:
    """Time one decision of the executor, native where that is to be had, in µs."""
    acting = form(result.executor)
    acting.obs[:] = result.executor.mean
    times = np.empty(_CALLS)
    for index in range(_CALLS):
        start = time.perf_counter_ns()
        acting.run()
        acting.take()
        times[index] = (time.perf_counter_ns() - start) / 1000
    p50, p99, p999 = np.percentile(times, [50, 99, 99.9])
    name = "NumPy" if isinstance(acting, NumpyForm) else "native"
    return {"form": name, "p50": float(p50), "p99": float(p99), "p99.9": float(p999)}


def write(
    options: Told,
    out: Path,
    result: Distilled,
    planner: Evaluation,
    random: Evaluation,
    executor: Evaluation,
    view: DistillView,
    more: Mapping[str, Any] | None = None,
    sections: Sequence[Section] = (),
    votes: int = 1,
) -> int:
    """Write report.json and report.html, and print the table that people read.

    `more` and `sections` are added to the one and to the other.
    """
    returns = {
        "planner": mean_interval(planner.returns),
        "executor": mean_interval(executor.returns),
        "random": mean_interval(random.returns),
    }
    kept = retention(executor.returns, planner.returns, random.returns)
    latency = decision_latency(result)
    agreement = next(
        (p.agreement for p in reversed(result.history) if p.agreement == p.agreement), math.nan
    )
    data: dict[str, Any] = {
        "command": "distill",
        "env": options.env,
        "planner": list(options.planner),
        "planner_name": result.planner.name,
        "planner_digest": result.planner.digest,
        "executor": str(out / "executor.akd"),
        "architecture": result.executor.architecture,
        "terms": to_text(result.terms),
        "seed": options.seed,
        "eval_seed": options.eval_seed,
        "episodes": options.episodes,
        "retention": kept.mean,
        "retention_interval": [kept.low, kept.high],
        "planner_parameters": result.planner.parameters,
        "executor_parameters": result.executor.parameters,
        "labels": result.labels,
        "planner_queries": result.labels * votes,
        "labels_refused": result.refused,
        "steps": result.steps,
        "seconds": result.seconds,
        "agreement": agreement,
        "interrupted": result.interrupted,
        "fault": result.fault,
        "collector_restarts_total": result.restarts,
        "steps_rejected_total": result.rejected,
        "labels_dropped_total": result.dropped,
        "unsaved": result.unsaved,
        "decision_latency_us": latency,
        **(more or {}),
    }
    for name, interval in returns.items():
        data[f"{name}_return"] = interval.mean
        data[f"{name}_return_interval"] = [interval.low, interval.high]
    data["returns"] = {
        "planner": list(planner.returns),
        "executor": list(executor.returns),
        "random": list(random.returns),
    }
    write_report(out, data, [*_sections(data, returns, kept, result), *sections])
    _print(view, data, returns, kept, out)
    if result.fault:
        return 1
    return 130 if result.interrupted else 0


def _sections(
    data: dict[str, Any], returns: dict[str, Interval], kept: Interval, result: Distilled
) -> list[Section]:
    looks = result.history
    labels = [look.labels for look in looks]
    span = [labels[0], labels[-1]] if labels else []

    def level(name: str) -> Series:
        value = returns[name].mean
        return Series(name, span, [value for _ in span])

    curve = Plot(
        title="Return while it learns",
        x_label="labels",
        y_label="return",
        series=(
            Series("executor", labels, [look.executor_return for look in looks]),
            level("planner"),
            level("random"),
        ),
        note="Mean of the last 20 episodes that the executor drove from start to end.",
    )
    agreement = Plot(
        title="Agreement with the planner",
        x_label="labels",
        y_label="agreement, 0 to 1",
        series=(Series("agreement", labels, [look.agreement for look in looks]),),
        note="On states that the executor had not learnt from.",
    )
    divergence = Plot(
        title="Divergence from the planner",
        x_label="gradient steps",
        y_label="divergence",
        series=(
            Series(
                "divergence", [look.steps for look in looks], [look.divergence for look in looks]
            ),
        ),
        note="",
    )
    rows = [[name, f"{r.mean:.1f}", f"[{r.low:.1f}, {r.high:.1f}]"] for name, r in returns.items()]
    table = Table(
        columns=["policy", "return", "95 % interval"],
        rows=rows,
        caption=f"{data['episodes']} episodes each, the same seeds.",
    )
    ended = " It was interrupted; this is what it had learnt." if result.interrupted else ""
    text = (
        f"The executor keeps {kept.mean:.1%} of the planner's return above random "
        f"play, with {data['executor_parameters']:,} parameters instead of "
        f"{data['planner_parameters']:,}, after {result.labels:,} labels.{ended}"
    )
    kept_most = Section("What it kept", text, table, ())
    if not looks:
        return [kept_most]
    plots = (curve, agreement, divergence)
    return [kept_most, Section("How it learnt", "", None, plots)]


def _print(
    view: DistillView, data: dict[str, Any], returns: dict[str, Interval], kept: Interval, out: Path
) -> None:
    grid = Grid(title=None, show_edge=False, pad_edge=False)
    for column in ("", "return", "95 % interval", "parameters"):
        grid.add_column(column, justify="right" if column else "left")
    sizes = {
        "planner": f"{data['planner_parameters']:,}",
        "executor": f"{data['executor_parameters']:,}",
    }
    for name, r in returns.items():
        grid.add_row(name, f"{r.mean:.1f}", f"{r.low:.1f} … {r.high:.1f}", sizes.get(name, ""))
    latency = data["decision_latency_us"]
    console = view.console
    console.print(grid)
    console.print(
        Text.assemble(
            "retention ",
            (f"{kept.mean:.3f}", "bold"),
            f" ({kept.low:.3f} … {kept.high:.3f})   "
            f"{data['labels']:,} labels in {data['seconds']:.1f} s   one decision "
            f"{latency['p50']:.2f} µs ({latency['form']})",
        )
    )
    if not data["steps"]:
        text = "Nothing was learnt: there were too few labels."
        console.print(text, style="red")
    if data["steps_rejected_total"]:
        console.print(
            f"{data['steps_rejected_total']:,} gradient steps ended in NaN or "
            "infinity and were undone.",
            style="yellow",
        )
    if data["unsaved"]:
        console.print(Text(f"No way to resume: {data['unsaved']}", style="yellow"))
    if data["interrupted"]:
        console.print("Ended early: this is what it had learnt.", style="yellow")
        if data["fault"]:
            console.print(Text(data["fault"], style="red"))
        again = ("Go on with the same command and", "dim")
        console.print(Text.assemble(again, " --resume"))
    file = str(out / "executor.akd")
    command = [
        *["agentkd", "run", data["env"], "--planner", *data["planner"]],
        *["--executor", file, "--clock", "virtual", "--planner-latency", "4"],
    ]
    if not data["planner"]:
        command = ["agentkd", "eval", data["env"], file]
    # Unbroken and as text: they are there to be copied.
    for name, text in (
        ("executor", file),
        ("report", str(out / "report.html")),
        ("next:", shlex.join(command)),
    ):
        console.print(Text(f"{name:<10}{text}"), soft_wrap=True)
