"""Robots whose observations are late: what an executor gets of them, and what is so now.

`agentkd/HalfCheetahLate-v0{"ticks": 2}` shows a dictionary:

    late   what HalfCheetah-v5 showed some ticks ago; before that, what it showed at the reset
    now    what it shows now, for a planner that is asked while labels are collected
"""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from agentkd.errors import ConfigError


class Late(
    gym.ObservationWrapper[dict[str, NDArray[Any]], Any, NDArray[Any]],
    gym.utils.RecordConstructorArgs,
):
    """An environment that shows its observation now, and that of some ticks ago.

    Args:
        env: The environment.
        ticks: How many.

    Raises:
        ConfigError: If that is not a whole number from 1.
    """

    def __init__(self, env: gym.Env[NDArray[Any], Any], ticks: int = 2) -> None:
        """Show both."""
        gym.utils.RecordConstructorArgs.__init__(self, ticks=ticks)
        super().__init__(env)
        if ticks < 1:
            raise ConfigError(f"ticks is {ticks!r}; give a whole number from 1.")
        self._shown: deque[NDArray[Any]] = deque(maxlen=ticks + 1)
        space: Any = env.observation_space
        both: Any = gym.spaces.Dict({"late": space, "now": space})
        self.observation_space = both

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Begin with what the environment shows at its reset."""
        found: Any
        found, info = self.env.reset(seed=seed, options=options)
        self._shown.clear()
        return self.observation(found), info

    def observation(self, observation: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Show the newest one and the oldest one that is kept."""
        self._shown.append(np.array(observation))
        return {"late": self._shown[0].copy(), "now": observation}


def cheetah(ticks: int = 2, **options: Any) -> gym.Env[dict[str, NDArray[Any]], Any]:
    """Make a HalfCheetah-v5 whose observations are late; options are its own."""
    return Late(gym.make("HalfCheetah-v5", **options), ticks)


gym.register("agentkd/HalfCheetahLate-v0", entry_point="envs.late:cheetah")
