"""Trials in a robot's loop: an executor decides in the shadow, acts, and stays or goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.device import Device, Trial, TrialOptions
from agentkd.device import trial as trials
from agentkd.errors import ConfigError, DeviceError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Dense
from agentkd.runtime import Agent
from tests.runtime_children import SPEC, constant
from tests.test_device import written

OPTIONS = TrialOptions(shadow=20, acting=20, agreement=0.0)


class Robot:
    """A loop whose every tick waits for what a trial does in its thread."""

    def __init__(self, folder: Path, options: TrialOptions = OPTIONS, **agent: Any) -> None:
        self.folder, self.device = folder, Device(folder / "device")
        if self.device.status().active is None:
            self.device.apply(written(folder, "first", constant(1)))
        self.agent = Agent(self.device.executor(), **agent)
        self.trial = Trial(self.device, self.agent, options)
        self.score: Callable[[int], float] | None = None
        self.actions: list[int] = []
        self.scale = 1.0
        self._random = np.random.default_rng(0)

    def offer(self, executor: Executor, name: str = "second") -> None:
        """Let an executor onto the device."""
        self.device.apply(written(self.folder, name, executor))

    def live(self, ticks: int) -> None:
        """Tick so often."""
        for _ in range(ticks):
            obs = self.scale * self._random.standard_normal(3).astype(np.float32)
            action = self.agent.act(obs)
            self.actions.append(action)
            score = None if self.score is None else self.score(action)
            self.trial.tick(obs, action, score)
            self.trial.settle()

    def live_until(self, phase: str) -> None:
        """Tick until the trial is so far."""
        for _ in range(1000):
            if self.trial.phase == phase:
                return
            self.live(1)
        raise AssertionError(self.trial.phase)

    @property
    def last(self) -> tuple[str, str]:
        """How the last update ended."""
        found = self.device.status().last
        assert found is not None
        return found.stage, found.reason


def test_an_executor_that_does_well_acts_and_stays(tmp_path: Path) -> None:
    """It acts from the tick after the shadow on, and programs start with it from its end on."""
    robot = Robot(tmp_path)
    robot.live(3)
    robot.offer(constant(2))
    robot.live_until("shadow")
    assert set(robot.actions) == {1}
    waiting = robot.device.status().waiting
    assert waiting is not None
    assert (waiting.stage, waiting.starts) == ("TRIAL", 1)
    robot.live_until("acting")
    assert set(robot.actions) == {1}
    robot.live(5)
    assert robot.actions[-5:] == [2] * 5
    # Whoever starts now has the former one, and counts.
    assert Device(tmp_path / "device").executor().act(np.zeros(3)) == 1
    robot.live_until("idle")
    assert robot.last == ("CONFIRMED", "")
    assert Device(tmp_path / "device").executor().act(np.zeros(3)) == 2
    robot.live(3)
    assert robot.trial.phase == "idle"
    robot.trial.close()


def test_who_acts_otherwise_goes(tmp_path: Path) -> None:
    """It never acts, and is not tried again."""
    robot = Robot(tmp_path, replace(OPTIONS, agreement=0.9))
    robot.offer(constant(2))
    robot.live(60)
    assert robot.last == ("ROLLED_BACK", "disagrees")
    assert set(robot.actions) == {1}
    with pytest.raises(DeviceError, match="blacklist"):
        robot.offer(constant(2))


def test_who_takes_too_long_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """99 of 100 decisions have to be within the budget: by a clock that the test holds."""
    times = iter(range(0, 10**12, 10**6))
    monkeypatch.setattr(trials, "perf_counter_ns", lambda: next(times))
    robot = Robot(tmp_path, replace(OPTIONS, budget=0.0009))
    robot.offer(constant(2))
    robot.live(60)
    assert robot.last == ("ROLLED_BACK", "slow")
    assert set(robot.actions) == {1}


def test_half_a_period_is_the_budget_of_an_agent_with_a_period(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no other is given."""
    times = iter(range(0, 10**12, 10**6))
    monkeypatch.setattr(trials, "perf_counter_ns", lambda: next(times))
    robot = Robot(tmp_path, period=0.0019)
    robot.offer(constant(2))
    robot.live_until("shadow")
    robot.live(30)
    assert robot.last == ("ROLLED_BACK", "slow")


def test_who_misses_more_deadlines_than_before_goes(tmp_path: Path) -> None:
    """Once it acts, the agent's own count decides."""
    robot = Robot(tmp_path)
    robot.offer(constant(2))
    robot.live_until("acting")
    robot.agent.counters.deadline_misses += 1
    robot.live_until("idle")
    assert robot.last == ("ROLLED_BACK", "slow")
    robot.live(2)
    assert robot.actions[-1] == 1


def overflowing(executor: Executor) -> Executor:
    """Make an executor that gives infinity for observations of some thousands."""
    first = executor.layers[0]
    assert isinstance(first, Dense)
    weight = np.zeros_like(first.weight)
    # One number alone, so that all forms give the same.
    weight.flat[0] = 1e36
    layer = replace(first, weight=weight)
    return replace(executor, layers=(layer, *executor.layers[1:]), clip=1e6)


