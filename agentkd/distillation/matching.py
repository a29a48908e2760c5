"""The term `match` in NumPy: how far an executor's answers are from the planner's.

It is what the native engine minimises by default, and what the gate compares executors by, so that
learning in a live run needs no torch. `agentkd.distillation.terms` has the same formulas in torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from agentkd.executors.executor import Head
from agentkd.spec import ActionSpec, BoxSpec, MultiDiscreteSpec
from agentkd.types import Floats, Kind

_GAPS = 0.3
"""The temperature of action values, in gaps."""
_FOLLOW = 0.01
_TINY = 1e-6
CHOICES = ("categorical", "qvalues", "multicategorical", "bernoulli")


@dataclass(frozen=True, slots=True, eq=False)
class Box:
    """A box of actions in which each half of a dimension counts 1.

    A dimension without room or without bounds is measured in its own unit.

    Attributes:
        low: The lower bounds, in the environment's units.
        high: The upper ones.
        middle: The middle of each dimension.
        half: Half of each dimension.
    """

    low: Floats
    high: Floats
    middle: Floats
    half: Floats

    @classmethod
    def of(cls, box: BoxSpec) -> Box:
        """Measure a box."""
        low, high = np.asarray(box.low, np.float32), np.asarray(box.high, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            room = high - low
            bounded = np.isfinite(room)
            half = np.where(bounded & (room > 0), room / 2, np.float32(1))
            middle = np.where(bounded, (high + low) / 2, np.float32(0))
        return cls(low, high, middle, half)

    def inside(self, actions: Floats) -> Floats:
        """Return actions, (…, size), in halves of the box about its middle."""
        return (actions - self.middle) / self.half


def choice_sizes(kind: Kind, action: ActionSpec, width: int) -> tuple[int, ...]:
    """How many options each choice has, given as scores (batch, width)."""
    if kind == "multicategorical":
        assert isinstance(action, MultiDiscreteSpec)
        return tuple(action.sizes)
    return (2,) * width if kind == "bernoulli" else (width,)


def _blocks(kind: Kind, action: ActionSpec, scores: Floats) -> list[Floats]:
    """Split scores, (batch, width), into choices; a yes or no has logits 0 and its log-odds."""
    if kind == "bernoulli":
        return [np.stack([np.zeros_like(column), column], 1) for column in scores.T]
    sizes = choice_sizes(kind, action, scores.shape[1])
    return np.split(scores, np.cumsum(sizes)[:-1], axis=1)


def gap(scores: Floats) -> float:
    """Return the median distance between the best two of scores (batch, n), above 0.

    Of an even number of rows it is the lower middle one.
    """
    if scores.shape[1] < 2:
        return _TINY
    best = np.partition(scores, (-2, -1), axis=1)[:, -2:]
    apart = best[:, 1] - best[:, 0]
    middle = (len(apart) - 1) // 2
    return max(_TINY, float(np.partition(apart, middle)[middle]))


def _log_softmax(scores: Floats, temperature: float = 1.0) -> Floats:
    # The greatest goes first: of large scores a division would leave little.
    least = (scores - scores.max(axis=1, keepdims=True)) / np.float32(temperature)
    rest: Floats = least - np.log(np.exp(least).sum(axis=1, keepdims=True))
    return rest


@final
class Matching:
    """How far an executor is from a planner, label by label.

    For choices KL(planner || executor) in nats, summed over the choices; action values at 0.3 of
    the running median gap between the best two. For boxes the squared error of the mean action in
    halves of the box, summed over the dimensions; 0 where both want more than the box allows.

    Args:
        kind: Of the planner's answers.
        head: How the executor's last numbers become an action.
        action: What is acted with.

    Attributes:
        tau: The temperature of the planner's answers; NaN for action values before the first.
    """

    def __init__(self, kind: Kind, head: Head, action: ActionSpec) -> None:
        self.kind, self.head, self.action = kind, head, action
        self.box = Box.of(action) if isinstance(action, BoxSpec) else None
        self.tau = float("nan") if kind == "qvalues" else 1.0

    def observe(self, planner: Floats) -> None:
        """Let the temperature follow labels, (batch, width), before `rows` is asked about them."""
        if self.kind == "qvalues":
            now = _GAPS * gap(planner)
            self.tau = now if np.isnan(self.tau) else self.tau + _FOLLOW * (now - self.tau)

    def rows(self, outputs: Floats, planner: Floats) -> Floats:
        """Return how far each answer is from the planner's, (batch,).

        Args:
            outputs: The executor's last numbers, (batch, out).
            planner: Packed answers, (batch, width).
        """
        if self.box is not None:
            return self._box_rows(self.box, outputs, planner)
        total = np.zeros(len(outputs), np.float32)
        pairs = zip(
            _blocks(self.kind, self.action, outputs),
            _blocks(self.kind, self.action, planner),
            strict=True,
        )
        for mine, said in pairs:
            target = _log_softmax(said, self.tau)
            total += (np.exp(target) * (target - _log_softmax(mine))).sum(axis=1)
        return total

    def _box_rows(self, box: Box, outputs: Floats, planner: Floats) -> Floats:
        mean = planner[:, : len(box.low)]
        if self.kind == "squashed":
            target = np.tanh(mean)
        else:
            target = box.inside(np.clip(mean, box.low, box.high))
        if self.head == "squashed":
            apart = np.tanh(outputs) - target
        else:
            apart = box.inside(outputs) - target
            low, high = box.inside(box.low), box.inside(box.high)
            agree = ((target >= high) & (apart > 0)) | ((target <= low) & (apart < 0))
            apart = np.where(agree, np.float32(0), apart)
        return np.asarray(np.square(apart).sum(axis=1), np.float32)
