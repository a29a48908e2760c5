"""Terms that hold the executor to the planner's answers: soft and hard labels, actions.

The functions are their formulas for choices. They take the executor's last numbers and the
planner's scores, both (batch, n), and give one non-negative number a row, (batch,).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, final

import torch
from torch import Tensor
from torch.nn import functional

from agentkd.distillation.terms.term import Divergence, DivergenceTerm, Ground
from agentkd.errors import ConfigError, check_range
from agentkd.spec import ActionSpec, MultiDiscreteSpec
from agentkd.types import Kind

_LOGITS, _GAPS = 1.0, 0.3
"""Temperatures where none is given: of logits, and of action values in gaps."""
_HOTTEST = 1e6
"""The highest temperature: every answer is even there already."""
_TINY = 1e-6
_HALVINGS = 30
_FOLLOW = 0.01
_EVERY = 50
_CHOICES = ("categorical", "qvalues", "multicategorical", "bernoulli")


def soft_labels(executor: Tensor, planner: Tensor, temperature: float | Tensor) -> Tensor:
    """τ² KL(softmax(planner/τ) || softmax(executor/τ)): both sides are tempered.

    Source: Hinton et al. 2015, "Distilling the knowledge in a neural network", 2. The factor keeps
    the gradient's size alike over temperatures (2.1).
    """
    return sharpened(executor / temperature, planner, temperature) * temperature**2


def sharpened(executor: Tensor, planner: Tensor, temperature: float | Tensor) -> Tensor:
    """KL(softmax(planner/τ) || softmax(executor)): only the planner is tempered.

    Source: Rusu et al. 2015, "Policy distillation", eq. 3.
    """
    target = functional.log_softmax(planner / temperature, dim=1)
    answer = functional.log_softmax(executor, dim=1)
    return (target.exp() * (target - answer)).sum(1)


def hard_labels(executor: Tensor, planner: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with the planner's best choice; `smoothing` is as in `Hard`."""
    return functional.cross_entropy(
        executor, planner.argmax(1), reduction="none", label_smoothing=smoothing
    )


def blocks(kind: Kind, action: ActionSpec, scores: Tensor) -> Sequence[Tensor]:
    """Split scores, (batch, width), into one choice after another, (batch, n) each.

    A yes or no is a choice of two, whose logits are 0 and the log-odds of yes.
    """
    if kind == "multicategorical":
        assert isinstance(action, MultiDiscreteSpec)
        return torch.split(scores, list(action.sizes), 1)
    if kind == "bernoulli":
        pairs = torch.stack([torch.zeros_like(scores), scores], 2)
        return pairs.unbind(1)
    return (scores,)


def over_choices(
    ground: Ground, formula: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, planner: Tensor
) -> Tensor:
    """Sum a formula over the choices of each row, (batch,)."""
    sides = (blocks(ground.kind, ground.action, scores) for scores in (outputs, planner))
    return torch.stack([formula(mine, said) for mine, said in zip(*sides, strict=True)]).sum(0)


def gap(choices: Sequence[Tensor]) -> Tensor:
    """The median distance between the best two of scores (batch, n): ()."""
    found = []
    for scores in choices:
        best = scores.topk(min(2, scores.shape[1]), dim=1).values
        found.append(best[:, 0] - best[:, -1])
    return torch.cat(found).median().clamp_min(_TINY)


def _entropy_share(choices: Sequence[Tensor], temperature: Tensor) -> Tensor:
    """How uncertain softmax(scores/τ) is: the mean entropy over that of chance, ()."""
    entropies, most = [], 0.0
    for scores in choices:
        log = functional.log_softmax(scores / temperature, dim=1)
        entropies.append(-(log.exp() * log).sum(1).mean())
        most += math.log(max(2, scores.shape[1]))
    return torch.stack(entropies).sum() / most


def temperature_for(choices: Sequence[Tensor], share: float) -> Tensor:
    """The temperature at which labels keep a share, 0 to 1, of chance's entropy: ().

    The entropy rises with the temperature, so halving an interval finds it, from a thousandth of
    the median gap between the best two to a thousand gaps. Where labels stay more certain or less
    than that, it gives the end of the interval.
    """
    unit = gap(choices)
    low, high = math.log(1e-3), math.log(1e3)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _entropy_share(choices, unit * math.exp(middle)) < share:
            low = middle
        else:
            high = middle
    return unit * math.exp((low + high) / 2)


