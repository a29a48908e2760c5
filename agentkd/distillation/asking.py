"""Which states a planner is asked about, where each of its answers costs."""

from __future__ import annotations

from collections import deque
from typing import Literal, Protocol, final, get_args

import numpy as np
from numpy.typing import NDArray

from agentkd import dists
from agentkd.errors import ConfigError, did_you_mean
from agentkd.planners.ensemble import blocks, entropy, probabilities
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec, MultiDiscreteSpec, Spec
from agentkd.types import ActionDist, Floats, Policy, RecurrentPolicy

Ask = Literal["all", "random", "uncertain", "novel", "disagreement"]
"""About all states; about a share drawn by chance; or about those of a share where the executor is
least certain, that are farthest from what was asked before, or on which a small committee that
learns from the answers is least at one."""
_WINDOW = 1024
"""Scores that a state's is compared with, the last ones."""
_KEPT = 2048
_MEMBERS, _FEATURES = 5, 64
_RIDGE = 0.1
_FIT_EVERY, _FIT_GROWTH = 32, 0.1
_LEAST_SPREAD = 1e-6

Doubles = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Scores(Protocol):
    """How much an answer would tell about each state."""

    def __call__(self, obs: Floats, executor: Policy, /) -> Doubles:
        """Give a number for each observation (batch, obs): (batch,), high is better."""
        ...

    def learn(self, obs: Floats, dist: ActionDist, /) -> None:
        """Take what the planner said to observations (batch, obs)."""
        ...


@final
class Chance:
    """A number of chance: the control for the others."""

    def __init__(self, random: np.random.Generator) -> None:
        """Draw from a generator."""
        self._random = random

    def __call__(self, obs: Floats, _executor: Policy, /) -> Doubles:
        """Draw."""
        return self._random.random(len(obs))

    def learn(self, _obs: Floats, _dist: ActionDist, /) -> None:
        """Chance learns nothing."""


@final
class Uncertainty:
    """The entropy of the executor's own answer, in nats, summed over its choices.

    Source: Lewis and Gale 1994, "A sequential algorithm for training text classifiers".
    """

    def __init__(self, action: ActionSpec) -> None:
        """Refuse boxes, where an executor answers with a point."""
        if isinstance(action, BoxSpec):
            raise ConfigError(
                "ask=uncertain is for choices: in a box an executor answers with a "
                "point, which is never uncertain. Use ask=disagreement or ask=novel."
            )
        self._action = action

    def __call__(self, obs: Floats, executor: Policy, /) -> Doubles:
        """Ask the executor."""
        told = blocks(probabilities(executor(obs), 1.0), self._action)
        total = sum(entropy(each).astype(np.float64) for each in told)
        return np.asarray(total, np.float64)

    def learn(self, _obs: Floats, _dist: ActionDist, /) -> None:
        """Whoever drives has learnt it."""


@final
class Asked:
    """A uniform sample, bounded, of what was asked (Vitter 1985, algorithm R).

    Attributes:
        seen: How many answers there were.
    """

    def __init__(self, widths: tuple[int, ...], random: np.random.Generator) -> None:
        """Make room for as many numbers of each sort."""
        self.seen = 0
        self._random = random
        self._rows = [np.zeros((_KEPT, width)) for width in widths]

    def add(self, *columns: NDArray[np.generic]) -> None:
        """Take rows, (batch, width) of each sort."""
        for index in range(len(columns[0])):
            at = self.seen
            self.seen += 1
            if at >= _KEPT:
                at = int(self._random.integers(self.seen))
                if at >= _KEPT:
                    continue
            for kept, column in zip(self._rows, columns, strict=True):
                kept[at] = column[index]

    def all(self) -> list[Doubles]:
        """The rows of each sort."""
        return [kept[: self.seen] for kept in self._rows]


def _unit(obs: Doubles) -> tuple[Doubles, Doubles]:
    """Mean and spread of observations; what never moved keeps its own unit."""
    spread = obs.std(axis=0)
    return obs.mean(axis=0), np.where(spread < _LEAST_SPREAD, 1.0, spread)


