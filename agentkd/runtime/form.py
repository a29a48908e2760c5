"""The form in which an executor acts: compiled where possible, else NumPy."""

from __future__ import annotations

from typing import Any, Protocol, final

import numpy as np

from agentkd import dists
from agentkd.executors.frozen import Frozen, one_action
from agentkd.executors.native import compile_native
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec, MultiBinarySpec
from agentkd.types import ActionDist, Floats


class Form(Protocol):
    """An executor with a place for its next observation."""

    @property
    def frozen(self) -> Frozen:
        """The executor."""
        ...

    @property
    def obs(self) -> Floats:
        """Where the next observation is written, (obs,)."""
        ...

    def run(self) -> int:
        """Decide; gives 0, or 1 if the observation holds NaN or infinity."""
        ...

    def take(self) -> Any:
        """Give the action decided: an int, or a fresh array."""
        ...

    def __call__(self, obs: Floats, /) -> ActionDist:
        """Give the action distribution for observations (batch, obs)."""
        ...


@final
class NumpyForm:
    """The executor in NumPy.

    Args:
        frozen: The executor.
    """

    def __init__(self, frozen: Frozen) -> None:
        """Make room for an observation."""
        self.frozen = frozen
        self.obs: Floats = np.zeros(frozen.spec.obs.size, np.float32)
        self._action: Any = None

    def run(self) -> int:
        """Decide; gives 0, or 1 if the observation holds NaN or infinity."""
        if not np.isfinite(self.obs).all():
            return 1
        spec = self.frozen.spec
        actions = dists.mode(self.frozen(self.obs[None]), spec.action)
        self._action = one_action(actions, spec)
        return 0

    def take(self) -> Any:
        """Give the action decided: an int, or a fresh array."""
        return self._action

    def __call__(self, obs: Floats, /) -> ActionDist:
        """Give the action distribution for observations (batch, obs)."""
        return self.frozen(obs)


def form(frozen: Frozen, *, native: bool = True) -> Form:
    """Bring an executor into the fastest form there is.

    Args:
        frozen: The executor.
        native: Whether it may be compiled.
    """
    if native:
        compiled = compile_native(frozen)
        if compiled is not None:
            return compiled
    return NumpyForm(frozen)


def default_action(action: ActionSpec) -> Any:
    """What is done before anybody decided: the first choice, or the nearest to 0."""
    match action:
        case DiscreteSpec(_, start):
            return start
        case BoxSpec(low, high, shape):
            zeros = np.zeros(len(low), np.float32)
            bounds = np.asarray(low, np.float32), np.asarray(high, np.float32)
            return np.clip(zeros, *bounds).reshape(shape)
        case MultiBinarySpec(n):
            return np.zeros(n, np.int8)
        case _:
            return np.zeros(len(action.sizes), np.int64)
