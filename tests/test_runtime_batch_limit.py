"""How many observations a request holds follows what they cost."""

from __future__ import annotations

from collections.abc import Callable

from agentkd.runtime.planner import BatchLimit


def test_the_first_request_is_about_one() -> None:
    """Only then is it known what one takes, however many wait."""
    limit = BatchLimit(257)
    assert limit.rows == 1
    limit.note(1, 0.15)
    assert limit.rows == 16


def settled(cost: Callable[[int], float], most: int = 257, rounds: int = 40) -> BatchLimit:
    """Ask again and again with as many as the limit allows, of a long backlog."""
    limit = BatchLimit(most)
    for _ in range(rounds):
        limit.note(limit.rows, cost(limit.rows))
    return limit


def test_a_model_that_answers_a_batch_at_once_labels_all() -> None:
    """Where a batch takes no longer than one, the limit is the backlog."""
    assert settled(lambda rows: 0.1).rows == 257


def test_a_search_is_asked_about_little_more_than_the_newest() -> None:
    """Where each observation takes as long as the first, a request holds a few."""
    for rounds in range(10, 30):
        assert settled(lambda rows: 0.15 * rows, rounds=rounds).rows <= 4


def test_what_takes_no_time_is_not_held_back() -> None:
    """Under five milliseconds it does not matter what a row costs."""
    assert settled(lambda rows: 2e-6 * rows).rows == 257


def test_a_planner_that_becomes_slow_is_asked_about_less() -> None:
    """A limit that was right once does not stay when the planner changes."""
    limit = settled(lambda rows: 0.1)
    for _ in range(20):
        limit.note(limit.rows, 0.1 + 0.2 * limit.rows)
    assert limit.rows <= 2


def test_little_to_label_does_not_raise_the_limit() -> None:
    """What was not tried is not promised."""
    limit = BatchLimit(257)
    for _ in range(20):
        limit.note(1, 0.1)
    before = limit.rows
    limit.note(1, 0.1)
    assert limit.rows == before == 16
