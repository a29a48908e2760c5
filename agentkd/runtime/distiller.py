"""Distillers as an agent sees them: the port, one on the tick, one in a process."""

from __future__ import annotations

import json
import os
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, final

from agentkd.errors import check_range
from agentkd.executors.executor import Executor, interchangeable
from agentkd.executors.past import past_layer, unrolled
from agentkd.printable import logger
from agentkd.runtime.codec import decode_turn, encode_turn
from agentkd.runtime.workers.channels import ERRORS, LABELS, STEPS, STOP, Health, LabelRing, Mailbox
from agentkd.runtime.workers.host import Child, Host, Patience, Port, Process, describe
from agentkd.spec import Spec
from agentkd.spec_json import from_json, to_json
from agentkd.types import DistillerLike, Floats, Gated, Noticing
from agentkd.views import environment

log = logger(__name__)

_ENOUGH = 3
"""Errors in a row after which a distiller is given up, or made anew."""
_TOLD = 4096
"""Bytes of a report on progress."""
_IDLE = 0.01


@dataclass(frozen=True, slots=True)
class DistillerCounts:
    """What a distiller did so far.

    Attributes:
        labels: Labels that it was given.
        dropped: Labels that found it too slow.
        steps: Gradient steps.
        errors: Steps that raised.
        restarts: Starts after the first, by cause.
        error: What the last failure said.
        progress: What its last step told.
        health: Whether it is ready, and how its starts went.
        refused: Weights that were not handed on, by reason.
        changes: Changes of the world that it noticed: to a "new" one, "back" to an earlier one.
    """

    labels: int = 0
    dropped: int = 0
    steps: int = 0
    errors: int = 0
    restarts: Mapping[str, int] = field(default_factory=dict)
    error: str = ""
    progress: Mapping[str, float] = field(default_factory=dict)
    health: Health = field(default_factory=Health)
    refused: Mapping[str, int] = field(default_factory=dict)
    changes: Mapping[str, int] = field(default_factory=dict)


class DistillerPort(Port, ABC):
    """A distiller as the agent sees it."""

    inline: ClassVar[bool] = False
    """Whether it learns on the tick, so that runs can be repeated exactly."""

    @abstractmethod
    def open(self, executor: Executor) -> LabelRing:
        """Start without waiting; return the ring that labels go into."""

    def learn(self) -> None:
        """Learn now, on the tick, if it is `inline`."""

    @abstractmethod
    def weights(self) -> Floats | None:
        """Take the newest weights that were not taken yet."""

    @abstractmethod
    def follow(self, executor: Executor) -> None:
        """Take note of an executor that acts and is not from `weights`.

        Weights that were learnt before are not handed on any more.
        """

    @abstractmethod
    def counts(self) -> DistillerCounts:
        """Return what happened so far."""

    @abstractmethod
    def close(self) -> None:
        """End, and leave nothing running; `weights` then gives the last ones."""


def labelled_spec(executor: Executor) -> Spec:
    """Return the spec of labels: the environment's, or that of what an executor is shown."""
    past = past_layer(executor)
    return environment(executor.spec) if past is None else unrolled(executor).spec


def _refused_by(distiller: DistillerLike) -> Mapping[str, int]:
    """Return how many of its weights a distiller refused itself, by reason."""
    return distiller.refused() if isinstance(distiller, Gated) else {}


def _changes_of(distiller: DistillerLike) -> Mapping[str, int]:
    """Return how often the world changed, where a distiller notices that."""
    return distiller.changes() if isinstance(distiller, Noticing) else {}


