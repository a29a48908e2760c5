"""The study of executors that correct late rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd import dists
from agentkd.errors import ConfigError
from agentkd.types import Floats
from benchmarks import corrects
from benchmarks.corrects import ARMS, Actor, Crowd, Options, findings, works


class Standing:
    """An actor that drives cheetahs by a rule of the whole observation."""

    arm = corrects.Arm()

    def __init__(self, by_rows: bool) -> None:
        self.by_rows = by_rows

    def planner(self, obs: Floats) -> Floats:
        return np.tanh(obs[:, 2:8] - 0.1 * obs[:, 11:17]).astype(np.float32)

    def memory(self, count: int) -> Floats:
        return np.zeros((count, 0), np.float32)

    def act(self, told: Floats, memory: Floats) -> tuple[Floats, Floats]:
        row = told[:, corrects._ROW]
        return (row.copy() if self.by_rows else self.planner(told[:, :17])), memory


@pytest.mark.parametrize("late", [1, 2, 4])
def test_without_noise_rows_and_predictions_come_true(late: int) -> None:
    """From the first answer on: the model is exact, and whoever acts is foretold."""
    actor: Any = Standing(by_rows=True)
    crowd = Crowd(actor, 2, late, 0.0, seed=0)
    ages = []
    for tick in range(30):
        told = crowd.look()
        if tick >= late:
            assert (told[:, corrects._AGE] >= 0).all()
            np.testing.assert_allclose(told[:, corrects._MISSED], 0.0, atol=1e-3)
            wanted = actor.planner(crowd.obs)
            np.testing.assert_allclose(told[:, corrects._ROW], wanted, atol=1e-3)
            ages.append(told[0, corrects._AGE] * 16)
        else:
            assert (told[:, corrects._AGE] == -1).all()
        crowd.step(crowd.act(told))
    assert (min(ages), max(ages)) == (late, 2 * late)


def test_noise_makes_predictions_miss_more_the_older_they_are() -> None:
    """And a reset leaves nothing of the rows before."""
    actor: Any = Standing(by_rows=False)
    crowd = Crowd(actor, 16, 4, 0.2, seed=0)
    missed: dict[int, list[float]] = {}
    for _ in range(60):
        told = crowd.look()
        age = round(float(told[0, corrects._AGE]) * 16)
        missed.setdefault(age, []).append(float(np.abs(told[:, corrects._MISSED]).mean()))
        crowd.step(crowd.act(told))
    assert np.mean(missed[8]) > np.mean(missed[4]) > 0
    crowd.reset(3)
    told = crowd.look()
    assert told[3, corrects._AGE] == -1
    assert (told[3, 17:23] == 0).all()
    assert (told[2, corrects._AGE]) >= 0


def test_a_residual_is_added_to_the_row_and_nothing_else_is_labelled(tmp_path: Path) -> None:
    """What it learns is the planner's action less the row."""
    arm = ARMS["the same, residual"]
    actor = Actor.__new__(Actor)
    actor.arm = arm
    told = np.zeros((1, 58), np.float32)
    told[:, corrects._ROW] = 0.25
    label = actor.label(told, np.full((1, 6), 0.75, np.float32))
    np.testing.assert_allclose(dists.pack(label), 0.5)


def test_arms_are_compared_with_rows_and_with_the_plain_executor() -> None:
    """Over all seeds; what does not learn is measured once."""
    options = Options(planners=Path("x"), only=("sac-HalfCheetah-v5",), seeds=(0, 1))
    keys = [each.key for each in works(options)]
    assert sum(key["arm"] == "rows alone" for key in keys) == 1
    assert sum(key["arm"] == "positions" for key in keys) == 2
    results = [
        {"planner": "p", "seed": seed, "arm": arm, "parameters": 1, "returns": {"2": [value] * 2}}
        for seed, arm, value in [
            (0, "rows alone", 100.0),
            (0, "positions", 40.0),
            (1, "positions", 60.0),
            (0, "positions, gru:32", 150.0),
        ]
    ]
    shown = findings(options, results).sections[0].table
    assert shown is not None
    assert shown.texts()[-1][-2:] == ["1.50", "3.00"]


def test_what_is_wrong_is_said() -> None:
    """Before anything is measured."""
    with pytest.raises(ConfigError, match="No arm 'row'"):
        list(works(Options(planners=Path("x"), arms=("row",))))
    with pytest.raises(ConfigError, match="at least 1"):
        list(works(Options(planners=Path("x"), delays=(0,))))
