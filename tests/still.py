"""Environments with any spaces, in which nothing happens."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

BOX = spaces.Box(np.array([-1, -3], np.float32), np.array([1, 2], np.float32))
CHOICE = spaces.Discrete(3)


class Env(gym.Env[Any, Any]):
    """Any spaces, and nothing happens."""

    def __init__(self, observation: Any, action: Any) -> None:
        self.observation_space, self.action_space = observation, action

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 0.0, False, False, {}
