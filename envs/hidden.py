"""Robots and toys of which only positions are observed, so that a memory is needed.

`agentkd/HalfCheetahHidden-v0` and `agentkd/HopperHidden-v0` are MuJoCo robots without `qvel`;
`agentkd/LunarLanderHidden-v0`, `agentkd/CartPoleHidden-v0` and `agentkd/PendulumHidden-v0` are
cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from agentkd.errors import ConfigError


class HiddenVelocities(
    gym.ObservationWrapper[NDArray[Any], Any, NDArray[Any]], gym.utils.RecordConstructorArgs
):
    """An environment of which some observed numbers are left out.

    Args:
        env: Observes a flat vector.
        keep: The indices of the numbers that are observed still.

    Raises:
        ConfigError: If it observes something else, or an index is none of its.
    """

    def __init__(self, env: gym.Env[NDArray[Any], Any], keep: Sequence[int]) -> None:
        """Cut the space."""
        gym.utils.RecordConstructorArgs.__init__(self, keep=tuple(keep))
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise ConfigError(f"A flat Box of observations is needed, not {space}.")
        size = space.shape[0]
        if not keep or not all(0 <= index < size for index in keep):
            raise ConfigError(f"keep is {list(keep)}; indices from 0 to {size - 1}.")
        self._keep = np.asarray(keep)
        self.observation_space = gym.spaces.Box(
            space.low[self._keep], space.high[self._keep], dtype=space.dtype.type
        )

    def observation(self, observation: NDArray[Any]) -> NDArray[Any]:
        """Leave the hidden numbers out."""
        kept: NDArray[Any] = observation[self._keep]
        return kept


POSITIONS: dict[str, tuple[int, ...]] = {
    "HalfCheetah-v5": tuple(range(8)),
    "Hopper-v5": tuple(range(5)),
    "LunarLander-v3": (0, 1, 4, 6, 7),
    "CartPole-v1": (0, 2),
    "Pendulum-v1": (0, 1),
}
"""Where in the observation of each environment the positions are."""


def hidden(env: str, **options: Any) -> gym.Env[NDArray[Any], Any]:
    """Make an environment that does not show its velocities.

    Args:
        env: One of `POSITIONS`.
        options: Keyword arguments for it.
    """
    return HiddenVelocities(gym.make(env, **options), POSITIONS[env])


for _env in POSITIONS:
    gym.register(
        f"agentkd/{_env.partition('-')[0]}Hidden-v0",
        entry_point="envs.hidden:hidden",
        kwargs={"env": _env},
    )
