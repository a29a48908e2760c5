"""Which strategies are taken, and which of their rows serves a tick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from agentkd.dists import packed
from agentkd.errors import ConfigError
from agentkd.runtime import Goals, Seam, StrategyOptions
from agentkd.runtime.codec import Answer
from agentkd.runtime.strategies import Strategies
from agentkd.types import Strategy
from tests.runtime_children import BOX, SPEC, one_hot, points


def answer(tick: int, choices: Sequence[int], episode: int = 0) -> Answer:
    return Answer(1, episode, tick, 1, 0.0, 0.0, packed(one_hot(choices)))


def current(strategies: Strategies) -> list[Strategy]:
    return [] if strategies.current is None else [strategies.current]


def refused(strategies: Strategies) -> dict[str, int]:
    return {reason: n for reason, n in strategies.rejected.items() if n}


def test_rows_are_indexed_by_ticks_consumed() -> None:
    """Four rows that arrive two ticks late serve their third and fourth, then none."""
    strategies = Strategies(SPEC)
    strategies.offer(answer(10, [0, 1, 2, 3]), 12, 0)
    served = [strategies.serve(tick) for tick in (12, 13, 14)]
    assert served == [(2, "ahead"), (3, "ahead"), (None, "late")]
    assert refused(strategies) == {}
    assert strategies.accepted == 1


def test_answer_in_time_is_fresh() -> None:
    """One row serves the tick of its observation."""
    strategies = Strategies(SPEC)
    strategies.offer(answer(5, [3]), 5, 0)
    assert strategies.serve(5) == (3, "fresh")


def test_answer_after_its_last_row_is_late() -> None:
    """One row that comes one tick later serves nothing and is counted."""
    strategies = Strategies(SPEC)
    strategies.offer(answer(5, [3]), 6, 0)
    assert strategies.serve(6) == (None, "late")
    assert refused(strategies) == {"late": 1}


def test_answer_of_another_epoch_is_refused() -> None:
    """A strategy of an episode that is over never acts in the next."""
    strategies = Strategies(SPEC)
    strategies.offer(answer(5, [3, 3], episode=0), 6, 1)
    assert strategies.serve(6) == (None, "episode")
    assert refused(strategies) == {"episode": 1}


def test_older_answer_is_superseded() -> None:
    """An answer about an older observation does not replace a newer one's."""
    strategies = Strategies(SPEC)
    strategies.offer(answer(6, [1, 1, 1]), 7, 0)
    strategies.offer(answer(5, [2, 2, 2, 2]), 7, 0)
    assert strategies.serve(7) == (1, "ahead")
    assert refused(strategies) == {"superseded": 1}


def test_patient_strategies_act_once_when_late() -> None:
    """A planner that acts alone acts at the tick of its answer, with its last row."""
    strategies = Strategies(SPEC, patient=True)
    strategies.offer(answer(0, [1, 2]), 5, 0)
    assert strategies.serve(5) == (2, "late")
    assert strategies.serve(6) == (None, "late")
    assert refused(strategies) == {}


def test_reset_forgets_the_strategy() -> None:
    """After a reset the rows that are left do not serve."""
    strategies = Strategies(SPEC)
    strategies.offer(answer(0, [1, 2, 3]), 0, 0)
    strategies.reset()
    assert strategies.serve(1)[0] is None


def test_strategy_for_a_later_tick_waits_for_it() -> None:
    """Rows for ticks to come do not act before; what is under way goes on."""
    strategies = Strategies(SPEC)
    strategies.offer(answer(0, [0, 1, 2, 3, 0, 1]), 0, 0)
    strategies.offer(answer(4, [2, 3, 2], 0), 1, 0)
    served = [strategies.serve(tick) for tick in range(1, 8)]
    assert served == [
        (1, "ahead"),
        (2, "ahead"),
        (3, "ahead"),
        (2, "fresh"),
        (3, "ahead"),
        (2, "ahead"),
        (None, "late"),
    ]


def test_newer_strategy_that_begins_sooner_wins() -> None:
    """One asked for later and for an earlier tick is not replaced by the older one."""
    strategies = Strategies(SPEC)
    strategies.offer(replace(answer(5, [1] * 9), seen=1), 2, 0)
    strategies.offer(replace(answer(4, [2] * 9), seen=2), 3, 0)
    assert [strategies.serve(tick)[0] for tick in (3, 4, 5, 6)] == [None, 2, 2, 2]


