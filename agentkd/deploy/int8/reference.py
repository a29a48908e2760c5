"""An executor in integers, evaluated by NumPy: what every target must equal bit by bit.

`docs/reference/int8.md` is the specification; the section numbers in this file are its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from agentkd import dists
from agentkd.dists import bounds
from agentkd.errors import NumbersError, SpecError
from agentkd.executors.executor import Head, distribution, one_action
from agentkd.executors.layers import Activation
from agentkd.spec import BoxSpec, Spec
from agentkd.types import ActionDist, Floats, Point, Policy, RecurrentPolicy, State

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

    Attributes:
        weight: int8 in [-127, 127], (out, in).
        bias: int32, (out,).
        multiplier: int32, not negative, (out,).
        shift: By how many bits the 64-bit product goes right, 32 to 62.
        low: The smallest possible result.
        high: The greatest.
        table: The activation by table, int16, (257,); None where clamping is all.
        activation: Which activation that is.
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

    Attributes:
        dense: What is done to one patch.
        dims: Patches down and across, outputs, kernel, channels, how far apart rows, columns and
            channels lie, stride: the integers that the kernel takes.
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

    Attributes:
        inputs: Gates r, z, n of the input, without a table.
        hidden: The same of the memory.
        sigmoid: The table of r and z, 0 to 32767 in steps of 1/32768.
        tanh: The table of n, in steps of 1/32767.
    """

    inputs: IntLayer
    hidden: IntLayer
    sigmoid: Int16s
    tanh: Int16s

    @property
    def out(self) -> int:
        """How many integers it gives, and how many it remembers."""
        return int(self.hidden.weight.shape[1])


Integers = IntLayer | IntConv | IntGru
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

    Attributes:
        architecture: As the float executor's.
        spec: The environment it is for.
        mean: Subtracted from each observation, float32: one for each number, or for each channel of
            an image.
        gain: Multiplies the difference, float32, as many: 256 steps of the input each.
        apart: Number i of an observation has those of place (i // apart) % len(mean).
        limit: The input stays within [-limit, limit].
        layers: The network, first to last; the last one is dense.
        head: How the last layer's integers become an action.
        step: What one unit of the outputs is worth, a power of two.
        squash: For the head "squashed", else None.
        version: The float executor's.
    """

    architecture: str
    spec: Spec
    mean: Floats
    gain: Floats
    apart: int
    limit: int
    layers: tuple[Integers, ...]
    head: Head
    step: float
    squash: Squash | None
    version: int = 0

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights alone, unpadded."""
        return sum(each.weight.size for each in dense_parts(self.layers))

    @property
    def last(self) -> IntLayer:
        """The last layer."""
        layer = self.layers[-1]
        assert isinstance(layer, IntLayer)
        return layer

    @property
    def memory(self) -> int:
        """How many integers it remembers from tick to tick; 0 for most."""
        return sum(each.out for each in self.layers if isinstance(each, IntGru))

    @property
    def policy(self) -> Policy | RecurrentPolicy:
        """What answers batches: itself, or with a memory a `RecurrentPolicy`."""
        return RememberingIntegers(self) if self.memory else self

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
        """The last layer's integers for (batch, obs), and the memory after.

        Args:
            obs: (batch, obs).
            state: The memory before, (batch, memory); zeros where an episode begins.
        """
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


@final
class RememberingIntegers:
    """An executor in integers with a memory, as a `RecurrentPolicy`.

    Args:
        quantised: The executor.
    """

    def __init__(self, quantised: Quantised) -> None:
        self._quantised = quantised

    def initial_state(self, batch: int) -> State:
        """The memory that an episode starts with: zeros, (batch, memory)."""
        # Whole numbers within ±32767: float32 holds them exactly.
        return (np.zeros((batch, self._quantised.memory), np.float32),)

    def __call__(self, obs: Floats, state: State, /) -> tuple[ActionDist, State]:
        """Answer for observations (batch, obs) and give the memory that follows."""
        integers, after = self._quantised.advance(obs, state[0].astype(np.int16))
        return self._quantised.distribution(integers), (after.astype(np.float32),)


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
    """(acc · multiplier + 2^(shift-1)) >> shift, then clamped (section 3.2).

    Args:
        acc: Accumulators, (…, out); they fit int32.
        multiplier: (out,).
        shift: 32 to 62; the shift keeps the sign, so halves are rounded up.
        low: The least number that comes of it.
        high: The greatest.
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
    gates = lookup(layer.sigmoid, _within(given[:, : 2 * width] + kept[:, : 2 * width]))
    reset, update = gates[:, :width], gates[:, width:]
    let = (reset * kept[:, 2 * width :] + (1 << 14)) >> 15
    new = lookup(layer.tanh, _within(given[:, 2 * width :] + let))
    after: Int64s = new + ((update * (h - new) + (1 << 14)) >> 15)
    return after.astype(np.int32)


def _within(x: Int64s) -> Int64s:
    inside: Int64s = np.clip(x, -32768, 32767)
    return inside
