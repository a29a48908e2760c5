"""What a distiller learns with: its options, and the engine that takes its gradient steps.

There are two engines. The native one is compiled C, for executors of dense layers and the usual
terms (`native_engine`). The other is torch, for everything (`torch_engine`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from agentkd.distillation.buffer import LabelBuffer
from agentkd.distillation.history import Histories
from agentkd.distillation.terms import Terms, parse_terms
from agentkd.errors import ConfigError, check_choice, check_range
from agentkd.executors.executor import Executor
from agentkd.fields import Fields
from agentkd.types import Floats, Kind

EngineName = Literal["auto", "native", "torch"]


@dataclass(frozen=True, slots=True)
class DistillerOptions:
    """How the distiller learns.

    Attributes:
        batch: Labels in one gradient step.
        learning_rate: Of Adam, at the start.
        floor: The share of it that is left at the end of the schedule.
        warmup: Gradient steps over which it rises.
        clip_gradient: The largest norm of a gradient.
        capacity: The most labels held in memory.
        least: Labels before the first step.
        seed: For which labels are drawn.
        ticks: With a memory: how long the sequences are that it learns from, so far does the
            gradient reach.
        burn_in: With a memory: ticks of a sequence that begins amid an episode in which the memory
            is made and nothing is learnt.
        terms: What is minimised, as `agentkd.distillation.terms` reads it: "match" alone, or
            "soft:tau=2 + 0.3 hard"; or the terms themselves.
        normalise: Whether the normaliser follows the labels.
        engine: What takes the gradient steps: "native", compiled C for executors of dense layers
            and the terms match, soft, hard and action; "torch" for everything; or "auto", the
            native one where it fits and there is a compiler.
    """

    batch: int = 512
    learning_rate: float = 3e-3
    floor: float = 0.01
    warmup: int = 50
    clip_gradient: float = 1.0
    capacity: int = 1_000_000
    least: int = 64
    seed: int = 0
    ticks: int = 32
    burn_in: int = 8
    terms: str | Terms = "match"
    normalise: bool = True
    engine: EngineName = "auto"

    def __post_init__(self) -> None:
        if self.terms != "match":  # reading others needs torch
            self.sum()
        check_range("batch", self.batch, least=1, whole=True)
        check_range("least", self.least, least=1, whole=True)
        for name in ("warmup", "capacity", "seed", "ticks", "burn_in"):
            check_range(name, getattr(self, name), least=0, whole=True)
        if self.capacity < self.least:
            raise ConfigError(
                f"capacity is {self.capacity}; learning begins at {self.least} labels, "
                "so that nothing would be learnt."
            )
        if self.burn_in >= self.ticks:
            raise ConfigError(
                f"burn_in is {self.burn_in}, ticks {self.ticks}: a sequence has to be "
                "longer than its burn-in."
            )
        check_range("learning_rate", self.learning_rate, above=0)
        check_choice("engine", self.engine, ("auto", "native", "torch"))

    def sum(self) -> Terms:
        """The terms, read if they are text.

        Raises:
            ConfigError: If they cannot be read.
        """
        return parse_terms(self.terms) if isinstance(self.terms, str) else self.terms


@dataclass(frozen=True, slots=True)
class Beside:
    """Labels that are learnt beside those of the buffer in every step, by the term `match`.

    Attributes:
        labels: Where they are drawn from.
        random: Draws them.
        amount: How many to draw now, and the weight of their mean loss.
    """

    labels: LabelBuffer
    random: np.random.Generator
    amount: Callable[[], tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Step:
    """How one gradient step is taken.

    Attributes:
        rate: Adam's learning rate.
        share: The weight of the new weights in their average.
        progress: The share of the whole run that is over, 0 to 1.
    """

    rate: float
    share: float
    progress: float


class Engine(Protocol):
    """An executor's weights, their average, and the optimiser that moves them."""

    name: str

    def expect(self, kind: Kind) -> None:
        """Make the losses for labels of a kind, once.

        Raises:
            ConfigError: If a term does not go with such labels or the executor.
        """

    def step(
        self, labels: LabelBuffer | Histories, random: np.random.Generator, how: Step
    ) -> Mapping[str, float]:
        """Take one gradient step on drawn labels.

        Returns:
            "loss", all that is minimised; "divergence", the terms' part of it; and what the terms
            tell as "term.number". A loss that is NaN or infinite says that the step is of no use.
        """

    def renormalise(self, mean: Floats, scale: Floats, *, compensate: bool) -> None:
        """Change the normaliser, and if `compensate` the first layer against it."""

    def freeze(self, version: int) -> Executor:
        """Return the averaged executor."""

    def warm_start(self, executor: Executor, *, afresh: bool = True) -> None:
        """Go on from an executor's weights, with a fresh average; `afresh`, a fresh optimiser."""

    def keep(self) -> None:
        """Remember the state to recover, if all of it is finite."""

    def recover(self) -> None:
        """Go back to what `keep` remembered, with a fresh optimiser."""

    def state(self) -> dict[str, Any]:
        """Return weights, averages and what terms learnt, as torch tensors."""

    def restore(self, state: Fields) -> None:
        """Go on from what `state` gave.

        Raises:
            LoadError: If it is of another executor.
        """
