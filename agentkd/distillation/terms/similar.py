"""States that are alike to the planner are alike to the executor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from agentkd.distillation.terms.cache import Remembered, inference
from agentkd.distillation.terms.term import Batch, Ground, Loss, Term
from agentkd.errors import ConfigError
from agentkd.executors.network import Network, Trace
from agentkd.planners.torch_view import opened


@dataclass(frozen=True, slots=True)
class Similar(Term):
    """Squared distance between similarities of a batch's states, by hidden numbers.

    G = A Aᵀ of the last hidden layer's numbers A, (batch, width), each row brought to length 1; a
    label's loss is Σ_j (G_T − G_S)²_ij, which is the batch's size times that of
    "Similarity-preserving knowledge distillation" (ICCV 2019), eq. 1 to 4. Widths and kinds of
    layers may differ.
    """

    def build(self, ground: Ground) -> Loss:
        """Make the loss.

        Raises:
            ConfigError: If the planner's or the executor's layers are not at hand.
        """
        return Similarities(ground)


@final
class Similarities(Loss):
    """`Similar` at work."""

    def __init__(self, ground: Ground) -> None:
        """Open the planner."""
        super().__init__()
        network = ground.network
        if not isinstance(network, Network) or network.memory:
            raise ConfigError(
                "The term 'similar' is for executors without a memory, such as mlp:64,64."
            )
        planner = opened(ground.planner, "The term 'similar'")

        def inside(obs: Tensor) -> Tensor:
            return _hidden(planner.trace(obs), "planner")

        self._network = (network,)
        self._planner = Remembered(inference(inside))
        nothing = torch.zeros(1, ground.obs)
        inference(inside)(nothing)
        inference(self._mine)(nothing)
        self._apart = float("nan")

    def _mine(self, obs: Tensor) -> Tensor:
        trace, network = Trace(), self._network[0]
        network.from_normalised(network.normalise(obs), trace)
        return _hidden(trace, "executor")

    def forward(self, batch: Batch) -> Tensor:
        """Give the squared distance of each label's row, (batch,)."""
        theirs = similarities(self._planner(batch.obs))
        rows = (similarities(self._mine(batch.obs)) - theirs).square().sum(1)
        self._apart = rows.detach().mean().item()
        return rows

    def numbers(self) -> Mapping[str, float]:
        """The mean distance, and how many labels the planner was looked into for."""
        return {"apart": self._apart, "looked": float(self._planner.asked)}


def similarities(hidden: Tensor) -> Tensor:
    """How alike the states of a batch are by (batch, width): (batch, batch)."""
    return functional.normalize(hidden @ hidden.T, dim=1)


def _hidden(trace: Trace, whose: str) -> Tensor:
    if len(trace.layers) < 2:
        raise ConfigError(
            f"The term 'similar' compares hidden layers, and the {whose} shows none. "
            "Use 'slopes', which needs none."
        )
    return trace.layers[-2]
