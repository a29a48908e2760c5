"""Means and retentions with intervals, by the bootstrap with a fixed seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from agentkd.errors import ConfigError

_RESAMPLES = 10_000
_SEED = 0
_CHUNK = 2_000_000
_NORMAL = NormalDist()

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A number and where it may lie.

    Attributes:
        mean: The estimate; NaN where there is none.
        low: The lower end; NaN where there is none.
        high: The upper end; NaN where there is none.
        reason: Why something is NaN, "" if nothing is.
    """

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

    Args:
        values: Returns, in units of reward; NaN among them gives NaN.
        confidence: Of the interval, between 0 and 1.

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
    (means,) = _means([sample])
    below = float((means < mean).mean() + 0.5 * (means == mean).mean())
    # A bias beyond any resample has no finite quantile.
    bias = _NORMAL.inv_cdf(min(max(below, 0.5 / len(means)), 1 - 0.5 / len(means)))
    apart = sample - mean
    # The acceleration, from the jackknife, which is this simple for a mean.
    speed = float((apart**3).sum()) / (6.0 * float((apart**2).sum()) ** 1.5)
    wide = _wide(confidence, len(sample))
    ends = [
        _NORMAL.cdf(bias + (bias + z) / max(1.0 - speed * (bias + z), 1e-6)) for z in (-wide, wide)
    ]
    low, high = np.quantile(means, ends)
    return Interval(mean, float(low), float(high))


def paired(differences: Sequence[float], confidence: float = 0.95) -> Interval:
    """Estimate the mean of differences between pairs, with Student's interval.

    Of a few pairs a bootstrap never leaves their range; Student's t does, which supposes that
    differences are about normal. Differences that are all equal give an interval without width.

    Args:
        differences: One for each pair.
        confidence: Of the interval, between 0 and 1.

    Raises:
        ConfigError: If the confidence is not between 0 and 1.
    """
    sample = _sample(differences, confidence)
    if not len(sample):
        return Interval(math.nan, math.nan, math.nan, "There are no pairs.")
    mean = float(sample.mean())
    if not math.isfinite(mean):
        return Interval(mean, math.nan, math.nan, "A value is NaN or infinite.")
    if len(sample) == 1:
        return Interval(mean, math.nan, math.nan, "One pair has no interval.")
    error = float(sample.std(ddof=1)) / math.sqrt(len(sample))
    half = student(confidence, len(sample) - 1) * error
    return Interval(mean, mean - half, mean + half)


def student(confidence: float, freedom: int) -> float:
    """How many standard errors reach to each side, with so many degrees of freedom.

    Exact: the distribution is a finite sum for whole degrees (Abramowitz and Stegun 1964, 26.7.3
    and 26.7.4), which is inverted by halving.

    Args:
        confidence: Between 0 and 1.
        freedom: At least 1.
    """
    low, high = 0.0, 1.0
    while _within(high, freedom) < confidence:
        high *= 2.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return 0.5 * (low + high)


def _within(t: float, freedom: int) -> float:
    """The probability that Student's t lies between -t and t."""
    angle = math.atan(t / math.sqrt(freedom))
    square = math.cos(angle) ** 2
    odd = freedom % 2
    term, total = (math.cos(angle), 0.0) if odd else (1.0, 0.0)
    for at in range(odd, freedom - 1, 2):
        total += term
        term *= square * (at + 1) / (at + 2)
    total *= math.sin(angle)
    return 2.0 / math.pi * (angle + total) if odd else total


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
    mines, bests, worsts = _resampled(samples)
    spans = bests - worsts
    tail = (1.0 - confidence) / 2.0
    if float((spans * np.sign(span) <= 0).mean()) > tail:
        return Interval(kept, math.nan, math.nan, "The planner is hardly better than random play.")
    usable = spans != 0
    ratios = (mines[usable] - worsts[usable]) / spans[usable]
    few = min(len(sample) for sample in samples)
    outside = _NORMAL.cdf(-_wide(confidence, few))
    low, high = np.quantile(ratios, [outside, 1.0 - outside])
    return Interval(kept, float(low), float(high))


def _sample(values: Sequence[float], confidence: float) -> Doubles:
    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"confidence is {confidence}; between 0 and 1, such as 0.95.")
    return np.asarray(values, np.float64)


def _resampled(samples: Sequence[Doubles]) -> list[Doubles]:
    if len({len(sample) for sample in samples}) == 1:
        return _means(samples)
    return [_means([each], seed)[0] for seed, each in enumerate(samples, _SEED)]


def _means(samples: Sequence[Doubles], seed: int = _SEED) -> list[Doubles]:
    """The means of resamples of samples of one length, which share their indices."""
    random = np.random.default_rng(seed)
    n = len(samples[0])
    rows = max(1, _CHUNK // n)  # drawn in pieces, so that memory stays bounded
    pieces: list[list[Doubles]] = [[] for _ in samples]
    for start in range(0, _RESAMPLES, rows):
        index = random.integers(0, n, (min(rows, _RESAMPLES - start), n))
        for piece, sample in zip(pieces, samples, strict=True):
            piece.append(sample[index].mean(axis=1))
    return [np.concatenate(piece) for piece in pieces]


def _wide(confidence: float, n: int) -> float:
    """How many standard errors of the bootstrap reach to each side.

    sqrt(n / (n-1)) times Student's quantile: the bootstrap's spread is that of the sample, too
    narrow by the first, and takes it for known, which the second mends (by the expansion of Fisher
    and Cornish, 1960).
    """
    z = _NORMAL.inv_cdf(0.5 + confidence / 2.0)
    v = n - 1
    t = (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )
    return math.sqrt(n / v) * t
