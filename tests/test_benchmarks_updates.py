"""The benchmark of updates: decisions in them and beside them, and what programs take."""

from __future__ import annotations

import numpy as np
import pytest

from agentkd.errors import ConfigError
from benchmarks.updates import Options, decisions, findings, programs, ratio, sort, works

SECOND = 10**9


def test_decisions_are_sorted_by_the_turn_they_began_in() -> None:
    """The start does not count; a gap is what exceeds the period."""
    began = np.arange(0, 20 * SECOND, SECOND // 10)
    taken = np.full(len(began), 10_000)
    within = (began >= 5 * SECOND) & (began < 10 * SECOND)
    taken[within] = 25_000
    taken[3] = 10**8
    times = np.stack([began, began + taken], axis=1)
    found = sort(times, [(5 * SECOND, 10 * SECOND)], 1e8)
    assert (found["update_count"], found["idle_count"]) == (50, 200 - 11 - 1 - 50)
    assert (found["idle_decision_max"], found["update_decision_p50"]) == (10.0, 25.0)
    assert (found["update_gap_max"], found["idle_gap_max"]) == (15.0, 0.0)
    assert ratio(found) == 2.5


def test_a_robot_is_updated_and_its_decisions_are_told() -> None:
    """Each turn has its row, and the sentence its ratio."""
    found = {"hz": 200.0, "part": "decisions", **decisions(200.0, 1, 20)}
    assert found["update_count"] > 40
    assert found["idle_count"] > 20
    told = findings(Options(), [found])
    assert told.passed == (ratio(found) <= 2)
    assert "200 Hz" in told.verdict


def test_programs_of_a_device_are_started() -> None:
    """Each takes time and memory; what checks signatures takes most."""
    found = programs(1)
    assert found["agent that checks MiB"] > found["Python alone MiB"] > 5
    assert min(found.values()) > 0


def test_options_out_of_range_are_named() -> None:
    """As everywhere."""
    with pytest.raises(ConfigError, match="rounds"):
        list(works(Options(rounds=0)))
    with pytest.raises(ConfigError, match="hz"):
        list(works(Options(hz=(0.0,))))