def test_upcoming_actions_end_at_the_first_gap() -> None:
    """What is committed is what is under way, then what waits, without a hole."""
    strategies = Strategies(SPEC)
    strategies.offer(answer(0, [0, 1, 2]), 0, 0)
    strategies.serve(0)
    strategies.offer(answer(2, [3, 3]), 1, 0)
    assert strategies.upcoming(1, 9) == [1, 3, 3]
    strategies.offer(answer(6, [1]), 1, 0)
    assert strategies.upcoming(1, 9) == [1, 3, 3]


def test_better_part_of_an_answer_takes_over() -> None:
    """Parts of one answer improve the rows; an older part that comes late does not."""
    strategies = Strategies(SPEC)
    whole = answer(5, [0, 0, 0, 0])
    strategies.offer(replace(whole, part=0, partial=True), 6, 0)
    assert [each.partial for each in current(strategies)] == [True]
    assert strategies.serve(6) == (0, "ahead")
    better = replace(whole, part=2, rows=packed(one_hot([1, 1, 1, 1])))
    strategies.offer(better, 7, 0)
    strategies.offer(replace(whole, part=1, partial=True), 7, 0)
    assert strategies.serve(7) == (1, "ahead")
    assert [each.partial for each in current(strategies)] == [False]
    assert refused(strategies) == {"superseded": 1}


def test_frozen_ticks_belong_to_the_strategy_under_way() -> None:
    """With two frozen ticks the next strategy begins two ticks after it came."""
    strategies = Strategies(SPEC, StrategyOptions(seam=Seam(freeze=2)))
    strategies.offer(answer(0, [0] * 9), 0, 0)
    assert strategies.serve(0) == (0, "fresh")
    strategies.acted()
    strategies.offer(answer(1, [1] * 9), 3, 0)
    served = [strategies.serve(tick)[0] for tick in (3, 4, 5)]
    assert served == [0, 0, 1]


def test_nothing_is_frozen_where_nothing_is_under_way() -> None:
    """The first strategy begins when it comes, frozen ticks or not."""
    strategies = Strategies(SPEC, StrategyOptions(seam=Seam(freeze=5)))
    strategies.offer(answer(0, [0, 1, 2]), 1, 0)
    assert strategies.serve(1) == (1, "ahead")


def test_commands_and_not_ticks_use_up_rows_of_a_world_that_waits() -> None:
    """Where nobody decided for three ticks, the first row is still to come."""
    options = StrategyOptions(advance="commands")
    strategies = Strategies(SPEC, options)
    for tick in range(3):
        strategies.tick(tick)
        assert strategies.serve(tick)[0] is None
        strategies.idled()
    strategies.tick(3)
    strategies.offer(answer(0, [1, 2]), 3, 0)
    assert strategies.serve(3) == (1, "fresh")
    strategies.tick(4)
    assert strategies.serve(4) == (2, "ahead")
    strategies.tick(5)
    assert strategies.serve(5) == (None, "late")


def test_goal_counts_without_rows_and_ages() -> None:
    """A goal whose rows are over, or that has none, still guides the executor."""
    strategies = Strategies(SPEC, StrategyOptions(goals=Goals(2, max_age=5)))
    goal = np.array([[0.5, 1.0]], np.float32)
    strategies.offer(replace(answer(0, [1]), goal=goal), 3, 0)
    assert strategies.serve(3) == (None, "late")
    found, age = strategies.goal(4)
    assert found is not None
    assert found.tolist() == goal.tolist()
    assert age == 4
    strategies.offer(replace(answer(2, []), rows=None, goal=goal), 9, 0)
    assert refused(strategies) == {"late": 1}
    strategies.reset()
    assert strategies.goal(5) == (None, 0)


def test_goal_of_a_later_tick_waits_for_it() -> None:
    """A goal that was thought of for tick 4 does not guide tick 3."""
    strategies = Strategies(SPEC, StrategyOptions(goals=Goals(1, max_age=5)))
    goal = np.ones((1, 1), np.float32)
    strategies.offer(replace(answer(4, [1]), rows=None, goal=goal), 2, 0)
    assert strategies.goal(3)[0] is None
    assert strategies.goal(5)[1] == 1


def test_action_is_a_copy() -> None:
    """What a caller does to an action leaves the strategy as it is."""
    strategies = Strategies(BOX)
    strategies.offer(replace(answer(0, [0]), rows=packed(points([[0.5, 0.5]]))), 0, 0)
    strategies.serve(0)[0][:] = 9
    assert strategies.serve(0)[0].tolist() == [0.5, 0.5]


def test_unknown_advance_is_refused() -> None:
    """Rows are used up by ticks or by commands."""
    with pytest.raises(ConfigError, match="advance"):
        StrategyOptions(advance="seconds")  # type: ignore[arg-type]
