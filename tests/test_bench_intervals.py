"""Means and retentions with intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from agentkd.errors import ConfigError
from agentkd.measure.intervals import Interval, mean_interval, retention


def test_equal_values_have_an_interval_without_width() -> None:
    """A CartPole that always reaches 500 is known exactly."""
    assert mean_interval([500.0] * 20) == Interval(500.0, 500.0, 500.0)
    assert mean_interval([0.1] * 3) == Interval(0.1, 0.1, 0.1)


@pytest.mark.parametrize(("values", "reason"), [([], "no values"), ([math.nan, 1.0], "NaN")])
def test_no_mean_without_numbers(values: list[float], reason: str) -> None:
    """What has no mean says why."""
    got = mean_interval(values)
    assert math.isnan(got.mean)
    assert math.isnan(got.low)
    assert reason in got.reason


def test_one_value_has_a_mean_and_no_interval() -> None:
    """One episode tells nothing of the spread."""
    got = mean_interval([7.0])
    assert got.mean == 7.0
    assert math.isnan(got.low)
    assert math.isnan(got.high)
    assert got.reason


def test_an_interval_holds_the_mean_within_the_values() -> None:
    """low ≤ mean ≤ high, and neither end leaves the values' range."""
    values = np.random.default_rng(0).exponential(size=15).tolist()
    got = mean_interval(values)
    assert min(values) <= got.low < got.mean < got.high <= max(values)


def test_an_interval_is_the_same_each_time() -> None:
    """The bootstrap's seed is fixed."""
    assert mean_interval([1.0, 2.0, 5.0]) == mean_interval([1.0, 2.0, 5.0])


def test_more_confidence_is_wider() -> None:
    """99 % needs more room than 80 %."""
    values = np.random.default_rng(0).normal(size=30).tolist()
    wide, narrow = (mean_interval(values, each) for each in (0.99, 0.8))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Of many samples of ten, about 95 % of the intervals hold the true mean."""
    random = np.random.default_rng(4)
    hits = [
        got.low <= 3.0 <= got.high
        for got in (mean_interval(random.normal(3.0, 2.0, 10).tolist()) for _ in range(300))
    ]
    assert 0.91 <= np.mean(hits) <= 0.98


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
@pytest.mark.parametrize("values", [[1.0, 2.0], [1.0] * 4 + [2.0], [0.1, 0.1, 0.2], [1e9, 1e9 + 1]])
def test_few_values_have_an_interval(values: list[float], confidence: float) -> None:
    """The bootstrap does not degenerate; at the worst it is the values' range."""
    got = mean_interval(values, confidence)
    assert min(values) <= got.low <= got.mean <= got.high <= max(values)


def test_an_interval_leans_to_where_the_values_are_rare() -> None:
    """Of skewed values the longer side is the tail's (BCa)."""
    values = [0.0] * 18 + [1.0, 10.0]
    got = mean_interval(values)
    assert got.high - got.mean > 1.5 * (got.mean - got.low)


def test_retention_is_the_share_above_random() -> None:
    """The design's formula, on means."""
    got = retention([80.0, 90.0], [90.0, 100.0], [-10.0, 0.0])
    assert got.mean == pytest.approx(0.9)
    assert got.low <= got.mean <= got.high


def test_retention_of_the_planner_itself_is_one() -> None:
    """The same returns on the same seeds leave no doubt."""
    values = np.random.default_rng(0).normal(200, 50, 20).tolist()
    random = np.random.default_rng(1).normal(-200, 50, 20).tolist()
    got = retention(values, values, random)
    assert (got.mean, got.low, got.high) == pytest.approx((1.0, 1.0, 1.0))


def test_retention_of_random_play_is_zero() -> None:
    """And of worse play it is below."""
    values = [0.0, 1.0, 2.0]
    assert retention(values, [10.0, 11.0, 12.0], values).mean == 0.0
    assert retention([-5.0, -5.0], [10.0, 11.0], [0.0, 0.0]).mean < 0.0


def test_retention_counts_returns_that_are_negative() -> None:
    """Where all returns are below 0, a plain ratio would mislead."""
    got = retention([-160.0] * 3, [-150.0] * 3, [-1200.0] * 3)
    assert [got.mean, got.low, got.high] == pytest.approx([1040 / 1050] * 3)


def test_samples_of_other_lengths_are_drawn_apart() -> None:
    """A saved result may have more episodes."""
    random = np.random.default_rng(0)
    executor = random.normal(190, 20, 30).tolist()
    planner = random.normal(200, 20, 20).tolist()
    got = retention(executor, planner, random.normal(0, 20, 20).tolist())
    assert 0.8 < got.low < got.mean < got.high < 1.1


def test_retention_is_undefined_where_the_planner_is_random() -> None:
    """It is NaN, and says why."""
    got = retention([1.0, 2.0], [3.0, 3.0], [3.0, 3.0])
    assert math.isnan(got.mean)
    assert "as much as random" in got.reason


def test_retention_has_no_interval_where_the_planner_is_hardly_better() -> None:
    """Where the sign of the difference is open, so is everything."""
    random = np.random.default_rng(0)
    executor, planner, chance = (random.normal(each, 50, 10).tolist() for each in (3, 2, 0))
    got = retention(executor, planner, chance)
    assert math.isfinite(got.mean)
    assert math.isnan(got.low)
    assert "hardly better" in got.reason


@pytest.mark.parametrize(
    "samples", [([], [1.0], [0.0]), ([1.0], [], [0.0]), ([math.nan], [1.0], [0.0])]
)
def test_retention_needs_numbers(samples: tuple[list[float], list[float], list[float]]) -> None:
    """A policy without returns has no retention."""
    got = retention(*samples)
    assert math.isnan(got.mean)
    assert got.reason


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_a_confidence_is_between_0_and_1(confidence: float) -> None:
    """95 was meant as 0.95."""
    with pytest.raises(ConfigError, match=str(confidence)):
        mean_interval([1.0, 2.0], confidence)


@pytest.mark.parametrize(("sign", "low", "high"), [(1.0, 5.75, 23.25), (-1.0, -23.25, -5.75)])
def test_an_interval_is_the_one_that_others_find(sign: float, low: float, high: float) -> None:
    """Scipy 1.17's BCa, at the widened confidence, gives the same within 2 %."""
    skewed = [0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 8, 9, 12, 15, 20, 28, 40, 66]
    got = mean_interval([sign * each for each in skewed])
    assert [got.low, got.high] == pytest.approx([low, high], rel=0.02)
