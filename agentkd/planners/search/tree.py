"""Monte-Carlo tree search: the more it thinks, the better it answers, at any time.

Each simulation walks down the tree by PUCT, adds a state, and carries what is expected
from there back up (Silver et al. 2018, "A general reinforcement learning algorithm that
masters chess, shogi and Go through self-play", methods). Returns have no fixed range: they are
brought to [0, 1] by the least and the largest seen in the tree (Schrittwieser et al. 2020,
"Mastering Atari, Go, chess and shogi by planning with a learned model", appendix B).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar, final

import numpy as np

from agentkd.errors import PlannerError, check_range
from agentkd.planners.search.worlds import Model, restored
from agentkd.types import Categorical, Floats

S = TypeVar("S")

_SMALLEST = 0.1
"""What a choice that was never tried counts, in visits, so that its logit is finite."""


@dataclass(frozen=True, slots=True)
class TreeOptions:
    """How a tree search thinks.

    Attributes:
        simulations: Walks down the tree for an answer.
        slice: Walks between two partial answers.
        horizon: How many ticks it answers for: the observed one and those that follow
            if the most visited choices are taken.
        tail: Walks that a later tick's row rests on at least.
        exploration: c of PUCT: how much choices are tried for their prior's sake.
        discount: What a reward is worth a tick later, above 0, at most 1.
        temperature: Visits are raised to 1/temperature in the answer.
    """

    simulations: int = 128
    slice: int = 32
    horizon: int = 1
    tail: int = 16
    exploration: float = 1.25
    discount: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for name in ("simulations", "slice", "horizon", "tail"):
            check_range(name, getattr(self, name), least=1, whole=True)
        check_range("discount", self.discount, above=0, most=1)
        for name in ("exploration", "temperature"):
            check_range(name, getattr(self, name), above=0, below=math.inf)


@dataclass(slots=True, eq=False)
class _Node(Generic[S]):
    """A state in the tree; lists have one entry for each choice.

    `after` is None where a choice was not tried yet, or ends all.
    """

    state: S
    value: float
    prior: list[float]
    visits: list[int]
    totals: list[float]
    rewards: list[float]
    after: list[_Node[S] | None]

    def expected(self) -> float:
        """What the state is expected to be worth, by all that was seen below it."""
        tried = sum(self.visits)
        return sum(self.totals) / tried if tried else self.value


@final
class TreeSearch(Generic[S]):
    """Answers with how often each choice was visited. It is a `Policy`.

    A walk takes the choice with the largest

        Q(s, a) + c · P(s, a) · √(Σ N(s, ·)) / (1 + N(s, a))

    where Q is the mean return so far in units of the tree's range (of a choice not yet tried: what
    the state is expected to be worth), N the visits and P the prior. With an executor as prior the
    visits are better than the executor, and the executor learns them in turn: expert iteration
    (Anthony et al. 2017).

    Args:
        model: The world.
        options: How to think.
        value: Gives the return that is to be expected from a state on; 0 if left out.
        prior: Gives the probabilities of the choices in a state; alike if left out.
    """

    def __init__(
        self,
        model: Model[S],
        options: TreeOptions | None = None,
        *,
        value: Callable[[S], float] = lambda _: 0.0,
        prior: Callable[[S], Floats] | None = None,
    ) -> None:
        self.options = options or TreeOptions()
        self._model = model
        self._value = value
        self._prior = prior
        self._alike = [1.0 / model.actions] * model.actions

    @property
    def horizon(self) -> int:
        """How many rows it answers an observation with."""
        return self.options.horizon

    def at(self, horizon: int) -> TreeSearch[S]:
        """The same search for another number of ticks."""
        options = replace(self.options, horizon=horizon)
        return TreeSearch(self._model, options, value=self._value, prior=self._prior)

    def __call__(self, obs: Floats, /) -> Categorical:
        """Give `horizon` rows for each of the observations (batch, obs)."""
        rows = []
        for each in obs:
            tree = _Tree(self, restored(self._model, each))
            tree.grow(tree.root, self.options.simulations)
            rows.extend(tree.rows())
        return Categorical(np.asarray(rows, np.float32))

    def improve(self, obs: Floats, /) -> Iterator[Categorical]:
        """Give `horizon` rows after each slice of its walks, for one observation (1, obs).

        The last rest on as many walks as a call's.
        """
        tree = _Tree(self, restored(self._model, obs[0]))
        left = self.options.simulations
        while left > 0:
            tree.grow(tree.root, min(self.options.slice, left))
            left -= self.options.slice
            yield Categorical(np.asarray(tree.rows(), np.float32))

    def begin(self, state: S) -> _Node[S]:
        """Make a node of a state, without walks.

        Raises:
            PlannerError: If the prior's shares or the state's value are invalid.
        """
        count = self._model.actions
        prior = self._alike
        if self._prior is not None:
            prior = [float(each) for each in self._prior(state)]
            if len(prior) != count or not all(0 <= each <= 1 for each in prior):
                raise PlannerError(f"The prior gives {prior} for {count} choices.")
        value = float(self._value(state))
        if not math.isfinite(value):
            raise PlannerError(f"A state's value is {value}; it has to be finite.")
        return _Node(state, value, prior, [0] * count, [0.0] * count, [0.0] * count, [None] * count)

    def step(self, state: S, action: int) -> tuple[S, float, bool]:
        """Ask the model.

        Raises:
            PlannerError: If the reward is not finite.
        """
        after, reward, over = self._model.step(state, action)
        if not math.isfinite(reward):
            raise PlannerError(f"The model pays {reward} for action {action}.")
        return after, reward, over


@final
class _Tree(Generic[S]):
    """One search: a tree of states and the range of their returns."""

    def __init__(self, search: TreeSearch[S], state: S) -> None:
        self.root = search.begin(state)
        self._search = search
        self._least, self._largest = math.inf, -math.inf

    def grow(self, node: _Node[S], walks: int) -> None:
        """Walk down from a node so many times."""
        for _ in range(walks):
            self._walk(node)

    def rows(self) -> list[list[float]]:
        """Log-visits along the way of the most visited choices, one row a tick."""
        options = self._search.options
        rows: list[list[float]] = []
        node: _Node[S] | None = self.root
        while node is not None and len(rows) < options.horizon:
            if rows:
                self.grow(node, max(0, options.tail - sum(node.visits)))
            rows.append(
                [math.log(max(count, _SMALLEST)) / options.temperature for count in node.visits]
            )
            node = node.after[node.visits.index(max(node.visits))]
        # After the end nothing matters: the last row stands for the rest.
        return rows + [rows[-1]] * (options.horizon - len(rows))

    def _walk(self, root: _Node[S]) -> None:
        node, path = root, []
        while True:
            action = self._choose(node)
            path.append((node, action))
            if not node.visits[action]:
                after, reward, over = self._search.step(node.state, action)
                node.rewards[action] = reward
                if not over:
                    node.after[action] = self._search.begin(after)
            below = node.after[action]
            if below is None:
                value = 0.0
                break
            if not node.visits[action]:
                value = below.value
                break
            node = below
        discount = self._search.options.discount
        for node, action in reversed(path):
            value = node.rewards[action] + discount * value
            node.visits[action] += 1
            node.totals[action] += value
            mean = node.totals[action] / node.visits[action]
            self._least = min(self._least, mean)
            self._largest = max(self._largest, mean)

    def _choose(self, node: _Node[S]) -> int:
        apart = self._largest - self._least
        scale = 1.0 / apart if apart > 0 else 1.0
        untried = node.expected()
        push = self._search.options.exploration * math.sqrt(max(1, sum(node.visits)))
        best, chosen = -math.inf, 0
        for action, count in enumerate(node.visits):
            mean = node.totals[action] / count if count else untried
            score = mean * scale + push * node.prior[action] / (1 + count)
            if score > best:
                best, chosen = score, action
        return chosen
