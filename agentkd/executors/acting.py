"""The form in which an executor acts: compiled where possible, else NumPy."""

from __future__ import annotations

from typing import Any, Protocol, final

import numpy as np

from agentkd import dists
from agentkd.errors import ConfigError
from agentkd.executors.executor import Executor, distribution, one_action
from agentkd.executors.staged import Staged, finish
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec, MultiBinarySpec, MultiDiscreteSpec
from agentkd.types import ActionDist, Floats


class Form(Protocol):
    """An executor with a place for its next observation."""

    @property
    def executor(self) -> Executor:
        """The executor."""

    @property
    def obs(self) -> Floats:
        """Where the next observation is written, (obs,)."""

    @property
    def memory(self) -> Floats:
        """What it remembers, (memory,); `run` brings it up to date."""

    def run(self) -> int:
        """Decide; gives 0, or 1 if the observation or the outputs are not finite."""

    def take(self) -> Any:
        """Give the action decided: an int, or a fresh array."""

    def dist(self) -> ActionDist:
        """Give the distribution that `run` decided by, one row."""


@final
class NumpyForm:
    """The executor in NumPy."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.obs: Floats = np.zeros(executor.spec.obs.size, np.float32)
        self.memory: Floats = np.zeros(executor.memory, np.float32)
        self._dist: ActionDist | None = None

    def run(self) -> int:
        """Decide; see `Form.run`."""
        if not np.isfinite(self.obs).all():
            return 1
        executor = self.executor
        outputs, after = executor.advance(self.obs[None], self.memory[None])
        if not np.isfinite(outputs).all():
            return 1
        self.memory[:] = after[0]
        self._dist = distribution(executor.head, outputs, executor.spec)
        return 0

    def take(self) -> Any:
        """Give the action decided: an int, or a fresh array."""
        spec = self.executor.spec
        return one_action(dists.mode(self.dist(), spec.action), spec)

    def dist(self) -> ActionDist:
        """Give the distribution that `run` decided by, one row."""
        assert self._dist is not None, "run decides first"
        return self._dist


def form(executor: Executor, *, native: bool = True) -> Form:
    """Bring an executor into the fastest form there is; `native` allows compiling it."""
    return finish(staged_form(executor, native=native))


def staged_form(executor: Executor, *, native: bool = True) -> Staged[Form]:
    """Bring an executor into a form as `form` does, in stages."""
    if native:
        # Not at the top: NumPy alone needs no compiler, and starts faster.
        from agentkd.executors.native import NativeForm, staged_native

        compiled = yield from staged_native(executor)
        if compiled is not None:
            return NativeForm(compiled)
    return NumpyForm(executor)


def default_action(action: ActionSpec, wanted: Any = None) -> Any:
    """Return what is done before the first decision: what the user wants.

    By default it is the first choice, or the action nearest to 0.

    Raises:
        ConfigError: If `wanted` is not an action of these.
    """
    usual, low, high = _range(action)
    if wanted is None:
        return usual
    like = np.asarray(usual)
    try:
        found = np.asarray(wanted, np.float64)
    except (TypeError, ValueError):
        found = np.asarray(np.nan)
    fits = found.shape == like.shape and bool(np.isfinite(found).all())
    fits = fits and bool(((low <= found) & (found <= high)).all())
    whole = isinstance(action, BoxSpec) or bool((found == np.floor(found)).all())
    if not (fits and whole):
        raise ConfigError(
            f"The default {wanted!r} is not an action of {action}. Give one of shape "
            f"{like.shape} within the bounds, or leave it out."
        )
    if isinstance(action, BoxSpec):
        # A bound of 0.1 has its own nearest float32 inside.
        inside = np.clip(np.ravel(found).astype(np.float32), *dists.bounds(action))
        return inside.reshape(action.shape)
    return int(found) if isinstance(action, DiscreteSpec) else found.astype(like.dtype)


def _range(action: ActionSpec) -> tuple[Any, Any, Any]:
    """The action done by default, in its own type, and the bounds of all."""
    match action:
        case DiscreteSpec(n, start):
            return start, start, start + n - 1
        case BoxSpec(low, high, shape):
            nearest = np.clip(np.zeros(len(low), np.float32), *dists.bounds(action))
            return nearest.reshape(shape), np.reshape(low, shape), np.reshape(high, shape)
        case MultiBinarySpec(n):
            return np.zeros(n, np.int8), 0, 1
        case MultiDiscreteSpec(sizes):
            return np.zeros(len(sizes), np.int64), 0, np.asarray(sizes) - 1
