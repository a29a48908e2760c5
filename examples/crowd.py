"""A thousand characters with one executor: all decide in one call, within a frame.

The crowd balances poles in Gymnasium's vectorised CartPole. A rule teaches the executor first.

    python examples/crowd.py --agents 1000 --frames 600
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import gymnasium as gym
import numpy as np

import agentkd
from agentkd.types import Categorical


def balance(obs: Any) -> Categorical:
    """Push towards where the pole falls, for observations (batch, 4)."""
    lean = 4.0 * (obs[:, 2] + 0.3 * obs[:, 3] + 0.02 * obs[:, 0] + 0.05 * obs[:, 1])
    return Categorical(np.stack([-lean, lean], axis=1).astype(np.float32))


def main() -> None:
    """Distil an executor, and let a crowd act with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=600)
    arguments = parser.parse_args()

    executor = agentkd.distill("CartPole-v1", balance, "mlp:64,64", labels=20_000, episodes=0)
    world = gym.make_vec(
        "CartPole-v1", num_envs=arguments.agents, vectorization_mode="vector_entry_point"
    )
    crowd = executor.crowd(arguments.agents)
    obs, _ = world.reset(seed=0)
    taken, fallen = [], 0
    for _ in range(arguments.frames):
        began = time.perf_counter()
        actions = crowd.act(obs)
        taken.append(time.perf_counter() - began)
        obs, _, terminated, truncated, _ = world.step(actions)
        crowd.reset(terminated | truncated)  # an executor with a memory forgets the old episode
        fallen += int(terminated.sum())
    world.close()
    print(f"{arguments.agents} decisions took {1000 * np.median(taken):.2f} ms")
    print(f"poles fallen: {fallen}")


if __name__ == "__main__":
    main()
