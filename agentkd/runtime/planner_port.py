"""Where a planner is asked and heard, without ever being waited for."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, final, runtime_checkable

from agentkd.errors import ConfigError, PlannerError
from agentkd.runtime.codec import Answer, Seen
from agentkd.runtime.ring import LabelRing
from agentkd.runtime.thinking import Thinker, Thought
from agentkd.spec import Spec
from agentkd.types import Floats, Policy, RecurrentPolicy

log = logging.getLogger(__name__)

BACKLOG = 256
"""How many observations wait for a busy planner, by default."""


@dataclass(frozen=True, slots=True)
class PlannerCounts:
    """What a planner did so far.

    Attributes:
        labels: Observations that it labelled.
        unlabelled: Observations that it could not be asked about: the backlog was full.
        errors: Requests that raised or were answered with something unfit.
        restarts: Starts after the first, by cause.
        error: What the last failure said.
    """

    labels: int = 0
    unlabelled: int = 0
    errors: int = 0
    restarts: Mapping[str, int] = field(default_factory=dict)
    error: str = ""


@runtime_checkable
class PlannerPort(Protocol):
    """A planner as a tick sees it. `submit` and `poll` never wait for it."""

    def open(self, spec: Spec, ring: LabelRing | None) -> None:
        """Start.

        Args:
            spec: The environment.
            ring: Where labels go; None where nobody learns.
        """
        ...

    def await_ready(self) -> None:
        """Return when the planner can be asked.

        Raises:
            WorkerError: If it cannot be started.
        """
        ...

    def submit(self, tick: int, epoch: int, obs: Floats) -> None:
        """Hand an observation (obs,) over, once each tick; it is copied."""
        ...

    def poll(self, tick: int, /) -> Sequence[Answer]:
        """Take the answers that came since the last time, oldest first."""
        ...

    def supervise(self) -> None:
        """Look after whatever runs in the background; not on the tick's way."""
        ...

    def counts(self) -> PlannerCounts:
        """What happened so far."""
        ...

    def close(self) -> None:
        """End, and leave nothing running."""
        ...


def check_backlog(backlog: int) -> int:
    """Give the length of a backlog back if it can be one."""
    if backlog < 0:
        raise ConfigError(f"backlog is {backlog}; it has to be at least 0.")
    return backlog


def report_error(count: int, text: str) -> None:
    """Log the first error, the second, the fourth, the eighth, and so on."""
    if count & (count - 1) == 0:
        log.warning("The planner failed %d times: %s", count, text)


@final
class InlinePlanner:
    """A planner asked on the tick itself, whose answer is held back for some ticks.

    It is deterministic and belongs with a virtual clock. One request is in flight at a
    time; the next takes the observation of the tick at which its answer came.

    Args:
        policy: The planner.
        latency_ticks: An answer to tick t is out at t + latency; 0 means at once.
        backlog: How many observations between two requests become labels.
    """

    def __init__(
        self,
        policy: Policy | RecurrentPolicy,
        *,
        latency_ticks: int = 0,
        backlog: int = BACKLOG,
    ) -> None:
        """Take the planner."""
        if latency_ticks < 0:
            raise ConfigError(f"A latency of {latency_ticks} ticks cannot be.")
        self._policy = policy
        self._latency = latency_ticks
        self._seen: deque[Seen] = deque(maxlen=check_backlog(backlog) + 1)
        self._due = -1
        self._flight: Thought | None = None
        self._out: list[Answer] = []
        self._labels = self._unlabelled = self._errors = 0
        self._error = ""

    def open(self, spec: Spec, ring: LabelRing | None) -> None:
        """Get to know the environment and where labels go."""
        self._ring = ring
        self._thinker = Thinker(self._policy, spec, backlog=ring is not None)

    def await_ready(self) -> None:
        """It is ready."""

    def submit(self, tick: int, epoch: int, obs: Floats) -> None:
        """Take an observation; ask the planner if no answer is outstanding."""
        seen = self._seen
        self._unlabelled += len(seen) == seen.maxlen
        seen.append(Seen(tick, epoch, time.monotonic_ns(), obs.copy()))
        self._land(tick)
        if self._flight is not None:
            return
        asked = list(seen)
        seen.clear()
        try:
            self._flight = self._thinker.think(asked)
        except PlannerError as error:
            self._errors += 1
            self._error = str(error)
            report_error(self._errors, self._error)
        else:
            self._due = tick + self._latency
            self._land(tick)

    def _land(self, tick: int) -> None:
        thought = self._flight
        if thought is None or tick < self._due:
            return
        self._flight = None
        self._out.append(thought.answer)
        self._labels += thought.answer.labels
        if self._ring is not None:
            self._ring.push(thought.obs, thought.dist)

    def poll(self, tick: int, /) -> Sequence[Answer]:
        """Take the answer that is due by now."""
        self._land(tick)
        out, self._out = self._out, []
        return out

    def supervise(self) -> None:
        """Nothing runs in the background."""

    def counts(self) -> PlannerCounts:
        """What happened so far."""
        return PlannerCounts(
            self._labels, self._unlabelled, self._errors, {}, self._error
        )

    def close(self) -> None:
        """Nothing runs in the background."""


