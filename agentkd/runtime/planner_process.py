"""A planner in a process of its own: the ordinary way to have one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, final

from agentkd.errors import ConfigError, PlannerError
from agentkd.runtime.codec import (
    Answer,
    SeenCodec,
    answer_size,
    decode_answer,
    encode_answer,
)
from agentkd.runtime.mailbox import Mailbox
from agentkd.runtime.memory import Bell, Segment
from agentkd.runtime.pace import Pace
from agentkd.runtime.planner_port import BACKLOG, PlannerCounts, check_backlog
from agentkd.runtime.process import Patience, Remote, Worker
from agentkd.runtime.ring import LabelRing
from agentkd.runtime.status import DROPPED, ERRORS, LABELS, Status
from agentkd.runtime.thinking import Thinker
from agentkd.runtime.worker import say
from agentkd.spec import Spec, from_json, to_json
from agentkd.types import Floats

_ANSWERS = 8
_IDLE = 0.05
"""A worker without work shows a heartbeat this often, in seconds."""
_ENOUGH = 3
"""Errors in a row after which a planner is made anew."""


@final
class ProcessPlanner:
    """A planner in a spawned process that is started again when it dies or hangs.

    Each tick puts its observation into shared memory. When the planner is free it takes
    all of them, answers the newest, and labels the rest in the same batch, as many as
    do not make the answer later (`Pace`). Labels go
    from its process into the ring, so the tick copies nothing but the observation.

    Args:
        remote: What makes the planner, in the other process.
        backlog: How many observations between two requests become labels.
        at_least: Seconds that an answer takes at least, to stand in for a larger model.
        most_rows: The largest horizon that the planner may have.
        patience: How long the process may take.
    """

    def __init__(
        self,
        remote: Remote,
        *,
        backlog: int = BACKLOG,
        at_least: float = 0.0,
        most_rows: int = 64,
        patience: Patience | None = None,
    ) -> None:
        """Take the orders; `open` and `await_ready` start the process."""
        if not 0 <= at_least < float("inf"):
            raise ConfigError(f"An answer cannot take at least {at_least} s.")
        self._remote = remote
        self._backlog = check_backlog(backlog)
        self._at_least = at_least
        self._most_rows = most_rows
        self._patience = patience or Patience()
        self._worker: Worker | None = None

    def open(self, spec: Spec, ring: LabelRing | None) -> None:
        """Lay out the shared memory and start the process."""
        self._spec = spec
        self._codec = SeenCodec(spec.obs.size)
        self._seen = Mailbox(self._codec.bytes, self._backlog + 1)
        self._answers = Mailbox(answer_size(spec, self._most_rows), _ANSWERS)
        self._bell = Bell()
        shared = [self._seen.segment.fd, self._answers.segment.fd, *self._bell.handle()]
        labels: list[int] | None = None
        if ring is not None:
            shared.append(ring.segment.fd)
            labels = [ring.rows, *ring.segment.handle()]
        self._worker = Worker(
            "planner",
            self._remote,
            f"{__name__}:serve",
            {
                "spec": to_json(spec),
                "seen": self._seen.handle(),
                "answers": self._answers.handle(),
                "bell": self._bell.handle(),
                "labels": labels,
                "at_least": self._at_least,
                "most_rows": self._most_rows,
            },
            shared,
            self._patience,
            self._bell.ring,
        )
        self._worker.check()

    def _opened(self) -> Worker:
        if self._worker is None:
            raise ConfigError("The planner is not open. Use the agent in a with block.")
        return self._worker

    def await_ready(self) -> None:
        """Wait until the planner is loaded.

        Raises:
            WorkerError: If its factory raised, or its process died or took too long.
        """
        self._opened().await_ready()

    def submit(self, tick: int, epoch: int, obs: Floats) -> None:
        """Put an observation where the planner finds it."""
        self._seen.write(self._codec.encode(tick, epoch, time.monotonic_ns(), obs))
        self._bell.ring()

    def poll(self, _tick: int, /) -> Sequence[Answer]:
        """Take the answers that came."""
        if not self._answers.waiting():
            return ()
        return [decode_answer(each, self._spec) for each in self._answers.take()]

    def supervise(self) -> None:
        """Kill the process where it hangs; start it where there is none."""
        self._opened().check()

    @property
    def pid(self) -> int | None:
        """The id of the planner's process, None while there is none."""
        return self._worker.pid if self._worker else None

    def counts(self) -> PlannerCounts:
        """What happened so far."""
        worker = self._opened()
        return PlannerCounts(
            worker.status.total(LABELS),
            worker.status.total(DROPPED),
            worker.status.total(ERRORS),
            dict(worker.restarts),
            worker.error,
        )

    def close(self) -> None:
        """End the process and give the shared memory back."""
        if self._worker is None or self._bell.handle()[0] < 0:
            return
        self._worker.close()
        self._seen.segment.close()
        self._answers.segment.close()
        self._bell.close()


