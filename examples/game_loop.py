"""A game at 60 frames a second, with a player that thinks for longer than one.

Every frame asks the agent, moves the world by a fixed step and draws. The planner tries thousands
of futures, which takes longer than a frame; the executor learns from it and acts within the frame.
A frame that takes longer than its 16.7 ms is counted:

    python examples/game_loop.py --seconds 20
"""

from __future__ import annotations

import argparse
import time
from typing import Any, final

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from agentkd import Agent, Process, env_spec
from agentkd.runtime import ProcessPlanner
from agentkd.types import Categorical, Floats

FRAME = 1 / 60
EXECUTOR = "mlp:32,32"
SMARTNESS = 5.0


@final
class Futures:
    """A planner: tries random futures of the pole and likes how the best begins."""

    def __init__(self) -> None:
        """Fix the chance, so that equal states get equal answers."""
        self._random = np.random.default_rng(0)

    def __call__(self, obs: Floats) -> Categorical:
        """Answer for observations, (batch, 4)."""
        values = np.array([self._values(state) for state in obs], np.float32)
        return Categorical(SMARTNESS * values)

    def _values(self, state: Floats) -> list[float]:
        pushes = self._random.choice((-1.0, 1.0), (20000, 40))
        first = pushes[:, 0]
        cost = futures(state, 10.0 * pushes)
        return [-float(cost[first == push].min()) for push in (-1.0, 1.0)]


def futures(state: Floats, forces: NDArray[np.float64]) -> NDArray[np.float64]:
    """How badly CartPole fares from a state (4,) under forces (n, steps): costs (n,).

    The dynamics are those of Barto, Sutton and Anderson (1983), as in Gymnasium.
    """
    x, speed, angle, turning = (np.full(len(forces), number) for number in state)
    cost = np.zeros(len(forces))
    for force in forces.T:
        sin, cos = np.sin(angle), np.cos(angle)
        push = (force + 0.05 * turning**2 * sin) / 1.1
        turn = (9.8 * sin - cos * push) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
        x, speed = x + FRAME * speed, speed + FRAME * (push - 0.05 * turn * cos / 1.1)
        angle, turning = angle + FRAME * turning, turning + FRAME * turn
        cost += x**2 / 4 + 20 * angle**2 + speed**2 / 20 + turning**2 / 10
    return cost


def play(world: Any, agent: Agent, seconds: float) -> tuple[int, int]:
    """Run the game's loop; gives the frames and how many were over their budget."""
    obs, _ = world.reset(seed=0)
    frames = over = lost = 0
    due = time.perf_counter()
    while frames < seconds / FRAME:
        began = time.perf_counter()
        action = agent.act(obs)
        obs, _, over_edge, _, _ = world.step(action)
        if over_edge:
            lost += 1
            obs, _ = world.reset()
            agent.reset()
        frames += 1
        if frames % 120 == 0:
            version = agent.executor.version
            print(f"{frames * FRAME:4.0f} s: lost {lost}, executor version {version}")
            lost = 0
        now = time.perf_counter()
        over += now - began > FRAME
        due = max(due + FRAME, now)
        time.sleep(due - now)
    return frames, over


def main() -> None:
    """Play, and tell whether every frame was in time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()

    world = gym.make("CartPole-v1", max_episode_steps=-1)
    world.unwrapped.tau = FRAME  # type: ignore[attr-defined]
    spec = env_spec(world)
    # Without a backlog the planner is only ever asked about the newest frame.
    planner = ProcessPlanner(Process("game_loop:Futures"), backlog=0)
    with Agent(EXECUTOR, spec, planner=planner, learn=True, period=FRAME) as agent:
        # Without this the executor would play alone until they are loaded.
        agent.await_ready()
        frames, over = play(world, agent, arguments.seconds)
    counts = agent.metrics()
    thinking = counts["planner_latency_us"]["p50"] / 1000
    acting = counts["decision_latency_us"]
    print(f"frames over budget: {over} of {frames}")
    print(f"the planner took {thinking:.0f} ms, a frame has {1000 * FRAME:.1f};")
    print(f"a decision took {acting['p50']:.0f} us, at most {acting['max']:.0f}")


if __name__ == "__main__":
    main()
