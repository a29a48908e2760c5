"""What sampling-based control needs to know of a world: many futures at once."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from agentkd.types import Floats

Doubles = NDArray[np.float64]


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
        """Live on from one state with several sequences of actions.

        Args:
            state: (state,).
            actions: (n, ticks, d), within the bounds.

        Returns:
            The rewards, (n, ticks), 0 after an end; and the states after each tick, (n, ticks,
            state).
        """
        ...

    def features(self, states: Doubles, /) -> Doubles:
        """Give what tells states apart, (…, f): near it means near in the world."""
        ...
