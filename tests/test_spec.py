"""Observations come back from their flat form as they were."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from agentkd import spec as specs
from agentkd import spec_json
from agentkd.errors import SpecError
from agentkd.spec import DiscreteSpec, Spec

SPACES: dict[str, spaces.Space[Any]] = {
    "vector": spaces.Box(-1, 1, (4,), np.float32),
    "image": spaces.Box(0, 255, (6, 5, 3), np.uint8),
    "choice": spaces.Discrete(5, start=-2),
    "choices": spaces.MultiDiscrete([2, 3, 4]),
    "board": spaces.MultiDiscrete(np.full((2, 2), 3)),
    "flags": spaces.MultiBinary((2, 3)),
    "dict": spaces.Dict({"b": spaces.Discrete(3), "a": spaces.Box(-1, 1, (2, 2), np.float64)}),
    "tuple": spaces.Tuple((spaces.Discrete(2), spaces.MultiBinary(3))),
}


def alike(left: Any, right: Any) -> bool:
    """Whether two observations are equal, dtypes and parts included."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(alike(left[k], right[k]) for k in left)
    if isinstance(left, tuple):
        return all(alike(a, b) for a, b in zip(left, right, strict=True))
    return bool(np.allclose(left, right)) and np.shape(left) == np.shape(right)


@pytest.mark.parametrize("name", SPACES)
def test_flat_and_back_is_the_same(name: str) -> None:
    """unflatten(flatten(x)) is x, for each kind of space."""
    space = SPACES[name]
    space.seed(0)
    described = specs.obs_spec(space)
    for _ in range(20):
        obs = space.sample()
        flat = specs.flatten_one(described, obs)
        assert flat.shape == (described.size,)
        assert flat.dtype == np.float32
        back = specs.unflatten(described, flat[None])
        if isinstance(back, dict):
            first: Any = {key: value[0] for key, value in back.items()}
        elif isinstance(back, tuple):
            first = tuple(value[0] for value in back)
        else:
            first = back[0]
        assert alike(first, obs)


@pytest.mark.parametrize("name", SPACES)
def test_a_spec_survives_json(name: str) -> None:
    """What is written into a bundle is what is read."""
    for action in (
        spaces.Discrete(3, start=1),
        spaces.MultiDiscrete([2, 2]),
        spaces.MultiBinary(4),
        spaces.Box(-np.inf, np.inf, (2, 2), np.float32),
    ):
        spec = Spec(specs.obs_spec(SPACES[name]), specs.action_spec(action))
        assert spec_json.from_json(json.loads(json.dumps(spec_json.to_json(spec)))) == spec


def test_sizes_are_those_of_gymnasium() -> None:
    """The flat length is what gymnasium.spaces.flatdim says."""
    for space in SPACES.values():
        assert specs.obs_spec(space).size == spaces.flatdim(space)


def test_an_environment_is_described_by_its_spaces() -> None:
    """Single and vector environments have the same spec."""
    single = specs.env_spec(gym.make("CartPole-v1"))
    vector = specs.env_spec(gym.make_vec("CartPole-v1", num_envs=2))
    assert single == vector
    assert single.action == DiscreteSpec(2)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(3),
        spaces.Graph(spaces.Discrete(2), None),
        spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)})}),
        spaces.MultiDiscrete([3, 3], start=[1, 1]),
    ],
    ids=["text", "graph", "nested", "start"],
)
def test_what_has_no_flat_form_is_refused(space: spaces.Space[Any]) -> None:
    """The message names the kind, and what can be done."""
    with pytest.raises(SpecError, match="not supported"):
        specs.obs_spec(space)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(3),
        spaces.MultiBinary((2, 3)),
        spaces.MultiDiscrete(np.full((2, 2), 3)),
        spaces.MultiDiscrete([3, 3], start=[1, 1]),
        spaces.Box(0, 9, (2,), np.int64),
    ],
    ids=["text", "flags", "board", "start", "integers"],
)
def test_actions_that_cannot_be_given_back_are_refused(space: spaces.Space[Any]) -> None:
    """No executor acts with choices that the environment does not know."""
    with pytest.raises(SpecError, match="not supported"):
        specs.action_spec(space)


def test_a_wrong_observation_says_what_was_expected() -> None:
    """Shape, missing part and value out of range."""
    with pytest.raises(SpecError, match="shape"):
        specs.flatten_one(specs.obs_spec(SPACES["vector"]), np.zeros(3))
    with pytest.raises(SpecError, match="lacks"):
        specs.flatten_one(specs.obs_spec(SPACES["dict"]), {"a": np.zeros((2, 2))})
    with pytest.raises(SpecError, match="only 5 values"):
        specs.flatten_one(specs.obs_spec(SPACES["choice"]), 9)


@pytest.mark.parametrize("broken", [{}, {"obs": {}}, {"obs": {"parts": []}}])
def test_a_broken_spec_is_refused(broken: dict[str, Any]) -> None:
    """What is no spec is told, not guessed."""
    with pytest.raises(SpecError, match="Not a spec"):
        spec_json.from_json(broken)