@final
class InlineDistiller(DistillerPort):
    """A distiller that takes its steps on the tick: deterministic, for a virtual clock.

    Args:
        distiller: Takes labels and gives weights.
        steps_per_tick: Gradient steps after each tick.
        swap_every: Ticks between two swaps.
    """

    inline: ClassVar[bool] = True

    def __init__(
        self, distiller: DistillerLike, *, steps_per_tick: int = 1, swap_every: int = 50
    ) -> None:
        check_range("steps_per_tick", steps_per_tick, least=0, whole=True)
        check_range("swap_every", swap_every, least=1, whole=True)
        self._distiller = distiller
        self._steps_per_tick, self._swap_every = steps_per_tick, swap_every
        self._ticks = self._steps = self._labels = self._errors = 0
        self._failures, self._error = 0, ""
        self._progress: Mapping[str, float] = {}
        self._fresh: Floats | None = None
        self._learnt = self._foreign = False
        self._ring: LabelRing | None = None
        self._opened: Executor | None = None
        self._acting: Executor | None = None

    def open(self, executor: Executor) -> LabelRing:
        """Make the ring."""
        self._ring = LabelRing(labelled_spec(executor))
        self._opened = self._acting = executor
        return self._ring

    def learn(self) -> None:
        """Take the labels that came and some gradient steps."""
        ring = self._ring
        if self._failures >= _ENOUGH or ring is None:
            return
        self._ticks += 1
        try:
            self._hear()
            for batch in ring.take(ring.rows):
                self._labels += len(batch.obs)
                self._distiller.add(batch.obs, batch.dist)
            for _ in range(self._steps_per_tick):
                progress = self._distiller.step()
                if not progress:
                    break
                self._progress, self._learnt = progress, True
                self._steps += 1
            if self._ticks % self._swap_every == 0:
                self._propose()
            self._failures = 0
        except Exception as error:
            self._errors += 1
            self._failures += 1
            self._error = describe(error)
            log.exception("The distiller raised; the executor stays.")

    def _hear(self) -> None:
        """Tell the distiller of the executor that acts, if it is not its own."""
        executor, self._acting = self._acting, None
        if executor is None or self._opened is None:
            return
        self._foreign = not interchangeable(executor, self._opened)
        self._fresh = None
        if isinstance(self._distiller, Gated):
            self._distiller.follow(None if self._foreign else executor.vector())

    def _propose(self) -> None:
        if self._learnt:
            self._learnt = False
            self._fresh = self._distiller.snapshot()

    def weights(self) -> Floats | None:
        """Take the weights of the last snapshot."""
        fresh, self._fresh = self._fresh, None
        return None if self._foreign or self._acting is not None else fresh

    def follow(self, executor: Executor) -> None:
        """Take note of an executor; the distiller hears of it at the next tick."""
        self._acting = executor

    def counts(self) -> DistillerCounts:
        """Return what happened so far."""
        return DistillerCounts(
            self._labels,
            self._ring.dropped if self._ring else 0,
            self._steps,
            self._errors,
            error=self._error,
            progress=self._progress,
            refused=_refused_by(self._distiller),
            changes=_changes_of(self._distiller),
        )

    def close(self) -> None:
        """Take a last snapshot, and give the ring back."""
        if self._failures < _ENOUGH and self._acting is None:
            self._propose()
        if self._ring is not None:
            self._ring.close()


