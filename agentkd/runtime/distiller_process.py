"""A distiller in a process of its own: the ordinary way to have one."""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Mapping
from typing import Any, ClassVar, final

from agentkd.errors import ConfigError
from agentkd.executors.description import interchangeable
from agentkd.executors.executor import Executor
from agentkd.runtime.codec import decode_weights, encode_weights
from agentkd.runtime.distiller_port import ENOUGH, DistillerCounts, refused_by
from agentkd.runtime.mailbox import Mailbox
from agentkd.runtime.memory import Segment
from agentkd.runtime.process import Patience, Process, Worker
from agentkd.runtime.ring import LabelRing
from agentkd.runtime.status import ERRORS, LABELS, STEPS, Status
from agentkd.runtime.worker import describe, say
from agentkd.spec import from_json, to_json
from agentkd.types import DistillerLike, Floats, Gated

_IDLE = 0.01
_TOLD = 4096
_TURN = struct.Struct("<qq")
"""Before weights: how often an executor was swapped in that is not the distiller's, and whether the
distiller's numbers fit the one that acts."""


@final
class ProcessDistiller:
    """A distiller in a spawned process that is started again when it dies or hangs.

    A distiller with a method `warm_start(weights)` goes on, after such a start, from the weights
    that were published last; one that is `Gated`, from the executor that acts.

    Args:
        remote: What makes the distiller, in the other process.
        publish_seconds: How often weights come back.
        patience: How long the process may take.
    """

    inline: ClassVar[bool] = False

    def __init__(
        self, remote: Process, *, publish_seconds: float = 0.5, patience: Patience | None = None
    ) -> None:
        """Take the orders; `open` and `await_ready` start the process."""
        if not publish_seconds > 0:
            raise ConfigError(f"publish_seconds is {publish_seconds}; it has to be above 0.")
        self._remote = remote
        self._publish_seconds = publish_seconds
        self._patience = patience or Patience()
        self._worker: Worker | None = None
        self._progress: Mapping[str, float] = {}
        self._refused: dict[int, Mapping[str, int]] = {}
        self._stale = self._turn = 0

    def open(self, executor: Executor) -> LabelRing:
        """Lay out the shared memory and start the process."""
        self._ring = LabelRing(executor.spec)
        self._opened_with = executor
        size = _TURN.size + 4 * len(executor.vector())
        self._weights, self._acting = Mailbox(size, 2), Mailbox(size, 2)
        self._told = Mailbox(_TOLD, 2)
        self._send(executor)
        self._worker = Worker(
            "distiller",
            self._remote,
            f"{__name__}:serve",
            {
                "spec": to_json(executor.spec),
                "labels": [self._ring.rows, *self._ring.segment.handle()],
                "weights": self._weights.handle(),
                "acting": self._acting.handle(),
                "told": self._told.handle(),
                "publish_seconds": self._publish_seconds,
            },
            [
                self._ring.segment.fd,
                self._weights.segment.fd,
                self._acting.segment.fd,
                self._told.segment.fd,
            ],
            self._patience,
            lambda: None,
        )
        self._worker.check()
        return self._ring

    def _opened(self) -> Worker:
        if self._worker is None:
            raise ConfigError("The distiller is not open. Use the agent in a with block.")
        return self._worker

    def await_ready(self, timeout: float | None = None) -> None:
        """Wait until the distiller is made.

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
        if not found:
            return None
        turn, _, weights = _decode(found[-1])
        if turn != self._turn:
            self._stale += 1
            return None
        return weights

    def follow(self, executor: Executor) -> None:
        """Send an executor that acts to the distiller's process."""
        if self._worker is not None:
            self._turn += 1
            self._send(executor)

    def _send(self, executor: Executor) -> None:
        fits = interchangeable(executor, self._opened_with)
        known = executor if fits else self._opened_with
        self._acting.write(_encode(self._turn, fits, known.vector()))

    def supervise(self) -> None:
        """Kill the process where it hangs; start it where there is none."""
        self._opened().check()

    @property
    def pid(self) -> int | None:
        """The id of the distiller's process, None while there is none."""
        return self._worker.pid if self._worker else None

    def counts(self) -> DistillerCounts:
        """What happened so far."""
        worker = self._opened()
        told = self._told.last()
        if told is not None:
            heard = json.loads(told)
            self._progress = heard["progress"]
            # Each process counts from 0.
            self._refused[heard["pid"]] = heard["refused"]
        return DistillerCounts(
            worker.status.total(LABELS),
            self._ring.dropped,
            worker.status.total(STEPS),
            worker.status.total(ERRORS),
            dict(worker.restarts),
            worker.error,
            self._progress,
            worker.health(),
            self._refusals(),
        )

    def _refusals(self) -> Mapping[str, int]:
        out = {"stale": self._stale} if self._stale else {}
        for counted in self._refused.values():
            for reason, count in counted.items():
                out[reason] = out.get(reason, 0) + count
        return out

    def close(self) -> None:
        """Let the process publish its last weights and end."""
        if self._worker is None:
            return
        self._worker.close()
        boxes = (self._weights, self._acting, self._told)
        for segment in (self._ring.segment, *(box.segment for box in boxes)):
            segment.close()


