"""Planners as a tick sees them: the port, and the ordinary planner, in a process."""

from __future__ import annotations

import contextlib
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

from agentkd.errors import ConfigError, PlannerError, SpecError, check_range
from agentkd.executors.executor import Executor, interchangeable
from agentkd.runtime import codec
from agentkd.runtime.codec import Answer, Seen, SeenCodec
from agentkd.runtime.goals import Goals, conditioned
from agentkd.runtime.query import Demands, PlannerQuery, Reply
from agentkd.runtime.rollforward import RollForward
from agentkd.runtime.workers import channels
from agentkd.runtime.workers.channels import STOP, Bell, Channel, Health, LabelRing, Mailbox, Status
from agentkd.runtime.workers.host import Child, Host, Patience, Port, Process
from agentkd.spec import ObsSpec, Part, Spec
from agentkd.spec_json import from_json, to_json
from agentkd.types import GuidingPolicy, Policy, RecurrentPolicy

AnyPolicy = Policy | RecurrentPolicy | GuidingPolicy
BACKLOG = 256
"""How many observations wait for a busy planner, by default."""
_ANSWERS = 8
_IDLE = 0.05
"""A worker without work shows a heartbeat this often, in seconds."""
_ENOUGH = 3
"""Errors in a row after which a planner is made anew."""


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


class PlannerPort(Port, ABC):
    """A planner as a tick sees it. `submit` and `poll` never wait for it."""

    @abstractmethod
    def open(self, spec: Spec, ring: LabelRing | None, demands: Demands | None = None) -> None:
        """Start, and return without waiting for the planner.

        Args:
            spec: The environment.
            ring: Where labels go; None if there is no distiller.
            demands: What is wanted besides answers.
        """

    @abstractmethod
    def submit(self, seen: Seen, before: Sequence[Seen] = ()) -> None:
        """Take the observation of a tick, and copy it; the port fills in `heard`.

        `before` are earlier ones that are only to be labelled, oldest first.
        """

    @abstractmethod
    def poll(self, tick: int, /) -> Sequence[Answer]:
        """Take the answers that came since the last call, oldest first."""

    def follow(self, executor: Executor) -> None:
        """Take note of the executor that acts from now on; not on the tick's way."""

    def counts(self) -> PlannerCounts:
        """Return what happened so far."""
        return PlannerCounts()

    def close(self) -> None:
        """End, and leave nothing running."""


def check_backlog(backlog: int) -> int:
    """Return the length of a backlog, or raise ConfigError."""
    check_range("backlog", backlog, least=0, whole=True)
    return backlog


def newest_heard(answers: Sequence[Answer], before: int) -> int:
    """Return the number of the newest whole answer; `before` if there is none."""
    whole = [answer.id for answer in answers if not answer.partial]
    return whole[-1] if whole else before


