"""Where a distillation takes its labels from: the protocol, and two simple sources."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, final

import numpy as np

from agentkd.distillation.collector import Collector
from agentkd.distillation.stretch import Collected
from agentkd.errors import AgentkdError, check_range
from agentkd.executors.executor import Executor
from agentkd.executors.native import compile_native
from agentkd.planners.device import Device, check_device
from agentkd.printable import logger
from agentkd.types import Labels

log = logger(__name__)

AT_ONCE = 0.01
"""Seconds that collecting in this process takes before learning has its turn."""
_MOST_COLLECTORS = 4
_MOST_TICKS, _ROWS = 16, 1024
"""Ticks, and labels, that are collected at a time, at most."""
_PARTS = 64
"""Into how many parts a budget of labels is divided at least."""
_FAR = 1 << 16
"""How far back a link leads at most: a source's environments."""
_PAUSE = 0.2
"""Seconds after which a `take` gives nothing rather than wait for a slow planner any longer."""
_SLOW = 0.1
"""Seconds: a planner that takes longer for a tick would keep the distiller waiting."""


@dataclass(frozen=True, slots=True)
class CollectionOptions:
    """Who drives while labels are collected.

    The planner's share is the β of DAgger (Ross et al. 2011, "A reduction of imitation learning and
    structured prediction to no-regret online learning"), of stretches of ticks instead of single
    ones.

    Attributes:
        environments: How many are stepped together.
        stretch: The mean length, in ticks, for which one driver stays.
        halving: Labels after which the planner's share of the driving has halved. It is 1 until
            there is an executor.
        least_share: What is left of its share in the end; 1 if the planner drives alone. A little
            keeps the states near the planner's own way among the labels.
        collectors: How many processes collect, where time is what counts; by default one fewer than
            there are processors for this one, at least 1 and at most 4.
        device: Where a torch planner answers: "cpu", "cuda", or "auto", a GPU if there is one and
            the planner is large for so many environments.
    """

    environments: int = 16
    stretch: float = 50.0
    halving: int = 10_000
    least_share: float = 0.1
    collectors: int | None = None
    device: Device = "auto"

    def __post_init__(self) -> None:
        for name in ("environments", "halving", "stretch", "collectors"):
            check_range(name, getattr(self, name), least=1, whole=name != "stretch")
        check_device(self.device)
        check_range("least_share", self.least_share, least=0, most=1)

    @property
    def processes(self) -> int:
        """How many processes collect, where time is what counts."""
        if self.collectors is not None:
            return self.collectors
        own = getattr(os, "sched_getaffinity", None)
        count = len(own(0)) if own else os.cpu_count() or 1
        return max(1, min(_MOST_COLLECTORS, count - 1))

    def share(self, labels: int) -> float:
        """Return the planner's share of the driving after so many labels, 0 to 1."""
        return max(self.least_share, float(0.5 ** (labels / self.halving)))


class Source(Protocol):
    """Gives labels, and is told of better executors."""

    @property
    def restarts(self) -> int:
        """How often what collects had to be started again."""

    @property
    def dropped(self) -> int:
        """How many labels found no room on their way."""

    def take(self) -> list[Labels]:
        """Return the labels that are there, without waiting for more."""

    def update(self, executor: Executor, share: float) -> None:
        """Let `executor` drive from now on, and the planner for a share of the ticks."""

    def returns(self) -> Sequence[float]:
        """Return returns of the last episodes that an executor drove alone."""

    def close(self) -> None:
        """Stop collecting and release everything."""


