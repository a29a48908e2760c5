"""Methods: functions from a task to an executor. Ours use the interface that a user's own do."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Protocol

from agentkd.distillation.distiller import DistillerOptions
from agentkd.distillation.loop import run_distillation
from agentkd.distillation.sources import CollectionOptions
from agentkd.distillation.task import Task, need_fit
from agentkd.errors import ConfigError, PlannerError
from agentkd.executors.executor import Executor
from agentkd.refs import resolve


class Method(Protocol):
    """What `--method module:attribute` and `methods` of a suite name."""

    def __call__(
        self, task: Task, *, executor: str, labels: int, seed: int, **options: Any
    ) -> Executor:
        """Make an executor.

        Args:
            task: The environment with its planner: `task.env`, `task.planner.policy`, `task.spec`.
            executor: The architecture, such as "mlp:64,64"; `task.executor(executor, seed)` makes
                one with new weights.
            labels: How many labels the planner may be asked for.
            seed: For everything that is drawn. The same seed has to give the same executor.
            options: What the suite says besides, by name.
        """


def distilled(
    task: Task,
    *,
    executor: str,
    labels: int,
    seed: int,
    terms: str = "match",
    steps_per_label: float | None = None,
    environments: int = 16,
) -> Executor:
    """Distil as `agentkd distill --labels` does: the executor drives more and more of the way."""
    way = CollectionOptions(environments=environments, device="cpu")
    return _run(task, way, executor, labels, seed, terms, steps_per_label)


def cloned(
    task: Task,
    *,
    executor: str,
    labels: int,
    seed: int,
    terms: str = "match",
    steps_per_label: float | None = None,
    environments: int = 16,
) -> Executor:
    """Clone the planner's behaviour: the same, but the planner drives alone."""
    way = CollectionOptions(environments=environments, least_share=1.0, device="cpu")
    return _run(task, way, executor, labels, seed, terms, steps_per_label)


def _run(
    task: Task,
    way: CollectionOptions,
    executor: str,
    labels: int,
    seed: int,
    terms: str,
    steps_per_label: float | None,
) -> Executor:
    result = run_distillation(
        task,
        executor=executor,
        labels=labels,
        steps_per_label=steps_per_label,
        seed=seed,
        options=DistillerOptions(seed=seed, terms=terms),
        collection=way,
        episodes=0,
        kept_bytes=0,
        progress=False,
    )
    if result.fault:
        raise PlannerError(f"The distillation ended early: {result.fault}")
    if result.interrupted:
        raise KeyboardInterrupt
    return result.executor


def check_method(reference: str, options: Mapping[str, Any]) -> None:
    """Check that a reference leads to a function that takes what a method is given.

    Raises:
        RefError: If it leads nowhere.
        ConfigError: If it cannot be called so; with the arguments that it has.
    """
    found = resolve(reference)
    if not callable(found):
        raise ConfigError(
            f"The method {reference} is a {type(found).__name__}; name a function "
            "(task, *, executor, labels, seed) that returns an Executor."
        )
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(None, executor="", labels=1, seed=0, **options)
    except TypeError as error:
        raise ConfigError(
            f"The method {reference} has the arguments {signature}, and is called with a task and "
            f"{', '.join(['executor', 'labels', 'seed', *options])} by name: {error}."
        ) from error


def make_executor(
    task: Task, reference: str, options: Mapping[str, Any], executor: str, labels: int, seed: int
) -> Executor:
    """Let a method make an executor, and check that it is one for the task.

    Raises:
        ConfigError: If it is none, or for another environment.
    """
    made = resolve(reference)(task, executor=executor, labels=labels, seed=seed, **options)
    if not isinstance(made, Executor):
        raise ConfigError(f"The method {reference} returned a {type(made).__name__}, no Executor.")
    need_fit(made.spec, task.spec, f"The executor of {reference}")
    return made
