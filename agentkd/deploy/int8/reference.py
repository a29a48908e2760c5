"""An executor in integers, evaluated by NumPy: what every target must equal bit by bit.

`docs/reference/int8.md` is the specification; the section numbers in this file are its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentkd import dists
from agentkd.dists import bounds
from agentkd.errors import NumbersError, SpecError
from agentkd.executors.arithmetic import advance
from agentkd.executors.executor import Head, distribution, one_action
from agentkd.executors.layers import Activation, Past, memory
from agentkd.executors.recurrent import RecurrentExecutor
from agentkd.spec import BoxSpec, Spec
from agentkd.types import ActionDist, Floats, Point, Policy, RecurrentPolicy
from agentkd.views import pick

Int8s = NDArray[np.int8]
Int16s = NDArray[np.int16]
Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]

TABLE = 257
"""Entries of an activation's table: 256 intervals have 257 ends."""
INPUT_BITS = 8
"""Bits below the point of the input before it is rounded."""
GATE = 2**30 - 1
"""What gates are sums of stays within ±GATE, so that two of them fit int32."""
_PIXELS = 1 << 22
"""Numbers of patches that are laid out at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class IntLayer:
    """y = activation(requantise(weight x + bias)) in integers (sections 3 and 4).

    `weight` is (out, in), in [-127, 127]; `bias` and `multiplier`, which is not negative, are
    (out,). The 64-bit product goes right by `shift` bits, 32 to 62, and results are `low` to
    `high`. `table`, (257,), is the activation; None where clamping is all.
    """

    weight: Int8s
    bias: Int32s
    multiplier: Int32s
    shift: int
    low: int
    high: int
    table: Int16s | None
    activation: Activation

    @property
    def out(self) -> int:
        """How many integers it gives."""
        return len(self.bias)


@dataclass(frozen=True, slots=True, eq=False)
class IntConv:
    """A dense layer on every patch of an image (section 6).

    `dims` are the integers that the kernel takes: patches down and across, outputs, kernel,
    channels, how far apart rows, columns and channels lie, stride.
    """

    dense: IntLayer
    dims: tuple[int, ...]

    @property
    def out(self) -> int:
        """How many integers it gives."""
        down, across, out = self.dims[:3]
        return down * across * out


@dataclass(frozen=True, slots=True, eq=False)
class IntGru:
    """A gated recurrent unit whose memory is int16 in steps of 1/32767 (section 7).

    `inputs` and `hidden` give the gates r, z, n, without tables. `sigmoid`, the table of r and z,
    holds 0 to 32767 in steps of 1/32768; `tanh`, that of n, steps of 1/32767.
    """

    inputs: IntLayer
    hidden: IntLayer
    sigmoid: Int16s
    tanh: Int16s

    @property
    def out(self) -> int:
        """How many integers it gives, and how many it remembers."""
        return int(self.hidden.weight.shape[1])


@dataclass(frozen=True, slots=True)
class IntStack:
    """The last `count` inputs of `size` integers, oldest first (section 8)."""

    count: int
    size: int

    @property
    def out(self) -> int:
        """How many integers it gives."""
        return self.count * self.size


Integers = IntLayer | IntConv | IntGru | IntStack | Past
"""A layer in integers."""


@dataclass(frozen=True, slots=True, eq=False)
class Squash:
    """From tanh in 1/32767 to actions: centre + half · t in units of a step (5.2)."""

    centre: Int32s
    half: Int32s


@dataclass(frozen=True, slots=True, eq=False)
class Quantised:
    """An executor in integers. Without a memory it is a `Policy`.

    With one, `policy` is a `RecurrentPolicy`; an episode begins with zeros.
    """

    architecture: str
    spec: Spec
    mean: Floats
    """Subtracted from each observation: one for each number, or for each channel of an image."""
    gain: Floats
    """Multiplies the difference, as many: 256 steps of the input each."""
    apart: int
    """Number i of an observation has those of place (i // apart) % len(mean)."""
    limit: int
    """The input stays within [-limit, limit]."""
    layers: tuple[Integers, ...]
    """The network, first to last; the last one is dense."""
    head: Head
    step: float
    """What one unit of the outputs is worth, a power of two."""
    squash: Squash | None
    """For the head "squashed", else None."""
    version: int = 0

    @property
    def last(self) -> IntLayer:
        """The last layer."""
        layer = self.layers[-1]
        assert isinstance(layer, IntLayer)
        return layer

    @property
    def memory(self) -> int:
        """How many integers it remembers from tick to tick; 0 for most."""
        return sum(map(remembered, self.layers))

    @property
    def policy(self) -> Policy | RecurrentPolicy:
        """What answers batches: itself, or with a memory a `RecurrentPolicy`."""
        return RecurrentExecutor(self.spec, self.memory, self.answer) if self.memory else self

    def per_number(self, values: Floats) -> Floats:
        """Mean or gain for each number of an observation, (obs,)."""
        place = np.arange(self.spec.obs.size) // self.apart % len(values)
        return np.asarray(values[place], np.float32)

    def inputs(self, obs: Floats) -> Int16s:
        """Observations (batch, obs) in integers (section 2).

        Raises:
            SpecError: If they have another shape.
            NumbersError: If they hold NaN or infinity.
        """
        size = self.spec.obs.size
        if obs.ndim == 2:
            obs = pick(self.spec.obs, obs)
        if obs.ndim != 2 or obs.shape[1] != size:
            raise SpecError(f"Observations have shape {obs.shape}, not (batch, {size}).")
        if not np.isfinite(obs).all():
            raise NumbersError("The observation holds NaN or infinity.")
        mean, gain = self.per_number(self.mean), self.per_number(self.gain)
        most = np.float32(self.limit << INPUT_BITS)
        with np.errstate(over="ignore", invalid="ignore"):
            fine = (obs.astype(np.float32) - mean) * gain
        fine = np.where(fine < most, fine, most)
        fine = np.where(fine > -most, fine, -most)
        half = 1 << (INPUT_BITS - 1)
        whole = (fine.astype(np.int32) + half) >> INPUT_BITS
        return whole.astype(np.int16)

    def advance(self, obs: Floats, state: Int16s) -> tuple[Int32s, Int16s]:
        """The last layer's integers for (batch, obs), and the memory, (batch, memory), after."""
        x: Int32s = self.inputs(obs).astype(np.int32)
        after, at = [], 0
        for layer in self.layers:
            match layer:
                case IntLayer():
                    x = forward(layer, x)
                case IntConv():
                    x = convolve(layer, x)
                case IntGru():
                    until = at + layer.out
                    x = remember(layer, x, state[:, at:until].astype(np.int32))
                    after.append(x.astype(np.int16))
                    at = until
                case IntStack():
                    until = at + remembered(layer)
                    x = np.concatenate([state[:, at:until].astype(np.int32), x], axis=1)
                    after.append(x[:, layer.size :].astype(np.int16))
                    at = until
                case Past():
                    until = at + remembered(layer)
                    # Whole numbers of 16 bits are exact as float32.
                    kept = state[:, at:until].astype(np.float32)
                    given, kept = advance(layer, x.astype(np.float32), kept)
                    x = given.astype(np.int32)
                    after.append(kept.astype(np.int16))
                    at = until
        if self.squash is not None:
            product = x.astype(np.int64) * self.squash.half
            x = (self.squash.centre + ((product + (1 << 14)) >> 15)).astype(np.int32)
        return x, np.concatenate(after, axis=1) if after else state

    def integers(self, obs: Floats) -> Int32s:
        """The last layer's integers for observations (batch, obs): (batch, out).

        With a memory they are a sequence, from no memory on.
        """
        if not self.memory:
            return self.advance(obs, np.zeros((len(obs), 0), np.int16))[0]
        state = np.zeros((1, self.memory), np.int16)
        out = np.empty((len(obs), self.last.out), np.int32)
        for tick in range(len(obs)):
            out[tick : tick + 1], state = self.advance(obs[tick : tick + 1], state)
        return out

    def outputs(self, obs: Floats) -> Floats:
        """The integers in units of the float executor's outputs or actions, exactly."""
        return self.integers(obs).astype(np.float32) * np.float32(self.step)

    def distribution(self, integers: Int32s) -> ActionDist:
        """Turn the last layer's integers, (batch, out), into an action distribution."""
        outputs = integers.astype(np.float32) * np.float32(self.step)
        if self.head != "squashed":
            return distribution(self.head, outputs, self.spec)
        assert isinstance(self.spec.action, BoxSpec)
        low, high = bounds(self.spec.action)
        return Point(np.clip(outputs, low, high))

    def __call__(self, obs: Floats, /) -> ActionDist:
        """Give the action distribution for observations (batch, obs).

        Raises:
            SpecError: If it has a memory; `policy` then takes one.
        """
        if self.memory:
            raise SpecError(
                f"{self.architecture} has a memory of {self.memory} integers: use "
                "`policy`, or `advance` with the memory."
            )
        return self.distribution(self.integers(obs))

    def answer(self, obs: Floats, state: Floats) -> tuple[ActionDist, Floats]:
        """The action distribution, and the memory after; it is in float32, which is exact."""
        integers, after = self.advance(obs, state.astype(np.int16))
        return self.distribution(integers), after.astype(np.float32)

    def actions(self, obs: Floats) -> Any:
        """What is done for observations (batch, obs); with a memory, a sequence."""
        return dists.mode(self.distribution(self.integers(obs)), self.spec.action)

    def act(self, obs: Any) -> Any:
        """Decide for one flat observation (obs,): an int, or an array of its own shape.

        Raises:
            SpecError: If it has another shape, or the executor has a memory.
            NumbersError: If it holds NaN or infinity.
        """
        flat = np.asarray(obs, np.float32)
        return one_action(dists.mode(self(flat[None]), self.spec.action), self.spec)


def remembered(layer: Integers) -> int:
    """How many integers a layer remembers from tick to tick."""
    match layer:
        case IntGru():
            return layer.out
        case IntStack():
            return layer.out - layer.size
        case Past():
            return memory(layer)
        case _:
            return 0


def dense_parts(layers: tuple[Integers, ...]) -> list[IntLayer]:
    """The dense layers that layers are, or have inside, first to last."""
    parts: list[IntLayer] = []
    for layer in layers:
        match layer:
            case IntLayer():
                parts.append(layer)
            case IntConv():
                parts.append(layer.dense)
            case IntGru():
                parts += [layer.inputs, layer.hidden]
    return parts


def requantise(acc: Int64s, multiplier: Int32s, shift: int, low: int, high: int) -> Int64s:
    """(acc · multiplier + 2^(shift-1)) >> shift, clamped to low and high (section 3.2).

    Accumulators, (…, out), fit int32; multipliers are (out,). The shift, 32 to 62, keeps the sign,
    so halves are rounded up.
    """
    product = acc * multiplier.astype(np.int64)
    rounded: Int64s = (product + (np.int64(1) << np.int64(shift - 1))) >> shift
    return np.clip(rounded, low, high)


def lookup(table: Int16s, x: Int64s) -> Int64s:
    """Read a table at int16 places, straight lines between its entries (section 4)."""
    place = x + 32768
    index, rest = place >> 8, place & 255
    wide = table.astype(np.int64)
    left = wide[index]
    line: Int64s = left + (((wide[index + 1] - left) * rest + 128) >> 8)
    return line


def forward(layer: IntLayer, x: Int32s) -> Int32s:
    """Evaluate a dense layer for inputs (…, in): (…, out)."""
    # Integers below 2^53 are exact in float64, which has a fast matrix product.
    weight = layer.weight.T.astype(np.float64)
    acc = (x.astype(np.float64) @ weight).astype(np.int64) + layer.bias
    y = requantise(acc, layer.multiplier, layer.shift, layer.low, layer.high)
    if layer.table is not None:
        y = lookup(layer.table, y)
    return y.astype(np.int32)


def places(dims: Sequence[int]) -> NDArray[np.intp]:
    """Where each patch's numbers lie in an image, (patches, kernel² channels)."""
    down, across, _, kernel, channels, row, column, channel, step = dims
    corner = row * np.arange(down)[:, None] + column * np.arange(across)
    side = np.arange(kernel)
    pixel = row * side[:, None] + column * side
    within = pixel[:, :, None] + channel * np.arange(channels)
    return step * corner.reshape(-1, 1) + within.reshape(1, -1)


def convolve(layer: IntConv, x: Int32s) -> Int32s:
    """Evaluate a convolution for flat images (batch, in): (batch, out)."""
    where = places(layer.dims)
    out = np.empty((len(x), layer.out), np.int32)
    rows = max(1, _PIXELS // where.size)
    for at in range(0, len(x), rows):
        made = forward(layer.dense, x[at : at + rows][:, where])
        out[at : at + rows] = made.reshape(len(made), -1)
    return out


def remember(layer: IntGru, x: Int32s, h: Int32s) -> Int32s:
    """What a unit remembers after inputs (batch, in), from (batch, width) before."""
    width = layer.out
    given = forward(layer.inputs, x).astype(np.int64)
    kept = forward(layer.hidden, h).astype(np.int64)
    sums = given[:, : 2 * width] + kept[:, : 2 * width]
    gates = lookup(layer.sigmoid, np.clip(sums, -32768, 32767))
    reset, update = gates[:, :width], gates[:, width:]
    let = (reset * kept[:, 2 * width :] + (1 << 14)) >> 15
    new = lookup(layer.tanh, np.clip(given[:, 2 * width :] + let, -32768, 32767))
    after: Int64s = new + ((update * (h - new) + (1 << 14)) >> 15)
    return after.astype(np.int32)
