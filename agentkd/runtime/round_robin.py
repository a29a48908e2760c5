"""Round-robin over planners so that answers come often enough.

With a latency of L ticks one planner answers every L ticks; N of them, asked L / N ticks apart,
answer every L / N (Riemer et al. 2025, arXiv 2412.14355, algorithm 1). No answer comes sooner, but
strategies are fresher.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import final

from agentkd.errors import ConfigError, check_range
from agentkd.executors.executor import Executor
from agentkd.runtime.codec import Answer, Seen
from agentkd.runtime.planner import BACKLOG, PlannerCounts, PlannerPort, check_backlog
from agentkd.runtime.query import Demands
from agentkd.runtime.workers.channels import Health, LabelRing
from agentkd.spec import Spec

_LOOK = 16
"""Ticks between two checks whether a planner that owes an answer has failed."""


def workers_needed(latency: float, period: float) -> int:
    """Return how many planners answer at each tick: latency / period, rounded up."""
    check_range("latency", latency, least=0, below=math.inf)
    check_range("period", period, above=0, below=math.inf)
    return max(1, math.ceil(latency / period - 1e-9))


@final
class _Slot:
    """A planner, since when it owes an answer, and whether it raised instead."""

    def __init__(self, port: PlannerPort) -> None:
        self.port = port
        self.asked, self.raised = -1, False
        self.errors = self.restarts = 0

    @property
    def free(self) -> bool:
        """Whether it may be asked; one that raised shows only then that it is well."""
        return self.asked < 0 and (self.port.ready or self.raised)


@final
class Staggered(PlannerPort):
    """Planners that take turns; none of them may have a memory.

    Each request goes to a planner that owes no answer, as many ticks after the one before as make
    the answers evenly spaced. At most `backlog` observations between two requests become labels.
    """

    def __init__(self, ports: Sequence[PlannerPort], *, backlog: int = BACKLOG) -> None:
        if not ports:
            raise ConfigError("Staggered needs at least one planner.")
        self._slots = [_Slot(port) for port in ports]
        self._kept: deque[Seen] = deque(maxlen=check_backlog(backlog))
        self._took: deque[int] = deque(maxlen=16)
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
        """Return when all of them can be asked; see `Port.await_ready`."""
        end = time.monotonic() + (math.inf if timeout is None else timeout)
        for slot in self._slots:
            left = end - time.monotonic()
            slot.port.await_ready(None if timeout is None else max(0.0, left))

    def submit(self, seen: Seen, before: Sequence[Seen] = ()) -> None:
        """Send the observation to the next free planner, if it is time for one."""
        tick = seen.tick
        self._collect(tick)
        if tick % _LOOK == 0:
            self._forgive()
        slot = None
        if tick >= self._next:
            slot = next((one for one in self._slots if one.free), None)
        if self._labels:
            for each in before if slot else (*before, seen):
                self._unlabelled += len(self._kept) == self._kept.maxlen
                kept = each._replace(obs=each.obs.copy(), lead=0, committed=None)
                self._kept.append(kept)
        if slot is None:
            return
        slot.asked, slot.raised = tick, False
        self._next = tick + self._stride
        slot.port.submit(seen, tuple(self._kept))
        self._kept.clear()

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
                    self._took.append(tick - answer.origin)
                    middle = sorted(self._took)[len(self._took) // 2]
                    self._stride = max(1, -(-middle // len(self._slots)))
                    slot.asked = -1
                self._out.append(answer)

    def follow(self, executor: Executor) -> None:
        """Tell all of them of another executor."""
        for slot in self._slots:
            slot.port.follow(executor)

    def supervise(self) -> None:
        """Look after all of them."""
        for slot in self._slots:
            slot.port.supervise()

    def counts(self) -> PlannerCounts:
        """Return what all of them did, and the mean of how busy they were."""
        each = [slot.port.counts() for slot in self._slots]
        restarts = sum((Counter(one.restarts) for one in each), Counter[str]())
        states = [one.health.state for one in each]
        return PlannerCounts(
            labels=sum(one.labels for one in each),
            unlabelled=sum(one.unlabelled for one in each) + self._unlabelled,
            errors=sum(one.errors for one in each),
            restarts=dict.fromkeys(each[0].restarts, 0) | restarts,
            error=next((one.error for one in each if one.error), ""),
            busy=sum(one.busy for one in each) / len(each),
            health=Health(
                "ready" if "ready" in states else states[0],
                sum(one.health.starts_failed for one in each),
                sum(one.health.raised for one in each),
            ),
        )

    def close(self) -> None:
        """End all of them."""
        for slot in self._slots:
            slot.port.close()
