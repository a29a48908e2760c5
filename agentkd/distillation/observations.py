"""Observations without an episode, such as those that devices sent, as labels to learn from."""

from __future__ import annotations

from typing import Any

import numpy as np

from agentkd import dists
from agentkd.distillation.collector import TERMINATED
from agentkd.distillation.dataset import About, Dataset, Rows
from agentkd.errors import ConfigError
from agentkd.planners import Planner
from agentkd.types import ActionDist, Floats, Guidance, Labels

_BATCH = 1024


def labelled(
    obs: Floats, planner: Planner, *, env: str = "", kept: Labels | None = None
) -> Dataset:
    """Ask a planner about observations, and return its labels as a dataset in memory.

        dataset = labelled(gather("plant", spec.obs.size).obs, planner, kept=bundle.labels)
        result = run_distillation(data=dataset, executor="executor.akd", steps=5000)

    Args:
        obs: Flat observations, (n, size).
        planner: What labels them; it has no memory.
        env: The environment's name, for the executor's file.
        kept: Labels of before, such as the kept ones of an executor's file, which it shall not
            forget. They are taken as they are, and come before the others.

    Returns:
        Each label is an episode of its own. Labels with NaN or infinity are left out, and counted
        in `refused`.

    Raises:
        ConfigError: If the planner has a memory, `kept` are labels of another kind, or nothing is
            left.
        PlannerError: If the planner fails.
    """
    spec, policy = planner.spec, planner.policy
    if hasattr(policy, "initial_state"):
        raise ConfigError(
            f"{planner.name} has a memory; it cannot label observations without what came before."
        )
    horizon = int(getattr(policy, "horizon", 1))
    answers: list[ActionDist] = []
    for begin in range(0, len(obs), _BATCH):
        batch = obs[begin : begin + _BATCH]
        answer: Any = policy(batch)
        rows = answer.rows if isinstance(answer, Guidance) else answer
        if rows is None:
            raise ConfigError(f"{planner.name} gives goals alone, which label nothing.")
        dists.check(rows, spec.action, len(batch) * horizon)
        answers.append(dists.opened(dists.rows(rows, np.arange(len(batch)) * horizon), spec.action))
    if kept is not None:
        obs = np.concatenate([kept.obs, obs])
        answers.insert(0, dists.opened(kept.dist, spec.action))
    kinds = sorted({dists.kind_of(each) for each in answers})
    if len(kinds) != 1:
        raise ConfigError(f"Labels of {' and '.join(kinds) or 'nothing'} make no dataset.")
    dist = dists.stack(answers, spec.action)
    whole = np.isfinite(obs).all(axis=1) & np.isfinite(dists.pack(dist)).all(axis=1)
    count = int(whole.sum())
    if not count:
        raise ConfigError(f"None of {len(obs)} labels is finite.")
    found = Rows(
        obs=np.ascontiguousarray(obs[whole], np.float32),
        dist=dists.rows(dist, whole),
        reward=np.zeros(count, np.float32),
        episode=np.arange(count, dtype=np.int32),
        ended=np.full(count, TERMINATED, np.uint8),
    )
    about = About(
        env=env,
        spec=spec,
        planner=planner.name,
        digest=planner.digest,
        parameters=planner.parameters,
    )
    return Dataset(
        about=about,
        kind=dists.kind_of(dist),
        labels=count,
        episodes=count,
        parts=1,
        part=lambda _: found,
        refused=len(obs) - count,
    )
