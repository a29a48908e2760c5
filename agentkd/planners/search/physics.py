"""MuJoCo worlds for sampling-based control, by `mujoco.rollout`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from agentkd.errors import ConfigError, PlannerError, SpecError
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
        anywhere: Sequence[int] = (),
        threads: int = 0,
    ) -> None:
        """Take the model and make what it is simulated with."""
        import mujoco
        from mujoco import rollout

        if skip < 1 or threads < 0:
            raise ConfigError(f"skip is {skip} and threads {threads}; at least 1 and 0, please.")
        if not model.actuator_ctrllimited.all():
            raise ConfigError(
                "Every actuator needs a range; set ctrlrange and ctrllimited in the model."
            )
        self.low: Doubles = model.actuator_ctrlrange[:, 0].copy()
        self.high: Doubles = model.actuator_ctrlrange[:, 1].copy()
        self._model, self._skip = model, skip
        self._restore, self._reward, self._over = restore, reward, over
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

    def roll(self, state: Doubles, actions: Doubles, /) -> tuple[Doubles, Doubles]:
        """Live on from a state; see `Rollouts.roll`.

        Raises:
            PlannerError: If the rewards are of another shape.
        """
        count, ticks, _ = actions.shape
        held = np.repeat(actions, self._skip, axis=1)
        lived, _ = self._rollout.rollout(
            self._model, self._data, state[None].repeat(count, 0), held
        )
        after = lived[:, self._skip - 1 :: self._skip]
        nq, nv = self._model.nq, self._model.nv
        qpos, qvel = after[..., 1 : 1 + nq], after[..., 1 + nq : 1 + nq + nv]
        first = np.broadcast_to(state[1 : 1 + nq], (count, 1, nq))
        before = np.concatenate([first, qpos[:, :-1]], axis=1)
        moves = Moves(before, qpos, qvel, actions, self._seconds)
        rewards = np.asarray(self._reward(moves), float)
        if rewards.shape != (count, ticks):
            raise PlannerError(
                f"The reward has shape {rewards.shape}; {(count, ticks)} was expected."
            )
        if self._over is not None:
            ended = np.logical_or.accumulate(self._over(moves), axis=1)
            # The tick that ends it all is still paid.
            rewards = np.where(np.roll(ended, 1, 1) & (np.arange(ticks) > 0), 0, rewards)
        return rewards, after

    def features(self, states: Doubles, /) -> Doubles:
        """Positions that matter, and velocities by what they change in a tick."""
        nq, nv = self._model.nq, self._model.nv
        qpos = states[..., 1 : 1 + nq][..., self._kept]
        qvel = states[..., 1 + nq : 1 + nq + nv]
        return np.concatenate([qpos, self._seconds * qvel], axis=-1)