@final
class Novelty:
    """The distance to the nearest state that was asked about, in units of their spread.

    Source: Sener and Savarese 2018, "Active learning for convolutional neural networks: a core-set
    approach", the greedy choice.
    """

    def __init__(self, size: int, random: np.random.Generator) -> None:
        """Nothing was asked yet."""
        self._asked = Asked((size,), random)

    def learn(self, obs: Floats, _dist: ActionDist, /) -> None:
        """Remember where it was asked."""
        self._asked.add(obs)

    def __call__(self, obs: Floats, _executor: Policy, /) -> Doubles:
        """Measure; 0 everywhere as long as nothing was asked."""
        if not self._asked.seen:
            return np.zeros(len(obs))
        (known,) = self._asked.all()
        _, spread = _unit(known)
        there, here = known / spread, obs / spread
        square = (here**2).sum(1)[:, None] - 2 * here @ there.T + (there**2).sum(1)
        nearest: Doubles = np.sqrt(np.maximum(square.min(axis=1), 0.0))
        return nearest


@final
class Committee:
    """How far the members of a small committee are apart about what to do.

    A member is a small network whose hidden layer is drawn by chance and whose last one is fitted
    by ridge regression to the planner's actions, each answer counting as often as a Poisson draw
    says (Seung et al. 1992, "Query by committee"; Oza 2005, "Online bagging and boosting"; Rahimi
    and Recht 2008, "Weighted sums of random kitchen sinks"). What they are asked about they come to
    agree on.
    """

    def __init__(self, spec: Spec, random: np.random.Generator) -> None:
        """Draw the hidden layers."""
        self._action, self._random = spec.action, random
        size = spec.obs.size
        shape = _MEMBERS, size, _FEATURES
        self._hidden = random.standard_normal(shape) / np.sqrt(size)
        self._bias = random.uniform(-1.0, 1.0, (_MEMBERS, 1, _FEATURES))
        widths = size, _targets_width(spec.action), _MEMBERS
        self._asked = Asked(widths, random)
        self._mean, self._spread = np.zeros(size), np.ones(size)
        self._last: Doubles | None = None
        self._next_fit = _FIT_EVERY

    def learn(self, obs: Floats, dist: ActionDist, /) -> None:
        """Take answers; fit anew where there are a tenth more."""
        counts = self._random.poisson(1.0, (len(obs), _MEMBERS))
        self._asked.add(obs, _targets(dist, self._action), counts)
        if self._asked.seen >= self._next_fit:
            self._fit()
            more = max(_FIT_EVERY, int(_FIT_GROWTH * self._asked.seen))
            self._next_fit = self._asked.seen + more

    def _features(self, obs: NDArray[np.floating]) -> Doubles:
        """The hidden layers' numbers and a 1, (members, batch, features + 1)."""
        x = (obs - self._mean) / self._spread
        hidden = np.maximum(x[None] @ self._hidden + self._bias, 0.0)
        return np.concatenate([hidden, np.ones((_MEMBERS, len(obs), 1))], axis=2)

    def _fit(self) -> None:
        obs, targets, counts = self._asked.all()
        self._mean, self._spread = _unit(obs)
        _, unit = _unit(targets)
        features = self._features(obs)
        weighted = features * counts.T[:, :, None]
        square = np.swapaxes(weighted, 1, 2) @ features
        square += _RIDGE * np.eye(_FEATURES + 1)
        right = np.swapaxes(weighted, 1, 2) @ (targets / unit)
        self._last = np.asarray(np.linalg.solve(square, right), np.float64)

    def __call__(self, obs: Floats, _executor: Policy, /) -> Doubles:
        """Give the members' standard deviation; 0 before the first fit."""
        if self._last is None:
            return np.zeros(len(obs))
        apart: Doubles = (self._features(obs) @ self._last).std(axis=0).mean(axis=1)
        return apart


def _targets_width(action: ActionSpec) -> int:
    if isinstance(action, DiscreteSpec):
        return action.n
    if isinstance(action, MultiDiscreteSpec):
        return sum(action.sizes)
    return dists.action_size(action)


