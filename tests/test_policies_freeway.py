"""The executors that cross the freeway, and the recipe that makes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agentkd.executors.architecture import initial
from agentkd.measure.evaluate import evaluate
from agentkd.planners import load_planner
from agentkd.spec import env_spec
from envs import freeway_rules as rules
from envs.freeway import BEST, Freeway
from policies import freeway
from policies.freeway.train import Players, train

FOLDER = Path(freeway.__file__).parent


@pytest.mark.parametrize(
    ("difficulty", "score"), [("Easy", 0.99), ("Medium", 0.96), ("Hard", 0.90)]
)
def test_the_executor_keeps_what_its_card_says(difficulty: str, score: float) -> None:
    """Alone, on the published games."""
    executor = load_planner(str(FOLDER / "executor.akd")).policy
    env = f"envs.freeway:agentkd/Freeway{difficulty}-v0"
    returns = evaluate(env, executor, episodes=8, seed=0).returns
    assert np.mean(returns) / BEST >= score


def test_labels_come_from_boards_that_are_not_published() -> None:
    """Players are in no car, and on none of the boards that are measured on."""
    published = {rules.drawn(game).lanes for games in rules.PUBLISHED.values() for game in games}
    players = Players("cars", 0)
    alone = players.take(200)
    players.follow(initial("linear", env_spec(Freeway("any", "cars"))))
    for obs in [*alone, *players.take(200)]:
        position, _ = rules.restore(obs)
        assert position.board.lanes not in published
        assert position.row >= 1
        assert position.board.free(position.row, position.clock)


def test_the_recipe_repeats_itself() -> None:
    """The same seed gives the same executor."""
    first, second = (
        train("forecast", "mlp:8", labels=512, steps=20, seed=3).vector() for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
