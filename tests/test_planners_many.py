"""Several answers as one: votes of a black box, and members of an ensemble."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agentkd import dists
from agentkd.cli.main import main
from agentkd.distillation import run_distillation
from agentkd.errors import ConfigError
from agentkd.planners import Planner, load_planner
from agentkd.planners.actions import Votes
from agentkd.planners.adapt import BlackBox
from agentkd.planners.ensemble import Ensemble, highest, matched
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
from agentkd.types import (
    ActionDist,
    Categorical,
    Disagreeing,
    Floats,
    Gaussian,
    Point,
    Policy,
    SquashedGaussian,
)
from tests.cli_reports import report

OBS = np.random.default_rng(0).standard_normal((5, 1)).astype(np.float32)
BOX = BoxSpec((-2.0,), (2.0,), (1,))


def spec(action: ActionSpec) -> Spec:
    """Observations of one number."""
    return Spec(ObsSpec((Part("", "box", (1,), "float32"),)), action)


def f32(numbers: Any) -> Floats:
    """Make single-precision numbers."""
    return np.array(numbers, np.float32)


class OnlyPredicts:
    """Chooses by the sign of what it sees; there is nothing else to it."""

    __slots__ = ("asked",)

    def __init__(self) -> None:
        """Count what it is asked."""
        self.asked = 0

    def predict(self, obs: Any) -> Any:
        """Give 1 above 0, else 0."""
        self.asked += len(obs)
        return (obs[:, 0] > 0).astype(int)


class Draws:
    """Chooses 2 in three of four calls, else 0."""

    def __init__(self) -> None:
        """Begin the count."""
        self.calls = 0

    def predict(self, obs: Any) -> Any:
        """Choose by a count of all that was ever asked."""
        at = self.calls + np.arange(len(obs))
        self.calls += len(obs)
        return np.where(at % 4 == 3, 0, 2)


def box_of(thing: Any, action: ActionSpec) -> Policy:
    """Make a black box."""
    return BlackBox(thing.predict, spec(action))


def fixed(dist: ActionDist) -> Policy:
    """Make a policy that says one thing."""
    return lambda _: dist


def test_what_only_predicts_is_distilled() -> None:
    """An object without distribution, values or spaces becomes an executor."""

    class Leaning:
        __slots__ = ()

        def predict(self, obs: Any) -> Any:
            lean = obs[:, 2] + 0.3 * obs[:, 3] + 0.05 * obs[:, 0] + 0.1 * obs[:, 1]
            return (lean > 0).astype(int)

    env = gym.make("CartPole-v1")
    own = env_spec(env)
    votes = Votes(BlackBox(Leaning().predict, own), own, 4, noise=0.1)
    planner = Planner(votes, own, "black box", 0, "")
    found = run_distillation("CartPole-v1", planner, "mlp:16", labels=2000, episodes=0)
    obs, _ = env.reset(seed=0)
    total, ended, cut = 0.0, False, False
    while not (ended or cut):
        obs, reward, ended, cut, _ = env.step(found.executor.act(obs))
        total += float(reward)
    assert total == 500.0


def test_votes_are_shares() -> None:
    """Three votes of four for 2: smoothed by 0.1 over three choices."""
    policy = Votes(box_of(Draws(), DiscreteSpec(3)), spec(DiscreteSpec(3)), 4, smoothing=0.1)
    found = np.exp(dists.pack(policy(OBS[:1])))
    expected = 0.9 * np.array([[0.25, 0.0, 0.75]]) + 0.1 / 3
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_votes_near_by_tell_how_near_another_choice_is() -> None:
    """At the border votes are halved, far from it they are of one mind.

    The share tends to the normal distribution's at the distance in units of noise.
    """
    action = DiscreteSpec(2)
    one = OnlyPredicts()
    policy = Votes(box_of(one, action), spec(action), 4001, noise=0.5, smoothing=1e-6)
    # The states' spread is 1, so that the noise is 0.5 in their units.
    found = np.exp(dists.pack(policy(np.array([[-1.0], [1.0]], np.float32))))[:, 1]
    np.testing.assert_allclose(found, [0.0228, 0.9772], atol=0.01)
    assert one.asked == 2 * 4001


def test_votes_follow_the_states_spread() -> None:
    """Pieces that are asked about one after another give the spread of them all."""
    policy = Votes(fixed(Point(OBS)), spec(BOX), 2, noise=0.1)
    states = np.random.default_rng(1).normal(5.0, 3.0, (60, 1)).astype(np.float32)
    for piece in (states[:7], states[7:8], states[8:]):
        policy._follow(piece)
    assert policy._spread() == pytest.approx(states.std(axis=0), rel=1e-5)


def test_votes_in_a_box_are_a_gaussian() -> None:
    """With the votes' mean and spread; one vote is a point."""

    class Alternates:
        calls = 0

        def predict(self, obs: Any) -> Any:
            at = self.calls + np.arange(len(obs))
            self.calls += len(obs)
            return np.where(at % 2, 1.0, -1.0)[:, None]

    policy = Votes(box_of(Alternates(), BOX), spec(BOX), 4)
    found = policy(OBS[:1])
    assert isinstance(found, Gaussian)
    assert found.mean.item() == pytest.approx(0.0)
    assert np.exp(found.log_std).item() == pytest.approx(1.0, rel=2e-3)
    assert isinstance(Votes(box_of(Alternates(), BOX), spec(BOX))(OBS), Point)


