"""Distillation from start to end: collect labels, learn from them, give an executor."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import numpy as np

from agentkd import dists, environments
from agentkd.distill.asking import check_memory
from agentkd.distill.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from agentkd.distill.distiller import Distiller, DistillerOptions
from agentkd.distill.head_start import HeadStart
from agentkd.distill.interrupt import ctrl_c
from agentkd.distill.process_source import ProcessSource
from agentkd.distill.progress import Progress, Watch
from agentkd.distill.source import CollectionOptions, LocalSource, Source
from agentkd.distill.terms import Terms
from agentkd.errors import AgentkdError, ConfigError, WriteError
from agentkd.executors.architecture import initial
from agentkd.executors.frozen import Frozen
from agentkd.planners import Planner, load_planner
from agentkd.planners.horizon import one_row
from agentkd.printable import logger
from agentkd.spec import Spec, env_spec, flatten_one
from agentkd.types import ActionDist, Floats, Labels

log = logger(__name__)

_BURST = 0.02
_PUBLISH = 32
"""Ticks of all environments after which an executor drives them, taking turns."""
_STEPS = 16
"""Gradient steps between two looks at the budget, where steps are what is counted."""
_CHECKPOINT_EVERY = 30.0


@dataclass(frozen=True, slots=True)
class Budget:
    """How long a distillation goes on: by time, by labels or by gradient steps.

    Attributes:
        seconds: Of wall time; collecting and learning then run side by side. With
            `labels` as well, collecting ends at so many and learning goes on.
        labels: How many labels; without `seconds`, learning and collecting take turns
            in one process, and the same seed gives the same executor.
        steps_per_label: Gradient steps for each label, when they take turns; by
            default 1/8, or more where there are few labels.
        steps: How many gradient steps, for labels that lie there already; the same
            seed gives the same executor.
    """

    seconds: float | None = None
    labels: int | None = None
    steps_per_label: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.seconds is None and self.labels is None and self.steps is None:
            raise ConfigError("A distillation needs an end: give seconds or labels.")
        if self.seconds is not None and not self.seconds > 0:
            raise ConfigError(f"seconds is {self.seconds}; it has to be above 0.")
        if self.labels is not None and self.labels < 1:
            raise ConfigError(f"labels is {self.labels}; it has to be at least 1.")
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"steps is {self.steps}; it has to be at least 1.")
        if self.steps_per_label is not None and not self.steps_per_label > 0:
            raise ConfigError(
                f"steps_per_label is {self.steps_per_label}; it has to be above 0."
            )

    @property
    def ratio(self) -> float:
        """Gradient steps for each label, when learning and collecting take turns."""
        if self.steps_per_label is not None:
            return self.steps_per_label
        return max(1 / 8, min(4.0, 3000 / (self.labels or 3000)))


@dataclass(frozen=True, slots=True)
class Distilled:
    """What came of a distillation.

    Attributes:
        frozen: The executor.
        planner: What it was distilled from.
        labels: Labels that were made.
        steps: Gradient steps that were taken.
        seconds: How long it took, the set-up and earlier runs counted in.
        refused: Labels left out because they held NaN or infinity.
        interrupted: Whether it was ended before its budget.
        fault: What ended it, if planner or environment failed for good; "" otherwise.
        restarts: How often the collecting process had to be started again.
        rejected: Gradient steps that ended in NaN or infinity and were undone.
        dropped: Labels that found no room on their way here.
        unsaved: Why no checkpoint could be written; "" where one was, or none asked.
        history: Looks at it on the way.
        terms: What was minimised.
    """

    frozen: Frozen
    planner: Planner
    labels: int
    steps: int
    seconds: float
    refused: int
    interrupted: bool
    fault: str
    restarts: int
    rejected: int
    dropped: int
    unsaved: str
    history: tuple[Progress, ...]
    terms: Terms = ()


def look_at(env: str) -> tuple[Spec, Floats]:
    """Give an environment's spec, and an observation that it begins with, (1, obs)."""
    probe = environments.make(env)
    try:
        spec = env_spec(probe)
        obs, _ = probe.reset(seed=0)
        return spec, flatten_one(spec.obs, obs)[None]
    finally:
        probe.close()


