"""Planners in this process: asked on the tick, or in a thread beside it."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import final

from agentkd.errors import PlannerError, check_range
from agentkd.executors.executor import Executor
from agentkd.printable import logger
from agentkd.runtime.codec import Answer, Seen
from agentkd.runtime.planner import (
    BACKLOG,
    AnyPolicy,
    PlannerCounts,
    PlannerPort,
    check_backlog,
    newest_heard,
)
from agentkd.runtime.query import Demands, PlannerQuery, Reply
from agentkd.runtime.workers.channels import LabelRing
from agentkd.spec import Spec

log = logger(__name__)


class _InProcess(PlannerPort):
    """A planner of this process: observations in, counts out."""

    def __init__(self, policy: AnyPolicy, backlog: int) -> None:
        self._policy = policy
        self._seen: deque[Seen] = deque(maxlen=check_backlog(backlog) + 1)
        self._labels = self._unlabelled = self._errors = self._heard = 0
        self._error = ""
        self._query: PlannerQuery | None = None
        self._ring: LabelRing | None = None

    def open(self, spec: Spec, ring: LabelRing | None, demands: Demands | None = None) -> None:
        """Get to know the environment and where labels go."""
        labels = ring is not None
        self._query = PlannerQuery(self._policy, spec, backlog=labels, demands=demands)
        self._ring = ring

    def follow(self, executor: Executor) -> None:
        """Let another executor act while the planner thinks."""
        if self._query is not None:
            self._query.follow(executor)

    def _keep(self, seen: Seen, before: Sequence[Seen]) -> None:
        """Keep observations until the planner takes them."""
        for each in (*before, seen):
            self._unlabelled += len(self._seen) == self._seen.maxlen
            self._seen.append(each._replace(obs=each.obs.copy(), heard=self._heard))

    def _hand_out(self, reply: Reply) -> Answer:
        """Pass the labels on, and count them; return the answer."""
        answer, labels = reply
        if self._ring is not None and labels is not None:
            self._ring.push(*labels)
        self._labels += answer.labels
        return answer

    def _failed(self, error: PlannerError) -> None:
        """Log the first error, the second, the fourth, the eighth, and so on."""
        self._errors += 1
        self._error = str(error)
        if self._errors & (self._errors - 1) == 0:
            log.warning("The planner failed %d times: %s", self._errors, error)

    def _counts(self, busy: float) -> PlannerCounts:
        """Return the counts; of a remote planner also its lost connections."""
        restarts = dict(getattr(self._policy, "restarts", {}))
        return PlannerCounts(
            self._labels, self._unlabelled, self._errors, restarts, self._error, busy
        )


@final
class InlinePlanner(_InProcess):
    """A planner asked on the tick itself, whose answer is held back for some ticks.

    It is deterministic and belongs with a virtual clock. One request is in flight at a time; the
    next takes the observation of the tick at which its answer came. Of an anytime planner's n
    answers the i-th is out after i/n of the latency.

    Args:
        policy: The planner.
        latency_ticks: An answer to tick t is out at t + latency; 0 means at once. A function gives
            it for each request, counted from 1.
        after: Whether an answer is out just after the tick that it is due at, as on a wall clock:
            the planner takes its next observation before the agent hears the answer.
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
        if not callable(latency_ticks):
            check_range("latency_ticks", latency_ticks, least=0)
        super().__init__(policy, backlog)
        self._late, self._after = latency_ticks, after
        self._flight: deque[tuple[int, Reply]] = deque()
        self._out: list[tuple[int, Answer]] = []
        self._requests = self._ticks = self._busy = 0

    def delay(self, ticks: int) -> None:
        """Hold the answers to requests from now on back for so many ticks."""
        check_range("ticks", ticks, least=0, whole=True)
        self._late = ticks

    def submit(self, seen: Seen, before: Sequence[Seen] = ()) -> None:
        """Take an observation; ask the planner if no answer is outstanding."""
        self._land(seen.tick)
        self._leave(seen.episode)
        self._keep(seen, before)
        self._ticks += 1
        assert self._query is not None
        if not self._flight and self._query.may_ask(self._seen[-1]):
            self._ask(seen.tick)
        self._busy += bool(self._flight)

    def _ask(self, tick: int) -> None:
        asked = list(self._seen)
        self._seen.clear()
        assert self._query is not None
        try:
            *partial, last = self._query.replies(asked)
        except PlannerError as error:
            self._failed(error)
            return
        self._requests += 1
        latency = self._late(self._requests) if callable(self._late) else self._late
        # The last partial answer is the whole one.
        partial = partial[:-1]
        for number, reply in enumerate((*partial, last), 1):
            after = -(-latency * number // (len(partial) + 1))
            self._flight.append((tick + after, reply))
        self._land(tick)

    def _leave(self, episode: int) -> None:
        """Leave an anytime planner in the middle when its episode is over."""
        anytime = self._query is not None and self._query.anytime
        if anytime and self._flight and self._flight[0][1][0].episode != episode:
            self._heard = self._flight[-1][1][0].id  # it never comes
            self._flight.clear()

    def _land(self, tick: int) -> None:
        while self._flight and tick >= self._flight[0][0]:
            self._out.append((tick, self._hand_out(self._flight.popleft()[1])))

    def poll(self, tick: int, /) -> Sequence[Answer]:
        """Take the answers that are due by now."""
        last = tick - 1 if self._after else tick
        self._land(last)
        out = [answer for landed, answer in self._out if landed <= last]
        self._out = [each for each in self._out if each[0] > last]
        self._heard = newest_heard(out, self._heard)
        return out

    def counts(self) -> PlannerCounts:
        """Return what happened so far."""
        return self._counts(self._busy / max(1, self._ticks))


@final
class ThreadPlanner(_InProcess):
    """A planner in a thread of this process: for those that release the interpreter.

    A planner that runs in Python holds ticks up here, and one that hangs stays; use a
    `ProcessPlanner` unless it mostly waits, for a network or a GPU. `backlog` is how many
    observations between two requests become labels.
    """

    def __init__(self, policy: AnyPolicy, *, backlog: int = BACKLOG) -> None:
        super().__init__(policy, backlog)
        self._out: deque[Answer] = deque(maxlen=64)
        self._wake: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._thought, self._closing, self._failing = 0.0, False, False
        self._opened = time.monotonic()

    def open(self, spec: Spec, ring: LabelRing | None, demands: Demands | None = None) -> None:
        """Start the thread."""
        # An earlier run may have told it to give up.
        resume = getattr(self._policy, "resume", None)
        if callable(resume):
            resume()
        super().open(spec, ring, demands)
        self._opened = time.monotonic()
        self._thread = threading.Thread(
            target=self._run, args=(self._query,), name="planner", daemon=True
        )
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether its last answer was one, and no error."""
        return not self._failing

    def _run(self, query: PlannerQuery) -> None:
        seen: list[Seen] = []
        while self._wake.get():
            seen += [self._seen.popleft() for _ in range(len(self._seen))]
            if not seen or not query.may_ask(seen[-1]):
                continue
            asked, seen = seen, []
            try:
                for reply in query.replies(asked):
                    answer = self._hand_out(reply)
                    self._out.append(answer)
                    if not answer.partial:
                        self._thought += answer.thinking
                    elif self._over(answer):
                        break
                self._failing = False
            except PlannerError as error:
                self._failing = True
                self._failed(error)

    def _over(self, answer: Answer) -> bool:
        """Return whether the episode of an answer is over, or the planner closed."""
        if self._closing:
            return True
        try:
            return self._seen[-1].episode != answer.episode
        except IndexError:
            return False

    def submit(self, seen: Seen, before: Sequence[Seen] = ()) -> None:
        """Take an observation and wake the thread."""
        self._keep(seen, before)
        if self._wake.empty():
            self._wake.put(True)

    def poll(self, _tick: int, /) -> Sequence[Answer]:
        """Take the answers that came."""
        # The thread may add more meanwhile.
        out = [self._out.popleft() for _ in range(len(self._out))]
        self._heard = newest_heard(out, self._heard)
        return out

    def counts(self) -> PlannerCounts:
        """Return what happened so far."""
        passed = max(1e-9, time.monotonic() - self._opened)
        return self._counts(min(1.0, self._thought / passed))

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
