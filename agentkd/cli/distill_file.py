"""What a distillation writes about its executor, in the executor's own file."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from agentkd.deploy.bundle import write_bundle
from agentkd.deploy.contract import Contract, check, parse
from agentkd.deploy.vectors import STEPS
from agentkd.environments import make
from agentkd.errors import AgentkdError
from agentkd.measure.evaluate import Evaluation
from agentkd.measure.intervals import mean_interval, retention
from agentkd.measure.recording import record
from agentkd.report.provenance import origin

if TYPE_CHECKING:
    from agentkd.cli.distill import Options
    from agentkd.distillation.loop import Distilled
    from agentkd.executors.executor import Executor
    from agentkd.planners import Planner
    from agentkd.spec import Spec
    from agentkd.types import Labels


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


def provenance(options: Options, known: Planner, result: Distilled) -> dict[str, Any]:
    """Where the executor came from. Nothing in it depends on when or how fast."""
    return {
        "env": options.env,
        "planner": {"refs": list(options.planner), "name": known.name},
        "planner_digest": known.digest,
        "labels": result.labels,
        "seed": options.seed,
        "command": ["agentkd", *sys.argv[1:]],
        "versions": origin()["versions"],
    }


class Measuring(Protocol):
    """The options that say how executors are measured."""

    @property
    def env(self) -> str:
        """The environment."""
        ...

    @property
    def episodes(self) -> int:
        """How many episodes were measured."""
        ...

    @property
    def eval_seed(self) -> int:
        """The first of the seeds measured on."""
        ...


def write_proven(
    file: Path,
    executor: Executor,
    facts: Mapping[str, Any],
    told: Contract,
    options: Measuring,
    labels: Labels | None = None,
) -> None:
    """Write an executor's file with golden vectors of episodes that it lives."""
    own = record(
        options.env, executor.policy, steps=STEPS, seed=options.eval_seed, spec=executor.spec
    )
    write_bundle(file, executor, facts, contract=told, golden=own, labels=labels)


def measured(
    planner: Evaluation, random: Evaluation, executor: Evaluation, options: Measuring
) -> dict[str, Any]:
    """What the executor kept, with its interval; nothing where it is no number."""
    kept = retention(executor.returns, planner.returns, random.returns)
    returns = {
        name: mean_interval(each.returns).mean
        for name, each in (("planner", planner), ("executor", executor), ("random", random))
    }
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
