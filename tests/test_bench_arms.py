"""Arms live the same seeds, end as they should, and lose nothing that was measured."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import types
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Dense
from agentkd.measure.live import ArmLook, Interrupt, Lived, Setting, live
from agentkd.spec import DiscreteSpec, ObsSpec, Part, Spec
from agentkd.types import Categorical, Floats

SPEC = Spec(ObsSpec((Part("", "box", (2,), "float32"),)), DiscreteSpec(2))
SETTING = Setting(
    env="arm_world:World",
    hz=50.0,
    clock="virtual",
    latency=2,
    budget=0.0,
    ticks=None,
    seconds=None,
    episodes=4,
    seed=10,
)


class World(gym.Env[Any, Any]):
    """An episode of six ticks; the seed is seen, and choice 1 is the reward."""

    observation_space = gym.spaces.Box(-1e6, 1e6, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    fault = -1
    hang = -1
    released = threading.Event()
    seeds: list[int | None] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """Begin."""
        World.seeds.append(seed)
        self.at = 0
        return np.array([seed or 0, 0], np.float32), {}

    def step(self, action: Any) -> Any:
        """Go on."""
        self.at += 1
        if self.at == World.fault:
            raise RuntimeError("the wheel came off")
        if self.at == World.hang:
            World.released.wait()
        done = self.at == 6
        return np.array([0, self.at], np.float32), float(action), done, False, {}


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch) -> type[World]:
    """Make the world known by a name."""
    module = types.ModuleType("arm_world")
    module.World = World  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "arm_world", module)
    monkeypatch.setattr(World, "seeds", [])
    monkeypatch.setattr(World, "fault", -1)
    monkeypatch.setattr(World, "hang", -1)
    monkeypatch.setattr(World, "released", threading.Event())
    return World


def always(choice: int) -> Executor:
    """An executor that always makes one choice."""
    executor = initial("linear", SPEC)
    bias = np.array([1 - choice, choice], np.float32)
    return replace(executor, layers=(Dense(np.zeros((2, 2), np.float32), bias, "none"),))


def ones(obs: Floats, /) -> Categorical:
    """A planner that always says 1."""
    return Categorical(np.tile(np.array([0, 9], np.float32), (len(obs), 1)))


def test_each_arm_lives_the_same_seeds() -> None:
    """Episode i is reset with seed + i, whoever acts."""
    for mode in ("executor", "planner", "runtime"):
        World.seeds.clear()
        asyncio.run(live(SETTING, mode, always(0), ones))
        assert World.seeds == [10, 11, 12, 13]


def test_the_arms_do_what_they_are_called() -> None:
    """The executor's zeros, the late planner's ones, and both together."""
    executor = asyncio.run(live(SETTING, "executor", always(0), ones)).result
    planner = asyncio.run(live(SETTING, "planner", always(0), ones)).result
    runtime = asyncio.run(live(SETTING, "runtime", always(0), ones)).result
    assert executor.returns == (0.0,) * 4
    # Its first answer arrives at tick 2; until then it has nothing to hold.
    assert planner.returns == (4.0,) * 4
    # One row for the tick it was asked about is too late two ticks on.
    assert runtime.returns == (0.0,) * 4
    on_time = replace(SETTING, latency=0)
    assert asyncio.run(live(on_time, "runtime", always(0), ones)).result.returns == (6.0,) * 4


def test_the_first_decisions_are_kept_as_they_were() -> None:
    """As many as were asked for, with who decided; by default none."""
    assert asyncio.run(live(SETTING, "planner", always(0), ones)).acts.who == []
    acts = asyncio.run(live(replace(SETTING, kept=7), "planner", always(0), ones)).acts
    begin = [*["default"] * 2, "strategy", "hold", "strategy", "hold"]
    assert acts.who == [*begin, "default"]
    assert acts.actions == [0, 0, 1, 1, 1, 1, 0]


def test_where_decisions_were_missed_none_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are left would be taken for others."""

    def missed(runtime: Any) -> Any:
        result = runtime.result
        return replace(result, metrics={**result.metrics, "views_dropped_total": 1})

    monkeypatch.setattr("agentkd.measure.live._result", missed)
    lived = asyncio.run(live(replace(SETTING, kept=7), "executor", always(0), ones))
    assert lived.result.ticks == 24
    assert lived.acts.who == []


def test_an_environment_that_raises_ends_the_arm_with_its_words() -> None:
    """What was measured until then stays."""
    World.fault = 4
    lived = asyncio.run(live(SETTING, "executor", always(1), ones))
    assert "the wheel came off" in lived.fault
    assert lived.result.ticks == 3
    assert lived.result.unfinished_return == 3.0


async def interruptible(setting: Setting, watch: Callable[[ArmLook], None] | None = None) -> Lived:
    """Live an arm as the command does, with Ctrl-C taken over."""
    with Interrupt() as interrupt:
        return await live(setting, "executor", always(1), ones, None, watch, interrupt)


def test_ctrl_c_ends_an_arm_whose_environment_hangs() -> None:
    """Nobody has to kill it: what was measured until then comes back."""
    World.hang = 4
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    lived = asyncio.run(interruptible(SETTING))
    World.released.set()
    assert lived.interrupted
    assert lived.result.ticks == 3


def test_ctrl_c_ends_an_arm_with_what_it_had() -> None:
    """The interrupt is an answer to wait for, not an exception."""
    long = replace(SETTING, episodes=None, ticks=10_000_000)
    looks: list[ArmLook] = []

    def watch(look: ArmLook) -> None:
        looks.append(look)
        if len(looks) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    lived = asyncio.run(interruptible(long, watch))
    assert lived.interrupted
    assert 0 < lived.result.ticks < 10_000_000
    assert set(lived.result.returns) == {6.0}


def test_looks_tell_how_far_an_arm_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The share that is done grows to one and fits the ticks."""
    monkeypatch.setattr("agentkd.measure.live._LOOK", -1.0)
    looks: list[ArmLook] = []
    setting = replace(SETTING, episodes=None, ticks=2_000)
    asyncio.run(live(setting, "executor", always(1), ones, None, looks.append))
    assert looks
    assert all(look.done == pytest.approx(look.ticks / 2_000) for look in looks)
