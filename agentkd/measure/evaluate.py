"""Returns of a policy over episodes whose seeds are fixed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np

from agentkd import dists, environments
from agentkd.errors import AgentkdError, EpisodeError, NumbersError, PlannerError, check_range
from agentkd.planners.planner import one_row
from agentkd.spec import DiscreteSpec, Spec, env_spec, flatten_one
from agentkd.types import ActionDist, Actions, Floats, Policy, RecurrentPolicy, State
from agentkd.views import environment, pick

_MAX_STEPS = 100_000
_COPIES = 32

Watch = Callable[[int, int, float], None]
"""Called with the episodes done, all of them, and the mean return so far."""
Visited = Callable[[Floats, Actions], None]
"""Called with observations (batch, size) and the actions taken there (batch, …)."""


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
    env: environments.Environment,
    policy: Policy | RecurrentPolicy,
    *,
    episodes: int,
    seed: int,
    spec: Spec | None = None,
    progress: Watch | None = None,
    visited: Visited | None = None,
    max_steps: int = _MAX_STEPS,
    copies: int = _COPIES,
) -> Evaluation:
    """Run a policy for some episodes, acting on the mode of its distribution.

    Several copies of the environment step together, with one batched call of the policy for each
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
    with Lockstep(env, episodes, seed, spec, max_steps, copies) as lockstep:
        return lockstep.run(_Asked(policy, lockstep), progress, visited)


def evaluate_random(
    env: environments.Environment,
    *,
    episodes: int,
    seed: int,
    progress: Watch | None = None,
    copies: int = _COPIES,
) -> Evaluation:
    """Evaluate random play: actions drawn from the action space.

    Episode i draws with seed + i; else everything is as in `evaluate`.
    """
    with Lockstep(env, episodes, seed, None, _MAX_STEPS, copies) as lockstep:
        return lockstep.run(_Drawn(lockstep), progress, None)


def record(
    env: str, policy: Policy | RecurrentPolicy, *, steps: int, seed: int, spec: Spec | None = None
) -> list[Floats]:
    """Record `steps` observations of a policy's own episodes; the last one is cut off there.

    Returns:
        Each episode's observations, (steps, obs): what `spec` marks as seen, and the action of the
        tick before where it has room for it. Episode i is reset with seed + i.
    """
    recorded: list[Floats] = []
    left = steps
    while left > 0:
        seen: list[Floats] = []
        done: list[Any] = []

        def visit(obs: Floats, actions: Any, seen: Any = seen, done: Any = done) -> None:
            seen.append(obs.copy())
            done.append(actions.copy())

        evaluate(
            env,
            policy,
            episodes=1,
            seed=seed + len(recorded),
            spec=spec,
            visited=visit,
            max_steps=left,
            copies=1,
        )
        rows = np.concatenate(seen)
        if spec is not None and spec.obs.taken:
            taken = dists.coded(np.concatenate(done), spec.action)
            taken = np.concatenate([np.zeros_like(taken[:1]), taken[:-1]])
            rows = np.concatenate([rows, taken], axis=1)
        recorded.append(rows if spec is None else pick(spec.obs, rows))
        left -= len(seen)
    return recorded


class Chooser(Protocol):
    """Chooses the actions of rows, the copies of the environment."""

    def begin(self, row: int) -> None:
        """Prepare for an episode that begins in a row."""

    def __call__(self, obs: Floats, live: list[int], /) -> Actions | Sequence[Any]:
        """Give the actions of the rows that are alive, (len(live), …)."""


@dataclass(slots=True)
class _Row:
    """A copy of the environment and the episode that runs in it."""

    env: Any
    episode: int = 0
    steps: int = 0
    total: float = 0.0