def serve(orders: Mapping[str, Any], made: Any, status: Status, words: Mailbox) -> None:
    """Answer observations until told to end; runs in the planner's process.

    Raises:
        PlannerError: After several errors in a row: only a new start may help.
    """
    spec = from_json(orders["spec"])
    codec = SeenCodec(spec.obs.size)
    seen = Mailbox.attach(*orders["seen"])
    answers = Mailbox.attach(*orders["answers"])
    bell = Bell(*orders["bell"])
    ring = None
    if orders["labels"] is not None:
        rows, fd, size = orders["labels"]
        ring = LabelRing(spec, rows, Segment(size, fd))
    thinker = Thinker(made, spec, backlog=ring is not None)
    if thinker.horizon > orders["most_rows"]:
        raise PlannerError(
            f"The planner's horizon is {thinker.horizon}; give "
            f"ProcessPlanner(most_rows={thinker.horizon})."
        )
    # A planner may not like an observation of zeros; real ones will tell.
    with contextlib.suppress(Exception):
        thinker.warm_up()
    status.set_ready()
    failures = 0
    pace = Pace(seen.slots)
    while not status.stopping:
        status.beat()
        lost = seen.missed
        messages = seen.take()
        status.count(DROPPED, seen.missed - lost)
        if not messages:
            bell.wait(_IDLE)
            continue
        # The oldest are given up: what a slow planner cannot label never delays it. One
        # with a memory needs them all.
        if not thinker.recurrent:
            status.count(DROPPED, max(0, len(messages) - pace.limit))
            messages = messages[-pace.limit :]
        began = time.monotonic()
        try:
            thought = thinker.think([codec.decode(each) for each in messages])
        except PlannerError as error:
            failures += 1
            status.count(ERRORS)
            if failures == _ENOUGH:
                raise
            say(words, f"{type(error).__name__}: {error}")
            continue
        failures = 0
        pace.note(len(messages), thought.answer.thinking)
        status.count(DROPPED, len(messages) - thought.answer.labels)
        if ring is not None:
            ring.push(thought.obs, thought.dist)
        status.count(LABELS, thought.answer.labels)
        answer = _not_before(began, orders["at_least"], thought.answer, status)
        answers.write(encode_answer(answer))


def _not_before(began: float, seconds: float, answer: Answer, status: Status) -> Answer:
    """Hold an answer back until it took so many seconds."""
    missing = began + seconds - time.monotonic()
    if missing <= 0:
        return answer
    while missing > 0 and not status.stopping:
        time.sleep(min(missing, _IDLE))
        status.beat()
        missing = began + seconds - time.monotonic()
    late = time.monotonic() - began - answer.thinking
    return Answer(
        answer.id,
        answer.epoch,
        answer.tick,
        answer.labels,
        answer.thinking + late,
        answer.latency + late,
        answer.rows,
    )
