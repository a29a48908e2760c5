"""SB3 saves behind VecNormalize, and models in memory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agentkd import dists
from agentkd.planners import Planner, load_planner
from agentkd.planners.sb3.live import from_model
from agentkd.spec import env_spec
from agentkd.types import RecurrentPolicy
from tests.still import BOX, CHOICE, Env
from tests.test_planners_sb3 import (
    ALL,
    ON_POLICY,
    VECTOR,
    _nothing_is_unpickled,  # noqa: F401 (a fixture)
    observed,
    same_actions,
    shaken,
)


def normalised(space: Any, action: Any, folder: Path, **options: Any) -> VecNormalize:
    """Put an environment behind VecNormalize, and save what it has seen."""
    wrapper = VecNormalize(DummyVecEnv([lambda: Env(space, action)]), **options)
    wrapper.reset()
    zero: Any = np.zeros((1, *action.shape), action.dtype)
    for _ in range(20):
        wrapper.step(zero)
    wrapper.training = False
    wrapper.save(str(folder / "vecnormalize.pkl"))
    return wrapper


def alike(planner: Planner, model: Any, wrapper: VecNormalize, space: Any) -> tuple[Any, Any]:
    """Compare a planner, which sees raw observations, with its model; give these and actions."""
    own, flat = observed(space)
    expected, _ = model.predict(wrapper.normalize_obs(own), deterministic=True)
    assert not isinstance(planner.policy, RecurrentPolicy)
    found = dists.mode(planner.policy(flat), planner.spec.action)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    return flat, found


@pytest.mark.parametrize("clip", [0.5, 10.0])
def test_normalised_observations(clip: float, tmp_path: Path) -> None:
    """Statistics beside the save are applied to raw observations, as SB3 does."""
    wrapper = normalised(VECTOR, BOX, tmp_path, clip_obs=clip, epsilon=1e-2)
    model = shaken(PPO("MlpPolicy", wrapper, **ON_POLICY))
    model.save(tmp_path / "planner.zip")
    spec = env_spec(Env(VECTOR, BOX))
    planner = load_planner(str(tmp_path), spec)
    flat, found = alike(planner, model, wrapper, VECTOR)
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(tmp_path / "planner.zip", bare)
    named = load_planner(
        str(bare / "planner.zip"), spec, vecnormalize=str(tmp_path / "vecnormalize.pkl")
    )
    assert not isinstance(named.policy, RecurrentPolicy)
    again = dists.mode(named.policy(flat), spec.action)
    np.testing.assert_array_equal(again, found)
    assert planner.digest == named.digest


def test_missing_statistics_are_noticed(tmp_path: Path) -> None:
    """An on-policy save that saw normalised observations says that they are missing."""
    (tmp_path / "apart").mkdir()
    wrapper = normalised(VECTOR, BOX, tmp_path / "apart")
    model = A2C("MlpPolicy", wrapper, n_steps=4).learn(8)
    model.save(tmp_path / "planner.zip")
    with pytest.warns(UserWarning, match="trained behind VecNormalize"):
        load_planner(str(tmp_path))


def test_a_dictionary_of_which_some_is_normalised(tmp_path: Path) -> None:
    """`norm_obs_keys` leaves the other parts as they are."""
    space = spaces.Dict({"a": VECTOR, "b": spaces.Box(-9.0, 9.0, (2,), np.float32)})
    wrapper = normalised(space, BOX, tmp_path, norm_obs_keys=["b"])
    model = shaken(PPO("MultiInputPolicy", wrapper, **ON_POLICY))
    model.save(tmp_path / "planner.zip")
    spec = env_spec(Env(space, BOX))
    alike(load_planner(str(tmp_path), spec), model, wrapper, space)


def test_statistics_of_rewards_alone_change_nothing(tmp_path: Path) -> None:
    """VecNormalize with `norm_obs=False` leaves the observations raw."""
    wrapper = normalised(VECTOR, BOX, tmp_path, norm_obs=False)
    model = shaken(PPO("MlpPolicy", wrapper, **ON_POLICY))
    model.save(tmp_path / "planner.zip")
    spec = env_spec(Env(VECTOR, BOX))
    same_actions(model, load_planner(str(tmp_path), spec), spec, VECTOR)


def test_the_layout_of_the_zoo(tmp_path: Path) -> None:
    """ENV.zip with ENV/vecnormalize.pkl, as rl-baselines3-zoo lays them, is found."""
    inside = tmp_path / "Env-v0"
    inside.mkdir()
    wrapper = normalised(VECTOR, BOX, inside)
    model = shaken(PPO("MlpPolicy", wrapper, **ON_POLICY))
    model.save(tmp_path / "Env-v0.zip")
    spec = env_spec(Env(VECTOR, BOX))
    alike(load_planner(str(tmp_path), spec), model, wrapper, VECTOR)


@pytest.mark.parametrize("name", ALL)
def test_a_model_in_memory(name: str) -> None:
    """A model is taken as it stands, without a file, and acts as itself."""
    kind, action, options, expected = ALL[name]
    env = Env(VECTOR, action)
    model = shaken(kind("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, **options))
    planner = from_model(model, env_spec(env))
    assert planner.name == name
    assert isinstance(same_actions(model, planner, planner.spec, VECTOR), expected)


def test_a_model_in_memory_is_followed_while_it_learns() -> None:
    """On a CPU the planner shares the model's weights."""
    env = Env(VECTOR, CHOICE)
    model = A2C("MlpPolicy", env)
    planner = from_model(model, env_spec(env))
    shaken(model)
    same_actions(model, planner, planner.spec, VECTOR)


def test_a_model_in_memory_brings_its_statistics(tmp_path: Path) -> None:
    """A model whose environment is behind VecNormalize takes raw observations."""
    wrapper = normalised(VECTOR, BOX, tmp_path)
    model = shaken(PPO("MlpPolicy", wrapper, **ON_POLICY))
    planner = from_model(model)
    own, flat = observed(VECTOR)
    expected, _ = model.predict(wrapper.normalize_obs(own), deterministic=True)
    assert not isinstance(planner.policy, RecurrentPolicy)
    found = dists.mode(planner.policy(flat), planner.spec.action)
    np.testing.assert_allclose(found, expected, atol=1e-5)
