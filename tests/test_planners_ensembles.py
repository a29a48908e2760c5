"""Several planners as one: how their answers are mixed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from agentkd import dists
from agentkd.errors import ConfigError, SpecError
from agentkd.planners import load_planner
from agentkd.planners.ensemble import Ensemble
from agentkd.types import (
    ActionDist,
    Bernoulli,
    Categorical,
    Gaussian,
    MultiCategorical,
    Point,
    Policy,
    QValues,
    SquashedGaussian,
)
from tests.test_planners_objects import OBS, VECTOR, VECTOR_BOX, VECTOR_CHOICE, spec_of


def fixed(dist: ActionDist) -> Policy:
    return lambda _: dist


def test_an_ensemble_averages_probabilities() -> None:
    """Not logits: one certain member does not outvote the other."""
    sure = Categorical(np.array([[50.0, 0.0, 0.0]], np.float32))
    torn = Categorical(np.array([[0.0, 0.0, 0.0]], np.float32))
    both = Ensemble((fixed(sure), fixed(torn)), VECTOR_CHOICE)
    found = dists.pack(both(OBS[:1]))
    np.testing.assert_allclose(np.exp(found), [[2 / 3, 1 / 6, 1 / 6]], rtol=1e-5)


def test_values_and_logits_mix_whatever_the_returns_units() -> None:
    """Scaling and shifting the values changes nothing without a temperature."""
    logits = Categorical(np.array([[1.0, 0.0, 0.0]], np.float32))
    values = np.array([[1.0, 2.0, 4.0]], np.float32)
    small = Ensemble((fixed(logits), fixed(QValues(values))), VECTOR_CHOICE)
    big = Ensemble((fixed(logits), fixed(QValues(1e4 * values + 7))), VECTOR_CHOICE)
    np.testing.assert_allclose(dists.pack(small(OBS[:1])), dists.pack(big(OBS[:1])), rtol=1e-3)
    greedy = Ensemble((fixed(QValues(values)),), VECTOR_CHOICE, (0.01,))
    assert np.exp(dists.pack(greedy(OBS[:1])))[0, 2] == pytest.approx(1.0)


def test_an_ensemble_of_several_choices() -> None:
    """Each choice is averaged for itself."""
    spec = spec_of(VECTOR, spaces.MultiDiscrete([2, 2]))
    left = MultiCategorical(np.array([[9.0, 0.0, 0.0, 0.0]], np.float32), (2, 2))
    right = MultiCategorical(np.array([[0.0, 0.0, 0.0, 9.0]], np.float32), (2, 2))
    dist = Ensemble((fixed(left), fixed(right)), spec)(OBS[:1])
    dists.check(dist, spec.action, 1)
    assert dists.pack(dist).dtype == np.float32
    expected = [[0.75, 0.25, 0.25, 0.75]]
    np.testing.assert_allclose(np.exp(dists.pack(dist)), expected, atol=1e-3)
    yes_no = spec_of(VECTOR, spaces.MultiBinary(1))
    pair = (fixed(Bernoulli(np.float32([[x]]))) for x in (0.0, 50.0))  # type: ignore[arg-type]
    odds = dists.pack(Ensemble(tuple(pair), yes_no)(OBS[:1]))
    np.testing.assert_allclose(odds, [[np.log(3.0)]], rtol=1e-4)


def test_gaussians_are_matched_by_their_moments() -> None:
    """The mixture's variance is the mean variance and the means' spread."""
    one = np.ones((1, 2), np.float32)
    pair = (fixed(Gaussian(0 * one, 0 * one)), fixed(Gaussian(2 * one, 0 * one)))
    dist = Ensemble(pair, VECTOR_BOX)(OBS[:1])
    assert isinstance(dist, Gaussian)
    assert dists.pack(dist).dtype == np.float32
    np.testing.assert_allclose(dist.mean, one)
    np.testing.assert_allclose(np.exp(dist.log_std), np.sqrt(2) * one, rtol=2e-3)
    before = (fixed(SquashedGaussian(0 * one, 0 * one)), fixed(SquashedGaussian(2 * one, 0 * one)))
    squashed = Ensemble(before, VECTOR_BOX)(OBS[:1])
    assert isinstance(squashed, SquashedGaussian)
    np.testing.assert_allclose(np.exp(squashed.log_std), np.sqrt(2) * one, rtol=1e-4)


def test_members_of_different_kinds_meet_in_the_environments_units() -> None:
    """A point and a squashed Gaussian: means through tanh and the bounds."""
    one = np.ones((1, 2), np.float32)
    squashed = SquashedGaussian(0 * one, -9 * one)
    dist = Ensemble((fixed(squashed), fixed(Point(0 * one))), VECTOR_BOX)(OBS[:1])
    assert isinstance(dist, Gaussian)
    np.testing.assert_allclose(dist.mean, [[0.0, -0.25]], atol=1e-6)
    np.testing.assert_allclose(np.exp(dist.log_std)[0, 1], 0.25, rtol=1e-2)


@given(st.lists(st.floats(-30.0, 30.0), min_size=6, max_size=6))
def test_disagreement_is_an_information(logits: list[float]) -> None:
    """It is 0 for equal members, and never above log 2 for two."""
    rows = np.array(logits, np.float32).reshape(2, 1, 3)
    pair = tuple(fixed(Categorical(each)) for each in rows)
    found = Ensemble(pair, VECTOR_CHOICE).disagreement(OBS[:1])
    assert found.shape == (1,)
    assert 0.0 <= found[0] <= np.log(2.0) + 1e-4
    alike = Ensemble((pair[0], pair[0]), VECTOR_CHOICE).disagreement(OBS[:1])
    assert alike[0] == pytest.approx(0.0, abs=1e-5)


def test_disagreement_of_opposite_members() -> None:
    """Two certain members that differ disagree by log 2, on boxes by their spread."""
    eye = 60.0 * np.eye(3, dtype=np.float32)
    pair = (fixed(Categorical(eye[:1])), fixed(Categorical(eye[1:2])))
    found = Ensemble(pair, VECTOR_CHOICE).disagreement(OBS[:1])
    assert found[0] == pytest.approx(np.log(2.0), rel=1e-3)
    one = np.ones((1, 2), np.float32)
    points = (fixed(Point(one)), fixed(Point(-one)))
    assert Ensemble(points, VECTOR_BOX).disagreement(OBS[:1])[0] == pytest.approx(1.0)


def test_ensembles_that_cannot_be() -> None:
    """No member, temperatures for others, a member with memory, mixed actions."""
    member = fixed(Categorical(OBS))
    with pytest.raises(ConfigError, match="at least one"):
        Ensemble((), VECTOR_CHOICE)
    with pytest.raises(ConfigError, match="at least one"):
        load_planner([])
    with pytest.raises(ConfigError, match="2 temperatures for 1"):
        Ensemble((member,), VECTOR_CHOICE, (1.0, 1.0))
    with pytest.raises(ConfigError, match="above 0"):
        Ensemble((member,), VECTOR_CHOICE, (0.0,))
    memory: Any = SimpleNamespace(initial_state=None)
    with pytest.raises(ConfigError, match="recurrent"):
        Ensemble((memory,), VECTOR_CHOICE)
    with pytest.raises(SpecError, match="Gaussian"):
        Ensemble((fixed(Gaussian(OBS, OBS)),), VECTOR_CHOICE)(OBS)
