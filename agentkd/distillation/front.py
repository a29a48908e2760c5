"""`agentkd.distill`: a planner in, an executor that acts out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from agentkd.distillation.loop import Distilled, run_distillation
from agentkd.executors.executor import About, Executor
from agentkd.printable import logger

log = logger(__name__)


def distill(
    env: Any,
    planner: Any,
    executor: str | Path | Executor = "mlp:64,64",
    *,
    seconds: float | None = None,
    labels: int | None = None,
    episodes: int = 20,
    native: bool = True,
    **options: Any,
) -> Executor:
    """Distil a planner into an executor.

        executor = agentkd.distill("CartPole-v1", model, "mlp:32,32", seconds=30)

    Args:
        env: The environment: a name, a Gymnasium environment, or a function that makes one.
        planner: A live SB3 model, a torch module, a function of observations (batch, size), an
            object with `predict`, the path of a save, or "module:attribute".
        executor: An architecture such as "mlp:64,64", or an executor or its file to go on from.
        seconds: How long to distil; 60 if neither this nor `labels` is given.
        labels: How many labels to collect; without `seconds` the same seed gives the same executor.
        episodes: Episodes to measure planner, random actions and executor over; 0 for none.
        native: Let the executor act in C where there is a compiler.
        options: What else `agentkd.distillation.run_distillation` takes, such as `seed`,
            `planner_sees`, `executor_sees`, `options`, `collection`, `progress`, `checkpoint`.

    Returns:
        The executor. `about.provenance` holds what was measured, `about.labels` a sample of the
        labels; `save` writes both.

    Raises:
        ConfigError: If an option is invalid.
        LoadError: If the planner cannot be loaded.
        AgentkdError: If planner or environment fail before anything was learnt.
    """
    result = run_distillation(
        env, planner, executor, seconds=seconds, labels=labels, episodes=episodes, **options
    )
    if result.fault or result.interrupted:
        why = result.fault or "it was interrupted"
        log.warning("The distillation ended early, with what was learnt: %s", why)
    contract = executor.about.contract if isinstance(executor, Executor) else None
    about = About(_provenance(env, result), contract=contract, labels=result.kept)
    found = replace(result.executor, about=about)
    return found.compile() if native else found


def _provenance(env: Any, result: Distilled) -> dict[str, Any]:
    """Return what is known about a distillation, as JSON values."""
    known: dict[str, Any] = {
        "planner": {"name": result.planner.name},
        "labels": result.labels,
        "steps": result.steps,
        "seconds": round(result.seconds, 3),
    }
    if isinstance(env, str):
        known["env"] = env
    if result.fault:
        known["fault"] = result.fault
    found = result.returns
    if found is None:
        return known
    each = {"planner": found.planner, "executor": found.executor, "random": found.random}
    known["returns"] = {name: float(np.mean(one)) for name, one in each.items()}
    kept = found.retention
    ends = {"mean": kept.mean, "low": kept.low, "high": kept.high}
    if np.isfinite(list(ends.values())).all():
        how = {"confidence": 0.95, "episodes": len(found.executor), "seed": found.seed}
        known["retention"] = {**ends, **how}
    return known
