"""A planner beside the reward: how far SB3's policy is from it, and how that counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal

from agentkd.distillation.terms.answers import Soft
from agentkd.distillation.terms.term import BoxUnits, Ground
from agentkd.errors import ConfigError, check_choice, check_range
from agentkd.spec import ActionSpec, BoxSpec, MultiDiscreteSpec
from agentkd.types import Kind

Method = Literal["ppd", "kickstart"]
Apart = Callable[[Any, Tensor], Tensor]
"""KL(planner || executor) for SB3's distribution and packed rows (n, width): (n,)."""

_LEAST_STD = 0.05
"""Below this share of half the box a planner's spread says nothing about importance."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A weight that falls to 0 as the executor's return rises to the planner's.

    start · max(0, 1 − (G_executor − G_random) / (G_planner − G_random)). Unlike the ratio of
    returns (Agarwal et al. 2022, "Reincarnating reinforcement learning") it means the same where
    returns are negative.

    Attributes:
        planner: The planner's mean return.
        random: That of random actions.
        start: The weight of an executor that is no better than random actions.
    """

    planner: float
    random: float
    start: float = 1.0

    def __post_init__(self) -> None:
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
    """How the planner's answers count beside the reward.

    Attributes:
        method: "ppd", proximal policy distillation (Spigler 2025, arXiv:2407.15134): the reward,
            and max(ratio, 1 − ε) times the divergence, with PPO's ratio of new to old probability
            and its clip ε. "kickstart" (Schmitt et al. 2018, arXiv:1803.03835): the reward, and the
            divergence as it is.
        weight: Of the divergence beside the reward, or the `Gap` that it follows.
    """

    method: Method = "ppd"
    weight: float | Gap = 1.0

    def __post_init__(self) -> None:
        check_choice("method", self.method, get_args(Method))
        if not isinstance(self.weight, Gap):
            check_range("weight", self.weight, least=0)

    def weight_at(self, executor: float) -> float:
        """The weight for an executor's mean return; NaN is one not yet known."""
        if isinstance(self.weight, Gap):
            return self.weight.at(executor)
        return float(self.weight)


def apart_for(kind: Kind, action: ActionSpec, *, bounded: bool = False) -> Apart:
    """Choose how far a planner's kind of answer is from SB3's distribution.

    Args:
        kind: Of the planner's answers.
        action: The environment's actions.
        bounded: Whether the executor's mean cannot leave the box.
    """
    if isinstance(action, BoxSpec):
        return partial(_box, kind, BoxUnits(action, kind, "clipped"), bounded)
    # Soft labels ask neither head nor network.
    soft = Soft(sides="planner").build(Ground(kind, "categorical", action, 0, None))

    def apart(found: Any, rows: Tensor) -> Tensor:
        soft.to(rows.device).observe(rows)
        several = isinstance(action, MultiDiscreteSpec)
        each = found.distribution if several else [found.distribution]
        return soft.rows(torch.cat([one.logits for one in each], 1), rows)

    return apart


def _box(kind: Kind, box: BoxUnits, bounded: bool, found: Any, rows: Tensor) -> Tensor:
    normal, mean = found.distribution, rows[:, : box.size]
    target = mean.clamp(box.low, box.high) if bounded else mean
    if kind == "point":
        # A point has no spread, and an invented tiny one would make the divergence arbitrarily
        # large. It gets the executor's own, which it leaves alone.
        distance: Tensor = (target - normal.mean) / normal.stddev.detach()
        return 0.5 * distance.square().sum(1)
    std = rows[:, box.size :].exp()
    if kind == "squashed":
        # To the first order, the spread after tanh is the slope's times as wide.
        squashed = torch.tanh(mean)
        std = (std * (1 - squashed.square())).clamp_min(_LEAST_STD) * box.half
        return gaussian_kl(box.middle + box.half * squashed, std, normal)
    return gaussian_kl(target, std, normal)


def gaussian_kl(mean: Tensor, std: Tensor, found: Normal) -> Tensor:
    """KL(N(mean, std) || found), summed over the dimensions: (n,)."""
    ratio = std / found.stddev
    distance = (mean - found.mean) / found.stddev
    return (0.5 * (ratio.square() + distance.square() - 1.0) - ratio.log()).sum(1)


def mean_return(episodes: Any) -> float:
    """The mean of SB3's `ep_info_buffer`, NaN where no episode has ended."""
    returns = [each["r"] for each in episodes or ()]
    return float(np.mean(returns)) if returns else math.nan
