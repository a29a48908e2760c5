"""Observations of a policy's own episodes."""

from __future__ import annotations

from typing import Any

import numpy as np

from agentkd.measure.evaluate import evaluate
from agentkd.spec import Spec
from agentkd.types import Floats, Policy, RecurrentPolicy


def record(
    env: str, policy: Policy | RecurrentPolicy, *, steps: int, seed: int, spec: Spec | None = None
) -> list[Floats]:
    """Let a policy live until it has seen enough, one episode after another.

    Args:
        env: The environment's name, as `agentkd.environments.make` takes it.
        policy: What acts.
        steps: How many observations; the last episode is cut off there.
        seed: Episode i is reset with seed + i.
        spec: The environment's; left out, it is asked.

    Returns:
        Observations, each episode's (steps, obs), in the order in which they were seen.

    Raises:
        AgentkdError: As `evaluate`.
    """
    episodes: list[Floats] = []
    left = steps
    while left > 0:
        seen: list[Floats] = []

        def visit(obs: Floats, _: Any, into: list[Floats] = seen) -> None:
            into.append(obs.copy())

        evaluate(
            env,
            policy,
            episodes=1,
            seed=seed + len(episodes),
            spec=spec,
            visited=visit,
            max_steps=left,
            copies=1,
        )
        episodes.append(np.concatenate(seen))
        left -= len(seen)
    return episodes
