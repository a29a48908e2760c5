"""Distillation from start to end: collect labels, learn from them, give an executor."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from agentkd.deploy.kept import BYTES
from agentkd.distillation import choosing
from agentkd.distillation.checkpoint import Checkpoint, go_on
from agentkd.distillation.dataset import Dataset
from agentkd.distillation.distiller import Distiller, DistillerOptions
from agentkd.distillation.offline import DatasetSource
from agentkd.distillation.process_source import ProcessSource
from agentkd.distillation.progress import Progress, Watch, show
from agentkd.distillation.run import Budget, Run
from agentkd.distillation.sources import (
    AT_ONCE,
    CollectionOptions,
    HeadStart,
    LocalSource,
    Several,
    Source,
    longest,
)
from agentkd.distillation.task import Returns, Task, open_task
from agentkd.distillation.teachable import warning
from agentkd.distillation.terms import Terms
from agentkd.errors import AgentkdError, ConfigError
from agentkd.executors.architecture import view_of
from agentkd.executors.executor import Executor
from agentkd.interrupt import ctrl_c
from agentkd.planners import Planner
from agentkd.printable import logger
from agentkd.types import Labels
from agentkd.views import Seeing

log = logger(__name__)

_APART = 104_729
"""How far apart the seeds of collecting processes are."""
_DRIVEN = CollectionOptions(least_share=1.0)
"""Of a dataset: nobody drives but the planner that made it."""


@dataclass(frozen=True, slots=True)
class Distilled:
    """The result of a distillation.

    Attributes:
        executor: The executor.
        planner: What it was distilled from.
        labels: Labels that were made.
        steps: Gradient steps that were taken.
        seconds: How long it learnt from its first label on, earlier runs counted in, and chose.
        interrupted: Whether it was ended before its budget.
        fault: What ended it, if planner or environment failed for good; "" otherwise.
        refused: Labels left out because they held NaN or infinity.
        restarts: How often the collecting process had to be started again.
        rejected: Gradient steps that ended in NaN or infinity and were undone.
        dropped: Labels that found no room on their way here.
        unsaved: Why no checkpoint could be written; "" where one was, or none asked.
        history: Looks at it on the way.
        terms: What was minimised.
        kept: A sample of the labels, for the executor's file; None if none was asked for, or the
            executor has a memory.
        returns: What it reached; None if that was not measured.
        engine: What took the gradient steps: "native", compiled C, or "torch".
        explained: The share of the planner's first answers that what the executor sees explains, at
            most 1; NaN if that is not known (`agentkd.distillation.teachable`).
    """

    executor: Executor
    planner: Planner
    labels: int
    steps: int
    seconds: float
    interrupted: bool = False
    fault: str = ""
    refused: int = 0
    restarts: int = 0
    rejected: int = 0
    dropped: int = 0
    unsaved: str = ""
    history: tuple[Progress, ...] = ()
    terms: Terms = ()
    kept: Labels | None = None
    returns: Returns | None = None
    engine: str = "torch"
    explained: float = math.nan


class Chooser(Protocol):
    """Chooses among executors."""

    def __call__(self, executors: Sequence[Executor], *, stop: Callable[[], bool]) -> Executor:
        """Return one of them."""


def make_distiller(
    task: Task,
    executor: str | Path | Executor,
    options: DistillerOptions | None = None,
    seed: int = 0,
) -> Distiller:
    """Make a distiller without labels, and check that its terms fit the task.

    Raises:
        ConfigError: If they do not, or the executor is for another environment.
    """
    learning = options or DistillerOptions(seed=seed)
    known = None if task.data is not None else task.planner.policy
    made = task.executor(executor, seed)
    if task.data is not None and made.spec.obs.taken and not task.data.taken:
        raise ConfigError(
            f"The executor sees {','.join(view_of(made))}, and this dataset does not say which "
            "actions were executed. Record it anew, or let the executor see stack:4."
        )
    distiller = Distiller(made, learning, known)
    distiller.expect(task.kind)
    return distiller


def run_distillation(
    env: Any = None,
    planner: Any = None,
    executor: str | Path | Executor | Distiller = "mlp:64,64",
    *,
    planner_sees: Seeing = None,
    executor_sees: Seeing = None,
    data: Dataset | None = None,
    seconds: float | None = None,
    labels: int | None = None,
    steps: int | None = None,
    steps_per_label: float | None = None,
    seed: int = 0,
    options: DistillerOptions | None = None,
    collection: CollectionOptions | None = None,
    episodes: int = 20,
    eval_seed: int = 1000,
    progress: bool | None = None,
    watch: Watch | None = None,
    every: float = 0.5,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    stop: Callable[[], bool] | None = None,
    kept_bytes: int = BYTES,
) -> Distilled:
    """Distil a planner into an executor while environments run, or from a dataset.

    Args:
        env: The environment, as `open_task` takes it, or a `Task`, and no planner then.
        planner: The planner, as `open_task` takes it: a live SB3 model, a torch module, a function
            of observations, a reference. With seconds and a reference other processes collect.
        executor: An architecture such as "mlp:64,64", or an executor or its file to go on from; or
            what `make_distiller` made of one.
        planner_sees: What the planner sees of the observation: keys ("state,terrain"), places
            ("0:2,4:5") or "module:function" (`agentkd.views`).
        executor_sees: What a new executor sees of it; "stack:4" for the last four.
        data: Labels to learn from instead of asking the planner.
        seconds: How long to distil, 60 if nothing else is given. Collecting and learning run side
            by side. A tenth of them, at most 10, is for letting the last executors act and keeping
            the best (`agentkd.distillation.choosing`).
        labels: How many labels to collect. Without seconds collecting and learning take turns, and
            the same seed gives the same executor.
        steps: With `data`, how many gradient steps.
        steps_per_label: Gradient steps for each label, without seconds; by default 1/8, or more
            where there are few.
        seed: For weights, resets and draws.
        options: How to learn.
        collection: Who drives.
        episodes: Episodes to measure planner, random actions and executor over; 0 for none.
        eval_seed: The first of the seeds to measure on.
        progress: Write a line of progress to stderr; by default on a terminal.
        watch: Called with a `Progress` instead.
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
        LoadError: If the planner cannot be loaded, or the dataset is damaged.
        AgentkdError: If planner or environment fail before anything was learnt; later their words
            are in `Distilled.fault`, beside what was learnt.
    """
    if data is not None and labels is not None:
        raise ConfigError("The dataset has its labels: give seconds or steps.")
    if (seconds, labels, steps) == (None, None, None):
        seconds = 60.0
    task = _task(env, planner, data, planner_sees, executor_sees)
    spare = 0.0
    if task.data is None and seconds is not None:
        spare = min(choosing.MOST, choosing.SHARE * max(0.0, seconds))
    rest = None if seconds is None else seconds - spare
    budget = Budget(rest, labels, steps_per_label, steps)
    if task.data is None and seconds is None and labels is None:
        raise ConfigError("steps alone are for a dataset; give seconds or labels.")
    if not isinstance(executor, Distiller):
        executor = make_distiller(task, executor, options, seed)
    if progress is None:
        progress = watch is None and sys.stderr.isatty()
    measured = episodes > 0 and task.data is None
    if measured:
        known = task.references(episodes, eval_seed)
    place = None if checkpoint is None else Path(checkpoint)
    origin = Checkpoint(planner=task.planner.digest)
    earlier = go_on(place, executor, origin) if resume else 0.0
    way = _DRIVEN if task.data is not None else collection or CollectionOptions()
    source: Source
    held_out = None
    if task.data is not None:
        source = _of_dataset(task.data, executor, seed)
        held_out = source.held_out
    else:
        source = _of_environments(task, executor, way, budget, seed)
    run = Run(
        distiller=executor,
        source=source,
        budget=budget,
        way=way,
        earlier=earlier,
        every=every,
        watch=show if progress else watch,
        checkpoint=place,
        origin=origin,
        held_out=held_out,
        marks=choosing.MARKS if spare else (),
    )
    try:
        chooser = partial(choosing.choose, task, seconds=spare) if spare else None
        result = carry_out(run, task.planner, stop, kept_bytes, chooser)
    finally:
        if progress:
            sys.stderr.write("\n")
    if isinstance(source, DatasetSource):
        return replace(result, labels=source.labels)
    if not measured or result.interrupted:
        return result
    got = task.measure(result.executor.policy, episodes, eval_seed).returns
    return replace(result, returns=replace(known, executor=got))


def _task(
    env: Any, planner: Any, data: Dataset | None, planner_sees: Seeing, executor_sees: Seeing
) -> Task:
    if not isinstance(env, Task):
        return open_task(env, planner, data=data, executor_sees=executor_sees, sees=planner_sees)
    if planner_sees is not None or executor_sees is not None:
        raise ConfigError("A Task says itself who sees what: open_task(…, executor_sees=…).")
    return env


def _of_environments(
    task: Task, distiller: Distiller, way: CollectionOptions, budget: Budget, seed: int
) -> Source:
    """Collect in this process, or in others where time is what counts."""
    least = distiller.options.least
    if budget.labels is not None:
        least = min(least, budget.labels)
    distiller.options = replace(distiller.options, least=least)
    # A run that is resumed does not draw what it drew before.
    seed += distiller.steps
    executor = distiller.freeze()
    most = longest(way.environments, budget.labels)
    if budget.seconds is None:
        return LocalSource(task.collector(way, seed), executor, ticks=most)
    if not task.refs:
        return LocalSource(task.collector(way, seed), executor, AT_ONCE, most)
    there: list[Source] = []
    try:
        for each in range(seed, seed + _APART * way.processes, _APART):
            there.append(ProcessSource(task, executor, way, each))  # noqa: PERF401 (those made are closed)
    except BaseException:
        Several(there).close()
        raise
    return HeadStart(
        lambda: LocalSource(task.collector(way, seed + 1), executor, AT_ONCE, most),
        there[0] if len(there) == 1 else Several(there),
    )


def _of_dataset(data: Dataset, distiller: Distiller, seed: int) -> DatasetSource:
    """Fill the distiller's memory with a dataset's labels."""
    taken = bool(distiller.freeze().spec.obs.taken)
    source = DatasetSource(data, distiller.options.capacity, seed, taken=taken)
    buffer = distiller.buffer
    fresh = not len(buffer)
    for labels in source.fill():
        if fresh:
            distiller.add(*labels)
    if buffer.seen > len(buffer):
        # Bounded by bytes rather than by their number, as with images.
        source.overflows()
    # However few labels there are, there will be no more.
    least = max(1, min(distiller.options.least, len(buffer)))
    distiller.options = replace(distiller.options, least=least)
    return source


def carry_out(
    run: Run,
    planner: Planner,
    stop: Callable[[], bool] | None = None,
    kept_bytes: int = BYTES,
    choose: Chooser | None = None,
) -> Distilled:
    """Run a distillation to its end, close its source, and return the result.

    Args:
        run: The distillation.
        planner: What its labels come from.
        stop: Asked now and then; True ends it with what was learnt.
        kept_bytes: What the sample of labels in `Distilled.kept` may take; 0 for none.
        choose: Chooses among executors, the last one last.

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
        executor = distiller.freeze()
        began = time.monotonic()
        if choose is not None and run.snapshots and not (run.interrupted or fault):

            def ended() -> bool:
                run.interrupted |= again() or (stop is not None and stop())
                return run.interrupted

            executor = choose([*run.snapshots, executor], stop=ended)
        chose = time.monotonic() - began
    run.interrupted |= again()
    # Another watch is told by its looks.
    if run.watch in (None, show) and (said := warning(run.first.share)):
        log.warning("%s", said)
    return Distilled(
        executor=replace(executor, version=run.version + 1),
        planner=planner,
        labels=distiller.buffer.seen,
        steps=distiller.steps,
        seconds=run.elapsed + chose,
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
        engine=distiller.engine.name,
        explained=run.first.share,
    )
