"""Limits on sizes, and checks of shapes, choices and bounds, which raise `SpecError`.

Sizes reach C as 32-bit integers, and decide how much memory is allocated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from agentkd.errors import SpecError
from agentkd.files import reason

MOST = 1 << 24
"""Numbers that an observation, an action or a layer's output may have."""
INT32 = 1 << 31
_MOST_DIMENSIONS = 32


def is_whole(value: Any, least: int, most: int = INT32 - 1) -> bool:
    """Whether a value is a whole number from `least` to `most`."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return whole and least <= value <= most


def shape_size(shape: Any, where: str) -> int:
    """Give how many numbers a shape has; a `SpecError` if it is none, or too large.

    Raises:
        SpecError: If it is not a shape, a size is below 1, or the product too large.
    """
    if not isinstance(shape, tuple) or len(shape) > _MOST_DIMENSIONS:
        raise SpecError(f"{where}: {shape!r:.80} is not a shape.")
    if not all(is_whole(n, 1) for n in shape) or math.prod(map(int, shape)) > MOST:
        raise SpecError(
            f"{where}: a shape of {shape!r:.80}; sizes are at least 1, and at most {MOST} together."
        )
    return math.prod(map(int, shape))


def check_choices(sizes: Iterable[Any], where: str) -> None:
    """Check how many there are to choose from: one at least, and not too many together.

    Raises:
        SpecError: If there are none, or too many together.
    """
    found = tuple(sizes)
    if not found or not all(is_whole(n, 1) for n in found) or sum(found) > MOST:
        raise SpecError(
            f"{where} of sizes {found!r:.80}; each is at least 1, and all together are "
            f"at most {MOST}."
        )


def check_start(start: Any, count: int, where: str) -> None:
    """Check the number of the first choice: it and the last one fit 32 bits.

    Raises:
        SpecError: If it or the last one does not fit 32 bits.
    """
    if not is_whole(start, -INT32, INT32 - int(count)):
        raise SpecError(f"{where} from {start!r:.80} on: choices have 32 bits.")


def check_bounds(low: Any, high: Any) -> None:
    """Check the bounds of a box: low ≤ high, no NaN, and a float32 in between.

    Raises:
        SpecError: If they are something else.
    """
    try:
        lower, upper = np.array(low, np.float64), np.array(high, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise SpecError(f"Bounds that are not numbers: {reason(error)}.") from error
    most = float(np.finfo(np.float32).max)
    # Each comparison is false for NaN.
    wrong = ~((lower <= upper) & (lower <= most) & (upper >= -most))
    if wrong.any():
        at = int(wrong.argmax())
        raise SpecError(
            f"A box whose number {at} goes from {lower[at]} to {upper[at]}: a lower "
            "bound may not be above the upper one, and some float32 must be between "
            "them."
        )
