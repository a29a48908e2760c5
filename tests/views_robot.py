"""A robot of which planner and executor see different parts, for the tests of views."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from agentkd.spec import BoxSpec, DiscreteSpec, ObsSpec, Part, Spec
from agentkd.types import Floats, Point

VECTOR = Spec(ObsSpec((Part("", "box", (8,), "float32"),)), DiscreteSpec(4))
ROBOT = Spec(
    ObsSpec(
        (
            Part("state", "box", (5,), "float32"),
            Part("joints", "box", (2, 3), "float32"),
            Part("mode", "discrete", (), "int64", (3,)),
        ),
        "dict",
    ),
    BoxSpec((-1.0,), (1.0,), (1,)),
)


def observation(seed: int = 0) -> dict[str, Any]:
    """Give what the robot shows."""
    random = np.random.default_rng(seed)
    return {"state": random.standard_normal(5), "joints": random.standard_normal((2, 3)), "mode": 2}


class Robot(gym.Env[Any, Any]):
    """Goes to where `state` says; sensors show the place, and not how fast it goes."""

    observation_space = gym.spaces.Dict(
        {
            "state": gym.spaces.Box(-9, 9, (2,), np.float32),
            "sensors": gym.spaces.Box(-9, 9, (1,), np.float32),
        }
    )
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin anywhere."""
        super().reset(seed=seed)
        self.place, self.speed = self.np_random.uniform(-1, 1, 2)
        self.left = 40
        return self._see(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Push."""
        self.speed += 0.3 * float(np.clip(action[0], -1, 1))
        self.place += 0.3 * self.speed
        self.left -= 1
        return self._see(), -abs(self.place), False, self.left == 0, {}

    def _see(self) -> dict[str, Any]:
        state = np.array([self.place, self.speed], np.float32)
        return {"state": state, "sensors": state[:1].copy()}


def regulate(obs: Floats) -> Any:
    """Brake: a planner that sees place and speed, (batch, 2)."""
    assert obs.shape[1:] == (2,)
    return Point(np.clip(-1.0 * obs[:, :1] - 1.6 * obs[:, 1:], -1, 1).astype(np.float32))


def from_whole(obs: Any) -> Any:
    """Show a planner what it needs of the whole observation."""
    return np.concatenate([obs["sensors"], obs["state"][:, 1:]], axis=1)
