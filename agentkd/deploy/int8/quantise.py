"""From an executor in floats to one in integers, after training.

Observations pass through the float executor once, to see how large its numbers become;
nothing is trained. Weights become int8 with a step for each output (Jacob et al. 2018,
arXiv:1712.05877), activations int16, and no sum can overflow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agentkd.deploy.int8.reference import (
    INPUT_BITS,
    TABLE,
    Int16s,
    Int32s,
    IntLayer,
    Quantised,
    Squash,
)
from agentkd.deploy.int8.rounding import Doubles, round_layer
from agentkd.errors import NumbersError, SpecError
from agentkd.executors.frozen import Frozen
from agentkd.executors.layers import Activation, Dense, activate, kind
from agentkd.spec import BoxSpec
from agentkd.types import Floats

HEADROOM = 2.0
"""Activations may become so many times larger than any that calibration saw."""
_DRAWN = 4096
_INT16 = 2**15 - 1
_INT32 = 2**31 - 1
_OUT = 2**24 - 1
"""The last layer's integers are exact as float32."""
_TANH_ENDS = 8.0
"""Beyond it tanh is ±1 within 3e-7, far less than half a step of 1/32767."""
_SHIFT = 32
"""The least shift: what is below the high word of the product is only rounded."""
_TINY = 1e-30


def calibration(frozen: Frozen) -> Floats:
    """Draw observations as the normaliser describes them, (4096, obs)."""
    random = np.random.default_rng(0)
    normal = random.standard_normal((_DRAWN, frozen.spec.obs.size))
    spread = np.where(frozen.scale == 0, 1.0, frozen.scale)
    return (frozen.mean + normal / spread).astype(np.float32)


def quantise(frozen: Frozen, obs: Floats | None = None) -> Quantised:
    """Make the integer form of an executor.

    Args:
        frozen: The executor in floats.
        obs: Observations to calibrate with, (batch, obs), best those of its own
            episodes. By default they are drawn as the normaliser describes them.

    Raises:
        SpecError: If the observations have another shape, there are none, or the last
            layer has an activation of its own.
        NumbersError: If a weight or an observation is NaN or infinite, or a layer has
            too many inputs for int32 sums.
    """
    if not np.isfinite(frozen.vector()).all():
        raise NumbersError("An executor with NaN or infinite weights has no integers.")
    dense = _dense(frozen)
    if dense[-1].activation != "none":
        raise SpecError(
            f"The last layer ends in {dense[-1].activation!r}; only a linear last "
            "layer has an integer form."
        )
    seen = calibration(frozen) if obs is None else np.asarray(obs, np.float32)
    if seen.ndim != 2 or seen.shape[1] != frozen.spec.obs.size or not len(seen):
        raise SpecError(
            f"Observations to calibrate with have shape {seen.shape}; "
            f"(one or more, {frozen.spec.obs.size}) was expected."
        )
    if not np.isfinite(seen).all():
        raise NumbersError("Observations to calibrate with hold NaN or infinity.")
    names: list[Activation] = [layer.activation for layer in dense]
    if frozen.head == "squashed":
        names[-1] = "tanh"
    grids, inner = _grids(frozen, names, seen)
    layers = []
    for index, (layer, name, grid) in enumerate(zip(dense, names, grids, strict=True)):
        if index + 1 < len(grids):
            after = grids[index + 1]
            most, step = after.most, after.step
        elif frozen.head == "squashed":
            most, step = _INT16, 1.0 / _INT16
        else:
            most, step = _OUT, _open_step(grid)
        layers.append(_layer(grid, layer.activation, name, inner[index], most, step))
    squash = None
    if frozen.head == "squashed":
        step, squash = _squash(frozen)
    gain = frozen.scale.astype(np.float64) * (1 << INPUT_BITS) / grids[0].step
    return Quantised(
        architecture=frozen.architecture,
        spec=frozen.spec,
        mean=frozen.mean.astype(np.float32),
        gain=gain.astype(np.float32),
        limit=min(grids[0].most, round(frozen.clip / grids[0].step)),
        layers=tuple(layers),
        head=frozen.head,
        step=step,
        squash=squash,
        version=frozen.version,
    )


def _dense(frozen: Frozen) -> list[Dense]:
    for layer in frozen.layers:
        if not isinstance(layer, Dense):
            raise SpecError(
                f"{frozen.architecture} has a layer of kind {kind(layer)}, which has "
                "no integer form yet: docs/int8.md covers dense layers."
            )
    return [layer for layer in frozen.layers if isinstance(layer, Dense)]


