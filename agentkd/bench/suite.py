"""Many planners, several seeds: what distillation keeps, as one table."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from agentkd import environments
from agentkd.deploy.bundle import read_bundle
from agentkd.errors import ConfigError, LoadError
from agentkd.measure.evaluate import Evaluation, evaluate, evaluate_random
from agentkd.measure.intervals import Interval
from agentkd.planners import load_planner
from agentkd.refs import is_reference
from agentkd.report.rows import Rows
from agentkd.types import Floats, Policy, RecurrentPolicy

_DRAWS = 4000
_ENV_MARK = "-"
_TOGETHER = 16
"""Observations in one call of the planner, as when labels are collected."""


@dataclass(frozen=True, slots=True)
class Case:
    """A planner and where it acts.

    Attributes:
        name: Such as "sac-Swimmer-v5".
        env: The environment's name.
        planner: The planner's reference.
    """

    name: str
    env: str
    planner: str


@dataclass(frozen=True, slots=True)
class Run:
    """One distillation and what its executor got.

    Attributes:
        seed: The distillation's.
        returns: The executor's, of each evaluation episode.
        labels: Labels that were made.
        seconds: How long it took.
        steps: Gradient steps that were taken.
        parameters: The executor's.
    """

    seed: int
    returns: tuple[float, ...]
    labels: int
    seconds: float
    steps: int = 0
    parameters: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """A case and all its runs.

    Attributes:
        case: The planner and its environment.
        executor: The executor's architecture.
        planner: What the planner got on the evaluation's seeds.
        random: What random actions got on them.
        runs: One for each seed.
        planner_parameters: Those that act.
        executor_parameters: The executor's.
        planner_rate: Labels a second that the planner makes if nothing else is done: no environment
            is stepped, nothing is learnt, one core.
        megabytes: The most memory that this process had needed until then; the one that collects
            has its own. NaN where the system does not tell.
    """

    case: Case
    executor: str
    planner: Evaluation
    random: Evaluation
    runs: tuple[Run, ...]
    planner_parameters: int
    executor_parameters: int
    planner_rate: float = math.nan
    megabytes: float = math.nan


def labelling_rate(policy: Policy | RecurrentPolicy, obs: Floats, seconds: float = 0.3) -> float:
    """How many observations a second a planner answers, in batches of (batch, obs)."""
    asked: Any = policy
    state = None
    if isinstance(policy, RecurrentPolicy) and hasattr(policy, "initial_state"):
        state = policy.initial_state(len(obs))
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds or not count:
        if state is None:
            asked(obs)
        else:
            _, state = asked(obs, state)
        count += len(obs)
    return count / (time.perf_counter() - begin)


def megabytes() -> float:
    """The most memory that this process has needed so far, in 10^6 bytes."""
    try:
        import resource
    except ImportError:
        return math.nan
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    return most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6


def find_cases(folder: Path) -> tuple[Case, ...]:
    """Find planners in folders named ALGORITHM-ENVIRONMENT, such as sac-Swimmer-v5.

    A planner.akd tells its environment itself, whatever its folder is called.

    Raises:
        ConfigError: If there is none.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder.")
    found = (_case(each) for each in sorted(folder.iterdir()) if each.is_dir())
    cases = [each for each in found if each is not None]
    if not cases:
        raise ConfigError(
            f"{folder} holds no planners: folders named ALGORITHM-ENVIRONMENT, such as "
            "sac-Swimmer-v5, with an SB3 save in each, or folders with a planner.akd."
        )
    return tuple(cases)


def _case(folder: Path) -> Case | None:
    if _ENV_MARK in folder.name and any(folder.glob("*.zip")):
        return Case(folder.name, folder.name.partition(_ENV_MARK)[2], str(folder))
    file = folder / "planner.akd"
    if not file.is_file():
        return None
    try:
        provenance = read_bundle(file).manifest.get("provenance", {})
    except LoadError:
        # Whoever asks for it by its name is told what is wrong with it.
        provenance = {}
    env = provenance.get("env", "") or folder.name.partition(_ENV_MARK)[2]
    env = environments.named_by_file(str(env))
    return Case(folder.name, env, str(folder)) if env else None


def with_env_args(cases: Sequence[Case], words: Sequence[str]) -> tuple[Case, ...]:
    """Give arguments to every case's environment; see `with_arguments`.

    Raises:
        ConfigError: If a word is no argument.
    """
    return tuple(replace(case, env=environments.with_arguments(case.env, words)) for case in cases)


