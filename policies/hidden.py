"""Planners for robots that do not show their velocities.

A planner that knows what to do with velocities is given them from the last two positions: a planner
with a memory. What is observed at the first tick does not tell them; they are taken to be 0.

    agentkd distill envs.hidden:agentkd/LunarLanderHidden-v0 --executor gru:32
    --planner policies.hidden:lander

`FromPositions` does it for any robot and any planner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from agentkd.planners import Planner, load_planner
from agentkd.planners.planner import one_row
from agentkd.spec import Spec, env_spec
from agentkd.types import ActionDist, Categorical, Floats, Policy, State

Whole = Callable[[Floats, Floats], Floats]
"""Gives whole observations (batch, size) from the last positions and these."""


@dataclass(frozen=True, slots=True, eq=False)
class FromPositions:
    """A policy with a memory of the last positions. It is a `RecurrentPolicy`.

    Attributes:
        policy: Answers whole observations.
        whole: Adds what the last two positions tell.
        size: How many positions are observed.
    """

    policy: Policy
    whole: Whole
    size: int

    def initial_state(self, batch: int) -> State:
        """Nothing was observed yet: positions (batch, size), and that it was not."""
        return (np.zeros((batch, self.size), np.float32), np.zeros((batch, 1), np.float32))

    def __call__(self, obs: Floats, state: State, /) -> tuple[ActionDist, State]:
        """Answer for positions (batch, size) and keep them."""
        before, seen = state
        before = np.where(seen > 0, before, obs)
        answer = self.policy(self.whole(before, obs))
        return answer, (obs.copy(), np.ones_like(seen))


def differences(seconds: float, first: int = 0, unseen: int = 0) -> Whole:
    """Put the velocities behind the positions, from their differences.

    Args:
        seconds: From one observation to the next.
        first: How many positions to leave out in front.
        unseen: How many velocities come first that no position tells; 0 each.
    """

    def whole(before: Floats, now: Floats) -> Floats:
        speed = (now - before)[:, first:] / np.float32(seconds)
        nothing = np.zeros((len(now), unseen), np.float32)
        return np.concatenate([now, nothing, speed], axis=1)

    return whole


def cart_pole_whole(before: Floats, now: Floats) -> Floats:
    """CartPole-v1: place, its velocity, angle, its velocity."""
    speed = (now - before) / np.float32(0.02)
    return np.stack([now[:, 0], speed[:, 0], now[:, 1], speed[:, 1]], axis=1)


def pendulum_whole(before: Floats, now: Floats) -> Floats:
    """Pendulum-v1: cosine and sine of the angle, its velocity."""
    turned = np.arctan2(now[:, 1], now[:, 0]) - np.arctan2(before[:, 1], before[:, 0])
    turned = (turned + np.pi) % (2 * np.pi) - np.pi
    return np.concatenate([now, turned[:, None] / np.float32(0.05)], axis=1)


def lander_whole(before: Floats, now: Floats) -> Floats:
    """LunarLander-v3: place, its velocity, angle, its velocity, legs on the ground."""
    # Its velocities are in units of its own (FPS 50, 600 by 400 pixels, SCALE 30).
    speed = (now - before)[:, :3] * np.array([100.0, 400.0 / 9.0, 20.0], np.float32)
    place, angle, legs = now[:, :2], now[:, 2:3], now[:, 3:]
    return np.concatenate(
        [place, speed[:, :2], angle, speed[:, 2:], legs], axis=1, dtype=np.float32
    )


def balance(obs: Floats) -> Categorical:
    """Push towards where the pole falls; keeps CartPole-v1 up for 500 ticks."""
    place, speed, angle, turn = obs.T
    lean = 8.0 * (angle + 0.3 * turn + 0.05 * place + 0.1 * speed)
    return Categorical(np.stack([-lean, lean], axis=1).astype(np.float32))


def cart_pole(spec: Spec) -> Planner:
    """Plan for `agentkd/CartPoleHidden-v0`."""
    policy = FromPositions(balance, cart_pole_whole, 2)
    return Planner(policy, spec, "rule from positions", 4, "")


def lander(spec: Spec) -> Planner:
    """Plan for `agentkd/LunarLanderHidden-v0`: the planner in policies/lunarlander."""
    whole = env_spec(gym.make("LunarLander-v3"))
    known = load_planner(str(Path(__file__).parent / "lunarlander"), whole)
    answers: Any = known.policy
    policy = FromPositions(answers, lander_whole, 5)
    return Planner(policy, spec, "lander from positions", known.parameters, "")


def pendulum(spec: Spec) -> Planner:
    """Plan for `agentkd/PendulumHidden-v0`: sampling-based control from positions."""
    from policies.mpc import pendulum as whole

    policy = one_row(whole(spec).policy)
    return Planner(FromPositions(policy, pendulum_whole, 2), spec, "MPC pendulum, hidden", 0, "")
