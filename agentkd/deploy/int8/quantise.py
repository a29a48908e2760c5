"""From an executor in floats to one in integers, after training.

Observations pass through the float executor and, beside it, through one whose weights are rounded
already; both say how large the numbers become. Nothing is trained. Weights become int8 with a step
for each output (Jacob et al. 2018, arXiv:1712.05877), activations int16, and no sum can overflow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from agentkd.deploy.int8.grids import INT16, INT32, Doubles, Grid, fixed_grid, grid, round_layer
from agentkd.deploy.int8.reference import (
    GATE,
    INPUT_BITS,
    TABLE,
    Int16s,
    Int32s,
    IntConv,
    Integers,
    IntGru,
    IntLayer,
    IntStack,
    Quantised,
    Squash,
    places,
)
from agentkd.errors import NumbersError, SpecError
from agentkd.executors.arithmetic import activate
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Activation, Conv, Dense, Gru, Layer, Lstm, Past, Stack, kind
from agentkd.executors.plan import normaliser, steps
from agentkd.spec import BoxSpec
from agentkd.types import Floats

HEADROOM = 2.0
"""Activations may become so many times larger than any that calibration saw."""
TANH_ENDS = 8.0
"""Beyond it tanh is ±1 within 3e-7, far less than half a step of 1/32767."""
SIGMOID_ENDS = 12.0
"""Beyond it sigmoid is 0 or 1 within 7e-6, less than half a step of 1/32768."""
_PATCHES = 65536
"""Patches of images that a layer's rounding looks at, at most."""
_DRAWN = 4096
_EPISODE = 128
_OUT = 2**24 - 1
"""The last layer's integers are exact as float32."""
_SHIFT = 32
"""The least shift: what is below the high word of the product is only rounded."""
_TINY = 1e-30
_PIXELS = 1 << 23
_FEWEST = 16


class Stage(NamedTuple):
    """A layer on its way into integers."""

    entry: Grid
    """The grid of its inputs, and its weights."""
    build: Callable[[int, float], Integers]
    """Makes it, for outputs within ±most in units of a step."""


