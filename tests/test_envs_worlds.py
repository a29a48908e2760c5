"""Hidden velocities, and worlds that do not wait."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from agentkd import environments
from agentkd.errors import ConfigError
from envs.hidden import POSITIONS, HiddenVelocities
from envs.realtime import RealTime

# What Gymnasium recommends about the spaces of its own environments.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*different from the unwrapped version"),
    pytest.mark.filterwarnings("ignore:.*A Box observation space m"),
    pytest.mark.filterwarnings("ignore:.*symmetric and normalized space"),
]


class Count(gym.Env[Any, Any]):
    """Observes and pays what is done; over after five steps."""

    observation_space = gym.spaces.Box(-9, 9, (1,), np.float32)
    action_space = gym.spaces.Box(1, 9, (1,), np.float32)

    def __init__(self) -> None:
        self.done: list[float] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.done = []
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.done.append(float(action[0]))
        over = len(self.done) >= 5
        return np.asarray(action, np.float32), float(action[0]), over, False, {"own": 1}


class Wall:
    """A clock that goes only when told to, and when slept."""

    def __init__(self) -> None:
        self.time = 100.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds


def number(value: float) -> Any:
    return np.array([value], np.float32)


def test_who_is_in_time_is_waited_for() -> None:
    """Within the period nothing is lost, and the next begins on schedule."""
    inner, wall = Count(), Wall()
    world = RealTime(inner, period=0.5, now=wall.now, sleep=wall.sleep)
    world.reset(seed=0)
    for _ in range(2):
        wall.time += 0.2
        _, reward, _, _, info = world.step(number(7))
        assert (reward, info["elapsed"], info["applied"]) == (7.0, 0, True)
        assert world.lateness == pytest.approx(0.2)
    assert inner.done == [7, 7]
    assert wall.slept == [pytest.approx(0.3)] * 2
    assert wall.time == pytest.approx(101.0)


@pytest.mark.parametrize(("held", "while_late"), [("last", 7), ("default", 1)])
def test_periods_that_go_by_are_lived_with_what_is_held(held: Any, while_late: int) -> None:
    """The default before the first answer; then the last action, or the default."""
    inner, wall = Count(), Wall()
    world = RealTime(inner, period=0.5, held=held, now=wall.now, sleep=wall.sleep)
    world.reset(seed=0)
    wall.time += 0.6
    _, reward, _, _, info = world.step(number(7))
    assert (reward, info["elapsed"], info["missed"], info["own"]) == (8.0, 1, 1, 1)
    wall.time += 1.2
    _, reward, _, _, info = world.step(number(9))
    assert (info["elapsed"], info["missed"]) == (2, 3)
    assert inner.done == [1, 7, while_late, while_late, 9]
    # 0.6 s and 0.4 s to the second period's end, then 1.2 s and 0.3 s.
    assert wall.time == pytest.approx(102.5)


def test_an_answer_after_the_end_is_not_applied() -> None:
    """The episode ended while the caller thought."""
    inner = Count()
    world = RealTime(inner, latency=7)
    world.reset(seed=0)
    obs, reward, terminated, _, info = world.step(number(9))
    assert (float(obs[0]), reward, terminated) == (1.0, 5.0, True)
    assert (info["elapsed"], info["missed"], info["applied"]) == (5, 5, False)


def test_counted_latency_may_vary() -> None:
    """A function gives the periods that go by before each answer."""
    inner, latencies = Count(), iter([0, 2, 1])
    world = RealTime(inner, latency=lambda: next(latencies))
    world.reset(seed=0)
    elapsed = [world.step(number(each))[4]["elapsed"] for each in (5, 6)]
    assert elapsed == [0, 2]
    assert inner.done == [5, 5, 5, 6]


def test_a_reset_begins_anew() -> None:
    """The schedule and what is held are those of a first episode."""
    inner, wall = Count(), Wall()
    world = RealTime(inner, period=0.5, now=wall.now, sleep=wall.sleep)
    world.reset(seed=0)
    world.step(number(7))
    wall.time += 60.0
    world.reset(seed=0)
    wall.time += 0.6
    _, _, _, _, info = world.step(number(9))
    assert (inner.done, info["missed"]) == ([1, 9], 1)


def test_what_is_held_is_a_copy() -> None:
    """A caller may use its array again."""
    inner = Count()
    world = RealTime(inner, latency=1)
    world.reset(seed=0)
    action = number(7)
    world.step(action)
    action[0] = 3
    world.step(number(9))
    assert inner.done == [1, 7, 7, 9]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Give a period"),
        ({"period": 0.1, "latency": 1}, "Give a period"),
        ({"period": 0.0}, "0.0 s cannot be"),
        ({"period": math.nan}, "nan s cannot be"),
        ({"latency": 1, "held": "lst"}, "mean 'last'"),
        ({"latency": 1, "default": np.zeros(1, np.float32)}, "not in Box"),
    ],
)
def test_a_clock_that_cannot_be_is_refused(options: Any, message: str) -> None:
    """With what is wrong about it."""
    with pytest.raises(ConfigError, match=message):
        RealTime(Count(), **options)


def test_a_latency_below_0_is_refused() -> None:
    """Nobody answers before being asked."""
    world = RealTime(Count(), latency=lambda: -1)
    world.reset(seed=0)
    with pytest.raises(ConfigError, match="-1 periods"):
        world.step(number(5))


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("clock", ["wall", "counted"])
def test_a_world_that_does_not_wait_is_an_environment(env: str, clock: str) -> None:
    """Gymnasium's own check finds nothing."""
    wall = Wall()
    options: dict[str, Any] = {"latency": 2}
    if clock == "wall":
        options = {"period": 0.02, "now": wall.now, "sleep": wall.sleep}
    check_env(RealTime(gym.make(env), **options), skip_render_check=True)


@pytest.mark.parametrize("env", POSITIONS)
def test_a_robot_without_velocities_is_an_environment(env: str) -> None:
    """Gymnasium's own check finds nothing, and positions are those of the robot."""
    name = f"envs.hidden:agentkd/{env.partition('-')[0]}Hidden-v0"
    hidden, whole = environments.make(name), gym.make(env)
    check_env(hidden, skip_render_check=True)
    seen, _ = hidden.reset(seed=5)
    everything, _ = whole.reset(seed=5)
    keep = POSITIONS[env]
    assert hidden.observation_space.shape == (len(keep),) < everything.shape
    np.testing.assert_array_equal(seen, everything[list(keep)])
    hidden.close()
    whole.close()


def test_only_numbers_that_are_there_can_be_kept() -> None:
    """Indices are checked, and so is that there is a flat vector."""
    with pytest.raises(ConfigError, match="from 0 to 3"):
        HiddenVelocities(gym.make("CartPole-v1"), (0, 4))
    with pytest.raises(ConfigError, match="Discrete"):
        HiddenVelocities(gym.make("FrozenLake-v1"), (0,))
