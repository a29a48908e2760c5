"""Many agents with one executor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agentkd.errors import ConfigError, NumbersError, SpecError
from agentkd.executors.architecture import initial
from agentkd.spec import DiscreteSpec
from tests.deploy_executors import CASES, NAMES, lively
from tests.views_robot import ROBOT, observation


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(("architecture", "action"), CASES, ids=NAMES)
def test_a_crowd_acts_as_each_would_alone(architecture: str, action: Any, native: bool) -> None:
    """Every kind of executor; memories are one a row, and cleared where an episode begins."""
    executor = lively(architecture, action)
    random = np.random.default_rng(4)
    size = executor.spec.obs.size - executor.spec.obs.taken
    obs = random.standard_normal((5, 3, size)).astype(np.float32)
    crowd = executor.crowd(3, native=native)
    found = []
    for tick, rows in enumerate(obs):
        if tick == 3:
            crowd.reset([1])
        found.append(crowd.act(rows))
    for agent in range(3):
        executor.reset()
        for tick in range(5):
            if tick == 3 and agent == 1:
                executor.reset()
            alone = executor.act(obs[tick, agent])
            assert np.allclose(found[tick][agent], alone, atol=1e-4)
    if isinstance(action, DiscreteSpec):
        assert found[0].shape == (3,)


def test_a_crowd_takes_what_a_vectorised_environment_gives() -> None:
    """A dictionary of arrays; a mask of those that begin anew."""
    executor = initial("mlp:8", ROBOT, sees="joints,stack:2", seed=1)
    crowd = executor.crowd(2)
    given = [observation(seed) for seed in (0, 1)]
    batch = {name: np.stack([each[name] for each in given]) for name in given[0]}
    first = crowd.act(batch)
    for one, each in zip(first, given, strict=True):
        executor.reset()
        assert np.allclose(one, executor.act(each), atol=1e-5)
    crowd.reset(np.array([True, False]))
    again = crowd.act(batch)
    assert np.allclose(again[0], first[0])
    assert not np.allclose(again[1], first[1])


def test_what_is_wrong_is_named_and_changes_nothing() -> None:
    """The agents that see NaN are told by number."""
    executor = initial("gru:4", ROBOT, seed=1)
    with pytest.raises(ConfigError, match="crowd of 0"):
        executor.crowd(0)
    crowd = executor.crowd(3)
    with pytest.raises(SpecError, match="2 observations for a crowd of 3"):
        crowd.act(np.zeros((2, 14), np.float32))
    crowd.act(np.ones((3, 14), np.float32))
    before = crowd.memory.copy()
    rows = np.ones((3, 14), np.float32)
    rows[1, 4] = np.nan
    with pytest.raises(NumbersError, match="1 of 3 agents: 1"):
        crowd.act(rows)
    assert (crowd.memory == before).all()
