"""The report of a distillation."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentkd.cli.distill_view import DistillView
from agentkd.cli.returns import COLUMNS, add_headline, cells, levels, reached
from agentkd.distillation.terms import to_text
from agentkd.measure.evaluate import Evaluation
from agentkd.measure.forms import acting_form
from agentkd.measure.latency import measure
from agentkd.report.console import publish
from agentkd.report.model import Column, Plot, Report, Section, Series, Table

if TYPE_CHECKING:
    from agentkd.distillation.loop import Distilled

_SECONDS = 0.1
"""How long the executor's decisions are timed."""


def decision_latency(result: Distilled) -> dict[str, Any]:
    """Time one decision of the executor, native where there is a compiler, in µs."""
    form = acting_form(result.executor)
    (found,) = measure([form], result.executor.mean[None], seconds=_SECONDS, rounds=1)
    return {"form": form.name, **found.summary()}


def write(
    options: Any,
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
    """Write the report and print its tables.

    Args:
        options: The command's: env, planner, seed, eval_seed and episodes.
        out: The folder.
        result: What was learnt.
        planner: The planner's episodes.
        random: Those of random actions.
        executor: The executor's.
        view: Where to print.
        more: Values to add to report.json.
        sections: Sections to add to the page.
        votes: How often the planner was asked for each label.

    Returns:
        The command's exit status: 1 after a fault, 130 after Ctrl-C.
    """
    lived = {"planner": planner, "executor": executor, "random": random}
    known = [p.agreement for p in result.history if not math.isnan(p.agreement)]
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
        "planner_parameters": result.planner.parameters,
        "executor_parameters": result.executor.parameters,
        "labels": result.labels,
        "planner_queries": result.labels * votes,
        "labels_refused": result.refused,
        "steps": result.steps,
        "engine": result.engine,
        "seconds": result.seconds,
        "agreement": known[-1] if known else math.nan,
        "interrupted": result.interrupted,
        "fault": result.fault,
        "collector_restarts_total": result.restarts,
        "steps_rejected_total": result.rejected,
        "labels_dropped_total": result.dropped,
        "unsaved": result.unsaved,
        "decision_latency_us": decision_latency(result),
    } | dict(more or {})
    figures = {
        name: reached(each.returns, planner.returns, random.returns) for name, each in lived.items()
    }
    for name, each in figures.items():
        add_headline(data, name, each)
    command = [
        *["agentkd", "run", data["env"], "--planner", *data["planner"]],
        *["--executor", data["executor"], "--clock", "virtual"],
        *["--planner-latency", "4"],
    ]
    if not data["planner"]:
        command = ["agentkd", "eval", data["env"], data["executor"]]
    files = {"executor": data["executor"], "next:": shlex.join(command)}
    more_sections = [replace(each, detail=True) for each in sections]
    found = [_kept(data, figures), *_learnt(data, result), *more_sections]
    publish(view.console, Report(data, found, files), out)
    return 1 if result.fault else 130 if result.interrupted else 0


def _kept(data: Mapping[str, Any], figures: Mapping[str, Any]) -> Section:
    rows = [
        [name, *cells(each), data.get(f"{name}_parameters") or None]
        for name, each in figures.items()
    ]
    table = Table(
        ["policy", *COLUMNS, Column("parameters", form=",")],
        rows,
        f"{data['episodes']} episodes each, the same seeds.",
    )
    latency = data["decision_latency_us"]
    low, high = data["retention_interval"]
    text = (
        f"retention {data['retention']:.3f} ({low:.3f} … {high:.3f})   "
        f"{data['labels']:,} labels in {data['seconds']:.1f} s   one decision "
        f"{latency['p50']:.2f} µs ({latency['form']})"
    )
    notes = []
    if not data["steps"]:
        notes.append("Nothing was learnt: there were too few labels.")
    if data["steps_rejected_total"]:
        notes.append(
            f"{data['steps_rejected_total']:,} gradient steps ended in NaN or "
            "infinity and were undone."
        )
    if data["unsaved"]:
        notes.append(f"No way to resume: {data['unsaved']}")
    if data["interrupted"]:
        notes += [data["fault"]] if data["fault"] else []
        notes.append(
            "Ended early: this is what it had learnt. Go on with the same command and --resume"
        )
    return Section("What it kept", text, table, notes=tuple(notes))


def _learnt(data: Mapping[str, Any], result: Distilled) -> list[Section]:
    """Return the curves, if there are any."""
    looks = result.history
    if not looks:
        return []
    labels = [look.labels for look in looks]

    def line(name: str, field: str) -> Series:
        return Series(name, labels, [getattr(look, field) for look in looks])

    ends = {name: data[f"{name}_return"] for name in ("planner", "random")}
    plots = (
        Plot(
            "Return while it learns",
            "labels",
            "return",
            (line("executor", "executor_return"), *levels(labels, ends)),
            "Mean of the last 20 episodes that the executor drove from start to end.",
        ),
        Plot(
            "Agreement with the planner",
            "labels",
            "agreement, 0 to 1",
            (line("agreement", "agreement"),),
            "On states that the executor had not learnt from.",
        ),
        Plot(
            "Divergence from the planner",
            "gradient steps",
            "divergence",
            (replace(line("divergence", "divergence"), x=[e.steps for e in looks]),),
        ),
    )
    return [Section("How it learnt", plots=plots, detail=True)]
