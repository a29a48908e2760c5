"""Axes of plots: from values to places, round numbers to mark, and numbers as short text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_ROOM = 0.04
"""What is left free at each end, as a share of the axis."""


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis from `low` to `high`, by their logarithms if it is `log`."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def over(cls, values: Iterable[float], *, log: bool = False, whole: bool = False) -> Self:
        """Return an axis on which all finite values are; of those above 0 where it is `log`.

        `whole` leaves no room at its ends.
        """
        known = [each for each in values if math.isfinite(each) and (each > 0 or not log)]
        low, high = (min(known), max(known)) if known else (1.0, 10.0) if log else (0.0, 1.0)
        if log:
            low, high = math.log10(low), math.log10(high)
        room = 0.0 if whole else _ROOM * (high - low)
        if high - low <= 1e-12 * max(abs(low), abs(high)):
            room = 0.5 if log else 0.5 * max(1.0, abs(high))
        low, high = low - room, high + room
        return cls(10**low, 10**high, True) if log else cls(low, high)

    def place(self, value: float) -> float:
        """Return where a value is, 0 to 100; what lies beyond is at the nearer end."""
        low, high = self.low, self.high
        if self.log:
            if value <= 0:
                return 0.0
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return min(100.0, max(0.0, 100 * (value - low) / (high - low)))

    def marks(self, most: int = 5) -> list[float]:
        """Return round numbers on the axis, at most so many."""
        return self._powers(most) if self.log else self._steps(most)

    def _steps(self, most: int) -> list[float]:
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(each for each in (s * power for s in _STEPS) if each >= rough * (1 - 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]

    def _powers(self, most: int) -> list[float]:
        low, high = math.log10(self.low), math.log10(self.high)
        powers = range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
        if len(powers) < 2:
            every = (
                s * 10.0**p for p in range(math.floor(low), math.ceil(high)) for s in (1, 2, 5)
            )
            found = [each for each in every if self.low <= each <= self.high]
            return found[:most] if len(found) > 1 else Scale(self.low, self.high).marks(most)
        return [10.0**each for each in powers[:: math.ceil(len(powers) / most)]]


def short(value: float) -> str:
    """Write a number for an axis: 25k rather than 25,000."""
    value = float(f"{value:.6g}")
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size and abs(value) < 1e12:
            return f"{value / (1e3 if letter == 'k' else size):g}{letter}".replace("-", "−")
    return f"{value:,g}".replace("-", "−")


def told(value: float | None) -> str:
    """Write a number for a reader: three figures, or all before the point."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if size >= 1e9 or 0 < size < 1e-4:
        return f"{value:.2e}".replace("-", "−")
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}".replace("-", "−")
