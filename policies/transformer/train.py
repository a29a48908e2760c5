"""Make the Transformer beside this file: `python -m policies.transformer.train`.

Three blocks of attention over the eight numbers of LunarLander-v3's observation, wider and deeper
than executors, distilled from the PPO planner of `policies/lunarlander` in the states that both of
them visit. Some four minutes on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from agentkd.deploy.bundle import write_bundle
from agentkd.distillation.distiller import DistillerOptions
from agentkd.distillation.loop import run_distillation
from agentkd.executors.executor import Executor
from agentkd.measure.evaluate import evaluate, evaluate_random
from agentkd.planners import load_planner
from agentkd.types import Policy, RecurrentPolicy

ENVIRONMENT = "LunarLander-v3"
ARCHITECTURE = "attention:32/4/3"
TEACHER = Path(__file__).parents[1] / "lunarlander"


def train(architecture: str, labels: int, steps_per_label: float, seed: int) -> Executor:
    """Distil the PPO planner; the same seed gives the same network on one machine."""
    torch.set_num_threads(1)
    return run_distillation(
        ENVIRONMENT,
        str(TEACHER),
        architecture,
        labels=labels,
        steps_per_label=steps_per_label,
        episodes=0,
        seed=seed,
        options=DistillerOptions(seed=seed, batch=256),
    ).executor


def measure(policy: Policy | RecurrentPolicy, episodes: int, seed: int) -> float:
    """The mean return over episodes."""
    found = evaluate(ENVIRONMENT, policy, episodes=episodes, seed=seed)
    return float(np.mean(found.returns))


def main() -> None:
    """Read the command line, train and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/transformer"))
    parser.add_argument("--architecture", default=ARCHITECTURE)
    parser.add_argument("--labels", type=int, default=48_000)
    parser.add_argument("--steps-per-label", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=60)
    arguments = parser.parse_args()
    executor = train(
        arguments.architecture, arguments.labels, arguments.steps_per_label, arguments.seed
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    origin = {
        "env": ENVIRONMENT,
        "planner": {"refs": ["policies/lunarlander"], "name": "PPO"},
        "labels": arguments.labels,
        "seed": arguments.seed,
    }
    write_bundle(arguments.out / "planner.akd", executor, origin)
    count, first = arguments.episodes, 1000
    mine = measure(executor, count, first)
    theirs = measure(load_planner(str(TEACHER)).policy, count, first)
    chance = evaluate_random(ENVIRONMENT, episodes=count, seed=first)
    floor = float(np.mean(chance.returns))
    print(
        f"{executor.architecture}, {executor.parameters:,} parameters: {mine:.1f}; PPO "
        f"{theirs:.1f}, random {floor:.1f}: retention "
        f"{(mine - floor) / (theirs - floor):.3f} over {count} episodes"
    )


if __name__ == "__main__":
    main()
