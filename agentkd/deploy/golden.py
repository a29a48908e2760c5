"""Observations with what an executor gives for them, and how far others may be off."""

from __future__ import annotations

from typing import Any

import numpy as np

from agentkd import dists
from agentkd.deploy.bundle import answers, probes
from agentkd.executors.frozen import Frozen, distribution
from agentkd.spec import MultiDiscreteSpec
from agentkd.types import Floats

TOLERANCE = 1e-5
"""Largest difference in float, relative to 1 + |x|."""
_GOLDEN = 16
_CLEAR = 1e-3


def golden(frozen: Frozen, count: int = _GOLDEN) -> tuple[Floats, Floats, Any]:
    """Observations, their outputs and actions, none of them a near tie if possible.

    With a memory they are one sequence, as it comes.
    """
    obs = probes(frozen, count if frozen.memory else 8 * count)
    outputs = answers(frozen, obs).astype(np.float32)
    clear = margins(frozen, outputs) > _CLEAR
    rows = np.flatnonzero(clear)[:count] if clear.any() else np.arange(count)
    if frozen.memory:
        rows = np.arange(count)
    dist = distribution(frozen.head, outputs[rows], frozen.spec)
    taken = np.asarray(dists.mode(dist, frozen.spec.action))
    return obs[rows], outputs[rows], taken.reshape(len(rows), -1)


def margins(frozen: Frozen, outputs: Floats) -> Floats:
    """How far each row of outputs, (batch, out), is from a tie; infinite for numbers.

    A difference from the reference smaller than this cannot change the action.
    """

    def gap(scores: Floats) -> Floats:
        if scores.shape[1] == 1:
            return np.full(len(scores), np.inf, np.float32)
        top = np.partition(scores, -2, axis=1)[:, -2:]
        return np.asarray(top[:, 1] - top[:, 0], np.float32)

    match frozen.head:
        case "categorical":
            return gap(outputs)
        case "multicategorical":
            assert isinstance(frozen.spec.action, MultiDiscreteSpec)
            cuts = np.cumsum(frozen.spec.action.sizes)[:-1]
            gaps = [gap(each) for each in np.split(outputs, cuts, axis=1)]
            return np.asarray(np.min(gaps, axis=0), np.float32)
        case "bernoulli":
            return np.asarray(np.abs(outputs).min(axis=1), np.float32)
        case _:
            return np.full(len(outputs), np.inf, np.float32)
