"""Robots of Gymnasium's MuJoCo with another mass, friction and strength of motors.

agentkd eval 'envs.bodies:body{"robot": "Hopper-v5", "mass": 1.2}' policies/hopper
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from agentkd.errors import ConfigError
from envs.cheetah import apply

LOW, HIGH = 0.75, 1.3
"""Between which mass, friction and each motor's strength are drawn, as factors."""


def body(
    robot: str = "HalfCheetah-v5",
    mass: float = 1.0,
    friction: float = 1.0,
    motors: float | Sequence[float] = 1.0,
) -> gym.Env[Any, Any]:
    """Make a robot with other constants, as factors of the usual ones.

    Args:
        robot: A MuJoCo environment of Gymnasium's.
        mass: Of mass and inertia of each of its parts.
        friction: Of the sliding friction of everything.
        motors: Of the strength of all motors, or of each.

    Raises:
        ConfigError: If a factor is not above 0, or there are more or fewer motors.
    """
    env = gym.make(robot)
    model = getattr(env.unwrapped, "model", None)
    if model is None:
        raise ConfigError(f"{robot} is not a robot of MuJoCo's.")
    every = [motors] * model.nu if isinstance(motors, int | float) else list(motors)
    factors = np.array([mass, friction, *every], float)
    if len(every) != model.nu or not (np.isfinite(factors) & (factors > 0)).all():
        raise ConfigError(
            f"mass={mass}, friction={friction}, motors={motors}: factors above 0, one for all "
            f"motors or {model.nu}."
        )
    apply(model, copy.copy(model), factors)
    return env


def drawn(robot: str, seed: int) -> str:
    """Name a body that is drawn by a seed."""
    probe = gym.make(robot)
    count: int = probe.action_space.shape[0]  # type: ignore[index]
    probe.close()
    mass, friction, *motors = np.random.default_rng(seed).uniform(LOW, HIGH, 2 + count).round(3)
    given = {"robot": robot, "mass": mass, "friction": friction, "motors": motors}
    return f"envs.bodies:body{json.dumps(given)}"
