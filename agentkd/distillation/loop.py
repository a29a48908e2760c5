"""Distillation from start to end: collect labels, learn from them, give an executor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentkd import dists, environments
from agentkd.deploy.kept import BYTES
from agentkd.distillation.asking import check_memory
from agentkd.distillation.checkpoint import Checkpoint, go_on
from agentkd.distillation.distiller import Distiller, DistillerOptions
from agentkd.distillation.head_start import HeadStart
from agentkd.distillation.process_source import ProcessSource
from agentkd.distillation.progress import Progress, Watch
from agentkd.distillation.run import Run
from agentkd.distillation.source import CollectionOptions, LocalSource, Source
from agentkd.distillation.terms import Terms
from agentkd.errors import AgentkdError, ConfigError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.interrupt import ctrl_c
from agentkd.planners import Planner, load_planner
from agentkd.planners.horizon import one_row
from agentkd.printable import logger
from agentkd.spec import Spec
from agentkd.types import ActionDist, Floats, Kind, Labels

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Budget:
    """How long a distillation goes on: by time, by labels or by gradient steps.

    Attributes:
        seconds: Of wall time from the first label on; starting processes does not count. Collecting
            and learning then run side by side. With `labels` as well, collecting ends at so many
            and learning goes on.
        labels: How many labels; without `seconds`, learning and collecting take turns in one
            process, and the same seed gives the same executor.
        steps_per_label: Gradient steps for each label, when they take turns; by default 1/8, or
            more where there are few labels.
        steps: How many gradient steps, for labels that lie there already; the same seed gives the
            same executor.
    """

    seconds: float | None = None
    labels: int | None = None
    steps_per_label: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        """Validate the fields."""
        if self.seconds is None and self.labels is None and self.steps is None:
            raise ConfigError("A distillation needs an end: give seconds or labels.")
        if self.seconds is not None and not self.seconds > 0:
            raise ConfigError(f"seconds is {self.seconds}; it has to be above 0.")
        if self.labels is not None and self.labels < 1:
            raise ConfigError(f"labels is {self.labels}; it has to be at least 1.")
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"steps is {self.steps}; it has to be at least 1.")
        if self.steps_per_label is not None and not self.steps_per_label > 0:
            raise ConfigError(f"steps_per_label is {self.steps_per_label}; it has to be above 0.")

    @property
    def ratio(self) -> float:
        """Gradient steps for each label, when learning and collecting take turns."""
        if self.steps_per_label is not None:
            return self.steps_per_label
        return max(1 / 8, min(4.0, 3000 / (self.labels or 3000)))


@dataclass(frozen=True, slots=True)
class Distilled:
    """The result of a distillation.

    Attributes:
        executor: The executor.
        planner: What it was distilled from.
        labels: Labels that were made.
        steps: Gradient steps that were taken.
        seconds: How long it learnt from its first label on, earlier runs counted in.
        refused: Labels left out because they held NaN or infinity.
        interrupted: Whether it was ended before its budget.
        fault: What ended it, if planner or environment failed for good; "" otherwise.
        restarts: How often the collecting process had to be started again.
        rejected: Gradient steps that ended in NaN or infinity and were undone.
        dropped: Labels that found no room on their way here.
        unsaved: Why no checkpoint could be written; "" where one was, or none asked.
        history: Looks at it on the way.
        terms: What was minimised.
        kept: A sample of the labels, for the executor's file; None if none was asked for, or the
            executor has a memory.
    """

    executor: Executor
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
    kept: Labels | None = None


def kind_of_planner(planner: Planner, spec: Spec, probe: Floats) -> Kind:
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

    A Gaussian planner's mean is clipped by the box instead, and saturates it often; tanh reaches a
    bound only in the limit.
    """
    return kind_of_planner(planner, spec, probe) != "gaussian"


def distill(
    env: str,
    planner: str | Sequence[str] | Planner,
    executor: str | Executor = "mlp:64,64",
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
    kept_bytes: int = BYTES,
) -> Distilled:
    """Distil a planner into an executor while environments run.

    Args:
        env: The environment's name, as `agentkd.environments.make` takes it.
        planner: A reference, several (an ensemble), or a `Planner` at hand. With a time budget and
            references, labels are collected in a process of its own (and in this one until that has
            started).
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
        kept_bytes: What the sample of labels in `Distilled.kept` may take; 0 for none.

    Returns:
        The executor and what is known about it. Ctrl-C ends it early, with what was learnt until
        then.

    Raises:
        ConfigError: If an option is invalid.
        LoadError: If the planner cannot be loaded.
        AgentkdError: If planner or environment fail before anything was learnt; later their words
            are in `Distilled.fault`, beside what was learnt.
    """
    end = budget or Budget(seconds=60.0)
    if end.seconds is None and end.labels is None:
        raise ConfigError("steps alone are for a dataset; give seconds or labels.")
    way = collection or CollectionOptions()
    spec, probe = environments.look_at(env)
    known = (
        planner if isinstance(planner, Planner) else load_planner(planner, spec, **(access or {}))
    )
    if isinstance(executor, str):
        chosen = initial(executor, spec, seed=seed, squashed=squashed_head(known, spec, probe))
    else:
        chosen = executor
    check_memory(way.ask, chosen.architecture, chosen.memory)
    learning = options or DistillerOptions(seed=seed)
    if end.labels is not None:
        learning = replace(learning, least=min(learning.least, end.labels))
    distiller = Distiller(chosen, learning, known.policy)
    distiller.expect(kind_of_planner(known, spec, probe))
    origin = Checkpoint(planner=known.digest)
    earlier = 0.0
    if resume:
        earlier = go_on(checkpoint, distiller, origin)
        seed += distiller.steps
    apart = end.seconds is not None and not isinstance(planner, Planner)
    if apart:
        assert not isinstance(planner, Planner)
        source: Source = HeadStart(
            lambda: LocalSource(env, known.policy, chosen, spec, way, seed + 1),
            ProcessSource(env, planner, access or {}, chosen, spec, way, seed),
        )
    else:
        source = LocalSource(env, known.policy, chosen, spec, way, seed)
    run = Run(distiller, source, end, way, earlier, every, watch, checkpoint, origin)
    return carry_out(run, known, stop, kept_bytes)


def carry_out(
    run: Run, planner: Planner, stop: Callable[[], bool] | None = None, kept_bytes: int = BYTES
) -> Distilled:
    """Run a distillation to its end, close its source and return the result.

    Args:
        run: The distillation.
        planner: What its labels come from.
        stop: Asked now and then; True ends it with what was learnt.
        kept_bytes: What the sample of labels in `Distilled.kept` may take; 0 for none.

    Raises:
        AgentkdError: If the source fails before anything was learnt.
    """
    distiller, source = run.distiller, run.source
    fault = ""
    # What was learnt is not lost to another Ctrl-C while it is put away.
    with ctrl_c(patience=2) as again:
        try:
            with ctrl_c() as asked:
                run.loop(lambda: asked() or (stop is not None and stop()))
        except KeyboardInterrupt:
            run.interrupted = True
        except AgentkdError as error:
            # What was learnt before is worth keeping; else the error is all.
            if not distiller.steps:
                raise
            fault = f"{type(error).__name__}: {error}"
        finally:
            run.stop_clock()
            source.close()
        run.save()
    run.interrupted |= again()
    return Distilled(
        executor=distiller.freeze(version=run.version + 1),
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
        kept=distiller.sample(kept_bytes),
    )