def cases_of(pairs: Sequence[str]) -> tuple[Case, ...]:
    """Read cases from texts such as "LunarLander-v3=policies/lunarlander".

    Raises:
        ConfigError: If a text is no such pair.
    """
    cases = []
    for text in pairs:
        env, _, planner = text.partition("=")
        if not env or not planner:
            raise ConfigError(
                f"{text!r} is no pair: ENV=PLANNER, such as LunarLander-v3=policies/lunarlander."
            )
        own = planner.rpartition(":")[2]
        if not is_reference(planner):
            path = Path(planner)
            own = path.parent.name if path.suffix and path.parent.name else path.stem
        place = environments.split(env)[0].rpartition(":")[2].rpartition("/")[2]
        cases.append(Case(f"{own}{_ENV_MARK}{place}", env, planner))
    return tuple(cases)


def measure(
    case: Case,
    executor: str,
    *,
    seconds: float,
    seeds: Sequence[int],
    episodes: int,
    eval_seed: int,
    watch: Callable[[str], None],
    rows: Rows | None = None,
) -> Row:
    """Distil one planner once for each seed, and measure on the same episodes.

    Args:
        case: The planner.
        executor: The architecture.
        seconds: Of each distillation.
        seeds: Of the distillations.
        episodes: Of each measurement.
        eval_seed: The first episode's seed.
        watch: Told what is done next.
        rows: Where results are kept, and those of an earlier run found.
    """
    from agentkd.distillation.loop import distill

    rows = rows or Rows(None)

    spec, _ = environments.look_at(case.env)
    known = load_planner(case.planner, spec)
    place = {"env": case.env, "episodes": episodes, "eval_seed": eval_seed}
    origin = {"planner": case.planner, "digest": known.digest, **place}

    def reached(policy: Policy | RecurrentPolicy) -> Evaluation:
        return evaluate(case.env, policy, episodes=episodes, seed=eval_seed, spec=spec)

    def distilled(seed: int) -> dict[str, Any]:
        watch(f"distilling, seed {seed}")
        result = distill(case.env, case.planner, executor, seconds=seconds, seed=seed, episodes=0)
        if result.interrupted and not result.fault:
            raise KeyboardInterrupt
        watch(f"measuring the executor, seed {seed}")
        run = Run(
            seed,
            reached(result.executor.policy).returns,
            result.labels,
            result.seconds,
            result.steps,
            result.executor.parameters,
        )
        return asdict(run)

    watch("measuring the planner")
    planner = rows.once(origin, lambda: asdict(reached(known.policy)))
    random = rows.once(
        {"random": True, **place},
        lambda: asdict(evaluate_random(case.env, episodes=episodes, seed=eval_seed)),
    )
    runs = []
    for seed in seeds:
        key = {"executor": executor, "seconds": seconds, "seed": seed, **origin}
        runs.append(rows.once(key, lambda seed=seed: distilled(seed)))  # type: ignore[misc]
    around = np.random.default_rng(0).standard_normal((_TOGETHER, spec.obs.size))
    rate = labelling_rate(known.policy, around.astype(np.float32))
    return Row(
        case=case,
        executor=executor,
        planner=Evaluation(**tuples(planner)),
        random=Evaluation(**tuples(random)),
        runs=tuple(Run(**tuples(run)) for run in runs),
        planner_parameters=known.parameters,
        executor_parameters=max((run["parameters"] for run in runs), default=0),
        planner_rate=rate,
        megabytes=megabytes(),
    )


def tuples(result: Mapping[str, Any]) -> dict[str, Any]:
    """Make tuples of the lists of a result that was kept as JSON."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in result.items()}


def kept(row: Row, confidence: float = 0.95) -> Interval:
    """Retention over seeds and episodes.

    The interval is a two-level bootstrap: executors are drawn among the seeds', then episodes of
    each, and the planner's and random episodes as well.
    """
    random = np.random.default_rng(0)
    runs = [np.asarray(run.returns) for run in row.runs]
    planner, floor = np.asarray(row.planner.returns), np.asarray(row.random.returns)
    apart = float(planner.mean() - floor.mean())
    mean = float(np.mean([run.mean() for run in runs]))
    if not apart:
        return Interval(float("nan"), float("nan"), float("nan"))
    draws = np.empty(_DRAWS)
    for index in range(_DRAWS):
        drawn = [runs[i] for i in random.integers(0, len(runs), len(runs))]
        executor = np.mean([random.choice(run, len(run)).mean() for run in drawn])
        high = random.choice(planner, len(planner)).mean()
        low = random.choice(floor, len(floor)).mean()
        draws[index] = (executor - low) / (high - low) if high != low else np.nan
    tail = 50 * (1 - confidence)
    low, high = np.nanpercentile(draws, [tail, 100 - tail])
    return Interval((mean - float(floor.mean())) / apart, float(low), float(high))


def interquartile_mean(values: Sequence[float]) -> float:
    """The mean of the middle half (Agarwal et al. 2021), ends weighted in part."""
    ordered = np.sort(np.asarray(values, float))
    count = len(ordered)
    if not count:
        return float("nan")
    edges = np.arange(count + 1) / count
    weights = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0, 1)
    return float((ordered * weights).sum() / weights.sum())
