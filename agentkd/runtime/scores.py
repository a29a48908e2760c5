"""Scores of what the executor does, and whether they fell after a swap."""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass
from typing import final

import numpy as np

from agentkd.errors import ConfigError
from agentkd.executors.executor import Executor


@dataclass(frozen=True, slots=True)
class Rollback:
    """When an agent returns to its former executor by itself.

    The `window` scores before a swap are compared with the `window` scores after it. The agent
    rolls back if their mean fell by more than `drop` standard deviations of the single scores
    before. Swaps within a window after a swap belong to it: the agent returns to the executor that
    acted before the first of them.

    Attributes:
        window: Scores; at least 2.
        drop: Standard deviations; above 0.
    """

    window: int = 150
    drop: float = 1.0

    def __post_init__(self) -> None:
        """Validate the fields."""
        if self.window < 2:
            raise ConfigError(f"window is {self.window}; at least 2 scores are needed.")
        if not 0 < self.drop < math.inf:
            raise ConfigError(f"drop is {self.drop}; it is above 0, such as 1.")


@final
class Scores:
    """Keeps scores before and after a swap.

    Args:
        options: When scores have fallen.
    """

    def __init__(self, options: Rollback) -> None:
        """Begin without scores."""
        self._options = options
        self._before: deque[float] = deque(maxlen=options.window)
        self._after: list[float] = []
        self._former: Executor | None = None
        self._lock = threading.Lock()

    def add(self, score: float) -> None:
        """Take a score of the last action, a finite number; larger is better."""
        number = float(score)
        with self._lock:
            if self._former is None:
                self._before.append(number)
            elif len(self._after) < self._options.window:
                self._after.append(number)

    def swapped(self, former: Executor) -> None:
        """Note that another executor took over from this one."""
        with self._lock:
            if self._former is None and len(self._before) == self._options.window:
                self._former, self._after = former, []

    def fallen(self) -> Executor | None:
        """Return the executor to go back to, if the scores fell after a swap."""
        with self._lock:
            if self._former is None or len(self._after) < self._options.window:
                return None
            before = np.asarray(self._before)
            least = before.mean() - self._options.drop * max(float(before.std()), 1e-9)
            if np.mean(self._after) < least:
                return self._former
            self._former = None
            self._before.extend(self._after)
            return None

    def rolled_back(self) -> None:
        """Begin anew, after a rollback."""
        with self._lock:
            self._former = None
            self._after = []
