"""The measuring of one cell, in whatever process."""

from __future__ import annotations

import asyncio
import random
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from agentkd.bench.cells import Cell
from agentkd.bench.methods import make_executor
from agentkd.bench.orders import MOST_RETURN, Done, Figures, Order
from agentkd.deploy.bundle import Bundle, from_bytes, to_bytes
from agentkd.deploy.int8.calibrate import integer_form
from agentkd.deploy.vectors import STEPS
from agentkd.distillation.task import Task, open_task
from agentkd.errors import EpisodeError, NumbersError
from agentkd.executors.executor import Executor
from agentkd.files import read_file, write_atomic
from agentkd.measure.evaluate import evaluate_random, record
from agentkd.measure.live import Setting, live
from agentkd.printable import printable
from agentkd.refs import resolve
from agentkd.runtime.arbiter import Mode, Router
from agentkd.runtime.rollforward import RollForward
from agentkd.runtime.routers import Guard, Valid
from agentkd.runtime.strategies import StrategyOptions
from agentkd.views import EVERYTHING

LARGEST = 1 << 28
"""Bytes of an executor's file that are read at most."""
_GOLDEN_SEED = 10_000_000
"""Where the episodes begin that integers are calibrated on: far from those measured on."""
_MOST_WORDS = 500


def measure(cell: Cell, known: bytes | None, keep: Callable[[bytes], None]) -> Figures:
    """Measure a cell; its executor is made first, unless it is `known` or a file.

    Everything that draws without a seed of its own draws the same in each process.

    Args:
        cell: What to measure.
        known: The executor file of an earlier cell with the same recipe.
        keep: Takes the executor file that is made here, before it is measured.

    Raises:
        Exception: What planner, environment or method raise.
    """
    _seed(cell)
    began = time.monotonic()
    if cell.arm == "random":
        lived = evaluate_random(cell.env, episodes=cell.episodes, seed=cell.first_seed)
        return Figures(lived.returns, 0, 0.0, time.monotonic() - began)
    task = _opened(cell)
    making = 0.0
    bundle: Bundle | None = None
    if cell.acts:
        if not cell.reference:
            known = read_file(cell.executor, LARGEST)
        elif known is None:
            known = _made(task, cell)
            making = time.monotonic() - began
            keep(known)
            # What planner and generators have become would count only here, and not where the
            # executor lay there already.
            _seed(cell)
            task = _opened(cell)
        # What was made is read as what lay there, so that both are the same.
        bundle = from_bytes(known)
    returns = _returns(task, cell, bundle)
    if not (np.abs(returns) <= MOST_RETURN).all():
        raise NumbersError(f"A return is NaN, infinite, or beyond {MOST_RETURN:g}.")
    size = bundle.executor.parameters if bundle is not None else 0
    return Figures(tuple(returns), size, making, time.monotonic() - began)


def _seed(cell: Cell) -> None:
    """Seed the generators that all share."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(cell.seed)
    random.seed(cell.seed)
    np.random.seed(cell.seed)  # noqa: NPY002 (for methods that use it)


def _opened(cell: Cell) -> Task:
    return open_task(
        cell.env,
        cell.planner,
        executor_sees=cell.executor_sees or None,
        sees=cell.planner_sees or None,
    )


def _made(task: Task, cell: Cell) -> bytes:
    executor = make_executor(
        task, cell.reference, cell.options, cell.executor, cell.labels, cell.seed
    )
    # By what it sees on its own way, integers are calibrated.
    own = record(cell.env, executor.policy, steps=STEPS, seed=_GOLDEN_SEED, spec=executor.spec)
    facts = {"env": cell.env, "planner": {"refs": [cell.planner], "name": task.planner.name}}
    return to_bytes(executor, {**facts, "method": cell.method, "seed": cell.seed}, golden=own)


def _returns(task: Task, cell: Cell, bundle: Bundle | None) -> Sequence[float]:
    """Return what who acts in a cell reaches."""
    how = {"episodes": cell.episodes, "seed": cell.first_seed}
    if bundle is None:
        if not cell.latency:
            return task.measure(task.planner.policy, **how).returns
        return _lived(task, cell, task.executor("mlp:4", goals=task.goals), "planner")
    # What it sees is its own; the task's view is for new ones.
    known = replace(task, sees=EVERYTHING)
    executor = known.executor(bundle.executor, name=cell.executor, goals=task.goals)
    if cell.arm == "int8":
        return task.measure(integer_form(bundle).policy, **how).returns
    if cell.arm == "runtime":
        return _lived(task, cell, executor, "runtime")
    if cell.guard or task.goals is not None:
        return _lived(task, cell, executor, "executor")
    return task.measure(executor.policy, **how).returns


def _lived(task: Task, cell: Cell, executor: Executor, mode: Mode) -> Sequence[float]:
    """Live the episodes under the virtual clock.

    The planner alone acts when its answer arrives, without routers or roll-forward.
    """
    ahead = None
    if cell.roll_forward and mode == "runtime":
        ahead = RollForward(cell.roll_forward, cell.guard or None)
    setting = Setting(
        env=cell.env,
        hz=cell.hz,
        clock="virtual",
        latency=cell.latency,
        budget=0.0,
        ticks=None,
        seconds=None,
        episodes=cell.episodes,
        seed=cell.first_seed,
        routers=tuple if mode == "planner" else lambda: _routers(cell),
        strategies=StrategyOptions(roll_forward=ahead, goals=task.goals),
    )
    lived = asyncio.run(live(setting, mode, executor, task.planner.policy))
    if lived.fault:
        raise EpisodeError(lived.fault)
    return lived.result.returns


def _routers(cell: Cell) -> list[Router]:
    found: list[Router] = []
    if cell.holds:
        found.append(Valid(holds=resolve(cell.holds)))
    if cell.guard:
        found.append(Guard(resolve(cell.guard)))
    return found


def carry_out(order: Order) -> Done:
    """Measure a cell beside its executor's file, which is written if it is missing.

    What is raised becomes an error.
    """
    path = Path(order.file) if order.file else None
    try:
        known = read_file(path, LARGEST) if path is not None and path.exists() else None

        def keep(made: bytes) -> None:
            if path is not None:
                write_atomic(path, made)

        return Done(order.key, measure(order.cell, known, keep))
    except (Exception, SystemExit) as error:
        return Done(order.key, error=told(error))


def told(error: BaseException) -> str:
    """Describe an error in a line: its class, its message, and where it was raised."""
    text = " ".join(str(error).split())[:_MOST_WORDS]
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return printable(f"{type(error).__name__}: {text}{place}")
