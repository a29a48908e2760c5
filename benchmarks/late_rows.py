"""What a robot earns with a planner that is four ticks late, on both clocks.

The robot is HalfCheetah-v5; the planner is a saved actor, rolled out for 16 rows in an exact model,
200 ms late at 20 Hz. Each arm lives the same 240 ticks from a seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from agentkd import Agent, Process, read_bundle
from agentkd.distillation.run import Budget
from agentkd.executors.executor import Executor
from agentkd.report.model import Section
from agentkd.runtime import InlinePlanner, RollForward, StrategyOptions
from benchmarks.cheetah import PLANNER, Chunk, lived
from benchmarks.planners import Case, kept_executor
from benchmarks.runner import Benchmark, Column, Findings, Place, Result, Work, grouped, table

_TICKS, _HZ, _LATE = 240, 20.0, 4
_ARMS = ("executor", "late", "late, untested", "ahead", "ahead, virtual")
_CASE = Case("sac-HalfCheetah-v5", "HalfCheetah-v5", PLANNER)


@dataclass(frozen=True, kw_only=True)
class Options(Place):
    """Measure what late rows cost, and what a roll-forward gains.

    Five arms live the same ticks: the executor alone; rows as they come, by default (late); the
    same with `trust=None`, as it was before late rows were judged (late, untested); rows for the
    state in which they arrive, by an exact model (ahead); the same under the virtual clock, in the
    wall clock's order of events (ahead, virtual).

    Example: python -m benchmarks late_rows --seeds 10
    """

    seeds: int = 10
    """Seeds; the environment is reset with each."""
    seed: int = 0
    """The first of them."""
    executor: Path | None = None
    """An executor file; by default one is distilled for 40 s."""


def works(options: Options) -> Iterator[Work]:
    """List all arms and seeds."""

    # Distilled when it is first needed: all else may be known from an earlier run.
    @cache
    def executor() -> Executor:
        if options.executor is not None:
            return read_bundle(options.executor).executor
        return kept_executor(_CASE, "mlp:64,64", Budget(seconds=40), options.out)

    def live(arm: str, seed: int) -> dict[str, Any]:
        return {"return": _live(executor(), arm, seed)}

    for seed in range(options.seed, options.seed + options.seeds):
        for arm in _ARMS:
            key = {"arm": arm, "seed": seed}
            yield Work(f"seed {seed}, {arm}", key, partial(live, arm, seed))


def _live(executor: Executor, arm: str, seed: int) -> float:
    if arm == "executor":
        return _wall(Agent(executor), seed)
    roll = RollForward("benchmarks.cheetah:ahead") if "ahead" in arm else None
    trust: Any = None if "untested" in arm else "auto"
    strategies = StrategyOptions(roll_forward=roll, trust=trust)
    if "virtual" in arm:
        late = InlinePlanner(Chunk(0.0), latency_ticks=_LATE, after=True)
        return _virtual(Agent(executor, planner=late, strategies=strategies), seed)
    planner = Process("benchmarks.cheetah:Chunk", {"think": _LATE / _HZ})
    return _wall(Agent(executor, planner=planner, strategies=strategies), seed)


def _wall(agent: Agent, seed: int) -> float:
    seconds = 10 * _TICKS / _HZ
    return lived(agent, hz=_HZ, seconds=seconds, part=_TICKS, seed=seed, parts=1)[0]


def _virtual(agent: Agent, seed: int) -> float:
    env, total = gym.make("HalfCheetah-v5", max_episode_steps=-1), 0.0
    with agent:
        obs, _ = env.reset(seed=seed)
        for _ in range(_TICKS):
            obs, reward, *_ = env.step(agent.act(obs))
            total += float(reward)
    return total


def _returns(rows: Sequence[Result]) -> list[float]:
    return [row["return"] for row in rows]


COLUMNS = [
    Column("arm", lambda rows: rows[0]["arm"]),
    Column("mean", lambda rows: float(np.mean(_returns(rows))), ".0f"),
    Column("lowest", lambda rows: min(_returns(rows)), ".0f"),
    Column("highest", lambda rows: max(_returns(rows)), ".0f"),
]
_BETTER = "* executor; for ahead the better of executor and virtual clock"


def findings(_: Options, results: Sequence[Result]) -> Findings:
    """Show each arm beside the executor, and ahead beside what it could be."""
    earned = {(r["arm"], r["seed"]): r["return"] for r in results}

    def shares(rows: Sequence[Result]) -> str:
        bases = ["executor", *(["ahead, virtual"] if "ahead" in rows[0]["arm"] else [])]
        found = [
            row["return"] / max(earned.get((b, row["seed"]), np.nan) for b in bases) for row in rows
        ]
        return f"{np.mean(found):.3f} ({min(found):.3f} … {max(found):.3f})"

    columns = [*COLUMNS, Column("of the better*", shares)]
    arms = grouped(results, "arm").values()
    return Findings([Section("Returns", "", table(columns, arms, _BETTER))])


def brief(result: Result) -> str:
    """Give the return."""
    return f"{result['return']:.0f}"


BENCHMARK = Benchmark("late_rows", works, findings, brief, ("seeds", "seed"))
run = BENCHMARK.run
