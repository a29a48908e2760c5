"""An executor with its weights fixed: everything that it does, in NumPy alone.

The normaliser, the clipping, the squashing and the scaling are inside. This is the
reference that native C, ONNX and firmware are compared with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from agentkd import dists
from agentkd.errors import NumbersError, SpecError
from agentkd.spec import (
    BoxSpec,
    DiscreteSpec,
    MultiBinarySpec,
    MultiDiscreteSpec,
    Spec,
)
from agentkd.types import (
    ActionDist,
    Actions,
    Bernoulli,
    Categorical,
    Floats,
    MultiCategorical,
    Point,
)

Activation = Literal["relu", "tanh", "silu", "elu", "none"]
Head = Literal["categorical", "multicategorical", "bernoulli", "squashed", "clipped"]


def head_for(spec: Spec, *, squashed: bool = True) -> Head:
    """Choose the head that fits the actions.

    Args:
        spec: The environment.
        squashed: For bounded boxes, end in tanh rather than in a clip.
    """
    match spec.action:
        case DiscreteSpec():
            return "categorical"
        case MultiDiscreteSpec():
            return "multicategorical"
        case MultiBinarySpec():
            return "bernoulli"
        case BoxSpec() as box:
            return "squashed" if squashed and box.bounded else "clipped"


@dataclass(frozen=True, slots=True)
class Layer:
    """y = activation(weight x + bias); weight (out, in), bias (out,), float32."""

    weight: Floats
    bias: Floats
    activation: Activation


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


@dataclass(frozen=True, slots=True, eq=False)
class Frozen:
    """An executor whose weights are fixed. It is a `Policy`.

    Attributes:
        architecture: What it was made from, such as "mlp:64,64".
        spec: The environment it is for.
        mean: Subtracted from each observation, shape (obs,).
        scale: Multiplies the difference, shape (obs,).
        clip: The normalised observation stays within [-clip, clip].
        layers: The network, first to last.
        head: How the last layer's numbers become an action.
        version: Counts the swaps that led to it.
    """

    architecture: str
    spec: Spec
    mean: Floats
    scale: Floats
    clip: float
    layers: tuple[Layer, ...]
    head: Head
    version: int = 0

    def __post_init__(self) -> None:
        """Check that the shapes follow one another."""
        size = self.spec.obs.size
        if self.mean.shape != (size,) or self.scale.shape != (size,):
            raise SpecError(
                f"The normaliser has shapes {self.mean.shape} and {self.scale.shape}; "
                f"observations have {size} numbers."
            )
        for index, layer in enumerate(self.layers):
            out = len(layer.bias)
            if layer.weight.shape != (out, size):
                raise SpecError(
                    f"Layer {index} has weights {layer.weight.shape}; "
                    f"({out}, {size}) was expected."
                )
            size = out
        if size != dists.action_size(self.spec.action):
            raise SpecError(
                f"The last layer gives {size} numbers; {self.spec.action} needs "
                f"{dists.action_size(self.spec.action)}."
            )

    @property
    def parameters(self) -> int:
        """How many trained numbers act: weights and biases, not the normaliser."""
        return sum(layer.weight.size + layer.bias.size for layer in self.layers)

    def outputs(self, obs: Floats) -> Floats:
        """The last layer's numbers for observations (batch, obs): (batch, out)."""
        x: Floats = np.clip((obs - self.mean) * self.scale, -self.clip, self.clip)
        for layer in self.layers:
            x = activate(layer.activation, x @ layer.weight.T + layer.bias)
        return x

    def __call__(self, obs: Floats, /) -> ActionDist:
        """Give the action distribution for observations (batch, obs)."""
        return distribution(self.head, self.outputs(obs), self.spec)

    def act(self, obs: Any) -> Any:
        """Decide for one flat observation (obs,): an int, or an array of its own shape.

        Raises:
            NumbersError: If the observation holds NaN or infinity.
        """
        flat = np.asarray(obs, np.float32)
        if not np.isfinite(flat).all():
            raise NumbersError("The observation holds NaN or infinity.")
        return one_action(dists.mode(self(flat[None]), self.spec.action), self.spec)

    def vector(self) -> Floats:
        """All numbers in one vector: mean, scale, then weight and bias by layer."""
        pieces = [self.mean, self.scale]
        for layer in self.layers:
            pieces += [layer.weight.ravel(), layer.bias]
        return np.concatenate(pieces).astype(np.float32)

    def with_vector(self, vector: Floats, version: int) -> Frozen:
        """The same executor with the numbers of `vector` and another version.

        Raises:
            SpecError: If the vector has another length.
            NumbersError: If it holds NaN or infinity.
        """
        if vector.shape != self.vector().shape:
            raise SpecError(
                f"{vector.shape} numbers for an executor of {self.vector().shape}."
            )
        if not np.isfinite(vector).all():
            raise NumbersError("The weights hold NaN or infinity.")
        taken = 0

        def take(like: Floats) -> Floats:
            nonlocal taken
            piece = vector[taken : taken + like.size].reshape(like.shape)
            taken += like.size
            return np.array(piece, np.float32)

        mean, scale = take(self.mean), take(self.scale)
        layers = tuple(
            Layer(take(layer.weight), take(layer.bias), layer.activation)
            for layer in self.layers
        )
        return replace(self, mean=mean, scale=scale, layers=layers, version=version)


def distribution(head: Head, outputs: Floats, spec: Spec) -> ActionDist:
    """Turn the last layer's numbers, (batch, out), into an action distribution."""
    match head:
        case "categorical":
            return Categorical(outputs)
        case "multicategorical":
            assert isinstance(spec.action, MultiDiscreteSpec)
            return MultiCategorical(outputs, spec.action.sizes)
        case "bernoulli":
            return Bernoulli(outputs)
        case "squashed":
            return Point(dists.unsquash(np.tanh(outputs), spec.action))
        case "clipped":
            return Point(outputs)


def one_action(actions: Actions, spec: Spec) -> Any:
    """Take the only row of `actions`: an int for one choice, else an array."""
    return int(actions[0]) if isinstance(spec.action, DiscreteSpec) else actions[0]
