"""A planner in a process of its own: the ordinary way to have one."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from typing import Any, final

from agentkd.deploy.bundle import to_bytes
from agentkd.errors import ConfigError, SpecError
from agentkd.executors.description import interchangeable
from agentkd.executors.executor import Executor
from agentkd.runtime.codec import Answer, SeenCodec, answer_size, decode_answer, encode_weights
from agentkd.runtime.mailbox import Mailbox
from agentkd.runtime.memory import Bell
from agentkd.runtime.planner_port import BACKLOG, PlannerCounts, check_backlog, newest_heard
from agentkd.runtime.process import Patience, Process, Worker
from agentkd.runtime.ring import LabelRing
from agentkd.runtime.status import DROPPED, ERRORS, LABELS
from agentkd.runtime.thinking import Demands
from agentkd.spec import Spec, to_json
from agentkd.types import Floats

_ANSWERS = 8
_SERVE = "agentkd.runtime.planner_service:serve"


@final
class ProcessPlanner:
    """A planner in a spawned process that is started again when it dies or hangs.

    Each tick puts its observation into shared memory. When the planner is free it takes all of
    them, answers the newest, and labels the rest in the same batch, as many as do not make the
    answer later (`Pace`). Labels go
    from its process into the ring, so the tick copies nothing but the observation.

    Args:
        remote: What makes the planner, in the other process.
        backlog: How many observations between two requests become labels.
        at_least: Seconds that an answer takes at least, to stand in for a larger model.
        most_rows: The largest horizon that the planner may have.
        patience: How long the process may take.
        alone: Whether it sees every observation. A planner with a memory has to.
    """

    def __init__(
        self,
        remote: Process,
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
        self._remote = remote
        self._backlog = check_backlog(backlog)
        self._at_least = at_least
        self._most_rows = most_rows
        self._patience = patience or Patience()
        self._alone = alone
        self._weights: Mailbox | None = None
        self._heard = 0
        self._rolled: Executor | None = None
        self._worker: Worker | None = None

    def open(self, spec: Spec, ring: LabelRing | None, demands: Demands | None = None) -> None:
        """Lay out the shared memory and start the process."""
        wants = demands or Demands()
        self._spec = spec
        ahead = wants.roll.most if wants.roll is not None else 0
        goal = wants.goals.size if wants.goals is not None else 0
        self._codec = SeenCodec(spec, ahead)
        self._seen = Mailbox(self._codec.bytes, self._backlog + 1)
        most = answer_size(spec, self._most_rows, goal, ahead)
        self._answers = Mailbox(most, _ANSWERS)
        self._bell = Bell()
        self._began, self._thought = time.monotonic(), 0.0
        shared = [self._seen.segment.fd, self._answers.segment.fd, *self._bell.handle()]
        labels: list[int] | None = None
        if ring is not None:
            shared.append(ring.segment.fd)
            labels = [ring.rows, *ring.segment.handle()]
        orders = {
            "spec": to_json(spec),
            "ahead": ahead,
            "seen": self._seen.handle(),
            "answers": self._answers.handle(),
            "bell": self._bell.handle(),
            "labels": labels,
            "at_least": self._at_least,
            "most_rows": self._most_rows,
            "alone": self._alone,
            "demands": self._demands(wants, shared),
        }
        self._worker = Worker(
            "planner", self._remote, _SERVE, orders, shared, self._patience, self._bell.ring
        )
        self._worker.check()

    def _demands(self, wants: Demands, shared: list[int]) -> dict[str, Any]:
        """What the planner's process has to know of them, as JSON values."""
        told: dict[str, Any] = {"goals": None, "roll": None}
        if wants.goals is not None:
            told["goals"] = [wants.goals.size, wants.goals.max_age]
        if wants.roll is not None:
            told["roll"] = wants.roll.as_references()
            told["executor"] = told["weights"] = None
        if wants.roll is not None and wants.executor is not None:
            self._rolled = wants.executor
            self._weights = Mailbox(4 * len(wants.executor.vector()))
            shared.append(self._weights.segment.fd)
            file = to_bytes(wants.executor, {})
            told["executor"] = base64.b64encode(file).decode()
            told["weights"] = self._weights.handle()
        return told

    def _opened(self) -> Worker:
        if self._worker is None:
            raise ConfigError("The planner is not open. Use the agent in a with block.")
        return self._worker

    @property
    def ready(self) -> bool:
        """Whether the planner is loaded and its process is there."""
        return self._worker is not None and self._worker.ready

    def await_ready(self, timeout: float | None = None) -> None:
        """Wait until the planner is loaded.

        Args:
            timeout: Seconds to wait at most, None for as long as patience allows.

        Raises:
            WorkerError: If its factory raised, or its process died or took too long.
        """
        self._opened().await_ready(timeout)

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
        """Put an observation where the planner finds it."""
        now = time.monotonic_ns()
        self._seen.write(self._codec.encode(tick, episode, now, obs, lead, committed, self._heard))
        if not more:
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
            min(1.0, self._thought / max(1e-9, time.monotonic() - self._began)),
            worker.health(),
        )

    def close(self) -> None:
        """End the process and give the shared memory back."""
        if self._worker is None or self._bell.handle()[0] < 0:
            return
        self._worker.close()
        self._seen.segment.close()
        self._answers.segment.close()
        if self._weights is not None:
            self._weights.segment.close()
        self._bell.close()
