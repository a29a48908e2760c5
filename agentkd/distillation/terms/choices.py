"""Labels of choices: soft ones, probabilities at a temperature, and hard ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from agentkd.distillation import divergence as d
from agentkd.distillation.terms.term import Divergence, DivergenceTerm, Ground
from agentkd.errors import ConfigError

_LOGITS, _GAPS = 1.0, 0.3
"""Temperatures where none is given: of logits, and of action values in gaps."""
_FOLLOW = 0.01
_EVERY = 50
CHOICES = ("categorical", "qvalues", "multicategorical", "bernoulli")


_HOTTEST = 1e6
"""The highest temperature: every answer is even there already."""


@dataclass(frozen=True, slots=True)
class Soft(DivergenceTerm):
    """KL from the planner's probabilities to the executor's, for choices.

    Attributes:
        tau: The temperature. Left out, it is 1 for logits and 0.3 gaps for action values; "auto"
            finds the one at which the planner's labels have `entropy`.
        unit: What `tau` counts in: "absolute", or "gap", the running median distance between the
            planner's best two; by default "gap" for action values.
        sides: "both": logits of planner and executor are divided by `tau`, and the divergence
            multiplied by its square (Hinton et al. 2015). "planner": only the planner's (Rusu et
            al. 2015). By default "planner" for action values and for "auto".
        entropy: What "auto" aims for: the labels' mean entropy as a share of chance's.
    """

    tau: float | Literal["auto"] | None = None
    unit: Literal["absolute", "gap"] | None = None
    sides: Literal["both", "planner"] | None = None
    entropy: float = 0.3

    def __post_init__(self) -> None:
        """Validate the fields."""
        if isinstance(self.tau, (int, float)) and not 0 < self.tau <= _HOTTEST:
            raise ConfigError(
                f"The temperature tau is {self.tau}; it is above 0, up to {_HOTTEST:g}."
            )
        if not 0 < self.entropy < 1:
            raise ConfigError(f"entropy is {self.entropy}; it is a share between 0 and 1.")
        if self.tau == "auto" and self.unit is not None:
            raise ConfigError(f"tau=auto finds its own unit; leave out unit={self.unit}.")

    def build(self, ground: Ground) -> Divergence:
        """Make the divergence."""
        need_choices("soft", ground)
        return SoftLabels(self, ground)


def need_choices(name: str, ground: Ground) -> None:
    """Refuse a term for choices where there are none.

    Raises:
        ConfigError: Always then.
    """
    if ground.kind not in CHOICES:
        raise ConfigError(
            f"The term {name!r} is for choices; this planner gives {ground.kind} "
            "distributions. Use 'action', or 'match', which fits either."
        )


@final
class SoftLabels(Divergence):
    """`Soft` at work; its temperature follows the labels."""

    def __init__(self, term: Soft, ground: Ground) -> None:
        """Begin without a temperature where the labels decide it."""
        super().__init__()
        self._term = term
        self._kind, self._action = ground.kind, ground.action
        values = ground.kind == "qvalues"
        auto = term.tau == "auto"
        self._unit = term.unit or ("gap" if values else "absolute")
        sides = term.sides or ("planner" if values or auto else "both")
        self.both = sides == "both"
        self._divergence = d.soft_labels if self.both else d.sharpened
        self._seen = 0
        self.tau: Tensor
        self.register_buffer("tau", torch.tensor(float("nan")))
        if self._unit == "absolute" and not auto:
            self.tau.fill_(self._factor())

    @property
    def follows(self) -> bool:
        """Whether the temperature follows the labels."""
        return self._term.tau == "auto" or self._unit == "gap"

    def _factor(self) -> float:
        if isinstance(self._term.tau, (int, float)):
            return float(self._term.tau)
        return _GAPS if self._kind == "qvalues" else _LOGITS

    @torch.no_grad()
    def observe(self, planner: Tensor) -> None:
        """Let the temperature follow."""
        if self._term.tau == "auto":
            self._seen += 1
            # A search in every step would cost more than the step.
            if self._seen % _EVERY and self._seen & (self._seen - 1):
                return
            choices = d.blocks(self._kind, self._action, planner)
            now, weight = d.temperature_for(choices, self._term.entropy), 0.3
        elif self._unit == "gap":
            now = d.gap(d.blocks(self._kind, self._action, planner)) * self._factor()
            weight = _FOLLOW
        else:
            return
        self.tau.copy_(now if self.tau.isnan() else self.tau.lerp(now, weight))

    def rows(self, outputs: Tensor, planner: Tensor) -> Tensor:
        """Give the divergence of each row, (batch,), summed over its choices."""
        pairs = zip(
            d.blocks(self._kind, self._action, outputs),
            d.blocks(self._kind, self._action, planner),
            strict=True,
        )
        best = (
            self._divergence(mine, said - said.amax(1, keepdim=True), self.tau)
            for mine, said in pairs
        )
        return torch.stack(list(best)).sum(0)

    def numbers(self) -> Mapping[str, float]:
        """The temperature."""
        return {"tau": self.tau.item()}


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
        """Make the divergence."""
        need_choices("hard", ground)
        return HardLabels(self, ground)


@final
class HardLabels(Divergence):
    """`Hard` at work."""

    def __init__(self, term: Hard, ground: Ground) -> None:
        """Remember how the choices lie."""
        super().__init__()
        self.smoothing = term.smoothing
        self._kind, self._action = ground.kind, ground.action

    def rows(self, outputs: Tensor, planner: Tensor) -> Tensor:
        """Give the cross-entropy of each row, (batch,), summed over its choices."""
        pairs = zip(
            d.blocks(self._kind, self._action, outputs),
            d.blocks(self._kind, self._action, planner),
            strict=True,
        )
        found = [d.hard_labels(mine, said, self.smoothing) for mine, said in pairs]
        return torch.stack(found).sum(0)
