"""What a robot earns with a planner that is four ticks late, on both clocks.

    python benchmarks/late_rows.py --seeds 10

The robot is HalfCheetah-v5; the planner is a saved actor, rolled out for 16 rows in an exact model,
200 ms late at 20 Hz. Each arm lives the same 240 ticks from a seed:

* executor: the executor alone.
* late: rows as they come, by default.
* late, untested: the same with `trust=None`, as it was before late rows were judged.
* ahead: rows for the state in which they arrive, by an exact model.
* ahead, virtual: the same under the virtual clock, in the wall clock's order of events.

The executor is distilled first, for 40 s, unless its file is given.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from agentkd import Agent, Process, read_bundle
from agentkd.executors.executor import Executor
from agentkd.runtime import InlinePlanner, RollForward, StrategyOptions
from benchmarks.cheetah import PLANNER, Chunk, lived

_TICKS, _HZ, _LATE = 240, 20.0, 4
_ARMS = ("executor", "late", "late, untested", "ahead", "ahead, virtual")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure what late rows cost, and what a roll-forward gains."""

    seeds: int = 10
    """Seeds; the environment is reset with each."""
    seed: int = 0
    """The first of them."""
    executor: Path | None = None
    """An executor file; by default one is distilled for 40 s."""
    out: Path = Path("runs/late-rows")
    """Where the executor and the table go."""


def main(options: Options) -> None:
    """Live all arms and seeds, and print the table."""
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.executor or options.out / "executor.akd"
    if not file.exists():
        command = ["distill", "HalfCheetah-v5", "--planner", PLANNER, "--seconds", "40"]
        where = ["--out", str(options.out), "--overwrite"]
        subprocess.run([sys.executable, "-m", "agentkd", *command, *where], check=True)
    executor = read_bundle(file).executor
    earned: dict[str, list[float]] = {arm: [] for arm in _ARMS}
    for seed in range(options.seed, options.seed + options.seeds):
        for arm in _ARMS:
            earned[arm].append(_live(executor, arm, seed))
        told = ", ".join(f"{arm} {earned[arm][-1]:.0f}" for arm in _ARMS)
        sys.stderr.write(f"seed {seed}: {told}\n")
    table = _table(earned)
    Console(width=100).print(table)
    (options.out / "late-rows.json").write_text(json.dumps(earned, indent=1))


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


def _table(earned: dict[str, list[float]]) -> Table:
    table = Table("arm", "mean", "lowest", "highest", "of the better*", title="Returns")
    better = np.maximum(earned["executor"], earned["ahead, virtual"])
    for arm, values in earned.items():
        base = better if "ahead" in arm else np.asarray(earned["executor"])
        share = np.asarray(values) / base
        table.add_row(
            arm,
            f"{np.mean(values):.0f}",
            f"{min(values):.0f}",
            f"{max(values):.0f}",
            f"{share.mean():.3f} ({share.min():.3f} … {share.max():.3f})",
        )
    table.caption = "* executor; for ahead the better of executor and virtual clock"
    return table


if __name__ == "__main__":
    main(tyro.cli(Options))
