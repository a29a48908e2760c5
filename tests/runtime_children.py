"""Planners, distillers and environments for the runtime's tests; children import them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from agentkd import dists
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Dense
from agentkd.spec import BoxSpec, DiscreteSpec, ObsSpec, Part, Spec
from agentkd.types import ActionDist, AnyDist, Categorical, Floats, Guidance, Point, State

SPEC = Spec(ObsSpec((Part("", "box", (3,), "float32"),)), DiscreteSpec(4))
BOX = Spec(SPEC.obs, BoxSpec((-1.0, -1.0), (1.0, 1.0), (2,)))


def constant(choice: int) -> Executor:
    """An executor that always makes the same choice."""
    executor = initial("linear", SPEC)
    bias = np.eye(4, dtype=np.float32)[choice]
    first = executor.layers[0]
    assert isinstance(first, Dense)
    layer = replace(first, weight=np.zeros_like(first.weight), bias=bias)
    return replace(executor, layers=(layer,))


def one_hot(choices: Any) -> Categorical:
    """Distributions that are sure of these choices."""
    return Categorical(np.eye(4, dtype=np.float32)[np.asarray(choices, int) % 4])


def points(actions: Any) -> Point:
    """Exactly these actions, (batch, 2)."""
    return Point(np.asarray(actions, np.float32))


class Echo:
    """Chooses the observation's first number, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[float]] = []

    def __call__(self, obs: Floats) -> ActionDist:
        self.asked.append(obs[:, 0].tolist())
        return one_hot(obs[:, 0])


class Ahead:
    """Answers with several rows: the observation's first number, and those after."""

    def __init__(self, horizon: int) -> None:
        self.horizon = horizon

    def __call__(self, obs: Floats) -> ActionDist:
        return one_hot((obs[:, :1] + np.arange(self.horizon)).ravel())


def next_ticks(obs: Floats, actions: Any) -> Floats:
    """A model of `Steps`: each action is a tick."""
    return obs + np.array([len(actions), 0, 0], np.float32)


def never_two(obs: Floats, action: Any) -> bool:
    """A check that refuses one choice."""
    return bool(action != 2)


class Anytime:
    """Thinks in `parts`: first it chooses 0, then 1, and so on."""

    horizon = 4

    def __init__(self, parts: int, seconds: float = 0.0) -> None:
        self.parts, self.seconds = parts, seconds
        self.asked = 0

    def __call__(self, obs: Floats) -> ActionDist:
        return one_hot(np.full(len(obs) * self.horizon, self.parts - 1))

    def improve(self, obs: Floats) -> Iterator[ActionDist]:
        self.asked += 1
        for part in range(self.parts):
            time.sleep(self.seconds)
            yield one_hot(np.full(self.horizon, part))


class Guiding:
    """Gives a goal, the observation's first number and its half, and rows if told."""

    def __init__(self, rows: bool = False) -> None:
        self.rows = rows

    def __call__(self, obs: Floats) -> Guidance:
        goal = obs[:, :1] * np.array([[1.0, 0.5]], np.float32)
        return Guidance(one_hot(obs[:, 0]) if self.rows else None, goal)


class Laborious:
    """Counts for a while before it answers, in a child process as well if told."""

    def __init__(self, rounds: int, children: int = 0) -> None:
        self.rounds = rounds
        code = "while True: pass"
        for _ in range(children):
            subprocess.Popen([sys.executable, "-c", code])

    def __call__(self, obs: Floats) -> ActionDist:
        if obs[:, 0].any():
            sum(range(self.rounds))
        return one_hot(obs[:, 0])


class Counting:
    """Has a memory: its choice is how many observations this episode had before."""

    def initial_state(self, batch: int) -> State:
        return (np.zeros((batch, 1), np.float32),)

    def __call__(self, obs: Floats, state: State) -> tuple[ActionDist, State]:
        return one_hot(state[0][:, 0]), (state[0] + 1,)


