"""`agentkd distill --executor auto`: the smallest executor that keeps enough."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.text import Text

from agentkd.cli import distilled
from agentkd.cli.distill_options import Options, collection, learning
from agentkd.cli.terminal import View
from agentkd.deploy.bundle import write_bundle
from agentkd.deploy.contract import Contract
from agentkd.distillation.auto.candidates import (
    DEFAULT,
    Candidate,
    Integers,
    Limits,
    Pruning,
    Step,
    front,
)
from agentkd.distillation.auto.search import Found, choosing_seed, search
from agentkd.distillation.int8 import FineTuning
from agentkd.distillation.loop import Distilled
from agentkd.distillation.task import Returns, Task
from agentkd.distillation.terms import to_text
from agentkd.distillation.terms.term import DivergenceTerm
from agentkd.errors import ConfigError
from agentkd.interrupt import held
from agentkd.report.console import show
from agentkd.report.model import Column, Plot, Section, Series, Table
from agentkd.report.write import prepare_out

_COLUMNS = (
    *("executor", Column("parameters", form=","), Column("bytes", form=",", spare=True)),
    *(Column("µs", form=".2f"), Column("retention", form=".3f")),
    *(Column("95 % interval", form=".3f"), "", Column("note", spare=True)),
)


def run_auto(options: Options, task: Task, out: Path, told: Sequence[float]) -> int:
    """Search, measure the pick on seeds that it was not chosen by, report.

    `told` are the planner's returns, if only a dataset tells them.
    """
    if options.int8 and options.most_us is not None:
        raise ConfigError(
            "--int8 and --most-us: no time on this machine is known of integers. Leave "
            "one of them out."
        )
    if not task.refs and not told:
        raise ConfigError(
            "The dataset does not tell what its planner returns: name it with "
            "--planner, or record with --episodes."
        )
    limits = Limits(options.most_parameters, options.most_bytes, options.most_us)
    end, learns, way = _end(options), learning(options), collection(options)
    contract = distilled.contract(options, task.spec)
    prepare_out(out, overwrite=options.overwrite)
    for stale in (out / "candidates").glob("*.akd"):
        stale.unlink()

    view = View((options.env, "bold"), "   planner ", (task.planner.name, "cyan"))
    # Chosen on some seeds and measured on others: the best of many is lucky on its own.
    choosing, count = choosing_seed(options.eval_seed), options.episodes
    view.say(f"Measuring planner and chance, 2 x {count} episodes …")

    def reached(seed: int) -> Returns:
        if task.refs:
            return task.references(count, seed)
        return Returns(tuple(told), task.measure(None, count, seed).returns, seed)

    goals, returns = reached(choosing), reached(options.eval_seed)
    found = search(
        task,
        goals,
        options.candidates or DEFAULT,
        target=options.target,
        limits=limits,
        seed=options.seed,
        options=learns,
        collection=way,
        further=_steps(options, learns, view),
        watch=partial(_tell, view),
        **end,
    )
    facts = distilled.provenance(options, task, labels=found.labels)
    with held():
        _write_front(out, found, facts, contract)
    section = _section(found, options.target)
    show(view.console, section)
    picked = found.chosen.made
    last = distilled.distill_view(options.env, task.planner, picked.executor)
    ending = distilled.Ending(options, task, out, last, returns, facts, contract)
    counts = found.labels, found.chosen.steps, found.seconds, found.interrupted
    result = Distilled(picked.executor, task.planner, *counts)
    more: Any = {"more": _data(options, found), "sections": [section]}
    return ending.finish(result, picked.name, integers=picked.elsewhere, **more)


def _end(options: Options) -> dict[str, Any]:
    """Return how long to search, as `search` takes it."""
    if options.labels is not None or options.steps is not None:
        fixed = (options.labels is None) == (options.data is not None)
        if options.seconds is not None or options.steps is None or not fixed:
            raise ConfigError("With auto: --seconds, or --labels and --steps; with --data --steps.")
        return {"labels": options.labels, "steps": options.steps}
    return {"seconds": options.seconds}


def _steps(options: Options, learning: Any, view: View) -> list[Step]:
    """What is tried on the smallest that keeps the target, in this order."""
    steps: list[Step] = []
    eighth = None if options.steps is None else max(1, options.steps // 8)
    if options.prune:
        steps.append(Pruning(steps=eighth))
    if options.int8:
        tuning = FineTuning(seed=options.seed, terms=_divergences(learning))
        if eighth is not None:
            tuning = replace(tuning, steps=eighth)

        def told(why: str) -> None:
            view.say(f"Not in integers: {why}")

        steps.append(Integers(tuning, timed=eighth is None, told=told))
    return steps


def _divergences(learning: Any) -> str:
    """Of what is minimised, the terms that integers are fitted by."""
    floor = [each for each in learning.sum() if isinstance(each.term, DivergenceTerm)]
    return to_text(tuple(floor)) if floor else "match"


def _tell(view: View, text: str, measured: Sequence[Candidate]) -> None:
    if text:
        view.say(text)
    for each in measured:
        learnt = (f"{each.steps:>8,} steps, {each.labels:,} labels", "dim")
        kept = f"  {each.name:<24} {each.kept.mean:6.3f}  "
        view.console.print(Text.assemble(kept, learnt))


def _write_front(out: Path, found: Found, facts: Mapping[str, Any], contract: Contract) -> None:
    """Write the executors of the front, and the one that was picked."""
    for each in front(found.candidates):
        name = re.sub(r"\W+", "-", each.name).strip("-")
        path = out / "candidates" / f"{name}.akd"
        write_bundle(path, each.made.executor, facts, contract=contract)
    picked = found.chosen.made.executor
    write_bundle(out / "executor.akd", picked, facts, contract=contract)


def _data(options: Options, found: Found) -> dict[str, Any]:
    on_front = {each.name for each in front(found.candidates)}
    return {
        "target": options.target,
        "why": found.why,
        "left_out": dict(found.left_out),
        "candidates": [
            {
                **{name: getattr(each, name) for name in ("name", "labels", "steps", "note")},
                "parameters": each.cost.parameters,
                "bytes": each.cost.bytes,
                "decision_us": each.cost.microseconds,
                "retention": each.kept.mean,
                "retention_interval": [each.kept.low, each.kept.high],
                "front": each.name in on_front,
            }
            for each in found.candidates
        ],
    }


def _section(found: Found, target: float) -> Section:
    best = front(found.candidates)
    marks = {each.name: "front" for each in best} | {found.chosen.name: "picked"}
    rows = [
        [
            *(each.name, each.cost.parameters, each.cost.bytes, each.cost.microseconds),
            *(each.kept.mean, (each.kept.low, each.kept.high)),
            *(marks.get(each.name, ""), each.note),
        ]
        for each in found.candidates
    ]

    def plot(title: str, label: str, field: str) -> Plot:
        def value(each: Candidate) -> float:
            return float(getattr(each.cost, field))

        known = [each for each in found.candidates if math.isfinite(value(each))]
        line = Series("front", [value(e) for e in best], [e.kept.mean for e in best])
        costs = [value(each) for each in known]
        level = Series("target", [min(costs), max(costs)], [target, target])
        points = (
            Series(e.name, [value(e)], [e.kept.mean], [e.kept.low], [e.kept.high]) for e in known
        )
        note = "95 % over episodes. Those that dropped out early learnt less."
        lines = (*([line] if len(best) > 1 else []), level, *points)
        return Plot(title, label, "retention", lines, note, kind="points", log=True)

    return Section(
        "The smallest that keeps enough",
        found.why,
        Table(_COLUMNS, rows, "Measured on the seeds by which was chosen."),
        (
            plot("Retention over size", "parameters", "parameters"),
            plot("Retention over time", "one decision, µs", "microseconds"),
        ),
        tuple(f"{left} was left out: {reason}." for left, reason in found.left_out.items()),
    )
