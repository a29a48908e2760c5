"""Whether the world changed: the planner says otherwise than the executor learnt.

Each label tells, before it is learnt from, how far the executor that acts is from the planner. The
mean of the newest labels is compared with the largest mean of as many labels in a row that was seen
before: states that come back, such as the beginning of an episode, are in that. A jump above it by
a factor is a change of the world. The largest and not the usual one counts because states differ
much more than worlds do at once: how far a robot's executor is off differs twentyfold between
running and falling.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple, final

import numpy as np

from agentkd.distillation.matching import Matching
from agentkd.errors import ConfigError, check_range
from agentkd.executors.executor import Executor
from agentkd.executors.past import outputs_at
from agentkd.types import Floats, Packed

RUN = 16
"""Labels that are judged together: those of neighbouring ticks resemble one another."""
_LONG = 1024
"""Runs in the past that are compared with."""
LEAST, LEAST_UNTAUGHT = 64, 256
"""Runs in the past before a jump can be told, also of an executor that began knowing nothing: it
meets new states for longer."""
FLOOR = 0.02
"""What an error has to exceed to be a jump, in units of the divergence of `match`."""


@dataclass(frozen=True, slots=True)
class ChangeOptions:
    """When the world has changed.

    Attributes:
        factor: By how much the newest labels are further from the executor than any before, and by
            how much they are nearer to an executor of an earlier world, for it to return.
        windows: Over how many runs of 16 labels the newest are compared, ascending: a large change
            shows in few of them, a small one in many.
        shelf: Earlier worlds that are kept at most, each with its executor and its labels.
    """

    factor: float = 3.0
    windows: tuple[int, ...] = (4, 8, 16)
    shelf: int = 4

    def __post_init__(self) -> None:
        check_range("factor", self.factor, above=1)
        check_range("shelf", self.shelf, least=0, whole=True)
        if not self.windows:
            raise ConfigError("windows is empty; give at least one, of at least 2 runs.")
        for each in self.windows:
            check_range("windows", each, least=2, whole=True)


class Run(NamedTuple):
    """Labels that came one after another, and who acted.

    Attributes:
        obs: Observations, (16, obs).
        packed: The planner's answers.
        executor: The executor that acted.
        learnt: How many of them are learnt from; the others are held out.
    """

    obs: Floats
    packed: Packed
    executor: Executor
    learnt: int

    @property
    def constant(self) -> bool:
        """Whether the planner answers the same to each of several observations."""
        return not np.ptp(self.packed.rows, axis=0).any() and bool(
            np.ptp(np.nan_to_num(self.obs), axis=0).any()
        )


@dataclass(slots=True)
class Past:
    """How far off executors were in one world, a mean for each run of labels.

    Attributes:
        least: How many runs have to be past before a jump can be told.
        errors: The means, of the newest runs.
    """

    least: int = LEAST
    errors: deque[float] = field(default_factory=lambda: deque(maxlen=_LONG))

    def jumped(self, window: int, factor: float) -> int:
        """Return how many of the newest runs are of another world, 0 if none.

        Their mean is above what as many in a row ever had, by a factor, and so is each of half of
        them.
        """
        if len(self.errors) - window < max(self.least, window):
            return 0
        newest = np.asarray(self.errors)[-window:]
        bound = max(factor * self.largest(window, window), FLOOR)
        above = np.flatnonzero(newest > bound)
        if newest.mean() <= bound or 2 * len(above) < window:
            return 0
        return window - int(above[0])

    def largest(self, window: int, newest: int = 0) -> float:
        """Return the largest mean of so many runs in a row, without the newest ones."""
        errors = list(self.errors)[: len(self.errors) - newest]
        if len(errors) < window:
            return 0.0
        sums = np.append(0.0, np.cumsum(errors))
        return float((sums[window:] - sums[:-window]).max()) / window

    def forget(self, runs: int) -> None:
        """Take the newest runs out: they are of another world."""
        for _ in range(min(runs, len(self.errors))):
            self.errors.pop()


@final
class Newest:
    """The newest labels in runs, and how far executors are from them."""

    def __init__(self, options: ChangeOptions) -> None:
        self.runs: deque[Run] = deque(maxlen=max(options.windows))
        self._obs: list[Floats] = []
        self._rows: list[Floats] = []
        self._learnt = self._count = 0
        self._matching: Matching | None = None

    @property
    def missing(self) -> int:
        """How many labels the run at hand lacks."""
        return RUN - self._count

    def add(self, obs: Floats, packed: Packed, executor: Executor, learnt: int) -> bool:
        """Take labels, at most as many as the run at hand lacks; return whether it is whole.

        `learnt` of them are learnt from.
        """
        # Copied: a ring's rows are overwritten.
        self._obs.append(obs.copy())
        self._rows.append(packed.rows.copy())
        self._count += len(obs)
        self._learnt += learnt
        if self._count < RUN:
            return False
        together = Packed(packed.kind, np.concatenate(self._rows))
        self.runs.append(Run(np.concatenate(self._obs), together, executor, self._learnt))
        self._obs, self._rows, self._learnt, self._count = [], [], 0, 0
        return True

    def errors(self, executor: Executor, window: int) -> Floats:
        """Return how far an executor is from each of the newest runs, in the mean, (window,)."""
        return np.asarray([self._error(executor, run) for run in list(self.runs)[-window:]])

    def _error(self, executor: Executor, run: Run) -> float:
        kind, rows = run.packed.kind, run.packed.rows
        if self._matching is None or self._matching.kind != kind:
            self._matching = Matching(kind, executor.head, executor.spec.action)
        self._matching.observe(rows)
        apart = self._matching.rows(outputs_at(executor, run.obs), rows)
        whole = apart[np.isfinite(apart)]
        return float(whole.mean()) if len(whole) else 0.0
