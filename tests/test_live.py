"""A robot's own loop on the wall clock, minutes long: make live.

The planner is a published one; where it is not beside the checkout the tests skip.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from agentkd import Agent, Process, read_bundle
from agentkd.executors.executor import Executor
from agentkd.runtime import RollForward, StrategyOptions
from benchmarks.cheetah import PLANNER, lived

HERE = "benchmarks.cheetah"
pytestmark = [pytest.mark.live, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An executor file, distilled from the planner."""
    from agentkd.cli.main import main

    if not Path(PLANNER).exists():
        pytest.skip(f"{PLANNER} is not beside this checkout; or set LIVE_PLANNER")
    out = tmp_path_factory.mktemp("live")
    command = ["distill", "HalfCheetah-v5", "--planner", PLANNER, "--seconds", "40"]
    assert main([*command, "--out", str(out), "--overwrite"]) == 0
    return out / "executor.akd"


@pytest.fixture(scope="module")
def executor(file: Path) -> Executor:
    """Its executor."""
    return read_bundle(file).executor


SEEDS = (0, 1, 2)
"""One episode tells little: its return with late rows differs by some per cent either way."""


@pytest.fixture(scope="module")
def alone(executor: Executor) -> float:
    """What it earns alone in the first 240 ticks, the mean of the seeds; no clock matters to it."""
    return mean(
        lived(Agent(executor), hz=200, seconds=600, part=240, parts=1, seed=seed)[0]
        for seed in SEEDS
    )


@pytest.mark.parametrize("roll", [None, RollForward(f"{HERE}:ahead")])
def test_a_planner_four_ticks_late_costs_nothing(
    executor: Executor, alone: float, roll: Any
) -> None:
    """With and without a roll-forward the robot earns what its executor does."""
    both, last = [], {}
    for seed in SEEDS:
        agent = Agent(
            executor,
            planner=Process(f"{HERE}:Chunk", {"think": 0.2}),
            strategies=StrategyOptions(roll_forward=roll),
            period=0.05,
        )
        both += lived(agent, hz=20, seconds=600, part=240, parts=1, seed=seed)
        last = agent.metrics()
    assert mean(both) >= 0.95 * alone, (both, alone, last)


def test_live_learning_does_not_harm(executor: Executor, file: Path) -> None:
    """A good executor that goes on learning never earns less than half for long."""
    before = lived(Agent(executor), hz=50, seconds=30, part=150)
    agent = Agent(
        executor,
        planner=Process(f"{HERE}:Chunk", {"think": 0.0}),
        distiller=Process("agentkd.distillation.service:build", {"executor": str(file)}),
        mode="executor",
    )
    learning = lived(agent, hz=50, seconds=90, part=150)
    floor = 0.5 * sum(before[1:]) / len(before[1:])
    assert min(learning[2:]) >= floor, agent.metrics()
