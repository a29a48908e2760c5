"""`agentkd distill --executor auto`: the smallest executor that keeps enough."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table as Grid
from rich.text import Text

from agentkd.cli import distill_file
from agentkd.cli.distill_report import write
from agentkd.cli.distill_view import DistillView
from agentkd.cli.planner_choice import reference
from agentkd.cli.terminal import Console
from agentkd.deploy.bundle import read_bundle, write_bundle
from agentkd.deploy.int8.calibrate import integer_form
from agentkd.distillation.auto.candidates import (
    DEFAULT,
    Candidate,
    Integers,
    Limits,
    Pruning,
    Step,
    front,
)
from agentkd.distillation.auto.search import Effort, Found, References, choosing_seed, search
from agentkd.distillation.int8 import FineTuning
from agentkd.distillation.terms import DivergenceTerm, to_text
from agentkd.errors import ConfigError
from agentkd.interrupt import held
from agentkd.measure.evaluate import Evaluation, evaluate, evaluate_random
from agentkd.report.model import Plot, Section, Series, Table
from agentkd.report.provenance import origin
from agentkd.report.write import prepare_out

if TYPE_CHECKING:
    from agentkd.cli.distill import Options
    from agentkd.deploy.contract import Contract
    from agentkd.distillation.dataset import Dataset

_COLUMNS = ("executor", "parameters", "bytes", "µs", "retention", "95 % interval", "")
_SHOWN = (0, 1, 3, 4, 5, 6)
"""The rest is in the report: on a terminal all has to fit 80 columns."""


def run_auto(options: Options) -> int:
    """Search, measure the pick on seeds that it was not chosen by, report."""
    from agentkd.cli.distill import distiller_options, opened_as
    from agentkd.cli.distill_data import check
    from agentkd.cli.first_look import out_folder
    from agentkd.distillation.loop import Distilled
    from agentkd.distillation.offline import by_name, open_dataset
    from agentkd.distillation.source import CollectionOptions
    from agentkd.environments import look_at, named_by_file
    from agentkd.planners import load_planner

    named = bool(options.planner)
    if options.resume:
        raise ConfigError("A search does not go on from an earlier one: no --resume.")
    data: Dataset | None = None
    if options.data is None:
        spec = look_at(options.env)[0]
    else:
        about = open_dataset(options.data, options.env).about
        refs = () if "minari" in about.more else about.refs
        env = options.env or named_by_file(about.env)
        options = replace(options, env=env, planner=options.planner or refs)
        spec = look_at(options.env)[0]
        check(spec, about, options.env)
        data = open_dataset(str(options.data), options.env, spec)
    if options.int8 and options.most_us is not None:
        raise ConfigError(
            "--int8 and --most-us: no time on this machine is known of integers. Leave "
            "one of them out."
        )
    out = out_folder("distill", options.env, options.out)
    limits = Limits(options.most_parameters, options.most_bytes, options.most_us)
    effort = _effort(options)
    learning = distiller_options(options)
    collection = CollectionOptions(
        environments=options.environments,
        halving=options.halving,
        least_share=options.planner_share,
        schedule=options.schedule,
    )
    known = None
    if named or data is None:
        known = load_planner(reference(options), spec, **opened_as(options))
    contract = distill_file.contract(options, spec)
    prepare_out(out, overwrite=options.overwrite)
    for stale in (out / "candidates").glob("*.akd"):
        stale.unlink()

    console = Console()
    told = known if data is None or known is not None else by_name(data)
    assert told is not None
    console.print(Text.assemble((options.env, "bold"), "   planner ", (told.name, "cyan")))
    count = options.episodes
    # Chosen on some seeds and measured on others: the best of many is lucky on its own.
    choosing = choosing_seed(options.eval_seed)
    console.print(f"Measuring planner and chance, 2 x {count} episodes …", style="dim")
    (best, floor), (planner, random) = (
        _both(options, known, data, spec, seed) for seed in (choosing, options.eval_seed)
    )
    found = search(
        options.env,
        known,
        References(best.returns, floor.returns, choosing),
        options.candidates or DEFAULT,
        target=options.target,
        limits=limits,
        effort=effort,
        seed=options.seed,
        options=learning,
        collection=collection,
        steps=_steps(options, learning, console),
        data=data,
        watch=lambda text, measured: _tell(console, text, measured),
    )
    with held():
        provenance = _write_front(options, out, found, contract)
    chosen = found.chosen.made.executor
    console.print(_grid(found))
    for name, reason in found.left_out.items():
        console.print(Text(f"{name} was left out: {reason}.", "dim"))
    console.print(Text(found.why, "bold"))
    view = DistillView(options.env, told, chosen)
    view.say(f"Measuring {found.chosen.name} over {count} other episodes …")
    file = out / "executor.akd"
    executor, interrupted = Evaluation((), ()), found.interrupted
    try:
        executor = _reached(options, chosen.policy)
        facts = provenance | distill_file.measured(planner, random, executor, options)
        distill_file.write_proven(file, chosen, facts, contract, options)
        if found.chosen.made.elsewhere:
            # The file tells what its floats keep, the report what its integers do.
            executor = _reached(options, integer_form(read_bundle(file)).policy)
            view.say(f"It acts in integers: agentkd export {file} --to c-int8")
    except KeyboardInterrupt:
        interrupted = True
    result = Distilled(
        executor=chosen,
        planner=told,
        labels=found.labels,
        steps=found.chosen.steps,
        seconds=found.seconds,
        refused=0,
        interrupted=interrupted,
        fault="",
        restarts=0,
        rejected=0,
        dropped=0,
        unsaved="",
        history=(),
    )
    return write(
        options,
        out,
        result,
        planner,
        random,
        executor,
        view,
        _data(options, found),
        [_section(found, options.target)],
    )


def _reached(options: Options, policy: Any) -> Evaluation:
    return evaluate(options.env, policy, episodes=options.episodes, seed=options.eval_seed)


def _both(
    options: Options, known: Any, data: Any, spec: Any, seed: int
) -> tuple[Evaluation, Evaluation]:
    """What planner and random actions get on some seeds.

    Of a planner that is known by its labels only it is what the dataset tells.
    """
    floor = evaluate_random(options.env, episodes=options.episodes, seed=seed)
    if known is None:
        if not data.about.planner_returns:
            raise ConfigError(
                "The dataset does not tell what its planner returns: name it with "
                "--planner, or record with --episodes."
            )
        return Evaluation(data.about.planner_returns, ()), floor
    best = evaluate(options.env, known.policy, episodes=options.episodes, seed=seed, spec=spec)
    return best, floor


def _effort(options: Options) -> Effort:
    if options.labels is not None or options.steps is not None:
        fixed = (options.labels is None) == (options.data is not None)
        if options.seconds is not None or options.steps is None or not fixed:
            raise ConfigError("With auto: --seconds, or --labels and --steps; with --data --steps.")
        return Effort(labels=options.labels, steps=options.steps)
    return Effort(seconds=120.0 if options.seconds is None else options.seconds)


def _steps(options: Options, learning: Any, console: Console) -> list[Step]:
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
            console.print(Text(f"Not in integers: {why}", "dim"))

        steps.append(Integers(tuning, timed=eighth is None, told=told))
    return steps


def _divergences(learning: Any) -> str:
    """Of what is minimised, the terms that integers are fitted by."""
    floor = [each for each in learning.sum() if isinstance(each.term, DivergenceTerm)]
    return to_text(tuple(floor)) if floor else "match"


def _tell(console: Console, text: str, measured: Sequence[Candidate]) -> None:
    if text:
        console.print(Text(text, "dim"))
    for each in measured:
        console.print(
            Text.assemble(
                f"  {each.name:<24} {each.kept.mean:6.3f}  ",
                (f"{each.steps:>8,} steps, {each.labels:,} labels", "dim"),
            )
        )


def _cells(found: Found) -> list[list[str]]:
    on_front = {each.name for each in front(found.candidates)}
    rows = []
    for each in found.candidates:
        note = each.note
        if each.name in on_front:
            note = f"front; {note}" if note else "front"
        if each is found.chosen:
            note = "picked"
        rows.append(
            [
                each.name,
                f"{each.cost.parameters:,}",
                f"{each.cost.bytes:,}",
                f"{each.cost.microseconds:.2f}".replace("nan", "–"),
                f"{each.kept.mean:.3f}",
                f"{each.kept.low:.3f}–{each.kept.high:.3f}",
                note,
            ]
        )
    return rows


def _grid(found: Found) -> Grid:
    grid = Grid(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for index in _SHOWN:
        number = 0 < index < 6
        justify: Literal["left", "right"] = "right" if number else "left"
        grid.add_column(_COLUMNS[index], justify=justify, no_wrap=True)
    for cells in _cells(found):
        mark = cells[-1] if cells[-1] in ("picked", "front") else ""
        shown = [*(cells[index] for index in _SHOWN[:-1]), mark]
        grid.add_row(*shown, style="bold" if mark == "picked" else "")
    return grid


def _write_front(options: Options, out: Path, found: Found, contract: Contract) -> dict[str, Any]:
    """Write the executors of the front, and the one that was picked.

    Returns:
        Where they came from.
    """
    provenance = {
        "env": options.env,
        "planner": {"refs": list(options.planner), "name": found.planner.name},
        "planner_digest": found.planner.digest,
        "labels": found.labels,
        "seed": options.seed,
        "command": ["agentkd", *sys.argv[1:]],
        "versions": origin()["versions"],
    }
    for each in front(found.candidates):
        name = re.sub(r"\W+", "-", each.name).strip("-")
        path = out / "candidates" / f"{name}.akd"
        write_bundle(path, each.made.executor, provenance, contract=contract)
    picked = found.chosen.made.executor
    write_bundle(out / "executor.akd", picked, provenance, contract=contract)
    return provenance


def _data(options: Options, found: Found) -> dict[str, Any]:
    on_front = {each.name for each in front(found.candidates)}
    return {
        "target": options.target,
        "why": found.why,
        "left_out": dict(found.left_out),
        "candidates": [
            {
                "name": each.name,
                "parameters": each.cost.parameters,
                "bytes": each.cost.bytes,
                "decision_us": each.cost.microseconds,
                "retention": each.kept.mean,
                "retention_interval": [each.kept.low, each.kept.high],
                "labels": each.labels,
                "steps": each.steps,
                "front": each.name in on_front,
                "note": each.note,
            }
            for each in found.candidates
        ],
    }


def _section(found: Found, target: float) -> Section:
    best = front(found.candidates)
    ends: dict[str, list[float]] = {
        "parameters": [float(each.cost.parameters) for each in found.candidates],
        "microseconds": [
            each.cost.microseconds
            for each in found.candidates
            if math.isfinite(each.cost.microseconds)
        ],
    }

    def plot(title: str, label: str, field: str) -> Plot:
        def value(each: Candidate) -> float:
            return float(getattr(each.cost, field))

        known = [each for each in found.candidates if math.isfinite(value(each))]
        line = Series("front", [value(e) for e in best], [e.kept.mean for e in best])
        joining = (line,) if len(best) > 1 else ()
        span = [min(ends[field]), max(ends[field])]
        return Plot(
            title,
            label,
            "retention",
            (
                *joining,
                Series("target", span, [target, target]),
                *(
                    Series(e.name, [value(e)], [e.kept.mean], [e.kept.low], [e.kept.high])
                    for e in known
                ),
            ),
            "95 % over episodes. Those that dropped out early learnt less.",
            kind="points",
            log=True,
        )

    return Section(
        "The smallest that keeps enough",
        found.why,
        Table(_COLUMNS, _cells(found), "Measured on the seeds by which was chosen."),
        (
            plot("Retention over size", "parameters", "parameters"),
            plot("Retention over time", "one decision, µs", "microseconds"),
        ),
    )
