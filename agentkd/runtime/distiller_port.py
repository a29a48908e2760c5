"""Where labels go and weights come from, without ever being waited for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, final, runtime_checkable

from agentkd.errors import ConfigError
from agentkd.executors.description import interchangeable
from agentkd.executors.executor import Executor
from agentkd.printable import logger
from agentkd.runtime.ring import LabelRing
from agentkd.runtime.status import Health
from agentkd.runtime.worker import describe
from agentkd.types import DistillerLike, Floats, Gated

log = logger(__name__)

ENOUGH = 3
"""Errors in a row after which a distiller is given up, or made anew."""


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


@runtime_checkable
class DistillerPort(Protocol):
    """A distiller as the agent sees it."""

    inline: ClassVar[bool]
    """Whether it learns on the tick, so that runs can be repeated exactly."""

    def open(self, executor: Executor) -> LabelRing:
        """Start without waiting; return the ring that labels go into."""
        ...

    def await_ready(self, timeout: float | None = None) -> None:
        """Return when it learns.

        Args:
            timeout: Seconds to wait at most, None for as long as a start may take.

        Raises:
            WorkerError: If its start fails or takes longer.
        """
        ...

    def learn(self) -> None:
        """Learn now, on the tick, if it is `inline`."""
        ...

    def weights(self) -> Floats | None:
        """Take the newest weights that were not taken yet."""
        ...

    def follow(self, executor: Executor) -> None:
        """Take note of an executor that acts and is not from `weights`.

        Weights that were learnt before are not handed on any more.
        """
        ...

    def supervise(self) -> None:
        """Look after whatever runs in the background; not on the tick's way."""
        ...

    def counts(self) -> DistillerCounts:
        """What happened so far."""
        ...

    def close(self) -> None:
        """End, and leave nothing running; `weights` then gives the last ones."""
        ...


def refused_by(distiller: DistillerLike) -> Mapping[str, int]:
    """Return how many of its weights a distiller refused itself, by reason."""
    return distiller.refused() if isinstance(distiller, Gated) else {}


@final
class InlineDistiller:
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
        """Take the distiller."""
        if steps_per_tick < 0 or swap_every < 1:
            raise ConfigError(
                f"steps_per_tick={steps_per_tick}, swap_every={swap_every}: at least 0 and 1."
            )
        self._distiller = distiller
        self._steps_per_tick, self._swap_every = steps_per_tick, swap_every
        self._ticks = self._steps = self._labels = self._errors = 0
        self._failures, self._error = 0, ""
        self._progress: Mapping[str, float] = {}
        self._fresh: Floats | None = None
        self._learnt = False
        self._ring: LabelRing | None = None
        self._opened: Executor | None = None
        self._acting: Executor | None = None
        self._foreign = False

    def open(self, executor: Executor) -> LabelRing:
        """Make the ring."""
        self._ring = LabelRing(executor.spec)
        self._opened = self._acting = executor
        return self._ring

    def await_ready(self, timeout: float | None = None) -> None:
        """It is ready."""

    def learn(self) -> None:
        """Take the labels that came and some gradient steps."""
        ring = self._ring
        if self._failures >= ENOUGH or ring is None:
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
            if self._learnt and self._ticks % self._swap_every == 0:
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
        self._learnt = False
        self._fresh = self._distiller.snapshot()

    def weights(self) -> Floats | None:
        """Take the weights of the last snapshot."""
        fresh, self._fresh = self._fresh, None
        return None if self._foreign or self._acting is not None else fresh

    def follow(self, executor: Executor) -> None:
        """Take note of an executor; the distiller hears of it at the next tick."""
        self._acting = executor

    def supervise(self) -> None:
        """Nothing runs in the background."""

    def counts(self) -> DistillerCounts:
        """What happened so far."""
        return DistillerCounts(
            self._labels,
            self._ring.dropped if self._ring else 0,
            self._steps,
            self._errors,
            {},
            self._error,
            self._progress,
            refused=refused_by(self._distiller),
        )

    def close(self) -> None:
        """Take a last snapshot, and give the ring back."""
        if self._learnt and self._failures < ENOUGH and self._acting is None:
            self._propose()
        if self._ring is not None:
            self._ring.segment.close()
