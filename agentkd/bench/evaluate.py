"""Returns of a policy over episodes whose seeds are fixed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from agentkd import dists, environments
from agentkd.errors import AgentkdError, ConfigError, NumbersError, PlannerError
from agentkd.spec import DiscreteSpec, Spec, env_spec, flatten_one
from agentkd.types import (
    ActionDist,
    Actions,
    Floats,
    Policy,
    RecurrentPolicy,
    State,
)

Watch = Callable[[int, int, float], None]
"""Called with the episodes done, all of them, and the mean return so far."""
Visited = Callable[[Floats, Actions], None]
"""Called with observations (batch, size) and the actions taken there (batch, …)."""

MAX_STEPS = 100_000
_COPIES = 32


class EpisodeError(AgentkdError):
    """An environment that raised, or gave what cannot be, in the midst of an episode."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a policy reached.

    Attributes:
        returns: The sum of rewards of each episode, in the order of the seeds.
        lengths: The steps of each episode.
        cut: How many episodes did not end by themselves and were cut off.
    """

    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    cut: int = 0


def evaluate(
    env: str,
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

    Several copies of the environment go in lockstep, with one batched call of the
    policy for each step. The same arguments give the same returns; another number of
    copies may not, for arithmetic on another batch rounds differently.

    Args:
        env: The environment's name, as `agentkd.environments.make` takes it.
        policy: What acts. A memory is reset, row by row, when an episode begins.
        episodes: How many.
        seed: Episode i is reset with seed + i.
        spec: The environment's; left out, it is asked.
        progress: Called when an episode ends.
        visited: Called at each step.
        max_steps: Where an episode that does not end is cut off.
        copies: The most environments at a time.

    Raises:
        ConfigError: If a number cannot be meant.
        EpisodeError: If the environment raises, with the episode, seed and step.
        PlannerError: If the policy raises.
        NumbersError: If it answers with NaN or infinity.
        SpecError: If observations or answers do not fit the environment.
    """
    together = _Together(env, episodes, seed, spec, max_steps, copies)
    with together:
        chooser = _Asked(policy, together)
        return together.run(chooser, progress, visited)


def evaluate_random(
    env: str,
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
    together = _Together(env, episodes, seed, None, max_steps, copies)
    with together:
        return together.run(_Drawn(together), progress, None)


@final
class _Asked:
    """Chooses as a policy does, with its memory kept row by row."""

    def __init__(self, policy: Policy | RecurrentPolicy, together: _Together) -> None:
        self._policy: Any = policy
        self._together = together
        self._state: State | None = None
        if isinstance(policy, RecurrentPolicy):
            self._state = policy.initial_state(len(together.rows))

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
                f"{obs.shape}, {self._together.where(live[0])}: {error}"
            ) from error
        action = self._together.spec.action
        try:
            dists.check(dist, action, len(obs))
        except NumbersError as error:
            raise self._blamed(obs, live, dist) from error
        return dists.mode(dist, action)

    def _answer(self, obs: Floats, live: list[int]) -> ActionDist:
        if self._state is None:
            return self._policy(obs)  # type: ignore[no-any-return]
        if len(live) == len(self._together.rows):
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
            where = self._together.where(live[int(bad.argmax())])
            return EpisodeError(f"The observation holds NaN or infinity, {where}.")
        bad = ~np.isfinite(dists.pack(dist)).all(axis=1)
        where = self._together.where(live[int(bad.argmax())])
        return NumbersError(f"The policy answers with NaN or infinity, {where}.")


@final
class _Drawn:
    """Chooses at random."""

    def __init__(self, together: _Together) -> None:
        self._together = together

    def begin(self, row: int) -> None:
        """Seed the draws of an episode."""
        place = self._together.rows[row]
        place.env.action_space.seed(self._together.seed + place.episode)

    def __call__(self, obs: Floats, live: list[int]) -> Sequence[Any]:
        """Draw one action for each row that is alive."""
        return [self._together.rows[row].env.action_space.sample() for row in live]


@dataclass(slots=True)
class _Row:
    """A copy of the environment and the episode that it lives."""

    env: Any
    episode: int = 0
    steps: int = 0
    total: float = 0.0


