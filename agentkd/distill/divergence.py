"""How far an executor's answer is from the planner's: one divergence for each kind.

Every function takes the executor's last numbers, (batch, out), and the planner's packed
distributions, (batch, width), and gives one non-negative number a row, (batch,).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from agentkd.dists import Kind
from agentkd.errors import ConfigError
from agentkd.executors.frozen import Head
from agentkd.spec import ActionSpec, BoxSpec, MultiDiscreteSpec

Divergence = Callable[[Tensor, Tensor], Tensor]
Continuous = Literal["action", "pre-tanh", "precision"]
_LOGITS, _GAPS = 1.0, 0.3
"""Temperatures where none is given: of logits, and of action values in gaps."""
_LEAST_STD = 0.05
"""Below this share of the box a planner's spread says nothing more about importance."""


@dataclass(frozen=True, slots=True)
class DivergenceOptions:
    """What is chosen about a divergence.

    Attributes:
        temperature: Of soft labels. For logits both sides are divided by it and the
            divergence multiplied by its square (Hinton et al. 2015); 1 by default. For
            action values it is in units of the gap between the best two; 0.3 by
            default.
        hard: The share, 0 to 1, of the cross-entropy with the planner's best choice.
        continuous: For boxes: squared error of the action itself, of the number
            before tanh, or of the action in units of the planner's own spread.
    """

    temperature: float | None = None
    hard: float = 0.0
    continuous: Continuous = "action"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.temperature is not None and not self.temperature > 0:
            raise ConfigError(
                f"temperature is {self.temperature}; it has to be above 0."
            )
        if not 0 <= self.hard <= 1:
            raise ConfigError(f"hard is {self.hard}; it is a share from 0 to 1.")


def soft_labels(executor: Tensor, planner: Tensor, temperature: float) -> Tensor:
    """τ² KL(softmax(planner/τ) || softmax(executor/τ)); both are logits (batch, n).

    Source: Hinton et al. 2015, "Distilling the knowledge in a neural network", 2.
    """
    target = functional.log_softmax(planner / temperature, dim=1)
    answer = functional.log_softmax(executor / temperature, dim=1)
    divergence = (target.exp() * (target - answer)).sum(1)
    return divergence * temperature**2


def sharpened(executor: Tensor, values: Tensor, unit: Tensor | float) -> Tensor:
    """KL(softmax(values/unit) || softmax(executor)): only the planner is tempered.

    Source: Rusu et al. 2015, "Policy distillation", eq. 3, with the temperature in
    units of the gap between the best two values instead of an absolute one.
    """
    target = functional.log_softmax(values / unit, dim=1)
    answer = functional.log_softmax(executor, dim=1)
    return (target.exp() * (target - answer)).sum(1)


def hard_labels(executor: Tensor, planner: Tensor) -> Tensor:
    """Cross-entropy with the planner's best choice; both are (batch, n)."""
    return functional.cross_entropy(executor, planner.argmax(1), reduction="none")


def bernoulli_kl(executor: Tensor, planner: Tensor) -> Tensor:
    """KL between yes/no choices, summed; both are log-odds (batch, n)."""
    p = torch.sigmoid(planner)
    yes = functional.logsigmoid(planner) - functional.logsigmoid(executor)
    no = functional.logsigmoid(-planner) - functional.logsigmoid(-executor)
    return (p * yes + (1 - p) * no).sum(1)


def gap(values: Tensor) -> Tensor:
    """The median distance between the best two of action values (batch, n): ()."""
    best = values.topk(min(2, values.shape[1]), dim=1).values
    return (best[:, 0] - best[:, -1]).median().clamp_min(1e-6)


def _choice(options: DivergenceOptions) -> Divergence:
    temperature = _LOGITS if options.temperature is None else options.temperature

    def divergence(executor: Tensor, planner: Tensor) -> Tensor:
        soft = soft_labels(executor, planner, temperature)
        if options.hard == 0:
            return soft
        hard = hard_labels(executor, planner)
        return (1 - options.hard) * soft + options.hard * hard

    return divergence


