"""A world with an exact model: a mass that is pushed, and its regulator."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from agentkd import initial
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Dense
from agentkd.spec import BoxSpec, ObsSpec, Part, Spec
from agentkd.types import Floats, Guidance, Point

SPEC = Spec(ObsSpec((Part("", "box", (2,), "float32"),)), BoxSpec((-1.0,), (1.0,), (1,)))


def moved(obs: Any, action: Any, push: float = 0.0) -> Floats:
    """What is observed a tick after an action."""
    place, speed = (float(each) for each in obs)
    force = float(np.clip(np.ravel(action)[0], -1, 1)) + push
    return np.array([place + 0.1 * speed, 0.95 * speed + 0.3 * force], np.float32)


def ahead(obs: Floats, actions: Sequence[Any]) -> Floats:
    """What will be observed after some actions."""
    for action in actions:
        obs = moved(obs, action)
    return obs


def best(obs: Any) -> Floats:
    """The planner's action, (1,)."""
    place, speed = (float(each) for each in obs)
    return np.array([np.clip(-place - speed, -1, 1)], np.float32)


class Regulator:
    """Rows for the planner's own path in an exact model.

    Args:
        horizon: How many.
        seconds: How long an answer takes.
        expects: Whether it says what it expects to be observed.
        wrong: By how much its expectations are off.
    """

    def __init__(
        self, horizon: int = 12, seconds: float = 0.0, *, expects: bool = False, wrong: float = 0.0
    ) -> None:
        self.horizon, self._seconds = horizon, seconds
        self._expects, self._wrong = expects, wrong

    def __call__(self, obs: Floats) -> Any:
        time.sleep(self._seconds)
        rows, seen = [], []
        for first in obs:
            state = first
            for _ in range(self.horizon):
                action = best(state)
                seen.append(np.asarray(state) + self._wrong)
                rows.append(action)
                state = moved(state, action)
        point = Point(np.array(rows, np.float32))
        if not self._expects:
            return point
        return Guidance(point, expected=np.array(seen, np.float32))


def executor(gain: float = 0.7) -> Executor:
    """An executor that regulates less well than the planner."""
    executor = initial("linear", SPEC)
    for layer in executor.layers:
        assert isinstance(layer, Dense)
        layer.weight[:] = 0
        layer.bias[:] = 0
        layer.weight[:] = -gain
    return executor
