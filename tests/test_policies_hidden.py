"""Planners that tell velocities from positions."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agentkd import environments
from agentkd.measure.evaluate import evaluate
from agentkd.planners import load_planner
from agentkd.spec import env_spec
from agentkd.testing import check_policy
from agentkd.types import Floats, Point
from envs.hidden import POSITIONS
from policies.hidden import (
    FromPositions,
    Whole,
    cart_pole_whole,
    differences,
    lander_whole,
    pendulum_whole,
)

CART_POLE = "envs.hidden:agentkd/CartPoleHidden-v0"


def test_a_pole_is_balanced_from_positions() -> None:
    """With a memory for 500 ticks; the same rule without velocities lets it fall."""
    spec = env_spec(environments.make(CART_POLE))
    planner = load_planner("policies.hidden:cart_pole", spec)
    check_policy(planner.policy, spec)
    remembers = evaluate(CART_POLE, planner.policy, episodes=3, seed=0, spec=spec)
    assert remembers.returns == (500.0,) * 3
    policy: Any = planner.policy

    def forgetful(obs: Floats, /) -> Any:
        return policy(obs, policy.initial_state(len(obs)))[0]

    forgets = evaluate(CART_POLE, forgetful, episodes=3, seed=0, spec=spec)
    assert max(forgets.returns) < 250


def test_the_lander_flies_from_positions() -> None:
    """The shipped planner lands as it does when velocities are shown."""
    env = "envs.hidden:agentkd/LunarLanderHidden-v0"
    spec = env_spec(environments.make(env))
    planner = load_planner("policies.hidden:lander", spec)
    check_policy(planner.policy, spec)
    flown = evaluate(env, planner.policy, episodes=3, seed=1000, spec=spec)
    assert min(flown.returns) > 200


def echo(obs: Floats, /) -> Point:
    return Point(obs)


@pytest.mark.parametrize(
    ("env", "whole", "tolerance"),
    [
        ("CartPole-v1", cart_pole_whole, 0.5),
        ("Pendulum-v1", pendulum_whole, 1e-3),
        ("Hopper-v5", differences(0.008, 0, 1), 2.0),
        ("LunarLander-v3", lander_whole, 0.01),
    ],
)
def test_differences_are_near_the_velocities(env: str, whole: Whole, tolerance: float) -> None:
    """From the second tick on the planner is given what the robot would show."""
    robot: Any = gym.make(env)
    keep = list(POSITIONS[env])
    obs, _ = robot.reset(seed=1)
    policy = FromPositions(echo, whole, len(keep))
    state = policy.initial_state(1)
    robot.action_space.seed(0)
    for tick in range(12):
        answer, state = policy(np.asarray(obs, np.float32)[None, keep], state)
        assert isinstance(answer, Point)
        given = answer.action[0]
        assert given.shape == obs.shape
        if tick:
            apart = np.abs(given - obs)
            # How fast Hopper runs is not told by what it shows.
            apart[[5] if env.startswith("Hopper") else []] = 0
            assert apart.max() < tolerance
        obs, *_ = robot.step(robot.action_space.sample())
    robot.close()


def test_memories_are_kept_row_by_row() -> None:
    """A row that begins anew has no velocity, whatever the others do."""
    policy = FromPositions(echo, differences(0.5), 1)
    first = np.array([[1], [5]], np.float32)
    _, (before, seen) = policy(first, policy.initial_state(2))
    seen[1] = 0
    answer, _ = policy(np.array([[2], [9]], np.float32), (before, seen))
    assert isinstance(answer, Point)
    assert answer.action.tolist() == [[2, 2], [9, 0]]
