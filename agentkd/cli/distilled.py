"""What commands that distil show while they work and leave: the executor's file, the report."""

from __future__ import annotations

import contextlib
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from agentkd.cli.contracts import take_along
from agentkd.cli.options import told_again
from agentkd.cli.terminal import Facts, View, figure
from agentkd.deploy.bundle import read_bundle, write_bundle
from agentkd.deploy.contract import NAMES, Contract, check, parse
from agentkd.deploy.int8.calibrate import integer_form
from agentkd.deploy.vectors import STEPS
from agentkd.distillation.loop import Distilled
from agentkd.distillation.progress import Progress, Watch
from agentkd.distillation.task import Returns, Task
from agentkd.distillation.teachable import warning
from agentkd.distillation.terms import to_text
from agentkd.environments import make
from agentkd.errors import AgentkdError
from agentkd.executors.executor import Executor
from agentkd.measure.evaluate import record
from agentkd.measure.forms import acting_form
from agentkd.measure.intervals import mean_interval
from agentkd.measure.latency import measure
from agentkd.planners import Planner
from agentkd.report.console import publish
from agentkd.report.model import Column, Plot, Report, Section, Series, Table
from agentkd.report.returns import (
    COLUMNS,
    Goals,
    add_headline,
    cells,
    episodes_plot,
    levels,
    reached,
)
from agentkd.report.write import made_from
from agentkd.spec import Spec

_SECONDS = 0.1
"""How long the executor's decisions are timed."""
_TOLD = ("labels", "steps", "seconds", "interrupted", "fault", "unsaved")
"""Fields of a distillation that its report repeats."""


def distill_view(env: str, planner: Planner, executor: Executor) -> View:
    """Print the planner and the executor, and return the view of their distillation."""
    size, share = "unknown", ""
    if planner.parameters:
        size = f"{planner.parameters:,}"
        share = f" ({executor.parameters / planner.parameters:.1%} of the planner)"
    return View(
        (env, "bold"),
        "   planner ",
        (planner.name, "cyan"),
        f", {size} parameters   executor ",
        (executor.architecture, "cyan"),
        f", {executor.parameters:,} parameters{share}",
    )


@contextlib.contextmanager
def live(view: View, goals: Goals, logs: Any) -> Iterator[Watch]:
    """Show looks as they come; `logs` is a TensorBoard writer or None."""

    def tell(look: Progress) -> Facts:
        return _facts(look, goals)

    warned = False
    with view.follow("distilling", tell) as show:

        def watch(look: Progress) -> None:
            nonlocal warned
            if not warned and (said := warning(look.explained)):
                warned = True
                view.warn(said)
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
    names = ("executor_return", "agreement", "divergence", "learning_rate")
    curves = {name: getattr(look, name) for name in (*names, "labels_per_second", "planner_share")}
    return curves | {"retention": goals.retention(look.executor_return)}


def _facts(look: Progress, goals: Goals) -> Facts:
    facts = {
        "return": figure(look.executor_return),
        "retention": figure(goals.retention(look.executor_return), 3),
        "labels": f"{look.labels:,} ({look.labels_per_second:,.0f}/s)",
        "agreement": figure(look.agreement, 3),
        "planner, random": f"{figure(goals.planner)}, {figure(goals.random)}",
        "gradient steps": f"{look.steps:,} ({look.steps_per_second:,.0f}/s)",
        "divergence": figure(look.divergence, 4),
        "planner drives": f"{look.planner_share:.0%}",
    }
    if look.refused:
        facts["labels refused (NaN)"] = f"{look.refused:,}"
    return look.done, facts


def contract(options: Any, spec: Spec) -> Contract:
    """Read names, units and clock, and the contract of the planner's files.

    Where no clock is given, it is the contract's, or else the environment's own.

    Raises:
        ConfigError: If they do not fit the environment.
    """
    taken = take_along(options.contract, options.planner, options.saves, spec)
    period = options.period
    if period is None:
        period = taken.period or period_of(options.env)
    told = parse(options.names, options.units, period)
    given = {name: getattr(told, name) for name in NAMES if getattr(told, name)}
    told = replace(taken, period=period, **given)
    check(told, spec)
    return told


