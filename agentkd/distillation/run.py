"""One distillation between its first and its last label: steps, looks, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import final

import numpy as np

from agentkd import dists
from agentkd.distillation.checkpoint import Checkpoint, save_checkpoint
from agentkd.distillation.distiller import Distiller
from agentkd.distillation.progress import Progress, Watch
from agentkd.distillation.sources import CollectionOptions, Source
from agentkd.distillation.teachable import FirstLabels
from agentkd.errors import ConfigError, WriteError, check_range
from agentkd.executors.executor import Executor
from agentkd.printable import logger
from agentkd.types import Labels

log = logger(__name__)

_BURST = 0.02
_PUBLISH = 32
"""Ticks of all environments after which an executor drives them, taking turns."""
_STEPS = 16
"""Gradient steps between two looks at the budget, where steps are what is counted."""
_LOOKING = 10
"""How many times as long as a look took there is no other one."""
_SAVE_AFTER = 2.0, 30.0
"""Seconds between two checkpoints: as many as it has learnt, within these bounds."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How long a distillation goes on: by time, by labels or by gradient steps.

    Attributes:
        seconds: Of wall time from the first label on. Collecting and learning run side by side.
            With `labels` as well, collecting ends at so many.
        labels: How many labels; without `seconds`, learning and collecting take turns.
        steps_per_label: Gradient steps for each label, when they take turns; by default 1/8, or
            more where there are few labels.
        steps: How many gradient steps, for labels that are there already.
    """

    seconds: float | None = None
    labels: int | None = None
    steps_per_label: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if (self.seconds, self.labels, self.steps) == (None, None, None):
            raise ConfigError("A distillation needs an end: give seconds or labels.")
        for name in ("seconds", "labels", "steps_per_label", "steps"):
            value = getattr(self, name)
            check_range(name, value, above=0, whole=name in ("labels", "steps"))

    @property
    def ratio(self) -> float:
        """Gradient steps for each label, when learning and collecting take turns."""
        if self.steps_per_label is not None:
            return self.steps_per_label
        return max(1 / 8, min(4.0, 3000 / (self.labels or 3000)))


@final
@dataclass(slots=True)
class Run:
    """The state of one distillation between its first and its last label.

    The clock begins with the first label, after `earlier` seconds in earlier runs. Labels that are
    `held_out` are never learnt from; agreement is measured on them, else on labels that are about
    to be learnt from. Where the share of the budget passes one of `marks`, the executor is kept in
    `snapshots`.
    """

    distiller: Distiller
    source: Source
    budget: Budget
    way: CollectionOptions
    earlier: float
    every: float
    watch: Watch | None
    checkpoint: Path | None
    origin: Checkpoint
    held_out: Labels | None = None
    marks: Sequence[float] = ()
    snapshots: list[Executor] = field(default_factory=list)
    version: int = 0
    unsaved: str = ""
    interrupted: bool = False
    history: list[Progress] = field(default_factory=list)
    first: FirstLabels = field(init=False)
    _began: float | None = None
    _ended: float | None = None
    _owed: float = 0.0
    _published: int = 0
    _looked: float = 0.0
    _save_at: float = 0.0
    _before: tuple[int, int] = (0, 0)
    _divergence: list[float] = field(default_factory=list)
    _agreement: list[float] = field(default_factory=list)
    _rest: float = 0.0
    _rate: float = 0.0
    _current: Executor | None = None

    def __post_init__(self) -> None:
        """Judge the planner by the first labels of this run, or those of its dataset."""
        self.first = FirstLabels(self.distiller.freeze())
        if self.held_out is not None:
            self.first.add(self.held_out)

    @property
    def elapsed(self) -> float:
        """Seconds of learning, earlier runs counted in."""
        if self._began is None:
            return self.earlier
        now = time.monotonic() if self._ended is None else self._ended
        return self.earlier + now - self._began

    def stop_clock(self) -> None:
        """Let what follows not count as learning."""
        self._ended = time.monotonic()

    @property
    def labels(self) -> int:
        """Labels so far, those refused counted in."""
        return self.distiller.buffer.seen + self.distiller.buffer.refused

    @property
    def done(self) -> float:
        """The share of the budget that is used, 0 to 1."""
        budget = self.budget
        shares = [0.0]
        if budget.seconds is not None:
            shares.append(self.elapsed / budget.seconds)
        elif budget.labels is not None:
            shares.append(self.labels / budget.labels)
        if budget.steps is not None:
            shares.append(self.distiller.steps / budget.steps)
        return min(1.0, max(shares))

    def loop(self, stop: Callable[[], bool]) -> None:
        """Learn until the budget is used or `stop` says so."""
        if self.labels:
            # Those of a dataset or of an earlier run are learnt from at once.
            self._began = time.monotonic()
        self._looked = self._save_at = self.elapsed
        self._before = self.labels, self.distiller.steps
        while self.done < 1.0:
            self.interrupted = stop()
            if self.interrupted:
                break
            self.distiller.schedule(self.done)
            if len(self.snapshots) < len(self.marks) and self.done >= self._mark():
                self.snapshots.append(self.distiller.freeze())
            if self.budget.seconds is not None:
                self._side_by_side()
            elif self.budget.labels is not None:
                self._take_turns()
            else:
                self._count_steps()
            if self.elapsed - self._looked >= max(self.every, self._rest):
                self.look()
            if self.labels and self.elapsed >= self._save_at:
                self.save()
        self.first.judge()
        self.look()

    def _mark(self) -> float:
        return self.marks[len(self.snapshots)]

    def _take_turns(self) -> None:
        before = self.labels
        for labels in self.source.take():
            left = (self.budget.labels or 0) - self.labels
            self._learn_of([labels if len(labels.obs) <= left else _first(labels, left)])
        self._owed += self.budget.ratio * (self.labels - before)
        while self._owed >= 1.0:
            self._owed -= 1.0
            self._step()
        if self.labels - self._published >= _PUBLISH * self.way.environments:
            self._published = self.labels
            self._publish()

    def _side_by_side(self) -> None:
        most = self.budget.labels
        if most is None or self.labels < most:
            self._learn_of(self.source.take())
        until = time.monotonic() + _BURST
        # At least one, on a machine that is busy with something else too.
        while True:
            if not self._step():
                time.sleep(0.002)
            if time.monotonic() >= until:
                break

    def _count_steps(self) -> None:
        self._learn_of(self.source.take())
        for _ in range(_STEPS):
            if self.done < 1.0:
                self._step()

    def _learn_of(self, batches: list[Labels]) -> None:
        if batches and self._began is None:
            self._began = time.monotonic()
        for obs, dist, link in batches:
            if self.held_out is None:
                self._compare(Labels(obs[:64], dists.rows(dist, slice(0, 64))))
            self.distiller.add(obs, dist, link)
            self.first.add(Labels(obs, dist, link))

    def _compare(self, labels: Labels) -> None:
        """Note how far the executor agrees with labels."""
        if self._current is None or self._current.memory:
            return
        obs, dist, _ = labels
        action = self._current.spec.action
        said, mine = dists.mode(dist, action), dists.mode(self._current(obs), action)
        self._agreement.append(float(dists.agreement(mine, said, action).mean()))

    def _step(self) -> bool:
        metrics = self.distiller.step()
        if not metrics:
            return False
        self._divergence.append(metrics["divergence"])
        self._rate = metrics["learning_rate"]
        return True

    def _publish(self) -> None:
        if self.distiller.steps == 0:
            return
        self.version += 1
        self._current = self.distiller.freeze(self.version)
        self.source.update(self._current, self.way.share(self.labels))

    def look(self) -> None:
        """Record the progress and report it."""
        now = self.elapsed
        labels, steps = self._before
        if self.budget.labels is None or self.budget.seconds is not None:
            self._publish()
        if self._current is not None and self._current.memory:
            # A label alone says nothing of a memory.
            self._agreement.append(self.distiller.agreement(self.labels - labels))
        elif self.held_out is not None:
            self._compare(self.held_out)
        passed = max(1e-9, now - self._looked)
        returns = self.source.returns()
        progress = Progress(
            seconds=now,
            done=self.done,
            labels=self.labels,
            steps=self.distiller.steps,
            labels_per_second=(self.labels - labels) / passed,
            steps_per_second=(self.distiller.steps - steps) / passed,
            divergence=_mean(self._divergence),
            agreement=_mean(self._agreement),
            executor_return=_mean(returns),
            planner_share=self.way.share(self.labels),
            learning_rate=self._rate,
            refused=self.distiller.buffer.refused,
            explained=self.first.share,
        )
        self._looked, self._before = now, (self.labels, self.distiller.steps)
        self._divergence.clear()
        self._agreement.clear()
        self.history.append(progress)
        if self.watch is not None:
            self.watch(progress)
        # Images and long memories make a look slow; learning is what the time is for.
        self._rest = _LOOKING * (self.elapsed - now)

    def save(self) -> None:
        """Leave a checkpoint, if one was asked for."""
        least, most = _SAVE_AFTER
        passed = self.elapsed - self.earlier
        self._save_at = self.elapsed + min(most, max(least, passed))
        if self.checkpoint is None or not self.distiller.buffer.seen:
            return
        now = replace(self.origin, seconds=self.elapsed)
        try:
            save_checkpoint(self.checkpoint, self.distiller, now)
            self.unsaved = ""
        except WriteError as error:
            # Learning goes on: the executor is worth more than the way back.
            self.unsaved = str(error)
            log.warning("No checkpoint: %s", error)


def _first(labels: Labels, count: int) -> Labels:
    """Return the first of some labels."""
    link = None if labels.link is None else labels.link[:count]
    return Labels(labels.obs[:count], dists.rows(labels.dist, slice(count)), link)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
