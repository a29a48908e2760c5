"""Which of the observations that devices met are worth a label, if only a few may be sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from agentkd import dists
from agentkd.distillation import run_distillation
from agentkd.distillation.front import distill
from agentkd.distillation.observations import labelled
from agentkd.errors import check_range
from agentkd.executors.executor import Executor
from agentkd.fleet.notebook import hardness
from agentkd.measure.evaluate import evaluate
from agentkd.planners import Planner
from agentkd.report.model import Section
from agentkd.spec import env_spec
from agentkd.types import Floats, Point
from benchmarks.runner import Benchmark, Column, Findings, Place, Result, Work, table
from examples.fleet.closed_loop import calm, planner, wild

_EXECUTOR, _LABELS, _STEPS = "mlp:32,32", 3000, 4000
_TICKS = 100
"""Of an episode of `Rail`."""
_EPISODES, _SEED = 10, 100


@dataclass(frozen=True, kw_only=True)
class Options(Place):
    """Distil an executor near by, let it meet the far world, and label a few of what it met.

    The world and the planner are those of examples/fleet/closed_loop.py. From each episode of 100
    observations as many as --most are chosen, by each criterion; the next executor is distilled
    from their labels and those that the first one keeps, and acts in the far world.

    Example: python -m benchmarks hard --seeds 5
    """

    seeds: int = 5
    """How many first executors."""
    episodes: int = 50
    """Episodes in the far world."""
    most: tuple[int, ...] = (1, 4)
    """Observations of an episode that may be sent."""


def _weighted(executor: Executor, obs: Floats, random: np.random.Generator) -> Floats:
    hard = np.maximum(hardness(executor, obs), 1e-4).astype(np.float64)
    return np.asarray(np.log(1 - random.random(len(obs))) / hard**2, np.float32)


CRITERIA: Mapping[str, Callable[[Executor, Floats, np.random.Generator], Floats]] = {
    "drawn evenly": lambda _, obs, random: random.random(len(obs)).astype(np.float32),
    "the hardest": lambda executor, obs, _: hardness(executor, obs),
    "drawn by hardness²": _weighted,
}
"""A score of each observation; those with the largest are sent."""


def works(options: Options) -> list[Work]:
    """Validate the options, and list what to measure."""
    for name in ("seeds", "episodes"):
        check_range(name, getattr(options, name), least=1)
    for most in options.most:
        check_range("most", most, least=1, most=_TICKS)
    return [
        Work(
            f"seed {seed}, {most} of an episode, {name}",
            {"seed": seed, "most": most, "criterion": name},
            partial(measure, seed, most, name, options.episodes),
        )
        for seed in range(options.seeds)
        for most in options.most
        for name in CRITERIA
    ]


@cache
def _met(seed: int, episodes: int) -> tuple[Executor, tuple[Floats, ...]]:
    """Return a first executor, and what it meets in the far world, episode by episode."""
    first = distill(calm, planner, _EXECUTOR, labels=_LABELS, episodes=0, seed=seed, native=False)
    met = []
    env = wild()
    for episode in range(episodes):
        obs, _ = env.reset(seed=1000 * (seed + 1) + episode)
        seen: list[Floats] = []
        for _ in range(_TICKS):
            seen.append(obs)
            obs, *_ = env.step(first.act(obs))
        met.append(np.stack(seen))
    return first, tuple(met)


def measure(seed: int, most: int, name: str, episodes: int) -> Mapping[str, Any]:
    """Choose, label, distil, and let it act."""
    first, met = _met(seed, episodes)
    random = np.random.default_rng(seed)
    chosen = []
    for obs in met:
        score = CRITERIA[name](first, obs, random)
        chosen.append(obs[np.argsort(-score, kind="stable")[:most]])
    known = Planner(planner, env_spec(calm()), "parks", 0, "")
    data = labelled(np.concatenate(chosen), known, kept=first.about.labels)
    made = run_distillation(data=data, executor=_EXECUTOR, steps=_STEPS, seed=seed).executor
    every = np.concatenate(met)
    wanted = dists.mode(planner(every), known.spec.action)
    agreed = dists.agreement(dists.mode(made(every), known.spec.action), wanted, known.spec.action)
    return {
        "first": _return(first),
        "next": _return(made),
        "planner": _return(planner),
        "agreement": float(agreed.mean()),
    }


def _return(policy: Executor | Callable[[Floats], Point]) -> float:
    return float(np.mean(evaluate(wild, policy, episodes=_EPISODES, seed=_SEED).returns))


COLUMNS = [
    Column("of an episode", "most"),
    Column("chosen", "criterion"),
    Column("return, median", "median", ".2f"),
    Column("worst seed", "worst", ".2f"),
    Column("agreement", "agreement", ".3f"),
]


def findings(options: Options, results: Sequence[Result]) -> Findings:
    """Show medians and worst seeds."""
    rows = []
    for most in options.most:
        for name in CRITERIA:
            mine = [r for r in results if (r["most"], r["criterion"]) == (most, name)]
            if mine:
                got = [each["next"] for each in mine]
                rows.append(
                    {
                        "most": most,
                        "criterion": name,
                        "median": float(np.median(got)),
                        "worst": min(got),
                        "agreement": float(np.median([each["agreement"] for each in mine])),
                    }
                )
    firsts = float(np.median([each["first"] for each in results]))
    best = float(np.median([each["planner"] for each in results]))
    told = f"The first executor: {firsts:.2f}; the planner: {best:.2f} (medians)."
    section = Section("The next executor where the devices are", told, table(COLUMNS, rows, ""))
    return Findings([section], told)


def brief(result: Result) -> str:
    """Give the return."""
    return f"return {result['next']:.2f}, agreement {result['agreement']:.3f}"


BENCHMARK = Benchmark("hard", works, findings, brief, ("seeds",))
run = BENCHMARK.run