def calibration(executor: Executor) -> Floats:
    """Draw observations as the normaliser describes them, (4096, obs); fewer images."""
    random = np.random.default_rng(0)
    size = executor.spec.obs.size
    count = min(_DRAWN, max(_FEWEST, _PIXELS // size))
    normal = random.standard_normal((count, size))
    spread = np.where(executor.scale == 0, 1.0, executor.scale)
    return (executor.mean + normal / spread).astype(np.float32)


def quantise(
    executor: Executor, obs: Floats | None = None, starts: Floats | None = None
) -> Quantised:
    """Make the integer form of an executor.

    It is calibrated with observations, (batch, obs), best those of its own episodes; by default
    they are drawn as the normaliser describes them. For an executor with a memory, `starts`,
    (batch,), is 1 where an episode begins; by default given ones are one episode.

    Raises:
        SpecError: If the observations have another shape, there are none, or a layer has no integer
            form.
        NumbersError: If a weight or an observation is NaN or infinite, or a layer has too many
            inputs for int32 sums.
    """
    found = _stages(executor, obs, starts)
    ends = [(after.entry.most, after.entry.step) for after in found[1:]]
    if executor.head == "squashed":
        ends.append((INT16, 1.0 / INT16))
    else:
        ends.append((_OUT, _open_step(found[-1].entry)))
    layers = tuple(stage.build(*end) for stage, end in zip(found, ends, strict=True))
    first = executor.layers[0]
    if isinstance(first, Stack):
        layers = (IntStack(first.count, first.size), *layers)
    elif isinstance(first, Past):
        layers = (first, *layers)
    step, squash = ends[-1][1], None
    if executor.head == "squashed":
        step, squash = _squash(executor)
    entry, norm = found[0].entry, normaliser(executor)
    gain = norm.scale.astype(np.float64) * (1 << INPUT_BITS) / entry.step
    return Quantised(
        architecture=executor.architecture,
        spec=executor.spec,
        mean=norm.mean.astype(np.float32),
        gain=gain.astype(np.float32),
        apart=norm.apart,
        limit=min(entry.most, round(executor.clip / entry.step)),
        layers=layers,
        head=executor.head,
        step=step,
        squash=squash,
        version=executor.version,
    )


def rounded(executor: Executor, obs: Floats) -> tuple[Executor, list[Floats]]:
    """The executor in floats that has the weights and biases of its integer form.

    It is calibrated with observations (batch, obs), and has dense layers and convolutions.

    Returns:
        That executor, and for each layer its outputs' steps, (out,).

    Raises:
        SpecError: As `quantise`, or if the executor has a memory.
        NumbersError: As `quantise`.
    """
    layers, units = [], []
    if executor.memory:
        raise SpecError(f"{executor.architecture} has a memory of {executor.memory} numbers.")
    for layer, stage in zip(executor.layers, _stages(executor, obs, None), strict=True):
        if not isinstance(layer, Dense | Conv):
            raise SpecError(f"{executor.architecture} has a {kind(layer)} layer.")
        unit = stage.entry.unit / stage.entry.step
        weight = (stage.entry.weight * unit[:, None]).reshape(layer.weight.shape)
        bias = stage.entry.bias * stage.entry.unit
        layers.append(
            replace(layer, weight=weight.astype(np.float32), bias=bias.astype(np.float32))
        )
        units.append(unit.astype(np.float32))
    return replace(executor, layers=tuple(layers)), units


def _stages(executor: Executor, obs: Floats | None, starts: Floats | None) -> list[Stage]:
    """Calibrate each layer.

    Raises:
        SpecError: If a layer has no integer form.
        NumbersError: If a layer is too wide for int32 sums.
    """
    if not np.isfinite(executor.vector()).all():
        raise NumbersError("An executor with NaN or infinite weights has no integers.")
    last = executor.layers[-1]
    ends = last.activation if isinstance(last, Dense) else f"a {kind(last)} layer"
    if ends != "none":
        raise SpecError(
            f"The executor ends in {ends!r}; only a linear dense layer has an integer form there."
        )
    seen, begins = _seen(executor, obs, starts)
    # A tame clip is kept whole: what lies between what was seen and the clip is then represented
    # like the rest.
    normal = (seen - executor.mean) * executor.scale
    x = np.clip(normal, -executor.clip, executor.clip).astype(np.float64)
    reach = min(executor.clip, max(16.0, HEADROOM * _largest(x)))
    flow = _Flow(x, x, begins, reach)
    found: list[Stage] = []
    for layer, step in zip(executor.layers, steps(executor, 4), strict=True):
        match layer:
            case Stack() if not found:
                # The inputs' integers are moved, not changed.
                flow.x = flow.rounded = _stacked(layer.count, 0, x, begins)
            case Past() if not found:
                flow.x = flow.rounded = np.concatenate(
                    [
                        _stacked(layer.count, layer.lag, x[:, : layer.size], begins),
                        _stacked(layer.actions, 0, x[:, layer.size :], begins),
                    ],
                    axis=1,
                )
            case Dense():
                squashed = layer is last and executor.head == "squashed"
                found.append(_plain(layer, "tanh" if squashed else layer.activation, flow, ()))
            case Conv():
                found.append(_plain(layer.dense, layer.activation, flow, step.dims[:9]))
            case Gru():
                found.append(_gated(layer, flow))
            case _:
                raise _refusal(executor, layer)
    return found


def _stacked(count: int, lag: int, x: Doubles, begins: Floats) -> Doubles:
    """Stack rows at least `lag` ticks old, of (n, size) that are episodes one after another."""
    at = np.arange(len(x))
    first = np.maximum.accumulate(np.where(begins > 0, at, 0))
    pieces = []
    for back in range(count - 1 + lag, lag - 1, -1):
        there = at - back >= first
        pieces.append(np.where(there[:, None], x[np.maximum(at - back, 0)], 0.0))
    return np.concatenate(pieces, axis=1)


def _refusal(executor: Executor, layer: Layer) -> SpecError:
    missing = "softmax and layer normalisation"
    if isinstance(layer, Lstm):
        missing = "a cell without bounds, which int16 does not hold"
    return SpecError(
        f"{executor.architecture} has a layer of kind {kind(layer)}, which has no "
        f"integer form: docs/reference/int8.md lacks {missing}. Take mlp, cnn or gru, or export "
        "floats."
    )


def _seen(executor: Executor, obs: Floats | None, starts: Floats | None) -> tuple[Floats, Floats]:
    """Observations to calibrate with, and where episodes begin among them."""
    size = executor.spec.obs.size
    if obs is None:
        seen = calibration(executor)
        begins = np.zeros(len(seen), np.float32)
        begins[::_EPISODE] = 1.0
    else:
        seen, begins = np.asarray(obs, np.float32), np.zeros(len(obs), np.float32)
    if starts is not None:
        begins = np.asarray(starts, np.float32)
    if seen.ndim != 2 or seen.shape[1] != size or not len(seen):
        raise SpecError(
            f"Observations to calibrate with have shape {seen.shape}; "
            f"(one or more, {size}) was expected."
        )
    if begins.shape != (len(seen),):
        raise SpecError(f"{len(seen)} observations, and starts of {begins.shape}.")
    if not np.isfinite(seen).all():
        raise NumbersError("Observations to calibrate with hold NaN or infinity.")
    # Patches take many times the room of their image.
    sizes = [places(step.dims[:9]).size for step in steps(executor, 4) if step.kind == "conv"]
    count = max(_FEWEST, _PIXELS // max(sizes, default=1))
    if not sizes or len(seen) <= count:
        return seen, begins
    chosen = np.arange(count)
    if not executor.memory:
        chosen = np.linspace(0, len(seen) - 1, count).astype(int)
    return seen[chosen], begins[chosen]


def _open_step(grid: Grid) -> float:
    """A power of two such that no output can leave ±_OUT."""
    bound = grid.bound() / (_OUT - 1)
    least = 2.0 * float(grid.unit.max())
    return 2.0 ** math.ceil(math.log2(max(bound, least)))


@dataclass(slots=True)
class _Flow:
    """Rows on their way: what the float executor gives, and the rounded one."""

    x: Doubles
    rounded: Doubles
    begins: Floats
    reach: float
    fixed: bool = False  # whether their step is 1/32767 and nothing else

    def grid(self, whole: Doubles, scale: Doubles, bias: Doubles) -> Grid:
        make = fixed_grid if self.fixed else grid
        return make(whole, scale, bias, self.reach)


def _plain(layer: Dense, name: Activation, flow: _Flow, dims: tuple[int, ...]) -> Stage:
    weight, bias = layer.weight.astype(np.float64), layer.bias.astype(np.float64)
    x, rounded = flow.x, flow.rounded
    if dims:
        where = places(dims)
        x = x[:, where].reshape(-1, where.shape[1])
        rounded = rounded[:, where].reshape(-1, where.shape[1])
    sums = x @ weight.T + bias
    some = slice(None, None, -(-len(x) // _PATCHES))
    whole, scale, bias = round_layer(weight, bias, rounded[some], sums[some])
    entry = flow.grid(whole, scale, bias)
    after = rounded @ (whole * scale[:, None]).T + bias
    x, rounded = _active(name, sums), _active(name, after)
    # A finer grid would leave multipliers above one half, which are not needed.
    least = 2.0 * float(entry.unit.max()) * (INT16 + 1)
    room = HEADROOM * max(_largest(sums), _largest(after))
    inner = max(min(room, TANH_ENDS) if name == "tanh" else room, least)
    room = HEADROOM * max(_largest(x), _largest(rounded))
    flow.reach = 1.0 if name == "tanh" else max(room, least)
    flow.fixed = False
    flow.x, flow.rounded = (each.reshape(len(flow.x), -1) for each in (x, rounded))

    def build(most: int, step: float) -> Integers:
        low, high, table, unit = -most, most, None, step
        if name == "relu":
            low = 0
        elif name != "none":
            unit = inner / INT16
            low, high = -INT16 - 1, INT16
            table = _table(_active(name, _ends(unit)), step, most)
        dense = _layer(entry, unit, low, high, table, name)
        return IntConv(dense, dims) if dims else dense

    return Stage(entry, build)


def _gated(layer: Gru, flow: _Flow) -> Stage:
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
    memory = fixed_grid(whole, scale, back, 1.0)
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
    return Stage(entry, lambda _most, _step: _gru(entry, memory, sigmoid / INT16, tanh / INT16))


def _gru(entry: Grid, memory: Grid, gates: float, new: float) -> IntGru:
    """Make a unit whose sums before r and z, and before n, are in these units."""
    unit = np.repeat([gates, gates, new], len(memory.unit) // 3)
    inputs, hidden = (_layer(each, unit, -GATE, GATE, None, "none") for each in (entry, memory))
    # 1 itself is not an int16 in the unit of r and z.
    sigmoid = _table(0.5 * np.tanh(0.5 * _ends(gates)) + 0.5, 1.0 / 32768, INT16)
    tanh = _table(_active("tanh", _ends(new)), 1.0 / INT16, INT16)
    return IntGru(inputs=inputs, hidden=hidden, sigmoid=sigmoid, tanh=tanh)


class _Followed(NamedTuple):
    """What a unit remembered before and after each row, (n, width)."""

    before: Doubles
    after: Doubles
    sums: tuple[float, float]
    """The largest sums before the gates r and z, and before n."""


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


def _active(name: Activation, x: Doubles) -> Doubles:
    """Apply an activation as the float executor does."""
    return activate(name, x.astype(np.float32)).astype(np.float64)


def _largest(x: Doubles) -> float:
    return max(float(np.abs(x).max()), 1e-6)


def _layer(
    grid: Grid,
    unit: Doubles | float,
    low: int,
    high: int,
    table: Int16s | None,
    activation: Activation,
) -> IntLayer:
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


def _ends(unit: float) -> Doubles:
    """The ends of a table's intervals."""
    ends: Doubles = (np.arange(TABLE, dtype=np.float64) * 256 - 32768) * unit
    return ends


def _table(values: Doubles, step: float, most: int) -> Int16s:
    table: Int16s = np.clip(np.rint(values / step), -most, most).astype(np.int16)
    return table


def _multipliers(ratio: Doubles) -> tuple[Int32s, int]:
    """One shift for the layer, and for each output the multiplier under it."""
    shift = min(62, 30 - math.floor(math.log2(float(ratio.max()))))
    whole = np.rint(ratio * 2.0**shift)
    if whole.max() > INT32:
        shift -= 1
        whole = np.rint(ratio * 2.0**shift)
    assert shift >= _SHIFT
    return whole.astype(np.int32), shift


def _squash(executor: Executor) -> tuple[float, Squash]:
    action = executor.spec.action
    if not isinstance(action, BoxSpec) or not action.bounded:
        raise SpecError(f"A squashed head needs finite bounds; they are {action}.")
    low, high = np.asarray(action.low), np.asarray(action.high)
    size = max(float(np.abs([low, high]).max()), _TINY)
    step = 2.0 ** (math.ceil(math.log2(size)) - 22)
    centre = np.rint((low + high) / 2 / step)
    half = np.rint((high - low) / 2 / step * (32768 / INT16))
    return step, Squash(centre.astype(np.int32), half.astype(np.int32))
