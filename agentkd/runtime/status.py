"""What a worker process tells of itself, in shared memory."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal, final

from agentkd.runtime.memory import Segment

_BEAT, _STATE, _STOP, _PID, LABELS, ERRORS, DROPPED, STEPS, _WORDS = range(9)
_STARTING, _READY = 0, 1

State = Literal["starting", "ready", "failed", "restarting"]


@dataclass(frozen=True, slots=True)
class Health:
    """How a planner or a distiller is.

    Attributes:
        state: "starting" until it is ready for the first time; "failed" after a start that failed,
            until one succeeds; "restarting" after it was lost.
        starts_failed: Starts that failed.
        raised: How often its priority was raised because it hardly ran.
    """

    state: State = "ready"
    starts_failed: int = 0
    raised: int = 0


@final
class Status:
    """What a worker tells of itself: its heartbeat, counters and last words."""

    def __init__(self, segment: Segment | None = None) -> None:
        """Make it, or look at one that exists."""
        self.segment = segment or Segment(8 * _WORDS)
        self._numbers = self.segment.buffer[: 8 * _WORDS].cast("q")
        self._times = self.segment.buffer[: 8 * _WORDS].cast("d")

    def beat(self) -> None:
        """Say: still here."""
        self._times[_BEAT] = time.monotonic()

    @property
    def heard(self) -> float:
        """When the last heartbeat was, by the monotonic clock."""
        return self._times[_BEAT]

    def begin(self) -> None:
        """Note that a worker is being started."""
        self._numbers[_STATE] = _STARTING
        self._numbers[_STOP] = self._numbers[_PID] = 0
        self.beat()

    def set_pid(self, pid: int) -> None:
        """Note the worker's process."""
        self._numbers[_PID] = pid

    @property
    def pid(self) -> int | None:
        """The worker's process, None while it has not begun."""
        return int(self._numbers[_PID]) or None

    @property
    def ready(self) -> bool:
        """Whether the worker has made what it was to make."""
        return bool(self._numbers[_STATE] == _READY)

    def set_ready(self) -> None:
        """Note that the worker serves."""
        self.beat()
        self._numbers[_STATE] = _READY

    @property
    def stopping(self) -> bool:
        """Whether the worker is to end."""
        return bool(self._numbers[_STOP])

    def stop(self) -> None:
        """Tell the worker to end."""
        self._numbers[_STOP] = 1

    def count(self, word: int, more: int = 1) -> None:
        """Add to a counter; only the worker does."""
        self._numbers[word] += more

    def total(self, word: int) -> int:
        """Read a counter."""
        return int(self._numbers[word])
