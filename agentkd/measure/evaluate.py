"""Returns of a policy over episodes whose seeds are fixed."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, final

import numpy as np

from agentkd import dists
from agentkd.environments import Environment
from agentkd.errors import AgentkdError, EpisodeError, NumbersError, PlannerError
from agentkd.measure.lockstep import Evaluation, Lockstep, Visited, Watch
from agentkd.planners.planner import one_row
from agentkd.spec import Spec
from agentkd.types import ActionDist, Actions, Floats, Policy, RecurrentPolicy, State

__all__ = ["MAX_STEPS", "Evaluation", "Visited", "Watch", "evaluate", "evaluate_random"]

MAX_STEPS = 100_000
_COPIES = 32


def evaluate(
    env: Environment,
    policy: Policy | RecurrentPolicy,
    *,
    episodes: int,
    seed: int,
    spec: Spec | None = None,
    progress: Watch | None = None,
    visited: Visited | None = None,
    max_steps: int = MAX_STEPS,
    copies: int = _COPIES,
) -> Evaluation:
    """Let a policy live some episodes, acting on the mode of its distribution.

    Several copies of the environment go in lockstep, with one batched call of the policy for each
    step. The same arguments give the same returns; another number of copies may not, for arithmetic
    on another batch rounds differently.

    Args:
        env: The environment, as `agentkd.environments.make` takes it.
        policy: What acts. A memory is reset, row by row, when an episode begins.
        episodes: How many.
        seed: Episode i is reset with seed + i.
        spec: The environment's; left out, it is asked.
        progress: Called when an episode ends.
        visited: Called at each step.
        max_steps: Where an episode that does not end is cut off.
        copies: The most environments at a time.

    Raises:
        ConfigError: If a number is invalid.
        EpisodeError: If the environment raises, with the episode, seed and step.
        PlannerError: If the policy raises.
        NumbersError: If it answers with NaN or infinity.
        SpecError: If observations or answers do not fit the environment.
    """
    lockstep = Lockstep(env, episodes, seed, spec, max_steps, copies)
    with lockstep:
        chooser = _Asked(policy, lockstep)
        return lockstep.run(chooser, progress, visited)


def evaluate_random(
    env: Environment,
    *,
    episodes: int,
    seed: int,
    progress: Watch | None = None,
    max_steps: int = MAX_STEPS,
    copies: int = _COPIES,
) -> Evaluation:
    """Let chance live some episodes: actions drawn from the action space.

    Episode i draws with seed + i; else everything is as in `evaluate`.
    """
    lockstep = Lockstep(env, episodes, seed, None, max_steps, copies)
    with lockstep:
        return lockstep.run(_Drawn(lockstep), progress, None)


@final
class _Asked:
    """Chooses as a policy does, with its memory kept row by row."""

    def __init__(self, policy: Policy | RecurrentPolicy, lockstep: Lockstep) -> None:
        self._policy: Any = one_row(policy)
        self._lockstep = lockstep
        self._state: State | None = None
        if isinstance(policy, RecurrentPolicy):
            self._state = policy.initial_state(len(lockstep.rows))

    def begin(self, row: int) -> None:
        """Forget, where an episode begins."""
        if self._state is None:
            return
        fresh = self._policy.initial_state(1)
        # Copied: a policy may hand out arrays that it keeps or that cannot be written.
        self._state = tuple(np.array(memory) for memory in self._state)
        for memory, start in zip(self._state, fresh, strict=True):
            memory[row] = start[0]

    def __call__(self, obs: Floats, live: list[int]) -> Actions:
        """Give the actions of the rows that are alive, (len(live), …)."""
        try:
            dist = self._answer(obs, live)
        except AgentkdError:
            raise
        except Exception as error:
            raise PlannerError(
                f"The policy raised {type(error).__name__} for observations "
                f"{obs.shape}, {self._lockstep.where(live[0])}: {error}"
            ) from error
        action = self._lockstep.spec.action
        try:
            dists.check(dist, action, len(obs))
        except NumbersError as error:
            raise self._blamed(obs, live, dist) from error
        return dists.mode(dist, action)

    def _answer(self, obs: Floats, live: list[int]) -> ActionDist:
        if self._state is None:
            return self._policy(obs)  # type: ignore[no-any-return]
        if len(live) == len(self._lockstep.rows):
            dist, self._state = self._policy(obs, self._state)
            return dist  # type: ignore[no-any-return]
        index = np.asarray(live)
        dist, after = self._policy(obs, tuple(each[index] for each in self._state))
        whole = tuple(np.array(memory) for memory in self._state)
        for memory, new in zip(whole, after, strict=True):
            memory[index] = new
        self._state = whole
        return dist  # type: ignore[no-any-return]

    def _blamed(self, obs: Floats, live: list[int], dist: ActionDist) -> AgentkdError:
        """Say whose NaN it is: the environment's or the policy's."""
        bad = ~np.isfinite(obs).all(axis=1)
        if bad.any():
            where = self._lockstep.where(live[int(bad.argmax())])
            return EpisodeError(f"The observation holds NaN or infinity, {where}.")
        bad = ~np.isfinite(dists.pack(dist)).all(axis=1)
        where = self._lockstep.where(live[int(bad.argmax())])
        return NumbersError(f"The policy answers with NaN or infinity, {where}.")


@final
class _Drawn:
    """Chooses at random."""

    def __init__(self, lockstep: Lockstep) -> None:
        self._lockstep = lockstep
        # Copied: a class of environments may share one space among its instances.
        self._spaces = [deepcopy(row.env.action_space) for row in lockstep.rows]

    def begin(self, row: int) -> None:
        """Seed the draws of an episode."""
        episode = self._lockstep.rows[row].episode
        self._spaces[row].seed(self._lockstep.seed + episode)

    def __call__(self, _: Floats, live: list[int]) -> Sequence[Any]:
        """Draw one action for each row that is alive."""
        return [self._spaces[row].sample() for row in live]
