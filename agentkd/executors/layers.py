"""What executors are built of: layers as frozen values; `arithmetic` evaluates them.

A layer takes rows of numbers, (batch, inputs), and gives rows, (batch, outputs). Images lie flat by
row, column and channel; tokens one after another. Layers with a memory also take and give rows of
it, (batch, memory).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from agentkd.errors import SpecError, did_you_mean
from agentkd.fields import Fields
from agentkd.sizes import MOST, is_whole
from agentkd.types import Floats

Activation = Literal["relu", "tanh", "silu", "elu", "none"]
EPSILON = 1e-5
"""Added to the variance in `Norm`, as everywhere in the field."""
MOST_WORK = 1 << 28
"""Multiplications that a layer may take for one observation."""

Value = TypeVar("Value")
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Dense:
    """y = activation(weight x + bias); weight (out, in), bias (out,), float32."""

    weight: Floats
    bias: Floats
    activation: Activation = "none"


@dataclass(frozen=True, slots=True)
class Conv:
    """A dense layer on every patch of an image, without padding.

    `weight` is (out, kernel, kernel, channels), `bias` (out,), `shape` the image's height, width
    and channels. With `channels_first` the image lies channel by channel.
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

    `weight` is (tokens, width, piece); `bias`, (tokens, width), also tells places apart.
    """

    weight: Floats
    bias: Floats


@dataclass(frozen=True, slots=True)
class Attention:
    """A block of a Transformer with normalisation first (Xiong et al. 2020, fig. 1b).

    x += out(attention(norm(x))); x += down(relu(up(norm_after(x)))). `qkv` gives queries, keys and
    values at once, (3 width, width); `out` is (width, width), `up` (inner, width).
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
    i = inputs(x) and h = hidden(h) (Cho et al. 2014, with the reset after the product). `inputs` is
    (3 width, in), `hidden` (3 width, width).
    """

    inputs: Dense
    hidden: Dense


@dataclass(frozen=True, slots=True)
class Lstm:
    """Long short-term memory, gates i, f, g, o in this order, as in torch.

    c = sigmoid(f) c + sigmoid(i) tanh(g), h = sigmoid(o) tanh(c), of inputs(x) + hidden(h) (Gers et
    al. 2000). Its memory is h, then c. `inputs` is (4 width, in), `hidden` (4 width, width).
    """

    inputs: Dense
    hidden: Dense


@dataclass(frozen=True, slots=True)
class Stack:
    """The last `count` rows of `size` numbers, oldest first; it remembers all but the newest.

    Before an episode's first row there are zeros: after the normaliser, the mean.
    """

    count: int
    size: int


Ticks = int
"""A number from 0 up."""


@dataclass(frozen=True, slots=True)
class Past:
    """Old observations, and the actions that were executed since.

    It takes `size` numbers observed and then `width` of the action of the tick before, and gives
    the last `count` observations that are at least `lag` ticks old, then the last `actions`
    actions, each oldest first. Before an episode's first there are zeros, as in a `Stack`.
    """

    size: int
    count: int
    lag: Ticks
    width: int
    actions: int

    @property
    def held(self) -> int:
        """How many numbers observed it remembers; those of actions lie behind them."""
        return (self.count - 1 + self.lag) * self.size

    @property
    def out(self) -> int:
        """How many numbers it gives."""
        return self.count * self.size + self.actions * self.width


Layer = Dense | Conv | Tokens | Attention | Pool | Gru | Lstm | Stack | Past
Remembering = Gru | Lstm | Stack | Past
_KINDS: dict[str, Any] = {each.__name__.lower(): each for each in get_args(Layer)}


def kind(layer: Layer) -> str:
    """The layer's kind in a word, such as "dense"."""
    return type(layer).__name__.lower()


def width(layer: Layer) -> int:
    """How many numbers a layer gives for each patch, token or row."""
    match layer:
        case Dense() | Conv():
            return len(layer.bias)
        case Tokens():
            return int(layer.weight.shape[1])
        case Attention() | Pool():
            return len(layer.norm.gain)
        case Gru() | Lstm():
            return int(layer.hidden.weight.shape[1])
        case Stack():
            return layer.count * layer.size
        case Past():
            return layer.out


