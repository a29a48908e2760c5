"""The same answer when the observation is a little off."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, final

from torch import Tensor

from agentkd.distillation.terms.answers import over_choices, sharpened
from agentkd.distillation.terms.term import Batch, Ground, Loss, Term
from agentkd.errors import check_range
from agentkd.measure.perturb import Way, perturbed

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
        check_range("eps", self.eps, above=0, below=math.inf)
        check_range("steps", self.steps, least=1, most=_MOST_STEPS, whole=True)

    def build(self, ground: Ground) -> Loss:
        """Make the loss."""
        return _Nearby(self, ground)


@final
class _Nearby(Loss):
    """`Robust` at work."""

    def __init__(self, term: Robust, ground: Ground) -> None:
        super().__init__()
        self._term, self._ground, self._moved = term, ground, moved_by(ground)
        self._random = ground.generator()

    def forward(self, batch: Batch) -> Tensor:
        term, ground, own = self._term, self._ground, batch.outputs.detach()

        def loss(obs: Tensor) -> Tensor:
            outputs = batch.forward(obs)
            if term.to == "itself":
                return self._moved(own, outputs)
            assert ground.base is not None
            return ground.base.rows(outputs, batch.planner)

        near = perturbed(
            loss,
            batch.obs,
            ground.spread(),
            by=term.by,
            eps=term.eps,
            steps=term.steps,
            generator=self._random,
        )
        rows = loss(near.detach())
        self.shown["apart"] = rows.detach().mean().item()
        return rows


def moved_by(ground: Ground) -> Callable[[Tensor, Tensor], Tensor]:
    """Give how far an executor's answer is from another of its own, (batch,).

    KL(before || after) of choices, squared error of actions in a box. Both sides are the executor's
    last numbers, (batch, out), for different observations.
    """
    units = ground.units()

    def moved(before: Tensor, after: Tensor) -> Tensor:
        if units is not None:
            return (units.executor(after) - units.executor(before)).square().sum(1)
        return over_choices(ground, partial(sharpened, temperature=1.0), after, before)

    return moved
