"""The networks of Stable-Baselines3's policies, rebuilt from their weights alone.

Widths and depths are those of the weights. Perceptrons and LSTMs run in NumPy, which
for up to a few hundred observations is as fast as torch; convolutions run in torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentkd.errors import LoadError, did_you_mean
from agentkd.types import Floats

Activation = Callable[[Floats], Floats]


def _relu(x: Floats) -> Floats:
    return np.maximum(x, 0.0, out=x)


def _tanh(x: Floats) -> Floats:
    return np.tanh(x, out=x)


def _elu(x: Floats) -> Floats:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0.0)))


def _leaky(x: Floats) -> Floats:
    return np.where(x > 0, x, x * np.float32(0.01))


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow."""
    result: Floats = 0.5 * (np.tanh(0.5 * x) + 1.0)
    return result


def _silu(x: Floats) -> Floats:
    return x * sigmoid(x)


def _identity(x: Floats) -> Floats:
    return x


_ACTIVATIONS: dict[str, Activation] = {
    "ReLU": _relu,
    "Tanh": _tanh,
    "ELU": _elu,
    "LeakyReLU": _leaky,
    "Sigmoid": sigmoid,
    "SiLU": _silu,
    "Identity": _identity,
}


REMEDY = (
    "Load the model in a function of yours and give module:function; or, if you trust "
    "who made the file, allow unpickling (allow_pickle=True, --unpickle), which runs "
    "whatever code it holds."
)
"""What to do about a policy that cannot be rebuilt from its weights."""


def activation(name: str) -> Activation:
    """Find an activation by the name of its class in torch.nn, in evaluation mode.

    It may write its result into its argument.

    Raises:
        LoadError: If torch.nn has no such class, or its objects need arguments, have weights or
            change the shape.
    """
    if name in _ACTIVATIONS:
        return _ACTIVATIONS[name]
    import torch
    from torch.nn import modules as known

    if name not in known.__all__:
        raise LoadError(
            f"The policy's activation {name!r} is not a class of torch.nn."
            f"{did_you_mean(name, known.__all__)} {REMEDY}"
        )
    shape = (2, 3)
    try:
        module: torch.nn.Module = getattr(known, name)().eval()
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Softmax without a dimension
            kept = module(torch.zeros(shape)).shape == shape
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise LoadError(f"The activation {name!r} fails: {error}. {REMEDY}") from error
    if not kept:
        raise LoadError(f"The activation {name!r} changes the shape. {REMEDY}")
    if module.state_dict():
        raise LoadError(f"The activation {name!r} has weights of its own. {REMEDY}")

    def apply(x: Floats) -> Floats:
        with torch.inference_mode():
            result: Floats = module(torch.from_numpy(x)).numpy()
        return result

    return apply


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """y = weight x + bias: weight (out, in), bias (out,) or None."""

    weight: Floats
    bias: Floats | None

    def __call__(self, x: Floats) -> Floats:
        """Map (batch, in) to (batch, out)."""
        y: Floats = x @ self.weight.T
        if self.bias is not None:
            y += self.bias
        return y

    def after(self, first: Linear) -> Linear:
        """Give the one layer that does what `first` and then this one do."""
        with np.errstate(over="ignore", invalid="ignore"):
            shift = 0.0 if first.bias is None else self.weight @ first.bias
            bias = shift if self.bias is None else self.bias + shift
            weight = self.weight @ first.weight
        return Linear(weight, np.asarray(bias, np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class Perceptron:
    """Linear layers with an activation between them, and after the last if `ends`."""

    layers: tuple[Linear, ...]
    between: Activation
    ends: bool

    def __call__(self, x: Floats) -> Floats:
        """Map (batch, in) to (batch, out)."""
        last = len(self.layers) - (0 if self.ends else 1)
        # As in torch, an overflow is infinity; who asks checks the answer.
        with np.errstate(over="ignore", invalid="ignore"):
            for index, layer in enumerate(self.layers):
                x = layer(x)
                if index < last:
                    x = self.between(x)
        return x


@dataclass(frozen=True, slots=True, eq=False)
class Lstm:
    """A stack of LSTM cells, as torch.nn.LSTM: gates in the order i, f, g, o."""

    cells: tuple[tuple[Linear, Linear], ...]

    @property
    def width(self) -> int:
        """How many units each cell has."""
        return int(self.cells[0][1].weight.shape[1])

    def __call__(self, x: Floats, hidden: Floats, cell: Floats) -> tuple[Floats, Floats, Floats]:
        """Take one step.

        Args:
            x: The input, (batch, in).
            hidden: Each cell's output before, (batch, cells, width).
            cell: Each cell's memory, (batch, cells, width).

        Returns:
            The last cell's output (batch, width), and both states that follow.
        """
        outputs, memories = [], []
        for index, (inward, around) in enumerate(self.cells):
            gates = inward(x) + around(hidden[:, index])
            i, f, g, o = np.split(gates, 4, axis=1)
            memory = sigmoid(f) * cell[:, index] + sigmoid(i) * np.tanh(g)
            x = sigmoid(o) * np.tanh(memory)
            outputs.append(x)
            memories.append(memory)
        return x, np.stack(outputs, axis=1), np.stack(memories, axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class NatureCnn:
    """SB3's NatureCNN: three convolutions with strides 4, 2, 1, and a linear layer.

    Mnih et al., "Human-level control through deep reinforcement learning", Nature 518.
    """

    convolutions: tuple[tuple[Any, Any], ...]
    linear: Linear

    def __call__(self, image: Floats) -> Floats:
        """Map (batch, channels, height, width) to (batch, features)."""
        import torch
        from torch.nn import functional

        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(image))
            layers = zip(self.convolutions, (4, 2, 1), strict=True)
            for (weight, bias), stride in layers:
                x = functional.relu(functional.conv2d(x, weight, bias, stride))
            flat: NDArray[np.float32] = x.flatten(1).numpy()
        return np.maximum(self.linear(flat), 0.0)