@pytest.mark.parametrize(
    ("action", "chosen"),
    [(DiscreteSpec(3, 5), [7]), (MultiDiscreteSpec((2, 3)), [1, 2]), (MultiBinarySpec(2), [1, 0])],
    ids=str,
)
def test_votes_of_one_mind_keep_the_choice(action: ActionSpec, chosen: list[int]) -> None:
    """Whatever is chosen, its distribution has that mode."""

    class Firm:
        def predict(self, obs: Any) -> Any:
            answer = np.tile(np.array(chosen), (len(obs), 1))
            return answer[:, 0] if isinstance(action, DiscreteSpec) else answer

    found = Votes(box_of(Firm(), action), spec(action), 3)(OBS)
    dists.check(found, action, 5)
    wanted = Firm().predict(OBS)
    np.testing.assert_array_equal(dists.mode(found, action), wanted)


def test_votes_that_cannot_be() -> None:
    """Numbers that mean nothing, and planners whose memory each query would change."""
    policy, own = fixed(Point(OBS)), spec(BOX)
    for queries, noise, smoothing, said in (
        (0, 0.0, 0.1, "at least 1"),
        (2, float("nan"), 0.1, "noise nan"),
        (1, 0.1, 0.1, "more votes"),
        (2, 0.1, 0.0, "smoothing is 0"),
    ):
        with pytest.raises(ConfigError, match=said):
            Votes(policy, own, queries, noise=noise, smoothing=smoothing)

    class Remembers:
        def initial_state(self, batch: int) -> Any:
            return (np.zeros((batch, 1)),)

    with pytest.raises(ConfigError, match="change its memory"):
        Votes(Remembers(), own, 2)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no votes are asked"):
        load_planner("nowhere.zip", vote_noise=0.1)


def test_votes_from_the_command_line(tmp_path: Path) -> None:
    """`--votes` wraps the planner of a reference."""
    out = tmp_path / "run"
    words = ["distill", "CartPole-v1", "--planner", "tests.cli_planners:balance"]
    words += ["--executor", "mlp:8", "--labels", "300", "--episodes", "1"]
    words += ["--votes", "3", "--vote-noise", "0.1", "--out", str(out)]
    assert main(words) == 0
    data = report(out)
    assert data["planner_name"].startswith("votes of")
    assert data["planner_queries"] == 3 * data["labels"]


# Ensembles


def moments(*members: tuple[float, float]) -> list[tuple[Floats, Floats]]:
    """Means and variances of members, for one state of one number."""
    return [(np.array([[m]], np.float32), np.array([[v]], np.float32)) for m, v in members]


def test_weighted_moments_by_hand() -> None:
    """Of 0 ± 1 and 4 ± 2 by 3/4 and 1/4: mean 1, variance 7/4 + 3."""
    weights = np.array([0.75, 0.25], np.float32)
    mean, variance = matched(moments((0.0, 1.0), (4.0, 4.0)), weights)
    assert mean.item() == pytest.approx(1.0)
    assert variance.item() == pytest.approx(0.75 + 1.0 + 0.75 * 1 + 0.25 * 9)


def test_members_that_go_different_ways_do_not_go_between() -> None:
    """A mixture's answer is one of the ways; the moments' is the obstacle."""
    left, right = fixed(Point(f32([[-1.0]]))), fixed(Point(f32([[1.0]])))
    own = spec(BOX)
    between = dists.mode(Ensemble((left, right), own)(OBS[:1]), BOX)
    assert between.item() == pytest.approx(0.0)
    one_way = Ensemble((left, right), own, boxes="mixture")(OBS[:1])
    assert dists.mode(one_way, BOX).item() == pytest.approx(-1.0)
    most = Ensemble((left, right, right), own, boxes="mixture")(OBS[:1])
    assert dists.mode(most, BOX).item() == pytest.approx(1.0, abs=1e-4)
    heavy = Ensemble((left, right), own, weights=(1.0, 1.5), boxes="mixture")(OBS[:1])
    assert dists.mode(heavy, BOX).item() == pytest.approx(1.0, abs=1e-4)


