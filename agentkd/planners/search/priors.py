"""What an executor knows, for a search: what is likely, and what a state is worth."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from agentkd.errors import ConfigError, SpecError
from agentkd.planners.ensemble import probabilities
from agentkd.planners.sb3.model import Model
from agentkd.types import Floats, Policy

S = TypeVar("S")


def prior_of(
    policy: Policy, observe: Callable[[S], Floats], *, temperature: float = 1.0
) -> Callable[[S], Floats]:
    """Make a search's prior of a policy with choices, such as an executor.

    Args:
        policy: Answers with choices out of n.
        observe: Gives what is observed in a state, (obs,).
        temperature: Above 1, the search follows it less.
    """
    if not temperature > 0:
        raise ConfigError(f"temperature is {temperature}; it has to be above 0.")

    def prior(state: S) -> Floats:
        found = probabilities(policy(observe(state)[None]), temperature)
        row: Floats = found[0]
        return row

    return prior


def lived(
    model: Model[S],
    choose: Callable[[S], int],
    *,
    steps: int,
    discount: float = 1.0,
    value: Callable[[S], float] | None = None,
) -> Callable[[S], float]:
    """Make a search's value by living on from a state for a while.

    Args:
        model: The world.
        choose: Gives the choice in a state.
        steps: For how many ticks.
        discount: What a reward is worth a tick later.
        value: What the state at the end is worth; 0 if left out.
    """
    if steps < 1:
        raise ConfigError(f"steps is {steps}; it has to be at least 1.")

    def worth(state: S) -> float:
        total, weight = 0.0, 1.0
        for _ in range(steps):
            state, reward, over = model.step(state, choose(state))
            total += weight * reward
            weight *= discount
            if over:
                return total
        return total + (0.0 if value is None else weight * value(state))

    return worth


def chooser(policy: Policy, observe: Callable[[S], Floats]) -> Callable[[S], int]:
    """Make a function that chooses as a policy does; choices are counted from 0."""

    def choose(state: S) -> int:
        found = probabilities(policy(observe(state)[None]), None)
        if len(found) != 1:
            raise SpecError(f"One row was expected for one state, not {len(found)}.")
        return int(np.argmax(found[0]))

    return choose
