"""A robot with a loop of its own: observe, ask the agent, move, 25 times a second.

The robot balances a pole on a cart that somebody shoves now and then. Its planner works an optimal
controller out afresh for each state, in a process of its own; it is good, and too late. The
executor starts knowing nothing, learns from each answer, and moves the robot meanwhile. Watch it
fall less and less often:

    python examples/robot_loop.py --seconds 20
"""

from __future__ import annotations

import argparse
from typing import Any, final

import gymnasium as gym
import mujoco
import numpy as np

from agentkd import Agent, env_spec
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
    """The robot, shoved every second, which tells every two how often it fell."""

    def __init__(self) -> None:
        """Stand up."""
        super().__init__(gym.make(ROBOT, max_episode_steps=-1))
        self._random = np.random.default_rng(0)
        self._ticks = self._falls = 0

    def step(self, action: Any) -> Any:
        """Move for one period."""
        obs, reward, fallen, truncated, info = super().step(action)
        self._ticks += 1
        self._falls += fallen
        if self._ticks % 25 == 0:
            simulated: Any = self.unwrapped
            simulated.data.qvel[1] += self._random.normal(0, 0.5)
        if self._ticks % 50 == 0:
            print(f"{self._ticks * PERIOD:4.0f} s: {self._falls} falls")
            self._falls = 0
        return obs, reward, fallen, truncated, info


def main() -> None:
    """Let the robot learn to stand while it stands."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    seconds = parser.parse_args().seconds

    robot = Robot()
    agent = Agent(
        "mlp:32,32", env_spec(robot), planner="robot_loop:Regulator", learn=True, period=PERIOD
    )
    with agent:
        agent.await_ready()  # this executor has everything to learn
        obs, _ = robot.reset(seed=0)
        while agent.tick(seconds=seconds):
            obs, _, fallen, _, _ = robot.step(agent.act(obs))
            if fallen:
                obs, _ = robot.reset()
                agent.reset()

    counts = agent.metrics()
    print(f"executor version {counts['executor_version']}")
    print(f"learnt from {counts['labels_total']} labels")
    print(f"a decision took {counts['decision_latency_us']['p50']:.0f} us")


if __name__ == "__main__":
    main()
