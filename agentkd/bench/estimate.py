"""How long the missing cells of a suite will take, about."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from agentkd import environments
from agentkd.bench.cells import Cell
from agentkd.bench.rows import Row
from agentkd.bench.schedule import Plan
from agentkd.distillation.task import open_task
from agentkd.measure.evaluate import evaluate

_STEPS = 50
_LONGEST = 1000
"""Steps of an episode whose environment tells no limit."""
_TOGETHER = 4
"""By how much a planner is faster in batches, about, and as many environments with it."""


def seconds_of(plan: Plan, rows: Mapping[str, Row], jobs: int) -> float:
    """Estimate the seconds that the missing cells take.

    Cells like those that are measured take as long as these; for the others each planner acts for
    50 steps, and episodes are taken to last as long as they may.

    Raises:
        AgentkdError: If a planner cannot be loaded, or does not fit its environment.
    """
    missing = [plan.cells[key] for key in plan.missing(rows)]
    known = _known(plan, rows)
    steps: dict[tuple[str, str], tuple[float, int]] = {}
    total, made = 0.0, set()
    for cell in missing:
        recipe = (cell.env, cell.planner, cell.executor, cell.method, cell.seed, cell.labels)
        makes = cell.acts and cell.reference and recipe not in made
        made.add(recipe)
        like = known.get(_like(cell))
        if like is not None:
            total += sum(like) / len(like)
            continue
        where = cell.env, cell.planner
        if where not in steps:
            steps[where] = _step(cell)
        step, longest = steps[where]
        total += step * longest * cell.episodes
        total += step * cell.labels / _TOGETHER if makes else 0.0
    return total / max(1, jobs)


def _like(cell: Cell | Row) -> tuple[str | int, ...]:
    """Name what cells have in common that take about as long."""
    return cell.env, cell.planner, cell.arm, cell.executor, cell.method, cell.episodes


def _known(plan: Plan, rows: Mapping[str, Row]) -> Mapping[tuple[str | int, ...], Sequence[float]]:
    found: dict[tuple[str | int, ...], list[float]] = {}
    for key in plan.cells:
        if key in rows and not rows[key].error:
            found.setdefault(_like(rows[key]), []).append(rows[key].seconds)
    return found


def _step(cell: Cell) -> tuple[float, int]:
    """Give the seconds that a step takes, and how many an episode may have."""
    made = environments.make(cell.env)
    longest = getattr(getattr(made, "spec", None), "max_episode_steps", None) or _LONGEST
    made.close()
    if not cell.planner:
        return 0.0, longest
    task = open_task(cell.env, cell.planner, sees=cell.planner_sees or None)
    began = time.monotonic()
    lived = evaluate(
        cell.env,
        task.planner.policy,
        episodes=1,
        seed=cell.first_seed,
        spec=task.spec,
        max_steps=_STEPS,
        copies=1,
    )
    return (time.monotonic() - began) / max(1, sum(lived.lengths)), longest
