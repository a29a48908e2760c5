"""What executors are built of: layers as frozen values, and their arithmetic in NumPy.

A layer takes rows of numbers, (batch, inputs), and gives rows, (batch, outputs). Images lie flat by
row, column and channel; tokens one after another. Layers with a memory also take and give rows of
it, (batch, memory).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np

from agentkd.errors import SpecError
from agentkd.sizes import MOST, is_whole
from agentkd.types import Floats

Activation = Literal["relu", "tanh", "silu", "elu", "none"]
EPSILON = 1e-5
"""Added to the variance in `Norm`, as everywhere in the field."""
MOST_WORK = 1 << 28
"""Multiplications that a layer may take for one observation."""

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Dense:
    """y = activation(weight x + bias); weight (out, in), bias (out,), float32."""

    weight: Floats
    bias: Floats
    activation: Activation = "none"


@dataclass(frozen=True, slots=True)
class Conv:
    """A dense layer on every patch of an image, without padding.

    Attributes:
        weight: (out, kernel, kernel, channels).
        bias: (out,).
        activation: After each.
        stride: Pixels from patch to patch.
        shape: Of the image it takes: height, width, channels.
        channels_first: Whether that image lies channel by channel.
    """

    weight: Floats
    bias: Floats
    activation: Activation
    stride: int
    shape: tuple[int, int, int]
    channels_first: bool = False

    @property
    def grid(self) -> tuple[int, int]:
        """How many patches there are, down and across."""
        kernel = self.weight.shape[1]
        height, width, _ = self.shape
        return (height - kernel) // self.stride + 1, (width - kernel) // self.stride + 1

    @property
    def dense(self) -> Dense:
        """What is done to one patch, its numbers by row, column and channel."""
        flat = self.weight.reshape(len(self.weight), -1)
        return Dense(flat, self.bias, self.activation)


@dataclass(frozen=True, slots=True)
class Norm:
    """Layer normalisation (Ba et al. 2016): gain and bias, both (width,)."""

    gain: Floats
    bias: Floats


@dataclass(frozen=True, slots=True)
class Tokens:
    """Cuts its input into equal pieces and makes each a token, by weights of its own.

    Attributes:
        weight: (tokens, width, piece).
        bias: (tokens, width); it also says which place a token has.
    """

    weight: Floats
    bias: Floats


@dataclass(frozen=True, slots=True)
class Attention:
    """A block of a Transformer with normalisation first (Xiong et al. 2020, fig. 1b).

    x += out(attention(norm(x))); x += down(relu(up(norm_after(x)))).

    Attributes:
        tokens: How many it takes.
        heads: How many attend side by side.
        norm: Before attention.
        qkv: Queries, keys and values at once, (3 width, width).
        out: What the heads found, back into the token, (width, width).
        norm_after: Before the dense pair.
        up: (inner, width), with relu.
        down: (width, inner).
    """

    tokens: int
    heads: int
    norm: Norm
    qkv: Dense
    out: Dense
    norm_after: Norm
    up: Dense
    down: Dense


@dataclass(frozen=True, slots=True)
class Pool:
    """The mean over tokens of each one's normalisation."""

    tokens: int
    norm: Norm


@dataclass(frozen=True, slots=True)
class Gru:
    """Gated recurrent unit, gates r, z, n in this order, as in cuDNN and torch.

    r = sigmoid(iᵣ + hᵣ), z = sigmoid(i_z + h_z), n = tanh(iₙ + r hₙ) and h = (1 − z) n + z h, with
    i = inputs(x) and h = hidden(h) (Cho et al. 2014, with the reset after the product).

    Attributes:
        inputs: (3 width, in).
        hidden: (3 width, width).
    """

    inputs: Dense
    hidden: Dense


@dataclass(frozen=True, slots=True)
class Lstm:
    """Long short-term memory, gates i, f, g, o in this order, as in torch.

    c = sigmoid(f) c + sigmoid(i) tanh(g), h = sigmoid(o) tanh(c), of inputs(x) + hidden(h) (Gers et
    al. 2000). Its memory is h, then c.

    Attributes:
        inputs: (4 width, in).
        hidden: (4 width, width).
    """

    inputs: Dense
    hidden: Dense


