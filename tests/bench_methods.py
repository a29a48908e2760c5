"""Planners and methods that suites of tests name, each with one thing to look at."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np

from agentkd.distillation.task import Task
from agentkd.executors.executor import Executor
from agentkd.types import Categorical, Floats
from tests.bench_envs import Walk


class Stroll(Walk):
    """The same, also without a seed."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed or 0)


def forward(obs: Floats, /) -> Categorical:
    """Take action 2, which pays most."""
    return Categorical(np.tile(np.array([0, 0, 4], np.float32), (len(obs), 1)))


class Tiring:
    """A planner that acts worse the more often it was asked, and draws from NumPy's generator."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, obs: Floats, /) -> Categorical:
        """Take action 2 at first, and some other one after 40 questions."""
        self.asked += 1
        logits = np.random.standard_normal((len(obs), 3))  # noqa: NPY002
        logits[:, 2] += 0.0 if self.asked > 40 else 9.0
        return Categorical(logits.astype(np.float32))


def tiring(spec: Any) -> Tiring:
    """Make one anew whenever a task is opened."""
    del spec
    return Tiring()


def asking(task: Task, *, executor: str, labels: int, seed: int) -> Executor:
    """Ask the planner a hundred times."""
    policy: Any = task.planner.policy
    for _ in range(100):
        policy(np.zeros((1, 2), np.float32))
    return fresh(task, executor=executor, labels=labels, seed=seed)


def fresh(task: Task, *, executor: str, labels: int, seed: int, scale: float = 1.0) -> Executor:
    """Give new weights, and learn nothing."""
    made = task.executor(executor, seed)
    return made.with_vector(made.vector() * np.float32(scale), 1)


def drawing(task: Task, *, executor: str, labels: int, seed: int) -> Executor:
    """Draw weights from NumPy's own generator, which has no seed of its own here."""
    made = task.executor(executor, 0)
    weights = np.random.standard_normal(len(made.vector()))  # noqa: NPY002
    return made.with_vector(weights.astype(np.float32), 1)


def failing(task: Task, *, executor: str, labels: int, seed: int) -> Executor:
    """Fail for seed 1."""
    if seed == 1:
        raise ValueError("the optimiser\nis gone")
    return fresh(task, executor=executor, labels=labels, seed=seed)


def leaving(task: Task, *, executor: str, labels: int, seed: int) -> Executor:
    """End the program."""
    raise SystemExit(3)


def dying(task: Task, *, executor: str, labels: int, seed: int) -> Executor:
    """Kill the process; the first time only, if AGENTKD_TEST_NOTE names a file."""
    note = os.environ.get("AGENTKD_TEST_NOTE", "")
    if not note or not Path(note).exists():
        if note:
            Path(note).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return fresh(task, executor=executor, labels=labels, seed=seed)


def waiting(task: Task, *, executor: str, labels: int, seed: int) -> Executor:
    """Touch the file in AGENTKD_TEST_NOTE, and never end."""
    Path(os.environ["AGENTKD_TEST_NOTE"]).touch()
    while True:
        signal.pause()


def once(task: Task, *, executor: str, labels: int, seed: int) -> Executor:
    """Wait for ever the first time, with a note; the next time make an executor."""
    note = Path(os.environ["AGENTKD_TEST_NOTE"])
    if not note.exists():
        waiting(task, executor=executor, labels=labels, seed=seed)
    return fresh(task, executor=executor, labels=labels, seed=seed)


def telling(task: Task, *, executor: str, labels: int, seed: int) -> Executor:
    """Write how many threads a library may use, if AGENTKD_TEST_NOTE names a file."""
    if note := os.environ.get("AGENTKD_TEST_NOTE"):
        with Path(note).open("a") as file:
            file.write(f"{os.environ.get('OMP_NUM_THREADS')}\n")
    return fresh(task, executor=executor, labels=labels, seed=seed)


def nothing(task: Task, *, executor: str, labels: int, seed: int) -> Any:
    """Give what is no executor."""
    return {"weights": []}


def unlike(task: Task, *, labels: int) -> Any:
    """Take other arguments than a method does."""