def _grids(
    frozen: Frozen, names: Sequence[Activation], seen: Floats
) -> tuple[list[_Grid], list[float]]:
    """Each layer's grid, and how large its sums before the activation may become."""
    # A tame clip is kept whole: what lies between what was seen and the clip is then
    # represented like the rest.
    normal = (seen - frozen.mean) * frozen.scale
    x = np.clip(normal, -frozen.clip, frozen.clip).astype(np.float64)
    reach = min(frozen.clip, max(16.0, HEADROOM * _largest(x)))
    rounded = x
    grids, inner = [], []
    for layer, name in zip(_dense(frozen), names, strict=True):
        weight, bias = layer.weight.astype(np.float64), layer.bias.astype(np.float64)
        sums = x @ weight.T + bias
        whole, scale, bias = round_layer(weight, bias, rounded, sums)
        grid = _grid(whole, scale, bias, reach)
        after = rounded @ (whole * scale[:, None]).T + bias
        x, rounded = _activate(name, sums), _activate(name, after)
        # A finer grid would leave multipliers above one half, which are not needed.
        least = 2.0 * float(grid.unit.max()) * (_INT16 + 1)
        room = HEADROOM * max(_largest(sums), _largest(after))
        inner.append(max(min(room, _TANH_ENDS) if name == "tanh" else room, least))
        room = HEADROOM * max(_largest(x), _largest(rounded))
        reach = 1.0 if name == "tanh" else max(room, least)
        grids.append(grid)
    return grids, inner


def _activate(name: Activation, x: Doubles) -> Doubles:
    return activate(name, x.astype(np.float32)).astype(np.float64)


def _largest(x: Doubles) -> float:
    return max(float(np.abs(x).max()), 1e-6)


@dataclass(frozen=True, slots=True)
class _Grid:
    """A layer's weights in integers, and the grid on which its inputs lie."""

    weight: Int32s
    bias: Int32s
    unit: Doubles  # what one unit of an accumulator is worth, by output
    most: int  # inputs are within ±most
    step: float  # what one unit of an input is worth

    def bound(self) -> float:
        """The largest sum there can be."""
        sums = np.abs(self.weight).sum(axis=1) * float(self.most) + np.abs(self.bias)
        return float((sums * self.unit).max())


def _grid(whole: Doubles, scale: Doubles, bias: Doubles, reach: float) -> _Grid:
    # A bias that dwarfs its weights would overflow: they get a coarser step for it.
    coarse = np.maximum(scale, np.abs(bias) / (reach * 32768.0))
    weight: Int32s = np.rint(whole * (scale / coarse)[:, None]).astype(np.int32)
    worst = float(np.max(np.abs(weight).sum(axis=1) + np.abs(bias) / (reach * coarse)))
    most = min(_INT16, math.floor((_INT32 - 1) / max(worst, 1.0)))
    if most < 1:
        raise NumbersError(f"A layer of {whole.shape[1]} inputs is too wide for int8.")
    step = reach / most
    unit = step * coarse
    return _Grid(weight, np.rint(bias / unit).astype(np.int32), unit, most, step)


def _open_step(grid: _Grid) -> float:
    """A power of two such that no output can leave ±_OUT."""
    bound = grid.bound() / (_OUT - 1)
    least = 2.0 * float(grid.unit.max())
    return 2.0 ** math.ceil(math.log2(max(bound, least)))


def _layer(
    grid: _Grid,
    activation: Activation,
    name: Activation,
    inner: float,
    most: int,
    step: float,
) -> IntLayer:
    low, high, table, unit = -most, most, None, step
    if name == "relu":
        low = 0
    elif name != "none":
        unit = inner / _INT16
        low, high = -_INT16 - 1, _INT16
        table = _table(name, unit, step, most)
    multiplier, shift = _multipliers(grid.unit / unit)
    return IntLayer(
        weight=grid.weight.astype(np.int8),
        bias=grid.bias,
        multiplier=multiplier,
        shift=shift,
        low=low,
        high=high,
        table=table,
        activation=activation,
    )


def _table(name: Activation, unit: float, step: float, most: int) -> Int16s:
    places = (np.arange(TABLE, dtype=np.float64) * 256 - 32768) * unit
    values = _activate(name, places)
    table: Int16s = np.clip(np.rint(values / step), -most, most).astype(np.int16)
    return table


def _multipliers(ratio: Doubles) -> tuple[Int32s, int]:
    """One shift for the layer, and for each output the multiplier under it."""
    shift = min(62, 30 - math.floor(math.log2(float(ratio.max()))))
    whole = np.rint(ratio * 2.0**shift)
    if whole.max() > _INT32:
        shift -= 1
        whole = np.rint(ratio * 2.0**shift)
    assert shift >= _SHIFT
    return whole.astype(np.int32), shift


def _squash(frozen: Frozen) -> tuple[float, Squash]:
    action = frozen.spec.action
    if not isinstance(action, BoxSpec) or not action.bounded:
        raise SpecError(f"A squashed head needs finite bounds; they are {action}.")
    low, high = np.asarray(action.low), np.asarray(action.high)
    size = max(float(np.abs([low, high]).max()), _TINY)
    step = 2.0 ** (math.ceil(math.log2(size)) - 22)
    centre = np.rint((low + high) / 2 / step)
    half = np.rint((high - low) / 2 / step * (32768 / _INT16))
    return step, Squash(centre.astype(np.int32), half.astype(np.int32))
