"""Copies of an environment that step together, one episode after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np

from agentkd import environments
from agentkd.errors import check_range
from agentkd.spec import DiscreteSpec, Spec, env_spec, flatten_one
from agentkd.types import Actions, Floats

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


class Chooser(Protocol):
    """Chooses the actions of rows, the copies of the environment."""

    def begin(self, row: int) -> None:
        """Prepare for an episode that begins in a row."""
        ...

    def __call__(self, obs: Floats, live: list[int], /) -> Actions | Sequence[Any]:
        """Give the actions of the rows that are alive, (len(live), …)."""
        ...


@dataclass(slots=True)
class Row:
    """A copy of the environment and the episode that it lives."""

    env: Any
    episode: int = 0
    steps: int = 0
    total: float = 0.0


@final
class Lockstep:
    """Copies of an environment that step together until all episodes are done.

    Args:
        env: The environment, by name or as a function that makes it.
        episodes: How many.
        seed: Episode i is reset with seed + i.
        spec: The environment's; None to ask it.
        max_steps: Where an episode that does not end is cut off.
        copies: The most environments at a time.

    Raises:
        ConfigError: If a number is invalid.
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
        """Make the environments."""
        check_range("episodes", episodes, least=1)
        check_range("max_steps", max_steps, least=1)
        check_range("copies", copies, least=1)
        check_range("seed", seed, least=0)
        self.name, self.episodes, self.seed = environments.label(env), episodes, seed
        self.max_steps = max_steps
        self.rows: list[Row] = []
        try:
            for _ in range(min(copies, episodes)):
                self.rows.append(Row(environments.make(env)))
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
        """Live all episodes, each in the first row that is free."""
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

    def _reset(self, index: int, choose: Chooser) -> None:
        row = self.rows[index]
        row.steps, row.total = 0, 0.0
        obs, _ = row.env.reset(seed=self.seed + row.episode)
        self._see(index, obs)
        choose.begin(index)

    def _step(self, index: int, action: Any) -> bool:
        """Do a step; gives whether the episode ended."""
        row = self.rows[index]
        taken: Any = int(action) if self._discrete else self._shaped(action)
        obs, reward, terminated, truncated, _ = row.env.step(taken)
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
