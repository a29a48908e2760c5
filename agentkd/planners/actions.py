"""Chosen actions as action distributions."""

from __future__ import annotations

from typing import Any

import numpy as np

from agentkd import dists
from agentkd.errors import SpecError
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec, MultiDiscreteSpec
from agentkd.types import ActionDist, Bernoulli, Categorical, Floats, MultiCategorical, Point

SMOOTHING = 0.05
"""The probability that a chosen action leaves to all actions alike."""


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
    array = np.asarray(actions.detach() if hasattr(actions, "detach") else actions)
    size = dists.action_width(action)
    if array.ndim == 0 or array.size != batch * size or len(array) != batch:
        raise SpecError(
            f"The actions have shape {array.shape}; ({batch}, {size}) was expected for "
            f"{action}. To give logits or values, return Categorical or QValues."
        )
    if array.dtype.kind not in "biuf":
        raise SpecError(f"The actions are {array.dtype}, not numbers.")
    flat = array.reshape(batch, size)
    if isinstance(action, BoxSpec):
        return Point(flat.astype(np.float32))
    if not np.array_equal(flat, np.rint(flat)):
        raise SpecError(f"The actions {flat[0]} are not whole numbers.")
    whole = flat.astype(np.int64)
    match action:
        case DiscreteSpec(n, start):
            return Categorical(np.log(_smoothed(whole[:, 0] - start, n, smoothing)))
        case MultiDiscreteSpec(sizes):
            pieces = [_smoothed(whole[:, i], n, smoothing) for i, n in enumerate(sizes)]
            return MultiCategorical(np.log(np.concatenate(pieces, axis=1)), sizes)
    yes = (whole > 0) * np.float32(1 - smoothing) + np.float32(smoothing / 2)
    return Bernoulli(np.log(yes) - np.log(1 - yes))


def _smoothed(chosen: Any, n: int, smoothing: float) -> Floats:
    """The smoothed probabilities of the choices, (batch, n), of chosen ones, (batch,)."""
    if ((chosen < 0) | (chosen >= n)).any():
        raise SpecError(f"Action {chosen.max()} or {chosen.min()} is not one of {n}.")
    one = (chosen[:, None] == np.arange(n)).astype(np.float32)
    smoothed: Floats = one * np.float32(1 - smoothing) + np.float32(smoothing / n)
    return smoothed
