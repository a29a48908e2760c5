"""Integer grids for a layer's weights, and rounding to them so that its sums change least.

Weights are rounded one input at a time, and what rounding did to the sums is made good by the
inputs that are not rounded yet (Frantar et al. 2023, arXiv:2210.17323, algorithm 1), by the inputs
that calibration saw.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agentkd.deploy.int8.reference import Int32s
from agentkd.errors import NumbersError

Doubles = NDArray[np.float64]

INT16 = 2**15 - 1
INT32 = 2**31 - 1
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


class Grid(NamedTuple):
    """Weights in integers, and the grid on which their inputs lie."""

    weight: Int32s
    bias: Int32s
    unit: Doubles  # what one unit of an accumulator is worth, by output
    most: int  # inputs are within ±most
    step: float  # what one unit of an input is worth

    def bound(self) -> float:
        """The largest sum there can be."""
        sums = np.abs(self.weight).sum(axis=1) * float(self.most) + np.abs(self.bias)
        return float((sums * self.unit).max())


def grid(whole: Doubles, scale: Doubles, bias: Doubles, reach: float) -> Grid:
    """Lay whole weights, of a scale, out for inputs within ±reach.

    Raises:
        NumbersError: If the layer has too many inputs.
    """
    # A bias that dwarfs its weights would overflow: they get a coarser step for it.
    coarse = np.maximum(scale, np.abs(bias) / (reach * 32768.0))
    weight = np.rint(whole * (scale / coarse)[:, None])
    worst = float(np.max(np.abs(weight).sum(axis=1) + np.abs(bias) / (reach * coarse)))
    most = min(INT16, math.floor((INT32 - 1) / max(worst, 1.0)))
    if most < 1:
        raise NumbersError(f"A layer of {whole.shape[1]} inputs is too wide for int8.")
    return _on(weight, coarse, bias, most, reach / most)


def fixed_grid(whole: Doubles, scale: Doubles, bias: Doubles, reach: float) -> Grid:
    """The same in steps of reach/32767: what does not fit gets coarser weights.

    Raises:
        NumbersError: If the layer has too many inputs.
    """
    room = (INT32 - 1) / INT16 - 0.5 * whole.shape[1] - 1.0
    if room < 1.0:
        raise NumbersError(f"A layer of {whole.shape[1]} inputs is too wide for int8.")
    worst = np.abs(whole).sum(axis=1) + np.abs(bias) / (reach * scale)
    coarse = scale * np.maximum(worst / room, 1.0)
    weight = np.rint(whole * (scale / coarse)[:, None])
    return _on(weight, coarse, bias, INT16, reach / INT16)


def _on(weight: Doubles, coarse: Doubles, bias: Doubles, most: int, step: float) -> Grid:
    unit = step * coarse
    whole, shift = weight.astype(np.int32), np.rint(bias / unit).astype(np.int32)
    return Grid(whole, shift, unit, most, step)


def round_layer(
    weight: Doubles, bias: Doubles, x: Doubles, sums: Doubles
) -> tuple[Doubles, Doubles, Doubles]:
    """Round a layer, weights (out, in), for the inputs (batch, in) that rounded layers give it.

    `sums`, (batch, out), are what the float layer gave there before its activation.

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
