"""Tree search: the best choice is visited most, the more the longer it thinks."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.deploy.bundle import write_bundle
from agentkd.errors import ConfigError, PlannerError, SpecError
from agentkd.executors.architecture import initial
from agentkd.measure.evaluate import evaluate
from agentkd.planners import load_planner
from agentkd.planners.search.tree import TreeOptions, TreeSearch
from agentkd.planners.search.worlds import chooser, lived, prior_of
from agentkd.spec import DiscreteSpec, ObsSpec, Part, Spec, env_spec
from agentkd.testing import check_policy
from agentkd.types import Categorical, Floats
from envs.snake import Snake
from policies.snake import reactive

SNAKE = "envs.snake:agentkd/Snake-v0"
START = np.zeros((1, 1), np.float32)


class Steps:
    """A walk of binary choices; what is paid depends on all of them.

    States are the choices so far. `paid` gives the reward for a state, and after `length` choices
    all is over.
    """

    actions = 2

    def __init__(self, paid: dict[tuple[int, ...], float], length: int) -> None:
        self.paid, self.length = paid, length

    def restore(self, obs: Floats, /) -> tuple[int, ...]:
        return ()

    def step(self, state: tuple[int, ...], action: int, /) -> tuple[tuple[int, ...], float, bool]:
        after = (*state, action)
        return after, self.paid.get(after, 0.0), len(after) == self.length


PATIENCE = Steps({(0,): 1.0, (1, 1, 1): 5.0}, 3)
"""The first choice pays at once, the second more, but only in the end."""


def visits(logits: Floats) -> Floats:
    return np.rint(np.exp(logits))


def test_it_waits_for_what_is_paid_later() -> None:
    """With enough walks the better choice is visited most, and few do not see it."""
    few = TreeSearch(PATIENCE, TreeOptions(simulations=64))(START)
    many = TreeSearch(PATIENCE, TreeOptions(simulations=512))(START)
    assert few.logits.argmax() == 0
    assert many.logits.argmax() == 1


def test_the_longer_it_thinks_the_surer_it_is() -> None:
    """The share of the best choice grows, and logits are log-visits."""
    shares = []
    for simulations in (64, 256, 512, 2048):
        options = TreeOptions(simulations=simulations)
        counted = visits(TreeSearch(PATIENCE, options)(START).logits)[0]
        assert counted.sum() == simulations
        shares.append(counted[1] / simulations)
    assert all(sooner < later for sooner, later in pairwise(shares))
    assert shares[-1] > 0.9


def test_a_discount_makes_it_impatient() -> None:
    """Five in three ticks are worth less than one now, if little is left a tick on."""
    options = TreeOptions(simulations=512, discount=0.3)
    assert TreeSearch(PATIENCE, options)(START).logits.argmax() == 0


def test_rows_follow_the_most_visited_way() -> None:
    """Each of the three ticks has its row; after the end the last is repeated."""
    options = TreeOptions(simulations=512, horizon=5, tail=32)
    answer = TreeSearch(PATIENCE, options)(np.zeros((2, 1), np.float32))
    assert answer.logits.shape == (10, 2)
    assert answer.logits.argmax(axis=1).tolist() == [1] * 10
    assert visits(answer.logits[2]).sum() >= 32
    np.testing.assert_array_equal(answer.logits[2], answer.logits[4])
    assert len(TreeSearch(PATIENCE, options).at(1)(START).logits) == 1


def test_partial_answers_lead_to_the_whole() -> None:
    """After each slice one; the last rests on all walks and is a call's answer."""
    search = TreeSearch(PATIENCE, TreeOptions(simulations=70, slice=32))
    partial = [visits(each.logits)[0].sum() for each in search.improve(START)]
    assert partial == [32, 64, 70]
    *_, last = search.improve(START)
    np.testing.assert_array_equal(last.logits, search(START).logits)


def test_what_the_prior_rules_out_is_not_tried() -> None:
    """It has the smallest logit that is finite."""
    search = TreeSearch(
        PATIENCE, TreeOptions(simulations=50), prior=lambda _: np.array([1.0, 0.0], np.float32)
    )
    logits = search(START).logits[0]
    assert logits.tolist() == pytest.approx([np.log(50), np.log(0.1)])


def test_a_value_stands_for_what_is_not_looked_at() -> None:
    """One walk for each choice does, where the value knows the rest."""
    options = TreeOptions(simulations=8)
    search = TreeSearch(PATIENCE, options, value=lambda state: 5.0 if set(state) == {1} else 0.0)
    assert search(START).logits.argmax() == 1
    assert TreeSearch(PATIENCE, options)(START).logits.argmax() == 0


