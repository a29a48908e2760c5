"""A planner that sees a part of the environment's observation, or what a function makes of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, final

import numpy as np

from agentkd.errors import PlannerError
from agentkd.planners.planner import Planner
from agentkd.spec import ObsSpec, Part, Spec, unflatten
from agentkd.testing import example_observations
from agentkd.types import Floats, Guidance, State
from agentkd.views import Seeing, alone, parse_view, pick, see, words_of

_ASKED = ("improve", "disagreement", "answer_and_disagreement")
"""Methods of policies that take observations."""
_HANDED_ON = ("goals", "horizon", "interrupt", "resume", "restarts")
"""What else a policy has that the runtime speaks to."""


def _looking(spec: Spec, view: Seeing) -> tuple[Spec, Callable[[Floats], Floats]]:
    """Return what a planner with a view is for, and what shows it the environment's rows.

    Raises:
        ConfigError: If the view names what is not there.
        PlannerError: If a function's answer is not rows of finite numbers.
    """
    read = parse_view(view, spec.obs)
    if read.function is not None:
        look = partial(_made, read.function, spec.obs)
        size = look(example_observations(spec.obs, 2)).shape[1]
        return replace(spec, obs=ObsSpec((Part("", "box", (size,), "float32"),))), look
    if read.remembers:
        raise PlannerError(
            f"{words_of(spec.obs, read)[0]} is for executors. Show a planner the past in the "
            "environment, such as by gymnasium.wrappers.FrameStackObservation."
        )
    seen = see(spec, read).obs
    return replace(spec, obs=alone(seen)), partial(pick, seen)


def _made(function: Callable[[Any], Any], obs: ObsSpec, rows: Floats) -> Floats:
    """Let a function make rows of the environment's observations."""
    name = getattr(function, "__name__", repr(function))
    try:
        found = np.asarray(function(unflatten(obs, rows)), np.float32)
    except Exception as error:
        raise PlannerError(f"The view {name} raised {type(error).__name__}: {error}") from error
    if found.ndim != 2 or len(found) != len(rows) or not found.shape[1]:
        raise PlannerError(
            f"The view {name} gives numbers of shape {found.shape} for {len(rows)} observations; "
            f"({len(rows)}, n) is needed."
        )
    return found


class _Shown(ABC):
    """A policy that is shown what `look` makes of the environment's rows.

    What the runtime speaks to it by is handed on; what would look into it is not, for that knows
    nothing of the view.
    """

    def __init__(self, policy: Any, look: Callable[[Floats], Floats]) -> None:
        self.policy, self.look = policy, look

    @property
    def episode(self) -> Any:
        """The episode that the policy is told of, if it wants to know."""
        return self.policy.episode

    @episode.setter
    def episode(self, number: int) -> None:
        self.policy.episode = number

    @abstractmethod
    def __call__(self, obs: Floats, /, *state: Any) -> Any:
        """Answer for the environment's observations (batch, size)."""

    def __getattr__(self, name: str) -> Any:
        if name not in (*_ASKED, *_HANDED_ON, "at"):
            raise AttributeError(name)
        found = getattr(self.policy, name)
        if name == "at":
            return lambda rows: type(self)(found(rows), self.look)
        return partial(_asked, found, self.look) if name in _ASKED else found


@final
class Looking(_Shown):
    """The same without a memory; it is a `Policy`."""

    def __call__(self, obs: Floats, /, *_: Any) -> Any:
        """Answer for the environment's observations (batch, size)."""
        return _without_expected(self.policy(self.look(obs)))


@final
class RecurrentLooking(_Shown):
    """The same with a memory; it is a `RecurrentPolicy`."""

    def initial_state(self, batch: int) -> State:
        """Give the memory that an episode starts with."""
        state: State = self.policy.initial_state(batch)
        return state

    def __call__(self, obs: Floats, /, *state: Any) -> tuple[Any, State]:
        """Answer for the environment's observations (batch, size), and give the memory."""
        answer, after = self.policy(self.look(obs), *state)
        return _without_expected(answer), after


def _asked(method: Callable[[Floats], Any], look: Callable[[Floats], Floats], obs: Floats) -> Any:
    found = method(look(obs))
    return map(_without_expected, found) if hasattr(found, "__next__") else found


def _without_expected(answer: Any) -> Any:
    """Drop the observations that a planner expects: they are not the environment's."""
    return replace(answer, expected=None) if isinstance(answer, Guidance) else answer


def viewed(load: Callable[[Spec], Planner], spec: Spec, sees: Seeing) -> Planner:
    """Load a planner that sees a part of an environment, and return it as one for the whole.

    Args:
        load: Loads it for what it sees.
        spec: The environment's.
        sees: The planner's view; None for everything.

    Raises:
        ConfigError: If the view names what is not there.
        PlannerError: If a function's answer is not rows of finite numbers.
    """
    if sees is None:
        return load(spec)
    own, look = _looking(spec, sees)
    planner = load(own)
    wrapper = RecurrentLooking if hasattr(planner.policy, "initial_state") else Looking
    return replace(planner, policy=wrapper(planner.policy, look), spec=spec)