Layer = Dense | Conv | Tokens | Attention | Pool | Gru | Lstm


def sizes(layer: Layer) -> tuple[int, int]:
    """How many numbers a layer takes, and how many it gives.

    Raises:
        SpecError: If its arrays do not fit each other, are not float32, or it is larger than `MOST`
            numbers or `MOST_WORK` multiplications.
    """
    found = tensors(layer)
    shapes = {name: each.shape for name, each in found.items()}
    inputs, out, work, wanted = _measure(layer)
    for name, each in found.items():
        if shapes[name] != wanted.get(name) or each.dtype != np.float32:
            raise _misfit(layer, f"{name} is {each.dtype}, {wanted.get(name)} needed")
    if max(inputs, out) > MOST or work > MOST_WORK:
        raise _misfit(
            layer,
            f"{max(inputs, out):,} numbers and {work:,} multiplications; at most "
            f"{MOST:,} and {MOST_WORK:,}",
        )
    return inputs, out


def work(layer: Layer) -> int:
    """How many multiplications a layer takes for one observation.

    No buffer in any form of the layer is larger than this and the layer's numbers.
    """
    return _measure(layer)[2]


def _measure(layer: Layer) -> tuple[int, int, int, dict[str, tuple[int, ...]]]:
    """Numbers taken and given, multiplications, and the shapes of all arrays."""
    match layer:
        case Dense():
            out, inputs = _dims(layer, layer.weight, 2)
            return inputs, out, inputs * out, _dense_shapes("", out, inputs)
        case Conv():
            return _measure_conv(layer)
        case Tokens():
            tokens, width, piece = _dims(layer, layer.weight, 3)
            shapes = {"weight": (tokens, width, piece), "bias": (tokens, width)}
            return tokens * piece, tokens * width, tokens * width * piece, shapes
        case Attention():
            return _measure_attention(layer)
        case Pool():
            (width,) = _dims(layer, layer.norm.gain, 1)
            tokens = _count(layer, "tokens", layer.tokens)
            return tokens * width, width, tokens * width, _norm_shapes("norm.", width)
        case Gru() | Lstm():
            gates = 3 if isinstance(layer, Gru) else 4
            (_, inputs), (_, width) = (
                _dims(layer, each.weight, 2) for each in (layer.inputs, layer.hidden)
            )
            shapes = _dense_shapes("inputs.", gates * width, inputs)
            shapes |= _dense_shapes("hidden.", gates * width, width)
            return inputs, width, gates * width * (inputs + width), shapes


