"""Statistics of several runs on several tasks, beside rliable's answers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.errors import ConfigError
from agentkd.measure.aggregates import (
    interquartile_mean,
    iqm_interval,
    paired_difference,
    performance_profile,
    probability_of_improvement,
)

RLIABLE: dict[str, Any] = json.loads(
    (Path(__file__).parent / "data" / "aggregates.json").read_text(encoding="utf-8")
)
"""Scores, and what rliable 1.2.0 says of them; tests/data/aggregates.py wrote it."""


def _strata(matrix: list[list[float]]) -> list[list[float]]:
    """A matrix (runs, tasks), as rliable takes it, task by task."""
    return [list(each) for each in zip(*matrix, strict=True)]


MINE, THEIRS = (_strata(RLIABLE["scores"][name]) for name in ("mine", "theirs"))


def test_the_interquartile_mean_is_rliables() -> None:
    """Of all runs and tasks, and of few."""
    assert iqm_interval(MINE).mean == pytest.approx(RLIABLE["iqm"], rel=1e-12)
    for values, expected in RLIABLE["few"]:
        assert interquartile_mean(values) == pytest.approx(expected, rel=1e-12)


def test_its_interval_is_rliables() -> None:
    """Both draw; with 50,000 resamples the ends agree to a fiftieth of the interval's width."""
    found = iqm_interval(MINE, widened=False, resamples=50_000)
    low, high = RLIABLE["iqm_interval"]
    assert (found.low, found.high) == pytest.approx((low, high), abs=(high - low) / 50)


def test_the_probability_of_improvement_is_rliables() -> None:
    """Ties count half, and tasks alike."""
    found = probability_of_improvement(MINE, THEIRS, widened=False, resamples=20_000)
    assert found.mean == pytest.approx(RLIABLE["improvement"], rel=1e-12)
    low, high = RLIABLE["improvement_interval"]
    assert (found.low, found.high) == pytest.approx((low, high), abs=(high - low) / 30)


def test_the_performance_profile_is_rliables() -> None:
    """At each threshold the share of runs above it, with its interval."""
    found = performance_profile(MINE, RLIABLE["taus"], widened=False, resamples=20_000)
    assert [each.mean for each in found] == pytest.approx(RLIABLE["profile"], rel=1e-12)
    lows, highs = RLIABLE["profile_interval"]
    assert [each.low for each in found] == pytest.approx(lows, abs=0.03)
    assert [each.high for each in found] == pytest.approx(highs, abs=0.03)


def test_a_paired_difference_is_of_runs_with_one_seed() -> None:
    """A constant gain is seen exactly, however far the runs are apart."""
    gained = [[value + 0.25 for value in runs] for runs in THEIRS]
    found = paired_difference(gained, THEIRS)
    assert (found.mean, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))
    with pytest.raises(ConfigError, match="paired by their seeds"):
        paired_difference([[1.0, 2.0]], [[1.0]])


def test_few_runs_have_wider_intervals_than_rliables() -> None:
    """Three runs: plain percentiles cover too little."""
    three = [[0.2, 0.9, 1.0], [0.4, 0.8, 0.7], [0.5, 0.6, 1.1]]
    plain, wide = iqm_interval(three, widened=False), iqm_interval(three)
    assert wide.low < plain.low < plain.high < wide.high
    assert min(map(min, three)) <= wide.low
    assert wide.high <= max(map(max, three))


def test_intervals_cover_what_they_claim() -> None:
    """Of 300 draws of 4 runs on 3 tasks, at least 93 % of the intervals hold the true mean."""
    draw = np.random.default_rng(7)
    held = 0
    for _ in range(300):
        strata = draw.normal(0.0, 1.0, (3, 4)).tolist()
        found = iqm_interval(strata, resamples=500)
        held += found.low <= 0.0 <= found.high
    assert held >= 0.93 * 300


def test_the_same_scores_give_the_same_interval() -> None:
    """Draws have a fixed seed."""
    assert iqm_interval(MINE) == iqm_interval(MINE)


def test_what_has_no_interval_says_why() -> None:
    """One run, NaN, equal runs; and no runs at all are refused."""
    for few in ([[1.0], [2.0, 3.0]], [[1.0]], [[1.0], [2.0]], [[1.0], [2.0, 2.0]]):
        one = iqm_interval(few)
        assert math.isnan(one.low)
        assert math.isnan(one.high)
        assert "One run" in one.reason
    assert math.isnan(paired_difference([[0.5]], [[0.4]]).low)
    assert math.isnan(probability_of_improvement([[0.5]], [[0.4]]).low)
    bad = iqm_interval([[1.0, math.nan]])
    assert math.isnan(bad.mean)
    assert "NaN" in bad.reason
    same = iqm_interval([[0.1] * 3, [0.1] * 3])
    assert (same.low, same.high) == (same.mean, same.mean)
    assert math.isnan(interquartile_mean([]))
    with pytest.raises(ConfigError, match="no runs"):
        iqm_interval([[]])
    with pytest.raises(ConfigError, match="confidence"):
        iqm_interval(MINE, 95)
    with pytest.raises(ConfigError, match="same ones"):
        probability_of_improvement(MINE, THEIRS[:1])


def test_better_runs_win_always_and_equal_ones_half() -> None:
    """1, 0 and one half."""
    high, low = [[2.0, 3.0]], [[0.0, 1.0]]
    assert probability_of_improvement(high, low).mean == 1.0
    assert probability_of_improvement(low, high).mean == 0.0
    assert probability_of_improvement([[1.0, 1.0]], [[1.0, 1.0]]).mean == 0.5
