"""Black boxes, and the members of an ensemble."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agentkd import dists
from agentkd.distillation import run_distillation
from agentkd.errors import ConfigError
from agentkd.planners import Planner
from agentkd.planners.adapt import BlackBox
from agentkd.planners.ensemble import Ensemble, matched
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec, ObsSpec, Part, Spec, env_spec
from agentkd.types import ActionDist, Categorical, Disagreeing, Floats, Gaussian, Point, Policy

OBS = np.random.default_rng(0).standard_normal((5, 1)).astype(np.float32)
BOX = BoxSpec((-2.0,), (2.0,), (1,))


def spec(action: ActionSpec) -> Spec:
    """Observations of one number."""
    return Spec(ObsSpec((Part("", "box", (1,), "float32"),)), action)


def f32(numbers: Any) -> Floats:
    """Make single-precision numbers."""
    return np.array(numbers, np.float32)


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
    planner = Planner(BlackBox(Leaning().predict, own), own, "black box", 0, "")
    found = run_distillation("CartPole-v1", planner, "mlp:16", labels=2000, episodes=0)
    obs, _ = env.reset(seed=0)
    total, ended, cut = 0.0, False, False
    while not (ended or cut):
        obs, reward, ended, cut, _ = env.step(found.executor.act(obs))
        total += float(reward)
    assert total == 500.0


def moments(*members: tuple[float, float]) -> list[tuple[Floats, Floats]]:
    """Means and variances of members, for one state of one number."""
    return [(np.array([[m]], np.float32), np.array([[v]], np.float32)) for m, v in members]


def test_weighted_moments_by_hand() -> None:
    """Of 0 ± 1 and 4 ± 2 by 3/4 and 1/4: mean 1, variance 7/4 + 3."""
    weights = np.array([0.75, 0.25], np.float32)
    mean, variance = matched(moments((0.0, 1.0), (4.0, 4.0)), weights)
    assert mean.item() == pytest.approx(1.0)
    assert variance.item() == pytest.approx(0.75 + 1.0 + 0.75 * 1 + 0.25 * 9)


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


def test_a_box_without_bounds_has_ensembles_too() -> None:
    """Where the box has no half nothing is NaN."""
    endless = BoxSpec((-np.inf, -1.0), (np.inf, 1.0), (2,))
    pair = (fixed(Point(f32([[5.0, 0.5]]))), fixed(Point(f32([[5.1, 0.5]]))))
    found = Ensemble(pair, spec(endless))(OBS[:1])
    assert isinstance(found, Gaussian)
    np.testing.assert_allclose(found.mean, [[5.05, 0.5]], atol=1e-3)
