"""From an executor in floats to one in integers, after training.

Observations pass through the float executor once, to see how large its numbers become; nothing is
trained. Weights become int8 with a step for each output (Jacob et al. 2018, arXiv:1712.05877),
activations int16, and no sum can overflow.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from agentkd.deploy.int8.grids import INT16, INT32, Gated, Grid, Plain, Stage, active, stages
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
    Quantised,
    Squash,
    places,
)
from agentkd.deploy.int8.rounding import Doubles
from agentkd.errors import NumbersError, SpecError
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Activation, Conv, Dense, kind
from agentkd.executors.plan import normaliser, steps
from agentkd.spec import BoxSpec
from agentkd.types import Floats

_DRAWN = 4096
_EPISODE = 128
_OUT = 2**24 - 1
"""The last layer's integers are exact as float32."""
_SHIFT = 32
"""The least shift: what is below the high word of the product is only rounded."""
_TINY = 1e-30
_PIXELS = 1 << 23
_FEWEST = 16


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

    Args:
        executor: The executor in floats.
        obs: Observations to calibrate with, (batch, obs), best those of its own episodes. By
            default they are drawn as the normaliser describes them.
        starts: For an executor with a memory, 1 where an episode begins, else 0, (batch,). By
            default given ones are one episode.

    Raises:
        SpecError: If the observations have another shape, there are none, or a layer has no integer
            form.
        NumbersError: If a weight or an observation is NaN or infinite, or a layer has too many
            inputs for int32 sums.
    """
    names, found = _stages(executor, obs, starts)
    layers = []
    for index, stage in enumerate(found):
        if index + 1 < len(found):
            after = found[index + 1].entry
            most, step = after.most, after.step
        elif executor.head == "squashed":
            most, step = INT16, 1.0 / INT16
        else:
            most, step = _OUT, _open_step(stage.entry)
        layers.append(_integers(stage, names[index], most, step))
    squash = None
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
        layers=tuple(layers),
        head=executor.head,
        step=step,
        squash=squash,
        version=executor.version,
    )


def rounded(executor: Executor, obs: Floats) -> tuple[Executor, list[Floats]]:
    """The executor in floats that has the weights and biases of its integer form.

    Args:
        executor: An executor of dense layers and convolutions.
        obs: Observations to calibrate with, (batch, obs).

    Returns:
        That executor, and for each layer its outputs' steps, (out,).

    Raises:
        SpecError: As `quantise`, or if the executor has a memory.
        NumbersError: As `quantise`.
    """
    layers, units = [], []
    _, found = _stages(executor, obs, None)
    for layer, stage in zip(executor.layers, found, strict=True):
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


def _stages(
    executor: Executor, obs: Floats | None, starts: Floats | None
) -> tuple[list[Activation], list[Stage]]:
    """Each layer's activation, the head's counted in, and what calibration found."""
    if not np.isfinite(executor.vector()).all():
        raise NumbersError("An executor with NaN or infinite weights has no integers.")
    last = executor.layers[-1]
    ends = last.activation if isinstance(last, Dense) else f"a {kind(last)} layer"
    if ends != "none":
        raise SpecError(
            f"The executor ends in {ends!r}; only a linear dense layer has an integer form there."
        )
    names = [_activation(layer) for layer in executor.layers]
    if executor.head == "squashed":
        names[-1] = "tanh"
    return names, stages(executor, names, *_seen(executor, obs, starts))


def _activation(layer: object) -> Activation:
    return layer.activation if isinstance(layer, Dense | Conv) else "none"


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


def _integers(stage: Stage, activation: Activation, most: int, step: float) -> Integers:
    match stage:
        case Plain():
            dense = _dense(stage, activation, most, step)
            return IntConv(dense, stage.dims) if stage.dims else dense
        case Gated():
            return _gru(stage)


def _dense(stage: Plain, activation: Activation, most: int, step: float) -> IntLayer:
    low, high, table, unit = -most, most, None, step
    if activation == "relu":
        low = 0
    elif activation != "none":
        unit = stage.inner / INT16
        low, high = -INT16 - 1, INT16
        table = _table(active(activation, _ends(unit)), step, most)
    return _layer(stage.entry, unit, low, high, table, activation)


def _gru(stage: Gated) -> IntGru:
    width = len(stage.hidden.unit) // 3
    gates, new = stage.sigmoid / INT16, stage.tanh / INT16
    unit = np.repeat([gates, gates, new], width)
    inputs, hidden = (
        _layer(grid, unit, -GATE, GATE, None, "none") for grid in (stage.entry, stage.hidden)
    )
    sigmoid = 0.5 * np.tanh(0.5 * _ends(gates)) + 0.5
    tanh = active("tanh", _ends(new))
    return IntGru(
        inputs=inputs,
        hidden=hidden,
        # 1 itself is not an int16 in this unit.
        sigmoid=_table(sigmoid, 1.0 / 32768, INT16),
        tanh=_table(tanh, 1.0 / INT16, INT16),
    )


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
