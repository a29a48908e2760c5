"""A robot and its planner, for own_loop.py.

The robot balances a pole on a cart that is shoved once a second. Its planner works an optimal
controller out afresh for each state: it is good, and too slow for the robot's clock.
"""

from __future__ import annotations

from typing import Any, final

import gymnasium as gym
import mujoco
import numpy as np

from agentkd.types import Floats, Point

ROBOT = "InvertedPendulum-v5"
PERIOD = 0.04


@final
class Regulator:
    """A planner: a linear-quadratic regulator for the state at hand.

    It differentiates a simulator of the robot around the state and iterates the Riccati equation.
    Nothing about it is special: a planner is any function from observations (batch, size) to an
    action distribution.
    """

    def __init__(self) -> None:
        """Make a simulator to think with."""
        self._sim: Any = gym.make(ROBOT).unwrapped

    def __call__(self, obs: Floats) -> Point:
        """Answer for observations, (batch, 4)."""
        return Point(np.array([self._push(state) for state in obs], np.float32))

    def _push(self, state: Floats) -> Any:
        small = 1e-4
        still = self._next(state, 0.0)
        moved = [self._next(state + small * axis, 0.0) - still for axis in np.eye(4)]
        a = np.stack(moved, axis=1) / small
        b = (self._next(state, small) - still)[:, None] / small
        cost = worth = np.diag([1.0, 10.0, 0.1, 0.1])
        gain = np.zeros((1, 4))
        for _ in range(1000):
            gain = np.linalg.solve(b.T @ worth @ b + 0.1, b.T @ worth @ a)
            worth = cost + a.T @ worth @ (a - b @ gain)
        return -gain @ state

    def _next(self, state: Any, push: float) -> Any:
        data = self._sim.data
        data.qpos[:], data.qvel[:] = state[:2], state[2:]
        data.ctrl[:] = push
        mujoco.mj_step(self._sim.model, data, self._sim.frame_skip)
        return np.concatenate([data.qpos, data.qvel])


@final
class Robot(gym.Wrapper[Any, Any, Any, Any]):
    """The robot. It stands up again when it fell, and tells every two seconds how often it did."""

    def __init__(self) -> None:
        """Stand up."""
        super().__init__(gym.make(ROBOT, max_episode_steps=-1))
        self._random = np.random.default_rng(0)
        self._ticks = self._falls = 0

    def step(self, action: Any) -> Any:
        """Move for one period."""
        obs, reward, fallen, truncated, info = super().step(action)
        self._ticks += 1
        if self._ticks % 25 == 0:
            simulated: Any = self.unwrapped
            simulated.data.qvel[1] += self._random.normal(0, 0.5)
        if fallen:
            self._falls += 1
            obs, _ = self.reset()
        if self._ticks % 50 == 0:
            print(f"{self._ticks * PERIOD:4.0f} s: {self._falls} falls")
            self._falls = 0
        return obs, reward, fallen, truncated, info
