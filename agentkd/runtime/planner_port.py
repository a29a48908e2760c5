"""Where a planner is asked and heard, without ever being waited for."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, final, runtime_checkable

from agentkd.errors import ConfigError, PlannerError
from agentkd.executors.executor import Executor
from agentkd.printable import logger
from agentkd.runtime.codec import Answer, Seen
from agentkd.runtime.ring import LabelRing
from agentkd.runtime.status import Health
from agentkd.runtime.thinking import Demands, Thinker, Thought
from agentkd.spec import Spec
from agentkd.types import Floats, GuidingPolicy, Policy, RecurrentPolicy

log = logger(__name__)

AnyPolicy = Policy | RecurrentPolicy | GuidingPolicy
BACKLOG = 256
"""How many observations wait for a busy planner, by default."""


@dataclass(frozen=True, slots=True)
class PlannerCounts:
    """What a planner did so far.

    Attributes:
        labels: Observations that it labelled.
        unlabelled: Observations that it could not be asked about: the backlog was full.
        errors: Requests that raised or were answered with something unfit.
        restarts: Starts after the first, by cause; lost connections under "lost".
        error: What the last failure said.
        busy: The share of the time that it spent thinking, 0 to 1.
        health: Whether it is ready, and how its starts went.
    """

    labels: int = 0
    unlabelled: int = 0
    errors: int = 0
    restarts: Mapping[str, int] = field(default_factory=dict)
    error: str = ""
    busy: float = 0.0
    health: Health = field(default_factory=Health)


@runtime_checkable
class PlannerPort(Protocol):
    """A planner as a tick sees it. `submit` and `poll` never wait for it."""

    def open(self, spec: Spec, ring: LabelRing | None, demands: Demands | None = None) -> None:
        """Start, and return without waiting for the planner.

        Args:
            spec: The environment.
            ring: Where labels go; None where nobody learns.
            demands: What is wanted besides answers.
        """
        ...

    @property
    def ready(self) -> bool:
        """Whether the planner can answer. It is read on the tick."""
        ...

    def await_ready(self, timeout: float | None = None) -> None:
        """Return when the planner can be asked.

        Args:
            timeout: Seconds to wait at most, None for as long as a start may take.

        Raises:
            WorkerError: If its start fails or takes longer.
        """
        ...

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
        """Hand an observation over, once each tick; it is copied.

        Args:
            tick: The tick.
            episode: The episode.
            obs: (obs,).
            lead: Ticks by which it is to be rolled forward first.
            committed: What is done at the ticks from this one on, as far as that is known, flat,
                (ticks, width).
            more: Whether a newer observation follows at once.
        """
        ...

    def follow(self, executor: Executor) -> None:
        """Take note of the executor that acts from now on; not on the tick's way."""
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


def newest_heard(answers: Sequence[Answer], before: int) -> int:
    """Return the number of the newest whole answer; `before` if there is none."""
    whole = [answer.id for answer in answers if not answer.partial]
    return whole[-1] if whole else before


