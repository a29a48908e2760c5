"""Scores of several runs on several tasks: interquartile means, profiles, comparisons.

Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice". A
*stratum* holds the scores of the runs, the seeds, on one task; tasks may have unlike numbers of
runs. Intervals are percentiles of the stratified bootstrap: runs are drawn anew within each task.
Plain percentiles are too narrow for few runs, so they are widened (Hesterberg 2015) unless
`widened` is false; without it every figure is the one of `rliable`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentkd.errors import ConfigError, check_range
from agentkd.measure.intervals import Interval

Doubles = NDArray[np.float64]
Strata = Sequence[Sequence[float]]
"""The scores of the runs on each task."""

_RESAMPLES = 10_000
_SEED = 0
_CHUNK = 1_000_000
_CUT = 0.25
"""What an interquartile mean leaves out at each end."""


def interquartile_mean(scores: Sequence[float]) -> float:
    """Return the mean of the middle half; NaN without scores.

    A quarter of the scores, rounded down, is left out at each end: of fewer than four, nothing.
    """
    if not len(scores):
        return math.nan
    from scipy import stats

    return float(stats.trim_mean(np.asarray(scores, np.float64), _CUT))


def iqm_interval(
    strata: Strata, confidence: float = 0.95, *, widened: bool = True, resamples: int = _RESAMPLES
) -> Interval:
    """Estimate the interquartile mean over all runs and tasks, with its interval.

    Args:
        strata: Scores of the runs on each task.
        confidence: Of the interval, between 0 and 1.
        widened: Whether the interval is widened for few runs.
        resamples: How often runs are drawn anew.

    Returns:
        The mean and its interval. Equal scores give an interval without width; a task with one run
        gives none, with the reason.

    Raises:
        ConfigError: If the confidence is not between 0 and 1, or a task has no runs.
    """
    samples = _samples(strata, confidence)

    def statistic(*drawn: Doubles, axis: int = -1) -> Doubles:
        return _trimmed(np.concatenate(drawn, axis=axis))

    return _estimate(statistic, samples, confidence, widened=widened, resamples=resamples)


def performance_profile(
    strata: Strata,
    thresholds: Sequence[float],
    confidence: float = 0.95,
    *,
    widened: bool = True,
    resamples: int = 2_000,
) -> list[Interval]:
    """Estimate which share of the runs has a score above each threshold.

    Tasks count alike. The curve over the thresholds is the score distribution of Agarwal et al.
    2021, section 4.2.

    Args:
        strata: Scores of the runs on each task.
        thresholds: Where the profile is taken.
        confidence: Of each interval, point by point.
        widened: Whether the intervals are widened for few runs.
        resamples: How often runs are drawn anew.

    Raises:
        ConfigError: As `iqm_interval`.
    """
    samples = _samples(strata, confidence)
    taus = np.asarray(thresholds, np.float64)

    def shares(*drawn: Doubles) -> Doubles:
        found: Doubles = np.mean([(e[..., None] > taus).mean(axis=-2) for e in drawn], axis=0)
        return found

    points = shares(*samples)
    if min(map(len, samples)) < 2:
        return [Interval(float(each), math.nan, math.nan, _ONE) for each in points]
    draw = np.random.default_rng(_SEED)
    drawn = [_drawn(each, resamples, draw) for each in samples]
    # A threshold at a time would be slow, all at once large.
    step = max(1, _CHUNK // (max(map(len, samples)) * len(taus)))
    pieces = [shares(*(each[at : at + step] for each in drawn)) for at in range(0, resamples, step)]
    low, high = _ends(np.concatenate(pieces), samples, confidence, widened=widened)
    ends = zip(points.tolist(), low.tolist(), high.tolist(), strict=True)
    return [Interval(*each) for each in ends]


def probability_of_improvement(
    mine: Strata,
    theirs: Strata,
    confidence: float = 0.95,
    *,
    widened: bool = True,
    resamples: int = _RESAMPLES,
) -> Interval:
    """Estimate how probably a run of one method beats a run of another, on a task drawn at random.

    The mean over tasks of the Mann-Whitney U statistic over the number of pairs; ties count half.

    Args:
        mine: Scores of the runs of one method on each task.
        theirs: Scores of the other on the same tasks, in the same order.
        confidence: Of the interval.
        widened: Whether the interval is widened for few runs.
        resamples: How often runs are drawn anew, within each method and task.

    Raises:
        ConfigError: As `iqm_interval`, or if the numbers of tasks differ.
    """
    left, right = _samples(mine, confidence), _samples(theirs, confidence)
    _same_tasks(left, right)

    def statistic(*drawn: Doubles, axis: int = -1) -> Doubles:
        del axis  # scipy gives the last one
        pairs = zip(drawn[: len(left)], drawn[len(left) :], strict=True)
        found: Doubles = np.mean([_beats(x, y) for x, y in pairs], axis=0)
        return found

    samples = [*left, *right]
    return _estimate(statistic, samples, confidence, widened=widened, resamples=resamples)


def paired_difference(
    mine: Strata,
    theirs: Strata,
    confidence: float = 0.95,
    *,
    widened: bool = True,
    resamples: int = _RESAMPLES,
) -> Interval:
    """Estimate the interquartile mean of the differences of runs with the same seed.

    Args:
        mine: Scores of the runs of one method on each task.
        theirs: Scores of the other, run by run with the same seeds.
        confidence: Of the interval.
        widened: Whether the interval is widened for few runs.
        resamples: How often pairs are drawn anew, within each task.

    Raises:
        ConfigError: As `iqm_interval`, or if the runs cannot be paired.
    """
    left, right = _samples(mine, confidence), _samples(theirs, confidence)
    _same_tasks(left, right)
    if [len(each) for each in left] != [len(each) for each in right]:
        raise ConfigError("Runs are paired by their seeds: give as many of both on each task.")
    apart = [(x - y).tolist() for x, y in zip(left, right, strict=True)]
    return iqm_interval(apart, confidence, widened=widened, resamples=resamples)


_ONE = "One run of a task has no interval."


@dataclass(frozen=True, slots=True)
class _Tail:
    """Which quantiles of the bootstrap's distribution are the ends of an interval."""

    low: float
    high: float


