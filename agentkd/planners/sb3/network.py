"""The layers of Stable-Baselines3's policies, rebuilt in torch from their weights alone.

Widths and depths are those of the weights, and the tensors share the weights' memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from agentkd.errors import LoadError, did_you_mean
from agentkd.executors.network import Trace
from agentkd.files import loading
from agentkd.planners.sb3.file import Weights
from agentkd.planners.sb3.policy import REMEDY
from agentkd.types import Floats


def activation(name: str) -> nn.Module:
    """Make an activation by the name of its class in torch.nn, in evaluation mode.

    Raises:
        LoadError: If torch.nn has no such class, or its objects need arguments, have weights or
            change the shape.
    """
    known = nn.modules.__all__
    if name not in known:
        raise LoadError(
            f"The policy's activation {name!r} is not a class of torch.nn."
            f"{did_you_mean(name, known)} {REMEDY}"
        )
    shape = (2, 3)
    try:
        module: nn.Module = getattr(nn, name)().eval()
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Softmax without a dimension
            kept = module(torch.zeros(shape)).shape == shape
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise LoadError(f"The activation {name!r} fails: {error}. {REMEDY}") from error
    if not kept:
        raise LoadError(f"The activation {name!r} changes the shape. {REMEDY}")
    if module.state_dict():
        raise LoadError(f"The activation {name!r} has weights of its own. {REMEDY}")
    return module


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """y = weight x + bias: weight (out, in), bias (out,) or None."""

    weight: Tensor
    bias: Tensor | None

    def after(self, first: Linear) -> Linear:
        """Give the one layer that does what `first` and then this one do."""
        bias = self.bias
        if first.bias is not None:
            shift = self.weight @ first.bias
            bias = shift if bias is None else bias + shift
        return Linear(self.weight @ first.weight, bias)


@dataclass(frozen=True, slots=True, eq=False)
class Perceptron:
    """Linear layers with an activation between them, and after the last if `ends`."""

    layers: tuple[Linear, ...]
    between: Callable[[Tensor], Tensor]
    ends: bool = False

    def __call__(self, x: Tensor, trace: Trace | None = None) -> Tensor:
        """Map (batch, in) to (batch, out); note in `trace` what each layer gives."""
        last = len(self.layers) - (0 if self.ends else 1)
        for index, layer in enumerate(self.layers):
            x = functional.linear(x, layer.weight, layer.bias)
            if index < last:
                x = self.between(x)
            if trace is not None:
                trace.layers.append(x)
        return x

    def width(self, inputs: int) -> int:
        """How many numbers it gives for so many inputs."""
        return len(self.layers[-1].weight) if self.layers else inputs


@dataclass(frozen=True, slots=True, eq=False)
class NatureCnn:
    """SB3's NatureCNN: three convolutions with strides 4, 2, 1, and a linear layer.

    Mnih et al., "Human-level control through deep reinforcement learning", Nature 518.
    """

    convolutions: tuple[Linear, ...]
    linear: Perceptron

    def __call__(self, image: Floats) -> Floats:
        """Map (batch, channels, height, width) to (batch, features)."""
        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(image))
            for layer, stride in zip(self.convolutions, (4, 2, 1), strict=True):
                x = functional.relu(functional.conv2d(x, layer.weight, layer.bias, stride))
            features: Floats = self.linear(x.flatten(1)).numpy()
        return features


class Taker:
    """Takes a save's weights by name, and knows which were left."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._taken: dict[str, NDArray[np.float32]] = {}

    @property
    def parameters(self) -> int:
        """How many numbers were taken."""
        return sum(array.size for array in self._taken.values())

    def names(self, prefix: str) -> list[str]:
        """List the weights whose name begins so."""
        return [name for name in self._weights if name.startswith(prefix)]

    def left(self, ignored: tuple[str, ...]) -> list[str]:
        """List the weights that nothing took, without those that begin so."""
        left = (name for name in self._weights if name not in self._taken)
        return [name for name in left if not name.startswith(ignored)]

    def optional(self, name: str) -> Tensor | None:
        """Take an array if it is there."""
        found = self._weights.get(name)
        if found is None:
            return None
        self._taken[name] = found
        return torch.from_numpy(found)

    def take(self, name: str) -> Tensor:
        """Take an array; a save without it is refused."""
        found = self.optional(name)
        if found is None:
            raise LoadError(f"The save has no weights {name!r}{did_you_mean(name, self._weights)}")
        return found

    def linear(self, name: str, inputs: int | None = None) -> Linear:
        """Take a linear layer: `name`.weight and, where there is one, `name`.bias."""
        weight = self.take(f"{name}.weight")
        bias = self.optional(f"{name}.bias")
        shape = tuple(weight.shape)
        if weight.ndim != 2 or (bias is not None and tuple(bias.shape) != shape[:1]):
            raise LoadError(f"{name!r} is not a linear layer: weights {shape}.")
        if inputs is not None and shape[1] != inputs:
            raise LoadError(f"{name!r} takes {shape[1]} numbers; {inputs} come from before.")
        return Linear(weight, bias)

    def sequence(self, prefix: str, inputs: int) -> tuple[Linear, ...]:
        """Take the linear layers `prefix`0, `prefix`2, …, which follow one another."""
        indices = sorted(
            int(name[len(prefix) : -len(".weight")])
            for name in self.names(prefix)
            if name.endswith(".weight") and name[len(prefix) : -7].isdigit()
        )
        if indices != list(range(0, 2 * len(indices), 2)):
            raise LoadError(
                f"The layers {prefix}{indices} are not plain linear layers with an "
                f"activation without weights between them. {REMEDY}"
            )
        layers: list[Linear] = []
        for index in indices:
            layers.append(self.linear(f"{prefix}{index}", inputs))
            inputs = len(layers[-1].weight)
        return tuple(layers)

    def renormed(
        self, prefix: str, inputs: int, epsilon: float
    ) -> tuple[tuple[Linear, ...], Linear | None]:
        """Take linear layers with a batch renormalisation before each and at the end.

        In evaluation each renormalisation is a scale and a shift of its inputs (arXiv:1702.03275),
        which become part of the layer that follows; the last becomes a diagonal layer.
        """
        layers: list[Linear] = []
        before: Linear | None = None
        indices = {name[len(prefix) :].split(".")[0] for name in self.names(prefix)}
        for index in sorted(map(int, indices)):
            at = f"{prefix}{index}"
            if f"{at}.ra_mean" in self._weights:
                mean, var, scale, bias = (
                    self.take(f"{at}.{name}") for name in ("ra_mean", "ra_var", "scale", "bias")
                )
                self.optional(f"{at}.steps")
                slope = scale / torch.sqrt(var + epsilon)
                before = Linear(torch.diag(slope), bias - mean * slope)
            else:
                layer = self.linear(at, inputs)
                layers.append(layer if before is None else layer.after(before))
                before, inputs = None, len(layer.weight)
        return tuple(layers), before

    def lstm(self, prefix: str, inputs: int) -> nn.LSTM:
        """Take a torch.nn.LSTM."""
        own = {
            name: self.take(f"{prefix}{name}")
            for name in (each[len(prefix) :] for each in self.names(prefix))
            if name.startswith(("weight_ih_l", "weight_hh_l", "bias_ih_l", "bias_hh_l"))
        }
        if "weight_hh_l0" not in own or "weight_ih_l0" not in own:
            raise LoadError(f"The save has no LSTM {prefix!r}.")
        around, inward = own["weight_hh_l0"], own["weight_ih_l0"]
        if inward.shape[-1] != inputs:
            raise LoadError(f"The LSTM takes {inward.shape[-1]} numbers, not {inputs}.")
        with loading("The LSTM"):
            layers = sum(name.startswith("weight_ih_l") for name in own)
            # Without memory of its own: the weights keep theirs.
            lstm = nn.LSTM(
                inputs,
                around.shape[-1],
                layers,
                bias="bias_ih_l0" in own,
                batch_first=True,
                device="meta",
            )
            lstm.load_state_dict(own, assign=True)
        return lstm.requires_grad_(requires_grad=False)

    def cnn(self, prefix: str, shape: tuple[int, ...]) -> NatureCnn:
        """Take a NatureCNN for images of a shape, (channels, height, width)."""
        convolutions = tuple(
            Linear(self.take(f"{prefix}cnn.{index}.weight"), self.take(f"{prefix}cnn.{index}.bias"))
            for index in (0, 2, 4)
        )
        channels = convolutions[0].weight.shape[1]
        if len(shape) != 3 or channels != shape[0]:
            raise LoadError(f"The CNN takes {channels} channels; an image has {shape}.")
        last = self.linear(f"{prefix}linear.0")
        return NatureCnn(convolutions, Perceptron((last,), functional.relu, ends=True))
