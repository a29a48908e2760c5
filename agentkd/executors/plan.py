"""An executor's layers as the C kernels take them: small integers and padded arrays.

The native form, the generated C and `model.akx` are made of the same steps. What each kind's
integers and arrays mean stands in `c/akd_kernels.h`, beside the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

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
    Past,
    Pool,
    Stack,
    Tokens,
    image,
    kind,
    memory,
    sizes,
    tensors,
    width,
)
from agentkd.spec import BoxSpec, Spec
from agentkd.types import Floats

ACTIVATIONS = {"none": 0, "relu": 1, "tanh": 2, "silu": 3, "elu": 4}
HEADS = {"categorical": 0, "multicategorical": 1, "bernoulli": 2, "squashed": 3, "clipped": 4}
KINDS = {
    "dense": 0,
    "conv": 1,
    "tokens": 2,
    "attention": 3,
    "pool": 4,
    "gru": 5,
    "lstm": 6,
    "stack": 7,
    "past": 8,
}
"""Numbers of activations, heads and kinds of layers in C and in `model.akx`."""
BLOCK = 4
"""Outputs that the portable kernels sum side by side."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One layer for the kernels: what it takes, gives and remembers, in numbers.

    `dims` and `arrays` are what its kernel takes; the arrays are float32, padded to whole blocks.
    It writes `room` floats, its outputs with their padding, and needs `work` floats besides.
    """

    kind: str
    inputs: int
    out: int
    memory: int
    dims: tuple[int, ...]
    arrays: tuple[Floats, ...]
    room: int
    work: int


class Rooms(NamedTuple):
    """The floats that kernels need: each of two buffers that layers use in turn, and besides."""

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


def rooms(executor: Executor, block: int, laid: tuple[Step, ...] = ()) -> Rooms:
    """How much memory an executor needs in C; `laid` are its steps, if they are there."""
    laid = laid or steps(executor, block)
    widest = max(up(executor.spec.obs.size, block), *(step.room for step in laid))
    return Rooms(widest, max(step.work for step in laid))


def up(n: int, block: int) -> int:
    """`n` rounded up to whole blocks."""
    return -(-n // block) * block


def _step(layer: Layer, block: int) -> Step:
    inputs, out = sizes(layer)
    wide, dims, work = width(layer), _dims(layer), 0
    # Only the last patch's or token's outputs are written in whole blocks.
    room = out - wide + up(wide, block)
    match layer:
        case Conv():
            work = layer.weight[0].size
        case Attention():
            room = out
            work = layer.tokens * (up(3 * wide, block) + 1) + 2 * up(wide, block)
            work += up(len(layer.up.bias), block)
        case Pool():
            room = out
        case Gru() | Lstm():
            room, work = out, 2 * up(len(layer.inputs.bias), block)
        case Stack() | Past():
            room = out
    arrays = tuple(_arrays(layer, block))
    return Step(kind(layer), inputs, out, memory(layer), dims, arrays, room, work)


def _dims(layer: Layer) -> tuple[int, ...]:
    """The integers that a layer's kernel takes."""
    match layer:
        case Dense():
            return (*sizes(layer), ACTIVATIONS[layer.activation])
        case Conv():
            height, across, channels = layer.shape
            # How far apart rows, columns and channels lie.
            apart = (across * channels, channels, 1)
            if layer.channels_first:
                apart = (across, 1, height * across)
            numbers = (len(layer.bias), layer.weight.shape[1], channels, *apart, layer.stride)
            return (*layer.grid, *numbers, ACTIVATIONS[layer.activation])
        case Tokens():
            return layer.weight.shape
        case Attention():
            return (layer.tokens, width(layer), layer.heads, len(layer.up.bias))
        case Pool():
            return (layer.tokens, width(layer))
        case Gru() | Lstm():
            return sizes(layer)
        case Stack():
            return (layer.size, layer.count)
        case Past():
            return (layer.size, layer.count, layer.lag, layer.width, layer.actions)


def _arrays(part: Any, block: int) -> list[Floats]:
    """The arrays of a layer or of a part of it, in the order of its fields."""
    match part:
        case Dense():
            wide = np.zeros((part.weight.shape[1], up(len(part.bias), block)), np.float32)
            long = np.zeros(wide.shape[1], np.float32)
            wide[:, : len(part.bias)], long[: len(part.bias)] = part.weight.T, part.bias
            return [wide, long]
        case Conv():
            return _arrays(part.dense, block)
        case Norm():
            return [np.asarray(each, np.float32) for each in (part.gain, part.bias)]
        case Tokens():
            each = map(Dense, part.weight, part.bias)
            weights, biases = zip(*(_arrays(token, block) for token in each), strict=True)
            return [np.stack(weights), np.stack(biases)]
    parts = (getattr(part, field.name) for field in fields(part))
    return [
        array for each in parts if isinstance(each, Dense | Norm) for array in _arrays(each, block)
    ]


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
    found = image(executor.layers)
    if found is None:
        return Normaliser(executor.mean, executor.scale)
    height, across, channels, first = found
    apart = height * across if first else 1
    place = np.arange(executor.spec.obs.size) // apart % channels
    each = np.arange(channels) * apart
    mean, scale = executor.mean[each], executor.scale[each]
    if (mean[place] == executor.mean).all() and (scale[place] == executor.scale).all():
        return Normaliser(mean, scale, apart)
    return Normaliser(executor.mean, executor.scale)


def ctype(spec: Spec) -> str:
    """The type of an action's numbers in C."""
    return "float" if isinstance(spec.action, BoxSpec) else "int32_t"
