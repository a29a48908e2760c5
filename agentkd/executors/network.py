"""The trainable form of an executor, in torch: it begins and ends as a `Frozen`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from agentkd.executors.frozen import Activation, Frozen, Layer
from agentkd.types import Floats


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
    """The layers of an executor as trainable tensors; the normaliser stands beside.

    Args:
        frozen: The executor to start from; it is copied.
    """

    def __init__(self, frozen: Frozen) -> None:
        """Copy the numbers of `frozen`."""
        super().__init__()
        self._frozen = frozen
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.from_numpy(frozen.mean.copy()))
        self.register_buffer("scale", torch.from_numpy(frozen.scale.copy()))
        self.weights = nn.ParameterList(
            [torch.from_numpy(layer.weight.copy()) for layer in frozen.layers]
        )
        self.biases = nn.ParameterList(
            [torch.from_numpy(layer.bias.copy()) for layer in frozen.layers]
        )

    def normalise(self, obs: Tensor) -> Tensor:
        """Bring observations, (batch, obs), to the scale the layers see."""
        clip = self._frozen.clip
        return ((obs - self.mean) * self.scale).clamp(-clip, clip)

    def forward(self, obs: Tensor) -> Tensor:
        """The last layer's numbers for observations (batch, obs): (batch, out)."""
        return self.from_normalised(self.normalise(obs))

    def from_normalised(self, x: Tensor) -> Tensor:
        """The last layer's numbers for observations that are normalised already."""
        for weight, bias, layer in zip(
            self.weights, self.biases, self._frozen.layers, strict=True
        ):
            x = _activate(layer.activation, functional.linear(x, weight, bias))
        return x

    @torch.no_grad()
    def renormalise(self, mean: Floats, scale: Floats) -> None:
        """Change the normaliser and, against it, the first layer.

        What the executor does stays the same wherever nothing is clipped: with
        z = (x - m) s and z' = (x - m') s', W z + b = (W s/s') z' + b + W s (m' - m).
        """
        new_mean = torch.from_numpy(np.asarray(mean, np.float32))
        new_scale = torch.from_numpy(np.asarray(scale, np.float32))
        first, bias = self.weights[0], self.biases[0]
        bias += first @ (self.scale * (new_mean - self.mean))
        first *= self.scale / new_scale
        self.mean.copy_(new_mean)
        self.scale.copy_(new_scale)

    def freeze(self, version: int, tensors: Sequence[Tensor] | None = None) -> Frozen:
        """Copy the numbers out.

        Args:
            version: The version the frozen executor carries.
            tensors: Other values for `parameters()`, in their order, such as averages.
        """
        values = list(self.parameters()) if tensors is None else list(tensors)
        count = len(self._frozen.layers)
        weights, biases = values[:count], values[count:]

        def numpy(tensor: Tensor) -> Floats:
            return tensor.detach().numpy().astype(np.float32, copy=True)

        layers = tuple(
            Layer(numpy(weight), numpy(bias), layer.activation)
            for weight, bias, layer in zip(
                weights, biases, self._frozen.layers, strict=True
            )
        )
        return replace(
            self._frozen,
            mean=numpy(self.mean),
            scale=numpy(self.scale),
            layers=layers,
            version=version,
        )
