"""The planner's answer, by whichever divergence fits it."""

from __future__ import annotations

from dataclasses import dataclass

from agentkd.distillation.terms.action import Action
from agentkd.distillation.terms.choices import CHOICES, Soft
from agentkd.distillation.terms.term import Divergence, DivergenceTerm, Ground


@dataclass(frozen=True, slots=True)
class Match(DivergenceTerm):
    """`Soft` for choices and `Action` for boxes, both as they are by default."""

    def build(self, ground: Ground) -> Divergence:
        """Make the divergence."""
        term = Soft() if ground.kind in CHOICES else Action()
        return term.build(ground)
