"""The same answer when the observation is a little off."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from agentkd.distillation import divergence as d
from agentkd.distillation.terms.action import BoxUnits
from agentkd.distillation.terms.term import Batch, Ground, Loss, Term
from agentkd.errors import ConfigError
from agentkd.measure.perturb import Way, perturbed
from agentkd.spec import BoxSpec

_MOST_STEPS = 1000


@dataclass(frozen=True, slots=True)
class Robust(Term):
    """The divergence at an observation near the labelled one, found by an attack.

    With to=planner it is KL(planner(s) || executor(s + δ)), as Goldblum et al. 2020, "Adversarially
    robust distillation"; with to=itself KL(executor(s) || executor(s + δ)), the regulariser of
    Zhang et al. 2020, "Robust deep reinforcement learning against adversarial perturbations on
    state observations", which needs no label. By "noise" it is augmentation: a label holds for what
    lies near, too.

    Attributes:
        by: How δ is found: by chance, "noise", or against the executor, "fgsm", "pgd".
        eps: How far, in units of the observations' spread.
        steps: Of "pgd", 1 to 1,000.
        to: The policy whose answer has to hold there.
    """

    by: Way = "pgd"
    eps: float = 0.1
    steps: int = 3
    to: Literal["planner", "itself"] = "planner"

    def __post_init__(self) -> None:
        """Validate the fields."""
        if not 0 < self.eps < math.inf or not 1 <= self.steps <= _MOST_STEPS:
            raise ConfigError(
                f"eps={self.eps}, steps={self.steps}: eps is above 0, steps are 1 to {_MOST_STEPS}."
            )

    def build(self, ground: Ground) -> Loss:
        """Make the loss."""
        return Nearby(self, ground)


@final
class Nearby(Loss):
    """`Robust` at work."""

    def __init__(self, term: Robust, ground: Ground) -> None:
        """Keep the answer that counts."""
        super().__init__()
        assert ground.base is not None
        self._term, self._ground, self._base = term, ground, (ground.base,)
        self._own = OwnAnswer(ground)
        self._random = ground.generator()

    def forward(self, batch: Batch) -> Tensor:
        """Give the divergence of each label nearby, (batch,)."""
        term, own = self._term, batch.outputs.detach()

        def loss(obs: Tensor) -> Tensor:
            outputs = batch.forward(obs)
            if term.to == "itself":
                return self._own.apart(own, outputs)
            return self._base[0].rows(outputs, batch.planner)

        near = perturbed(
            loss,
            batch.obs,
            self._ground.spread(),
            by=term.by,
            eps=term.eps,
            steps=term.steps,
            generator=self._random,
        )
        rows = loss(near.detach())
        self.shown["apart"] = rows.detach().mean().item()
        return rows


@final
class OwnAnswer:
    """How far an executor's answer is from another of its own."""

    def __init__(self, ground: Ground) -> None:
        """Remember how the answers lie."""
        self._kind, self._action = ground.kind, ground.action
        self._units = None
        if isinstance(ground.action, BoxSpec):
            self._units = BoxUnits(ground, ground.action)

    def apart(self, before: Tensor, after: Tensor) -> Tensor:
        """KL(before || after) of choices, squared error of actions in a box, (batch,).

        Args:
            before: The executor's last numbers, (batch, out).
            after: The same for other observations.
        """
        if self._units is not None:
            moved = self._units.executor(after) - self._units.executor(before)
            return moved.square().sum(1)
        pairs = zip(
            d.blocks(self._kind, self._action, after),
            d.blocks(self._kind, self._action, before),
            strict=True,
        )
        return torch.stack([d.sharpened(new, old, 1.0) for new, old in pairs]).sum(0)
