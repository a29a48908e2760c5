"""Votes: what is chosen, asked several times, as an action distribution."""

from __future__ import annotations

from typing import final

import numpy as np

from agentkd import dists
from agentkd.errors import ConfigError
from agentkd.planners.actions import SMOOTHING
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec, MultiBinarySpec, MultiDiscreteSpec, Spec
from agentkd.types import (
    ActionDist,
    Actions,
    Bernoulli,
    Categorical,
    Floats,
    Gaussian,
    MultiCategorical,
    Point,
    Policy,
)

_LEAST_STD = 1e-3


@final
class Votes:
    """A planner of which only chosen actions are used, asked `queries` times a state.

    It is a `Policy`. The first query is about the state itself; the others too, which tells
    something of a planner that draws its actions, or, with `noise`, about states near by, which
    tells how near another choice is. Choices: the share of the votes, smoothed. Boxes: a Gaussian
    with the votes' mean and spread; with one query, a point.

    Attributes:
        queries: How often the planner is asked for one answer.

    Args:
        policy: What is asked.
        spec: The environment.
        queries: How often, for each state.
        noise: How far off the other queries are, in units of the spread of the states that were
            asked about so far.
        smoothing: The share of probability that goes to all choices alike.
        seed: For the noise.
    """

    def __init__(
        self,
        policy: Policy,
        spec: Spec,
        queries: int = 1,
        *,
        noise: float = 0.0,
        smoothing: float = SMOOTHING,
        seed: int = 0,
    ) -> None:
        """Check that the numbers can be meant."""
        if queries < 1 or not 0 <= noise < np.inf:
            raise ConfigError(f"{queries} votes with noise {noise}: at least 1, and at least 0.")
        if noise and queries == 1:
            raise ConfigError(f"With one vote there is none to be off by {noise}; give more votes.")
        if not 0 < smoothing < 1:
            raise ConfigError(f"smoothing is {smoothing}; a share between 0 and 1.")
        if hasattr(policy, "initial_state"):
            raise ConfigError(
                "A recurrent planner cannot be asked several times about one state: "
                "each answer would change its memory."
            )
        self.queries = queries
        self._policy, self._spec = policy, spec
        self._noise, self._smoothing = noise, smoothing
        self._random = np.random.default_rng(seed)
        self._count = 0
        self._mean = np.zeros(spec.obs.size)
        self._square = np.zeros(spec.obs.size)

    def __call__(self, obs: Floats, /) -> ActionDist:
        """Give the action distribution for flat observations (batch, size)."""
        asked = np.repeat(obs[None], self.queries, axis=0)
        if self._noise:
            self._follow(obs)
            off = self._random.standard_normal((self.queries - 1, *obs.shape))
            asked[1:] += (self._noise * self._spread() * off).astype(np.float32)
        flat = asked.reshape(-1, obs.shape[1])
        action = self._spec.action
        chosen = dists.mode(self._policy(flat), action)
        votes = chosen.reshape(self.queries, len(obs), -1)
        if isinstance(action, BoxSpec):
            return _point(votes.astype(np.float32))
        return self._counted(votes, action)

    def _follow(self, obs: Floats) -> None:
        """Count states in (Chan et al. 1983, of means and squares of two samples)."""
        count = len(obs)
        mean = obs.mean(axis=0, dtype=np.float64)
        apart, total = mean - self._mean, self._count + count
        self._square += np.square(obs - mean).sum(axis=0)
        self._square += np.square(apart) * self._count * count / total
        self._mean += apart * count / total
        self._count = total

    def _spread(self) -> Floats:
        return np.sqrt(self._square / self._count).astype(np.float32)

    def _counted(self, votes: Actions, action: ActionSpec) -> ActionDist:
        match action:
            case DiscreteSpec(n, start):
                return Categorical(np.log(self._shares(votes[:, :, 0] - start, n)))
            case MultiDiscreteSpec(sizes):
                pieces = [self._shares(votes[:, :, i], n) for i, n in enumerate(sizes)]
                return MultiCategorical(np.log(np.concatenate(pieces, axis=1)), sizes)
            case MultiBinarySpec(n):
                pieces = [self._shares(votes[:, :, i], 2) for i in range(n)]
                odds = [np.log(p[:, 1]) - np.log(p[:, 0]) for p in pieces]
                return Bernoulli(np.stack(odds, axis=1))
        raise AssertionError(action)

    def _shares(self, votes: Actions, n: int) -> Floats:
        """Smoothed shares of the choices, (batch, n), of votes (queries, batch)."""
        chosen = np.eye(n, dtype=np.float32)[votes.astype(np.int64)].mean(axis=0)
        smoothed: Floats = chosen * np.float32(1.0 - self._smoothing)
        return smoothed + np.float32(self._smoothing / n)


def _point(votes: Floats) -> ActionDist:
    if len(votes) == 1:
        return Point(votes[0])
    return Gaussian(votes.mean(axis=0), np.log(votes.std(axis=0) + _LEAST_STD))
