"""Chosen actions as action distributions: of one question, or of several about a state."""

from __future__ import annotations

from typing import Any, final

import numpy as np

from agentkd import dists
from agentkd.errors import ConfigError, SpecError
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec, MultiDiscreteSpec, Spec
from agentkd.types import (
    ActionDist,
    Bernoulli,
    Categorical,
    Floats,
    Gaussian,
    MultiCategorical,
    Point,
    Policy,
)

SMOOTHING = 0.05
"""The probability that a chosen action leaves to all actions alike."""
_LEAST_STD = 1e-3


def from_actions(
    actions: Any, batch: int, action: ActionSpec, smoothing: float = SMOOTHING
) -> ActionDist:
    """Turn chosen actions into an action distribution.

    Choices are smoothed: the chosen one gets 1 - smoothing, and all share the rest (Szegedy et al.,
    "Rethinking the Inception Architecture", section 7). Boxes become points.

    Args:
        actions: In the environment's units, (batch, …).
        batch: How many are expected.
        action: The environment's actions.
        smoothing: Between 0 and 1, both left out.

    Raises:
        SpecError: If the actions are not such.
    """
    array = np.asarray(actions)
    size = dists.action_width(action)
    if array.ndim == 0 or array.size != batch * size or len(array) != batch:
        raise SpecError(
            f"The actions have shape {array.shape}; ({batch}, {size}) was expected for "
            f"{action}. To give logits or values, return Categorical or QValues."
        )
    flat = array.reshape(1, batch, size)
    if isinstance(action, BoxSpec):
        return Point(flat[0].astype(np.float32))
    if not np.array_equal(flat, np.rint(flat)):
        raise SpecError(f"The actions {flat[0, 0]} are not whole numbers.")
    return _counted(flat.astype(np.int64), action, smoothing)


def _counted(votes: Any, action: ActionSpec, smoothing: float) -> ActionDist:
    """Count whole numbers (votes, batch, size) as a smoothed distribution."""
    match action:
        case DiscreteSpec(n, start):
            return Categorical(np.log(_shares(votes[:, :, 0] - start, n, smoothing)))
        case MultiDiscreteSpec(sizes):
            pieces = [_shares(votes[:, :, i], n, smoothing) for i, n in enumerate(sizes)]
            return MultiCategorical(np.log(np.concatenate(pieces, axis=1)), sizes)
    yes = (votes > 0).mean(axis=0, dtype=np.float32) * np.float32(1 - smoothing)
    yes += np.float32(smoothing / 2)
    return Bernoulli(np.log(yes) - np.log(1 - yes))


def _shares(votes: Any, n: int, smoothing: float) -> Floats:
    """The smoothed shares of the choices, (batch, n), of votes (votes, batch)."""
    if ((votes < 0) | (votes >= n)).any():
        raise SpecError(f"Action {votes.max()} or {votes.min()} is not one of {n}.")
    chosen = (votes[..., None] == np.arange(n)).mean(axis=0, dtype=np.float32)
    smoothed: Floats = chosen * np.float32(1 - smoothing) + np.float32(smoothing / n)
    return smoothed


@final
class Votes:
    """A planner of which only chosen actions are used, asked `queries` times a state.

    It is a `Policy`. The first query is about the state itself; the others too, which tells
    something of a planner that draws its actions, or, with `noise`, about states near by, which
    tells how near another choice is. Choices: the share of the votes, smoothed. Boxes: a Gaussian
    with the votes' mean and spread; with one query, a point.

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
        action = self._spec.action
        chosen = dists.mode(self._policy(asked.reshape(-1, obs.shape[1])), action)
        votes = chosen.reshape(self.queries, len(obs), -1)
        if not isinstance(action, BoxSpec):
            return _counted(votes.astype(np.int64), action, self._smoothing)
        votes = votes.astype(np.float32)
        if len(votes) == 1:
            return Point(votes[0])
        return Gaussian(votes.mean(axis=0), np.log(votes.std(axis=0) + _LEAST_STD))

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
