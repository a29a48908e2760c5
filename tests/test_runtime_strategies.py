"""Who acts: the router's table, and which strategies are taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from agentkd.errors import ConfigError
from agentkd.runtime import MODES, Mode, Rules
from agentkd.runtime.codec import Answer
from agentkd.runtime.router import check_mode, route
from agentkd.runtime.strategies import Strategies
from tests.runtime_children import SPEC, one_hot

OBS = np.zeros(3, np.float32)


def answer(tick: int, choices: Sequence[int], epoch: int = 0) -> Answer:
    return Answer(1, epoch, tick, 1, 0.0, 0.0, one_hot(choices))


def refused(strategies: Strategies) -> dict[str, int]:
    return {reason: n for reason, n in strategies.rejected.items() if n}


@pytest.mark.parametrize(
    ("mode", "strategy", "held", "expected"),
    [
        ("runtime", True, True, "strategy"),
        ("runtime", False, True, "executor"),
        ("runtime", False, False, "executor"),
        ("executor", True, True, "executor"),
        ("planner", True, False, "strategy"),
        ("planner", False, True, "hold"),
        ("planner", False, False, "default"),
    ],
)
def test_fallback_order(mode: Mode, strategy: bool, held: bool, expected: str) -> None:
    """Strategy, then executor, then hold, then default, as far as the mode has them."""
    source, _ = route(mode, blind=False, strategy=strategy, why="late", held=held)
    assert source == expected


@pytest.mark.parametrize("mode", MODES)
def test_nobody_answers_a_blind_observation(mode: Mode) -> None:
    """With NaN the last action is held, or the default taken, in every mode."""
    for held, source in ((True, "hold"), (False, "default")):
        routed = route(mode, blind=True, strategy=True, why="fresh", held=held)
        assert routed == (source, "nan")


def test_unknown_mode_is_refused_with_a_suggestion() -> None:
    """A mode that does not exist is refused, and the nearest one named."""
    with pytest.raises(ConfigError, match="runtime"):
        check_mode("runtim")


def test_rows_are_indexed_by_ticks_consumed() -> None:
    """Four rows that arrive two ticks late serve their third and fourth, then none."""
    strategies = Strategies(SPEC)
    strategies.offer(answer(10, [0, 1, 2, 3]), 12, 0)
    served = [strategies.serve(tick, OBS) for tick in (12, 13, 14)]
    assert served == [(2, "ahead"), (3, "ahead"), (None, "late")]
    assert refused(strategies) == {}
    assert strategies.accepted == 1


def test_answer_in_time_is_fresh() -> None:
    """One row serves the tick of its observation."""
    strategies = Strategies(SPEC)
    strategies.offer(answer(5, [3]), 5, 0)
    assert strategies.serve(5, OBS) == (3, "fresh")


def test_answer_after_its_last_row_is_late() -> None:
    """One row that comes one tick later serves nothing and is counted."""
    strategies = Strategies(SPEC)
    strategies.offer(answer(5, [3]), 6, 0)
    assert strategies.serve(6, OBS) == (None, "late")
    assert refused(strategies) == {"late": 1}


def test_answer_of_another_epoch_is_refused() -> None:
    """A strategy of an episode that is over never acts in the next."""
    strategies = Strategies(SPEC)
    strategies.offer(answer(5, [3, 3], epoch=0), 6, 1)
    assert strategies.serve(6, OBS) == (None, "epoch")
    assert refused(strategies) == {"epoch": 1}


def test_older_answer_is_superseded() -> None:
    """An answer about an older observation does not replace a newer one's."""
    strategies = Strategies(SPEC)
    strategies.offer(answer(6, [1, 1, 1]), 7, 0)
    strategies.offer(answer(5, [2, 2, 2, 2]), 7, 0)
    assert strategies.serve(7, OBS) == (1, "ahead")
    assert refused(strategies) == {"superseded": 1}


def test_age_has_a_limit() -> None:
    """Beyond max_age a strategy is stale, on arrival and while it serves."""
    strategies = Strategies(SPEC, Rules(max_age=1))
    strategies.offer(answer(0, [0, 1, 2, 3]), 2, 0)
    assert strategies.serve(2, OBS) == (None, "stale")
    strategies.offer(answer(3, [0, 1, 2, 3]), 3, 0)
    served = [strategies.serve(tick, OBS) for tick in (3, 4, 5, 6)]
    assert served == [(0, "fresh"), (1, "ahead"), (None, "stale"), (None, "late")]
    assert refused(strategies) == {"stale": 2}


def test_precondition_ends_a_strategy() -> None:
    """A strategy whose precondition fails is dropped for good."""
    seen: list[int] = []

    def holds(strategy: Any, obs: Any, row: int) -> bool:
        seen.append(row)
        return row != 1

    strategies = Strategies(SPEC, Rules(precondition=holds))
    strategies.offer(answer(0, [0, 1, 2, 3]), 0, 0)
    served = [strategies.serve(tick, OBS) for tick in (0, 1, 2)]
    assert served == [(0, "fresh"), (None, "diverged"), (None, "late")]
    assert seen == [0, 1]
    assert refused(strategies) == {"diverged": 1}


def test_guard_vetoes_single_actions() -> None:
    """The guard stops one action; the strategy's next one may pass."""
    strategies = Strategies(SPEC, Rules(guard=lambda obs, action: action != 1))
    strategies.offer(answer(0, [0, 1, 2]), 0, 0)
    served = [strategies.serve(tick, OBS) for tick in (0, 1, 2)]
    assert served == [(0, "fresh"), (None, "guard"), (2, "ahead")]
    assert refused(strategies) == {"guard": 1}


def test_patient_strategies_act_once_when_late() -> None:
    """A planner that acts alone acts at the tick of its answer, with its last row."""
    strategies = Strategies(SPEC, patient=True)
    strategies.offer(answer(0, [1, 2]), 5, 0)
    assert strategies.serve(5, OBS) == (2, "late")
    assert strategies.serve(6, OBS) == (None, "late")
    assert refused(strategies) == {}


def test_reset_forgets_the_strategy() -> None:
    """After a reset the rows that are left do not serve."""
    strategies = Strategies(SPEC)
    strategies.offer(answer(0, [1, 2, 3]), 0, 0)
    strategies.reset()
    assert strategies.serve(1, OBS)[0] is None


def test_negative_age_is_refused() -> None:
    """An age below 0 cannot be meant."""
    with pytest.raises(ConfigError, match="max_age"):
        Rules(max_age=-1)
