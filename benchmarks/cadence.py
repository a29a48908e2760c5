"""How evenly actions came, from the moments at which they did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentkd.errors import ConfigError
from agentkd.spec import BoxSpec, ObsSpec, Part, Spec
from agentkd.types import Floats

OBS, ACTIONS = 17, 6
SPEC = Spec(
    ObsSpec((Part("", "box", (OBS,), "float32"),)),
    BoxSpec((-1.0,) * ACTIONS, (1.0,) * ACTIONS, (ACTIONS,)),
)
"""Of the robot that costs nothing."""
LATE = ("p50", "p99", "p99.9", "max")
"""The figures of `Cadence.late_us`."""

_GAP = 1.5
"""Periods without an action from which on there is a gap."""


@dataclass(frozen=True, slots=True)
class Cadence:
    """How evenly actions came. The same for every loop, whatever clock it has.

    Attributes:
        ticks: Actions.
        missed: Periods that passed without one.
        hz: Actions per second.
        late_us: By how much the time from one action to the next exceeded the period: p50, p99,
            p99.9, max.
        uncommanded: The share of the time that was spent in gaps, beyond one period after the
            action before.
        longest_ms: The longest time from one action to the next.
    """

    ticks: int
    missed: int
    hz: float
    late_us: dict[str, float]
    uncommanded: float
    longest_ms: float

    @property
    def share(self) -> float:
        """Missed periods as a share of all periods."""
        return self.missed / max(1, self.ticks + self.missed)


def cadence(rounds: Sequence[NDArray[np.int64]], hz: float) -> Cadence:
    """Judge the moments at which actions came.

    Args:
        rounds: Of each round the moments, in nanoseconds, in order.
        hz: How many there should be in a second.

    Raises:
        ConfigError: If there are fewer than two in each round.
    """
    apart = np.concatenate([np.diff(each) for each in rounds]).astype(float)
    if not len(apart):
        raise ConfigError("Single actions tell nothing of their cadence.")
    period = 1e9 / hz
    late = np.maximum(apart - period, 0.0) / 1e3
    figures = [*np.percentile(late, [50, 99, 99.9]), late.max()]
    span = float(apart.sum())
    gaps = apart > _GAP * period
    return Cadence(
        ticks=sum(len(each) for each in rounds),
        missed=int(np.maximum(np.rint(apart / period) - 1, 0).sum()),
        hz=len(apart) / span * 1e9,
        late_us={name: float(us) for name, us in zip(LATE, figures, strict=True)},
        uncommanded=float((apart[gaps] - period).sum() / span),
        longest_ms=float(apart.max()) / 1e6,
    )


class Metronome:
    """A robot that costs nothing and writes down when it is commanded.

    Args:
        size: Numbers in an observation.
        most: Commands that there is room for.
        time_ns: The time, in nanoseconds.
    """

    def __init__(self, size: int, most: int, time_ns: Any) -> None:
        """Draw a stretch of observations in advance."""
        random = np.random.default_rng(0)
        self._obs = random.standard_normal((4096, size)).astype(np.float32)
        self._at, self._time = 0, time_ns
        self._moments = np.zeros(most, np.int64)

    @property
    def moments(self) -> NDArray[np.int64]:
        """When it was commanded, in ns."""
        return self._moments[: min(self._at, len(self._moments))]

    def reset(self, *, seed: int | None = None) -> tuple[Floats, dict[str, Any]]:
        """Begin."""
        del seed
        return self._obs[0], {}

    def step(self, action: Any) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Take a command."""
        del action
        if self._at < len(self._moments):
            self._moments[self._at] = self._time()
        self._at += 1
        return self._obs[self._at % len(self._obs)], 0.0, False, False, {}
