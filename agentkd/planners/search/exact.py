"""Exact search: the best way through a deterministic world, and what each detour costs.

A* (IEEE Transactions SSC-4, 1968, p. 100) from the observed state. What one search finds out makes
the next one shorter: the return from every state on a way that was found is known from then on, and
the return from every other state that was looked at is bounded by what the best way left of it
(Adaptive A*, Koenig and Likhachev 2006, 3).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Generic, TypeVar, final

import numpy as np

from agentkd.errors import PlannerError, check_range
from agentkd.planners.search.worlds import Model, restored
from agentkd.types import Categorical, Floats

S = TypeVar("S", bound=Hashable)

_HOPELESS = 1e6
"""How much worse than the best a choice is taken to be from which no way leads."""


@dataclass(frozen=True, slots=True)
class ExactOptions:
    """How far an exact search looks, and how sharp its answer is.

    Attributes:
        horizon: How many ticks it answers for: the observed one and those that follow
            if the first choices are taken.
        temperature: By how much less, in units of return, a choice is worth whose probability is e
            times smaller.
        expansions: The most states looked at in one search. If these do not do, the answer rests on
            bounds.
        remembered: The most states that are kept for later searches.
    """

    horizon: int = 1
    temperature: float = 0.25
    expansions: int = 20_000
    remembered: int = 500_000

    def __post_init__(self) -> None:
        for name in ("horizon", "expansions", "remembered"):
            check_range(name, getattr(self, name), least=1, whole=True)
        check_range("temperature", self.temperature, above=0, below=math.inf)


@dataclass(slots=True)
class _Frontier(Generic[S]):
    """The states that a search has reached, the most promising first.

    A node is (−(paid + what can still come), order, paid, state); the end of all is a node without
    a state.
    """

    heap: list[tuple[float, int, float, S | None]] = field(default_factory=list)
    paid: dict[S | None, float] = field(default_factory=dict)
    before: dict[S | None, S] = field(default_factory=dict)
    looked_at: list[S] = field(default_factory=list)
    order: Iterator[int] = field(default_factory=count)

    def reach(self, state: S | None, paid: float, reach: float) -> bool:
        """Note a way to a state, if it is the best so far."""
        if self.paid.get(state, -np.inf) >= paid:
            return False
        self.paid[state] = paid
        heapq.heappush(self.heap, (-paid - reach, next(self.order), paid, state))
        return True

    def take(self) -> tuple[float, S | None] | None:
        """Take the most promising state and the return it promises; None: no more."""
        while self.heap:
            promise, _, paid, state = heapq.heappop(self.heap)
            if paid == self.paid[state]:
                return -promise, state
        return None


@final
class ExactSearch(Generic[S]):
    """Answers with a softmax over the returns of the choices. It is a `Policy`.

    logits = (Q(s, ·) − max Q(s, ·)) / temperature, where Q(s, a) is the reward of the choice and
    the largest return from what follows. Choices that are equally good are equally probable, so
    that a label says no more than is known.

    Args:
        model: The world. Its rewards have to be at most 0, such as −1 for each turn, and its states
            hashable.
        options: How to search.
        bound: Gives a return that cannot be exceeded from a state on, at most 0. The nearer to the
            truth, the faster the search. From a state to the next it must not rise by more than the
            step costs.
    """

    def __init__(
        self,
        model: Model[S],
        options: ExactOptions | None = None,
        *,
        bound: Callable[[S], float] = lambda _: 0.0,
    ) -> None:
        self.options = options or ExactOptions()
        self.expansions = 0
        self.unsolved = 0
        self._model = model
        self._bound = bound
        self._known: dict[S, float] = {}
        self._bounds: dict[S, float] = {}

    @property
    def horizon(self) -> int:
        """How many rows it answers an observation with."""
        return self.options.horizon

    def at(self, horizon: int) -> ExactSearch[S]:
        """The same search with the same knowledge, for another number of ticks."""
        options = replace(self.options, horizon=horizon)
        other = ExactSearch(self._model, options, bound=self._bound)
        other._known, other._bounds = self._known, self._bounds
        return other

    def __call__(self, obs: Floats, /) -> Categorical:
        """Give `horizon` rows for each of the observations (batch, obs)."""
        rows = [row for each in obs for row in self._rows(restored(self._model, each))]
        return Categorical(np.asarray(rows, np.float32))

    def returns(self, state: S) -> list[float]:
        """The largest return that is possible with each choice; −∞ where none is."""
        found = []
        for action in range(self._model.actions):
            after, reward, over = self._step(state, action)
            found.append(reward + (0.0 if over else self._solve(after)))
        return found

    def _rows(self, state: S) -> Iterator[list[float]]:
        if len(self._known) + len(self._bounds) > self.options.remembered:
            self._known.clear()
            self._bounds.clear()
        over, row = False, [0.0] * self._model.actions
        for _ in range(self.options.horizon):
            # After the end nothing matters: the last row stands for the rest.
            if not over:
                values = self.returns(state)
                best = max(values)
                row = [
                    max(value - best, -_HOPELESS) / self.options.temperature
                    if value > -np.inf
                    else -_HOPELESS * (best > -np.inf)
                    for value in values
                ]
                state, _, over = self._step(state, values.index(best))
            yield row

    def _step(self, state: S, action: int) -> tuple[S, float, bool]:
        after, reward, over = self._model.step(state, action)
        if not reward <= 0:
            raise PlannerError(
                f"The model pays {reward} for action {action}; an exact search needs "
                "rewards that are at most 0, such as −1 for each turn."
            )
        return after, reward, over

    def _reach(self, state: S) -> float:
        """A return that cannot be exceeded from a state on."""
        known = self._known.get(state)
        if known is not None:
            return known
        return min(self._bounds.get(state, 0.0), self._bound(state))

    def _solve(self, start: S) -> float:
        """The largest return from a state on; a bound of it where that is too far."""
        if start in self._known:
            return self._known[start]
        frontier: _Frontier[S] = _Frontier()
        frontier.reach(start, 0.0, self._reach(start))
        for _ in range(self.options.expansions):
            node = frontier.take()
            if node is None:
                return -np.inf
            best, state = node
            if state is None or state in self._known:
                self._learn(frontier, start, state, best)
                return best
            frontier.looked_at.append(state)
            self._expand(frontier, state)
        self.unsolved += 1
        node = frontier.take()
        return -np.inf if node is None else node[0]

    def _expand(self, frontier: _Frontier[S], state: S) -> None:
        self.expansions += 1
        paid = frontier.paid[state]
        for action in range(self._model.actions):
            after, reward, over = self._step(state, action)
            new = None if over else after
            reach = 0.0 if over else self._reach(after)
            if frontier.reach(new, paid + reward, reach):
                frontier.before[new] = state

    def _learn(self, frontier: _Frontier[S], start: S, end: S | None, best: float) -> None:
        """Keep what a search that ended tells about the states it has seen."""
        for state in frontier.looked_at:
            left = best - frontier.paid[state]
            self._bounds[state] = min(self._bounds.get(state, 0.0), left)
        on_the_way = end
        while on_the_way != start:
            on_the_way = frontier.before[on_the_way]
            self._known[on_the_way] = best - frontier.paid[on_the_way]