def image(layers: Sequence[Layer]) -> tuple[int, int, int, bool] | None:
    """What image layers take at a tick: height, width, channels, whether channels come first.

    None where they take no image. A stack makes channels of images, the oldest ones first.
    """
    first = layers[0]
    count = first.count if isinstance(first, Stack) else 1
    conv = layers[1] if isinstance(first, Stack) and len(layers) > 1 else first
    if not isinstance(conv, Conv):
        return None
    height, across, channels = conv.shape
    if count > 1 and (channels % count or not conv.channels_first):
        return None
    return height, across, channels // count, conv.channels_first


def memory(layer: Layer) -> int:
    """How many numbers a layer remembers from tick to tick."""
    match layer:
        case Gru():
            return width(layer)
        case Lstm():
            return 2 * width(layer)
        case Stack():
            return (layer.count - 1) * layer.size
        case Past():
            return layer.held + layer.actions * layer.width
        case _:
            return 0


def sizes(layer: Layer) -> tuple[int, int]:
    """How many numbers a layer takes, and how many it gives.

    Raises:
        SpecError: If its arrays do not fit each other, are not float32, or it is larger than `MOST`
            numbers or `MOST_WORK` multiplications.
    """
    inputs, out, work, wanted = _measure(layer)
    for name, each in tensors(layer).items():
        if each.shape != wanted.get(name) or each.dtype != np.float32:
            raise _misfit(layer, f"{name} is {each.dtype}, {wanted.get(name)} needed")
    if max(inputs, out) > MOST or work > MOST_WORK:
        size = f"{max(inputs, out):,} numbers and {work:,} multiplications"
        raise _misfit(layer, f"{size}; at most {MOST:,} and {MOST_WORK:,}")
    return inputs, out


def work(layer: Layer) -> int:
    """How many multiplications a layer takes for one observation.

    No buffer in any form of the layer is larger than this and the layer's numbers.
    """
    return _measure(layer)[2]


def _measure(layer: Layer) -> tuple[int, int, int, Shapes]:
    """Numbers taken and given, multiplications, and the shapes of all arrays."""
    match layer:
        case Dense():
            out, inputs = _dims(layer, layer.weight, 2)
            return inputs, out, inputs * out, {"weight": (out, inputs), "bias": (out,)}
        case Conv():
            return _measure_conv(layer)
        case Tokens():
            tokens, width, piece = _dims(layer, layer.weight, 3)
            shapes: Shapes = {"weight": (tokens, width, piece), "bias": (tokens, width)}
            return tokens * piece, tokens * width, tokens * width * piece, shapes
        case Attention():
            return _measure_attention(layer)
        case Pool():
            (width,) = _dims(layer, layer.norm.gain, 1)
            tokens = _count(layer, "tokens", layer.tokens)
            return tokens * width, width, tokens * width, _shapes(norm=(width,))
        case Gru() | Lstm():
            (_, inputs), (_, width) = (
                _dims(layer, each.weight, 2) for each in (layer.inputs, layer.hidden)
            )
            gates = width * (3 if isinstance(layer, Gru) else 4)
            shapes = _shapes(inputs=(gates, inputs), hidden=(gates, width))
            return inputs, width, gates * (inputs + width), shapes
        case Stack():
            count, size = _count(layer, "count", layer.count), _count(layer, "size", layer.size)
            if count < 2:
                raise _misfit(layer, "count is 1; a stack holds 2 rows or more")
            return size, count * size, 0, {}
        case Past():
            return _measure_past(layer)


def _measure_past(layer: Past) -> tuple[int, int, int, Shapes]:
    for name in ("size", "count", "width", "actions"):
        _count(layer, name, getattr(layer, name))
    if not is_whole(layer.lag, 0, MOST):
        raise _misfit(layer, f"lag is {layer.lag!r:.40}")
    if memory(layer) > MOST:
        raise _misfit(layer, f"it remembers {memory(layer):,} numbers; at most {MOST:,}")
    return layer.size + layer.width, layer.out, 0, {}