def longest(environments: int, labels: int | None = None) -> int:
    """How many ticks are collected at a time, at most.

    The planner answers some hundred observations at once in little more time than a few. Where
    `labels` are to be collected in all, that many are a small part of them.
    """
    most = max(1, min(_MOST_TICKS, _ROWS // environments))
    if labels is not None:
        most = min(most, labels // (_PARTS * environments))
    return max(1, most)


@final
class LocalSource:
    """Collects in this process, `ticks` of all environments at a `take`, or for some `seconds`.

    Without seconds a distillation repeats itself exactly under the same seed; while a planner takes
    long for its stretch of ticks, a `take` gives nothing now and then. It is a `Source`.

    Args:
        collector: Steps the environments.
        executor: The executor to begin with.
        seconds: For how long a `take` goes on; 0 for one stretch of ticks.
        ticks: How many are collected at a time; with seconds, at most, so that slow planners keep
            nobody waiting.
    """

    restarts = dropped = 0

    def __init__(
        self, collector: Collector, executor: Executor, seconds: float = 0.0, ticks: int = 1
    ) -> None:
        """Let the planner drive alone at first."""
        self._collector, self._executor = collector, executor.policy
        self._share, self._seconds = 1.0, seconds
        self._most = ticks
        self._ticks = 1 if seconds else ticks
        self._fault: AgentkdError | None = None
        self._under_way: Iterator[Collected | None] | None = None

    def take(self) -> list[Labels]:
        """Move every environment by some ticks, or by as many as there is time for.

        What was collected before a fault is returned; the next call raises it.
        """
        if self._fault is not None:
            raise self._fault
        began = time.monotonic()
        if not self._seconds:
            return self._go_on(began + _PAUSE)
        found = [self._collect()]
        while (passed := time.monotonic() - began) < self._seconds:
            if passed < self._seconds / 2:
                self._ticks = min(self._most, 2 * self._ticks)
            try:
                found.append(self._collect())
            except AgentkdError as error:
                self._fault = error
                break
        if time.monotonic() - began > 2 * self._seconds:
            self._ticks = max(1, self._ticks // 2)
        return found

    def _go_on(self, until: float) -> list[Labels]:
        """Go on with a stretch of ticks; return its labels, or nothing if it takes longer."""
        steps = self._under_way
        if steps is None:
            steps = self._collector.steps(self._executor, self._share, self._ticks)
        self._under_way = None
        for found in steps:
            if found is not None:
                return [found.labels]
            if time.monotonic() >= until:
                self._under_way = steps
                break
        return []

    def _collect(self) -> Labels:
        return self._collector.step(self._executor, self._share, self._ticks).labels

    def update(self, executor: Executor, share: float) -> None:
        """Let `executor` drive from now on, and the planner for a share of the ticks."""
        self._executor = (compile_native(executor) or executor).policy
        self._share = share

    def returns(self) -> Sequence[float]:
        """Return returns of the executor's own last episodes."""
        return tuple(self._collector.recent)

    def close(self) -> None:
        """Close the environments."""
        self._collector.close()


class _Places:
    """Where the labels of one source are among those of several."""

    def __init__(self) -> None:
        self._count = 0
        # Of each batch, the number of its first label in the source's own order and in all.
        self._own: list[int] = []
        self._all: list[int] = []

    def joined(self, labels: Labels, at: int) -> Labels:
        """Return a batch, whose first label is number `at` of all, with links that count all."""
        obs, dist, link = labels
        self._own.append(self._count)
        self._all.append(at)
        number = self._count + np.arange(len(obs))
        self._count += len(obs)
        if link is None:
            return labels
        before = number - np.maximum(link, 0)
        batch = np.searchsorted(self._own, before, "right") - 1
        own, there = np.array(self._own)[batch], np.array(self._all)[batch]
        back = number - self._own[-1] + at - (before - own + there)
        while len(self._own) > 1 and self._own[1] < self._count - _FAR:
            del self._own[0], self._all[0]
        return Labels(obs, dist, np.where(link > 0, back, link).astype(np.int32))


@final
class Several:
    """Takes labels from several sources. It is a `Source`.

    Args:
        sources: They are closed together.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._places = [_Places() for _ in sources]
        self._taken = 0

    @property
    def restarts(self) -> int:
        """How often what collects had to be started again."""
        return sum(each.restarts for each in self._sources)

    @property
    def dropped(self) -> int:
        """How many labels found no room on their way."""
        return sum(each.dropped for each in self._sources)

    def take(self) -> list[Labels]:
        """Return the labels of all that are there, without waiting for more."""
        found: list[Labels] = []
        for source, places in zip(self._sources, self._places, strict=True):
            for labels in source.take():
                found.append(places.joined(labels, self._taken))
                self._taken += len(labels.obs)
        return found

    def update(self, executor: Executor, share: float) -> None:
        """Let `executor` drive from now on, and the planner for a share of the ticks."""
        for each in self._sources:
            each.update(executor, share)

    def returns(self) -> Sequence[float]:
        """Return returns of the last episodes that an executor drove alone."""
        return [value for each in self._sources for value in each.returns()]

    def close(self) -> None:
        """Stop all of them."""
        for each in self._sources:
            each.close()


@final
class HeadStart:
    """Collects here until a source that takes time to start gives labels.

    What fails here is left to the other source, which says why. It is a `Source`.

    Args:
        here: Makes a source that collects in this process.
        there: The source that takes time to start.
    """

    def __init__(self, here: Callable[[], Source], there: Source) -> None:
        self._there = there
        self._here: Source | None = None
        try:
            self._here = here()
        except Exception as error:  # an environment of a user's may raise anything
            log.info("No labels from this process: %s", error)

    @property
    def restarts(self) -> int:
        """How often what collects had to be started again."""
        return self._there.restarts

    @property
    def dropped(self) -> int:
        """How many labels found no room on their way."""
        return self._there.dropped

    def take(self) -> list[Labels]:
        """Return what is there; as long as that is nothing, some labels from here."""
        labels = self._there.take()
        if labels:
            self._stop()
            return labels
        if self._here is None:
            return []
        since = time.monotonic()
        try:
            labels = self._here.take()
        except AgentkdError as error:
            log.info("No more labels from this process: %s", error)
            self._stop()
        if time.monotonic() - since > _SLOW:
            self._stop()
        return labels

    def update(self, executor: Executor, share: float) -> None:
        """Let `executor` drive from now on, and the planner for a share of the ticks."""
        self._there.update(executor, share)
        if self._here is not None:
            self._here.update(executor, share)

    def returns(self) -> Sequence[float]:
        """Return returns of the last episodes that an executor drove alone."""
        return self._there.returns()

    def close(self) -> None:
        """Stop both."""
        self._stop()
        self._there.close()

    def _stop(self) -> None:
        if self._here is not None:
            self._here.close()
            self._here = None