@dataclass(slots=True)
class _Values:
    """Action values become soft labels in units of a running median gap."""

    options: DivergenceOptions
    unit: Tensor | None = None

    def __call__(self, executor: Tensor, planner: Tensor) -> Tensor:
        now = gap(planner)
        self.unit = now if self.unit is None else self.unit.lerp(now, 0.01)
        chosen = self.options.temperature
        scale = self.unit * (_GAPS if chosen is None else chosen)
        best = planner.max(1, keepdim=True).values
        soft = sharpened(executor, planner - best, scale)
        if self.options.hard == 0:
            return soft
        hard = hard_labels(executor, planner)
        return (1 - self.options.hard) * soft + self.options.hard * hard


def _several(sizes: tuple[int, ...], one: Divergence) -> Divergence:
    def divergence(executor: Tensor, planner: Tensor) -> Tensor:
        pieces = zip(
            torch.split(executor, list(sizes), 1),
            torch.split(planner, list(sizes), 1),
            strict=True,
        )
        return torch.stack([one(left, right) for left, right in pieces]).sum(0)

    return divergence


def _beyond(apart: Tensor, target: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """No error where both want more than the box allows: the clip makes them equal."""
    agree = ((target >= high) & (apart > 0)) | ((target <= low) & (apart < 0))
    return torch.where(agree, torch.zeros_like(apart), apart)


def _box(
    kind: Kind, head: Head, box: BoxSpec, options: DivergenceOptions
) -> Divergence:
    low, high = torch.tensor(box.low), torch.tensor(box.high)
    # A dimension without room or without bounds is measured in its own unit.
    apart = high - low
    half = torch.where(apart.isfinite() & (apart > 0), apart / 2, torch.ones_like(low))
    middle = torch.where((high - low).isfinite(), (high + low) / 2, 0.0)
    size = len(box.low)
    squashed = head == "squashed"
    way = options.continuous
    if way == "pre-tanh" and not (kind == "squashed" and squashed):
        raise ConfigError(
            "continuous='pre-tanh' needs a planner with squashed Gaussians; this one "
            f"gives {kind}. Use 'action'."
        )
    if way == "precision" and kind != "gaussian":
        raise ConfigError(
            "continuous='precision' needs a planner with Gaussians in the "
            f"environment's units; this one gives {kind}. Use 'action'."
        )

    def divergence(executor: Tensor, planner: Tensor) -> Tensor:
        mean = planner[:, :size]
        if way == "pre-tanh":
            # Beyond |3| tanh is flat: what the planner says there is not for matching.
            return (executor - mean.clamp(-3, 3)).square().sum(1)
        if kind == "squashed":
            target = torch.tanh(mean)
        else:
            target = (mean.clamp(low, high) - middle) / half
        if squashed:
            apart = torch.tanh(executor) - target
        else:
            edge = (low - middle) / half, (high - middle) / half
            apart = _beyond((executor - middle) / half - target, target, *edge)
        if way == "precision":
            spread = planner[:, size:].exp() / half
            apart = apart / spread.clamp_min(_LEAST_STD)
        return apart.square().sum(1)

    return divergence


def divergence_for(
    kind: Kind, head: Head, action: ActionSpec, options: DivergenceOptions
) -> Divergence:
    """Choose the divergence for what the planner gives and how the executor ends.

    Raises:
        ConfigError: If they do not go together.
    """
    match kind:
        case "categorical":
            return _choice(options)
        case "qvalues":
            return _Values(options)
        case "multicategorical":
            assert isinstance(action, MultiDiscreteSpec)
            return _several(action.sizes, _choice(options))
        case "bernoulli":
            return bernoulli_kl
        case "gaussian" | "squashed" | "point":
            if not isinstance(action, BoxSpec):
                raise ConfigError(
                    f"A planner with {kind} distributions needs a Box of actions, "
                    f"not {action}."
                )
            return _box(kind, head, action, options)
