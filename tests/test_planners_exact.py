"""Exact search: what it answers is the best there is, and what each detour costs."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import envs.freeway  # noqa: F401  (registers what is made by name)
from agentkd import dists
from agentkd.errors import ConfigError, PlannerError
from agentkd.planners import load_planner
from agentkd.planners.planner import FirstRow, RecurrentFirstRow, one_row
from agentkd.planners.search.exact import ExactOptions, ExactSearch
from agentkd.planners.search.worlds import roll
from agentkd.spec import DiscreteSpec, ObsSpec, Part, Spec, env_spec
from agentkd.testing import check_policy
from agentkd.types import Categorical, Floats

SPEC = Spec(ObsSpec((Part("", "box", (1,), "float32"),)), DiscreteSpec(2))


class Graph:
    """States are numbers; two ways lead from each, at a cost, some to the end."""

    actions = 2

    def __init__(self, ways: list[list[tuple[int, float]]]) -> None:
        self.ways = ways
        self.asked = 0

    def restore(self, obs: Floats, /) -> int:
        return int(obs[0])

    def step(self, state: int, action: int, /) -> tuple[int, float, bool]:
        self.asked += 1
        to, cost = self.ways[state][action]
        return to, -cost, to == len(self.ways)


def iterated(ways: list[list[tuple[int, float]]]) -> list[float]:
    """The best return from each state, by value iteration."""
    values = [-np.inf] * len(ways) + [0.0]
    for _ in ways:
        for state, pair in enumerate(ways):
            values[state] = max(values[to] - cost for to, cost in pair)
    return values


@st.composite
def graphs(draw: st.DrawFn) -> list[list[tuple[int, float]]]:
    size = draw(st.integers(1, 12))
    way = st.tuples(st.integers(0, size), st.integers(0, 5).map(float))
    return [[draw(way), draw(way)] for _ in range(size)]


@settings(max_examples=150, deadline=None)
@given(graphs(), st.floats(0, 1))
def test_it_finds_the_best_return_from_everywhere(
    ways: list[list[tuple[int, float]]], share: float
) -> None:
    """It agrees with value iteration, whatever it knows already and is told."""
    best = iterated(ways)
    told = [share * value if np.isfinite(value) else 0.0 for value in best]
    plain = ExactSearch(Graph(ways))
    bounded = ExactSearch(Graph(ways), bound=lambda state: told[state])
    for state in [*range(len(ways)), *reversed(range(len(ways)))]:
        expected = [best[to] - cost for to, cost in ways[state]]
        assert plain.returns(state) == expected
        assert bounded.returns(state) == expected


CHAIN = [[(1, 1.0), (0, 1.0)], [(2, 1.0), (0, 1.0)], [(3, 1.0), (1, 1.0)]]
"""Three states on the way to the end; the second choice leads back."""


def test_what_is_equally_good_is_equally_probable() -> None:
    """Logits are how much is lost, in units of the temperature."""
    search = ExactSearch(Graph(CHAIN), ExactOptions(temperature=0.5))
    logits = search(np.array([[0], [1], [2]], np.float32)).logits
    assert logits.tolist() == [[0, -2], [0, -4], [0, -4]]
    both = ExactSearch(Graph([[(1, 3.0), (1, 3.0)]]))
    assert both(np.zeros((1, 1), np.float32)).logits.tolist() == [[0, 0]]


def test_rows_follow_the_best_way_to_its_end() -> None:
    """Each tick has a row; after the end the last one is repeated."""
    search = ExactSearch(Graph(CHAIN), ExactOptions(horizon=5, temperature=0.5))
    logits = search(np.array([[1], [2]], np.float32)).logits
    assert logits[:, 1].tolist() == [-4, -4, -4, -4, -4, -4, -4, -4, -4, -4]
    assert len(search.at(1)(np.zeros((3, 1), np.float32)).logits) == 3


def test_what_is_known_is_not_searched_again() -> None:
    """A second answer asks the model only about the choices themselves."""
    world = Graph(CHAIN)
    search = ExactSearch(world)
    search(np.zeros((1, 1), np.float32))
    before = world.asked
    search.at(3)(np.zeros((1, 1), np.float32))
    assert search.expansions > 0
    assert world.asked - before <= 3 * 3


def test_where_no_way_leads_is_as_bad_as_can_be_said() -> None:
    """It is finite all the same, and without any way nothing is preferred."""
    search = ExactSearch(Graph([[(2, 1.0), (1, 0.0)], [(1, 0.0), (1, 0.0)]]))
    logits = search(np.array([[0], [1]], np.float32)).logits
    assert np.isfinite(logits).all()
    assert logits[0, 0] == 0
    assert logits[0, 1] < -1e5
    assert logits[1].tolist() == [0, 0]


def test_a_search_that_is_cut_short_answers_by_bounds() -> None:
    """It counts what it did not solve, and prefers what promises more."""
    long = [[(state + 1, 1.0), (state, 1.0)] for state in range(50)]
    search = ExactSearch(Graph(long), ExactOptions(expansions=3), bound=lambda state: state - 50.0)
    answer = search(np.zeros((1, 1), np.float32))
    assert answer.logits.tolist() == [[0, -4]]
    assert search.unsolved == 2
    enough = ExactSearch(Graph(long))
    assert enough(np.zeros((1, 1), np.float32)).logits.tolist() == [[0, -4]]
    assert enough.unsolved == 0


def test_what_is_remembered_is_bounded() -> None:
    """Beyond the bound everything is forgotten, and found again."""
    long = [[(state + 1, 1.0), (state, 1.0)] for state in range(50)]
    search = ExactSearch(Graph(long), ExactOptions(remembered=10))
    first = search(np.zeros((1, 1), np.float32)).logits
    again = search(np.zeros((1, 1), np.float32)).logits
    assert again.tolist() == first.tolist() == [[0, -4]]
    assert len(search._known) + len(search._bounds) <= 2 * 50


@pytest.mark.parametrize("reward", [-1.0, np.nan])
def test_gains_are_refused(reward: float) -> None:
    """A* needs costs; a cost below 0 is a gain."""
    search = ExactSearch(Graph([[(1, reward), (1, 1.0)]]))
    with pytest.raises(PlannerError, match="at most 0"):
        search(np.zeros((1, 1), np.float32))


def test_a_model_that_raises_is_a_planners_error() -> None:
    """With what it was asked about."""
    search = ExactSearch(Graph(CHAIN))
    with pytest.raises(PlannerError, match=r"Graph cannot restore .*\(0,\)"):
        search(np.zeros((1, 0), np.float32))


@pytest.mark.parametrize("options", [{"horizon": 0}, {"temperature": 0.0}, {"expansions": 0}])
def test_options_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    """With their name."""
    with pytest.raises(ConfigError, match=next(iter(options))):
        ExactOptions(**options)


def test_rolling_forward_ends_where_all_ends() -> None:
    """The state after some choices, or the last one."""
    world = Graph(CHAIN)

    def observe(state: int) -> Floats:
        return np.array([state], np.float32)

    assert roll(world, observe, observe(0), [0, 0, 1]).tolist() == [1]
    assert roll(world, observe, observe(0), [0] * 9).tolist() == [3]


def test_the_freeway_planner_keeps_the_contract() -> None:
    """Asked again, or in another batch, it answers the same."""
    world = gym.make("agentkd/Freeway-v0")
    spec = env_spec(world)
    obs = np.stack([world.reset(seed=seed)[0] for seed in range(6)])
    planner: Any = load_planner("policies.freeway:planner", spec).policy
    check_policy(planner.at(1), spec, obs=obs)


def three_rows(obs: Floats) -> Categorical:
    """Three rows for each observation, told apart by their number."""
    row = np.arange(3 * len(obs), dtype=np.float32)
    return Categorical(np.stack([row, -row], axis=1))


three_rows.horizon = 3  # type: ignore[attr-defined]


def test_a_callable_may_answer_for_several_ticks() -> None:
    """Its horizon is known, and one row is the first of each observation."""
    policy = load_planner(f"{__name__}:three_rows", SPEC).policy
    assert getattr(policy, "horizon", None) == 3
    first = one_row(policy)
    assert isinstance(first, FirstRow)
    answer = first(np.zeros((2, 1), np.float32))
    assert dists.pack(answer)[:, 0].tolist() == [0, 3]


class RecurrentExecutor:
    """A policy with a memory and two rows."""

    horizon = 2

    def initial_state(self, batch: int) -> Any:
        return (np.zeros((batch, 1), np.float32),)

    def __call__(self, obs: Floats, state: Any, /) -> Any:
        logits = np.repeat(obs + state[0], 2, axis=0) + [[0], [9]] * len(obs)
        pair = np.concatenate([logits, -logits], axis=1).astype(np.float32)
        return Categorical(pair), (state[0] + 1,)


def test_one_row_of_a_planner_with_a_memory() -> None:
    """Its memory goes on as before."""
    policy = one_row(RecurrentExecutor())
    assert isinstance(policy, RecurrentFirstRow)
    state = policy.initial_state(2)
    for tick in range(2):
        answer, state = policy(np.array([[1], [2]], np.float32), state)
        assert dists.pack(answer)[:, 0].tolist() == [1 + tick, 2 + tick]


def test_one_row_is_left_as_it_is() -> None:
    """A policy without a horizon answers with one row already."""
    assert one_row(abs) is abs
