"""What a runtime counts."""

from __future__ import annotations

import json

import numpy as np
import pytest

from agentkd.runtime.loop import Timeline
from agentkd.runtime.metrics import Agreement, Histogram, Metrics
from agentkd.spec import BoxSpec
from agentkd.types import Decision, Point
from tests.runtime_children import SPEC, one_hot


@pytest.mark.parametrize("scale", [1e1, 1e3, 1e6, 1e9])
def test_percentiles_are_within_a_few_percent(scale: float) -> None:
    """Percentiles are at most 4 % off; maximum and mean are exact."""
    values = np.random.default_rng(0).lognormal(0, 1, 5003) * scale + 32
    whole = values.astype(np.int64)
    histogram = Histogram()
    for value in whole.tolist():
        histogram.record(value)
    summary = histogram.summary(1)
    for name, share in (("p50", 50), ("p99", 99), ("p99.9", 99.9)):
        exact = np.percentile(whole, share, method="inverted_cdf")
        assert summary[name] == pytest.approx(exact, rel=0.04)
    assert summary["max"] == whole.max()
    assert summary["mean"] == pytest.approx(whole.mean())
    assert summary["count"] == 5003


def test_histogram_takes_any_duration() -> None:
    """Zero, negative and absurdly long durations are counted, not refused."""
    histogram = Histogram()
    for value in (0, -5, 1, 31, 32, 33, 2**62):
        histogram.record(value)
    assert histogram.summary(1)["count"] == 7
    assert Histogram().summary() == {"count": 0}
    # Read while another thread notes the first one.
    begun = Histogram()
    begun._highest = 5
    assert begun.summary() == {"count": 0}


def test_agreement_counts_equal_choices() -> None:
    """Agreement is the share of equal choices, of the newest and of all answers."""
    agreement = Agreement(SPEC.action, window=2)
    assert agreement.summary()["executor_agreement"] is None
    for did, planned in ((0, 1), (0, 0), (2, 3), (3, 3)):
        agreement.note(did, one_hot([planned]))
    summary = agreement.summary()
    assert summary == {"executor_agreement": 0.5, "executor_agreement_mean": 0.5}
    agreement.note(1, one_hot([1]))
    assert agreement.summary()["executor_agreement"] == 1.0


def test_agreement_of_numbers_is_a_distance() -> None:
    """For boxes agreement is one minus the distance in units of the bounds'."""
    agreement = Agreement(BoxSpec((-1.0,), (1.0,), (1,)))
    agreement.note(np.array([0.5], np.float32), Point(np.array([[0.0]], np.float32)))
    assert agreement.summary()["executor_agreement"] == pytest.approx(0.75)


def test_snapshot_is_plain() -> None:
    """A snapshot can be written as JSON as it is."""
    metrics = Metrics(SPEC.action)
    metrics.decisions["executor", "late"] = 2
    snapshot = json.loads(json.dumps(metrics.snapshot()))
    assert snapshot["decisions_total"] == {"executor": {"late": 2}}
    assert snapshot["ticks_total"] == 2


def test_timeline_keeps_a_bound_and_the_whole_run() -> None:
    """However long the run, the samples are evenly spread and few."""
    timeline = Timeline(most=16)
    for tick in range(1000):
        timeline.note(Decision(0, "executor", "late", tick, 1, 1e-6), 0.0, 1.0)
    ticks = timeline.columns()["tick"]
    assert len(ticks) <= 16
    assert set(np.diff(ticks)) == {timeline.stride}
    assert ticks[0] == 0
    assert ticks[-1] > 1000 - 2 * timeline.stride
