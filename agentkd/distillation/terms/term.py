"""What a term of the distillation's loss is: options, a loss made of them, and the sum of all.

A `Term` is a frozen dataclass of options. Once the planner's kind of answer is known, `Term.build`
makes a `Loss` of it, a number for each label of a batch; `Objective` adds them up by
their weights. A term that compares only the executor's last numbers with the planner's makes a
`Divergence`, and these are the floor that the others stand on (`Ground.base`). A term that needs
the planner itself asks `Ground.planner`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from agentkd.distillation.terms.text import Terms, name_of, to_text
from agentkd.errors import ConfigError
from agentkd.executors.executor import Executor, Head
from agentkd.spec import ActionSpec, BoxSpec
from agentkd.types import Kind


@dataclass(frozen=True, slots=True)
class Batch:
    """Labels, and the executor's answers to them.

    Attributes:
        obs: Observations in the environment's units, (batch, obs).
        outputs: The executor's last numbers for them, (batch, out), with a gradient.
        planner: The planner's packed distributions, (batch, width).
        forward: The executor's last numbers for other observations in these places.
        progress: The share of the whole run that is over, 0 to 1.
    """

    obs: Tensor
    outputs: Tensor
    planner: Tensor
    forward: Callable[[Tensor], Tensor]
    progress: float = 0.0


class Loss(nn.Module, ABC):
    """One number a label, (batch,). What it learns or averages is in its state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: dict[str, float] = {}

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """Give the loss of each label, (batch,)."""

    def numbers(self) -> Mapping[str, float]:
        """Give numbers of the last batch to show, by name."""
        return self.shown

    def restart(self) -> None:
        """Forget an optimiser's averages: the weights went back to earlier ones."""


class Divergence(Loss):
    """How far the executor's last numbers are from the planner's answer."""

    @abstractmethod
    def rows(self, outputs: Tensor, planner: Tensor) -> Tensor:
        """Give one non-negative number a row, (batch,), and remember nothing."""

    def observe(self, planner: Tensor) -> None:
        """Look at labels, (batch, width), before `rows` is asked about them."""

    def forward(self, batch: Batch) -> Tensor:
        """Give the divergence of each label, (batch,)."""
        self.observe(batch.planner)
        return self.rows(batch.outputs, batch.planner)


@final
class BoxUnits:
    """A box of actions in which half of each dimension counts 1.

    A dimension without room or without bounds is measured in its own unit.

    Attributes:
        half: Half of each dimension, in the environment's units.
        middle: The middle of each; 0 where it has no bounds.
    """

    def __init__(self, box: BoxSpec, kind: Kind, head: Head) -> None:
        self.size = len(box.low)
        self.low, self.high = torch.tensor(box.low), torch.tensor(box.high)
        room = self.high - self.low
        bounded = room.isfinite()
        self.half = torch.where(bounded & (room > 0), room / 2, torch.ones_like(room))
        self.middle = torch.where(bounded, (self.high + self.low) / 2, 0.0)
        self._kind, self._squashed = kind, head == "squashed"

    def planner(self, packed: Tensor) -> Tensor:
        """The planner's mean actions, (batch, size), within [-1, 1] if bounded."""
        mean = packed[:, : self.size]
        if self._kind == "squashed":
            return torch.tanh(mean)
        return (mean.clamp(self.low, self.high) - self.middle) / self.half

    def free(self, packed: Tensor) -> Tensor:
        """Where the box does not clip the planner's mean actions, (batch, size)."""
        mean = packed[:, : self.size]
        if self._kind == "squashed":
            return torch.ones_like(mean, dtype=torch.bool)
        return (mean > self.low) & (mean < self.high)

    def executor(self, outputs: Tensor) -> Tensor:
        """The executor's actions, (batch, size), not clipped where it clips."""
        if self._squashed:
            return torch.tanh(outputs)
        return (outputs - self.middle) / self.half

    def apart(self, outputs: Tensor, packed: Tensor) -> Tensor:
        """The executor's actions minus the planner's, (batch, size).

        It is 0 where both want more than the box allows: the clip makes them equal.
        """
        target = self.planner(packed)
        apart = self.executor(outputs) - target
        if self._squashed:
            return apart
        low, high = ((end - self.middle) / self.half for end in (self.low, self.high))
        agree = ((target >= high) & (apart > 0)) | ((target <= low) & (apart < 0))
        return torch.where(agree, torch.zeros_like(apart), apart)


@dataclass(frozen=True, slots=True)
class Ground:
    """What is known when the losses are made.

    Attributes:
        kind: Of the planner's answers.
        head: How the executor's last numbers become an action.
        action: The environment's actions.
        obs: How many numbers an observation has.
        network: The executor that learns; its buffers `mean` and `scale` normalise.
        seed: For whatever a loss draws.
        planner: The planner's policy, where it is at hand; else None.
        base: The weighted sum of the divergences; None only for those themselves.
    """

    kind: Kind
    head: Head
    action: ActionSpec
    obs: int
    network: Any
    seed: int = 0
    planner: Any = None
    base: Divergence | None = None

    @classmethod
    def of(cls, executor: Executor, kind: Kind, network: nn.Module, **more: Any) -> Ground:
        """Return what is known of an executor and the planner's kind of answer."""
        spec = executor.spec
        return cls(kind, executor.head, spec.action, spec.obs.size, network, **more)

    def units(self) -> BoxUnits | None:
        """Measure the box of actions; None for choices."""
        if isinstance(self.action, BoxSpec):
            return BoxUnits(self.action, self.kind, self.head)
        return None

    def generator(self) -> torch.Generator:
        """Make a generator of this ground's seed."""
        return torch.Generator().manual_seed(self.seed)

    def normalised(self, obs: Tensor) -> Tensor:
        """Observations in units of their spread, about their mean, (batch, obs)."""
        found: Tensor = (obs - self.network.mean) * self.network.scale
        return found

    def spread(self) -> Tensor:
        """The unit of each number of an observation, as the normaliser has it now."""
        found: Tensor = 1.0 / self.network.scale
        return found


class Term(ABC):
    """The options of one term. Concrete ones are frozen dataclasses."""

    __slots__ = ()

    @abstractmethod
    def build(self, ground: Ground) -> Loss:
        """Make the loss.

        Raises:
            ConfigError: If the term does not go with planner or executor.
        """


class DivergenceTerm(Term):
    """A term of only the executor's last numbers and the planner's answer."""

    __slots__ = ()

    @abstractmethod
    def build(self, ground: Ground) -> Divergence:
        """Make the divergence; raises as `Term.build`."""


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
        self.named = list(zip(names, [*parts, *(loss for _, loss in self._others)], strict=True))

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
        for name, loss in self.named:
            found |= {f"{name}.{key}": n for key, n in loss.numbers().items()}
        return found

    def restart(self) -> None:
        """Forget optimisers' averages: the weights went back to earlier ones."""
        for _, loss in self.named:
            loss.restart()
