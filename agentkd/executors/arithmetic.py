"""The arithmetic of layers in NumPy: the reference of every other form."""

from __future__ import annotations

import numpy as np

from agentkd.errors import SpecError
from agentkd.executors.layers import (
    EPSILON,
    Activation,
    Attention,
    Conv,
    Dense,
    Gru,
    Layer,
    Lstm,
    Norm,
    Past,
    Pool,
    Remembering,
    Stack,
    Tokens,
    kind,
)
from agentkd.types import Floats


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
            return apply_last(layer, x)
        case Conv():
            return apply_last(layer.dense, patches(layer, x)).reshape(len(x), -1)
        case Tokens():
            pieces = x.reshape(len(x), len(layer.weight), 1, -1)
            made = (pieces @ layer.weight.transpose(0, 2, 1)).squeeze(2) + layer.bias
            return made.reshape(len(x), -1)
        case Attention():
            return _attention(layer, x)
        case Pool():
            wide = x.reshape(len(x), layer.tokens, -1)
            return np.asarray(_norm(layer.norm, wide).mean(axis=1), np.float32)
        case Gru() | Lstm() | Stack() | Past():
            raise SpecError(f"A {kind(layer)} layer needs its memory.")


def advance(layer: Remembering, x: Floats, state: Floats) -> tuple[Floats, Floats]:
    """What a layer gives for rows (batch, in), and its memory, (batch, memory), after."""
    if isinstance(layer, Stack):
        rows = np.concatenate([state, x], axis=1)
        return rows, rows[:, layer.size :]
    if isinstance(layer, Past):
        seen = np.concatenate([state[:, : layer.held], x[:, : layer.size]], axis=1)
        done = np.concatenate([state[:, layer.held :], x[:, layer.size :]], axis=1)
        done = done[:, layer.width :]
        given = np.concatenate([seen[:, : layer.count * layer.size], done], axis=1)
        return given, np.concatenate([seen[:, layer.size :], done], axis=1)
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
    """The patches of flat images (batch, in): (batch, down, across, kernel² channels)."""
    height, width, channels = layer.shape
    if layer.channels_first:
        image = x.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
    else:
        image = x.reshape(-1, height, width, channels)
    kernel = layer.weight.shape[1]
    windows = np.lib.stride_tricks.sliding_window_view(image, (kernel, kernel), axis=(1, 2))
    # (batch, down, across, channels, kernel, kernel)
    laid = windows[:, :: layer.stride, :: layer.stride].transpose(0, 1, 2, 4, 5, 3)
    return np.ascontiguousarray(laid).reshape(len(x), *layer.grid, -1)


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