def _encode(turn: int, fits: bool, weights: Floats) -> bytes:
    return _TURN.pack(turn, fits) + encode_weights(weights)


def _decode(message: bytes) -> tuple[int, bool, Floats]:
    turn, fits = _TURN.unpack_from(message)
    return turn, bool(fits), decode_weights(message[_TURN.size :])


def serve(orders: Mapping[str, Any], made: Any, status: Status, words: Mailbox) -> None:
    """Learn from the ring until told to end; runs in the distiller's process."""
    rows, fd, size = orders["labels"]
    ring = LabelRing(from_json(orders["spec"]), rows, Segment(size, fd))
    reports = _Reports(orders, made)
    distiller: DistillerLike = made
    reports.go_on()
    status.set_ready()
    failures, published, learnt = 0, time.monotonic(), False
    progress: Mapping[str, float] = {}
    while not status.stopping:
        status.beat()
        try:
            reports.hear()
            batches = ring.take()
            for batch in batches:
                status.count(LABELS, len(batch.obs))
                distiller.add(batch.obs, batch.dist)
            progress = distiller.step()
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
            reports.publish(progress)
    if learnt:
        reports.hear()
        reports.publish(progress)


class _Reports:
    """What the distiller's process hears of the executor, and what it sends."""

    def __init__(self, orders: Mapping[str, Any], made: Any) -> None:
        self._weights = Mailbox.attach(*orders["weights"])
        self._acting = Mailbox.attach(*orders["acting"])
        self._told = Mailbox.attach(*orders["told"])
        self._made = made
        self._turn, self._fits = 0, True

    def go_on(self) -> None:
        """Go on from the executor that acts, or from the weights that came before."""
        self._acting.take()
        acting, last = self._acting.last(), self._weights.last()
        weights = None
        if acting is not None:
            self._turn, self._fits, weights = _decode(acting)
        published = None if last is None else _decode(last)
        if published is not None and published[0] == self._turn:
            weights = published[2]
        if isinstance(self._made, Gated):
            self._made.follow(weights if self._fits else None)
        elif published is not None and hasattr(self._made, "warm_start"):
            self._made.warm_start(weights)

    def hear(self) -> None:
        """Take note of an executor that was swapped in."""
        found = self._acting.take()
        if not found:
            return
        self._turn, self._fits, weights = _decode(found[-1])
        if isinstance(self._made, Gated):
            self._made.follow(weights if self._fits else None)

    def publish(self, progress: Mapping[str, float]) -> None:
        """Send weights, if the distiller gives some, and say how it goes."""
        found = self._made.snapshot()
        if found is not None and self._fits:
            self._weights.write(_encode(self._turn, True, found))
        told = {
            "pid": os.getpid(),
            "refused": dict(refused_by(self._made)),
            "progress": {key: float(value) for key, value in progress.items()},
        }
        text = json.dumps(told)
        if len(text) <= _TOLD:
            self._told.write(text.encode())