class Faulty:
    """Goes wrong whenever the observation's second number says so, else echoes."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def __call__(self, obs: Floats) -> ActionDist:
        if not obs[:, 1].any():
            return one_hot(obs[:, 0])
        if self.fault == "die":
            os._exit(9)
        if self.fault == "hang":
            time.sleep(1000)
        if self.fault == "nan":
            return Categorical(np.full((len(obs), 4), np.nan, np.float32))
        if self.fault == "shape":
            return Categorical(np.zeros((len(obs), 5), np.float32))
        raise RuntimeError("no idea")


def no_factory() -> Any:
    """A factory that fails."""
    raise ValueError("the file is not there")


def gated(path: str, attempts: str = "") -> Any:
    """A planner that is ready once a file exists; with `attempts`, else it fails."""
    while not Path(path).exists():
        if attempts:
            with Path(attempts).open("a") as file:
                file.write("x")
            raise OSError("no camera yet")
        time.sleep(0.002)
    return Faulty("hang")


def with_children(record: str, way: str) -> Any:
    """A planner that started a process, whose id it wrote down."""
    code = "import time; time.sleep(1000)"
    if way == "deaf":
        code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + code
    if way == "daemon":
        # Its parent ends at once: an orphan in a session of its own.
        code = (
            f"""import os, sys
os.setsid()
if os.fork():
    sys.exit()
open({record!r} + "+", "w").write(str(os.getpid()))
os.rename({record!r} + "+", {record!r})
"""
            + code
        )
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=way == "session")
    if way != "daemon":
        Path(record).write_text(str(child.pid))
    while not Path(record).exists():
        time.sleep(0.002)
    return Faulty("hang")


def own_settings() -> Any:
    """A planner that chooses as many as it may use threads."""
    threads = int(os.environ["OMP_NUM_THREADS"])

    def policy(obs: Floats) -> ActionDist:
        return one_hot(np.full(len(obs), threads))

    return policy


def own_class() -> Any:
    """A planner that chooses 1 if it was in SCHED_IDLE when asked, else 0."""

    def policy(obs: Floats) -> ActionDist:
        idle = os.sched_getscheduler(0) == os.SCHED_IDLE
        return one_hot(np.full(len(obs), int(idle)))

    return policy


class Towards:
    """A distiller whose executor makes the choice that most labels made.

    Told to, it gives NaN, raises, or dies, once it has `after` labels.
    """

    def __init__(self, fault: str = "", after: int = 1, record: str = "") -> None:
        self.fault, self.after, self.record = fault, after, record
        self.obs: list[list[float]] = []
        self.votes = np.zeros(4)
        self.started_with: Floats | None = None

    def warm_start(self, weights: Floats) -> None:
        self.started_with = weights
        if self.record:
            Path(self.record).write_text("warm")

    def add(self, obs: Floats, dist: AnyDist) -> None:
        assert dists.kind_of(dist) == "categorical"
        self.obs += obs.tolist()
        self.votes += dists.pack(dist).sum(axis=0)

    def step(self) -> Mapping[str, float]:
        if len(self.obs) < self.after:
            return {}
        if self.fault == "die":
            os._exit(9)
        if self.fault == "raise":
            raise RuntimeError("cannot learn")
        return {"labels": float(len(self.obs))}

    def snapshot(self) -> Floats:
        if self.fault == "nan":
            return np.full(len(constant(0).vector()), np.nan, np.float32)
        if self.fault == "size":
            return np.zeros(3, np.float32)
        return constant(int(self.votes.argmax())).vector()


def gated_distiller(path: str) -> Towards:
    """A distiller that is ready once a file exists."""
    while not Path(path).exists():
        time.sleep(0.002)
    return Towards()


class Steps:
    """Counts the ticks of an episode: the observation's first number is the tick.

    The right choice is that number; each is worth 1.
    """

    def __init__(self, length: int = 10, raises_at: int = -1, slow: float = 0) -> None:
        self.length, self.raises_at, self.slow = length, raises_at, slow
        self.t = self.steps = 0
        self.seeds: list[int | None] = []

    def _obs(self) -> Floats:
        return np.array([self.t, 0, 0], np.float32)

    def reset(self, *, seed: int | None = None) -> tuple[Floats, dict[str, Any]]:
        self.seeds.append(seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        if self.steps == self.raises_at:
            raise OSError("the motor is off")
        time.sleep(self.slow)
        reward = float(action == self.t % 4)
        self.t += 1
        self.steps += 1
        return self._obs(), reward, self.t >= self.length, False, {}