def kind_of_planner(planner: Planner, spec: Spec, probe: Floats) -> dists.Kind:
    """Ask a planner about an observation (1, obs) to see what it answers with."""
    policy = one_row(planner.policy)
    if hasattr(policy, "initial_state"):
        dist: ActionDist = policy(probe, policy.initial_state(1))[0]
    else:
        dist = policy(probe)
    dists.check(dist, spec.action, 1)
    return dists.kind_of(dist)


def squashed_head(planner: Planner, spec: Spec, probe: Floats) -> bool:
    """Whether an executor of bounded boxes should end in tanh, as its planner does.

    `probe` is an observation that the environment gave, (1, obs).

    A Gaussian planner's mean is clipped by the box instead, and saturates it often;
    tanh reaches a bound only in the limit.
    """
    return kind_of_planner(planner, spec, probe) != "gaussian"


def distill(
    env: str,
    planner: str | Sequence[str] | Planner,
    executor: str | Frozen = "mlp:64,64",
    *,
    budget: Budget | None = None,
    seed: int = 0,
    options: DistillerOptions | None = None,
    collection: CollectionOptions | None = None,
    access: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
    every: float = 0.5,
    checkpoint: Path | None = None,
    resume: bool = False,
    stop: Callable[[], bool] | None = None,
) -> Distilled:
    """Distil a planner into an executor while environments run.

    Args:
        env: The environment's name, as `agentkd.environments.make` takes it.
        planner: A reference, several (an ensemble), or a `Planner` at hand. With a
            time budget and references, labels are collected in a process of its own
            (and in this one until that has started).
        executor: An architecture such as "mlp:64,64", or an executor to go on from.
        budget: When to end; 60 seconds by default.
        seed: For weights, resets and draws.
        options: How to learn.
        collection: Who drives.
        access: How references are read: `load_planner`'s own options, by name.
        watch: Called with a `Progress` every so often.
        every: Seconds between two looks.
        checkpoint: A folder in which to leave what is needed to go on later.
        resume: Go on from that folder.
        stop: Asked now and then; True ends the distillation with what was learnt.

    Returns:
        The executor and what is known about it. Ctrl-C ends it early, with what was
        learnt until then.

    Raises:
        ConfigError: If an option cannot be meant.
        LoadError: If the planner cannot be loaded.
        AgentkdError: If planner or environment fail before anything was learnt; later
            their words are in `Distilled.fault`, beside what was learnt.
    """
    begin = time.monotonic()
    end = budget or Budget(seconds=60.0)
    if end.seconds is None and end.labels is None:
        raise ConfigError("steps alone are for a dataset; give seconds or labels.")
    way = collection or CollectionOptions()
    spec, probe = look_at(env)
    known = (
        planner
        if isinstance(planner, Planner)
        else load_planner(planner, spec, **(access or {}))
    )
    if isinstance(executor, str):
        frozen = initial(
            executor, spec, seed=seed, squashed=squashed_head(known, spec, probe)
        )
    else:
        frozen = executor
    check_memory(way.ask, frozen.architecture, frozen.memory)
    learning = options or DistillerOptions(seed=seed)
    if end.labels is not None:
        learning = replace(learning, least=min(learning.least, end.labels))
    distiller = Distiller(frozen, learning, known.policy)
    distiller.expect(kind_of_planner(known, spec, probe))
    origin = Checkpoint(planner=known.digest)
    earlier = 0.0
    if resume:
        if checkpoint is None:
            raise ConfigError("resume needs the checkpoint's folder.")
        earlier = load_checkpoint(checkpoint, distiller, origin).seconds
        seed += distiller.steps
    apart = end.seconds is not None and not isinstance(planner, Planner)
    if apart:
        assert not isinstance(planner, Planner)
        source: Source = HeadStart(
            lambda: LocalSource(env, known.policy, frozen, spec, way, seed + 1),
            ProcessSource(env, planner, access or {}, frozen, spec, way, seed),
        )
    else:
        source = LocalSource(env, known.policy, frozen, spec, way, seed)
    run = Run(
        distiller, source, end, way, begin - earlier, every, watch, checkpoint, origin
    )
    return carry_out(run, known, stop)


