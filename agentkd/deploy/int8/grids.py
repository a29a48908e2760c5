"""On which grids an executor's integers lie: what calibration finds, layer by layer.

Observations pass through the float executor and, beside it, through one whose weights are rounded
already; both say how large the numbers become.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from agentkd.deploy.int8.reference import Int32s, places
from agentkd.deploy.int8.rounding import Doubles, round_layer
from agentkd.errors import NumbersError, SpecError
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Activation, Conv, Dense, Gru, Layer, Lstm, activate, kind
from agentkd.executors.plan import steps
from agentkd.types import Floats

HEADROOM = 2.0
"""Activations may become so many times larger than any that calibration saw."""
INT16 = 2**15 - 1
INT32 = 2**31 - 1
TANH_ENDS = 8.0
"""Beyond it tanh is ±1 within 3e-7, far less than half a step of 1/32767."""
SIGMOID_ENDS = 12.0
"""Beyond it sigmoid is 0 or 1 within 7e-6, less than half a step of 1/32768."""
_PATCHES = 65536
"""Patches of images that a layer's rounding looks at, at most."""


@dataclass(frozen=True, slots=True)
class Grid:
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


@dataclass(frozen=True, slots=True)
class Plain:
    """A dense layer, or one on patches.

    Attributes:
        entry: The grid of its inputs, and its weights.
        activation: What it ends in.
        inner: How large sums before the activation may become.
        dims: What a convolution's kernel takes; () for a dense layer.
    """

    entry: Grid
    activation: Activation
    inner: float
    dims: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Gated:
    """A gated recurrent unit.

    Attributes:
        entry: The grid of its inputs, and their weights.
        hidden: The grid of its memory, and its weights.
        sigmoid: How large sums before the gates r and z may become.
        tanh: How large those before the gate n.
    """

    entry: Grid
    hidden: Grid
    sigmoid: float
    tanh: float


Stage = Plain | Gated


@dataclass(slots=True)
class _Flow:
    """Rows on their way: what the float executor gives, and the rounded one."""

    x: Doubles
    rounded: Doubles
    begins: Floats
    reach: float
    fixed: bool = False  # whether their step is 1/32767 and nothing else

    def grid(self, whole: Doubles, scale: Doubles, bias: Doubles) -> Grid:
        make = _fixed_grid if self.fixed else _grid
        return make(whole, scale, bias, self.reach)


def stages(
    executor: Executor, names: list[Activation], seen: Floats, begins: Floats
) -> list[Stage]:
    """Calibrate each layer.

    Args:
        executor: The executor.
        names: The activation that each layer ends in, the last one's head counted in.
        seen: Observations, (n, obs).
        begins: 1 where an episode begins, else 0, (n,).

    Raises:
        SpecError: If a layer has no integer form.
        NumbersError: If a layer is too wide for int32 sums.
    """
    # A tame clip is kept whole: what lies between what was seen and the clip is then represented
    # like the rest.
    normal = (seen - executor.mean) * executor.scale
    x = np.clip(normal, -executor.clip, executor.clip).astype(np.float64)
    reach = min(executor.clip, max(16.0, HEADROOM * _largest(x)))
    flow = _Flow(x, x, begins, reach)
    found: list[Stage] = []
    for layer, step, name in zip(executor.layers, steps(executor, 4), names, strict=True):
        match layer:
            case Dense():
                found.append(_plain(layer, name, flow, ()))
            case Conv():
                found.append(_plain(layer.dense, name, flow, step.dims[:9]))
            case Gru():
                found.append(_gated(layer, flow))
            case _:
                raise _refusal(executor, layer)
    return found


def _refusal(executor: Executor, layer: Layer) -> SpecError:
    missing = "softmax and layer normalisation"
    if isinstance(layer, Lstm):
        missing = "a cell without bounds, which int16 does not hold"
    return SpecError(
        f"{executor.architecture} has a layer of kind {kind(layer)}, which has no "
        f"integer form: docs/reference/int8.md lacks {missing}. Take mlp, cnn or gru, or export "
        "floats."
    )


