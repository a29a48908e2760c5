"""Trials of each kind of executor: with a view, the past, a memory, images, goals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.device import Device, Trial, TrialOptions
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Dense
from agentkd.runtime import Agent
from agentkd.runtime.goals import Goals, conditioned
from agentkd.runtime.strategies import StrategyOptions
from agentkd.spec import BoxSpec, ObsSpec, Part, Spec
from agentkd.types import Guidance
from tests.runtime_children import SPEC
from tests.test_device import written

OPTIONS = TrialOptions(shadow=20, acting=20, agreement=0.0)


class Pointer:
    """Gives a goal of two numbers: by which of them is larger an executor may act."""

    def __call__(self, obs: Any) -> Any:
        return Guidance(goal=np.stack([obs[:, 0], -obs[:, 0]], axis=1))


def follows(first: float, architecture: str = "linear") -> Executor:
    """Make an executor that acts as its goal says, or the other way round."""
    executor = initial(architecture, conditioned(SPEC, Goals(2, 5)))
    last = executor.layers[-1]
    assert isinstance(last, Dense)
    weight = np.zeros_like(last.weight)
    weight[0, 3], weight[1, 4] = first, first
    last = replace(last, weight=weight)
    return replace(executor, layers=(*executor.layers[:-1], last))


@pytest.mark.parametrize(
    ("second", "end"), [(2.0, ("CONFIRMED", "")), (-2.0, ("ROLLED_BACK", "disagrees"))]
)
def test_who_follows_goals_is_tried_with_those_of_who_acts(
    second: float, end: tuple[str, str], tmp_path: Path
) -> None:
    """It is shown the goal that the one which acts had, and judged by what it does of it."""
    device = Device(tmp_path / "device")
    device.apply(written(tmp_path, "one", follows(1.0)))
    device.apply(written(tmp_path, "two", follows(second)))
    how: Any = {"strategies": StrategyOptions(goals=Goals(2, 5)), "planner": Pointer()}
    agent = Agent(device.executor(), planner_latency=1, **how)
    random, options = np.random.default_rng(0), replace(OPTIONS, agreement=0.9)
    with agent, Trial(device, agent, options) as trial:
        for tick in range(60):
            obs = random.standard_normal(3).astype(np.float32)
            obs[0] = np.nan if tick == 9 else obs[0]
            trial.tick(obs, agent.act(obs))
            trial.settle()
    last = device.status().last
    assert last is not None
    assert (last.stage, last.reason) == end


def moved(executor: Executor, seed: int) -> Executor:
    """Change weights and normaliser of an executor."""
    vector = executor.vector()
    vector += 0.3 * np.random.default_rng(seed).standard_normal(len(vector)).astype(np.float32)
    return executor.with_vector(vector, seed)


@pytest.mark.parametrize(
    ("architecture", "sees", "obs"),
    [
        ("mlp:6", "0:2", (3,)),
        ("mlp:6", "stack:3", (3,)),
        ("mlp:6", "0:2,delay:2", (3,)),
        ("gru:4", "1:3", (3,)),
        ("attention:8/2/1", None, (3, 4)),
        ("cnn:2x3/2,6", "stack:2", (6, 6)),
    ],
)
def test_every_kind_of_executor_is_tried(
    architecture: str, sees: str | None, obs: tuple[int, ...], tmp_path: Path
) -> None:
    """A copy under another version agrees with the one that acts, and is confirmed.

    Another one is tried to the end too, and acts with the past of the one before it.
    """
    spec = Spec(ObsSpec((Part("", "box", obs, "float32"),)), BoxSpec((-1.0,), (1.0,), (1,)))
    one = moved(initial(architecture, spec, sees=sees, seed=1), 1)
    device = Device(tmp_path / "device", spec=spec)
    device.apply(written(tmp_path, "one", one))
    device.apply(written(tmp_path, "two", replace(one, version=2)))
    random = np.random.default_rng(0)
    agent = Agent(device.executor())
    trial = Trial(device, agent, replace(OPTIONS, agreement=0.8))

    def live_on() -> None:
        for tick in range(60):
            seen = random.standard_normal(obs).astype(np.float32)
            trial.tick(seen, agent.act(seen))
            trial.settle()
            if tick % 11 == 10:
                agent.reset()
                trial.reset()

    live_on()
    last = device.status().last
    assert last is not None
    assert (last.name, last.stage) == ("two.akd", "CONFIRMED"), last
    trial.options = OPTIONS
    device.apply(written(tmp_path, "three", moved(one, 3)))
    live_on()
    last = device.status().last
    assert last is not None
    assert (last.name, last.stage) == ("three.akd", "CONFIRMED"), last
