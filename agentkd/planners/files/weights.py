"""A checkpoint's weights by name, and the layers that they make."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import final

import torch
from torch import Tensor, nn

from agentkd.errors import LoadError
from agentkd.planners.sb3.file import Weights

REMEDY = (
    "Export the policy as ONNX or TorchScript, or write a function planner(spec) that loads it, "
    "and give module:planner."
)
"""What to do about a network that its weights alone do not tell."""
Pair = tuple[Tensor, Tensor | None]
"""The weight (out, in) and the bias (out,) of a linear layer."""


@final
class Holder:
    """Takes a checkpoint's weights by name, and knows which were left."""

    def __init__(self, weights: Weights, where: str) -> None:
        self.where = where
        self._weights = weights
        self._taken: set[str] = set()
        self.parameters = 0
        """How many numbers were taken as weights of layers and memories."""

    def has(self, prefix: str) -> bool:
        """Whether a name begins so."""
        return any(name.startswith(prefix) for name in self._weights)

    def optional(self, name: str) -> Tensor | None:
        """Take an array if it is there."""
        found = self._weights.get(name)
        if found is None:
            return None
        self._taken.add(name)
        return torch.from_numpy(found)

    def take(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """Take an array, maybe of a shape; one that is not there or of another is refused."""
        found = self.optional(name)
        if found is None:
            raise LoadError(f"{self.where}: no weights {name!r}. {REMEDY}")
        if shape is not None and tuple(found.shape) != shape:
            raise LoadError(f"{self.where}: {name!r} has shape {tuple(found.shape)}, not {shape}.")
        return found

    def linear(self, name: str) -> Pair:
        """Take a linear layer."""
        weight, bias = self.take(f"{name}.weight"), self.optional(f"{name}.bias")
        if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
            shape = tuple(weight.shape)
            raise LoadError(
                f"{self.where}: {name!r} is no linear layer; its weights have shape {shape}. "
                f"{REMEDY}"
            )
        self.parameters += weight.numel() + (0 if bias is None else bias.numel())
        return weight, bias

    def chain(self, prefix: str) -> list[Pair]:
        """Take the linear layers `prefix`0, `prefix`2, …, with an activation between them."""
        pattern = re.compile(re.escape(prefix) + r"(\d+)\.weight")
        found = (pattern.fullmatch(name) for name in self._weights)
        numbers = sorted(int(match[1]) for match in found if match)
        if numbers != list(range(0, 2 * len(numbers), 2)):
            raise LoadError(
                f"{self.where}: the layers {prefix}{numbers} are not linear layers with an "
                f"activation after each. {REMEDY}"
            )
        return [self.linear(f"{prefix}{number}") for number in numbers]

    def memory(self, prefix: str) -> nn.LSTM | nn.GRU:
        """Take a torch.nn.LSTM or GRU: its gates tell which."""
        parts = ("weight_ih_l", "weight_hh_l", "bias_ih_l", "bias_hh_l")
        names = [n for n in self._weights if n.startswith(tuple(prefix + part for part in parts))]
        own = {name.removeprefix(prefix): self.take(name) for name in names}
        inward, around = (own.get(f"weight_{each}_l0") for each in ("ih", "hh"))
        if inward is None or around is None or inward.ndim != 2 or around.ndim != 2:
            raise LoadError(f"{self.where}: {prefix!r} is neither an LSTM nor a GRU. {REMEDY}")
        gates = len(around) / max(1, around.shape[1])
        if gates not in (3, 4):
            raise LoadError(f"{self.where}: {prefix!r} has {gates:g} gates, not 3 or 4. {REMEDY}")
        layers = sum(name.startswith("weight_ih_l") for name in own)
        # On no device: the weights keep their own memory.
        made: nn.LSTM | nn.GRU = (nn.GRU if gates == 3 else nn.LSTM)(
            inward.shape[1],
            around.shape[1],
            layers,
            bias="bias_ih_l0" in own,
            batch_first=True,
            device="meta",
        )
        wanted = {name: tuple(each.shape) for name, each in made.state_dict().items()}
        found = {name: tuple(each.shape) for name, each in own.items()}
        for name in sorted(wanted.keys() | found.keys()):
            shape, right = (each.get(name, "none") for each in (found, wanted))
            if shape != right:
                raise LoadError(
                    f"{self.where}: {prefix}{name} has the shape {shape}, not {right} as one of "
                    f"{layers} layers of {around.shape[1]} numbers. {REMEDY}"
                )
        made.load_state_dict(own, assign=True)
        self.parameters += sum(each.numel() for each in own.values())
        return made.requires_grad_(requires_grad=False).eval()

    def check_left(self, ignored: Iterable[str]) -> None:
        """Refuse weights that nothing took, except those whose names begin so."""
        begins = tuple(ignored)
        names = (name for name in self._weights if name not in self._taken)
        left = [name for name in names if not name.startswith(begins)]
        if left:
            raise LoadError(
                f"{self.where}: {', '.join(left[:4])} are no part of a network of linear layers "
                f"and a memory that is known. {REMEDY}"
            )
