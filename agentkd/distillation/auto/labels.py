"""Where a search's labels come from: candidates that drive, or a dataset."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol, final

from agentkd import environments
from agentkd.distillation.buffer import LabelBuffer
from agentkd.distillation.collector import Collector
from agentkd.distillation.dataset import Dataset
from agentkd.distillation.offline import DatasetSource
from agentkd.distillation.source import CollectionOptions
from agentkd.errors import PlannerError
from agentkd.planners import Planner
from agentkd.spec import Spec
from agentkd.types import Policy, RecurrentPolicy

Driver = Callable[[], Policy | RecurrentPolicy]
"""Gives a candidate as it is now."""

_TURN = 32
_PATIENCE = 100_000
"""Answers that are no number before it is said that there is nothing else."""


class Supply(Protocol):
    """Fills a buffer."""

    def fill(
        self, buffer: LabelBuffer, drivers: Sequence[Driver], seconds: float, most: int | None
    ) -> None:
        """Add labels.

        Args:
            buffer: Where they go.
            drivers: Who drives, in turns; those who know nothing yet do not.
            seconds: How long.
            most: How many instead.
        """
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


@final
class Live:
    """Labels of states that planner and candidates come to. It is a `Supply`.

    Args:
        env: The environment's name.
        planner: Labels and drives.
        spec: The environment's.
        way: How the planner's share of the driving falls.
        seed: For resets and drivers.
    """

    def __init__(
        self, env: str, planner: Planner, spec: Spec, way: CollectionOptions, seed: int
    ) -> None:
        """Make the environments."""
        self._way, self._turn, self._known = way, 0, False
        self._collector = Collector(
            lambda: environments.make(env),
            planner.policy,
            spec,
            count=way.environments,
            seed=seed,
            stretch=way.stretch,
        )

    def fill(
        self, buffer: LabelBuffer, drivers: Sequence[Driver], seconds: float, most: int | None
    ) -> None:
        """Let candidates drive in turns, some ticks each, beside the planner.

        Raises:
            PlannerError: If it answers with nothing but NaN.
        """
        begin, first = time.monotonic(), buffer.seen + buffer.refused
        driver = drivers[0]()
        ticks = 0
        while True:
            if ticks % _TURN == 0:
                driver = drivers[self._turn % len(drivers)]()
                self._turn += 1
            share = self._way.share(buffer.seen) if self._known else 1.0
            step = self._collector.step(driver, share)
            buffer.add(*step.labels)
            ticks += 1
            if not buffer.seen and buffer.refused > _PATIENCE:
                raise PlannerError("The planner answers with nothing but NaN.")
            added = buffer.seen + buffer.refused - first
            over = time.monotonic() - begin >= seconds if most is None else added >= most
            if over and buffer.seen:
                # From now on an executor has learnt.
                self._known = True
                return

    def close(self) -> None:
        """Close the environments."""
        self._collector.close()


@final
class Fixed:
    """A dataset's labels, all at once; there are no more. It is a `Supply`.

    Args:
        dataset: The labels.
        capacity: How many of them are held at most.
        seed: For the order of its parts.
    """

    def __init__(self, dataset: Dataset, capacity: int, seed: int) -> None:
        """Read nothing yet."""
        self._source = DatasetSource(dataset, capacity, seed)
        self._given = False

    def fill(
        self, buffer: LabelBuffer, drivers: Sequence[Driver], seconds: float, most: int | None
    ) -> None:
        """Add all that is learnt from, the first time; nobody drives."""
        del drivers, seconds, most
        if self._given:
            return
        self._given = True
        for labels in self._source.fill():
            buffer.add(*labels)

    def close(self) -> None:
        """There is nothing to give back."""
