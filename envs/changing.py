"""Worlds that change while a robot acts, and change back.

`agentkd/ChangingPendulum-v0` is Pendulum-v1 whose motor's gain, length and mass change;
`agentkd/ChangingHalfCheetah-v0` is HalfCheetah-v5 whose motors do. What changes is observed behind
the rest, for a planner that is told; an executor sees the rest alone:

    agentkd run 'envs.changing:agentkd/ChangingPendulum-v0{"gain": -1, "at": 20000}'
    --planner policies/pendulum --executor-sees 0:3 --clock virtual
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, final

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from agentkd.errors import ConfigError

Array = NDArray[Any]


class Changing(gym.Wrapper[Array, Any, Array, Any], gym.utils.RecordConstructorArgs, ABC):
    """An environment some numbers of which change at a tick, counted over all episodes.

    Args:
        env: Observes a flat vector.
        after: The numbers after the change, (n,). They are observed behind the rest.
        at: The tick from which on they hold.
        until: The tick at which all is as before again; None for never.

    Raises:
        ConfigError: If a number or a tick is invalid.
    """

    def __init__(
        self, env: gym.Env[Array, Any], after: Sequence[float], at: int, until: int | None
    ) -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise ConfigError(f"A flat Box of observations is needed, not {space}.")
        if at < 0 or (until is not None and until < at):
            raise ConfigError(f"at is {at}, until {until}: ticks from 0 up, until not before at.")
        if not np.isfinite(after).all() or not all(after):
            raise ConfigError(f"The world becomes {list(after)}; finite numbers other than 0.")
        self.before: Array = np.ones(len(after))
        self.after: Array = np.asarray(after, float)
        self.at, self.until, self.ticks = at, until, 0
        self.world = self.before
        kind = space.dtype.type
        edge = np.full(len(after), np.inf)
        low, high = np.append(space.low, -edge), np.append(space.high, edge)
        self.observation_space = gym.spaces.Box(low.astype(kind), high.astype(kind), dtype=kind)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode; the ticks go on being counted."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._turn()
        return self._seen(obs), info

    def step(self, action: Array) -> tuple[Array, Any, bool, bool, dict[str, Any]]:
        """Do a tick in the world as it is, and observe the world of the next."""
        obs, reward, terminated, truncated, info = self.env.step(self._moved(action))
        self.ticks += 1
        self._turn()
        return self._seen(obs), reward, terminated, truncated, info

    def _turn(self) -> None:
        changed = self.ticks >= self.at and (self.until is None or self.ticks < self.until)
        self._become(self.after if changed else self.before)

    def _become(self, world: Array) -> None:
        self.world = world
        self._apply(world)

    def _seen(self, obs: Array) -> Array:
        return np.append(obs, self.world).astype(obs.dtype)

    @abstractmethod
    def _apply(self, world: Array) -> None:
        """Make the environment what the numbers say."""

    def _moved(self, action: Array) -> Array:
        """Return what the motors get."""
        return action


@final
class ChangingPendulum(Changing):
    """Pendulum-v1 of another motor, length and mass; in units of its own.

    Args:
        gain: What the torque is multiplied with after the change.
        length: Its length.
        mass: Its mass.
        at: See `Changing`.
        until: See `Changing`.
        drawn: Draw all three anew for each episode instead, to train a planner: the gain from
            0.5 to 1.2 of either sign, the length from 0.8 to 1.4, the mass from 0.7 to 1.5.
        render_mode: As of Pendulum-v1.
        env: Pendulum-v1, where it was made already.
    """

    def __init__(
        self,
        gain: float = 1.0,
        length: float = 1.0,
        mass: float = 1.0,
        at: int = 0,
        until: int | None = None,
        *,
        drawn: bool = False,
        render_mode: str | None = None,
        env: gym.Env[Array, Any] | None = None,
    ) -> None:
        how: dict[str, Any] = {"drawn": drawn, "render_mode": render_mode}
        gym.utils.RecordConstructorArgs.__init__(
            self, gain=gain, length=length, mass=mass, at=at, until=until, **how
        )
        if length <= 0 or mass <= 0:
            raise ConfigError(f"length is {length}, mass {mass}; above 0, please.")
        made = env or gym.make("Pendulum-v1", render_mode=render_mode)
        super().__init__(made, (gain, length, mass), at, until)
        self._drawn = drawn

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode, in a world of its own if it is drawn."""
        obs, info = super().reset(seed=seed, options=options)
        if self._drawn:
            random = self.unwrapped.np_random
            sign = 1.0 if random.random() < 0.5 else -1.0
            drawn = random.uniform((0.5, 0.8, 0.7), (1.2, 1.4, 1.5)) * (sign, 1.0, 1.0)
            self._become(drawn)
            obs = np.append(obs[:3], drawn).astype(obs.dtype)
        return obs, info

    def _turn(self) -> None:
        if not self._drawn:
            super()._turn()

    def _apply(self, world: Array) -> None:
        pendulum: Any = self.unwrapped
        gain, pendulum.l, pendulum.m = map(float, world)
        pendulum.max_torque = 2.0 * abs(gain)

    def _moved(self, action: Array) -> Array:
        turned: Array = np.clip(action, -2.0, 2.0) * self.world[0]
        return turned


@final
class ChangingHalfCheetah(Changing):
    """HalfCheetah-v5 whose motors become stronger, weaker or reversed.

    Args:
        gains: What the force of each motor is multiplied with after the change: one number for
            all, or six (back thigh, shin, foot, front thigh, shin, foot).
        at: See `Changing`.
        until: See `Changing`.
        env: HalfCheetah-v5, where it was made already.
        options: Keyword arguments of HalfCheetah-v5.
    """

    def __init__(
        self,
        gains: float | Sequence[float] = 1.0,
        at: int = 0,
        until: int | None = None,
        env: gym.Env[Array, Any] | None = None,
        **options: Any,
    ) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, gains=gains, at=at, until=until, **options)
        env = env or gym.make("HalfCheetah-v5", **options)
        every = [gains] * 6 if isinstance(gains, int | float) else list(gains)
        if len(every) != 6:
            raise ConfigError(f"gains is {gains}; one number, or six.")
        robot: Any = env.unwrapped
        self._force = robot.model.actuator_gear[:, 0].copy()
        super().__init__(env, every, at, until)

    def _apply(self, world: Array) -> None:
        robot: Any = self.unwrapped
        robot.model.actuator_gear[:, 0] = self._force * world


gym.register("agentkd/ChangingPendulum-v0", entry_point="envs.changing:ChangingPendulum")
gym.register("agentkd/ChangingHalfCheetah-v0", entry_point="envs.changing:ChangingHalfCheetah")
