"""What the live page shows of the news: the newest ticks, answers and returns."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, final

import numpy as np

_TICKS, _ANSWERS, _RETURNS = 400, 40, 40
_COUNTED = ("ticks", "answers", "returns")
_BINS = np.geomspace(1e-1, 1e6, 85)
"""Edges of the bars of decision times, in µs: twelve a decade."""


@final
class Summary:
    """Keeps what is needed of an agent's news; another agent's begin afresh."""

    def __init__(self) -> None:
        self._run: Any = None
        self._begin()

    def _begin(self) -> None:
        self._last: dict[str, Any] = {}
        self._ticks: deque[Any] = deque(maxlen=_TICKS)
        self._answers: deque[Any] = deque(maxlen=_ANSWERS)
        self._returns: deque[Any] = deque(maxlen=_RETURNS)
        self._times = np.zeros(len(_BINS) + 1, int)

    def take(self, news: Mapping[str, Any]) -> None:
        """Take a message of `LivePage`."""
        if news.get("run") != self._run:
            self._run = news.get("run")
            self._begin()
        self._ticks.extend(news["ticks"])
        self._answers.extend(news["answers"])
        self._returns.extend(news["returns"])
        taken = np.array([each[3] for each in news["ticks"]], float) / 1e3
        self._times += np.bincount(np.searchsorted(_BINS, taken), minlength=len(self._times))
        self._last = {key: value for key, value in news.items() if key not in _COUNTED}

    def state(self) -> dict[str, Any]:
        """Return all that the page shows, as JSON values.

        Times are in µs. `who` and `times` have one value for each of the newest ticks; `bars` are
        (lower edge, upper edge, count).
        """
        if not self._last:
            return {}
        taken = [each[3] / 1e3 for each in self._ticks]
        out = dict(self._last)
        out["who"] = ["guided" if each[2] == "guided" else each[1] for each in self._ticks]
        out["why"] = self._ticks[-1][2] if self._ticks else ""
        out["times"] = [round(each, 2) for each in taken]
        out["late"] = round(max((each[4] / 1e3 for each in self._ticks), default=0.0), 1)
        if taken:
            p50, p99 = np.percentile(taken, (50, 99))
            out["p50"], out["p99"] = round(float(p50), 2), round(float(p99), 2)
        out["bars"] = self._bars()
        out["answers"] = list(self._answers)
        out["returns"] = list(self._returns)
        return out

    def _bars(self) -> list[tuple[float, float, int]]:
        filled = np.flatnonzero(self._times[1:-1])
        if not len(filled):
            return []
        return [
            (float(_BINS[each]), float(_BINS[each + 1]), int(self._times[each + 1]))
            for each in range(int(filled[0]), int(filled[-1]) + 1)
        ]
