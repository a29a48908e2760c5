"""What a term of the distillation's loss is: options first, then a loss made of them.

A `Term` is a frozen dataclass of options. Once it is known what the planner answers with,
`Term.build` makes a `Loss` of it, which gives a number for each label of a batch;
`objective.Objective` adds them up by their weights. A term that compares nothing but the executor's
last numbers with the planner's makes a `Divergence`, and these are the floor that the others stand
on (`Ground.base`).

A term that needs what lies inside the executor registers forward hooks on `Ground.network` when it
is built: `Batch.outputs` has just come through that network. One that needs the planner itself asks
`Ground.planner`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from agentkd.executors.executor import Executor, Head
from agentkd.spec import ActionSpec
from agentkd.types import Kind


@dataclass(frozen=True, slots=True)
class Batch:
    """Labels, and what the executor says to them.

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
        """Begin without numbers to show."""
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


@dataclass(frozen=True, slots=True)
class Ground:
    """What is known when the losses are made.

    Attributes:
        kind: Of the planner's answers.
        head: How the executor's last numbers become an action.
        action: What is acted with.
        obs: How many numbers an observation has.
        network: The executor that learns; its buffers `mean` and `scale` normalise.
        seed: For whatever a loss draws.
        planner: What answers, where it is at hand; else None.
        base: The weighted sum of the divergences; None only for those themselves.
    """

    kind: Kind
    head: Head
    action: ActionSpec
    obs: int
    network: nn.Module
    seed: int = 0
    planner: Any = None
    base: Divergence | None = None

    @classmethod
    def of(cls, executor: Executor, kind: Kind, network: nn.Module, **more: Any) -> Ground:
        """Return what is known of an executor and the planner's kind of answer."""
        spec = executor.spec
        return cls(kind, executor.head, spec.action, spec.obs.size, network, **more)

    def generator(self) -> torch.Generator:
        """Make a generator of this ground's seed."""
        return torch.Generator().manual_seed(self.seed)

    def normalised(self, obs: Tensor) -> Tensor:
        """Observations in units of their spread, about their mean, (batch, obs)."""
        mean, scale = self.network.mean, self.network.scale
        assert isinstance(mean, Tensor)
        assert isinstance(scale, Tensor)
        return (obs - mean) * scale

    def spread(self) -> Tensor:
        """The unit of each number of an observation, as the normaliser has it now."""
        scale = self.network.scale
        assert isinstance(scale, Tensor)
        return 1.0 / scale


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
    """A term of nothing but the executor's last numbers and the planner's answer."""

    __slots__ = ()

    @abstractmethod
    def build(self, ground: Ground) -> Divergence:
        """Make the divergence.

        Raises:
            ConfigError: If the term does not go with planner or executor.
        """


@dataclass(frozen=True, slots=True)
class Weighted:
    """A term and its factor in the sum.

    Attributes:
        term: The term.
        weight: Its factor, above 0.
    """

    term: Term
    weight: float = 1.0


Terms = tuple[Weighted, ...]