def _plain(layer: Dense, name: Activation, flow: _Flow, dims: tuple[int, ...]) -> Plain:
    weight, bias = layer.weight.astype(np.float64), layer.bias.astype(np.float64)
    x, rounded = flow.x, flow.rounded
    if dims:
        where = places(dims)
        x = x[:, where].reshape(-1, where.shape[1])
        rounded = rounded[:, where].reshape(-1, where.shape[1])
    sums = x @ weight.T + bias
    some = slice(None, None, -(-len(x) // _PATCHES))
    whole, scale, bias = round_layer(weight, bias, rounded[some], sums[some])
    grid = flow.grid(whole, scale, bias)
    after = rounded @ (whole * scale[:, None]).T + bias
    x, rounded = active(name, sums), active(name, after)
    # A finer grid would leave multipliers above one half, which are not needed.
    least = 2.0 * float(grid.unit.max()) * (INT16 + 1)
    room = HEADROOM * max(_largest(sums), _largest(after))
    inner = max(min(room, TANH_ENDS) if name == "tanh" else room, least)
    room = HEADROOM * max(_largest(x), _largest(rounded))
    flow.reach = 1.0 if name == "tanh" else max(room, least)
    flow.fixed = False
    flow.x, flow.rounded = (each.reshape(len(flow.x), -1) for each in (x, rounded))
    return Plain(grid, name, inner, dims)


def _gated(layer: Gru, flow: _Flow) -> Gated:
    width = layer.hidden.weight.shape[1]
    (inputs, into), (hidden, back) = (
        (each.weight.astype(np.float64), each.bias.astype(np.float64))
        for each in (layer.inputs, layer.hidden)
    )
    given = flow.x @ inputs.T + into
    real = _follow(given, hidden, back, flow.begins)
    whole, scale, into = round_layer(inputs, into, flow.rounded, given)
    entry = flow.grid(whole, scale, into)
    given = flow.rounded @ (whole * scale[:, None]).T + into
    # By the memory of the float unit: the rounded one has no weights yet.
    kept = real.before @ hidden.T + back
    whole, scale, back = round_layer(hidden, back, real.before, kept)
    memory = _fixed_grid(whole, scale, back, 1.0)
    rounded = _follow(given, whole * scale[:, None], back, flow.begins)
    largest = [np.maximum(*pair) for pair in zip(real.sums, rounded.sums, strict=True)]
    unit = 2.0 * np.maximum(entry.unit, memory.unit) * (INT16 + 1)
    ends = (SIGMOID_ENDS, TANH_ENDS)
    least = float(unit[: 2 * width].max()), float(unit[2 * width :].max())
    sigmoid, tanh = (
        max(min(HEADROOM * float(room), end), low)
        for room, end, low in zip(largest, ends, least, strict=True)
    )
    flow.x, flow.rounded, flow.reach, flow.fixed = real.after, rounded.after, 1.0, True
    return Gated(entry, memory, sigmoid, tanh)


@dataclass(frozen=True, slots=True)
class _Followed:
    """What a unit remembered before and after each row, (n, width).

    Attributes:
        before: Before.
        after: After.
        sums: The largest sums before the gates r and z, and before n.
    """

    before: Doubles
    after: Doubles
    sums: tuple[float, float]


def _follow(given: Doubles, weight: Doubles, bias: Doubles, begins: Floats) -> _Followed:
    """Go through rows that are episodes one after another, all episodes at a time."""
    width = weight.shape[1]
    first = np.union1d([0], np.flatnonzero(begins))
    length = np.diff(np.append(first, len(given)))
    state = np.zeros((len(first), width))
    before, after = np.empty((2, len(given), width))
    most, most_new = 1e-6, 1e-6
    for tick in range(int(length.max())):
        live = length > tick
        at, h = first[live] + tick, state[live]
        kept = h @ weight.T + bias
        sums = given[at, : 2 * width] + kept[:, : 2 * width]
        gates = 1.0 / (1.0 + np.exp(-np.clip(sums, -50.0, 50.0)))
        new = given[at, 2 * width :] + gates[:, :width] * kept[:, 2 * width :]
        most = max(most, float(np.abs(sums).max()))
        most_new = max(most_new, float(np.abs(new).max()))
        fresh = np.tanh(new)
        before[at] = h
        after[at] = state[live] = fresh + gates[:, width:] * (h - fresh)
    return _Followed(before, after, (most, most_new))


def active(name: Activation, x: Doubles) -> Doubles:
    """Apply an activation as the float executor does."""
    return activate(name, x.astype(np.float32)).astype(np.float64)


def _largest(x: Doubles) -> float:
    return max(float(np.abs(x).max()), 1e-6)


def _grid(whole: Doubles, scale: Doubles, bias: Doubles, reach: float) -> Grid:
    # A bias that dwarfs its weights would overflow: they get a coarser step for it.
    coarse = np.maximum(scale, np.abs(bias) / (reach * 32768.0))
    weight: Int32s = np.rint(whole * (scale / coarse)[:, None]).astype(np.int32)
    worst = float(np.max(np.abs(weight).sum(axis=1) + np.abs(bias) / (reach * coarse)))
    most = min(INT16, math.floor((INT32 - 1) / max(worst, 1.0)))
    if most < 1:
        raise NumbersError(f"A layer of {whole.shape[1]} inputs is too wide for int8.")
    step = reach / most
    unit = step * coarse
    return Grid(weight, np.rint(bias / unit).astype(np.int32), unit, most, step)


def _fixed_grid(whole: Doubles, scale: Doubles, bias: Doubles, reach: float) -> Grid:
    """For inputs in steps of reach/32767: what does not fit gets coarser weights."""
    room = (INT32 - 1) / INT16 - 0.5 * whole.shape[1] - 1.0
    if room < 1.0:
        raise NumbersError(f"A layer of {whole.shape[1]} inputs is too wide for int8.")
    worst = np.abs(whole).sum(axis=1) + np.abs(bias) / (reach * scale)
    coarse = scale * np.maximum(worst / room, 1.0)
    weight: Int32s = np.rint(whole * (scale / coarse)[:, None]).astype(np.int32)
    step = reach / INT16
    unit = step * coarse
    return Grid(weight, np.rint(bias / unit).astype(np.int32), unit, INT16, step)
