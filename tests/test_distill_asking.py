"""Few labels: which states are asked about, and that no more are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import gymnasium as gym
import numpy as np
import pytest

from agentkd.cli.main import main
from agentkd.distillation import Budget, CollectionOptions, Collector, Progress, distill
from agentkd.distillation.asking import (
    Ask,
    Asking,
    Chance,
    Committee,
    Novelty,
    Uncertainty,
    make_asking,
)
from agentkd.errors import ConfigError
from agentkd.planners import Planner
from agentkd.spec import (
    ActionSpec,
    BoxSpec,
    DiscreteSpec,
    MultiBinarySpec,
    MultiDiscreteSpec,
    ObsSpec,
    Part,
    Spec,
    env_spec,
)
from agentkd.types import ActionDist, Bernoulli, Categorical, Floats, MultiCategorical, Point
from tests.cli_planners import balance

BOX = BoxSpec((-1.0,), (1.0,), (1,))
ALIKE = np.zeros((8, 1), np.float32)


def spec(action: ActionSpec, size: int = 1) -> Spec:
    """Observations of a few numbers."""
    return Spec(ObsSpec((Part("", "box", (size,), "float32"),)), action)


def random() -> np.random.Generator:
    """Make a generator."""
    return np.random.default_rng(0)


def f32(numbers: Any) -> Floats:
    """Make single-precision numbers."""
    return np.array(numbers, np.float32)


def lean(obs: Floats, /) -> ActionDist:
    """Give choice 1 the logit of what is seen."""
    return Categorical(np.concatenate([0 * obs, obs], axis=1))


class Given:
    """Scores that are the observations themselves."""

    def __call__(self, obs: Floats, _executor: Any, /) -> Any:
        """Give them."""
        return obs[:, 0].astype(np.float64)

    def learn(self, _obs: Floats, _dist: ActionDist, /) -> None:
        """Learn nothing."""


@pytest.mark.parametrize("share", [0.1, 0.25, 1.0])
def test_the_upper_share_is_asked_about(share: float) -> None:
    """Of scores that come in any order so many are chosen, and they are the highest."""
    asking = Asking(Given(), share, random())
    scores = random().random((400, 8, 1)).astype(np.float32)
    chosen = np.stack([asking.choose(obs, lean) for obs in scores])[150:]
    late = scores[150:, :, 0]
    assert chosen.mean() == pytest.approx(share, abs=0.02)
    assert (chosen == (late >= 1 - share)).mean() > 0.95


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_states_of_equal_worth_are_drawn(share: float) -> None:
    """The share holds where scores say nothing, too."""
    asking = Asking(Given(), share, random())
    chosen = [asking.choose(ALIKE, lean) for _ in range(500)]
    assert np.mean(chosen) == pytest.approx(share, abs=0.02)


def test_chance_is_uniform() -> None:
    """The control asks about every state alike."""
    asking = Asking(Chance(random()), 0.25, random())
    chosen = np.stack([asking.choose(ALIKE, lean) for _ in range(2000)])
    assert chosen.mean(axis=0) == pytest.approx(np.full(8, 0.25), abs=0.04)


def test_uncertainty_is_the_entropy_of_the_executors_answer() -> None:
    """log 2 where it is torn; by hand at 3/4; the sum over several choices."""
    obs = f32([[0.0], [np.log(3.0)]])
    quarter = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    found = Uncertainty(DiscreteSpec(2))(obs, lean)
    np.testing.assert_allclose(found, [np.log(2.0), quarter], rtol=1e-5)

    def both(obs: Floats, /) -> ActionDist:
        return Bernoulli(np.concatenate([0 * obs, obs], axis=1))

    found = Uncertainty(MultiBinarySpec(2))(obs, both)
    np.testing.assert_allclose(found, [2 * np.log(2.0), np.log(2.0) + quarter], rtol=1e-5)

    def two(obs: Floats, /) -> ActionDist:
        return MultiCategorical(np.concatenate([0 * obs] * 2 + [obs * 0] * 3, 1), (2, 3))

    found = Uncertainty(MultiDiscreteSpec((2, 3)))(obs, two)
    np.testing.assert_allclose(found, np.full(2, np.log(6.0)), rtol=1e-5)


def test_novelty_is_the_distance_to_what_was_asked_in_units_of_its_spread() -> None:
    """Asked at (0, 0) and (2, 20), with spreads of 1 and 10."""
    scores = Novelty(2, random())
    assert scores(f32([[5.0, 5.0]]), lean).tolist() == [0.0]
    asked = f32([[0.0, 0.0], [2.0, 20.0]])
    scores.learn(asked, lean(asked[:, :1]))
    found = scores(f32([[0.0, 0.0], [2.0, 50.0], [0.0, 10.0]]), lean)
    np.testing.assert_allclose(found, [0.0, 3.0, 1.0], atol=1e-6)


def test_a_number_that_never_moved_does_not_make_all_new() -> None:
    """Without a spread it keeps its own unit."""
    scores = Novelty(2, random())
    asked = f32([[0.0, 7.0], [2.0, 7.0]])
    scores.learn(asked, lean(asked[:, :1]))
    assert scores(f32([[0.0, 8.0]]), lean).item() == pytest.approx(1.0)


@pytest.mark.parametrize("action", [DiscreteSpec(2, 3), BOX], ids=str)
def test_a_committee_is_at_one_where_it_was_told(action: ActionSpec) -> None:
    """Asked about -1 to 1 alone, its members part ways beyond."""
    scores = Committee(spec(action), random())
    outside, inside = f32([[-6.0], [6.0]]), f32([[-0.9], [-0.4], [0.4], [0.9]])
    assert scores(outside, lean).tolist() == [0.0, 0.0]
    asked = np.linspace(-1, 1, 512, dtype=np.float32)[:, None]
    dist = Point(asked) if isinstance(action, BoxSpec) else lean(asked)
    scores.learn(asked, dist)
    assert scores(outside, lean).min() > 5 * scores(inside, lean).max()


def test_a_committee_is_least_at_one_at_the_border_of_choices() -> None:
    """Near 0, where the planner changes its mind, more than away from it."""
    scores = Committee(spec(MultiDiscreteSpec((2, 2))), random())
    asked = random().uniform(-1, 1, (512, 1)).astype(np.float32)
    sides = np.concatenate([0 * asked, asked, 0 * asked, -asked], axis=1)
    scores.learn(asked, MultiCategorical(sides, (2, 2)))
    border, far = f32([[-0.02], [0.0], [0.02]]), f32([[-0.6], [-0.5], [0.5], [0.6]])
    assert scores(border, lean).mean() > 2 * scores(far, lean).mean()


class Sees(gym.Env[Any, Any]):
    """Shows numbers of chance, and counts what is done."""

    observation_space = gym.spaces.Box(-9, 9, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        """Begin."""
        self.random = random()
        self.done: list[int] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """Begin anew."""
        if seed is not None:
            self.random = np.random.default_rng(seed)
        return self.random.standard_normal(1).astype(np.float32), {}

    def step(self, action: Any) -> Any:
        """Go on for good."""
        self.done.append(int(action))
        return self.reset()[0], 0.0, False, False, {}


class Counts:
    """A planner that counts what it is asked, and always does 0."""

    def __init__(self) -> None:
        """Nothing was asked."""
        self.asked: list[Floats] = []

    def __call__(self, obs: Floats, /) -> ActionDist:
        """Answer."""
        assert len(obs)
        self.asked.append(obs)
        return Categorical(np.tile(f32([[50.0, -50.0]]), (len(obs), 1)))


def one(obs: Floats, /) -> ActionDist:
    """Always do 1."""
    return Categorical(np.tile(f32([[-50.0, 50.0]]), (len(obs), 1)))


def test_only_what_was_chosen_is_asked_and_labelled() -> None:
    """With the executor driving, the planner answers a fourth of the states."""
    planner, made = Counts(), []

    def make() -> Sees:
        made.append(Sees())
        return made[-1]

    own = env_spec(Sees())
    asking = Asking(Given(), 0.25, random())
    collector = Collector(make, planner, own, count=8, asking=asking)
    first = collector.step(one, 1.0)
    assert len(first.obs) == 8
    later = [collector.step(one, 0.0) for _ in range(300)]
    asked = sum(len(step.obs) for step in later)
    assert asked == pytest.approx(0.25 * 8 * 300, rel=0.15)
    assert sum(map(len, planner.asked)) == asked + 8 == collector.labels
    assert all(len(s.obs) == len(s.dist.logits) for s in later)  # type: ignore[union-attr]
    assert np.concatenate([s.obs for s in later[100:]]).min() > 0.3
    assert all(set(env.done[1:]) == {1} for env in made)


def test_where_the_planner_drives_it_is_asked() -> None:
    """Every state in its stretches is labelled, whatever the share is."""
    planner = Counts()
    asking = Asking(Given(), 0.01, random())
    collector = Collector(Sees, planner, env_spec(Sees()), count=4, asking=asking)
    steps = [collector.step(one, 1.0) for _ in range(20)]
    assert all(len(step.obs) == 4 for step in steps)


@pytest.mark.parametrize("ask", get_args(Ask))
def test_a_budget_of_labels_counts_what_is_asked(ask: Ask) -> None:
    """Each way distils CartPole's rule from 800 answers, and two before it begins."""
    calls: list[int] = []

    def counted(obs: Floats, /) -> ActionDist:
        calls.append(len(obs))
        return balance(obs)

    env = gym.make("CartPole-v1")
    planner = Planner(counted, env_spec(env), "rule", 0, "")
    way = CollectionOptions(environments=4, halving=200, ask=ask)
    found = distill(
        "CartPole-v1",
        planner,
        "mlp:8",
        budget=Budget(labels=800, steps_per_label=1.5),
        collection=way,
    )
    assert sum(calls) == 2 + found.labels
    assert 800 <= found.labels < 804
    obs, _ = env.reset(seed=0)
    total, over = 0.0, False
    while not over:
        obs, reward, ended, cut, _ = env.step(found.executor.act(obs))
        total, over = total + float(reward), ended or cut
    assert total > 400