@pytest.mark.parametrize("phase", ["shadow", "acting"])
def test_who_answers_with_nan_goes_at_once(phase: str, tmp_path: Path) -> None:
    """In the shadow it never acts; acting, it is replaced at the next tick."""
    robot = Robot(tmp_path)
    robot.offer(overflowing(constant(2)))
    robot.live_until(phase)
    robot.scale = 1e4
    robot.live(2)
    assert robot.last == ("ROLLED_BACK", "numbers")
    robot.live(1)
    assert robot.actions[-1] == 1


def test_an_observation_that_is_not_finite_is_nobody_s_fault(tmp_path: Path) -> None:
    """It is left out, in the shadow and after it."""
    robot = Robot(tmp_path)
    robot.offer(constant(2))
    for phase in ("shadow", "acting"):
        robot.live_until(phase)
        robot.scale = np.nan
        robot.live(3)
        robot.scale = 1.0
    robot.live_until("idle")
    assert robot.last == ("CONFIRMED", "")


@pytest.mark.parametrize(
    ("worth", "last"), [(-5.0, ("ROLLED_BACK", "score")), (1.0, ("CONFIRMED", ""))]
)
def test_scores_decide_where_there_are_some(
    worth: float, last: tuple[str, str], tmp_path: Path
) -> None:
    """A mean that falls by more than the scores vary ends the trial."""
    robot = Robot(tmp_path)
    noise = np.random.default_rng(1)
    robot.score = lambda action: (worth if action == 2 else 1.0) + 0.5 * noise.standard_normal()
    robot.offer(constant(2))
    robot.live_until("acting")
    robot.live_until("idle")
    assert robot.last == last
    robot.live(2)
    assert robot.actions[-1] == (2 if worth > 0 else 1)


def test_a_program_that_starts_again_begins_the_trial_again(tmp_path: Path) -> None:
    """Until as many have begun it as may: then it is rolled back."""
    first = Robot(tmp_path)
    first.offer(constant(2))
    for starts in (1, 2, 3):
        robot = Robot(tmp_path)
        robot.live_until("acting")
        waiting = robot.device.status().waiting
        assert waiting is not None
        assert waiting.starts == starts
    robot = Robot(tmp_path)
    robot.live(10)
    assert robot.trial.phase == "idle"
    assert robot.last == ("ROLLED_BACK", "crashes")
    assert robot.actions == [1] * 10


@pytest.mark.parametrize("phase", ["shadow", "acting"])
@pytest.mark.parametrize("ends", ["confirm", "rollback"])
def test_what_is_decided_elsewhere_is_followed(phase: str, ends: str, tmp_path: Path) -> None:
    """Another process may confirm or roll back while a trial runs."""
    robot = Robot(tmp_path)
    robot.offer(constant(2))
    robot.live_until(phase)
    getattr(Device(tmp_path / "device"), ends)()
    robot.live(2)
    assert robot.trial.phase == "idle"
    robot.live(1)
    assert robot.actions[-1] == (2 if ends == "confirm" else 1)
    if ends == "confirm":
        Device(tmp_path / "device").rollback()
        robot.live(3)
        assert robot.actions[-1] == 1


def test_a_memory_is_followed_through_episodes(tmp_path: Path) -> None:
    """What is tried remembers from tick to tick, and forgets where an episode ends."""
    device = Device(tmp_path / "device")
    executor = initial("gru:4", SPEC)
    device.apply(written(tmp_path, "a", executor))
    device.apply(written(tmp_path, "b", replace(executor, version=2)))
    agent = Agent(device.executor())
    trial = Trial(device, agent, TrialOptions(shadow=30, acting=10, agreement=1.0))
    random = np.random.default_rng(0)
    for tick in range(80):
        obs = random.standard_normal(3).astype(np.float32)
        trial.tick(obs, agent.act(obs))
        trial.settle()
        # Only while both have seen the same are they to agree.
        if trial.phase == "shadow" or tick % 7 == 0:
            agent.reset()
            trial.reset()
    last = device.status().last
    assert last is not None
    assert (last.stage, agent.executor.version) == ("CONFIRMED", 2)


def test_a_disk_that_is_full_ends_no_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The former executor acts again though it cannot be written that the trial failed."""
    robot = Robot(tmp_path)
    robot.offer(overflowing(constant(2)))
    robot.live_until("acting")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("agentkd.files._put", full)
    robot.scale = 1e4
    robot.live(6)
    assert robot.actions[-1] == 1
    monkeypatch.undo()
    robot.live(2)
    waiting = robot.device.status().waiting
    assert waiting is not None
    assert (waiting.stage, robot.trial.phase) == ("TRIAL", "idle")


@pytest.mark.parametrize(
    "options", [{"shadow": 1}, {"acting": 0}, {"budget": 0.0}, {"agreement": 1.5}, {"drop": 0.0}]
)
def test_options_that_cannot_be_are_told(options: dict[str, Any]) -> None:
    """By name and value."""
    with pytest.raises(ConfigError, match=next(iter(options))):
        TrialOptions(**options)