def period_of(env: str) -> float | None:
    """The time between two steps of an environment, seconds; None where none is told.

    Simulators of robots have it as `dt`; of others the frames a second are what their makers meant
    by a step's length.
    """
    try:
        made = make(env)
    except AgentkdError:
        return None
    try:
        told = getattr(made.unwrapped, "dt", None)
        frames = (made.metadata or {}).get("render_fps")
    finally:
        made.close()
    for period in (_number(told), 1 / (_number(frames) or math.inf)):
        if 0 < period < math.inf:
            return period
    return None


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0


def provenance(options: Any, task: Task, **more: Any) -> dict[str, Any]:
    """Return where an executor comes from. Nothing in it depends on time or speed."""
    planner = task.planner
    more["seed"] = options.seed
    return made_from(options.env, options.planner, planner.name, planner.digest, **more)


def _kept(returns: Returns, episodes: int) -> dict[str, Any]:
    """Return what the executor kept, with its interval; {} where it is not a number."""
    kept = returns.retention
    facts: dict[str, Any] = {}
    interval = {name: getattr(kept, name) for name in ("mean", "low", "high")}
    if all(map(math.isfinite, interval.values())):
        how = {"confidence": 0.95, "episodes": episodes, "seed": returns.seed}
        facts["retention"] = interval | how
    who = ("planner", "executor", "random")
    means = {name: mean_interval(getattr(returns, name)).mean for name in who}
    if all(map(math.isfinite, means.values())):
        facts["returns"] = means
    return facts


