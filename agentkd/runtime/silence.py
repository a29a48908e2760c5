"""How long a worker was silent for reasons of its own.

On a loaded machine a worker may be silent only because other programs have the processors. That
time says nothing about the worker and does not count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from agentkd.runtime.priority import Usage

_TRUSTED = 0.25
"""The share of a limit for which silence counts without a look at the worker."""
_LOOKS, _PAUSE = 16.0, 0.5
"""Looks within a limit, at least, and seconds between two looks, at most."""


@final
class Silence:
    """Measures the silence of one worker.

    Between two looks a worker counts as silent for as long as it computed, if it could have run at
    the second look, and for the whole time if it was waiting for something other than a processor.
    So a hang is found on any machine: one that computes uses up its limit, and one that waits does
    so in real time.
    """

    def __init__(self) -> None:
        """Begin with no silence."""
        self._heard = self._looked = 0.0
        self._counted = 0.0
        self._used: float | None = None

    def beyond(self, limit: float, now: float, heard: float, measure: Callable[[], Usage]) -> bool:
        """Return whether the silence has lasted longer than a limit.

        Args:
            limit: Seconds.
            now: The time, in seconds.
            heard: When the silence began: the time of the last heartbeat.
            measure: Measures the worker; called only where it is silent for long.
        """
        if heard != self._heard:
            self._heard, self._used = heard, None
        if now - heard < _TRUSTED * limit:
            return False
        if self._used is None:
            self._looked, self._used = now, measure().seconds
            self._counted = _TRUSTED * limit
            return False
        passed = now - self._looked
        if passed < min(_PAUSE, limit / _LOOKS):
            return False
        usage = measure()
        ran = max(0.0, usage.seconds - self._used)
        self._counted += min(passed, ran) if usage.runnable else passed
        self._looked, self._used = now, usage.seconds
        return self._counted > limit
