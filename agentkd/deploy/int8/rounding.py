"""Rounding a layer's weights to int8 so that its sums change least.

Weights are rounded one input at a time, and what rounding did to the sums is made good by the
inputs that are not rounded yet (Frantar et al. 2023, arXiv:2210.17323, algorithm 1), by the inputs
that calibration saw.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

_DAMP = 0.01
"""Share of the mean variance that is added to each input's own."""
_ON = 1e-3
"""How far from its step, in steps, a weight may be that lies on it; float32 is 1e-5."""
_ROWS = 4.0
"""Rows for each input from which on that share is enough."""
_WIDE = 4096
"""Inputs beyond which each weight is rounded by itself: their covariance would take hundreds of
megabytes, and its inverse minutes."""
_SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8)
"""Steps that are tried, in units of the one that needs no clipping."""


def round_layer(
    weight: Doubles, bias: Doubles, x: Doubles, sums: Doubles
) -> tuple[Doubles, Doubles, Doubles]:
    """Round a layer for the inputs that it gets once those before it are rounded.

    Args:
        weight: (out, in).
        bias: (out,).
        x: Inputs, (batch, in), as the rounded layers before give them.
        sums: What the float layer gave there before its activation, (batch, out).

    Returns:
        Whole weights in [-127, 127], (out, in); their steps, (out,); the bias, (out,).
    """
    middle = x.mean(axis=0)
    lattice = _lattice(weight)
    if lattice is None and weight.shape[1] > _WIDE:
        lattice = np.maximum(np.abs(weight).max(axis=1) / 127.0, 1e-30)
    if lattice is not None:
        whole = _round(weight / lattice[:, None])
        return whole, lattice, sums.mean(axis=0) - (whole * lattice[:, None]) @ middle
    spread = x - middle
    second = spread.T @ spread / len(x)
    # Fewer rows than inputs say nothing about most directions: then it shrinks more.
    share = _DAMP * max(1.0, _ROWS * weight.shape[1] / len(x))
    damp = share * float(np.mean(np.diag(second))) + 1e-12
    second[np.diag_indices_from(second)] += damp
    # First in floats: weights that undo what rounding did to the layers before.
    missed = sums - (x @ weight.T + bias)
    weight = weight + np.linalg.solve(second, spread.T @ missed / len(x)).T
    step = _steps(weight, second)
    whole = _feed_back(weight, step, second)
    rounded = whole * step[:, None]
    shifted: Doubles = sums.mean(axis=0) - rounded @ middle
    return whole, step, shifted


def _lattice(weight: Doubles) -> Doubles | None:
    """The steps of weights that lie on some already; None if any does not.

    An executor that was trained so keeps the integers that it was trained with.
    """
    most = np.maximum(np.abs(weight).max(axis=1), 1e-30)
    step: Doubles = np.zeros(len(weight))
    for count in range(1, 128):
        left = step == 0
        if not left.any():
            break
        tried = most[left] / count
        ratio = weight[left] / tried[:, None]
        on = (np.abs(ratio - np.rint(ratio)) < _ON).all(axis=1)
        step[left] = np.where(on, tried, 0.0)
    return None if (step == 0).any() else step


def _steps(weight: Doubles, second: Doubles) -> Doubles:
    """For each output the step under which plain rounding changes its sum least."""
    full = np.maximum(np.abs(weight).max(axis=1) / 127.0, 1e-30)
    best: Doubles = full
    least: Doubles = np.full(len(weight), np.inf)
    for share in _SHRINK:
        step: Doubles = full * share
        off = weight - _round(weight / step[:, None]) * step[:, None]
        error = ((off @ second) * off).sum(axis=1)
        best = np.where(error < least, step, best)
        least = np.minimum(error, least)
    return best


def _round(x: Doubles) -> Doubles:
    nearest: Doubles = np.clip(np.rint(x), -127.0, 127.0)
    return nearest


def _feed_back(weight: Doubles, step: Doubles, second: Doubles) -> Doubles:
    # Inputs that vary most are rounded first, while there is most to make it good.
    order = np.argsort(-np.diag(second), kind="stable")
    left = weight[:, order].copy()
    upper = np.linalg.cholesky(np.linalg.inv(second[np.ix_(order, order)])).T
    whole = np.empty_like(left)
    for i in range(len(order)):
        whole[:, i] = _round(left[:, i] / step)
        off = (left[:, i] - whole[:, i] * step) / upper[i, i]
        left[:, i + 1 :] -= off[:, None] * upper[i, i + 1 :]
    back: Doubles = np.empty_like(whole)
    back[:, order] = whole
    return back