def _measure_conv(layer: Conv) -> tuple[int, int, int, dict[str, tuple[int, ...]]]:
    out, kernel, _, channels = _dims(layer, layer.weight, 4)
    stride = _count(layer, "stride", layer.stride)
    image = [_count(layer, "shape", each) for each in layer.shape]
    if len(image) != 3 or kernel > min(image[:2]):
        raise _misfit(layer, f"a kernel of {kernel} for an image of {layer.shape}")
    down, across = ((each - kernel) // stride + 1 for each in image[:2])
    patch = kernel * kernel * channels
    if down * across * patch > MOST:
        raise _misfit(layer, f"{down} x {across} patches of {patch} numbers")
    shapes = {"weight": (out, kernel, kernel, image[2]), "bias": (out,)}
    return math.prod(image), down * across * out, down * across * out * patch, shapes


def _measure_attention(layer: Attention) -> tuple[int, int, int, dict[str, tuple[int, ...]]]:
    (width,), (inner,) = (_dims(layer, each, 1) for each in (layer.norm.gain, layer.up.bias))
    tokens = _count(layer, "tokens", layer.tokens)
    heads = _count(layer, "heads", layer.heads)
    if width % heads:
        raise _misfit(layer, f"{heads} heads for a width of {width}")
    shapes = {
        **_norm_shapes("norm.", width),
        **_dense_shapes("qkv.", 3 * width, width),
        **_dense_shapes("out.", width, width),
        **_norm_shapes("norm_after.", width),
        **_dense_shapes("up.", inner, width),
        **_dense_shapes("down.", width, inner),
    }
    each = 4 * width * width + 2 * width * inner + 2 * tokens * width
    return tokens * width, tokens * width, tokens * each, shapes


def _dense_shapes(prefix: str, out: int, inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}weight": (out, inputs), f"{prefix}bias": (out,)}


def _norm_shapes(prefix: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}gain": (width,), f"{prefix}bias": (width,)}


def _dims(layer: Layer, array: Floats, count: int) -> tuple[int, ...]:
    """Give an array's sizes, of which there have to be `count`."""
    if array.ndim != count or not array.size:
        raise _misfit(layer, f"an array of {count} dimensions, none empty, is needed")
    return array.shape


def _count(layer: Layer, name: str, value: int) -> int:
    if not is_whole(value, 1, MOST):
        raise _misfit(layer, f"{name} is {value!r:.40}")
    return int(value)


def _misfit(layer: Layer, why: str) -> SpecError:
    shapes = {name: each.shape for name, each in tensors(layer).items()}
    return SpecError(f"A {kind(layer)} layer of shapes {shapes} cannot be: {why}.")


def kind(layer: Layer) -> str:
    """The layer's kind in a word, such as "dense"."""
    return type(layer).__name__.lower()


def memory(layer: Layer) -> int:
    """How many numbers a layer remembers from tick to tick."""
    match layer:
        case Gru():
            return int(layer.hidden.weight.shape[1])
        case Lstm():
            return 2 * int(layer.hidden.weight.shape[1])
        case _:
            return 0


def tensors(value: Any, prefix: str = "") -> dict[str, Floats]:
    """The arrays of a layer by name, such as "qkv.weight", in a fixed order."""
    out: dict[str, Floats] = {}
    for field in fields(value):
        each = getattr(value, field.name)
        if isinstance(each, np.ndarray):
            out[prefix + field.name] = each
        elif is_dataclass(each):
            out |= tensors(each, f"{prefix}{field.name}.")
    return out


def with_tensors(value: Value, arrays: Iterator[Floats]) -> Value:
    """The same layer with other arrays, taken in the order of `tensors`."""
    changed: dict[str, Any] = {}
    for field in fields(value):  # type: ignore[arg-type]
        each = getattr(value, field.name)
        if isinstance(each, np.ndarray):
            changed[field.name] = next(arrays)
        elif is_dataclass(each):
            changed[field.name] = with_tensors(each, arrays)
    return replace(value, **changed)  # type: ignore[type-var]


def activate(name: Activation, x: Floats) -> Floats:
    """Apply an activation, elementwise."""
    match name:
        case "relu":
            return np.maximum(x, 0.0)
        case "tanh":
            return np.tanh(x)
        case "silu":
            # Below -80 the exponential leaves float32; the result is 0 there anyway.
            return np.asarray(x / (1.0 + np.exp(-np.maximum(x, -80.0))), np.float32)
        case "elu":
            return np.where(x > 0, x, np.expm1(np.minimum(x, 0.0)))
        case "none":
            return x


def apply(layer: Layer, x: Floats) -> Floats:
    """What a layer without a memory gives for rows (batch, in): (batch, out)."""
    match layer:
        case Dense():
            return activate(layer.activation, x @ layer.weight.T + layer.bias)
        case Conv():
            return _conv(layer, x)
        case Tokens():
            pieces = x.reshape(len(x), len(layer.weight), 1, -1)
            made = (pieces @ layer.weight.transpose(0, 2, 1)).squeeze(2) + layer.bias
            return made.reshape(len(x), -1)
        case Attention():
            return _attention(layer, x)
        case Pool():
            wide = x.reshape(len(x), layer.tokens, -1)
            return np.asarray(_norm(layer.norm, wide).mean(axis=1), np.float32)
        case Gru() | Lstm():
            raise SpecError(f"A {kind(layer)} layer needs its memory.")


def advance(layer: Gru | Lstm, x: Floats, state: Floats) -> tuple[Floats, Floats]:
    """What a layer with a memory gives for rows (batch, in), and the memory after.

    `state` is (batch, memory); so is what follows it.
    """
    width = layer.hidden.weight.shape[1]
    hidden = state[:, :width]
    given = x @ layer.inputs.weight.T + layer.inputs.bias
    kept = hidden @ layer.hidden.weight.T + layer.hidden.bias
    if isinstance(layer, Gru):
        reset = sigmoid(given[:, :width] + kept[:, :width])
        update = sigmoid(given[:, width : 2 * width] + kept[:, width : 2 * width])
        new = np.tanh(given[:, 2 * width :] + reset * kept[:, 2 * width :])
        after = new + update * (hidden - new)
        return after, after
    gates = np.split(given + kept, 4, axis=1)
    cell = state[:, width:]
    cell = sigmoid(gates[1]) * cell + sigmoid(gates[0]) * np.tanh(gates[2])
    after = sigmoid(gates[3]) * np.tanh(cell)
    return after, np.concatenate([after, cell], axis=1)


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(−x)), written by tanh: no exponential leaves float32."""
    return np.asarray(0.5 * np.tanh(0.5 * x) + 0.5, np.float32)


def patches(layer: Conv, x: Floats) -> Floats:
    """The patches of flat images (batch, in): (batch, down, across, kernel² channels).

    A patch's numbers lie by row, column and channel.
    """
    height, width, channels = layer.shape
    if layer.channels_first:
        image = x.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
    else:
        image = x.reshape(-1, height, width, channels)
    kernel = layer.weight.shape[1]
    windows = np.lib.stride_tricks.sliding_window_view(image, (kernel, kernel), axis=(1, 2))
    # (batch, down, across, channels, kernel, kernel)
    chosen = windows[:, :: layer.stride, :: layer.stride]
    down, across = layer.grid
    laid = chosen.transpose(0, 1, 2, 4, 5, 3)
    return np.ascontiguousarray(laid).reshape(len(x), down, across, -1)


def _conv(layer: Conv, x: Floats) -> Floats:
    dense = layer.dense
    made = patches(layer, x) @ dense.weight.T + dense.bias
    return activate(layer.activation, made).reshape(len(x), -1)


def _norm(norm: Norm, x: Floats) -> Floats:
    apart = x - x.mean(axis=-1, keepdims=True)
    spread = np.sqrt(np.square(apart).mean(axis=-1, keepdims=True) + EPSILON)
    return np.asarray(apart / spread * norm.gain + norm.bias, np.float32)


def _attention(layer: Attention, x: Floats) -> Floats:
    batch, width = len(x), len(layer.norm.gain)
    tokens = x.reshape(batch, layer.tokens, width)
    mixed = apply_last(layer.qkv, _norm(layer.norm, tokens))
    split = mixed.reshape(batch, layer.tokens, 3, layer.heads, -1)
    # Each (batch, heads, tokens, width of a head)
    query, key, value = split.transpose(2, 0, 3, 1, 4)
    scores = query @ key.transpose(0, 1, 3, 2) * query.shape[-1] ** -0.5
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights = weights / weights.sum(axis=-1, keepdims=True)
    found = (weights @ value).transpose(0, 2, 1, 3).reshape(tokens.shape)
    tokens = tokens + apply_last(layer.out, found)
    inner = apply_last(layer.up, _norm(layer.norm_after, tokens))
    tokens = tokens + apply_last(layer.down, inner)
    return np.asarray(tokens.reshape(batch, -1), np.float32)


def apply_last(dense: Dense, x: Floats) -> Floats:
    """A dense layer along the last axis of x, (…, in): (…, out)."""
    return activate(dense.activation, x @ dense.weight.T + dense.bias)