@final
@dataclass(frozen=True, slots=True)
class Ending:
    """The last part of a command that distils: measure, write, report.

    Attributes:
        options: What the report repeats.
        out: The folder.
        returns: What planner and random actions reached.
        facts: Where the executor comes from.
        contract: What its numbers mean.
    """

    options: Any
    task: Task
    out: Path
    view: View
    returns: Returns
    facts: Mapping[str, Any]
    contract: Contract

    def finish(
        self,
        result: Distilled,
        name: str = "the executor",
        *,
        measure: bool = True,
        integers: bool = False,
        more: Mapping[str, Any] | None = None,
        sections: Sequence[Section] = (),
    ) -> int:
        """Measure the executor, write its file with what it kept, and report.

        Args:
            result: The executor; its file is there already, without measurements.
            name: What it is called.
            measure: Whether the environment can be made.
            integers: Whether the report is of the integer form of the file.
            more: More values of report.json.
            sections: More sections of the page.

        Returns:
            The exit status: 1 after a fault, 130 after Ctrl-C.
        """
        options, executor = self.options, result.executor
        count, seed, returns = options.episodes, options.eval_seed, self.returns
        file = self.out / "executor.akd"
        if measure:
            self.view.say(f"Measuring {name} over {count} episodes …")
            try:
                lived = self.task.measure(executor.policy, count, seed)
                returns = replace(returns, executor=lived.returns)
                own = record(
                    options.env, executor.policy, steps=STEPS, seed=seed, spec=executor.spec
                )
                facts, told = {**self.facts, **_kept(returns, count)}, self.contract
                write_bundle(file, executor, facts, contract=told, golden=own, labels=result.kept)
                if integers:
                    # The file says what its floats keep, the report its integers.
                    policy = integer_form(read_bundle(file)).policy
                    lived = self.task.measure(policy, count, seed)
                    returns = replace(returns, executor=lived.returns)
                    self.view.say(f"It acts in integers: agentkd export {file} --to c-int8")
            except KeyboardInterrupt:
                result = replace(result, interrupted=True)
        self._report(result, returns, more or {}, sections)
        return 1 if result.fault else 130 if result.interrupted else 0

    def _report(
        self,
        result: Distilled,
        returns: Returns,
        more: Mapping[str, Any],
        sections: Sequence[Section],
    ) -> None:
        """Write the report and print its tables."""
        options, planner = self.options, result.planner
        known = [look.agreement for look in result.history if not math.isnan(look.agreement)]
        data: dict[str, Any] = {
            "command": "distill",
            **{name: getattr(options, name) for name in ("env", "seed", "eval_seed", "episodes")},
            **{name: getattr(result, name) for name in _TOLD},
            "planner": list(options.planner),
            "planner_name": planner.name,
            "planner_digest": planner.digest,
            "executor": str(self.out / "executor.akd"),
            "architecture": result.executor.architecture,
            "terms": to_text(result.terms),
            "planner_parameters": planner.parameters,
            "executor_parameters": result.executor.parameters,
            "labels_refused": result.refused,
            "planner_explained": result.explained,
            "agreement": known[-1] if known else math.nan,
            "collector_restarts_total": result.restarts,
            "steps_rejected_total": result.rejected,
            "labels_dropped_total": result.dropped,
            "decision_latency_us": _decision_latency(result.executor),
            **more,
        }
        figures = {
            name: reached(getattr(returns, name), returns.planner, returns.random)
            for name in ("planner", "executor", "random")
        }
        for name, each in figures.items():
            add_headline(data, name, each)
        command = [
            *["agentkd", "run", data["env"], "--planner", *data["planner"]],
            *told_again(self.options.saves),
            *["--executor", data["executor"], "--clock", "virtual", "--planner-latency", "4"],
        ]
        if not data["planner"]:
            command = ["agentkd", "eval", data["env"], data["executor"]]
        files = {"executor": data["executor"], "next:": shlex.join(command)}
        found = [_what_it_kept(data, figures), *_learnt(data, result)]
        found += [replace(each, detail=True) for each in sections]
        shown = {name: each for name, each in figures.items() if name != "random"}
        picture = episodes_plot(shown, [("random actions", data["random_return"])])
        made = Report(data, found, files, _lead(data), picture)
        publish(self.view.console, made, self.out)


def _lead(data: Mapping[str, Any]) -> str:
    """Say how much is kept, and at what size; "" where that was not measured."""
    low, high = data["retention_interval"]
    if not all(map(math.isfinite, (data["retention"], low, high))):
        return ""
    own, all_of = data["executor_parameters"], data["planner_parameters"]
    size = f"{own:,} of its {all_of:,} parameters" if all_of > own else f"{own:,} parameters"
    return (
        f"{data['retention']:.1%} of the planner kept, with {size}. The 95 % interval is "
        f"{low:.1%} … {high:.1%}."
    )


def _decision_latency(executor: Executor) -> dict[str, Any]:
    """Time one decision, native where there is a compiler, in µs."""
    form = acting_form(executor)
    (found,) = measure([form], executor.mean[None], seconds=_SECONDS, rounds=1)
    return {"form": form.name, **found.summary()}


def _what_it_kept(data: Mapping[str, Any], figures: Mapping[str, Any]) -> Section:
    rows = [
        [name, *cells(each), data.get(f"{name}_parameters") or None]
        for name, each in figures.items()
    ]
    columns = ("policy", *COLUMNS, Column("parameters", form=","))
    table = Table(columns, rows, f"{data['episodes']} episodes each, the same seeds.")
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
    if said := warning(data["planner_explained"]):
        notes.append(said)
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
    note = "Mean of the last 20 episodes that the executor drove from start to end."
    returns = line("executor", "executor_return")
    seconds = [look.seconds for look in looks]
    plots = (
        Plot("Return against labels", "labels", "return", (returns, *levels(labels, ends)), note),
        Plot(
            "Return against time",
            "seconds",
            "return",
            (replace(returns, x=seconds), *levels(seconds, ends)),
            note,
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
