"""Stable-Baselines3's `predict` for executors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from agentkd import dists
from agentkd.errors import NumbersError, SpecError
from agentkd.executors.executor import NOT_FINITE, Executor
from agentkd.executors.recurrent import RecurrentExecutor
from agentkd.spec import flatten, pieces
from agentkd.types import State


@final
class Predictor:
    """An executor with the `predict` of Stable-Baselines3's models.

        evaluate_policy(executor.as_sb3(), env)

    `seed` is for actions that are drawn.
    """

    def __init__(self, executor: Executor, seed: int = 0) -> None:
        self.executor = executor
        self._random = np.random.default_rng(seed)

    def predict(
        self,
        observation: Any,
        state: tuple[NDArray[np.float32], ...] | None = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Any, tuple[NDArray[np.float32], ...] | None]:
        """Return the actions for one observation or a batch, and the memory that follows.

        `state` is what the call before returned, rows of the memory. Where `episode_start`,
        (batch,), is true, the memory starts from zeros. Without `deterministic`, actions are drawn.

        Raises:
            SpecError: If an observation has another shape, or the memory is of another batch.
            NumbersError: If an observation holds NaN or infinity.
        """
        spec = self.executor.spec
        seen = zip(spec.obs.parts, pieces(spec.obs, observation), strict=True)
        part, piece = next(each for each in seen if each[0].size)
        single = np.ndim(piece) <= len(part.shape)
        flat = flatten(spec.obs, _with_axis(observation) if single else observation)
        if not np.isfinite(flat).all():
            raise NumbersError(NOT_FINITE)
        policy = self.executor.policy
        after: State | None = None
        if isinstance(policy, RecurrentExecutor):
            before = policy.initial_state(len(flat))
            if state is not None:
                before = _restored(before, state, episode_start)
            dist, after = policy(flat, before)
        else:
            dist = self.executor(flat)
        if deterministic:
            actions = dists.mode(dist, spec.action)
        else:
            actions = dists.sample(dist, spec.action, self._random)
            if isinstance(policy, RecurrentExecutor) and after is not None:
                after = policy.executed(after, actions)
        return (actions[0] if single else actions), after


def _restored(fresh: State, state: Any, episode_start: Any) -> State:
    """Return the memory that a call before gave, fresh where an episode begins."""
    shapes, wanted = [np.shape(each) for each in state], [each.shape for each in fresh]
    if shapes != wanted:
        raise SpecError(f"The memory has shape {shapes}, not {wanted}.")
    kept = tuple(np.array(each, np.float32) for each in state)
    if episode_start is not None:
        for each in kept:
            each[np.asarray(episode_start, bool).ravel()] = 0.0
    return kept


def _with_axis(observation: Any) -> Any:
    """Make one observation a batch of one."""
    if isinstance(observation, Mapping):
        return {name: np.asarray(each)[None] for name, each in observation.items()}
    if isinstance(observation, tuple):
        return tuple(np.asarray(each)[None] for each in observation)
    return np.asarray(observation)[None]
