"""MuJoCo worlds for sampling-based control, by `mujoco.rollout`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from agentkd.errors import ConfigError, PlannerError, SpecError, check_range
from agentkd.planners.search.worlds import Doubles
from agentkd.types import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Moves:
    """What happened at the ticks of several futures; n futures of so many ticks.

    Attributes:
        before: Positions `qpos` before each tick, (n, ticks, nq).
        qpos: Positions after it.
        qvel: Velocities after it, (n, ticks, nv).
        action: What was done, (n, ticks, nu).
        seconds: How long a tick is.
    """

    before: Doubles
    qpos: Doubles
    qvel: Doubles
    action: Doubles
    seconds: float


@final
class Physics:
    """A MuJoCo model as `Rollouts`. Its state is MuJoCo's: time, qpos, qvel, act.

    Args:
        model: A `mujoco.MjModel`.
        skip: Steps of the simulation in a tick, each with the same action.
        restore: Gives qpos (nq,) and qvel (nv,) from an observation (obs,).
        reward: Gives the reward of each tick, (n, ticks).
        over: Says at which ticks a future has ended, (n, ticks); left out, none ends.
        observe: Gives what is observed, (…, obs), of qpos (…, nq) and qvel (…, nv): the way back
            from `restore`, which practice and guides need.
        anywhere: Indices of qpos that do not matter for where a robot stands, such as how far it
            has run.
        threads: How many threads share the work; 0 for the caller's own.
    """

    def __init__(
        self,
        model: Any,
        skip: int,
        restore: Callable[[Floats], tuple[Any, Any]],
        reward: Callable[[Moves], Doubles],
        *,
        over: Callable[[Moves], Any] | None = None,
        observe: Callable[[Doubles, Doubles], Any] | None = None,
        anywhere: Sequence[int] = (),
        threads: int = 0,
    ) -> None:
        import mujoco
        from mujoco import rollout

        check_range("skip", skip, least=1, whole=True)
        check_range("threads", threads, least=0, whole=True)
        if not model.actuator_ctrllimited.all():
            raise ConfigError(
                "Every actuator needs a range; set ctrlrange and ctrllimited in the model."
            )
        self.low: Doubles = model.actuator_ctrlrange[:, 0].copy()
        self.high: Doubles = model.actuator_ctrlrange[:, 1].copy()
        self._model, self._skip = model, skip
        self._restore, self._reward, self._over = restore, reward, over
        self._observe, self._anywhere = observe, tuple(anywhere)
        self._kept = [index for index in range(model.nq) if index not in anywhere]
        self._size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        self._seconds = skip * float(model.opt.timestep)
        self._data = [mujoco.MjData(model) for _ in range(max(1, threads))]
        self._rollout = rollout.Rollout(nthread=threads)

    def restore(self, obs: Floats, /) -> Doubles:
        """Give the simulation's state for an observation, at time 0 and at rest inside.

        Raises:
            SpecError: If positions or velocities do not fit the model.
        """
        qpos, qvel = self._restore(obs)
        model = self._model
        if np.shape(qpos) != (model.nq,) or np.shape(qvel) != (model.nv,):
            raise SpecError(
                f"An observation of {obs.shape} was restored to qpos {np.shape(qpos)} "
                f"and qvel {np.shape(qvel)}; the model has {model.nq} and {model.nv}."
            )
        state = np.zeros(self._size)
        state[1 : 1 + model.nq] = qpos
        state[1 + model.nq : 1 + model.nq + model.nv] = qvel
        return state

    def with_threads(self, threads: int) -> Physics:
        """The same world, with so many threads that share the work."""
        return Physics(
            self._model,
            self._skip,
            self._restore,
            self._reward,
            over=self._over,
            observe=self._observe,
            anywhere=self._anywhere,
            threads=threads,
        )

    def observe(self, states: Doubles, /) -> Floats:
        """Give what is observed in states, (…, state).

        Raises:
            SpecError: If the world was made without `observe`.
        """
        if self._observe is None:
            raise SpecError("This world does not say what is observed: give Physics(observe=…).")
        return np.asarray(self._observe(*self._parts(states)), np.float32)

    def roll(self, state: Doubles, actions: Doubles, /) -> tuple[Doubles, Doubles]:
        """Live on from a state; see `Rollouts.roll`.

        Raises:
            PlannerError: If the rewards are of another shape.
        """
        moves, rewards, after = self._live(state[None].repeat(len(actions), 0), actions)
        if self._over is not None:
            ended = np.logical_or.accumulate(self._over(moves), axis=1)
            # The tick that ends it all is still paid.
            rewards = np.where(np.roll(ended, 1, 1) & (np.arange(rewards.shape[1]) > 0), 0, rewards)
        return rewards, after

    def step(
        self, states: Doubles, actions: Doubles, /
    ) -> tuple[Doubles, Doubles, NDArray[np.bool_]]:
        """Live on from each state by a tick; see `Steps.step`.

        Raises:
            PlannerError: If the rewards are of another shape.
        """
        moves, rewards, after = self._live(states, actions[:, None])
        ended = np.zeros(len(states), bool)
        if self._over is not None:
            ended = np.asarray(self._over(moves), bool)[:, 0]
        return rewards[:, 0], after[:, 0], ended

    def _live(self, states: Doubles, actions: Doubles) -> tuple[Moves, Doubles, Doubles]:
        """Live on from each state, (n, state), with its actions, (n, ticks, nu)."""
        held = np.repeat(actions, self._skip, axis=1)
        lived, _ = self._rollout.rollout(self._model, self._data, states, held)
        after = lived[:, self._skip - 1 :: self._skip]
        qpos, qvel = self._parts(after)
        before = np.concatenate([self._parts(states)[0][:, None], qpos[:, :-1]], axis=1)
        moves = Moves(before, qpos, qvel, actions, self._seconds)
        rewards = np.asarray(self._reward(moves), float)
        if rewards.shape != actions.shape[:2]:
            raise PlannerError(
                f"The reward has shape {rewards.shape}; {actions.shape[:2]} was expected."
            )
        return moves, rewards, after

    def _parts(self, states: Doubles) -> tuple[Doubles, Doubles]:
        """Positions and velocities of states, (…, state)."""
        nq, nv = self._model.nq, self._model.nv
        return states[..., 1 : 1 + nq], states[..., 1 + nq : 1 + nq + nv]

    def features(self, states: Doubles, /) -> Doubles:
        """Positions that matter, and velocities by what they change in a tick."""
        qpos, qvel = self._parts(states)
        return np.concatenate([qpos[..., self._kept], self._seconds * qvel], axis=-1)
