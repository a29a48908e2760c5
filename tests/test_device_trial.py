"""Trials in a robot's loop: an executor decides in the shadow, acts, and stays or goes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.device import Device, Tally, Trial, TrialOptions
from agentkd.device import trial as trials
from agentkd.errors import ConfigError, DeviceError, WriteError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Dense
from agentkd.runtime import Agent
from agentkd.runtime.routers import Guard
from agentkd.spec import DiscreteSpec, ObsSpec, Part, Spec
from tests.runtime_children import SPEC, Echo, constant
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


@pytest.mark.parametrize("scored", [False, True])
def test_a_program_that_ends_cleanly_counts_against_nobody(scored: bool, tmp_path: Path) -> None:
    """What it saw is kept, so short programs end a trial together; scores are of one program."""
    agreeing = replace(OPTIONS, agreement=1.0)
    Robot(tmp_path, agreeing).offer(replace(constant(1), version=2))
    for number in range(12):
        robot = Robot(tmp_path, agreeing)
        robot.score = (lambda _: 1.0) if scored else None
        with robot.trial:
            robot.live(60 if number > 5 else 12)
        state = robot.device.status()
        if state.waiting is None:
            break
        assert (state.waiting.stage, state.waiting.starts) == ("TRIAL", 0)
    assert (state.active is not None, state.waiting) == (True, None)
    assert robot.last == ("CONFIRMED", "")
    assert number == 6 if scored else 3 < number < 6


def test_a_program_that_fails_counts(tmp_path: Path) -> None:
    """An error that leaves the block is not a clean end; Ctrl-C is one."""
    Robot(tmp_path).offer(constant(2))
    for error, starts in ((KeyError, 1), (KeyboardInterrupt, 1), (KeyError, 2)):
        robot = Robot(tmp_path)

        def life(robot: Robot = robot, error: type[BaseException] = error) -> None:
            with robot.trial:
                robot.live(3)
                raise error

        with pytest.raises(error):
            life()
        waiting = robot.device.status().waiting
        assert waiting is not None
        assert waiting.starts == starts
        assert (waiting.shadow == Tally()) == (starts == 1 and error is KeyError)
        if error is KeyboardInterrupt:
            assert waiting.shadow.compared > 0


def test_who_acts_no_more_is_not_confirmed(tmp_path: Path) -> None:
    """The agent's own rollback took it away."""
    robot = Robot(tmp_path)
    robot.offer(constant(2))
    robot.live_until("acting")
    robot.live(1)
    robot.agent.rollback()
    robot.live(40)
    assert robot.last == ("ROLLED_BACK", "replaced")
    assert robot.actions[-1] == 1


@pytest.mark.parametrize(("refused", "last"), [(2, "ROLLED_BACK"), (3, "CONFIRMED")])
def test_who_is_refused_more_often_than_before_goes(
    refused: int, last: str, tmp_path: Path
) -> None:
    """What a router refuses was never seen to act; where it refuses all alike, nobody is worse."""
    robot = Robot(tmp_path, routers=[Guard(lambda _, action: bool(action != refused))])
    robot.offer(constant(2))
    robot.live_until("acting")
    robot.live_until("idle")
    assert robot.last == (last, "vetoed" if refused == 2 else "")


def test_only_ticks_at_which_it_decided_count(tmp_path: Path) -> None:
    """Blind ones do not, in either half."""
    robot = Robot(tmp_path)
    robot.offer(constant(2))
    for phase in ("shadow", "acting"):
        robot.live_until(phase)
        robot.scale = np.nan
        robot.live(60)
        assert robot.trial.phase == phase
        robot.scale = 1.0
    robot.live_until("idle")
    assert robot.last == ("CONFIRMED", "")


def test_what_an_executor_does_not_see_is_not_its_fault(tmp_path: Path) -> None:
    """A planner that sees more leaves the blind ticks to it."""
    parts = (Part("camera", "box", (2,), "float32"), Part("imu", "box", (1,), "float32"))
    spec = Spec(ObsSpec(parts, "dict"), DiscreteSpec(4))
    device = Device(tmp_path / "device")
    for name, architecture in (("one", "linear"), ("two", "mlp:4")):
        device.apply(written(tmp_path, name, initial(architecture, spec, sees=["imu"])))
    agent = Agent(device.executor(), spec, planner=Echo(), planner_latency=1)
    obs = {name: np.zeros(size, np.float32) for name, size in (("camera", 2), ("imu", 1))}
    with agent, Trial(device, agent, OPTIONS) as trial:
        for tick in range(400):
            obs["camera"][:] = np.nan if tick % 2 else 0.0
            trial.tick(obs, agent.act(obs))
            trial.settle()
    last = device.status().last
    assert last is not None
    assert (last.name, last.stage) == ("two.akd", "CONFIRMED")


