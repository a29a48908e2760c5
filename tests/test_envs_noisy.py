"""Robots that do not quite do what they are told."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agentkd import environments
from agentkd.errors import ConfigError, SpecError
from agentkd.planners.search.twin import Twin
from envs.noisy import NoisyActions

NOISY = "envs.noisy:agentkd/HalfCheetahNoisy-v0"


class Echo(gym.Env[Any, Any]):
    """Observes what was done, in a box whose dimensions are not alike."""

    observation_space = gym.spaces.Box(-9, 9, (2,), np.float32)
    action_space = gym.spaces.Box(np.array([-1, 0], np.float32), np.array([1, 8], np.float32))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        return action, 0.0, False, False, {}


def test_noise_has_its_size_and_stays_within_the_bounds() -> None:
    """A standard deviation of a tenth of half the box, in each dimension's own units."""
    world = NoisyActions(Echo(), 0.1)
    world.reset(seed=0)
    done = np.array([world.step(np.array([0, 4], np.float32))[0] for _ in range(4000)])
    np.testing.assert_allclose(done.mean(axis=0), [0, 4], atol=0.03)
    np.testing.assert_allclose(done.std(axis=0), [0.1, 0.4], rtol=0.05)
    edge = np.array([world.step(np.array([1, 8], np.float32))[0] for _ in range(100)])
    assert (edge <= [1, 8]).all()


def test_a_seed_decides_the_noise() -> None:
    """So that arms are compared on the same noise."""
    world = NoisyActions(Echo())
    runs = []
    for seed in (3, 3, 4):
        world.reset(seed=seed)
        runs.append([world.step(np.array([0, 4], np.float32))[0] for _ in range(3)])
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def test_no_model_is_made_of_it_unasked() -> None:
    """Its simulation is found out not to reproduce it."""
    environments.make(NOISY).close()
    with pytest.raises(SpecError, match="not reproduced"):
        Twin(NOISY)


def test_what_has_no_box_of_actions_is_refused() -> None:
    """With the value, and so is a negative sigma."""
    with pytest.raises(ConfigError, match="A bounded box"):
        NoisyActions(gym.make("CartPole-v1"))
    with pytest.raises(ConfigError, match="sigma is -1"):
        NoisyActions(Echo(), -1.0)
