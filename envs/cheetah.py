"""A cheetah whose mass, friction and motors are drawn anew each episode.

`agentkd/CheetahDrawn-v0` is HalfCheetah-v5 with other constants in every episode. It shows a
dictionary, so that planner and executor can see different parts of it:

    joints    height, pitch and six joint angles, as sensors measure them (m, rad)
    actions   the last action, zeros at the first tick
    speeds    the velocities of all that (m/s, rad/s)
    physics   what was drawn, as factors of the usual: mass, friction, six motors
"""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from numpy.typing import NDArray

Numbers = NDArray[np.floating[Any]]

LOW = np.array([0.6, 0.5, *[0.5] * 6])
HIGH = np.array([1.6, 1.5, *[1.5] * 6])
"""Between which mass, friction and the six motors' strengths are drawn, as factors."""
TICK = 0.05
"""Seconds from one observation to the next."""
_SIZES = {"actions": 6, "joints": 8, "physics": 8, "speeds": 9}
SPACE = gym.spaces.Dict(
    {name: gym.spaces.Box(-np.inf, np.inf, (size,), np.float32) for name, size in _SIZES.items()}
)


def draw(random: np.random.Generator) -> Numbers:
    """Draw what an episode's physics is, (8,): mass, friction, motors, as factors."""
    return random.uniform(LOW, HIGH)


def apply(model: Any, usual: Any, physics: Numbers) -> None:
    """Give a MuJoCo model other constants: those of `usual` times factors, (8,)."""
    mass, friction, motors = physics[0], physics[1], physics[2:]
    model.body_mass[:] = usual.body_mass * mass
    model.body_inertia[:] = usual.body_inertia * mass
    # Of two geoms that touch the larger friction counts, so the floor's changes too.
    model.geom_friction[:] = usual.geom_friction * [friction, 1.0, 1.0]
    model.actuator_gear[:, 0] = usual.actuator_gear[:, 0] * motors
    mujoco.mj_setConst(model, mujoco.MjData(model))


def observe(
    positions: Numbers, speeds: Numbers, actions: Numbers, physics: Numbers
) -> dict[str, NDArray[np.float32]]:
    """Show a state, or a batch of states: (…, 9), (…, 9), (…, 6) and (…, 8)."""
    shown = {"actions": actions, "joints": positions[..., 1:], "physics": physics, "speeds": speeds}
    return {name: np.array(each, np.float32) for name, each in shown.items()}


def begin(usual: Any, random: np.random.Generator) -> tuple[Numbers, Numbers]:
    """Draw where an episode begins, as HalfCheetah-v5 does: positions and velocities, (9,)."""
    positions: Numbers = usual.qpos0 + random.uniform(-0.1, 0.1, usual.nq)
    return positions, 0.1 * random.standard_normal(usual.nv)


_Usual: Any = HalfCheetahEnv


class CheetahDrawn(_Usual):  # type: ignore[misc]
    """HalfCheetah-v5 with the physics of each episode drawn at its reset.

    Attributes:
        physics: What was drawn, (8,).
        usual: The model that it is drawn around.
    """

    def __init__(self, **options: Any) -> None:
        """Take HalfCheetah-v5's options."""
        self._actions: Numbers = np.zeros(6)
        self.physics: Numbers = np.ones(8)
        super().__init__(**options)
        self.observation_space = SPACE
        self.usual = copy.copy(self.model)

    def reset_model(self) -> Any:
        """Draw physics and a state."""
        self.physics = draw(self.np_random)
        apply(self.model, self.usual, self.physics)
        self._actions = np.zeros(6)
        self.set_state(*begin(self.usual, self.np_random))
        return self._get_obs()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Do what HalfCheetah-v5 does, and keep the action."""
        self._actions = np.clip(action, -1.0, 1.0)
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, float(reward), terminated, truncated, info

    def _get_obs(self) -> Any:
        return observe(self.data.qpos, self.data.qvel, self._actions, self.physics)


gym.register(
    "agentkd/CheetahDrawn-v0", entry_point="envs.cheetah:CheetahDrawn", max_episode_steps=1000
)
