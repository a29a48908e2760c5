"""Some ticks of environments on their way to labels."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agentkd import dists
from agentkd.errors import SpecError
from agentkd.types import ActionDist, Floats, Kind, Labels

Rows = NDArray[np.intp]
"""Numbers of environments."""


@dataclass(slots=True)
class Stretch:
    """Some ticks on their way; arrays are (ticks, environments, …).

    `obs`, `begins` and `taken` are one tick longer. Environment i has come to tick `at[i]`. `rows`
    are packed answers, (ticks · environments, width), those that are `answered`. What is not
    `valid` is no state in which something was done.
    """

    ticks: int
    obs: Floats
    reward: Floats
    begins: NDArray[np.bool_]
    ended: NDArray[np.uint8]
    answered: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    at: Rows
    taken: Floats
    kind: Kind | None = None
    rows: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32))

    @classmethod
    def of(cls, ticks: int, obs: Floats, begins: NDArray[np.bool_], taken: Floats) -> Stretch:
        """Begin where the environments stand, after actions `taken`, (environments, numbers)."""
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
            np.concatenate([taken[None], np.zeros((ticks, *taken.shape), np.float32)]),
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


@dataclass(frozen=True, slots=True)
class Collected:
    """What environments visited in some ticks: all of them at a tick, then at the next.

    Attributes:
        obs: The observations that were visited, (labels, obs).
        dist: The planner's answer to them.
        link: As in `Labels`: environments take turns.
        reward: The reward for what was done there.
        begins: Whether an episode begins there.
        ended: How it went on: `GOES_ON`, `TERMINATED` or `TRUNCATED`.
        env: The number of the environment that visited it.
        taken: The action that was executed at the tick before, (labels, numbers), as
            `agentkd.dists.coded` writes it, for an executor that sees past actions; for others
            (labels, 0).
    """

    obs: Floats
    dist: ActionDist
    link: NDArray[np.int32]
    reward: Floats
    begins: NDArray[np.bool_]
    ended: NDArray[np.uint8]
    env: NDArray[np.int32]
    taken: Floats

    @property
    def labels(self) -> Labels:
        """The part that is learnt from."""
        seen = self.obs
        if self.taken.shape[1]:
            seen = np.concatenate([seen, self.taken], axis=1)
        return Labels(seen, self.dist, self.link)
