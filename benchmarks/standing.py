"""Late answers in the place of an executor that has hardly learnt.

A planner of one row is some ticks late, and executors are distilled from few labels to many. The
planner alone acts on its answers when they arrive and holds them in between; the runtime lets them
stand in for the executor while their record against the planner's own word is so much better, or
never (share 0).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from agentkd import Agent, environments, load_planner
from agentkd.distillation import run_distillation
from agentkd.errors import ConfigError, check_range, did_you_mean
from agentkd.executors.executor import Executor
from agentkd.planners import Planner
from agentkd.report.model import Section
from agentkd.runtime import InlinePlanner, Mode, StrategyOptions, Trust
from benchmarks.runner import Benchmark, Column, Findings, Place, Result, Work, table

WORLDS: Mapping[str, tuple[str, str]] = {
    "pendulum": ("Pendulum-v1", "sac-Pendulum-v1"),
    "cartpole": ("CartPole-v1", "dqn-CartPole-v1"),
    "lander": ("LunarLander-v3", "ppo-LunarLander-v3"),
    "swimmer": ("Swimmer-v5", "sac-Swimmer-v5"),
    "cheetah": ("HalfCheetah-v5", "sac-HalfCheetah-v5"),
    "walker": ("BipedalWalker-v3", "ppo-BipedalWalker-v3"),
}


@dataclass(frozen=True, kw_only=True)
class Options(Place):
    """Let executors from few labels to many act beside a late planner, on the virtual clock.

    Example: python -m benchmarks standing --planners PLANNERS --worlds pendulum cartpole
    """

    planners: Path
    """The folder with the planners."""
    worlds: tuple[str, ...] = tuple(WORLDS)
    """Which worlds."""
    labels: tuple[int, ...] = (300, 1000, 10_000)
    """Labels that the executors are distilled from."""
    late: tuple[int, ...] = (1, 2, 4)
    """Ticks by which the planner is late."""
    shares: tuple[float, ...] = (0.0, 0.5)
    """Shares of `Trust.stand_in`."""
    episodes: int = 10
    """Episodes of each arm, the same for all."""
    seed: int = 0
    """Of the distillation; episodes begin with 5000."""


def works(options: Options) -> list[Work]:
    """Validate the options, and list what to measure."""
    check_range("episodes", options.episodes, least=1)
    for share in options.shares:
        Trust(stand_in=share)
    for name in options.worlds:
        if name not in WORLDS:
            raise ConfigError(f"{name!r} is unknown.{did_you_mean(name, WORLDS)}")
    return [
        Work(
            f"{world}, {labels} labels, {late} ticks late",
            {"world": world, "labels": labels, "late": late},
            partial(measure, world, labels, late, options),
        )
        for world in options.worlds
        for labels in options.labels
        for late in options.late
    ]


@cache
def _made(world: str, labels: int, folder: Path, seed: int) -> tuple[Planner, Executor]:
    env, planner = WORLDS[world][0], str(folder / WORLDS[world][1])
    found = run_distillation(
        env, planner, "mlp:64,64", labels=labels, seed=seed, episodes=0, progress=False
    )
    return load_planner(planner, environments.look_at(env)[0]), found.executor


def measure(world: str, labels: int, late: int, options: Options) -> dict[str, Any]:
    """Live the episodes with each arm: returns, and who acted."""
    planner, executor = _made(world, labels, options.planners, options.seed)

    def lived(mode: Mode, share: float) -> tuple[float, float]:
        strategies = StrategyOptions(trust=Trust(stand_in=share))
        ports: dict[str, Any] = {"mode": mode, "strategies": strategies}
        if mode != "executor":
            ports["planner"] = InlinePlanner(planner.policy, latency_ticks=late)
        env, returns = environments.make(WORLDS[world][0]), []
        with Agent(executor, **ports) as agent:
            for episode in range(options.episodes):
                (obs, _), over, total = env.reset(seed=5000 + episode), False, 0.0
                agent.reset()
                while not over:
                    obs, reward, terminated, truncated, _ = env.step(agent.act(obs))
                    total, over = total + float(reward), terminated or truncated
                returns.append(total)
            metrics = agent.metrics()
        env.close()
        return float(np.mean(returns)), float(metrics["strategy_coverage"])

    runtime = {str(share): lived("runtime", share) for share in options.shares}
    return {
        "executor": lived("executor", 0.0)[0],
        "planner": lived("planner", 0.0)[0],
        "runtime": {share: found[0] for share, found in runtime.items()},
        "acted": {share: found[1] for share, found in runtime.items()},
    }


def findings(options: Options, results: Sequence[Result]) -> Findings:
    """Show each executor beside each lateness."""
    columns = [
        *(Column(name, name) for name in ("world", "labels")),
        Column("ticks late", "late"),
        *(Column(name, name, ",.1f") for name in ("planner", "executor")),
    ]
    rows = [dict(result) for result in results]
    for share in map(str, options.shares):
        columns.append(Column(f"runtime, share {share}", f"runtime {share}", ",.1f"))
        columns.append(Column("answers acted", f"acted {share}", ".0%"))
        for row in rows:
            row[f"runtime {share}"], row[f"acted {share}"] = (
                row["runtime"][share],
                row["acted"][share],
            )
    told = f"Means of {options.episodes} episodes; executors mlp:64,64, seed {options.seed}."
    return Findings([Section("Late answers that stand in", told, table(columns, rows, ""))], told)


def brief(result: Result) -> str:
    """Give the returns."""
    runtime = ", ".join(f"{share}: {value:,.1f}" for share, value in result["runtime"].items())
    return (
        f"planner {result['planner']:,.1f}, executor {result['executor']:,.1f}, runtime {runtime}"
    )


BENCHMARK = Benchmark("standing", works, findings, brief, ("world", "labels"))
run = BENCHMARK.run
