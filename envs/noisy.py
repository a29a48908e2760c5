"""Robots that do not quite do what they are told: `agentkd/HalfCheetahNoisy-v0`.

No model foretells where such a robot will be. A planner that is late can be asked about where it
would be without the noise.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from agentkd.errors import ConfigError


class NoisyActions(
    gym.ActionWrapper[Any, NDArray[Any], NDArray[Any]], gym.utils.RecordConstructorArgs
):
    """An environment in which noise is added to each action, within the bounds.

    What was done is paid, not what was wanted. An episode's seed decides its noise.

    Args:
        env: Takes a bounded box of actions.
        sigma: The noise's standard deviation, as a share of half the distance of the bounds.

    Raises:
        ConfigError: If the actions are others, or `sigma` is negative.
    """

    def __init__(self, env: gym.Env[Any, NDArray[Any]], sigma: float = 0.1) -> None:
        """Measure the box."""
        gym.utils.RecordConstructorArgs.__init__(self, sigma=sigma)
        super().__init__(env)
        space = env.action_space
        if not isinstance(space, gym.spaces.Box) or not space.is_bounded():
            raise ConfigError(f"A bounded box of actions is needed, not {space}.")
        if not (np.isfinite(sigma) and sigma >= 0):
            raise ConfigError(f"sigma is {sigma}; it has to be finite, and not negative.")
        self._low, self._high = space.low, space.high
        self._scale = sigma * (space.high - space.low) / 2

    def action(self, action: NDArray[Any]) -> NDArray[Any]:
        """Add the noise."""
        noise = self._scale * self.np_random.standard_normal(self._scale.shape)
        done: NDArray[Any] = np.clip(action + noise, self._low, self._high)
        return done.astype(self._low.dtype)


def noisy(env: str, sigma: float = 0.1, **options: Any) -> gym.Env[Any, NDArray[Any]]:
    """Make an environment with noise on its actions.

    Args:
        env: Its name.
        sigma: See `NoisyActions`.
        options: Keyword arguments for it.
    """
    return NoisyActions(gym.make(env, **options), sigma)


gym.register(
    "agentkd/HalfCheetahNoisy-v0", entry_point="envs.noisy:noisy", kwargs={"env": "HalfCheetah-v5"}
)
