"""Any environment as a world that does not wait while somebody thinks about it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np

from agentkd.errors import ConfigError, did_you_mean
from agentkd.spec import action_spec

Held = Literal["last", "default"]


class RealTime(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """An environment whose time passes, in periods, while the caller thinks.

    An observation is made at the beginning of a period. Who answers with `step` within that period
    is in time, and it is as if the world had waited. Else the periods that went by are lived with
    what is held, the last action or the default one, and the answer counts from the period in which
    it came. Then `step` gives what is observed at the beginning of the next period, and the sum of
    the rewards of all of them. If the episode ends before, the answer comes too late and is not
    applied.

    Two clocks: with `period` time is real, its schedule absolute, and `step` returns when the next
    period begins. With `latency` it is counted, so that everything can be repeated: that many
    periods go by before each answer.

    `info` holds, besides the environment's own: "elapsed", the periods that went by before this
    answer; "missed", those of the whole episode; "applied", whether the answer was. An environment
    whose own step takes longer than a period is late by itself, and that counts as well.

    Attributes:
        lateness: Seconds from the beginning of its period to the last answer; 0 when time is
            counted.

    Args:
        env: The environment.
        period: Seconds.
        latency: Periods, or a function that gives them for each answer.
        held: What is applied while nobody has answered: "last" or "default". Before the first
            answer it is always the default.
        default: The default action; left out, the first choice, or 0, or of a box without 0 the
            number nearest to it.
        now: The time in seconds, for another clock.
        sleep: Sleeps some seconds, for another clock.

    Raises:
        ConfigError: If there is no clock, or two, or one that cannot be.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        *,
        period: float | None = None,
        latency: int | Callable[[], int] | None = None,
        held: Held = "last",
        default: Any = None,
        now: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Take the clock."""
        gym.utils.RecordConstructorArgs.__init__(
            self, period=period, latency=latency, held=held, default=default
        )
        super().__init__(env)
        if (period is None) == (latency is None):
            raise ConfigError(
                "Give a period in seconds for real time, or a latency in periods for "
                f"counted time; period is {period}, latency is {latency}."
            )
        if period is not None and not 0 < period < float("inf"):
            raise ConfigError(f"A period of {period} s cannot be; 0.02 is 50 Hz.")
        if held not in get_args(Held):
            raise ConfigError(
                f"Nothing is held by {held!r}.{did_you_mean(str(held), get_args(Held))}"
            )
        self._period, self._latency, self._held = period, latency, held
        self._now, self._sleep = now, sleep
        self._default = _resting(env.action_space) if default is None else default
        if not env.action_space.contains(self._default):
            raise ConfigError(f"The default action {self._default!r} is not in {env.action_space}.")
        self._last = self._default
        self.lateness = 0.0
        self._missed = self._periods = 0
        self._origin = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, and its first period."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._last = self._default
        self._missed = self._periods = 0
        self._origin = self._now()
        return obs, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Live the periods that went by, then one with the answer."""
        elapsed = self._elapsed()
        waiting = self._last if self._held == "last" else self._default
        total, lived = 0.0, 0
        obs: Any = None
        info: dict[str, Any] = {}
        terminated = truncated = False
        for index in range(elapsed + 1):
            applied = action if index == elapsed else waiting
            obs, reward, terminated, truncated, info = self.env.step(applied)
            total += float(reward)
            lived += 1
            if terminated or truncated:
                break
        in_time = lived == elapsed + 1
        if in_time:
            self._last = np.array(action) if np.ndim(action) else action
        gone_by = elapsed if in_time else lived
        self._missed += gone_by
        self._periods += lived
        if self._period is not None:
            left = self._origin + self._periods * self._period - self._now()
            if left > 0:
                self._sleep(left)
        told = {"elapsed": gone_by, "missed": self._missed, "applied": in_time}
        return obs, total, terminated, truncated, {**info, **told}

    def _elapsed(self) -> int:
        """Whole periods that went by since the observation."""
        if self._period is not None:
            began = self._origin + self._periods * self._period
            whole, self.lateness = divmod(self._now() - began, self._period)
            return max(0, int(whole))
        latency = self._latency() if callable(self._latency) else self._latency
        if latency is None or latency < 0:
            raise ConfigError(f"A latency of {latency} periods cannot be.")
        return int(latency)


def _resting(space: gym.Space[Any]) -> Any:
    """The first choice, or the action nearest to 0."""
    from agentkd.executors.acting import default_action

    found = default_action(action_spec(space))
    if isinstance(space, gym.spaces.Discrete):
        return int(found)
    return np.asarray(found, space.dtype)
