"""The trace of late ticks: what delayed them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.lateness import Delays, Ran, Seen, cause, delays, traced
from benchmarks.ticks import Timed, ours

MS = 1e-3


def seen(index: int, **changes: Any) -> Seen:
    """Make a tick of a 1 ms clock: on time, after 0.1 ms of work and a sleep."""
    usual = {
        "index": index,
        "entered": (index - 1) * MS + 0.1 * MS,
        "due": index * MS,
        "came": index * MS,
        "missed": 0,
        "switched": 1,
        "preempted": 0,
        "faults": 0,
        "computed": 0.3 * MS,
    }
    return Seen(**{**usual, **changes})


@pytest.mark.parametrize(
    ("changes", "ran", "why"),
    [
        ({"came": 5.5 * MS, "switched": 2}, (), "another thread had the interpreter"),
        ({"came": 5.5 * MS, "preempted": 1}, (), "the processor was given late, or taken"),
        ({"came": 5.5 * MS}, (), "the processor was given late, or taken"),
        (
            {"entered": 5.4 * MS, "came": 5.4 * MS, "switched": 0, "computed": 1.4 * MS},
            [("weights: bind", 4.5 * MS, 5.4 * MS)],
            "weights: bind",
        ),
        (
            {"entered": 5.4 * MS, "came": 5.4 * MS, "switched": 0, "computed": 1.4 * MS},
            [("weights: bind", 4.1 * MS, 4.2 * MS)],
            "decision and step",
        ),
        ({"came": 5.5 * MS, "faults": 1}, (), "a page came from disk"),
    ],
)
def test_what_delayed_a_tick(changes: dict[str, Any], ran: Sequence[Ran], why: str) -> None:
    """Processor time, switches and what ran tell the causes apart."""
    assert cause(seen(5, **changes), 4 * MS, ran) == why


def test_a_tick_that_was_due_while_the_one_before_was_late_has_the_same_cause() -> None:
    """The periods that one delay cost are counted for it, at the tick that skipped them."""
    ticks = [
        seen(0),
        seen(1),
        seen(2, came=5.5 * MS, switched=2),
        seen(3, entered=5.6 * MS, came=5.6 * MS, missed=2, switched=0, computed=0.1 * MS),
        seen(6),
    ]
    found = delays(ticks, [("planner", 1.2 * MS, 1.3 * MS)])
    why = "another thread had the interpreter"
    assert (found.late, found.missed) == ({why: 2}, {why: 2})
    assert [row["tick"] for row in found.worst] == [2, 3]
    assert found.worst[0]["ran"] == "planner 100"
    whole = Delays()
    for _ in range(2):
        whole.add(found)
    told = whole.told()
    assert told["causes"] == [{"cause": why, "late": 4, "missed": 4}]
    assert told["slices"][0]["count"] == 2


def test_a_traced_run_tells_its_slices() -> None:
    """The report of a run shows what ran between its ticks, and rounds are joined."""
    found = Timed()
    for _ in range(2):
        found.add(ours(200.0, 0.4, busy=False, trace=True))
    told = found.told(200.0)
    slices = {each["slice"] for each in told["delays"]["slices"]}
    assert {"garbage", "views"} <= slices
    titles = [each.title for each in traced([{**told, "hz": 200.0, "loop": "ours, idle"}])]
    assert "What our loop did between ticks" in titles
    assert list(traced([{"hz": 200.0, "loop": "ours, idle"}])) == []
