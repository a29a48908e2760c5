"""An executor in integers, evaluated by NumPy: what every target must equal bit by bit.

`docs/int8.md` is the specification; the section numbers in this file are its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentkd import dists
from agentkd.dists import bounds
from agentkd.errors import NumbersError, SpecError
from agentkd.executors.frozen import Head, distribution, one_action
from agentkd.executors.layers import Activation
from agentkd.spec import BoxSpec, Spec
from agentkd.types import ActionDist, Floats, Point

Int8s = NDArray[np.int8]
Int16s = NDArray[np.int16]
Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]

TABLE = 257
"""Entries of an activation's table: 256 intervals have 257 ends."""
INPUT_BITS = 8
"""Bits below the point of the input before it is rounded."""


@dataclass(frozen=True, slots=True, eq=False)
class IntLayer:
    """y = activation(requantise(weight x + bias)) in integers (sections 3 and 4).

    Attributes:
        weight: int8 in [-127, 127], (out, in).
        bias: int32, (out,).
        multiplier: int32, not negative, (out,).
        shift: By how many bits the 64-bit product goes right, 32 to 62.
        low: The least number that may come of it.
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


@dataclass(frozen=True, slots=True, eq=False)
class Squash:
    """From tanh in 1/32767 to actions: centre + half · t in units of a step (5.2)."""

    centre: Int32s
    half: Int32s


@dataclass(frozen=True, slots=True, eq=False)
class Quantised:
    """An executor in integers. It is a `Policy`.

    Attributes:
        architecture: As the float executor's.
        spec: The environment it is for.
        mean: Subtracted from each observation, float32, (obs,).
        gain: Multiplies the difference, float32, (obs,): 256 steps of the input each.
        limit: The input stays within [-limit, limit].
        layers: The network, first to last.
        head: How the last layer's integers become an action.
        step: What one unit of the outputs is worth, a power of two.
        squash: For the head "squashed", else None.
        version: The float executor's.
    """

    architecture: str
    spec: Spec
    mean: Floats
    gain: Floats
    limit: int
    layers: tuple[IntLayer, ...]
    head: Head
    step: float
    squash: Squash | None
    version: int = 0

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights alone, unpadded."""
        return sum(layer.weight.size for layer in self.layers)

    def inputs(self, obs: Floats) -> Int16s:
        """Observations (batch, obs) in integers (section 2).

        Raises:
            SpecError: If they have another shape.
            NumbersError: If they hold NaN or infinity.
        """
        if obs.ndim != 2 or obs.shape[1] != len(self.mean):
            raise SpecError(
                f"Observations have shape {obs.shape}, not (batch, {len(self.mean)})."
            )
        if not np.isfinite(obs).all():
            raise NumbersError("The observation holds NaN or infinity.")
        most = np.float32(self.limit << INPUT_BITS)
        with np.errstate(over="ignore", invalid="ignore"):
            fine = (obs.astype(np.float32) - self.mean) * self.gain
        fine = np.where(fine < most, fine, most)
        fine = np.where(fine > -most, fine, -most)
        half = 1 << (INPUT_BITS - 1)
        whole = (fine.astype(np.int32) + half) >> INPUT_BITS
        return whole.astype(np.int16)

    def integers(self, obs: Floats) -> Int32s:
        """The last layer's integers for observations (batch, obs): (batch, out)."""
        x: Int32s = self.inputs(obs).astype(np.int32)
        for layer in self.layers:
            x = forward(layer, x)
        if self.squash is not None:
            product = x.astype(np.int64) * self.squash.half
            x = (self.squash.centre + ((product + (1 << 14)) >> 15)).astype(np.int32)
        return x

    def outputs(self, obs: Floats) -> Floats:
        """The integers in units of the float executor's outputs or actions, exactly."""
        return self.integers(obs).astype(np.float32) * np.float32(self.step)

    def __call__(self, obs: Floats, /) -> ActionDist:
        """Give the action distribution for observations (batch, obs)."""
        outputs = self.outputs(obs)
        if self.head != "squashed":
            return distribution(self.head, outputs, self.spec)
        assert isinstance(self.spec.action, BoxSpec)
        low, high = bounds(self.spec.action)
        return Point(np.clip(outputs, low, high))

    def act(self, obs: Any) -> Any:
        """Decide for one flat observation (obs,): an int, or an array of its own shape.

        Raises:
            SpecError: If it has another shape.
            NumbersError: If it holds NaN or infinity.
        """
        flat = np.asarray(obs, np.float32)
        return one_action(dists.mode(self(flat[None]), self.spec.action), self.spec)


def requantise(
    acc: Int64s, multiplier: Int32s, shift: int, low: int, high: int
) -> Int64s:
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
    """Evaluate a layer for inputs (batch, in): (batch, out)."""
    # Integers below 2^53 are exact in float64, which has a fast matrix product.
    weight = layer.weight.T.astype(np.float64)
    acc = (x.astype(np.float64) @ weight).astype(np.int64) + layer.bias
    y = requantise(acc, layer.multiplier, layer.shift, layer.low, layer.high)
    if layer.table is not None:
        y = lookup(layer.table, y)
    return y.astype(np.int32)
