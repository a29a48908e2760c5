"""One executor for many agents: all decide in one call, each with a memory of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from agentkd import dists
from agentkd.errors import ConfigError, NumbersError, SpecError
from agentkd.executors.executor import Executor, distribution
from agentkd.sizes import MOST, is_whole
from agentkd.spec import DiscreteSpec, flatten
from agentkd.types import Floats
from agentkd.views import pick

_SHOWN = 5


@final
class Crowd:
    """Many agents with one executor.

        crowd = executor.crowd(1000)
        actions = crowd.act(observations)
        crowd.reset(fallen)

    It decides in C where there is a compiler, on the caller's thread, for one caller at a time.

    Args:
        executor: Decides for all of them.
        count: How many agents there are.
        native: Whether C may be used.

    Attributes:
        memory: What each remembers, (count, memory), float32.

    Raises:
        ConfigError: If `count` is not a whole number from 1.
    """

    def __init__(self, executor: Executor, count: int, *, native: bool = True) -> None:
        if not is_whole(count, 1, MOST):
            raise ConfigError(f"A crowd of {count!r:.40}; give a whole number from 1 to {MOST}.")
        self.executor, self._count = executor, int(count)
        self.memory: Floats = np.zeros((self._count, executor.memory), np.float32)
        self._taken: Floats = np.zeros((self._count, executor.spec.obs.taken), np.float32)
        self._form: Any = executor
        if native:
            # Not at the top: NumPy alone needs no compiler, and starts faster.
            from agentkd.executors.native import compile_native

            self._form = compile_native(executor) or executor

    def act(self, obs: Any) -> Any:
        """Return the most probable action of each agent.

        Args:
            obs: One observation for each, as a vectorised environment gives them: an array
                (count, …), or a dictionary or tuple of such; or flat, (count, obs).

        Returns:
            In the environment's units: (count,) whole numbers for one choice, else (count, …).

        Raises:
            SpecError: If the observations have another shape.
            NumbersError: If an agent's observation, or the last layer's numbers, hold NaN or
                infinity. Nobody's memory changes then.
        """
        spec = self.executor.spec
        flat = self._flat(obs)
        if len(flat) != self._count:
            raise SpecError(f"{len(flat)} observations for a crowd of {self._count}.")
        whole = np.isfinite(flat).all(axis=1)
        after = self.memory
        if whole.all():
            if self.executor.memory:
                outputs, after = self._form.advance(flat, self.memory)
            else:
                outputs = self._form.outputs(flat)
            whole = np.isfinite(outputs).all(axis=1)
        if not whole.all():
            rows = np.flatnonzero(~whole)
            shown = ", ".join(map(str, rows[:_SHOWN])) + (", …" if len(rows) > _SHOWN else "")
            raise NumbersError(
                f"NaN or infinity for {len(rows)} of {self._count} agents: {shown}. Begin their "
                "episodes anew, and give the others' observations."
            )
        self.memory = after
        actions = dists.mode(distribution(self.executor.head, outputs, spec), spec.action)
        self.executed(actions)
        return actions.reshape(self._count) if isinstance(spec.action, DiscreteSpec) else actions

    def executed(self, actions: Any) -> None:
        """Say what all agents did, (count, …), where that is not what `act` returned.

        It counts for an executor that sees past actions (`delay:D`, `actions:N`).
        """
        if self._taken.shape[1]:
            self._taken = dists.coded(np.asarray(actions), self.executor.spec.action)

    def reset(self, which: NDArray[Any] | Any = None) -> None:
        """Begin episodes: clear the memory of some agents, or of all.

        `which` are their places, or a mask (count,).
        """
        rows = slice(None) if which is None else np.asarray(which)
        self.memory[rows] = self._taken[rows] = 0.0

    def _flat(self, obs: Any) -> Floats:
        spec = replace(self.executor.spec.obs, taken=0)
        # A number too large for float32 becomes infinite, which is refused.
        with np.errstate(over="ignore"):
            if isinstance(obs, np.ndarray) and obs.ndim == 2:
                flat = pick(spec, np.ascontiguousarray(obs, np.float32))
            else:
                flat = flatten(spec, obs)
        if self._taken.shape[1] and len(flat) == self._count:
            flat = np.concatenate([flat, self._taken], axis=1)
        return flat
