"""The end of a distillation: the executor's file, its measurement, the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from agentkd.cli.distill_report import write
from agentkd.cli.distill_view import DistillView
from agentkd.cli.options.distill import Options
from agentkd.deploy.bundle import read_bundle, write_bundle
from agentkd.deploy.contract import Contract, check, parse
from agentkd.deploy.int8.calibrate import integer_form
from agentkd.deploy.vectors import STEPS
from agentkd.distillation.loop import Distilled
from agentkd.distillation.task import Task
from agentkd.environments import make
from agentkd.errors import AgentkdError
from agentkd.executors.executor import Executor
from agentkd.measure.evaluate import Evaluation, record
from agentkd.measure.intervals import mean_interval, retention
from agentkd.report.model import Section
from agentkd.report.provenance import made_from
from agentkd.spec import Spec
from agentkd.types import Labels

_NOTHING = Evaluation((), ())


def contract(options: Options, spec: Spec) -> Contract:
    """Read names, units and clock; where no clock is given, the environment's own.

    Raises:
        ConfigError: If they do not fit the environment.
    """
    period = options.period if options.period is not None else period_of(options.env)
    told = parse(options.names, options.units, period)
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


def write_proven(
    file: Path,
    executor: Executor,
    facts: Mapping[str, Any],
    told: Contract,
    options: Any,
    labels: Labels | None = None,
) -> None:
    """Write an executor's file with golden vectors of episodes that it lives."""
    own = record(
        options.env, executor.policy, steps=STEPS, seed=options.eval_seed, spec=executor.spec
    )
    write_bundle(file, executor, facts, contract=told, golden=own, labels=labels)


def measured(
    planner: Evaluation, random: Evaluation, executor: Evaluation, options: Any
) -> dict[str, Any]:
    """Return what the executor kept, with its interval; {} where it is no number."""
    kept = retention(executor.returns, planner.returns, random.returns)
    each = {"planner": planner, "executor": executor, "random": random}
    returns = {name: mean_interval(one.returns).mean for name, one in each.items()}
    facts: dict[str, Any] = {}
    if all(map(math.isfinite, (kept.mean, kept.low, kept.high))):
        facts["retention"] = {
            "mean": kept.mean,
            "low": kept.low,
            "high": kept.high,
            "confidence": 0.95,
            "episodes": options.episodes,
            "seed": options.eval_seed,
        }
    if all(map(math.isfinite, returns.values())):
        facts["returns"] = returns
    return facts


@final
@dataclass(frozen=True, slots=True)
class Ending:
    """The last part of a command that distils: measure, write, report.

    Attributes:
        options: What the report repeats.
        task: What was distilled.
        out: The folder.
        view: What is written on.
        planner: What the planner reached.
        random: What random actions reached.
        facts: Where the executor comes from.
        contract: What its numbers mean.
    """

    options: Any
    task: Task
    out: Path
    view: DistillView
    planner: Evaluation
    random: Evaluation
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
            more: More of the report.
            sections: More sections of it.

        Returns:
            The exit status.
        """
        options, task, view = self.options, self.task, self.view
        file, chosen = self.out / "executor.akd", result.executor
        count, seed = options.episodes, options.eval_seed
        executor = _NOTHING
        if measure:
            view.say(f"Measuring {name} over {count} episodes …")
            try:
                executor = task.measure(chosen.policy, count, seed)
                kept = measured(self.planner, self.random, executor, options)
                facts = {**self.facts, **kept}
                write_proven(file, chosen, facts, self.contract, options, result.kept)
                if integers:
                    # The file says what its floats keep, the report its integers.
                    policy = integer_form(read_bundle(file)).policy
                    executor = task.measure(policy, count, seed)
                    view.say(f"It acts in integers: agentkd export {file} --to c-int8")
            except KeyboardInterrupt:
                result = replace(result, interrupted=True)
        return write(
            options,
            self.out,
            result,
            self.planner,
            self.random,
            executor,
            view,
            more,
            sections,
            votes=getattr(options, "votes", None) or 1,
        )
