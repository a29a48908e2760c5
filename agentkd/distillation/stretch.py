"""Some ticks of environments on their way to labels."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agentkd import dists
from agentkd.errors import SpecError
from agentkd.types import ActionDist, Floats, Kind

Rows = NDArray[np.intp]
"""Numbers of environments."""


@dataclass(slots=True)
class Stretch:
    """Some ticks on their way; arrays are (ticks, environments, …), `obs` and `begins` one longer.

    Environment i has come to tick `at[i]`. `rows` are packed answers, (ticks · environments,
    width), those that are `answered`. What is not `valid` is no state in which something was done.
    """

    ticks: int
    obs: Floats
    reward: Floats
    begins: NDArray[np.bool_]
    ended: NDArray[np.uint8]
    answered: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    at: Rows
    kind: Kind | None = None
    rows: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32))

    @classmethod
    def of(cls, ticks: int, obs: Floats, begins: NDArray[np.bool_]) -> Stretch:
        """Begin where the environments stand."""
        count, size = obs.shape
        seen = np.empty((ticks + 1, count, size), np.float32)
        seen[0] = obs
        fresh = np.zeros((ticks + 1, count), bool)
        fresh[0] = begins
        return cls(
            ticks,
            seen,
            np.zeros((ticks, count), np.float32),
            fresh,
            np.zeros((ticks, count), np.uint8),
            np.zeros((ticks, count), bool),
            np.ones((ticks, count), bool),
            np.zeros(count, np.intp),
        )

    def answer(self, at: Rows, rows: Rows, dist: ActionDist) -> Floats:
        """Note the planner's answer for environments at their ticks; return it packed."""
        kind, found = dists.kind_of(dist), np.asarray(dists.pack(dist), np.float32)
        if self.kind is None:
            self.kind = kind
            self.rows = np.empty((self.answered.size, found.shape[1]), np.float32)
        if kind != self.kind or found.shape != (len(rows), self.rows.shape[1]):
            raise SpecError(
                f"The planner answered {len(rows)} observations with a {kind} of shape "
                f"{found.shape}; ({len(rows)}, {self.rows.shape[1]}), {self.kind}, was expected."
            )
        self.rows[at * len(self.at) + rows] = found
        self.answered[at, rows] = True
        return found