@final
class _Together:
    """Copies of an environment that step together until all episodes are done."""

    def __init__(
        self,
        name: str,
        episodes: int,
        seed: int,
        spec: Spec | None,
        max_steps: int,
        copies: int,
    ) -> None:
        for what, number in (
            ("episodes", episodes),
            ("max_steps", max_steps),
            ("copies", copies),
        ):
            if number < 1:
                raise ConfigError(f"{what} is {number}; at least 1 is needed.")
        if seed < 0:
            raise ConfigError(f"seed is {seed}; it has to be at least 0.")
        self.name, self.episodes, self.seed = name, episodes, seed
        self.max_steps = max_steps
        self.rows: list[_Row] = []
        try:
            for _ in range(min(copies, episodes)):
                self.rows.append(_Row(environments.make(name)))  # noqa: PERF401
        except BaseException:
            self.close()
            raise
        first = self.rows[0].env
        self.spec = spec or env_spec(first)
        self._discrete = isinstance(self.spec.action, DiscreteSpec)
        space = first.action_space
        self._shape, self._dtype = space.shape, space.dtype
        # The common case of one flat vector needs no dictionary and no one-hot.
        part = self.spec.obs.parts[0]
        plain = self.spec.obs.layout == "single" and not part.sizes
        self._plain = part.shape if plain else None
        self._obs = np.zeros((len(self.rows), self.spec.obs.size), np.float32)

    def __enter__(self) -> _Together:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        for row in self.rows:
            row.env.close()

    def where(self, row: int) -> str:
        """Say which step it is, for messages."""
        place = self.rows[row]
        return (
            f"at step {place.steps} of episode {place.episode} "
            f"(seed {self.seed + place.episode}) of {self.name}"
        )

    def run(
        self,
        choose: _Asked | _Drawn,
        progress: Watch | None,
        visited: Visited | None,
    ) -> Evaluation:
        returns = [math.nan] * self.episodes
        lengths = [0] * self.episodes
        done = cut = 0
        for index, row in enumerate(self.rows):
            row.episode = index
            self._reset(index, choose)
        waiting = len(self.rows)
        live = list(range(len(self.rows)))
        while live:
            obs = self._obs[live]
            actions = choose(obs, live)
            if visited is not None:
                visited(obs, np.asarray(actions))
            over: list[int] = []
            for index, action in zip(live, actions, strict=True):
                row = self.rows[index]
                ended = self._step(index, action)
                if not ended and row.steps < self.max_steps:
                    continue
                cut += not ended
                returns[row.episode], lengths[row.episode] = row.total, row.steps
                done += 1
                if progress is not None:
                    so_far = [value for value in returns if not math.isnan(value)]
                    progress(done, self.episodes, sum(so_far) / len(so_far))
                if waiting < self.episodes:
                    row.episode = waiting
                    waiting += 1
                    self._reset(index, choose)
                else:
                    over.append(index)
            if over:
                live = [index for index in live if index not in over]
        return Evaluation(tuple(returns), tuple(lengths), cut)

    def _reset(self, index: int, choose: _Asked | _Drawn) -> None:
        row = self.rows[index]
        row.steps, row.total = 0, 0.0
        try:
            obs, _ = row.env.reset(seed=self.seed + row.episode)
        except AgentkdError:
            raise
        except Exception as error:
            raise self._fault(index, "reset", error) from error
        self._see(index, obs)
        choose.begin(index)

    def _step(self, index: int, action: Any) -> bool:
        """Do a step; gives whether the episode ended."""
        row = self.rows[index]
        taken: Any = int(action) if self._discrete else self._shaped(action)
        try:
            obs, reward, terminated, truncated, _ = row.env.step(taken)
            reward = float(reward)
        except AgentkdError:
            raise
        except Exception as error:
            raise self._fault(index, "step", error) from error
        if not math.isfinite(reward):
            raise EpisodeError(f"The reward is {reward}, {self.where(index)}.")
        row.steps += 1
        row.total += reward
        self._see(index, obs)
        return bool(terminated or truncated)

    def _shaped(self, action: Any) -> Any:
        array = np.asarray(action, self._dtype)
        return array if array.shape == self._shape else array.reshape(self._shape)

    def _see(self, index: int, obs: Any) -> None:
        if self._plain is not None and getattr(obs, "shape", None) == self._plain:
            self._obs[index] = obs.ravel()
        else:
            self._obs[index] = flatten_one(self.spec.obs, obs)

    def _fault(self, index: int, what: str, error: Exception) -> EpisodeError:
        return EpisodeError(
            f"The environment's {what} raised {type(error).__name__}, "
            f"{self.where(index)}: {error}"
        )
