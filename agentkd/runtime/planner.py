"""Planners as a tick sees them: the port, and the ordinary planner, in a process."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from agentkd.errors import ConfigError, SpecError
from agentkd.executors.executor import Executor, interchangeable
from agentkd.runtime.codec import (
    Answer,
    Seen,
    SeenCodec,
    answer_size,
    decode_answer,
    encode_executor,
    encode_weights,
)
from agentkd.runtime.query import Demands
from agentkd.runtime.workers.channels import (
    DROPPED,
    ERRORS,
    LABELS,
    Bell,
    Health,
    LabelRing,
    Mailbox,
)
from agentkd.runtime.workers.host import Host, Patience, Port, Process
from agentkd.spec import Spec, to_json
from agentkd.types import GuidingPolicy, Policy, RecurrentPolicy

AnyPolicy = Policy | RecurrentPolicy | GuidingPolicy
BACKLOG = 256
"""How many observations wait for a busy planner, by default."""
_ANSWERS = 8
_SERVE = "agentkd.runtime.workers.planner:serve"


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
            ring: Where labels go; None if nobody learns.
            demands: What is wanted besides answers.
        """

    @abstractmethod
    def submit(self, seen: Seen, before: Sequence[Seen] = ()) -> None:
        """Take the observation of a tick, and copy it.

        Args:
            seen: The observation; the port fills in `heard`.
            before: Earlier ones that are only to be labelled, oldest first.
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
    """Give the length of a backlog back if it can be one."""
    if backlog < 0:
        raise ConfigError(f"backlog is {backlog}; it has to be at least 0.")
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
    answer later (`BatchLimit`). Labels go
    from its process into the ring, so the tick copies nothing but the observation.

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
        """Take the orders; `open` and `await_ready` start the process."""
        if not 0 <= at_least < float("inf"):
            raise ConfigError(f"An answer cannot take at least {at_least} s.")
        self._factory = process
        self._backlog = check_backlog(backlog)
        self._at_least = at_least
        self._most_rows = most_rows
        self._patience = patience
        self._alone = alone
        self._weights: Mailbox | None = None
        self._heard = 0
        self._rolled: Executor | None = None

    def open(self, spec: Spec, ring: LabelRing | None, demands: Demands | None = None) -> None:
        """Lay out the shared memory and start the process."""
        wants = demands or Demands()
        self._spec = spec
        ahead = wants.roll.most if wants.roll is not None else 0
        goals = wants.goals
        self._codec = SeenCodec(spec, ahead)
        self._seen = Mailbox(self._codec.bytes, self._backlog + 1)
        goal = goals.size if goals is not None else 0
        most = answer_size(spec, self._most_rows, goal, ahead)
        self._answers = Mailbox(most, _ANSWERS)
        self._bell = Bell()
        self._began, self._thought = time.monotonic(), 0.0
        channels: dict[str, Mailbox | Bell | LabelRing] = {
            "seen": self._seen,
            "answers": self._answers,
            "bell": self._bell,
        }
        if ring is not None:
            channels["labels"] = ring
        orders = {
            "spec": to_json(spec),
            "ahead": ahead,
            "at_least": self._at_least,
            "most_rows": self._most_rows,
            "alone": self._alone,
            "goals": goals and [goals.size, goals.max_age],
            "roll": wants.roll and wants.roll.as_references(),
        }
        if wants.roll is not None and wants.executor is not None:
            self._rolled = wants.executor
            vector = wants.executor.vector()
            self._weights = channels["weights"] = Mailbox(4 * len(vector))
            self._weights.write(encode_weights(vector))
            orders["executor"] = encode_executor(wants.executor)
        self._host = Host(
            "planner",
            self._factory,
            _SERVE,
            orders,
            {name: each.handle() for name, each in channels.items()},
            self._patience,
            wake=self._bell.ring,
        )
        self._host.check()

    @property
    def ready(self) -> bool:
        """Whether the planner is loaded and its process is there."""
        return self._host is not None and self._host.ready

    def submit(self, seen: Seen, before: Sequence[Seen] = ()) -> None:
        """Put an observation where the planner finds it."""
        for each in before:
            self._seen.write(self._codec.encode(each, self._heard))
        self._seen.write(self._codec.encode(seen, self._heard))
        self._bell.ring()

    def poll(self, _tick: int, /) -> Sequence[Answer]:
        """Take the answers that came."""
        if not self._answers.waiting():
            return ()
        found = [decode_answer(each, self._spec) for each in self._answers.take()]
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
        self._weights.write(encode_weights(executor.vector()))

    def counts(self) -> PlannerCounts:
        """Return what happened so far."""
        host = self._hosted()
        return PlannerCounts(
            host.status[LABELS],
            host.status[DROPPED],
            host.status[ERRORS],
            dict(host.restarts),
            host.error,
            min(1.0, self._thought / max(1e-9, time.monotonic() - self._began)),
            host.health(),
        )

    def close(self) -> None:
        """End the process and give the shared memory back."""
        if self._host is None:
            return
        self._host.close()
        for channel in (self._seen, self._answers, self._weights, self._bell):
            if channel is not None:
                channel.close()
