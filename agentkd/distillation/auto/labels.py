"""Labels of states that planner and candidates come to, for all candidates alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import final

from agentkd.distillation.buffer import LabelBuffer
from agentkd.distillation.sources import CollectionOptions
from agentkd.distillation.task import Task
from agentkd.errors import PlannerError
from agentkd.types import Policy, RecurrentPolicy

Driver = Callable[[], Policy | RecurrentPolicy]
"""Gives a candidate as it is now."""

_TURN = 32
_PATIENCE = 100_000
"""Answers with NaN or infinity after which a planner without another is given up."""


@final
class Live:
    """Collects labels while candidates drive in turns.

    Args:
        task: Environment and planner.
        way: How the planner's share of the driving falls.
        seed: For resets and drivers.
    """

    def __init__(self, task: Task, way: CollectionOptions, seed: int) -> None:
        """Make the environments."""
        self._way, self._turn, self._known = way, 0, False
        self._collector = task.collector(way, seed)

    def fill(
        self, buffer: LabelBuffer, drivers: Sequence[Driver], seconds: float, most: int | None
    ) -> None:
        """Let candidates drive in turns, some ticks each, beside the planner.

        Args:
            buffer: Where the labels go.
            drivers: The candidates; the first time the planner drives alone.
            seconds: How long.
            most: How many labels instead.

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
            buffer.add(*self._collector.step(driver, share).labels)
            ticks += 1
            if not buffer.seen and buffer.refused > _PATIENCE:
                raise PlannerError("The planner answers with nothing but NaN.")
            added = buffer.seen + buffer.refused - first
            over = time.monotonic() - begin >= seconds if most is None else added >= most
            if over and buffer.seen:
                self._known = True
                return

    def close(self) -> None:
        """Close the environments."""
        self._collector.close()
