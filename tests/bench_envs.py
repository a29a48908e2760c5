"""Small environments whose returns are known, each with one thing to look at."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


class Walk(gym.Env[Any, Any]):
    """Pays the action that was taken; an episode has 3 + seed % 4 steps.

    It observes (seed, step), so a policy and a test can tell where it is.
    """

    observation_space: Any = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space: Any = gym.spaces.Discrete(3)

    def __init__(self) -> None:
        self.own_seed = self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        assert seed is not None
        self.own_seed, self.steps = seed, 0
        return self.seen(), {}

    def seen(self) -> Any:
        return np.array([self.own_seed, self.steps], np.float32)

    def step(self, action: Any) -> Any:
        assert type(action) is int
        self.steps += 1
        over = self.steps >= 3 + self.own_seed % 4
        return self.seen(), float(action), over, False, {}


class Endless(Walk):
    """Never ends."""

    def step(self, action: Any) -> Any:
        obs, reward, _, _, info = super().step(action)
        return obs, reward, False, False, info


class Breaks(Walk):
    """Raises at the third step of the episode with seed 12."""

    def step(self, action: Any) -> Any:
        if (self.own_seed, self.steps) == (12, 2):
            raise ValueError("the gearbox is gone")
        return super().step(action)


class Blind(Walk):
    """Observes NaN at the second step of the episode with seed 11."""

    def seen(self) -> Any:
        if (self.own_seed, self.steps) == (11, 1):
            return np.array([np.nan, 1], np.float32)
        return super().seen()


class Priceless(Walk):
    """Pays NaN."""

    def step(self, action: Any) -> Any:
        obs, _, over, cut, info = super().step(action)
        return obs, float("nan"), over, cut, info


class Arm(Walk):
    """Takes a matrix of doubles and observes a dictionary."""

    observation_space = gym.spaces.Dict(
        {"joint": gym.spaces.Box(-1, 1, (2, 2), np.float64), "mode": gym.spaces.Discrete(3)}
    )
    action_space = gym.spaces.Box(-2, 2, (1, 2), np.float64)

    def seen(self) -> Any:
        return {"joint": np.full((2, 2), 0.5), "mode": self.steps % 3}

    def step(self, action: Any) -> Any:
        assert action.shape == (1, 2)
        assert action.dtype == np.float64
        _, _, over, _, _ = super().step(0)
        return self.seen(), float(action.sum()), over, False, {}
