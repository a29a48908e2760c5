"""How far two forms of one executor are apart, in outputs and in actions."""

from __future__ import annotations

from typing import Any

import numpy as np

from agentkd import dists
from agentkd.executors.executor import Executor, distribution
from agentkd.spec import MultiDiscreteSpec
from agentkd.types import Floats

TOLERANCE = 1e-5
"""Largest difference in float, relative to 1 + |x|."""


def actions_of(executor: Executor, outputs: Floats) -> Any:
    """The actions that outputs (n, out) lead to, (n, numbers or choices).

    They are in the environment's units: float32 for boxes, else int32.
    """
    dist = distribution(executor.head, outputs, executor.spec)
    found = np.asarray(dists.mode(dist, executor.spec.action)).reshape(len(outputs), -1)
    return found.astype(np.float32 if found.dtype.kind == "f" else np.int32)


def difference(
    executor: Executor,
    outputs: Floats,
    actions: Any,
    wanted: Floats,
    wanted_actions: Any,
    tolerance: float = TOLERANCE,
) -> tuple[float, str]:
    """Compare outputs, (n, out), and actions, (n, numbers or choices), with those wanted.

    Numbers are compared relative to 1 + |x|, and squashed actions also to the distance of their
    bounds. Choices have to be equal, except where the wanted outputs are so near a tie that
    rounding decides.

    Returns:
        The largest difference, and the first above `tolerance` in words, "" for none.
    """
    worst, text = _first("output", outputs, wanted, 0.0, tolerance)
    if actions.shape != wanted_actions.shape:
        text = text or f"actions have shape {actions.shape}"
        return float("inf"), text
    if wanted_actions.dtype.kind == "f":
        span: Any = 0.0
        if executor.head == "squashed":
            low, high = dists.bounds(executor.spec.action)
            span = high.astype(np.float64) - low
        further, first = _first("action", actions, wanted_actions, span, tolerance)
        return max(worst, further), text or first
    # Two scores so near each other that rounding decides between them.
    near = margins(executor, wanted) <= 2 * tolerance * (1 + np.abs(wanted).max(axis=1))
    apart = (actions != wanted_actions) & ~near[:, None]
    if apart.any() and not text:
        row, column = (int(each) for each in np.argwhere(apart)[0])
        got, other = actions[row, column], wanted_actions[row, column]
        text = _said("action", row, column, got, other)
    return worst, text


def margins(executor: Executor, outputs: Floats) -> Floats:
    """How far each row of outputs, (batch, out), is from a tie; infinite for numbers.

    A difference from the reference smaller than this cannot change the action.
    """

    def gap(scores: Floats) -> Floats:
        if scores.shape[1] == 1:
            return np.full(len(scores), np.inf, np.float32)
        top = np.partition(scores, -2, axis=1)[:, -2:]
        return np.asarray(top[:, 1] - top[:, 0], np.float32)

    match executor.head:
        case "categorical":
            return gap(outputs)
        case "multicategorical":
            assert isinstance(executor.spec.action, MultiDiscreteSpec)
            cuts = np.cumsum(executor.spec.action.sizes)[:-1]
            gaps = [gap(each) for each in np.split(outputs, cuts, axis=1)]
            return np.asarray(np.min(gaps, axis=0), np.float32)
        case "bernoulli":
            return np.asarray(np.abs(outputs).min(axis=1), np.float32)
        case _:
            return np.full(len(outputs), np.inf, np.float32)


def _first(what: str, got: Any, wanted: Any, span: Any, tolerance: float) -> tuple[float, str]:
    """The worst difference, and the first that is too large in words."""
    if got.shape != wanted.shape:
        return float("inf"), f"{what}s have shape {got.shape}, not {wanted.shape}"
    with np.errstate(invalid="ignore", over="ignore"):
        exact = wanted.astype(np.float64)
        apart = np.abs(got.astype(np.float64) - exact) / (1.0 + np.abs(exact) + span)
    apart = np.where(np.isnan(apart), np.inf, apart)
    worst = float(apart.max(initial=0.0))
    if worst <= tolerance:
        return worst, ""
    row, column = (int(each) for each in np.argwhere(apart > tolerance)[0])
    return worst, _said(what, row, column, got[row, column], wanted[row, column])


def _said(what: str, row: int, column: int, got: Any, wanted: Any) -> str:
    return f"row {row}, {what} {column}: {got:.9g} instead of {wanted:.9g}"
