"""Answers that change little with the observation."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from agentkd.distillation.terms.action import BoxUnits
from agentkd.distillation.terms.term import Batch, Ground, Loss, Term
from agentkd.errors import ConfigError
from agentkd.spec import BoxSpec

MOST_PROJECTIONS = 4096
"""Random projections in one step; more would make a step last minutes."""


@dataclass(frozen=True, slots=True)
class Smooth(Term):
    """The squared norm of the executor's Jacobian, in units of observations' spread.

    Of logits, or of actions in halves of the box. It is estimated by random projections: |J|² = n
    E|vJ|² for unit vectors v and n outputs (Hoffman et al. 2019, "Robust learning with Jacobian
    regularization").

    Attributes:
        projections: Random projections per step, 1 to 1,024.
    """

    projections: int = 1

    def __post_init__(self) -> None:
        """Validate the fields."""
        if not 1 <= self.projections <= MOST_PROJECTIONS:
            raise ConfigError(f"projections is {self.projections}; it is 1 to {MOST_PROJECTIONS}.")

    def build(self, ground: Ground) -> Loss:
        """Make the loss."""
        return Jacobian(self, ground)


@final
class Jacobian(Loss):
    """`Smooth` at work."""

    def __init__(self, term: Smooth, ground: Ground) -> None:
        """Remember what the answers are."""
        super().__init__()
        self._term, self._ground = term, ground
        self._units = None
        if isinstance(ground.action, BoxSpec):
            self._units = BoxUnits(ground, ground.action)
        self._random = ground.generator()
        self._size = float("nan")

    def forward(self, batch: Batch) -> Tensor:
        """Give the squared norm at each observation, (batch,)."""
        obs = batch.obs.detach().requires_grad_()
        with twice():
            answers = batch.forward(obs)
        if self._units is not None:
            answers = self._units.executor(answers)
        unit, n = self._ground.spread(), answers.shape[1]
        found = []
        for _ in range(self._term.projections):
            drawn = torch.randn(answers.shape, generator=self._random)
            along = drawn / drawn.norm(dim=1, keepdim=True)
            (slope,) = torch.autograd.grad(answers, obs, along, create_graph=True)
            found.append(n * (slope * unit).square().sum(1))
        rows = torch.stack(found).mean(0)
        self._size = rows.detach().mean().item()
        return rows

    def numbers(self) -> Mapping[str, float]:
        """The mean squared norm."""
        return {"norm": self._size}


def twice() -> AbstractContextManager[None]:
    """Compute attention so that its gradient has one; torch's fast way has none."""
    return sdpa_kernel(SDPBackend.MATH)