@final
class ThreadPlanner:
    """A planner in a thread of this process: for those that release the interpreter.

    A planner that runs in Python holds ticks up here, and one that hangs stays; use a
    `ProcessPlanner` unless it mostly waits, for a network or a GPU.

    Args:
        policy: The planner.
        backlog: How many observations between two requests become labels.
    """

    def __init__(
        self, policy: Policy | RecurrentPolicy, *, backlog: int = BACKLOG
    ) -> None:
        """Take the planner; `open` starts the thread."""
        self._policy = policy
        self._seen: deque[Seen] = deque(maxlen=check_backlog(backlog) + 1)
        self._out: deque[Answer] = deque(maxlen=64)
        self._wake: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._labels = self._unlabelled = self._errors = 0
        self._error = ""
        self._thread: threading.Thread | None = None

    def open(self, spec: Spec, ring: LabelRing | None) -> None:
        """Start the thread."""
        thinker = Thinker(self._policy, spec, backlog=ring is not None)
        self._thread = threading.Thread(
            target=self._run, args=(thinker, ring), name="planner", daemon=True
        )
        self._thread.start()

    def await_ready(self) -> None:
        """It is ready."""

    def _run(self, thinker: Thinker, ring: LabelRing | None) -> None:
        while self._wake.get():
            seen = []
            while self._seen:
                seen.append(self._seen.popleft())
            if not seen:
                continue
            try:
                thought = thinker.think(seen)
            except PlannerError as error:
                self._errors += 1
                self._error = str(error)
                report_error(self._errors, self._error)
                continue
            if ring is not None:
                ring.push(thought.obs, thought.dist)
            self._labels += thought.answer.labels
            self._out.append(thought.answer)

    def submit(self, tick: int, epoch: int, obs: Floats) -> None:
        """Take an observation and wake the thread."""
        self._unlabelled += len(self._seen) == self._seen.maxlen
        self._seen.append(Seen(tick, epoch, time.monotonic_ns(), obs.copy()))
        if self._wake.empty():
            self._wake.put(True)

    def poll(self, _tick: int, /) -> Sequence[Answer]:
        """Take the answers that came."""
        out = []
        while self._out:
            out.append(self._out.popleft())
        return out

    def supervise(self) -> None:
        """A thread cannot be helped."""

    def counts(self) -> PlannerCounts:
        """What happened so far."""
        return PlannerCounts(
            self._labels, self._unlabelled, self._errors, {}, self._error
        )

    def close(self) -> None:
        """Ask the thread to end; one that hangs is left to the end of the process."""
        if self._thread is not None:
            self._wake.put(False)
            self._thread.join(1.0)
            self._thread = None
