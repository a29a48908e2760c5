"""A planner beside the reward: how far SB3's policy is from it, and how that counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal

from agentkd.errors import ConfigError, did_you_mean
from agentkd.spec import ActionSpec, BoxSpec, MultiDiscreteSpec
from agentkd.types import Kind

Method = Literal["ppd", "kickstart", "student-driven", "teacher-driven"]
Apart = Callable[[Any, Tensor], Tensor]
"""KL(planner || executor) for SB3's distribution and packed rows (n, width): (n,)."""

_GAPS = 0.3
_LEAST_STD = 0.05
"""Below this share of half the box a planner's spread says nothing about importance."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A weight that is gone once the executor returns what the planner does.

    start · max(0, 1 − (G_executor − G_random) / (G_planner − G_random)). Unlike the ratio of
    returns (Agarwal et al. 2022, "Reincarnating reinforcement learning") it means the same where
    returns are negative.

    Attributes:
        planner: The planner's mean return.
        random: That of random actions.
        start: The weight of an executor that does no better than they.
    """

    planner: float
    random: float
    start: float = 1.0

    def __post_init__(self) -> None:
        """Validate the fields."""
        if not self.planner > self.random:
            raise ConfigError(
                f"The planner returns {self.planner:g}, random play {self.random:g}: "
                "there is no gap to follow. Give a number as weight."
            )

    def at(self, executor: float) -> float:
        """The weight for an executor's mean return; NaN is one not yet known."""
        if math.isnan(executor):
            return self.start
        kept = (executor - self.random) / (self.planner - self.random)
        return self.start * min(1.0, max(0.0, 1.0 - kept))


@dataclass(frozen=True, slots=True)
class Guide:
    """How the planner counts.

    Attributes:
        method: "ppd", proximal policy distillation (Spigler 2025, arXiv:2407.15134): the reward,
            and max(ratio, 1 − ε) times the divergence, with PPO's ratio of new to old probability
            and its clip ε. "kickstart" (Schmitt et al. 2018, arXiv:1803.03835): the reward, and the
            divergence as it is. The other two know no reward: the divergence alone, on states that
            the executor or the planner comes to.
        weight: Of the divergence beside the reward, or the `Gap` that it follows.
    """

    method: Method = "ppd"
    weight: float | Gap = 1.0

    def __post_init__(self) -> None:
        """Validate the fields."""
        if self.method not in get_args(Method):
            hint = did_you_mean(self.method, get_args(Method))
            raise ConfigError(f"No method {self.method!r}.{hint}")
        if not isinstance(self.weight, Gap) and not self.weight >= 0:
            raise ConfigError(f"weight is {self.weight}; it has to be at least 0.")

    @property
    def rewarded(self) -> bool:
        """Whether the reward counts."""
        return self.method in ("ppd", "kickstart")

    def weight_at(self, executor: float) -> float:
        """The weight for an executor's mean return; NaN is one not yet known."""
        if isinstance(self.weight, Gap):
            return self.weight.at(executor)
        return float(self.weight)


def _categorical(target: Tensor, found: Any) -> Tensor:
    """KL from log-probabilities (n, choices) to a torch Categorical: (n,)."""
    apart: Tensor = target.exp() * (target - found.logits)
    return apart.sum(1)


def _choice(found: Any, rows: Tensor) -> Tensor:
    return _categorical(torch.log_softmax(rows, dim=1), found.distribution)


def _bernoulli(found: Any, rows: Tensor) -> Tensor:
    odds = found.distribution.logits
    logsigmoid = torch.nn.functional.logsigmoid
    p = torch.sigmoid(rows)
    yes, no = logsigmoid(rows) - logsigmoid(odds), logsigmoid(-rows) - logsigmoid(-odds)
    return (p * yes + (1 - p) * no).sum(1)


@dataclass(slots=True)
class _Values:
    """Action values become soft labels in units of a running median gap."""

    unit: Tensor | None = None

    def __call__(self, found: Any, rows: Tensor) -> Tensor:
        best = rows.topk(min(2, rows.shape[1]), dim=1).values
        now = (best[:, 0] - best[:, -1]).median().clamp_min(1e-6)
        self.unit = now if self.unit is None else self.unit.lerp(now, 0.01)
        tempered = (rows - best[:, :1]) / (_GAPS * self.unit)
        return _categorical(torch.log_softmax(tempered, dim=1), found.distribution)


def _several(sizes: tuple[int, ...]) -> Apart:
    def apart(found: Any, rows: Tensor) -> Tensor:
        pieces = torch.split(torch.as_tensor(rows), list(sizes), dim=1)
        each = [
            _categorical(torch.log_softmax(piece, dim=1), one)
            for piece, one in zip(pieces, found.distribution, strict=True)
        ]
        return torch.stack(each).sum(0)

    return apart


def gaussian_kl(mean: Tensor, std: Tensor, found: Normal) -> Tensor:
    """KL(N(mean, std) || found), summed over the dimensions: (n,)."""
    ratio = std / found.stddev
    distance = (mean - found.mean) / found.stddev
    return (0.5 * (ratio.square() + distance.square() - 1.0) - ratio.log()).sum(1)


def _box(kind: Kind, box: BoxSpec, bounded: bool) -> Apart:
    low, high = (torch.tensor(end, dtype=torch.float32) for end in (box.low, box.high))
    finite = (high - low).isfinite()
    half = torch.where(finite, (high - low) / 2, torch.ones_like(low))
    middle = torch.where(finite, (high + low) / 2, torch.zeros_like(low))
    size = len(box.low)

    def apart(found: Any, rows: Tensor) -> Tensor:
        normal, mean = found.distribution, rows[:, :size]
        if kind == "point":
            # A point has no spread, and to invent a tiny one would make the divergence as large as
            # one likes. It gets the executor's own, which it leaves alone.
            own = normal.stddev.detach()
            target = mean.clamp(low, high) if bounded else mean
            distance: Tensor = (target - normal.mean) / own
            return 0.5 * distance.square().sum(1)
        std = rows[:, size:].exp()
        if kind == "squashed":
            # To the first order, the spread after tanh is the slope's times as wide.
            squashed = torch.tanh(mean)
            std = (std * (1 - squashed.square())).clamp_min(_LEAST_STD) * half
            return gaussian_kl(middle + half * squashed, std, normal)
        # Beyond the bounds only an executor can go whose mean is not kept within.
        return gaussian_kl(mean.clamp(low, high) if bounded else mean, std, normal)

    return apart


def apart_for(kind: Kind, action: ActionSpec, *, bounded: bool = False) -> Apart:
    """Choose how far a planner's kind of answer is from SB3's distribution.

    Args:
        kind: What the planner answers with.
        action: The environment's actions.
        bounded: Whether the executor's mean cannot leave the box.
    """
    if isinstance(action, BoxSpec):
        return _box(kind, action, bounded)
    if isinstance(action, MultiDiscreteSpec):
        return _several(action.sizes)
    match kind:
        case "qvalues":
            return _Values()
        case "bernoulli":
            return _bernoulli
        case _:
            return _choice


def mean_return(episodes: Any) -> float:
    """The mean of SB3's `ep_info_buffer`, NaN where no episode has ended."""
    returns = [each["r"] for each in episodes or ()]
    return float(np.mean(returns)) if returns else math.nan