def _tail(samples: Sequence[Doubles], confidence: float, *, widened: bool) -> _Tail:
    """Widen plain percentiles by sqrt(n / (n-1)) and Student's quantile, as in `intervals`."""
    outside = (1 - confidence) / 2
    if widened:
        from scipy import stats

        fewest = min(map(len, samples))
        free = sum(len(each) - 1 for each in samples)
        reach = math.sqrt(fewest / (fewest - 1)) * stats.t.ppf(1 - outside, free)
        outside = float(stats.norm.cdf(-reach))
    return _Tail(outside, 1 - outside)


def _ends(
    draws: Doubles, samples: Sequence[Doubles], confidence: float, *, widened: bool
) -> tuple[Any, Any]:
    tail = _tail(samples, confidence, widened=widened)
    low, high = np.quantile(draws, [tail.low, tail.high], axis=0)
    return low, high


def _samples(strata: Strata, confidence: float) -> list[Doubles]:
    check_range("confidence", confidence, above=0, below=1, hint="0.95 is usual.")
    samples = [np.asarray(each, np.float64) for each in strata]
    if not samples or not all(map(len, samples)):
        raise ConfigError("A task has no runs: leave it out, or measure it.")
    return samples


def _same_tasks(left: Sequence[Doubles], right: Sequence[Doubles]) -> None:
    if len(left) != len(right):
        raise ConfigError(f"{len(left)} tasks and {len(right)}: both have to be on the same ones.")


def _estimate(
    statistic: Callable[..., Doubles],
    samples: Sequence[Doubles],
    confidence: float,
    *,
    widened: bool,
    resamples: int,
) -> Interval:
    """Estimate a statistic of samples that are drawn anew each on its own."""
    if not all(np.isfinite(each).all() for each in samples):
        return Interval(math.nan, math.nan, math.nan, "A score is NaN or infinite.")
    point = float(statistic(*samples))
    if min(map(len, samples)) < 2:
        return Interval(point, math.nan, math.nan, _ONE)
    if all(np.ptp(each) == 0.0 for each in samples):
        return Interval(point, point, point)
    from scipy import stats

    draws = stats.bootstrap(
        tuple(samples),
        statistic,
        n_resamples=resamples,
        batch=max(1, _CHUNK // sum(map(len, samples))),
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    ).bootstrap_distribution
    low, high = _ends(draws, samples, confidence, widened=widened)
    return Interval(point, float(low), float(high))


def _drawn(sample: Doubles, count: int, draw: np.random.Generator) -> Doubles:
    """Draw a sample anew, (count, runs)."""
    return sample[draw.integers(0, len(sample), (count, len(sample)))]


def _trimmed(scores: Doubles) -> Doubles:
    """Return the interquartile means along the last axis."""
    count = scores.shape[-1]
    cut = int(_CUT * count)
    ordered = np.partition(scores, (cut, count - cut - 1), axis=-1)
    middle: Doubles = ordered[..., cut : count - cut].mean(axis=-1)
    return middle


def _beats(mine: Doubles, theirs: Doubles) -> Doubles:
    """Return the share of pairs along the last axis in which the first is larger."""
    x, y = mine[..., :, None], theirs[..., None, :]
    wins: Doubles = ((x > y) + 0.5 * (x == y)).mean(axis=(-2, -1))
    return wins