@final
class ProcessPlanner(PlannerPort):
    """A planner in a spawned process that is started again when it dies or hangs.

    Each tick puts its observation into shared memory. When the planner is free it takes all of
    them, answers the newest, and labels the rest in the same batch, as many as do not make the
    answer later (`BatchLimit`). Labels go from its process into the ring, so the tick copies
    nothing but the observation.

    Args:
        process: What makes the planner, in the other process.
        backlog: How many observations between two requests become labels.
        at_least: Seconds that an answer takes at least, to stand in for a larger model.
        most_rows: The largest horizon that the planner may have.
        patience: How long the process may take.
        alone: Whether it sees every observation. A planner with a memory has to.
    """

    def __init__(
        self,
        process: Process,
        *,
        backlog: int = BACKLOG,
        at_least: float = 0.0,
        most_rows: int = 64,
        patience: Patience | None = None,
        alone: bool = True,
    ) -> None:
        check_range("at_least", at_least, least=0, below=math.inf)
        self._process, self._patience = process, patience
        self._backlog = check_backlog(backlog)
        self._orders = {"at_least": at_least, "most_rows": most_rows, "alone": alone}
        self._most_rows = most_rows
        self._weights: Mailbox | None = None
        self._heard = 0
        self._rolled: Executor | None = None

    def open(self, spec: Spec, ring: LabelRing | None, demands: Demands | None = None) -> None:
        """Lay out the shared memory and start the process."""
        wants = demands or Demands()
        roll, goals = wants.roll, wants.goals
        ahead = roll.most if roll is not None else 0
        self._spec, self._codec = spec, SeenCodec(spec, ahead, wants.shown)
        self._seen = Mailbox(self._codec.bytes, self._backlog + 1)
        goal = goals.size if goals is not None else 0
        self._answers = Mailbox(codec.answer_size(spec, self._most_rows, goal, ahead), _ANSWERS)
        self._bell = Bell()
        self._began, self._thought = time.monotonic(), 0.0
        shared: dict[str, Channel | Bell] = {
            "seen": self._seen,
            "answers": self._answers,
            "bell": self._bell,
        }
        orders = {
            **self._orders,
            "spec": to_json(spec),
            "ahead": ahead,
            "shown": wants.shown,
            "goals": goals and [goals.size, goals.max_age],
            "roll": roll and roll.as_references(),
        }
        if roll is not None and wants.executor is not None:
            self._rolled = wants.executor
            vector = wants.executor.vector()
            self._weights = shared["weights"] = Mailbox(4 * len(vector))
            self._weights.write(codec.encode_weights(vector))
            orders["executor"] = codec.encode_executor(wants.executor)
        self._host = Host(
            "planner",
            self._process,
            f"{__name__}:serve",
            orders,
            shared,
            self._patience,
            lent={} if ring is None else {"labels": ring},
            wake=self._bell.ring,
        )
        self._host.check()

    @property
    def ready(self) -> bool:
        """Whether the planner is loaded and its process is there."""
        return self._host is not None and self._host.ready

    def submit(self, seen: Seen, before: Sequence[Seen] = ()) -> None:
        """Put an observation where the planner finds it."""
        for each in (*before, seen):
            self._seen.write(self._codec.encode(each, self._heard))
        self._bell.ring()

    def poll(self, _tick: int, /) -> Sequence[Answer]:
        """Take the answers that came."""
        if not self._answers.waiting():
            return ()
        found = [codec.decode_answer(each, self._spec) for each in self._answers.take()]
        self._thought += sum(each.thinking for each in found if not each.partial)
        self._heard = newest_heard(found, self._heard)
        return found

    def follow(self, executor: Executor) -> None:
        """Send another executor to act while the planner thinks."""
        if self._weights is None or self._rolled is None:
            return
        if not interchangeable(executor, self._rolled):
            raise SpecError(
                f"The planner's process rolls {self._rolled.architecture} forward and "
                f"takes no {executor.architecture}. Make a new Agent for it."
            )
        self._weights.write(codec.encode_weights(executor.vector()))

    def counts(self) -> PlannerCounts:
        """Return what happened so far."""
        host = self._hosted()
        return PlannerCounts(
            host.status[channels.LABELS],
            host.status[channels.DROPPED],
            host.status[channels.ERRORS],
            dict(host.restarts),
            host.error,
            min(1.0, self._thought / max(1e-9, time.monotonic() - self._began)),
            host.health(),
        )

    def close(self) -> None:
        """End the process and give the shared memory back."""
        if self._host is not None:
            self._host.close()


def serve(child: Child) -> None:
    """Answer observations until told to end; runs in the planner's process.

    Raises:
        PlannerError: After several errors in a row: only a new start may help.
        ConfigError: If the planner does not fit its port.
    """
    orders, status = child.orders, child.status
    spec = from_json(orders["spec"])
    observations = SeenCodec(spec, orders["ahead"], orders["shown"])
    seen, answers = child.mailbox("seen"), child.mailbox("answers")
    bell = Bell.attach(child.shared["bell"])
    weights = child.mailbox("weights") if "weights" in child.shared else None
    query, ring, executor = _query(child, spec, weights)
    # A planner may not like an observation of zeros; real ones will tell.
    with contextlib.suppress(Exception):
        query.warm_up()
    status.set_ready()
    failures = 0
    limit = BatchLimit(seen.slots)
    waiting: list[bytes] = []
    while not status[STOP]:
        status.beat()
        lost = seen.missed
        waiting += seen.take()
        status[channels.DROPPED] += seen.missed - lost + max(0, len(waiting) - seen.slots)
        waiting = waiting[-seen.slots :]
        if not waiting or not query.may_ask(observations.decode(waiting[-1])):
            bell.wait(_IDLE)
            continue
        messages, waiting = waiting, []
        # The oldest are given up: what a slow planner cannot label never delays it. One with a
        # memory needs them all.
        if not query.recurrent:
            status[channels.DROPPED] += max(0, len(messages) - limit.rows)
            messages = messages[-limit.rows :]
        found = weights.take() if weights is not None else []
        if found and executor is not None:
            newest = codec.decode_weights(found[-1])
            executor = executor.with_vector(newest, executor.version + 1)
            query.follow(executor)
        began = time.monotonic()
        asked = [observations.decode(each) for each in messages]
        try:
            reply = _ask(query, asked, seen, observations, answers, status)
        except PlannerError as error:
            failures += 1
            status[channels.ERRORS] += 1
            if failures == _ENOUGH:
                raise
            child.say(f"{type(error).__name__}: {error}")
            continue
        failures = 0
        if reply is None:
            continue
        answer, labels = reply
        limit.note(len(messages), answer.thinking)
        status[channels.DROPPED] += max(0, len(messages) - answer.labels)
        if ring is not None and labels is not None:
            ring.push(*labels)
        status[channels.LABELS] += answer.labels
        answer = _not_before(began, orders["at_least"], answer, status)
        answers.write(codec.encode_answer(answer))