@pytest.mark.parametrize(
    ("search", "message"),
    [
        (TreeSearch(PATIENCE, value=lambda _: np.nan), "value is nan"),
        (TreeSearch(Steps({(0,): np.inf}, 2)), "pays inf"),
        (TreeSearch(PATIENCE, prior=lambda _: np.ones(3, np.float32)), "for 2 choices"),
        (TreeSearch(PATIENCE, prior=lambda _: np.full(2, np.nan, np.float32)), "prior gives"),
    ],
)
def test_what_is_no_number_is_a_planners_error(search: Any, message: str) -> None:
    """With whose it is."""
    with pytest.raises(PlannerError, match=message):
        search(START)


@pytest.mark.parametrize(
    "options", [{"simulations": 0}, {"slice": 0}, {"discount": 1.5}, {"temperature": -1.0}]
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    """With their name."""
    with pytest.raises(ConfigError, match=next(iter(options))):
        TreeOptions(**options)


def towards_one(obs: Floats) -> Categorical:
    """Prefers the second choice."""
    return Categorical(np.tile(np.array([0, 2], np.float32), (len(obs), 1)))


def observe(state: tuple[int, ...]) -> Floats:
    return np.array([len(state)], np.float32)


def test_an_executor_guides_a_search() -> None:
    """Its probabilities are the prior; with it, few walks find what else many do."""
    prior = prior_of(towards_one, observe)
    assert prior(()).tolist() == pytest.approx([0.1192, 0.8808], abs=1e-4)
    soft = prior_of(towards_one, observe, temperature=2.0)
    assert soft(()).tolist() == pytest.approx([0.2689, 0.7311], abs=1e-4)
    options = TreeOptions(simulations=6)
    assert TreeSearch(PATIENCE, options)(START).logits.argmax() == 0
    assert TreeSearch(PATIENCE, options, prior=prior)(START).logits.argmax() == 1


def test_a_state_is_worth_what_an_executor_gets_from_there() -> None:
    """Rewards of so many ticks, discounted, and then what the value says."""
    choose = chooser(towards_one, observe)
    assert choose(()) == 1
    assert lived(PATIENCE, choose, steps=9, discount=0.5)(()) == 5 * 0.25
    assert lived(PATIENCE, choose, steps=2)(()) == 0
    worth = lived(PATIENCE, choose, steps=2, discount=0.5, value=lambda _: 8.0)
    assert worth(()) == 2.0
    with pytest.raises(ConfigError, match="steps"):
        lived(PATIENCE, choose, steps=0)


def test_the_snake_planner_keeps_the_contract() -> None:
    """Asked again, or in another batch, it answers the same."""
    world = Snake()
    spec = env_spec(world)
    obs = np.stack([world.reset(seed=seed)[0] for seed in range(4)])
    planner: Any = load_planner("policies.snake:quick", spec).policy
    check_policy(planner.at(1), spec, obs=obs)


def test_the_snake_planner_eats_more_than_a_rule() -> None:
    """On a hard game it gets more than the rule that looks one turn ahead."""
    world = Snake("hard")
    planner: Any = load_planner("policies.snake:planner", env_spec(world)).policy
    eaten = []
    for policy in (planner.at(1), reactive):
        obs, _ = world.reset(seed=0)
        total, over = 0.0, False
        while not over:
            obs, reward, over, _, _ = world.step(int(policy(obs[None]).logits.argmax()))
            total += reward
        eaten.append(total)
    assert eaten[0] > eaten[1]


def test_with_an_executor_as_prior_few_walks_eat_more() -> None:
    """Eight walks get more from games that nothing was trained on than eight without a prior."""
    spec = env_spec(Snake())
    eaten = {}
    for name in ("planner", "guided"):
        found: Any = load_planner(f"policies.snake:{name}", spec, args={"walks": 8}).policy
        eaten[name] = sum(evaluate(SNAKE, found.at(1), episodes=10, seed=40_000).returns)
    assert eaten["guided"] > eaten["planner"]


def test_a_prior_of_another_environment_is_refused(tmp_path: Path) -> None:
    """Its file is named, with what would fit."""
    other = Spec(ObsSpec((Part("", "box", (2,), "float32"),)), DiscreteSpec(3))
    path = tmp_path / "other.akd"
    write_bundle(path, initial("linear", other))
    with pytest.raises(SpecError, match=r"other\.akd.*364 numbers"):
        load_planner("policies.snake:guided", env_spec(Snake()), args={"executor": str(path)})