def _measure_conv(layer: Conv) -> tuple[int, int, int, Shapes]:
    out, kernel, _, channels = _dims(layer, layer.weight, 4)
    stride = _count(layer, "stride", layer.stride)
    image = [_count(layer, "shape", each) for each in layer.shape]
    if len(image) != 3 or kernel > min(image[:2]):
        raise _misfit(layer, f"a kernel of {kernel} for an image of {layer.shape}")
    down, across = ((each - kernel) // stride + 1 for each in image[:2])
    patch = kernel * kernel * channels
    if down * across * patch > MOST:
        raise _misfit(layer, f"{down} x {across} patches of {patch} numbers")
    shapes: Shapes = {"weight": (out, kernel, kernel, image[2]), "bias": (out,)}
    return math.prod(image), down * across * out, down * across * out * patch, shapes


def _measure_attention(layer: Attention) -> tuple[int, int, int, Shapes]:
    (width,), (inner,) = (_dims(layer, each, 1) for each in (layer.norm.gain, layer.up.bias))
    tokens = _count(layer, "tokens", layer.tokens)
    heads = _count(layer, "heads", layer.heads)
    if width % heads:
        raise _misfit(layer, f"{heads} heads for a width of {width}")
    shapes = _shapes(
        norm=(width,),
        norm_after=(width,),
        qkv=(3 * width, width),
        out=(width, width),
        up=(inner, width),
        down=(width, inner),
    )
    each = 4 * width * width + 2 * width * inner + 2 * tokens * width
    return tokens * width, tokens * width, tokens * each, shapes


def _shapes(**parts: tuple[int, ...]) -> Shapes:
    """The arrays' shapes of dense parts, given as (out, in), and of norms, as (width,)."""
    found: Shapes = {}
    for name, shape in parts.items():
        found[f"{name}.{'gain' if len(shape) == 1 else 'weight'}"] = shape
        found[f"{name}.bias"] = shape[:1]
    return found


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


def describe(layer: Layer) -> dict[str, Any]:
    """Write what a layer is, but for its arrays, as JSON values for files."""
    out: dict[str, Any] = {"kind": kind(layer)}
    for field in fields(layer):
        each = getattr(layer, field.name)
        if not isinstance(each, np.ndarray) and not is_dataclass(each):
            out[field.name] = list(each) if isinstance(each, tuple) else each
    return out


def rebuild(found: Fields, prefix: str, tensors: Mapping[str, Floats]) -> Layer:
    """Make a layer of what `describe` wrote and the arrays whose names begin with `prefix`.

    Raises:
        SpecError: If the kind is unknown.
        LoadError: If a field is missing or of another type.
        KeyError: If an array is missing.
    """
    name = found.text("kind")
    if name not in _KINDS:
        raise SpecError(f"No layer of kind {name!r}.{did_you_mean(name, _KINDS)}")
    made = _KINDS[name]
    layer: Layer = made(*(_rebuilt(each, found, prefix, tensors) for each in fields(made)))
    return layer


def _rebuilt(field: Field[Any], found: Fields, prefix: str, tensors: Mapping[str, Floats]) -> Any:
    """Read a field of a layer by its type."""
    name = field.name
    match field.type:
        case "Floats":
            return tensors[prefix + name]
        case "Norm":
            return Norm(*(tensors[f"{prefix}{name}.{each}"] for each in ("gain", "bias")))
        case "Dense":
            weight, bias = (tensors[f"{prefix}{name}.{each}"] for each in ("weight", "bias"))
            return Dense(weight, bias, "relu" if name == "up" else "none")
        case "Activation":
            return found.choice(name, get_args(Activation))
        case "bool":
            return found.flag(name)
        case "int" | "Ticks":
            return found.whole(name, least=field.type == "int")
        case _:
            return found.wholes(name, least=1)
