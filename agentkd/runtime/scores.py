"""Scores: whether they fell after a swap, and whether strategies earn more or less."""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from agentkd.errors import ConfigError, NumbersError, check_range
from agentkd.executors.executor import Executor
from agentkd.printable import logger
from agentkd.types import Source

log = logger(__name__)

_WINDOW = 50
"""Ticks that are counted together."""
_MOSTLY, _HARDLY = 0.5, 0.1
_ENOUGH = 5
"""Windows of each that are needed to compare."""
_CERTAIN = 3.0
"""How many standard errors apart the means have to be."""


def finite(score: Any) -> float:
    """Return a score as one finite number; an array may hold it.

    Raises:
        ConfigError: If it is not one number.
        NumbersError: If it is NaN or infinite.
    """
    try:
        number = float(score if type(score) is float else np.asarray(score).reshape(()))
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"A score of {score!r:.80}; give one number.") from error
    if not math.isfinite(number):
        raise NumbersError(f"A score of {number}; it has to be finite.")
    return number


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
        check_range("window", self.window, least=2, whole=True)
        check_range("drop", self.drop, above=0, below=math.inf)


@final
class Scores:
    """Keeps scores before and after a swap."""

    def __init__(self, options: Rollback) -> None:
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

    def again(self) -> None:
        """Judge by scores to come, after a swap that replaced what was judged."""
        with self._lock:
            self._after = []

    def rolled_back(self) -> None:
        """Begin anew, after a rollback."""
        with self._lock:
            self._former = None
            self._after = []


class _Moments:
    """Mean and variance of a sequence (Welford 1962)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def note(self, value: float) -> None:
        self.count += 1
        before = value - self.mean
        self.mean += before / self.count
        self.squares += before * (value - self.mean)

    @property
    def error(self) -> float:
        """The variance of the mean."""
        return self.squares / max(1, self.count - 1) / max(1, self.count)


@final
class Worth:
    """Compares rewards while strategies acted with rewards while the executor did.

    Rewards are averaged over windows of 50 ticks. A window counts for strategies if they acted at
    half of its ticks or more, and for the executor if strategies acted at a tenth or less.
    Strategies are worse if their mean is lower by three standard errors, of five windows of each or
    more. The comparison is of what happened, not a trial: the two may have acted in different
    states.
    """

    def __init__(self) -> None:
        self._strategy, self._executor = _Moments(), _Moments()
        self.worse = False
        self.reset()

    def reset(self) -> None:
        """Begin an episode: leave out the window at hand."""
        self._ticks = self._acted = 0
        self._sum = 0.0

    def note(self, source: Source, reward: float) -> None:
        """Take the reward of a tick and who acted; skip a reward that is not finite."""
        if not math.isfinite(reward):
            return
        self._ticks += 1
        self._acted += source == "strategy"
        self._sum += reward
        if self._ticks < _WINDOW:
            return
        share, mean = self._acted / self._ticks, self._sum / self._ticks
        self.reset()
        if share >= _MOSTLY:
            self._strategy.note(mean)
        elif share <= _HARDLY:
            self._executor.note(mean)
        else:
            return
        self._compare()

    def _compare(self) -> None:
        theirs, mine = self._strategy, self._executor
        if min(theirs.count, mine.count) < _ENOUGH:
            return
        error = math.sqrt(theirs.error + mine.error)
        worse = theirs.mean < mine.mean - _CERTAIN * error
        if worse and not self.worse:
            log.warning(
                "Strategies do worse than the executor: %.4g of reward a tick against "
                "%.4g. Let the executor act alone (mode='executor'), or find out why: "
                "docs/reference/runtime.md, Late rows.",
                theirs.mean,
                mine.mean,
            )
        self.worse = worse

    def summary(self) -> dict[str, Any]:
        """Return "reward_per_tick" by source and "strategies_worse"."""
        found = (("strategy", self._strategy), ("executor", self._executor))
        means = {name: each.mean if each.count else None for name, each in found}
        return {"reward_per_tick": means, "strategies_worse": int(self.worse)}