def carry_out(
    run: Run, planner: Planner, stop: Callable[[], bool] | None = None
) -> Distilled:
    """Bring a distillation to its end, close its source, and give what came of it.

    Args:
        run: The distillation.
        planner: What its labels come from.
        stop: Asked now and then; True ends it with what was learnt.

    Raises:
        AgentkdError: If the source fails before anything was learnt.
    """
    distiller, source = run.distiller, run.source
    fault = ""
    try:
        with ctrl_c() as asked:
            run.loop(lambda: asked() or (stop is not None and stop()))
    except KeyboardInterrupt:
        run.interrupted = True
    except AgentkdError as error:
        # What was learnt before is worth keeping; where nothing was, the error is all.
        if not distiller.steps:
            raise
        fault = f"{type(error).__name__}: {error}"
    finally:
        source.close()
    run.save()
    return Distilled(
        frozen=distiller.freeze(version=run.version + 1),
        planner=planner,
        labels=distiller.buffer.seen,
        steps=distiller.steps,
        seconds=run.elapsed,
        refused=distiller.buffer.refused,
        interrupted=run.interrupted or bool(fault),
        fault=fault,
        restarts=source.restarts,
        rejected=distiller.rejected,
        dropped=source.dropped,
        unsaved=run.unsaved,
        history=tuple(run.history),
        terms=distiller.options.sum(),
    )


@final
@dataclass(slots=True)
class Run:
    """The state of one distillation between its first and its last label.

    Labels that are `held_out` are never learnt from; agreement is measured on them,
    else on labels that are about to be learnt from.
    """

    distiller: Distiller
    source: Source
    budget: Budget
    way: CollectionOptions
    begin: float
    every: float
    watch: Watch | None
    checkpoint: Path | None
    origin: Checkpoint
    held_out: Labels | None = None
    version: int = 0
    unsaved: str = ""
    interrupted: bool = False
    history: list[Progress] = field(default_factory=list)
    _owed: float = 0.0
    _published: int = 0
    _looked: float = 0.0
    _saved: float = 0.0
    _before: tuple[int, int] = (0, 0)
    _divergence: list[float] = field(default_factory=list)
    _agreement: list[float] = field(default_factory=list)
    _rate: float = 0.0
    _current: Frozen | None = None

    @property
    def elapsed(self) -> float:
        """Seconds since it began, earlier runs counted in."""
        return time.monotonic() - self.begin

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
        self._looked = self._saved = self.elapsed
        self._before = self.labels, self.distiller.steps
        while self.done < 1.0 and not self.interrupted:
            self.distiller.schedule(self.done)
            if self.budget.seconds is not None:
                self._side_by_side()
            elif self.budget.labels is not None:
                self._take_turns()
            else:
                self._count_steps()
            if self.elapsed - self._looked >= self.every:
                self.look()
            if self.elapsed - self._saved >= _CHECKPOINT_EVERY:
                self.save()
            self.interrupted = stop()
        self.look()

    def _take_turns(self) -> None:
        before = self.labels
        self._learn_of(self.source.take())
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
        while time.monotonic() < until:
            if not self._step():
                time.sleep(0.002)

    def _count_steps(self) -> None:
        self._learn_of(self.source.take())
        for _ in range(_STEPS):
            if self.done < 1.0:
                self._step()

    def _learn_of(self, batches: list[Labels]) -> None:
        for obs, dist, link in batches:
            if self.held_out is None:
                self._compare(Labels(obs[:64], dists.rows(dist, slice(0, 64))))
            self.distiller.add(obs, dist, link)

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
        """Note how it goes, and tell whoever watches."""
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
        )
        self._looked, self._before = now, (self.labels, self.distiller.steps)
        self._divergence.clear()
        self._agreement.clear()
        self.history.append(progress)
        if self.watch is not None:
            self.watch(progress)

    def save(self) -> None:
        """Leave a checkpoint, if one was asked for."""
        self._saved = self.elapsed
        if self.checkpoint is None or not self.distiller.steps:
            return
        now = replace(self.origin, seconds=self.elapsed)
        try:
            save_checkpoint(self.checkpoint, self.distiller, now)
            self.unsaved = ""
        except WriteError as error:
            # Learning goes on: the executor is worth more than the way back.
            self.unsaved = str(error)
            log.warning("No checkpoint: %s", error)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