@final
class _Rows(Divergence):
    """A divergence that remembers nothing: a function of both sides' numbers."""

    def __init__(self, rows: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self._rows = rows

    def rows(self, outputs: Tensor, planner: Tensor) -> Tensor:
        return self._rows(outputs, planner)


def _need_choices(name: str, ground: Ground) -> None:
    if ground.kind not in _CHOICES:
        raise ConfigError(
            f"The term {name!r} is for choices; this planner gives {ground.kind} "
            "distributions. Use 'action', or 'match', which fits either."
        )


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
        if isinstance(self.tau, (int, float)):
            check_range("the temperature tau", self.tau, above=0, most=_HOTTEST)
        check_range("entropy", self.entropy, above=0, below=1)
        if self.tau == "auto" and self.unit is not None:
            raise ConfigError(f"tau=auto finds its own unit; leave out unit={self.unit}.")

    def build(self, ground: Ground) -> Divergence:
        """Make the divergence.

        Raises:
            ConfigError: If the planner does not choose.
        """
        _need_choices("soft", ground)
        return SoftLabels(self, ground)


@final
class SoftLabels(Divergence):
    """`Soft` at work; its temperature `tau` follows the labels."""

    def __init__(self, term: Soft, ground: Ground) -> None:
        super().__init__()
        self._term, self._ground = term, ground
        values, auto = ground.kind == "qvalues", term.tau == "auto"
        self._unit = term.unit or ("gap" if values else "absolute")
        self.both = (term.sides or ("planner" if values or auto else "both")) == "both"
        self._seen = 0
        self._factor = _GAPS if values else _LOGITS
        if isinstance(term.tau, (int, float)):
            self._factor = float(term.tau)
        fixed = self._unit == "absolute" and not auto
        self.tau: Tensor
        self.register_buffer("tau", torch.tensor(self._factor if fixed else float("nan")))

    @property
    def follows(self) -> bool:
        """Whether the temperature follows the labels."""
        return self._term.tau == "auto" or self._unit == "gap"

    @torch.no_grad()
    def observe(self, planner: Tensor) -> None:
        """Let the temperature follow."""
        choices = blocks(self._ground.kind, self._ground.action, planner)
        if self._term.tau == "auto":
            self._seen += 1
            # A search in every step would cost more than the step.
            if self._seen % _EVERY and self._seen & (self._seen - 1):
                return
            now, weight = temperature_for(choices, self._term.entropy), 0.3
        elif self._unit == "gap":
            now, weight = gap(choices) * self._factor, _FOLLOW
        else:
            return
        self.tau.copy_(now if self.tau.isnan() else self.tau.lerp(now, weight))

    def rows(self, outputs: Tensor, planner: Tensor) -> Tensor:
        """Give the divergence of each row, (batch,), summed over its choices."""

        def formula(mine: Tensor, said: Tensor) -> Tensor:
            said = said - said.amax(1, keepdim=True)
            return (soft_labels if self.both else sharpened)(mine, said, self.tau)

        return over_choices(self._ground, formula, outputs, planner)

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
        check_range("smoothing", self.smoothing, least=0, below=1)

    def build(self, ground: Ground) -> Divergence:
        """Make the divergence.

        Raises:
            ConfigError: If the planner does not choose.
        """
        _need_choices("hard", ground)
        formula = partial(hard_labels, smoothing=self.smoothing)
        return _Rows(partial(over_choices, ground, formula))


@dataclass(frozen=True, slots=True)
class Action(DivergenceTerm):
    """Squared error of the mean action, for boxes, in halves of the box."""

    def build(self, ground: Ground) -> Divergence:
        """Make the divergence.

        Raises:
            ConfigError: If the actions are not a box.
        """
        units = ground.units()
        if units is None:
            raise ConfigError(
                f"The term 'action' is for boxes; this planner gives {ground.kind} "
                "distributions. Use 'soft' or 'hard', or 'match', which fits either."
            )
        return _Rows(lambda outputs, planner: units.apart(outputs, planner).square().sum(1))


@dataclass(frozen=True, slots=True)
class Match(DivergenceTerm):
    """`Soft` for choices and `Action` for boxes, both as they are by default."""

    def build(self, ground: Ground) -> Divergence:
        """Make the divergence."""
        return (Soft() if ground.kind in _CHOICES else Action()).build(ground)
