"""How far actions are apart, and running means of that."""

from __future__ import annotations

from typing import Any, final

import numpy as np

from agentkd.spec import ActionSpec, BoxSpec

_FORGET = 1 / 32


@final
class RunningMean:
    """A running mean: of all values first, then of about the last 32.

    `before` counts as a first value, so that a few good ones prove nothing.
    """

    def __init__(self, before: float | None = None) -> None:
        self.count = 0 if before is None else 1
        self.value = before or 0.0

    def note(self, value: float) -> None:
        """Take a value."""
        self.count += 1
        self.value += max(_FORGET, 1 / self.count) * (value - self.value)


@final
class Apart:
    """The distance between two actions, 0 to 1.

    Boxes: the mean absolute difference in units of the bounds' distance. Choices: the share that
    differs.
    """

    def __init__(self, action: ActionSpec) -> None:
        self._boxes = isinstance(action, BoxSpec)
        if isinstance(action, BoxSpec):
            low, high = np.asarray(action.low), np.asarray(action.high)
            distance = np.subtract(high, low, dtype=np.float64)
            sound = np.isfinite(distance) & (distance > 0)
            self._per_unit = 1.0 / np.where(sound, distance, 2.0) / len(distance)

    def __call__(self, one: Any, other: Any) -> float:
        """Return how far two actions are apart."""
        left, right = np.ravel(one), np.ravel(other)
        if self._boxes:
            return min(1.0, float(np.abs(left - right) @ self._per_unit))
        return float(np.mean(left != right))
