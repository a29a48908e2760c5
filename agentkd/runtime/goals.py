"""Goals: vectors from the planner that condition the executor, and how old they are.

An executor with a goal observes the environment's observation, then the goal, then the goal's age
from 0 to 1 (1 is `max_age` ticks). Where there is no goal, or it is older, it observes zeros at age
1. It has to have learnt with goals of every age, so that an old one is nothing new to it (as HiRT
does with its latents, Zhang et al. 2024).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from agentkd.errors import ConfigError, SpecError, check_range
from agentkd.spec import ObsSpec, Part, Spec
from agentkd.types import Floats
from agentkd.views import Seeing, parse_view, see

_GOAL, _AGE = "goal", "age"


@dataclass(frozen=True, slots=True)
class Goals:
    """What goals look like.

    Attributes:
        size: Numbers in a goal.
        max_age: The ticks after which one no longer counts.
    """

    size: int
    max_age: int

    def __post_init__(self) -> None:
        check_range("size", self.size, least=1, whole=True)
        check_range("max_age", self.max_age, least=1, whole=True)

    @property
    def width(self) -> int:
        """Numbers that an executor observes besides: the goal and its age."""
        return self.size + 1


def conditioned(spec: Spec, goals: Goals, sees: Seeing = None) -> Spec:
    """Return the spec of an executor with a goal, from the environment's.

    Args:
        spec: The environment's.
        goals: What goals look like.
        sees: What the executor sees of the environment's observation (`agentkd.views`).

    Raises:
        ConfigError: If the view is not in the observation, or is a stack.
        SpecError: If the observation has parts with the names of a goal's.
    """
    if parse_view(sees, spec.obs).remembers:
        raise ConfigError(f"The view {sees!r}: an executor with a goal sees no stack or delay.")
    spec = see(spec, sees)
    added = [Part(_GOAL, "box", (goals.size,), "float32"), Part(_AGE, "box", (1,), "float32")]
    parts = (*spec.obs.parts, *added)
    layout = "tuple" if spec.obs.layout == "single" else spec.obs.layout
    names = [part.name for part in parts]
    if len(set(names)) != len(names):
        raise SpecError(
            f"The observation has parts named {names}; 'goal' and 'age' are taken by "
            "the executor's goal. Rename the environment's."
        )
    return replace(spec, obs=ObsSpec(parts, layout))


def unconditioned(spec: Spec, goals: Goals) -> Spec:
    """Return the environment's spec, from that of an executor with a goal.

    Raises:
        SpecError: If the executor was not made for goals of this size.
    """
    names, rest = [part.name for part in spec.obs.parts], spec.obs.parts[:-2]
    if not rest or names[-2:] != [_GOAL, _AGE] or spec.obs.parts[-2].shape != (goals.size,):
        raise SpecError(
            f"The executor observes {names}; one with a goal of {goals.size} ends in 'goal' and "
            "'age'. Make it from agentkd.runtime.conditioned(spec, goals)."
        )
    single = len(rest) == 1 and rest[0].name == ""
    return replace(spec, obs=ObsSpec(rest, "single" if single else spec.obs.layout))


def write_goal(out: Floats, goals: Goals, goal: Floats | None, age: int) -> None:
    """Write a goal, (1, size) or None, and its age in ticks into `out`, (size + 1,)."""
    if goal is None or age > goals.max_age:
        out[:-1] = 0.0
        out[-1] = 1.0
    else:
        out[:-1] = goal[0]
        out[-1] = max(age, 0) / goals.max_age


@final
class GoalMemory:
    """The goals that a planner gave lately, for labels with goals of every age."""

    def __init__(self, goals: Goals, seed: int = 0) -> None:
        self.goals = goals
        self._random = np.random.default_rng(seed)
        self._kept: deque[tuple[int, int, Floats]] = deque(maxlen=4 * goals.max_age + 64)

    def keep(self, episode: int, tick: int, goal: Floats) -> None:
        """Take a goal, (size,), for the observation of a tick."""
        self._kept.append((episode, tick, np.array(goal, np.float32)))

    def newest(self, episode: int, tick: int) -> tuple[Floats | None, int]:
        """Return the newest goal of an episode at a tick, (1, size), and its age."""
        for kept_episode, at, goal in reversed(self._kept):
            if kept_episode == episode and at <= tick:
                return goal[None], tick - at
        return None, 0

    def aged(self, episode: int, tick: int, obs: Floats) -> Floats:
        """Return an executor's observation, (obs + size + 1,), with a goal of a random age."""
        wanted = int(self._random.integers(0, self.goals.max_age + 2))
        goal, age = self.newest(episode, tick - wanted)
        out = np.empty(len(obs) + self.goals.width, np.float32)
        out[: len(obs)] = obs
        write_goal(out[len(obs) :], self.goals, goal, age + wanted)
        return out
