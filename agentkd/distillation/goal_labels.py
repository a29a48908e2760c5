"""Labels for an executor with a goal: each state with a goal of a random age.

At run time a goal is as old as its planner is slow, and that varies. An executor that learns with
goals of every age finds no age new (HiRT, Zhang et al. 2024, trains its fast policy on randomly
delayed latents in the same way).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentkd import dists
from agentkd.errors import SpecError, check_range
from agentkd.runtime.goals import Goals
from agentkd.types import ActionDist, Floats


def aged_labels(
    obs: Floats,
    goals: Floats,
    dist: ActionDist,
    wanted: Goals,
    *,
    starts: NDArray[Any],
    draws: int = 1,
    seed: int = 0,
) -> tuple[Floats, ActionDist]:
    """Pair recorded states with goals of every age.

    Ages are uniform from 0 to `max_age`, and one beyond it, which stands for no goal; so does a
    goal from before the episode.

    Args:
        obs: Observations, tick by tick, (n, obs).
        goals: The goal that the planner gave for each, (n, size).
        dist: The planner's distribution for each, n rows.
        wanted: What goals look like.
        starts: Whether an episode begins with the row, (n,).
        draws: How many labels are made of each row.
        seed: For the ages.

    Returns:
        Observations as the executor makes them, (n · draws, obs + size + 1), and the
        distributions that go with them: what `Distiller.add` takes.

    Raises:
        SpecError: If the arrays do not fit one another.
        ConfigError: If `draws` is invalid.
    """
    count = len(obs)
    if obs.ndim != 2 or goals.shape != (count, wanted.size):
        raise SpecError(
            f"Observations {obs.shape} with goals {goals.shape}; (n, obs) and "
            f"(n, {wanted.size}) are needed."
        )
    labels = len(dists.pack(dist))
    if labels != count or np.shape(starts) != (count,):
        raise SpecError(f"{labels} labels and starts {np.shape(starts)} for {count} observations.")
    check_range("draws", draws, least=1, whole=True)
    random = np.random.default_rng(seed)
    rows = np.tile(np.arange(count), draws)
    age = random.integers(0, wanted.max_age + 2, len(rows))
    begun = np.flatnonzero(np.asarray(starts, bool) | (np.arange(count) == 0))
    first = begun[np.searchsorted(begun, rows, side="right") - 1]
    none = (age > wanted.max_age) | (rows - age < first)
    goal = goals[np.maximum(rows - age, 0)].copy()
    goal[none] = 0.0
    share = np.where(none, 1.0, age / wanted.max_age)
    inputs = np.concatenate([obs[rows], goal, share[:, None]], axis=1)
    return inputs.astype(np.float32), dists.rows(dist, rows)