@final
class Lockstep:
    """Copies of an environment that step together until all episodes are done.

    The arguments are those of `evaluate`.
    """

    def __init__(
        self,
        env: environments.Environment,
        episodes: int,
        seed: int,
        spec: Spec | None,
        max_steps: int,
        copies: int,
    ) -> None:
        """Make the environments.

        Raises:
            ConfigError: If a number is invalid.
        """
        check_range("episodes", episodes, least=1, whole=True)
        check_range("max_steps", max_steps, least=1, whole=True)
        check_range("copies", copies, least=1, whole=True)
        check_range("seed", seed, least=0, whole=True)
        self.name, self.episodes, self.seed = environments.label(env), episodes, seed
        self.max_steps = max_steps
        self.rows: list[_Row] = []
        try:
            for _ in range(min(copies, episodes)):
                self.rows.append(_Row(environments.make(env)))
        except BaseException:
            self.close()
            raise
        first = self.rows[0].env
        # A policy that sees a part of the observation takes that out of whole rows.
        self.spec = environment(spec or env_spec(first))
        self._discrete = isinstance(self.spec.action, DiscreteSpec)
        space = first.action_space
        self._shape, self._dtype = space.shape, space.dtype
        # The common case of one flat vector needs no dictionary and no one-hot.
        part = self.spec.obs.parts[0]
        plain = self.spec.obs.layout == "single" and not part.sizes
        self._plain = part.shape if plain else None
        self._obs = np.zeros((len(self.rows), self.spec.obs.size), np.float32)

    def __enter__(self) -> Lockstep:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the environments."""
        for row in self.rows:
            row.env.close()

    def where(self, row: int) -> str:
        """Say which step it is, for messages."""
        place = self.rows[row]
        return (
            f"at step {place.steps} of episode {place.episode} "
            f"(seed {self.seed + place.episode}) of {self.name}"
        )

    def run(self, choose: Chooser, progress: Watch | None, visited: Visited | None) -> Evaluation:
        """Run all episodes, each in the first row that is free."""
        returns = [math.nan] * self.episodes
        lengths = [0] * self.episodes
        done = cut = 0
        live = list(range(len(self.rows)))
        for index in live:
            self._reset(index, index, choose)
        waiting = len(self.rows)
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
                    progress(done, self.episodes, float(np.nanmean(returns)))
                if waiting < self.episodes:
                    self._reset(index, waiting, choose)
                    waiting += 1
                else:
                    over.append(index)
            if over:
                live = [index for index in live if index not in over]
        return Evaluation(tuple(returns), tuple(lengths), cut)

    def _reset(self, index: int, episode: int, choose: Chooser) -> None:
        row = self.rows[index]
        row.episode, row.steps, row.total = episode, 0, 0.0
        obs, _ = row.env.reset(seed=self.seed + episode)
        self._see(index, obs)
        choose.begin(index)

    def _step(self, index: int, action: Any) -> bool:
        """Do a step; gives whether the episode ended."""
        row = self.rows[index]
        if self._discrete:
            taken: Any = int(action)
        else:
            taken = np.asarray(action, self._dtype).reshape(self._shape)
        obs, reward, terminated, truncated, _ = row.env.step(taken)
        row.steps += 1
        row.total += reward
        self._see(index, obs)
        return bool(terminated or truncated)

    def _see(self, index: int, obs: Any) -> None:
        if self._plain is not None and getattr(obs, "shape", None) == self._plain:
            self._obs[index] = obs.ravel()
        else:
            self._obs[index] = flatten_one(self.spec.obs, obs)


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
        if self._state is not None:
            self._remember([row], self._policy.initial_state(1))

    def _remember(self, rows: list[int], new: State) -> None:
        """Replace the memory of some rows."""
        # Copied: a policy may hand out arrays that it keeps or that cannot be written.
        self._state = tuple(np.array(memory) for memory in self._state or ())
        for memory, fresh in zip(self._state, new, strict=True):
            memory[rows] = fresh

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
        dist: ActionDist
        if self._state is None:
            dist = self._policy(obs)
        elif len(live) == len(self._lockstep.rows):
            dist, self._state = self._policy(obs, self._state)
        else:
            dist, after = self._policy(obs, tuple(each[live] for each in self._state))
            self._remember(live, after)
        return dist

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