def _targets(dist: ActionDist, action: ActionSpec) -> Doubles:
    """What the planner would do: a column for each choice, or dimension of a box."""
    done = np.asarray(dists.mode(dist, action))
    done = done.reshape(len(done), -1)
    if isinstance(action, DiscreteSpec):
        return _hot(done[:, 0] - action.start, action.n)
    if isinstance(action, MultiDiscreteSpec):
        columns = zip(done.T, action.sizes, strict=True)
        return np.concatenate([_hot(column, n) for column, n in columns], axis=1)
    return done.astype(np.float64)


def _hot(chosen: NDArray[np.generic], n: int) -> Doubles:
    result: Doubles = np.eye(n)[chosen.astype(np.int64)]
    return result


@final
class Asking:
    """Chooses about which states a planner is asked.

    Args:
        scores: What tells the states' worth.
        share: The share of states that is asked about, above 0 and up to 1.
        random: For states of equal worth.
    """

    def __init__(self, scores: Scores, share: float, random: np.random.Generator) -> None:
        """Begin without scores to compare with."""
        self._scores, self._share, self._random = scores, share, random
        self._recent: deque[float] = deque(maxlen=_WINDOW)

    def choose(self, obs: Floats, executor: Policy) -> Mask:
        """Say of each observation (batch, obs) whether to ask about it, (batch,).

        Those are asked about whose score is in the upper share of the last ones'.
        """
        scores = self._scores(obs, executor)
        self._recent.extend(scores.tolist())
        recent = np.asarray(self._recent)
        limit = np.quantile(recent, 1.0 - self._share, method="lower")
        above, at = float((recent > limit).mean()), float((recent == limit).mean())
        # Equal scores are asked about so often that the share holds.
        lucky = self._random.random(len(obs)) * at < self._share - above
        chosen: Mask = (scores > limit) | ((scores == limit) & lucky)
        return chosen

    def learn(self, obs: Floats, dist: ActionDist) -> None:
        """Take answers to observations (batch, obs); what is no number is left out."""
        whole = np.isfinite(dists.pack(dist)).all(axis=1)
        if whole.any():
            self._scores.learn(obs[whole], dists.rows(dist, whole))


def check_ask(ask: str, share: float) -> None:
    """Validate the arguments.

    Raises:
        ConfigError: Then.
    """
    if ask not in get_args(Ask):
        raise ConfigError(f"No way to ask {ask!r}.{did_you_mean(ask, get_args(Ask))}")
    if not 0 < share <= 1:
        raise ConfigError(f"ask_share is {share}; a share above 0, up to 1.")


def make_asking(
    ask: Ask, share: float, planner: Policy | RecurrentPolicy, spec: Spec, seed: int
) -> Asking | None:
    """Make what chooses; None where everything is asked about.

    Args:
        ask: How.
        share: Of the states.
        planner: Who is asked.
        spec: The environment's.
        seed: For draws.

    Raises:
        ConfigError: If it does not go with the actions, or with a planner's memory.
    """
    check_ask(ask, share)
    if ask == "all":
        return None
    if hasattr(planner, "initial_state"):
        raise ConfigError(
            f"ask={ask} leaves states out, which a planner with a memory has to see. Use ask=all."
        )
    random = np.random.default_rng([seed, 7])
    scores: Scores
    match ask:
        case "random":
            scores = Chance(random)
        case "uncertain":
            scores = Uncertainty(spec.action)
        case "novel":
            scores = Novelty(spec.obs.size, random)
        case "disagreement":
            scores = Committee(spec, random)
    return Asking(scores, share, random)


def check_memory(ask: Ask, architecture: str, memory: int) -> None:
    """Refuse an executor with a memory, unless the planner is asked about all states.

    Raises:
        ConfigError: If sequences would have gaps.
    """
    if memory and ask != "all":
        raise ConfigError(
            f"{architecture} has a memory and learns from sequences, which have gaps "
            f"where the planner is asked about some states only: ask={ask!r}. "
            'Take "all".'
        )
