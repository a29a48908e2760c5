"""Executors with a memory in the runtime: kept from tick to tick, forgotten in time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agentkd.deploy.vectors import probes
from agentkd.errors import ConfigError
from agentkd.executors.acting import form
from agentkd.executors.executor import Executor
from agentkd.runtime import Agent, RollForward, StrategyOptions
from agentkd.runtime.logfile import LogFile
from agentkd.runtime.replay import replay
from agentkd.spec import DiscreteSpec
from agentkd.types import Categorical, Floats
from tests.deploy_executors import lively

NATIVE = pytest.mark.parametrize("native", [True, False], ids=["native", "NumPy"])


def gru(seed: int = 2) -> tuple[Executor, Floats]:
    """An executor with a memory, and a sequence."""
    executor = lively("gru:6", DiscreteSpec(3), seed)
    return executor, probes(executor, 12, seed=3)


@NATIVE
def test_an_agent_remembers_until_it_is_reset(native: bool) -> None:
    """Its actions are those of the sequence; a new episode begins with nothing."""
    executor, obs = gru()
    wanted = executor.follow(obs).argmax(1).tolist()
    agent = Agent(executor, native=native)
    for _ in range(2):
        assert [agent.act(row) for row in obs] == wanted
        agent.reset()


@NATIVE
def test_a_swap_keeps_the_memory(native: bool) -> None:
    """Another version of the executor goes on from where the first one was."""
    (first, obs), (second, _) = gru(2), gru(5)
    agent = Agent(first, native=native)
    state = np.zeros((1, first.memory), np.float32)
    for row in obs[:6]:
        agent.act(row)
        _, state = first.advance(row[None], state)
    agent.swap(second)
    for row in obs[6:]:
        outputs, state = second.advance(row[None], state)
        assert agent.act(row) == outputs[0].argmax()


@NATIVE
def test_the_distribution_is_that_of_the_decision(native: bool) -> None:
    """With the memory as it was before, however often it is asked."""
    executor, obs = gru()
    acting = form(executor, native=native)
    wanted = executor.follow(obs)
    for row, outputs in zip(obs, wanted, strict=True):
        acting.obs[:] = row
        assert acting.run() == 0
        for _ in range(2):
            dist = acting.dist()
            assert isinstance(dist, Categorical)
            assert np.allclose(dist.logits[0], outputs, atol=1e-5)


@NATIVE
def test_a_blind_tick_is_not_remembered(native: bool) -> None:
    """NaN leaves the memory as it is."""
    executor, obs = gru()
    acting = form(executor, native=native)
    acting.obs[:] = obs[0]
    acting.run()
    before = acting.memory.copy()
    acting.obs[:] = np.nan
    assert acting.run() == 1
    assert (acting.memory == before).all()


def test_a_memory_cannot_be_rolled_forward() -> None:
    """It is said at once, not at the first tick."""
    executor, _ = gru()
    options = StrategyOptions(roll_forward=RollForward(lambda obs, _: obs))
    with pytest.raises(ConfigError, match="rolled forward"):
        Agent(executor, strategies=options)


def test_an_episode_that_begins_at_a_swap_begins_with_nothing() -> None:
    """Whichever comes first, the memory of the old episode is gone."""
    (first, obs), (second, _) = gru(2), gru(5)
    agent = Agent(first)
    for row in obs[:6]:
        agent.act(row)
    agent.swap(second)
    agent.reset()
    assert [agent.act(row) for row in obs] == second.follow(obs).argmax(1).tolist()


def test_a_replay_remembers_across_a_swap(tmp_path: Path) -> None:
    """The same executors and the log give the same decisions."""
    (first, obs), (second, _) = gru(2), gru(5)
    path = tmp_path / "run.akdlog"
    with Agent(first, log=path) as agent:
        for row in obs[:6]:
            agent.decide(row)
        agent.swap(second)
        for row in obs[6:]:
            agent.decide(row)
    again = replay(LogFile(path))
    assert again.ticks == len(obs)
    assert again.differing == 0


def test_an_agent_has_few_enough_attributes() -> None:
    """From 30 on, Python finds each of them more slowly, which `act` would pay at every tick."""
    agent = Agent(lively("mlp:4", DiscreteSpec(3)))
    assert len(vars(agent)) < 30
    assert len(vars(agent._decider)) < 30