def test_a_process_of_its_own_chooses_too() -> None:
    """With a time budget, a child leaves states out; labels go on coming."""
    looks: list[Progress] = []

    def enough() -> bool:
        return bool(looks) and looks[-1].labels > 2500 and looks[-1].steps > 100

    found = distill(
        "CartPole-v1",
        "tests.cli_planners:balance",
        "mlp:8",
        budget=Budget(seconds=10_000.0),
        collection=CollectionOptions(halving=100, ask="disagreement", ask_share=0.1),
        watch=looks.append,
        every=0.1,
        stop=enough,
    )
    assert not found.fault
    assert found.labels > 2500
    assert found.restarts == 0


def test_ways_to_ask_that_cannot_be() -> None:
    """Names, shares, boxes that are never uncertain, planners that must see all."""
    with pytest.raises(ConfigError, match="Did you mean 'novel'"):
        CollectionOptions(ask="novell")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="ask_share is 0"):
        CollectionOptions(ask="novel", ask_share=0.0)
    with pytest.raises(ConfigError, match="never uncertain"):
        make_asking("uncertain", 0.5, one, spec(BOX), 0)

    class Remembers:
        def initial_state(self, batch: int) -> Any:
            return (np.zeros((batch, 1)),)

    with pytest.raises(ConfigError, match="with a memory"):
        make_asking("novel", 0.5, Remembers(), spec(BOX), 0)  # type: ignore[arg-type]
    assert make_asking("all", 0.5, one, spec(BOX), 0) is None
    with pytest.raises(ConfigError, match="steps_per_label is 0"):
        Budget(labels=10, steps_per_label=0.0)


def test_the_command_line_refuses_before_it_overwrites(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be asked, or used again, costs no earlier run."""
    words = ["distill", "CartPole-v1", "--labels", "100"]
    words += ["--planner", "tests.cli_planners:memory", "--out", str(tmp_path / "run")]
    assert main([*words, "--ask", "novel"]) == 2
    assert "with a memory" in capsys.readouterr().err
    assert main([*words, "--seconds", "1", "--steps-per-label", "2"]) == 2
    assert "--steps-per-label is for" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
