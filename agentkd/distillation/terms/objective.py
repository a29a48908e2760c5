"""The sum of the terms: what a distiller minimises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn

from agentkd.distillation.terms.term import Batch, Divergence, DivergenceTerm, Ground, Terms
from agentkd.distillation.terms.text import name_of, to_text
from agentkd.errors import ConfigError


@final
class _Base(Divergence):
    """The weighted sum of the divergences."""

    def __init__(self, weights: Sequence[float], parts: Sequence[Divergence]) -> None:
        super().__init__()
        self._parts = tuple(zip(weights, parts, strict=True))
        self.parts = nn.ModuleList(parts)

    def observe(self, planner: Tensor) -> None:
        for _, part in self._parts:
            part.observe(planner)

    def rows(self, outputs: Tensor, planner: Tensor) -> Tensor:
        found = [weight * part.rows(outputs, planner) for weight, part in self._parts]
        return found[0] if len(found) == 1 else torch.stack(found).sum(0)


@final
class Objective(nn.Module):
    """The weighted sum of all terms, for each label of a batch.

    The divergences are made first; the others are given their sum as `Ground.base`.
    """

    def __init__(self, terms: Terms, ground: Ground) -> None:
        """Make the losses.

        Raises:
            ConfigError: If a term does not go with planner or executor, or none of them holds the
                executor to the planner's answers.
        """
        super().__init__()
        self._mean = float("nan")
        floor = [(e.weight, e.term) for e in terms if isinstance(e.term, DivergenceTerm)]
        rest = [(e.weight, e.term) for e in terms if not isinstance(e.term, DivergenceTerm)]
        if not floor:
            raise ConfigError(
                f"Nothing in {to_text(terms)!r} holds the executor to the planner's "
                f"answers. Write 'match + {to_text(terms)}'."
            )
        parts = [term.build(ground) for _, term in floor]
        self.base = _Base([weight for weight, _ in floor], parts)
        whole = replace(ground, base=self.base)
        self._others = [(weight, term.build(whole)) for weight, term in rest]
        self.others = nn.ModuleList([loss for _, loss in self._others])
        names = [name_of(term) for _, term in (*floor, *rest)]
        self._named = list(zip(names, [*parts, *(loss for _, loss in self._others)], strict=True))

    def forward(self, batch: Batch) -> Tensor:
        """Give the loss of each label, (batch,)."""
        total: Tensor = self.base(batch)
        self._mean = total.detach().mean().item()
        for weight, loss in self._others:
            total = total + weight * loss(batch)
        return total

    def numbers(self) -> Mapping[str, float]:
        """Numbers of the last batch: "divergence", and the terms' as "term.number"."""
        found = {"divergence": self._mean}
        for name, loss in self._named:
            found |= {f"{name}.{key}": n for key, n in loss.numbers().items()}
        return found

    def restart(self) -> None:
        """Forget optimisers' averages: the weights went back to earlier ones."""
        for _, loss in self._named:
            loss.restart()
