"""A learner in a process of its own: the ordinary way to have one."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, ClassVar, final

from agentkd.errors import ConfigError
from agentkd.executors.frozen import Frozen
from agentkd.runtime.codec import decode_weights, encode_weights
from agentkd.runtime.learner_port import ENOUGH, LearnerCounts
from agentkd.runtime.mailbox import Mailbox
from agentkd.runtime.memory import Segment
from agentkd.runtime.process import Patience, Remote, Worker
from agentkd.runtime.ring import LabelRing
from agentkd.runtime.status import ERRORS, LABELS, STEPS, Status
from agentkd.runtime.worker import describe, say
from agentkd.spec import from_json, to_json
from agentkd.types import Floats, Learner

_IDLE = 0.01
_PROGRESS = 2048


@final
class ProcessLearner:
    """A learner in a spawned process that is started again when it dies or hangs.

    A learner with a method `warm_start(weights)` goes on, after such a start, from the
    weights that were published last.

    Args:
        remote: What makes the learner, in the other process.
        publish_seconds: How often weights come back.
        patience: How long the process may take.
    """

    inline: ClassVar[bool] = False

    def __init__(
        self,
        remote: Remote,
        *,
        publish_seconds: float = 0.5,
        patience: Patience | None = None,
    ) -> None:
        """Take the orders; `open` and `await_ready` start the process."""
        if not publish_seconds > 0:
            raise ConfigError(f"publish_seconds is {publish_seconds}; above 0, please.")
        self._remote = remote
        self._publish_seconds = publish_seconds
        self._patience = patience or Patience()
        self._worker: Worker | None = None

    def open(self, executor: Frozen) -> LabelRing:
        """Lay out the shared memory and start the process."""
        self._ring = LabelRing(executor.spec)
        self._weights = Mailbox(4 * len(executor.vector()), 2)
        self._told = Mailbox(_PROGRESS, 2)
        self._progress: Mapping[str, float] = {}
        self._worker = Worker(
            "distiller",
            self._remote,
            f"{__name__}:serve",
            {
                "spec": to_json(executor.spec),
                "labels": [self._ring.rows, *self._ring.segment.handle()],
                "weights": self._weights.handle(),
                "told": self._told.handle(),
                "publish_seconds": self._publish_seconds,
            },
            [
                self._ring.segment.fd,
                self._weights.segment.fd,
                self._told.segment.fd,
            ],
            self._patience,
            lambda: None,
        )
        self._worker.check()
        return self._ring

    def _opened(self) -> Worker:
        if self._worker is None:
            raise ConfigError("The learner is not open. Use the agent in a with block.")
        return self._worker

    def await_ready(self, timeout: float | None = None) -> None:
        """Wait until the learner is made.

        Args:
            timeout: Seconds to wait at most, None for as long as patience allows.

        Raises:
            WorkerError: If its factory raised, or its process died or took too long.
        """
        self._opened().await_ready(timeout)

    def learn(self) -> None:
        """It learns elsewhere."""

    def weights(self) -> Floats | None:
        """Take the newest weights, if there are new ones."""
        found = self._weights.take()
        return decode_weights(found[-1]) if found else None

    def supervise(self) -> None:
        """Kill the process where it hangs; start it where there is none."""
        self._opened().check()

    @property
    def pid(self) -> int | None:
        """The id of the learner's process, None while there is none."""
        return self._worker.pid if self._worker else None

    def counts(self) -> LearnerCounts:
        """What happened so far."""
        worker = self._opened()
        told = self._told.last()
        if told is not None:
            self._progress = json.loads(told)
        return LearnerCounts(
            worker.status.total(LABELS),
            self._ring.dropped,
            worker.status.total(STEPS),
            worker.status.total(ERRORS),
            dict(worker.restarts),
            worker.error,
            self._progress,
            worker.health(),
        )

    def close(self) -> None:
        """Let the process publish its last weights and end."""
        if self._worker is None:
            return
        self._worker.close()
        for segment in (self._ring.segment, self._weights.segment, self._told.segment):
            segment.close()


def serve(orders: Mapping[str, Any], made: Any, status: Status, words: Mailbox) -> None:
    """Learn from the ring until told to end; runs in the learner's process."""
    rows, fd, size = orders["labels"]
    ring = LabelRing(from_json(orders["spec"]), rows, Segment(size, fd))
    weights = Mailbox.attach(*orders["weights"])
    told = Mailbox.attach(*orders["told"])
    learner: Learner = made
    last = weights.last()
    if last is not None and hasattr(made, "warm_start"):
        made.warm_start(decode_weights(last))
    status.set_ready()
    failures, published, learnt = 0, time.monotonic(), False
    while not status.stopping:
        status.beat()
        try:
            batches = ring.take()
            for batch in batches:
                status.count(LABELS, len(batch.obs))
                learner.add(batch.obs, batch.dist)
            progress = learner.step()
        except Exception as error:
            failures += 1
            status.count(ERRORS)
            if failures == ENOUGH:
                raise
            say(words, describe(error))
            continue
        failures = 0
        if progress:
            learnt = True
            status.count(STEPS)
        elif not batches:
            time.sleep(_IDLE)
        if learnt and time.monotonic() - published >= orders["publish_seconds"]:
            published, learnt = time.monotonic(), False
            weights.write(encode_weights(learner.snapshot()))
            text = json.dumps({key: float(value) for key, value in progress.items()})
            if len(text) <= _PROGRESS:
                told.write(text.encode())
    if learnt:
        weights.write(encode_weights(learner.snapshot()))
