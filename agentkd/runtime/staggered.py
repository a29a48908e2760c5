"""Several planners asked in turn, so that one that is too slow is none too few.

With a latency of L ticks one planner answers every L ticks; N of them, asked L / N ticks apart,
answer every L / N (Riemer et al. 2025, arXiv 2412.14355, algorithm 1). No answer comes sooner by
that: what is to be hoped for is fresher strategies, not faster ones.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import final

from agentkd.errors import ConfigError
from agentkd.executors.executor import Executor
from agentkd.runtime.codec import Answer, Seen
from agentkd.runtime.planner_port import BACKLOG, PlannerCounts, PlannerPort, check_backlog
from agentkd.runtime.ring import LabelRing
from agentkd.runtime.status import Health
from agentkd.runtime.thinking import Demands
from agentkd.spec import Spec
from agentkd.types import Floats

_WINDOW = 16
_LOOK = 16
"""How often it is looked whether a planner that owes an answer has failed, in ticks."""


def workers_needed(latency: float, period: float) -> int:
    """How many planners answer at each tick: the latency in periods, rounded up.

    Args:
        latency: Of one answer, in seconds.
        period: Of a tick, in seconds.
    """
    if not 0 <= latency < math.inf or not 0 < period < math.inf:
        raise ConfigError(f"latency={latency}, period={period}: seconds, at least 0 and above 0.")
    return max(1, math.ceil(latency / period - 1e-9))


@final
class _Slot:
    """A planner, since when it owes an answer, and whether it raised instead."""

    __slots__ = ("asked", "errors", "port", "raised", "restarts")

    def __init__(self, port: PlannerPort) -> None:
        self.port = port
        self.asked = -1
        self.errors = self.restarts = 0
        self.raised = False

    @property
    def free(self) -> bool:
        """Whether it may be asked; one that raised shows only then that it is well."""
        return self.asked < 0 and (self.port.ready or self.raised)


@final
class Staggered:
    """Planners that take turns. It is a `PlannerPort`.

    Each request goes to a planner that owes no answer, as many ticks after the one before as make
    the answers evenly spaced.

    Args:
        ports: The planners; none of them may have a memory.
        backlog: How many observations between two requests become labels.
    """

    def __init__(self, ports: Sequence[PlannerPort], *, backlog: int = BACKLOG) -> None:
        """Take the planners."""
        if not ports:
            raise ConfigError("Staggered needs at least one planner.")
        self._slots = [_Slot(port) for port in ports]
        self._kept: deque[Seen] = deque(maxlen=check_backlog(backlog))
        self._took: deque[int] = deque(maxlen=_WINDOW)
        self._stride = 1
        self._next = self._unlabelled = 0
        self._labels = False
        self._out: list[Answer] = []

    def open(self, spec: Spec, ring: LabelRing | None, demands: Demands | None = None) -> None:
        """Start all of them."""
        self._labels = ring is not None
        for slot in self._slots:
            slot.port.open(spec, ring, demands)

    @property
    def ready(self) -> bool:
        """Whether one of them can answer."""
        return any(slot.port.ready for slot in self._slots)

    def await_ready(self, timeout: float | None = None) -> None:
        """Return when all of them can be asked.

        Args:
            timeout: Seconds to wait at most, None for as long as a start may take.

        Raises:
            WorkerError: If the start of one fails or takes longer.
        """
        end = time.monotonic() + (math.inf if timeout is None else timeout)
        for slot in self._slots:
            left = end - time.monotonic()
            slot.port.await_ready(None if timeout is None else max(0.0, left))

    def submit(
        self,
        tick: int,
        episode: int,
        obs: Floats,
        lead: int = 0,
        committed: Floats | None = None,
        *,
        more: bool = False,
    ) -> None:
        """Send the observation to the next free planner, if it is time for one."""
        self._collect(tick)
        if tick % _LOOK == 0:
            self._forgive()
        slot = None
        if tick >= self._next and not more:
            slot = next((one for one in self._slots if one.free), None)
        if slot is None:
            if self._labels:
                self._unlabelled += len(self._kept) == self._kept.maxlen
                seen = Seen(tick, episode, time.monotonic_ns(), obs.copy())
                self._kept.append(seen)
            return
        slot.asked, slot.raised = tick, False
        self._next = tick + self._stride
        for seen in self._kept:
            slot.port.submit(seen.tick, seen.episode, seen.obs, more=True)
        self._kept.clear()
        slot.port.submit(tick, episode, obs, lead, committed)

    def _forgive(self) -> None:
        """Let a planner that failed be asked again: its answer never comes."""
        for slot in self._slots:
            if slot.asked < 0:
                continue
            counts = slot.port.counts()
            errors, restarts = counts.errors, sum(counts.restarts.values())
            if (errors, restarts) != (slot.errors, slot.restarts):
                slot.asked, slot.raised = -1, errors > slot.errors
                slot.errors, slot.restarts = errors, restarts

    def poll(self, tick: int, /) -> Sequence[Answer]:
        """Take the answers that came, oldest observation first."""
        self._collect(tick)
        found, self._out = self._out, []
        found.sort(key=lambda answer: (answer.origin, answer.part))
        return found

    def _collect(self, tick: int) -> None:
        for slot in self._slots:
            for answer in slot.port.poll(tick):
                if not answer.partial and answer.origin >= slot.asked >= 0:
                    self._note(tick - answer.origin)
                    slot.asked = -1
                self._out.append(answer)

    def _note(self, ticks: int) -> None:
        self._took.append(ticks)
        middle = sorted(self._took)[len(self._took) // 2]
        self._stride = max(1, -(-middle // len(self._slots)))

    def follow(self, executor: Executor) -> None:
        """Tell all of them of another executor."""
        for slot in self._slots:
            slot.port.follow(executor)

    def supervise(self) -> None:
        """Look after all of them."""
        for slot in self._slots:
            slot.port.supervise()

    def counts(self) -> PlannerCounts:
        """What all of them did; the mean of how busy they were."""
        each = [slot.port.counts() for slot in self._slots]
        return PlannerCounts(
            labels=sum(one.labels for one in each),
            unlabelled=sum(one.unlabelled for one in each) + self._unlabelled,
            errors=sum(one.errors for one in each),
            restarts=_summed([one.restarts for one in each]),
            error=next((one.error for one in each if one.error), ""),
            busy=sum(one.busy for one in each) / len(each),
            health=_health([one.health for one in each]),
        )

    def close(self) -> None:
        """End all of them."""
        for slot in self._slots:
            slot.port.close()


def _health(each: Sequence[Health]) -> Health:
    """Return "ready" where one of them is, else how the first one is."""
    ready = any(one.state == "ready" for one in each)
    return Health(
        "ready" if ready else each[0].state,
        sum(one.starts_failed for one in each),
        sum(one.raised for one in each),
    )


def _summed(each: Sequence[Mapping[str, int]]) -> dict[str, int]:
    out: dict[str, int] = {}
    for restarts in each:
        for cause, count in restarts.items():
            out[cause] = out.get(cause, 0) + count
    return out
