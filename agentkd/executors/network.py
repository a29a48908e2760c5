"""The trainable form of an executor, in torch: it begins and ends as a `Executor`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from agentkd.errors import SpecError
from agentkd.executors.executor import Executor
from agentkd.executors.layers import (
    EPSILON,
    Activation,
    Attention,
    Conv,
    Dense,
    Gru,
    Layer,
    Lstm,
    Past,
    Pool,
    Remembering,
    Stack,
    Tokens,
    kind,
    memory,
    tensors,
    with_tensors,
)
from agentkd.executors.recurrence import gru
from agentkd.types import Floats

Tensors = Mapping[str, Tensor]
"""The trained numbers of a layer, under the names of `layers.tensors`."""


@dataclass(slots=True)
class Trace:
    """What a network computed on its way, for those who compare inner workings."""

    layers: list[Tensor] = field(default_factory=list)
    """What each layer gave, (batch, out), first to last."""
    relations: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    """Queries, keys and values of each block, (batch, heads, tokens, width of a head)."""


def _activate(name: Activation, x: Tensor) -> Tensor:
    match name:
        case "relu":
            return torch.relu(x)
        case "tanh":
            return torch.tanh(x)
        case "silu":
            return functional.silu(x)
        case "elu":
            return functional.elu(x)
        case "none":
            return x


@final
class Network(nn.Module):
    """The layers of an executor as trainable tensors, copied; the normaliser stands beside."""

    def __init__(self, executor: Executor) -> None:
        super().__init__()
        self._executor = executor
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.from_numpy(executor.mean.copy()))
        self.register_buffer("scale", torch.from_numpy(executor.scale.copy()))
        self._names = [list(tensors(layer)) for layer in executor.layers]
        self.numbers = nn.ParameterList(
            # Laid by row: fused Adam goes through weights and averages as they lie in memory.
            torch.from_numpy(np.array(each, np.float32, order="C"))
            for layer in executor.layers
            for each in tensors(layer).values()
        )

    @property
    def memory(self) -> int:
        """How many numbers it remembers from tick to tick."""
        return self._executor.memory

    def _layers(self) -> Iterator[tuple[Layer, dict[str, Tensor]]]:
        at = 0
        for layer, names in zip(self._executor.layers, self._names, strict=True):
            until = at + len(names)
            held = (self.numbers[i] for i in range(at, until))
            yield layer, dict(zip(names, held, strict=True))
            at = until

    def normalise(self, obs: Tensor) -> Tensor:
        """Bring observations, (…, obs), to the scale the layers see."""
        clip = self._executor.clip
        return ((obs - self.mean) * self.scale).clamp(-clip, clip)

    def forward(self, obs: Tensor) -> Tensor:
        """The last layer's numbers for observations (batch, obs): (batch, out)."""
        return self.from_normalised(self.normalise(obs))

    def from_normalised(self, x: Tensor, trace: Trace | None = None) -> Tensor:
        """The last layer's numbers for normalised observations (batch, obs).

        `trace` takes what is computed on the way.

        Raises:
            SpecError: If it has a memory: `follow` takes whole sequences.
        """
        for layer, held in self._layers():
            if isinstance(layer, Remembering):
                raise SpecError(f"A {kind(layer)} layer needs its memory: use follow.")
            x = _apply(layer, held, x, trace)
            if trace is not None:
                trace.layers.append(x)
        return x

    def follow(
        self, obs: Tensor, begins: Tensor | None = None, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Go through sequences of observations, one tick after another.

        Args:
            obs: (ticks, batch, obs).
            begins: (ticks, batch), bool: where the memory starts afresh; None for nowhere, which is
                several times as fast.
            state: The memory before the first tick, (batch, memory); zeros if None.

        Returns:
            The last layer's numbers, (ticks, batch, out), and the memory at the end.
        """
        ticks, batch = obs.shape[:2]
        x = self.normalise(obs)
        keep = None if begins is None else (~begins).to(x.dtype).unsqueeze(-1)
        before = obs.new_zeros((batch, self.memory)) if state is None else state
        after, at = [], 0
        for layer, held in self._layers():
            if isinstance(layer, Remembering):
                until = at + memory(layer)
                start = before[:, at:until]
                if keep is None:
                    x, kept = _run(layer, held, x, start, twice=obs.requires_grad)
                else:
                    x, kept = _follow(layer, held, x, keep, start)
                after.append(kept)
                at = until
            else:
                flat = _apply(layer, held, x.reshape(ticks * batch, -1), None)
                x = flat.reshape(ticks, batch, -1)
        return x, torch.cat(after, 1) if after else before

    @torch.no_grad()
    def renormalise(self, mean: Floats, scale: Floats) -> None:
        """Change the normaliser and, against it, the first layer.

        What the executor does stays the same wherever nothing is clipped: with z = (x - m) s and z'
        = (x - m') s', W z + b = (W s/s') z' + b + W s (m' - m).

        Raises:
            SpecError: If the first layer is one that normalised numbers cannot enter.
        """
        new_mean = torch.from_numpy(np.asarray(mean, np.float32))
        new_scale = torch.from_numpy(np.asarray(scale, np.float32))
        layers = self._layers()
        layer, held = next(layers)
        shift, ratio = self.scale * (new_mean - self.mean), self.scale / new_scale
        if isinstance(layer, Stack | Past):
            shift, ratio = (_shown(layer, each) for each in (shift, ratio))
            layer, held = next(layers)
        match layer:
            case Dense():
                held["bias"] += held["weight"] @ shift
                held["weight"] *= ratio
            case Gru() | Lstm():
                held["inputs.bias"] += held["inputs.weight"] @ shift
                held["inputs.weight"] *= ratio
            case Tokens():
                count, _, piece = held["weight"].shape
                each = shift.reshape(count, piece, 1)
                held["bias"] += (held["weight"] @ each).squeeze(2)
                held["weight"] *= ratio.reshape(count, 1, piece)
            case Conv():
                height, width, channels = layer.shape
                # Where each channel's first number lies.
                channel = torch.arange(channels) * (height * width if layer.channels_first else 1)
                held["bias"] += held["weight"].sum((1, 2)) @ shift[channel]
                held["weight"] *= ratio[channel]
            case _:
                raise SpecError(f"An executor cannot begin with a {kind(layer)} layer.")
        self.mean.copy_(new_mean)
        self.scale.copy_(new_scale)

    def freeze(self, version: int, values: Sequence[Tensor] | None = None) -> Executor:
        """Copy the numbers out, into an executor of this version.

        `values` are others for `parameters()`, in their order, such as averages.
        """
        held = list(self.parameters()) if values is None else list(values)
        arrays = map(_numpy, held)
        layers = tuple(with_tensors(layer, arrays) for layer in self._executor.layers)
        return replace(
            self._executor,
            mean=_numpy(self.mean),
            scale=_numpy(self.scale),
            layers=layers,
            version=version,
        )


def _numpy(tensor: Tensor) -> Floats:
    return tensor.detach().numpy().astype(np.float32, copy=True)


def _apply(layer: Layer, held: Tensors, x: Tensor, trace: Trace | None) -> Tensor:
    match layer:
        case Dense():
            made = functional.linear(x, held["weight"], held["bias"])
            return _activate(layer.activation, made)
        case Conv():
            return _conv(layer, held, x)
        case Tokens():
            count = held["weight"].shape[0]
            pieces = x.reshape(x.shape[0], count, 1, -1)
            made = (pieces @ held["weight"].transpose(1, 2)).squeeze(2) + held["bias"]
            return made.reshape(x.shape[0], -1)
        case Attention():
            return _attention(layer, held, x, trace)
        case Pool():
            wide = x.reshape(x.shape[0], layer.tokens, -1)
            return _norm(held, "norm", wide).mean(1)
        case Gru() | Lstm() | Stack() | Past():
            raise SpecError(f"A {kind(layer)} layer needs its memory.")


def _conv(layer: Conv, held: Tensors, x: Tensor) -> Tensor:
    height, width, channels = layer.shape
    if layer.channels_first:
        image = x.reshape(-1, channels, height, width)
    else:
        image = x.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
    weight = held["weight"].permute(0, 3, 1, 2)
    made = functional.conv2d(image, weight, held["bias"], stride=layer.stride)
    return _activate(layer.activation, made.permute(0, 2, 3, 1).reshape(x.shape[0], -1))


def _norm(held: Tensors, name: str, x: Tensor) -> Tensor:
    gain, bias = held[f"{name}.gain"], held[f"{name}.bias"]
    return functional.layer_norm(x, gain.shape, gain, bias, EPSILON)


def _linear(held: Tensors, name: str, x: Tensor) -> Tensor:
    return functional.linear(x, held[f"{name}.weight"], held[f"{name}.bias"])


def _attention(layer: Attention, held: Tensors, x: Tensor, trace: Trace | None) -> Tensor:
    tokens = x.reshape(x.shape[0], layer.tokens, -1)
    mixed = _linear(held, "qkv", _norm(held, "norm", tokens))
    split = mixed.reshape(x.shape[0], layer.tokens, 3, layer.heads, -1)
    query, key, value = split.permute(2, 0, 3, 1, 4).unbind()
    if trace is not None:
        trace.relations.append((query, key, value))
    found = functional.scaled_dot_product_attention(query, key, value)
    tokens = tokens + _linear(held, "out", found.transpose(1, 2).reshape(tokens.shape))
    inner = _linear(held, "up", _norm(held, "norm_after", tokens))
    inner = _activate(layer.up.activation, inner)
    return (tokens + _linear(held, "down", inner)).reshape(x.shape[0], -1)


def _run(
    layer: Remembering, held: Tensors, x: Tensor, state: Tensor, *, twice: bool
) -> tuple[Tensor, Tensor]:
    """Go through (ticks, batch, in) without starting afresh; gradients may be derived `twice`."""
    if isinstance(layer, Stack):
        before = state.reshape(len(state), -1, layer.size).transpose(0, 1)
        rows = torch.cat([before, x])
        seen = [rows[i : i + len(x)] for i in range(layer.count)]
        return torch.cat(seen, 2), rows[len(x) :].transpose(0, 1).reshape(len(state), -1)
    if isinstance(layer, Past):
        return _past(layer, x, None, state)
    width = layer.hidden.weight.shape[1]
    names = ("inputs.weight", "hidden.weight", "inputs.bias", "hidden.bias")
    weights = [held[name] for name in names]
    # With biases, one layer, no dropout, not in training, one way, ticks first.
    how = (True, 1, 0.0, False, False, False)
    start = state.unsqueeze(0)
    if isinstance(layer, Gru):
        if (states := gru(x, state, weights, twice=twice)) is not None:
            return states, states[-1]
        out, after = torch.gru(x, start.contiguous(), weights, *how)
        return out, after[0]
    pair = [start[..., :width].contiguous(), start[..., width:].contiguous()]
    out, short, long = torch.lstm(x, pair, weights, *how)
    return out, torch.cat([short[0], long[0]], 1)


def _shown(layer: Stack | Past, numbers: Tensor) -> Tensor:
    """Return numbers of an observation for each that a layer of the past gives."""
    actions = layer.actions if isinstance(layer, Past) else 0
    seen, taken = numbers[: layer.size], numbers[layer.size :]
    return torch.cat([seen.repeat(layer.count), taken.repeat(actions)])


def _past(layer: Past, x: Tensor, keep: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
    """Step through (ticks, batch, in) as `arithmetic.advance` does."""
    given = []
    for tick, now in enumerate(x.unbind()):
        if keep is not None:
            state = state * keep[tick]
        seen = torch.cat([state[:, : layer.held], now[:, : layer.size]], 1)
        done = torch.cat([state[:, layer.held :], now[:, layer.size :]], 1)[:, layer.width :]
        given.append(torch.cat([seen[:, : layer.count * layer.size], done], 1))
        state = torch.cat([seen[:, layer.size :], done], 1)
    return torch.stack(given), state


def _follow(
    layer: Remembering, held: Tensors, x: Tensor, keep: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Step through (ticks, batch, in); `keep` is 0 where the memory starts afresh."""
    if isinstance(layer, Stack):
        stacked = []
        for now, kept in zip(x.unbind(), keep.unbind(), strict=True):
            stacked.append(torch.cat([state * kept, now], 1))
            state = stacked[-1][:, layer.size :]
        return torch.stack(stacked), state
    if isinstance(layer, Past):
        return _past(layer, x, keep, state)
    width = layer.hidden.weight.shape[1]
    given = _linear(held, "inputs", x)
    out = []
    for now, kept in zip(given.unbind(), keep.unbind(), strict=True):
        state = state * kept
        before = state[:, :width]
        seen = _linear(held, "hidden", before)
        if isinstance(layer, Gru):
            gates = torch.sigmoid(now[:, : 2 * width] + seen[:, : 2 * width])
            reset, update = gates.chunk(2, 1)
            new = torch.tanh(now[:, 2 * width :] + reset * seen[:, 2 * width :])
            state = new + update * (before - new)
        else:
            into, forget, cell, leave = (now + seen).chunk(4, 1)
            long = torch.sigmoid(forget) * state[:, width:]
            long = long + torch.sigmoid(into) * torch.tanh(cell)
            short = torch.sigmoid(leave) * torch.tanh(long)
            state = torch.cat([short, long], 1)
        out.append(state[:, :width])
    return torch.stack(out), state
