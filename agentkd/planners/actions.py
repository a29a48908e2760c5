"""Chosen actions as action distributions."""

from __future__ import annotations

from typing import Any

import numpy as np

from agentkd.dists import action_width
from agentkd.errors import SpecError
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec, MultiDiscreteSpec
from agentkd.types import ActionDist, Bernoulli, Categorical, Floats, MultiCategorical, Point

SMOOTHING = 0.05
"""The probability that a chosen action leaves to all actions alike."""


def _choices(column: Any, n: int, smoothing: float) -> Floats:
    column = np.asarray(column)
    if ((column < 0) | (column >= n)).any():
        raise SpecError(f"Action {column.max()} or {column.min()} is not one of {n}.")
    probability = np.full((len(column), n), smoothing / n, np.float32)
    probability[np.arange(len(column)), column] += 1.0 - smoothing
    return np.log(probability)


def from_actions(
    actions: Any, batch: int, action: ActionSpec, smoothing: float = SMOOTHING
) -> ActionDist:
    """Turn chosen actions into an action distribution.

    Choices are smoothed: the chosen one gets 1 - smoothing, and all share the rest (Szegedy et al.,
    "Rethinking the Inception Architecture", section 7). Boxes become points.

    Args:
        actions: In the environment's units, (batch, …).
        batch: How many are expected.
        action: The environment's actions.
        smoothing: Between 0 and 1, both left out.

    Raises:
        SpecError: If the actions are not such.
    """
    array = np.asarray(actions)
    size = action_width(action)
    if array.ndim == 0 or array.size != batch * size or len(array) != batch:
        raise SpecError(
            f"The actions have shape {array.shape}; ({batch}, {size}) was expected for "
            f"{action}. To give logits or values, return Categorical or QValues."
        )
    flat = array.reshape(batch, size)
    if isinstance(action, BoxSpec):
        return Point(flat.astype(np.float32))
    if not np.array_equal(flat, np.rint(flat)):
        raise SpecError(f"The actions {flat[0]} are not whole numbers.")
    whole = flat.astype(np.int64)
    match action:
        case DiscreteSpec(n, start):
            return Categorical(_choices(whole[:, 0] - start, n, smoothing))
        case MultiDiscreteSpec(sizes):
            pieces = [_choices(whole[:, i], n, smoothing) for i, n in enumerate(sizes)]
            return MultiCategorical(np.concatenate(pieces, axis=1), sizes)
        case _:
            odds = np.log(1.0 - smoothing / 2.0) - np.log(smoothing / 2.0)
            return Bernoulli(np.where(whole > 0, odds, -odds).astype(np.float32))