def _query(
    child: Child, spec: Spec, weights: Mailbox | None
) -> tuple[PlannerQuery, LabelRing | None, Executor | None]:
    """Return the query, where labels go, and the executor that acts meanwhile."""
    orders = child.orders
    goals = None if orders["goals"] is None else Goals(*orders["goals"])
    roll = None if orders["roll"] is None else RollForward(**orders["roll"])
    shown = orders["shown"]
    labelled = spec if goals is None else conditioned(spec, goals)
    if shown:
        labelled = replace(spec, obs=ObsSpec((Part("", "box", (shown,), "float32"),)))
    executor: Executor | None = None
    vector = None if weights is None else weights.last()
    if weights is not None and vector is not None:
        numbers = codec.decode_weights(vector)
        executor = codec.decode_executor(orders["executor"], numbers)
        weights.take()
    ring: LabelRing | None = None
    if "labels" in child.shared:
        ring = LabelRing.attach(child.shared["labels"], labelled)
    demands = Demands(roll, goals, executor, shown)
    query = PlannerQuery(child.made, spec, backlog=ring is not None, demands=demands)
    if query.horizon > orders["most_rows"]:
        raise ConfigError(
            f"The planner's horizon is {query.horizon}; give "
            f"ProcessPlanner(most_rows={query.horizon})."
        )
    if query.recurrent and not orders["alone"]:
        raise ConfigError(
            "A planner with a memory has to see every observation; it cannot be one of "
            "several workers. Give workers=1."
        )
    return query, ring, executor


def _ask(
    query: PlannerQuery,
    asked: list[Seen],
    seen: Mailbox,
    observations: SeenCodec,
    answers: Mailbox,
    status: Status,
) -> Reply | None:
    """Ask; partial answers go out at once. None if a new episode ended it."""
    reply = None
    for reply in query.replies(asked):
        answer, _ = reply
        if not answer.partial:
            break
        answers.write(codec.encode_answer(answer))
        status.beat()
        newest = seen.last()
        if newest is not None and observations.decode(newest).episode != answer.episode:
            return None
    return reply


def _not_before(began: float, seconds: float, answer: Answer, status: Status) -> Answer:
    """Hold an answer back until it took so many seconds."""
    if time.monotonic() >= began + seconds:
        return answer
    while (missing := began + seconds - time.monotonic()) > 0 and not status[STOP]:
        time.sleep(min(missing, _IDLE))
        status.beat()
    late = time.monotonic() - began - answer.thinking
    return replace(answer, thinking=answer.thinking + late, latency=answer.latency + late)


@final
class BatchLimit:
    """The limit on observations in one request, so that labels never make it late.

    A large model labels a batch in the time of one observation; a search does not. The first
    request is about the newest alone, to measure that. Then the limit begins at 16, doubles while a
    request takes at most twice as long as one observation (or less than five milliseconds), and
    halves where it takes longer. It is at most `most`.
    """

    def __init__(self, most: int) -> None:
        self._most = max(1, most)
        self.rows = 1
        self._alone: float | None = None

    def note(self, rows: int, seconds: float) -> None:
        """Take how long a request of so many observations took."""
        if self._alone is None:
            if rows == 1:
                self._alone = seconds
                self.rows = min(16, self._most)
            return
        if rows == 1:
            self._alone += 0.2 * (seconds - self._alone)
        if seconds > max(2.0 * self._alone, 5e-3):
            self.rows = max(1, self.rows // 2)
        elif rows >= self.rows:
            self.rows = min(2 * self.rows, self._most)
