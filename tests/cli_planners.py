"""Tiny planners and environments that commands are tried on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from agentkd.types import Categorical, Floats, State


def balance(obs: Floats, /) -> Categorical:
    """Push the cart towards where the pole falls; reaches 500 on CartPole."""
    lean = 4.0 * (obs[:, 2] + 0.3 * obs[:, 3] + 0.05 * obs[:, 0] + 0.1 * obs[:, 1])
    return Categorical(np.stack([-lean, lean], axis=1).astype(np.float32))


def opposite(obs: Floats, /) -> Categorical:
    """Always do the other thing."""
    return Categorical(-balance(obs).logits)


def nothing(obs: Floats, /) -> Categorical:
    """Answer with nothing but NaN."""
    return Categorical(np.full((len(obs), 2), np.nan, np.float32))


def late_nothing(obs: Floats, /) -> Categorical:
    """Answer well at first, and with NaN as soon as the cart has moved."""
    logits = balance(obs).logits
    logits[np.abs(obs[:, 0]) > 0.06] = np.nan
    return Categorical(logits)


class Memory:
    """Balances, and counts the steps it has seen."""

    def initial_state(self, batch: int) -> State:
        return (np.zeros((batch, 1), np.float32),)

    def __call__(self, obs: Floats, state: State, /) -> tuple[Categorical, State]:
        return balance(obs), (state[0] + 1.0,)


memory = Memory()


class Breaking(gym.Wrapper[Any, Any, Any, Any]):
    """CartPole whose 300th step raises."""

    def __init__(self) -> None:
        super().__init__(gym.make("CartPole-v1"))
        self.steps = 0

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.steps == 300:
            raise OSError("the cable is loose")
        return super().step(action)


class Drawn(gym.Wrapper[Any, Any, Any, Any]):
    """CartPole that draws itself on 12 x 16 pixels; `fault` is raised by the renderer."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode: str | None = None, fault: str = "") -> None:
        super().__init__(gym.make("CartPole-v1"))
        self._mode, self.fault = render_mode, fault

    @property
    def render_mode(self) -> str | None:  # type: ignore[override]
        return self._mode

    def render(self) -> Any:
        if self.fault:
            raise OSError(self.fault)
        frame = np.full((12, 16, 3), 255, np.uint8)
        place = int(8 + 3 * self.get_wrapper_attr("state")[0])
        frame[6:, min(max(place, 0), 15)] = 0
        return frame


class Noted:
    """Balances, and notes the process that it is in."""

    def __init__(self, spec: Any) -> None:
        note = os.environ.get("AGENTKD_TEST_NOTE")
        if note:
            with Path(note).open("a", encoding="utf-8") as file:
                file.write(f"{os.getpid()}\n")

    def __call__(self, obs: Floats, /) -> Categorical:
        return balance(obs)
