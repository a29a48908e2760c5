"""Tick schedules: wall clock and virtual clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, final

from agentkd.errors import ConfigError

_SPIN = 200_000
"""The last 0.2 ms before a tick are spun, in ns: a sleep may end 60 µs late."""


@dataclass(frozen=True, slots=True)
class Tick:
    """One tick of a clock.

    Attributes:
        index: Counts the ticks that took place.
        scheduled: When it was due, in seconds since the start.
        lateness: How much later it came, in seconds.
        missed: How many whole periods were skipped right before it.
    """

    index: int
    scheduled: float
    lateness: float
    missed: int


class Clock(Protocol):
    """A tick schedule."""

    @property
    def period(self) -> float:
        """Seconds from one tick to the next."""
        ...

    def start(self) -> None:
        """Start; the first tick is due now."""
        ...

    def wait(self) -> Tick:
        """Return when the next tick is due."""
        ...

    def now(self) -> float:
        """Seconds since the start."""
        ...


def check_period(period: float) -> float:
    """Give a period back if it can be one.

    Raises:
        ConfigError: If it is not a positive, finite number of seconds.
    """
    if not 0 < period < float("inf"):
        raise ConfigError(f"A period of {period} s cannot be; 0.02 is 50 Hz.")
    return float(period)


@final
class WallClock:
    """Ticks at start + k · period, whatever happens in between.

    A tick that is due while the one before still runs comes late. Where whole periods went by, they
    are skipped and counted: ticks never come in bursts to catch up.

    Args:
        period: Seconds.
        time_ns: The time, in nanoseconds.
        sleep: Sleeps some seconds.
    """

    def __init__(
        self,
        period: float,
        *,
        time_ns: Callable[[], int] = time.perf_counter_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Take the period; `start` begins."""
        self.period = check_period(period)
        self._step = round(period * 1e9)
        self._time = time_ns
        self._sleep = sleep
        self.start()

    def start(self) -> None:
        """Start; the first tick is due now."""
        self._origin = self._time()
        self._due = self._origin
        self._index = 0

    def now(self) -> float:
        """Seconds since the start."""
        return (self._time() - self._origin) * 1e-9

    @property
    def due_ns(self) -> int:
        """When the last tick was due, by `time_ns`."""
        return self._due - self._step

    def wait(self) -> Tick:
        """Return when the next tick is due, or at once if it is overdue."""
        due, clock = self._due, self._time
        now = clock()
        missed = 0
        if now >= due + self._step:
            missed = (now - due) // self._step
            due += missed * self._step
        elif now < due:
            ahead = due - now - _SPIN
            if ahead > 0:
                self._sleep(ahead * 1e-9)
            now = clock()
            while now < due:
                now = clock()
        tick = Tick(self._index, (due - self._origin) * 1e-9, (now - due) * 1e-9, missed)
        self._due = due + self._step
        self._index += 1
        return tick


@final
class VirtualClock:
    """Ticks as fast as they are taken, each exactly on time.

    Args:
        period: Seconds that a tick stands for.
    """

    def __init__(self, period: float) -> None:
        """Take the period; `start` begins."""
        self.period = check_period(period)
        self._index = 0

    def start(self) -> None:
        """Start; the first tick is due now."""
        self._index = 0

    def now(self) -> float:
        """Seconds since the start: those of the ticks that were taken."""
        return self._index * self.period

    def wait(self) -> Tick:
        """Give the next tick."""
        tick = Tick(self._index, self._index * self.period, 0.0, 0)
        self._index += 1
        return tick


def make_clock(clock: Literal["wall", "virtual"] | Clock, hz: float) -> Clock:
    """Return a clock by name, or a clock as it is.

    Raises:
        ConfigError: If there is no such clock, or `hz` is no rate.
    """
    if not 0 < hz < float("inf"):
        raise ConfigError(f"hz is {hz}; it has to be above 0, such as 50.")
    if isinstance(clock, str):
        if clock not in ("wall", "virtual"):
            raise ConfigError(f"No clock {clock!r}. Known: 'virtual', 'wall'.")
        return WallClock(1.0 / hz) if clock == "wall" else VirtualClock(1.0 / hz)
    return clock