@final
class ProcessDistiller(DistillerPort):
    """A distiller in a spawned process that is started again when it dies or hangs.

    A distiller with a method `warm_start(weights)` goes on, after such a start, from the weights
    that were published last; one that is `Gated`, from the executor that acts.

    Args:
        process: What makes the distiller, in the other process.
        publish_seconds: How often weights come back.
        patience: How long the process may take.
    """

    def __init__(
        self, process: Process, *, publish_seconds: float = 0.5, patience: Patience | None = None
    ) -> None:
        check_range("publish_seconds", publish_seconds, above=0)
        self._process, self._patience = process, patience
        self._publish_seconds = publish_seconds
        self._progress: Mapping[str, float] = {}
        self._refused: dict[int, Mapping[str, int]] = {}
        self._changes: dict[int, Mapping[str, int]] = {}
        self._stale = self._turn = 0

    def open(self, executor: Executor) -> LabelRing:
        """Lay out the shared memory and start the process."""
        spec = labelled_spec(executor)
        self._ring = LabelRing(spec)
        self._opened_with = executor
        size = len(encode_turn(0, True, executor.vector()))
        self._weights, self._acting = Mailbox(size, 2), Mailbox(size, 2)
        self._told = Mailbox(_TOLD, 2)
        self._send(executor)
        self._host = Host(
            "distiller",
            self._process,
            f"{__name__}:serve",
            {"spec": to_json(spec), "publish_seconds": self._publish_seconds},
            {
                "labels": self._ring,
                "weights": self._weights,
                "acting": self._acting,
                "told": self._told,
            },
            self._patience,
        )
        self._host.check()
        return self._ring

    def weights(self) -> Floats | None:
        """Take the newest weights, if there are new ones."""
        found = self._weights.take()
        if not found:
            return None
        turn, _, weights = decode_turn(found[-1])
        if turn != self._turn:
            self._stale += 1
            return None
        return weights

    def follow(self, executor: Executor) -> None:
        """Send an executor that acts to the distiller's process."""
        if self._host is not None:
            self._turn += 1
            self._send(executor)

    def _send(self, executor: Executor) -> None:
        fits = interchangeable(executor, self._opened_with)
        known = executor if fits else self._opened_with
        self._acting.write(encode_turn(self._turn, fits, known.vector()))

    def counts(self) -> DistillerCounts:
        """Return what happened so far."""
        host = self._hosted()
        told = self._told.last()
        if told is not None:
            heard = json.loads(told)
            self._progress = heard["progress"]
            # Each process counts from 0.
            self._refused[heard["pid"]] = heard["refused"]
            self._changes[heard["pid"]] = heard["changes"]
        refused = Counter({"stale": self._stale} if self._stale else {})
        for counted in self._refused.values():
            refused.update(counted)
        changes = Counter[str]()
        for counted in self._changes.values():
            changes.update(counted)
        return DistillerCounts(
            host.status[LABELS],
            self._ring.dropped,
            host.status[STEPS],
            host.status[ERRORS],
            dict(host.restarts),
            host.error,
            self._progress,
            host.health(),
            refused,
            changes,
        )

    def close(self) -> None:
        """Let the process publish its last weights and end."""
        if self._host is not None:
            self._host.close()


def serve(child: Child) -> None:
    """Learn from the ring until told to end; runs in the distiller's process."""
    orders, status = child.orders, child.status
    ring = LabelRing.attach(child.shared["labels"], from_json(orders["spec"]))
    reports = _Reports(child)
    distiller: DistillerLike = child.made
    reports.go_on()
    status.set_ready()
    failures, published, learnt = 0, time.monotonic(), False
    progress: Mapping[str, float] = {}
    while not status[STOP]:
        status.beat()
        try:
            reports.hear()
            batches = ring.take()
            for batch in batches:
                status[LABELS] += len(batch.obs)
                distiller.add(batch.obs, batch.dist)
            progress = distiller.step()
        except Exception as error:
            failures += 1
            status[ERRORS] += 1
            if failures == _ENOUGH:
                raise
            child.say(describe(error))
            continue
        failures = 0
        if progress:
            learnt = True
            status[STEPS] += 1
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

    def __init__(self, child: Child) -> None:
        self._weights, self._acting = child.mailbox("weights"), child.mailbox("acting")
        self._told = child.mailbox("told")
        self._made = child.made
        self._turn, self._fits = 0, True

    def go_on(self) -> None:
        """Go on from the executor that acts, or from the weights that came before."""
        self._acting.take()
        acting, last = self._acting.last(), self._weights.last()
        weights = None
        if acting is not None:
            self._turn, self._fits, weights = decode_turn(acting)
        published = None if last is None else decode_turn(last)
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
        self._turn, self._fits, weights = decode_turn(found[-1])
        if isinstance(self._made, Gated):
            self._made.follow(weights if self._fits else None)

    def publish(self, progress: Mapping[str, float]) -> None:
        """Send weights, if the distiller gives some, and say how it goes."""
        found = self._made.snapshot()
        if found is not None and self._fits:
            self._weights.write(encode_turn(self._turn, True, found))
        told = {
            "pid": os.getpid(),
            "refused": dict(_refused_by(self._made)),
            "changes": dict(_changes_of(self._made)),
            "progress": {key: float(value) for key, value in progress.items()},
        }
        text = json.dumps(told)
        if len(text) <= _TOLD:
            self._told.write(text.encode())
