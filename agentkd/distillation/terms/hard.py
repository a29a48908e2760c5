"""Hard labels: the planner's best choice alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from agentkd.distillation import divergence as d
from agentkd.distillation.terms.soft import need_choices
from agentkd.distillation.terms.term import Divergence, DivergenceTerm, Ground
from agentkd.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Hard(DivergenceTerm):
    """Cross-entropy with the planner's best choice, for choices.

    Attributes:
        smoothing: The share of probability that the label leaves to all alike (Szegedy et al. 2016,
            "Rethinking the Inception Architecture", 7).
    """

    smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Validate the fields."""
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"smoothing is {self.smoothing}; it is a share, below 1.")

    def build(self, ground: Ground) -> Divergence:
        """Make the divergence.

        Raises:
            ConfigError: If the planner does not choose.
        """
        need_choices("hard", ground)
        return HardLabels(self, ground)


@final
class HardLabels(Divergence):
    """`Hard` at work."""

    def __init__(self, term: Hard, ground: Ground) -> None:
        """Remember how the choices lie."""
        super().__init__()
        self._smoothing = term.smoothing
        self._kind, self._action = ground.kind, ground.action

    def rows(self, outputs: Tensor, planner: Tensor) -> Tensor:
        """Give the cross-entropy of each row, (batch,), summed over its choices."""
        pairs = zip(
            d.blocks(self._kind, self._action, outputs),
            d.blocks(self._kind, self._action, planner),
            strict=True,
        )
        found = [d.hard_labels(mine, said, self._smoothing) for mine, said in pairs]
        return torch.stack(found).sum(0)
