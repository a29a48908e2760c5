"""An executor's layers as the C kernels take them: small integers and padded arrays.

The native form, the generated C and `model.akx` are made of the same steps. What each kind's
integers and arrays mean stands in `c/akd_kernels.h`, beside the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agentkd.executors.executor import Executor
from agentkd.executors.layers import (
    Attention,
    Conv,
    Dense,
    Gru,
    Layer,
    Lstm,
    Norm,
    Pool,
    Tokens,
    kind,
    memory,
    sizes,
    tensors,
)
from agentkd.types import Floats

ACTIVATIONS = {"none": 0, "relu": 1, "tanh": 2, "silu": 3, "elu": 4}
HEADS = {"categorical": 0, "multicategorical": 1, "bernoulli": 2, "squashed": 3, "clipped": 4}
KINDS = {"dense": 0, "conv": 1, "tokens": 2, "attention": 3, "pool": 4, "gru": 5, "lstm": 6}
"""Numbers of activations, heads and kinds of layers in C and in `model.akx`."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One layer for the kernels.

    Attributes:
        kind: The layer's, such as "conv".
        inputs: How many numbers it takes.
        out: How many it gives.
        memory: How many it remembers.
        dims: The integers that its kernel takes.
        arrays: The arrays that its kernel takes, float32, padded to whole blocks.
        room: How many floats it writes where it gives: `out` and its padding.
        work: How many floats it needs besides.
    """

    kind: str
    inputs: int
    out: int
    memory: int
    dims: tuple[int, ...]
    arrays: tuple[Floats, ...]
    room: int
    work: int


@dataclass(frozen=True, slots=True)
class Rooms:
    """How much memory the kernels need, in floats.

    Attributes:
        width: Of each of the two buffers that layers read and write in turn.
        work: Of what layers need besides.
    """

    width: int
    work: int


def steps(executor: Executor, block: int) -> tuple[Step, ...]:
    """Lay an executor out for kernels that sum `block` outputs side by side."""
    return tuple(_step(layer, block) for layer in executor.layers)


def padded_size(executor: Executor, block: int) -> int:
    """At most so many floats do the padded arrays of an executor take together."""
    arrays = (each for layer in executor.layers for each in tensors(layer).values())
    # The axis of outputs is the first, and of tokens' weights the second.
    return sum(
        each.size + block * each.size // each.shape[-2 if each.ndim == 3 else 0] for each in arrays
    )


def rooms(executor: Executor, block: int) -> Rooms:
    """How much memory an executor needs in C."""
    laid = steps(executor, block)
    width = max(up(executor.spec.obs.size, block), *(step.room for step in laid))
    return Rooms(width, max(step.work for step in laid))


def up(n: int, block: int) -> int:
    """`n` rounded up to whole blocks."""
    return -(-n // block) * block


def padded(weight: Floats, bias: Floats, block: int) -> tuple[Floats, Floats]:
    """Weights (out, in) laid by input, (in, whole blocks), and the bias as long."""
    out, inputs = weight.shape
    wide = np.zeros((inputs, up(out, block)), np.float32)
    wide[:, :out] = weight.T
    long = np.zeros(up(out, block), np.float32)
    long[:out] = bias
    return wide, long


def _step(layer: Layer, block: int) -> Step:
    dims, arrays, room, work = _laid(layer, block)
    inputs, out = sizes(layer)
    return Step(kind(layer), inputs, out, memory(layer), dims, tuple(arrays), room, work)


def _laid(layer: Layer, block: int) -> tuple[tuple[int, ...], list[Floats], int, int]:
    match layer:
        case Dense():
            inputs, out = sizes(layer)
            arrays = _dense(layer, block)
            dims: tuple[int, ...] = (inputs, out, ACTIVATIONS[layer.activation])
            return dims, arrays, up(out, block), 0
        case Conv():
            return _conv(layer, block)
        case Tokens():
            tokens, width, piece = layer.weight.shape
            pairs = zip(layer.weight, layer.bias, strict=True)
            each = [padded(weight, bias, block) for weight, bias in pairs]
            weights, biases = (np.stack(kind) for kind in zip(*each, strict=True))
            room = (tokens - 1) * width + up(width, block)
            return (tokens, width, piece), [weights, biases], room, 0
        case Attention():
            return _attention(layer, block)
        case Pool():
            width = len(layer.norm.gain)
            return (layer.tokens, width), _norm(layer.norm), width, 0
        case Gru() | Lstm():
            inputs, width = sizes(layer)
            arrays = _dense(layer.inputs, block) + _dense(layer.hidden, block)
            gates = len(layer.inputs.bias)
            return (inputs, width), arrays, width, 2 * up(gates, block)


def _dense(dense: Dense, block: int) -> list[Floats]:
    return list(padded(dense.weight, dense.bias, block))


def _norm(norm: Norm) -> list[Floats]:
    return [np.asarray(norm.gain, np.float32), np.asarray(norm.bias, np.float32)]


def _conv(layer: Conv, block: int) -> tuple[tuple[int, ...], list[Floats], int, int]:
    height, width, channels = layer.shape
    down, across = layer.grid
    kernel, out = layer.weight.shape[1], len(layer.bias)
    # How far apart rows, columns and channels lie.
    apart = (width, 1, height * width)
    row, column, channel = apart if layer.channels_first else (width * channels, channels, 1)
    dims = (
        down,
        across,
        out,
        kernel,
        channels,
        row,
        column,
        channel,
        layer.stride,
        ACTIVATIONS[layer.activation],
    )
    room = (down * across - 1) * out + up(out, block)
    return dims, _dense(layer.dense, block), room, kernel * kernel * channels


def _attention(layer: Attention, block: int) -> tuple[tuple[int, ...], list[Floats], int, int]:
    width, inner = len(layer.norm.gain), len(layer.up.bias)
    dims = (layer.tokens, width, layer.heads, inner)
    arrays = [
        *_norm(layer.norm),
        *_dense(layer.qkv, block),
        *_dense(layer.out, block),
        *_norm(layer.norm_after),
        *_dense(layer.up, block),
        *_dense(layer.down, block),
    ]
    wide = up(width, block)
    work = layer.tokens * (up(3 * width, block) + 1) + 2 * wide + up(inner, block)
    return dims, arrays, layer.tokens * width, work


@dataclass(frozen=True, slots=True, eq=False)
class Normaliser:
    """Mean and scale as C takes them; an image's pixels share those of their channel.

    Number i of an observation has those of place (i / apart) mod len(mean).
    """

    mean: Floats
    scale: Floats
    apart: int = 1


def normaliser(executor: Executor) -> Normaliser:
    """Give an executor's normaliser, one pair a channel where that is all there is."""
    first = executor.layers[0]
    if not isinstance(first, Conv):
        return Normaliser(executor.mean, executor.scale)
    height, width, channels = first.shape
    apart = height * width if first.channels_first else 1
    place = np.arange(executor.spec.obs.size) // apart % channels
    each = np.arange(channels) * apart
    mean, scale = executor.mean[each], executor.scale[each]
    if (mean[place] == executor.mean).all() and (scale[place] == executor.scale).all():
        return Normaliser(mean, scale, apart)
    return Normaliser(executor.mean, executor.scale)
