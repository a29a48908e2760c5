"""A MuJoCo environment's own simulation as a model of it, made from its name.

The twin is another copy of the environment. Positions and velocities are read from an observation
and put into it; what it observes after some actions is the prediction. It is used only if it
reproduces the environment, which is tried when it is made.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, final

import numpy as np

from agentkd import environments
from agentkd.errors import SpecError
from agentkd.planners.search.worlds import Doubles
from agentkd.spec import BoxSpec, env_spec, flatten_one
from agentkd.types import Floats

TRANSITIONS = 64
"""How many random transitions are compared."""
_SEED = 7
_NEAR = 1e-3
"""How far predictions may be off, as a share of an observed number's size or of 1: observations are
float32, and contacts enlarge what they lack."""
_CLIPPED = 10.0
"""Hopper and Walker2d show faster velocities as this."""


@final
class Twin:
    """A MuJoCo environment's simulation, to look ahead in. Make one by `twin`.

    Args:
        env: The environment's name.

    Raises:
        SpecError: If it is no MuJoCo environment, does not observe its positions and velocities, or
            is not reproduced.
    """

    def __init__(self, env: str) -> None:
        made = environments.make(env)
        try:
            self._check(env, made)
        finally:
            made.close()

    def _check(self, name: str, made: Any) -> None:
        self.spec = env_spec(made)
        self._busy = threading.RLock()
        robot: Any = environments.make(name).unwrapped
        model: Any = getattr(robot, "model", None)
        if not hasattr(robot, "data") or not hasattr(model, "nq"):
            raise SpecError(f"{name} is no MuJoCo environment of Gymnasium's.")
        if not isinstance(self.spec.action, BoxSpec) or self.spec.obs.layout != "single":
            raise SpecError(f"{name} has {self.spec}; one array and a box of actions are needed.")
        if env_spec(robot) != self.spec:
            raise SpecError(
                f"{name} observes {self.spec}, and the robot in it {env_spec(robot)}: a wrapper "
                "changes that."
            )
        # Where it diverges, MuJoCo would begin anew, and that would be the prediction.
        import mujoco

        model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
        self._robot, self._model = robot, model
        self._hidden = self._unobserved(name)
        self._tried(name, made)

    def _unobserved(self, name: str) -> int:
        """Return how many positions come first that are not observed."""
        nq, nv, size = self._model.nq, self._model.nv, self.spec.obs.size
        told: Mapping[str, int] = getattr(self._robot, "observation_structure", None) or {}
        hidden = told.get("skipped_qpos", 0) if told else nq + nv - size
        if self._model.na or not 0 <= hidden <= 2 or nq - hidden + nv > size:
            raise SpecError(
                f"{name} observes {size} numbers; they do not begin with its {nq} positions, "
                f"all but two at most, and its {nv} velocities."
            )
        return hidden

    def _tried(self, name: str, made: Any) -> None:
        """Compare predictions with what the environment does under random actions."""
        random = np.random.default_rng(_SEED)
        box = self.spec.action
        assert isinstance(box, BoxSpec)
        obs, _ = made.reset(seed=_SEED)
        compared = tried = 0
        while compared < TRANSITIONS and tried < 8 * TRANSITIONS:
            before = flatten_one(self.spec.obs, obs)
            action = random.uniform(box.low, box.high).astype(np.float32).reshape(box.shape)
            obs, _, terminated, truncated, _ = made.step(action)
            seen = flatten_one(self.spec.obs, obs)
            tried += 1
            if not (np.abs(before) == _CLIPPED).any():
                compared += 1
                found = self(before, [action])
                apart = np.abs(found - seen) / np.maximum(1.0, np.abs(seen))
                if found.shape != seen.shape or not (apart < _NEAR).all():
                    raise SpecError(
                        f"{name} is not reproduced by its simulation: after transition {tried} a "
                        f"number is {float(apart.max()):.2g} off, as a share of its size."
                    )
            if terminated or truncated:
                obs, _ = made.reset()

    def placed(self, obs: Floats) -> Doubles:
        """Return the simulation's state for an observation, (obs,); what is not seen is 0."""
        import mujoco

        nq, nv, hidden = self._model.nq, self._model.nv, self._hidden
        data = self._robot.data
        with self._busy:
            mujoco.mj_resetData(self._model, data)
            data.qpos[:hidden] = 0.0
            data.qpos[hidden:] = obs[: nq - hidden]
            data.qvel[:] = obs[nq - hidden : nq - hidden + nv]
            return self._state()

    def moved(self, state: Doubles, action: Any) -> tuple[Doubles, Floats]:
        """Do a tick from a state; return the state after it, and what is observed, (obs,)."""
        import mujoco

        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        with self._busy:
            mujoco.mj_setState(self._model, self._robot.data, state, kind)
            obs, *_ = self._robot.step(np.asarray(action))
            return self._state(), flatten_one(self.spec.obs, obs)

    def _state(self) -> Doubles:
        import mujoco

        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(mujoco.mj_stateSize(self._model, kind))
        mujoco.mj_getState(self._model, self._robot.data, state, kind)
        return state

    def __call__(self, obs: Floats, actions: Sequence[Any]) -> Floats:
        """Return what is observed after some actions, (obs,): a model for `RollForward`."""
        if not len(actions):
            return obs
        seen: Any = obs
        # One simulation serves a whole process, and its callers may be threads.
        with self._busy:
            self.placed(obs)
            for action in actions:
                seen, *_ = self._robot.step(np.asarray(action))
            return flatten_one(self.spec.obs, seen)


@cache
def twin(env: str) -> Twin:
    """Return the simulation of an environment, made and tried once in a process.

    Raises:
        SpecError: If it cannot be looked ahead in; it says why.
    """
    return Twin(env)
