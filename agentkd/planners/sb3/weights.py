"""Takes a save's weights apart into layers, and notices what is left."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agentkd.errors import LoadError, did_you_mean
from agentkd.planners.sb3.file import Weights
from agentkd.planners.sb3.network import REMEDY, Linear, Lstm, NatureCnn
from agentkd.types import Floats


class Taker:
    """Takes a save's weights by name, and knows which were left."""

    def __init__(self, weights: Weights) -> None:
        """Start with nothing taken."""
        self._weights = weights
        self._taken: dict[str, NDArray[np.float32]] = {}

    @property
    def parameters(self) -> int:
        """How many numbers were taken."""
        return sum(array.size for array in self._taken.values())

    def names(self, prefix: str) -> list[str]:
        """List the weights whose name begins so."""
        return [name for name in self._weights if name.startswith(prefix)]

    def has(self, name: str) -> bool:
        """Whether there is an array of this name."""
        return name in self._weights

    def left(self, ignored: tuple[str, ...]) -> list[str]:
        """List the weights that nothing took, without those that begin so."""
        return [
            name
            for name in self._weights
            if name not in self._taken and not name.startswith(ignored)
        ]

    def optional(self, name: str) -> Floats | None:
        """Take an array if it is there."""
        found = self._weights.get(name)
        if found is not None:
            self._taken[name] = found
        return found

    def take(self, name: str) -> Floats:
        """Take an array.

        Raises:
            LoadError: If it is not there.
        """
        found = self.optional(name)
        if found is None:
            raise LoadError(f"The save has no weights {name!r}{did_you_mean(name, self._weights)}")
        return found

    def linear(self, name: str, inputs: int | None = None) -> Linear:
        """Take a linear layer: `name`.weight and, where there is one, `name`.bias.

        Raises:
            LoadError: If it is missing or does not take so many inputs.
        """
        weight = self.take(f"{name}.weight")
        bias = self.optional(f"{name}.bias")
        if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
            raise LoadError(f"{name!r} is not a linear layer: weights {weight.shape}.")
        if inputs is not None and weight.shape[1] != inputs:
            raise LoadError(f"{name!r} takes {weight.shape[1]} numbers; {inputs} come from before.")
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
        which become part of the layer that follows.

        Returns:
            The layers, and the last renormalisation as a diagonal layer; None where there are none.
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
                slope = scale / np.sqrt(var + np.float32(epsilon))
                before = Linear(np.diag(slope), bias - mean * slope)
            else:
                layer = self.linear(at, inputs)
                layers.append(layer if before is None else layer.after(before))
                before, inputs = None, len(layer.weight)
        return tuple(layers), before

    def lstm(self, prefix: str, inputs: int) -> Lstm:
        """Take the cells of a torch.nn.LSTM."""
        cells: list[tuple[Linear, Linear]] = []
        while f"{prefix}weight_ih_l{len(cells)}" in self._weights:
            n = len(cells)
            inward, around = (
                Linear(
                    self.take(f"{prefix}weight_{way}_l{n}"),
                    self.optional(f"{prefix}bias_{way}_l{n}"),
                )
                for way in ("ih", "hh")
            )
            if inward.weight.shape[1] != inputs:
                raise LoadError(f"The LSTM takes {inward.weight.shape[1]} numbers, not {inputs}.")
            inputs = around.weight.shape[1]
            cells.append((inward, around))
        if not cells:
            raise LoadError(f"The save has no LSTM {prefix!r}.")
        return Lstm(tuple(cells))

    def cnn(self, prefix: str, shape: tuple[int, ...]) -> NatureCnn:
        """Take a NatureCNN for images of a shape, (channels, height, width)."""
        import torch

        convolutions = tuple(
            (
                torch.from_numpy(self.take(f"{prefix}cnn.{index}.weight")),
                torch.from_numpy(self.take(f"{prefix}cnn.{index}.bias")),
            )
            for index in (0, 2, 4)
        )
        channels = int(convolutions[0][0].shape[1])
        if len(shape) != 3 or channels != shape[0]:
            raise LoadError(f"The CNN takes {channels} channels; an image has {shape}.")
        return NatureCnn(convolutions, self.linear(f"{prefix}linear.0"))