def test_a_mode_is_where_the_density_has_no_slope() -> None:
    """Two Gaussians that overlap have one mode; a grid finds the same."""
    members = moments((0.0, 1.0), (1.5, 0.49))
    weights = np.array([0.6, 0.4], np.float32)
    found, variance = highest(members, weights, f32([1e-3]))
    grid = np.linspace(-1, 3, 400_001)
    height = 0.6 * np.exp(-0.5 * grid**2)
    height = height + 0.4 / 0.7 * np.exp(-0.5 * ((grid - 1.5) / 0.7) ** 2)
    assert found.item() == pytest.approx(grid[height.argmax()], abs=2e-4)
    assert 0.49 < variance.item() < 1.0


def test_a_mixture_of_one_mind_is_that_mind() -> None:
    """Equal members give their own mean and spread, squashed as they are."""
    same = SquashedGaussian(f32([[0.4]]), f32([[-1.0]]))
    found = Ensemble((fixed(same), fixed(same)), spec(BOX), boxes="mixture")(OBS[:1])
    assert isinstance(found, SquashedGaussian)
    assert found.mean.item() == pytest.approx(0.4, abs=1e-5)
    assert found.log_std.item() == pytest.approx(-1.0, abs=1e-4)


def test_weights_of_choices() -> None:
    """A member of weight 3 has three of four parts in the probabilities."""
    left = fixed(Categorical(f32([[50.0, 0.0]])))
    right = fixed(Categorical(f32([[0.0, 50.0]])))
    both = Ensemble((left, right), spec(DiscreteSpec(2)), weights=(3.0, 1.0))
    found = np.exp(dists.pack(both(OBS[:1])))
    np.testing.assert_allclose(found, [[0.75, 0.25]], rtol=1e-5)
    with pytest.raises(ConfigError, match="1 weights for 2"):
        Ensemble((left, right), spec(DiscreteSpec(2)), weights=(1.0,))


def test_disagreement_is_asked_through_a_protocol() -> None:
    """By hand: H(3/4, 1/4) for certain members; each is asked once for both answers."""
    calls = [0, 0]

    def member(index: int, logits: list[float]) -> Policy:
        def policy(obs: Floats, /) -> ActionDist:
            calls[index] += 1
            return Categorical(np.tile(f32(logits), (len(obs), 1)))

        return policy

    both = Ensemble(
        (member(0, [60.0, 0.0]), member(1, [0.0, 60.0])), spec(DiscreteSpec(2)), weights=(3.0, 1.0)
    )
    assert isinstance(both, Disagreeing)
    dist, apart = both.answer_and_disagreement(OBS)
    assert calls == [1, 1]
    expected = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    np.testing.assert_allclose(apart, np.full(5, expected), rtol=1e-4)
    np.testing.assert_array_equal(both.disagreement(OBS), apart)
    np.testing.assert_array_equal(dists.pack(both(OBS)), dists.pack(dist))


@pytest.mark.parametrize("boxes", ["moments", "mixture"])
def test_a_box_without_bounds_has_ensembles_too(boxes: Any) -> None:
    """Where there is no half of the box, a member's own unit counts; nothing is NaN."""
    endless = BoxSpec((-np.inf, -1.0), (np.inf, 1.0), (2,))
    pair = (fixed(Point(f32([[5.0, 0.5]]))), fixed(Point(f32([[5.1, 0.5]]))))
    found = Ensemble(pair, spec(endless), boxes=boxes)(OBS[:1])
    assert isinstance(found, Gaussian)
    np.testing.assert_allclose(found.mean, [[5.05, 0.5]], atol=1e-3)


def test_a_mixture_of_what_cannot_be_mixed_is_refused() -> None:
    """A single planner, also in a list, and choices, which have no in-between."""
    one = "tests.test_planners_many:sign"
    for ref in (one, [one]):
        with pytest.raises(ConfigError, match="single planner"):
            load_planner(ref, spec(BOX), boxes="mixture")
    with pytest.raises(ConfigError, match="a mixture already"):
        load_planner([one, one], spec(DiscreteSpec(2)), boxes="mixture")
    found = load_planner([one, one], spec(BOX), boxes="mixture").policy
    assert isinstance(found, Ensemble)
    assert found.boxes == "mixture"


def sign(obs: Floats) -> Point:
    """Act with the sign of what is seen."""
    return Point(np.sign(obs))
