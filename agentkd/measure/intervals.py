"""Means and retentions with intervals: scipy's bootstrap, with a fixed seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentkd.errors import check_range

_RESAMPLES = 10_000
_SEED = 0
_CHUNK = 2_000_000

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and where the number may lie; `reason` says why something is NaN."""

    mean: float
    low: float
    high: float
    reason: str = ""


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Estimate a mean, with an interval by the BCa bootstrap.

    Efron 1987, "Better Bootstrap Confidence Intervals"; widened for few values after Hesterberg
    2015, "What Teachers Should Know About the Bootstrap". Values that are all equal give an
    interval without width. The interval never leaves the values' own range: fewer than ten of them
    may not have met what is rare.

    Raises:
        ConfigError: If the confidence is not between 0 and 1.
    """
    sample = _sample(values, confidence)
    if not len(sample):
        return Interval(math.nan, math.nan, math.nan, "There are no values.")
    mean = float(sample.mean())
    if not math.isfinite(mean):
        return Interval(mean, math.nan, math.nan, "A value is NaN or infinite.")
    if len(sample) == 1:
        return Interval(mean, math.nan, math.nan, "One value has no interval.")
    if np.ptp(sample) == 0.0:
        # Not the mean, which rounding moves off values such as 0.1.
        return Interval(float(sample[0]), float(sample[0]), float(sample[0]))
    from scipy import stats

    level = 2 * stats.norm.cdf(_wide(confidence, len(sample))) - 1
    found = stats.bootstrap(
        (sample,),
        np.mean,
        method="BCa",
        # No quantile is finer than the resamples.
        confidence_level=min(level, 1 - 1 / _RESAMPLES),
        **_drawing(sample),
    ).confidence_interval
    low, high = np.clip(found, sample.min(), sample.max())  # against rounding
    return Interval(mean, float(low), float(high))


def retention(
    executor: Sequence[float],
    planner: Sequence[float],
    random: Sequence[float],
    confidence: float = 0.95,
) -> Interval:
    """Estimate (G_executor - G_random) / (G_planner - G_random).

    The interval is the bootstrap's percentiles over all three samples, for the planner's and the
    random player's returns are uncertain too. Samples of one length are drawn anew together, seed
    by seed: a hard seed is hard for all three.

    Args:
        executor: Returns of the executor, in units of reward.
        planner: Returns of the planner, on the same seeds.
        random: Returns of random actions, on the same seeds.
        confidence: Of the interval, between 0 and 1.

    Returns:
        The retention; NaN with a reason where planner and random play are equal, and an interval of
        NaN where the samples leave open which of the two is better.

    Raises:
        ConfigError: If the confidence is not between 0 and 1.
    """
    samples = [_sample(each, confidence) for each in (executor, planner, random)]
    nothing = math.nan, math.nan, math.nan
    if not all(len(sample) for sample in samples):
        return Interval(*nothing, "A policy has no returns.")
    if not all(np.isfinite(sample).all() for sample in samples):
        return Interval(*nothing, "A return is NaN or infinite.")
    mine, best, worst = (float(sample.mean()) for sample in samples)
    span = best - worst
    if abs(span) <= 1e-12 * max(abs(best), abs(worst)):
        return Interval(*nothing, "The planner returns as much as random play.")
    kept = (mine - worst) / span
    if all(np.ptp(sample) == 0.0 for sample in samples):
        return Interval(kept, kept, kept)
    if min(len(sample) for sample in samples) == 1:
        return Interval(kept, math.nan, math.nan, "One episode has no interval.")
    from scipy import stats

    def both(mine: Doubles, best: Doubles, worst: Doubles, axis: int) -> Doubles:
        worst = worst.mean(axis=axis)
        spans = best.mean(axis=axis) - worst
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.stack([(mine.mean(axis=axis) - worst) / spans, spans])

    ratios, spans = stats.bootstrap(
        samples,
        both,
        method="percentile",
        paired=len({len(sample) for sample in samples}) == 1,
        **_drawing(*samples),
    ).bootstrap_distribution
    tail = (1.0 - confidence) / 2.0
    if float((spans * np.sign(span) <= 0).mean()) > tail:
        return Interval(kept, math.nan, math.nan, "The planner is hardly better than random play.")
    few = min(len(sample) for sample in samples)
    outside = stats.norm.cdf(-_wide(confidence, few))
    low, high = np.quantile(ratios[spans != 0], [outside, 1.0 - outside])
    return Interval(kept, float(low), float(high))


def _sample(values: Sequence[float], confidence: float) -> Doubles:
    check_range("confidence", confidence, above=0, below=1, hint="0.95 is usual.")
    return np.asarray(values, np.float64)


def _drawing(*samples: Doubles) -> dict[str, Any]:
    """Options of the bootstrap; drawn in pieces, so that memory stays bounded."""
    return {
        "n_resamples": _RESAMPLES,
        "batch": max(1, _CHUNK // max(map(len, samples))),
        "rng": np.random.default_rng(_SEED),
    }


def _wide(confidence: float, n: int) -> float:
    """How many standard errors of the bootstrap reach to each side.

    sqrt(n / (n-1)) times Student's quantile: the bootstrap's spread is that of the sample, too
    narrow by the first, and takes it for known, which the second mends.
    """
    from scipy import stats

    t = stats.t.ppf(0.5 + confidence / 2, n - 1)
    return float(math.sqrt(n / (n - 1)) * t)
