"""What a run leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from agentkd.types import Decision

COLUMNS = ("tick", "source", "lateness_us", "latency_us", "version", "reward")
SOURCES = ("strategy", "executor", "hold", "default")
"""What the numbers in the timeline's column "source" mean."""


@final
class Timeline:
    """Samples of the ticks for plots: every tick at first, then ever fewer.

    When it is full, every other sample goes, and from then on half as many are taken.

    Args:
        most: How many samples are kept at most.
    """

    def __init__(self, most: int = 8192) -> None:
        """Begin empty."""
        self.stride = 1
        self._most = max(2, most)
        self._rows: list[tuple[float, ...]] = []

    def note(self, decision: Decision, lateness: float, reward: float) -> None:
        """Take a tick, if it is one of those to keep."""
        if decision.tick % self.stride:
            return
        if len(self._rows) >= self._most:
            self.stride *= 2
            self._rows = [row for row in self._rows if not row[0] % self.stride]
            if decision.tick % self.stride:
                return
        self._rows.append(
            (
                decision.tick,
                SOURCES.index(decision.source),
                lateness * 1e6,
                decision.latency * 1e6,
                decision.version,
                reward,
            )
        )

    def columns(self) -> dict[str, NDArray[np.float64]]:
        """Give the samples by `COLUMNS`, each (samples,)."""
        table = np.asarray(self._rows, np.float64).reshape(-1, len(COLUMNS))
        return {name: table[:, index] for index, name in enumerate(COLUMNS)}


@dataclass(frozen=True, slots=True)
class RunResult:
    """What was measured in a run, however it ended.

    Attributes:
        returns: Of the episodes that ended.
        lengths: Their ticks.
        unfinished_return: Of the episode that was cut off, 0.0 if none was.
        unfinished_length: Its ticks.
        ticks: All of them.
        seconds: Of the run's own clock.
        metrics: What `Agent.metrics` gave at the end.
        timeline: Samples of the ticks by `COLUMNS`.
    """

    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    unfinished_return: float
    unfinished_length: int
    ticks: int
    seconds: float
    metrics: Mapping[str, Any]
    timeline: Mapping[str, NDArray[np.float64]]