@final
class InlinePlanner:
    """A planner asked on the tick itself, whose answer is held back for some ticks.

    It is deterministic and belongs with a virtual clock. One request is in flight at a time; the
    next takes the observation of the tick at which its answer came. Of an anytime planner's n
    answers the i-th is out after i/n of the latency.

    Args:
        policy: The planner.
        latency_ticks: An answer to tick t is out at t + latency; 0 means at once. A function gives
            it for each request, counted from 1.
        after: Whether an answer is out just after the tick that it is due at, as on a wall clock,
            instead of at it: the planner takes its next observation before the agent hears the
            answer.
        backlog: How many observations between two requests become labels.
    """

    def __init__(
        self,
        policy: AnyPolicy,
        *,
        latency_ticks: int | Callable[[int], int] = 0,
        after: bool = False,
        backlog: int = BACKLOG,
    ) -> None:
        """Take the planner."""
        if not callable(latency_ticks) and latency_ticks < 0:
            raise ConfigError(f"A latency of {latency_ticks} ticks cannot be.")
        self._policy = policy
        self._late, self._after = latency_ticks, after
        self._done: list[tuple[int, Answer]] = []
        self._requests = self._heard = 0
        self._seen: deque[Seen] = deque(maxlen=check_backlog(backlog) + 1)
        self._flight: deque[tuple[int, Thought]] = deque()
        self._out: list[Answer] = []
        self._labels = self._unlabelled = self._errors = 0
        self._ticks = self._busy = 0
        self._error = ""
        self._thinker: Thinker | None = None

    def open(self, spec: Spec, ring: LabelRing | None, demands: Demands | None = None) -> None:
        """Get to know the environment and where labels go."""
        self._ring = ring
        self._thinker = Thinker(self._policy, spec, backlog=ring is not None, demands=demands)

    @property
    def ready(self) -> bool:
        """It is ready."""
        return True

    def await_ready(self, timeout: float | None = None) -> None:
        """It is ready."""

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
        """Take an observation; ask the planner if no answer is outstanding."""
        self._land(tick)
        self._leave(episode)
        seen = self._seen
        self._unlabelled += len(seen) == seen.maxlen
        now = time.monotonic_ns()
        seen.append(Seen(tick, episode, now, obs.copy(), lead, committed, self._heard))
        self._ticks += not more
        assert self._thinker is not None
        if not self._flight and not more and self._thinker.may_ask(seen[-1]):
            self._ask(tick)
        self._busy += bool(self._flight)

    def _ask(self, tick: int) -> None:
        asked = list(self._seen)
        self._seen.clear()
        assert self._thinker is not None
        try:
            thoughts = list(self._thinker.thoughts(asked))
        except PlannerError as error:
            self._errors += 1
            self._error = str(error)
            report_error(self._errors, self._error)
            return
        *partial, last = thoughts
        self._requests += 1
        late = self._late
        latency = late(self._requests) if callable(late) else late
        # The last partial answer is the whole one.
        partial = partial[:-1]
        for number, thought in enumerate(partial, 1):
            after = -(-latency * number // (len(partial) + 1))
            self._flight.append((tick + after, thought))
        self._flight.append((tick + latency, last))
        self._land(tick)

    def _leave(self, episode: int) -> None:
        """Leave an anytime planner in the middle when its episode is over."""
        anytime = self._thinker is not None and self._thinker.anytime
        if anytime and self._flight and self._flight[0][1].answer.episode != episode:
            self._heard = self._flight[-1][1].answer.id  # it never comes
            self._flight.clear()

    def _land(self, tick: int) -> None:
        flight = self._flight
        while flight and tick >= flight[0][0]:
            _, thought = flight.popleft()
            if self._after:
                self._done.append((tick, thought.answer))
            else:
                self._out.append(thought.answer)
            self._labels += thought.answer.labels
            if self._ring is not None and thought.dist is not None:
                self._ring.push(thought.obs, thought.dist)

    def poll(self, tick: int, /) -> Sequence[Answer]:
        """Take the answers that are due by now."""
        if self._after:
            self._land(tick - 1)
            self._out += [answer for due, answer in self._done if due < tick]
            self._done = [each for each in self._done if each[0] >= tick]
        else:
            self._land(tick)
        out, self._out = self._out, []
        self._heard = newest_heard(out, self._heard)
        return out

    def follow(self, executor: Executor) -> None:
        """Let another executor act while the planner thinks."""
        if self._thinker is not None:
            self._thinker.follow(executor)

    def supervise(self) -> None:
        """Nothing runs in the background."""

    def counts(self) -> PlannerCounts:
        """What happened so far."""
        return PlannerCounts(
            self._labels,
            self._unlabelled,
            self._errors,
            {},
            self._error,
            self._busy / max(1, self._ticks),
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

    def __init__(self, policy: AnyPolicy, *, backlog: int = BACKLOG) -> None:
        """Take the planner; `open` starts the thread."""
        self._policy = policy
        self._seen: deque[Seen] = deque(maxlen=check_backlog(backlog) + 1)
        self._out: deque[Answer] = deque(maxlen=64)
        self._wake: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._labels = self._unlabelled = self._errors = self._heard = 0
        self._error = ""
        self._thread: threading.Thread | None = None
        self._thinker: Thinker | None = None
        self._thought, self._closing, self._failing = 0.0, False, False
        self._opened = time.monotonic()

    def open(self, spec: Spec, ring: LabelRing | None, demands: Demands | None = None) -> None:
        """Start the thread."""
        # An earlier run may have told it to give up.
        resume = getattr(self._policy, "resume", None)
        if callable(resume):
            resume()
        self._thinker = Thinker(self._policy, spec, backlog=ring is not None, demands=demands)
        self._opened = time.monotonic()
        self._thread = threading.Thread(
            target=self._run, args=(self._thinker, ring), name="planner", daemon=True
        )
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether its last answer was one, and no error."""
        return not self._failing

    def await_ready(self, timeout: float | None = None) -> None:
        """It is ready."""

    def _run(self, thinker: Thinker, ring: LabelRing | None) -> None:
        seen: list[Seen] = []
        while self._wake.get():
            while self._seen:
                seen.append(self._seen.popleft())
            if not seen or not thinker.may_ask(seen[-1]):
                continue
            asked, seen = seen, []
            try:
                for thought in thinker.thoughts(asked):
                    self._hand_out(thought, ring)
                    if thought.answer.partial and self._over(thought.answer):
                        break
                self._failing = False
            except PlannerError as error:
                self._failing = True
                self._errors += 1
                self._error = str(error)
                report_error(self._errors, self._error)

    def _hand_out(self, thought: Thought, ring: LabelRing | None) -> None:
        if ring is not None and thought.dist is not None:
            ring.push(thought.obs, thought.dist)
        if not thought.answer.partial:
            self._thought += thought.answer.thinking
        self._labels += thought.answer.labels
        self._out.append(thought.answer)

    def _over(self, answer: Answer) -> bool:
        """Whether the episode that is thought about is over, or everything is."""
        if self._closing:
            return True
        try:
            return self._seen[-1].episode != answer.episode
        except IndexError:
            return False

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
        """Take an observation and wake the thread."""
        self._unlabelled += len(self._seen) == self._seen.maxlen
        now = time.monotonic_ns()
        self._seen.append(Seen(tick, episode, now, obs.copy(), lead, committed, self._heard))
        if self._wake.empty() and not more:
            self._wake.put(True)

    def poll(self, _tick: int, /) -> Sequence[Answer]:
        """Take the answers that came."""
        out = []
        while self._out:
            out.append(self._out.popleft())
        self._heard = newest_heard(out, self._heard)
        return out

    def follow(self, executor: Executor) -> None:
        """Let another executor act while the planner thinks."""
        if self._thinker is not None:
            self._thinker.follow(executor)

    def supervise(self) -> None:
        """A thread cannot be helped."""

    def counts(self) -> PlannerCounts:
        """What happened so far; of a remote planner also its lost connections."""
        passed = max(1e-9, time.monotonic() - self._opened)
        return PlannerCounts(
            self._labels,
            self._unlabelled,
            self._errors,
            dict(getattr(self._policy, "restarts", {})),
            self._error,
            min(1.0, self._thought / passed),
        )

    def close(self) -> None:
        """Ask the thread to end; one that hangs is left to the end of the process."""
        self._closing = True
        if self._thread is not None:
            self._wake.put(False)
            # A planner that waits for a network gives up.
            interrupt = getattr(self._policy, "interrupt", None)
            if callable(interrupt):
                interrupt()
            self._thread.join(1.0)
            self._thread = None
