"""An earlier executor is kept if it is seen to act better, and only then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agentkd.distillation import DatasetWriter, choosing, open_dataset, record
from agentkd.distillation.dataset import About
from agentkd.distillation.loop import run_distillation
from agentkd.distillation.task import Task, open_task
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Dense
from agentkd.types import Categorical, Floats

AMPLE = 1e9
"""Seconds that no machine needs."""


def balance(obs: Floats) -> Categorical:
    """Push to where the pole falls."""
    right = obs[:, 2] + 0.3 * obs[:, 3] > 0
    return Categorical(np.stack([~right, right], 1).astype(np.float32) * 5)


@pytest.fixture(scope="module")
def task() -> Task:
    """CartPole and a planner for it."""
    return open_task("CartPole-v1", balance)


def linear(task: Task, lean: float, version: int) -> Executor:
    """Push by angle and its speed, times `lean`: well with 1, badly with -1."""
    executor = initial("linear", task.spec)
    (first,) = executor.layers
    assert isinstance(first, Dense)
    layer = replace(
        first,
        weight=np.array([[0, 0, 0, 0], [0, 0, lean, 0.3 * lean]], np.float32),
        bias=np.zeros(2, np.float32),
    )
    return replace(executor, layers=(layer,), version=version)


def never() -> bool:
    """Go on."""
    return False


def test_an_earlier_executor_that_acts_better_is_kept(task: Task) -> None:
    """The last one falls at once; the one before stands."""
    bad, good = linear(task, -1, 3), linear(task, 1, 2)
    assert choosing.choose(task, [bad, good, bad], AMPLE, never).version == 2


@pytest.mark.parametrize(("seconds", "stopped"), [(AMPLE, True), (0.0, False)])
def test_without_time_or_when_stopped_the_last_stays(
    task: Task, seconds: float, stopped: bool
) -> None:
    """Too few episodes are no ground for a choice."""
    bad, good = linear(task, -1, 3), linear(task, 1, 2)
    assert choosing.choose(task, [good, bad], seconds, lambda: stopped).version == 3


def test_a_stop_ends_choosing_amid_an_episode(task: Task) -> None:
    """It is asked within a round too."""
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 2

    good = linear(task, 1, 1)
    assert choosing.choose(task, [linear(task, -1, 2), good, good], AMPLE, stop) is good
    assert len(asked) == 3


def test_a_dataset_leaves_nothing_to_choose(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All of its seconds are for learning, in a task too, and no environment is stepped."""
    live = open_task("CartPole-v1", balance)
    with DatasetWriter(tmp_path / "data", About("CartPole-v1", live.spec)) as writer:
        record(live, writer, labels=200)
    monkeypatch.setattr(choosing, "choose", None)
    task = open_task(data=open_dataset(tmp_path / "data"))
    result = run_distillation(task, executor="mlp:4", seconds=0.2, episodes=0)
    assert result.seconds >= 0.2


def test_equal_executors_leave_the_last(task: Task) -> None:
    """What is no better than by chance changes nothing."""
    executors = [linear(task, 1, version) for version in (1, 2, 3)]
    assert choosing.choose(task, executors, AMPLE, never).version == 3


def test_an_environment_that_fails_leaves_the_last(task: Task) -> None:
    """What was learnt is not lost to it."""

    class Broken(gym.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> Any:
            raise RuntimeError("no wheel")

    broken = replace(task, env=lambda: Broken(gym.make("CartPole-v1")))
    executors = [linear(task, 1, version) for version in (1, 2)]
    assert choosing.choose(broken, executors, AMPLE, never).version == 2


def test_a_distillation_by_time_hands_over_what_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The executors kept on the way are asked, with the last one last."""
    seen: list[list[Executor]] = []

    def first(_: Task, executors: list[Executor], **__: Any) -> Executor:
        seen.append(list(executors))
        return executors[0]

    monkeypatch.setattr(choosing, "choose", first)
    # The first is kept before anything is learnt, however slow the machine.
    monkeypatch.setattr(choosing, "MARKS", (0.0,))
    result = run_distillation("CartPole-v1", balance, "mlp:8", seconds=1.0, episodes=0)
    ((*_, last),) = seen
    assert len(seen[0]) == 2
    assert np.array_equal(result.executor.vector(), seen[0][0].vector())
    assert not np.array_equal(last.vector(), result.executor.vector())
