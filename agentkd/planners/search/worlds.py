"""What searches need to know of a world, and what an executor knows for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from agentkd.errors import AgentkdError, PlannerError, SpecError, check_range
from agentkd.planners.ensemble import probabilities
from agentkd.types import Floats, Policy

Doubles = NDArray[np.float64]
S = TypeVar("S")


class Model(Protocol[S]):
    """A deterministic world with a few choices at each tick.

    States are values: `step` gives another and leaves the one it got as it is. A search that
    remembers states needs them hashable.
    """

    @property
    def actions(self) -> int:
        """How many choices there are; the model counts them from 0."""
        ...

    def restore(self, obs: Floats, /) -> S:
        """Give the state in which an observation, (obs,), is made."""
        ...

    def step(self, state: S, action: int, /) -> tuple[S, float, bool]:
        """Give the state that follows, the reward, and whether all is over then."""
        ...


class Rollouts(Protocol):
    """A world with a box of actions, of which many futures are computed together."""

    @property
    def low(self) -> Doubles:
        """The least an action may be, (d,)."""
        ...

    @property
    def high(self) -> Doubles:
        """The most an action may be, (d,)."""
        ...

    def restore(self, obs: Floats, /) -> Doubles:
        """Give the state in which an observation, (obs,), is made: (state,)."""
        ...

    def roll(self, state: Doubles, actions: Doubles, /) -> tuple[Doubles, Doubles]:
        """Live on from one state, (state,), with sequences of actions, (n, ticks, d).

        Returns:
            The rewards, (n, ticks), 0 after an end; and the states after each tick, (n, ticks,
            state).
        """
        ...

    def features(self, states: Doubles, /) -> Doubles:
        """Give what tells states apart, (…, f): near it means near in the world."""
        ...


class Steps(Rollouts, Protocol):
    """A world in which many states live on by one tick together, as practice needs it."""

    def observe(self, states: Doubles, /) -> Floats:
        """Give what is observed in states, (n, state): (n, obs)."""
        ...

    def step(
        self, states: Doubles, actions: Doubles, /
    ) -> tuple[Doubles, Doubles, NDArray[np.bool_]]:
        """Live on from each state, (n, state), with its action, (n, d).

        Returns:
            The rewards, (n,); the states after the tick, (n, state); and where all is over, (n,).
        """
        ...


def roll(
    model: Model[S], observe: Callable[[S], Floats], obs: Floats, actions: Sequence[int]
) -> Floats:
    """Give the observation after some actions, as far as the model knows the world.

    So a planner can be asked about the state in which its answer will arrive. Where all is over
    before, it is what is observed at the end.

    Args:
        model: The world.
        observe: Gives what is observed in a state, (obs,).
        obs: What is observed now, (obs,).
        actions: What is done from now on, counted from 0, oldest first.
    """
    state = model.restore(obs)
    for action in actions:
        state, _, over = model.step(state, int(action))
        if over:
            break
    return observe(state)


def restored(model: Model[S], obs: Floats) -> S:
    """Restore a state, so that whatever goes wrong is a planner's error.

    Raises:
        PlannerError: If the model raises.
    """
    try:
        return model.restore(obs)
    except AgentkdError:
        raise
    except Exception as error:
        raise PlannerError(
            f"The model {type(model).__name__} cannot restore a state from an observation of "
            f"{obs.shape}: {type(error).__name__}: {error}"
        ) from error


def prior_of(
    policy: Policy, observe: Callable[[S], Floats], *, temperature: float = 1.0
) -> Callable[[S], Floats]:
    """Make a search's prior of a policy with choices, such as an executor.

    `observe` gives what is observed in a state, (obs,). With a temperature above 1, the search
    follows the prior less.
    """
    check_range("temperature", temperature, above=0)

    def prior(state: S) -> Floats:
        row: Floats = probabilities(policy(observe(state)[None]), temperature)[0]
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
    """Make a search's value by living on from a state for so many ticks.

    Args:
        model: The world.
        choose: Gives the choice in a state.
        steps: For how many ticks.
        discount: What a reward is worth a tick later.
        value: What the state at the end is worth; 0 if left out.
    """
    check_range("steps", steps, least=1, whole=True)

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
