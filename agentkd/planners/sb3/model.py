"""What a search needs to know of a world: restore a state, step it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from agentkd.errors import AgentkdError, PlannerError
from agentkd.types import Floats

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


def roll(
    model: Model[S], observe: Callable[[S], Floats], obs: Floats, actions: Sequence[int]
) -> Floats:
    """Give the observation after some actions, as far as the model knows the world.

    So a planner can be asked about the state in which its answer will arrive.

    Args:
        model: The world.
        observe: Gives what is observed in a state, (obs,).
        obs: What is observed now, (obs,).
        actions: What is done from now on, counted from 0, oldest first.

    Returns:
        What is observed then; where all is over before, what is observed at the end.
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
            f"{_named(model)} cannot restore a state from an observation of "
            f"{obs.shape}: {type(error).__name__}: {error}"
        ) from error


def _named(model: Any) -> str:
    return f"The model {type(model).__name__}"