def test_who_cannot_be_tried_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it raises in the shadow, the robot's loop goes on."""
    robot = Robot(tmp_path)
    robot.offer(constant(2))
    robot.live_until("shadow")

    def broken(self: Executor, obs: Any) -> Any:
        raise RuntimeError("no")

    monkeypatch.setattr(Executor, "act", broken)
    robot.live(3)
    assert robot.last == ("ROLLED_BACK", "unfit")


@pytest.mark.parametrize(
    ("took", "period", "ticks"), [(1_000_000, 0.0019, 2), (1_000_000, 0.00019, 1)]
)
def test_who_takes_too_long_goes_at_once(
    took: int, period: float, ticks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 1 % of the shadow over the budget, or one decision of many periods."""
    times = iter(range(0, 10**12, took))
    monkeypatch.setattr(trials, "perf_counter_ns", lambda: next(times))
    robot = Robot(tmp_path, replace(OPTIONS, shadow=100), period=period)
    robot.offer(constant(2))
    robot.live_until("shadow")
    # The start of the trial was written: that is looked at first.
    robot.live(1 + ticks)
    assert robot.last == ("ROLLED_BACK", "slow")


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


def full(robot: Robot, patched: pytest.MonkeyPatch) -> None:
    """Let the device's disk be full."""

    def fails(*_: Any, **__: Any) -> None:
        raise WriteError("No space left on device.")

    patched.setattr("agentkd.device.device.write_state", fails)
    patched.setattr("agentkd.device.trial._PAUSE", 0.0)


@pytest.mark.parametrize("phase", ["idle", "shadow", "acting"])
def test_a_disk_that_was_full_delays_a_trial(
    phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, tried again, and goes on by itself."""
    robot = Robot(tmp_path)
    robot.offer(constant(2))
    robot.live_until(phase)
    caplog.clear()
    with monkeypatch.context() as patched:
        full(robot, patched)
        robot.live(100)
        assert robot.trial.phase == ("idle" if phase == "idle" else "acting")
    assert len(caplog.records) == 1
    robot.live(200)
    assert robot.last[0] == "CONFIRMED"
    assert robot.device.starting() == robot.device.status().active
    assert robot.trial.phase == "idle"
    assert robot.device.status().candidate is None


def test_a_failure_that_could_not_be_written_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The former executor acts again at once; once there is room, the failed one is blacklisted."""
    robot = Robot(tmp_path, replace(OPTIONS, agreement=0.9))
    robot.offer(constant(2))
    robot.live_until("shadow")
    with monkeypatch.context() as patched:
        full(robot, patched)
        robot.live(100)
        assert robot.device.status().waiting is not None
    robot.live(10)
    assert robot.actions[-1] == 1
    assert robot.last[0] == "ROLLED_BACK"


def test_a_failure_that_could_not_be_written_is_written_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If there is room by then; if there is not, the log says so."""
    robot = Robot(tmp_path, replace(OPTIONS, agreement=0.9))
    robot.offer(constant(2))
    robot.live_until("shadow")
    with monkeypatch.context() as patched:
        full(robot, patched)
        robot.live_until("idle")
        caplog.clear()
        robot.trial.close()
    assert "No space left on device." in caplog.text
    assert "is rolled back" not in caplog.text
    assert robot.device.status().waiting is not None
    robot.trial.close()
    assert robot.last == ("ROLLED_BACK", "disagrees")


def test_a_folder_that_is_gone_ends_a_trial(tmp_path: Path) -> None:
    """Nothing is left that would confirm it or roll it back, so the former executor acts."""
    robot = Robot(tmp_path)
    robot.offer(constant(2), "second")
    robot.live_until("acting")
    robot.live(1)
    assert robot.actions[-1] == 2
    shutil.rmtree(robot.device.folder)
    robot.live(3)
    assert (robot.trial.phase, robot.actions[-1]) == ("idle", 1)
