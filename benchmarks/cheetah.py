"""A running robot and a planner for it that is slow and good, on the wall clock."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np

from agentkd import Agent, dists, load_planner
from agentkd.runtime import WallClock
from agentkd.types import Floats, Point

PLANNER = os.environ.get(
    "LIVE_PLANNER", str(Path(__file__).resolve().parents[2] / "shared/planners/sac-HalfCheetah-v5")
)
_worlds: list[Any] = []


def _placed(obs: Floats) -> Any:
    """Put an observation into a simulator of this process's own."""
    if not _worlds:
        _worlds.append(gym.make("HalfCheetah-v5").unwrapped)
    world = _worlds[0]
    world.data.qpos[0] = 0
    world.data.qpos[1:], world.data.qvel[:] = obs[:8], obs[8:]
    return world


def _moved(world: Any, action: Any) -> None:
    world.data.ctrl[:] = np.clip(action, -1, 1)
    for _ in range(world.frame_skip):
        mujoco.mj_step(world.model, world.data)


def _seen(world: Any) -> Floats:
    both = np.concatenate([world.data.qpos[1:], world.data.qvel])
    return np.asarray(both, np.float32)


def ahead(obs: Floats, actions: Sequence[Any]) -> Floats:
    """What will be observed after some actions."""
    world = _placed(obs)
    for action in actions:
        _moved(world, action)
    return _seen(world)


class Chunk:
    """Sixteen rows for each observation, by a saved actor in an exact model.

    Args:
        think: Seconds that an answer takes.
    """

    horizon = 16

    def __init__(self, think: float) -> None:
        self._actor, self._think = load_planner(PLANNER), think

    def __call__(self, obs: Floats) -> Point:
        """Answer for observations, (batch, 17): rows (16 * batch, 6)."""
        began, rows = time.perf_counter(), []
        policy: Any = self._actor.policy
        for one in obs:
            world = _placed(one)
            for _ in range(self.horizon):
                answer = policy(_seen(world)[None])
                rows.append(dists.mode(answer, self._actor.spec.action)[0])
                _moved(world, rows[-1])
        time.sleep(max(0.0, self._think - (time.perf_counter() - began)))
        return Point(np.array(rows, np.float32))


def lived(
    agent: Agent, *, hz: float, seconds: float, part: int, seed: int = 0, parts: int | None = None
) -> list[float]:
    """Run on the wall clock and return the sum of rewards of each part.

    Args:
        agent: Acts; its block is entered here.
        hz: Ticks per second.
        seconds: How long to run at most.
        part: Ticks of a part.
        seed: The environment's.
        parts: How many parts end the run; None for as many as come.
    """
    env = gym.make("HalfCheetah-v5", max_episode_steps=-1)
    sums, rewards = list[float](), list[float]()
    with agent:
        agent.await_ready()
        obs, _ = env.reset(seed=seed)
        clock = WallClock(1 / hz)
        clock.start()
        while clock.wait().scheduled < seconds:
            obs, reward, *_ = env.step(agent.act(obs))
            agent.score(float(reward))
            rewards.append(float(reward))
            if len(rewards) == part:
                sums.append(sum(rewards))
                rewards.clear()
                if len(sums) == parts:
                    break
    return sums
