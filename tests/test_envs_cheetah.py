"""The cheetah with drawn physics, and what its planner is trained with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from agentkd import environments

pytest.importorskip("mujoco", reason="mujoco is not installed")
from envs import cheetah

ENV = "envs.cheetah:agentkd/CheetahDrawn-v0"

# What Gymnasium recommends about the spaces of its own environments.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*different from the unwrapped version"),
    pytest.mark.filterwarnings("ignore:.*A Box observation space m"),
]


def test_it_is_an_environment() -> None:
    """It keeps Gymnasium's rules, repeats itself by its seed, and ends after 1,000 ticks."""
    env = environments.make(ENV)
    check_env(env.unwrapped, skip_render_check=True)
    first, again, other = (env.reset(seed=seed)[0] for seed in (3, 3, 4))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["physics"], other["physics"])
    assert env.spec is not None
    assert env.spec.max_episode_steps == 1000


def test_what_is_drawn_is_what_moves() -> None:
    """Masses, inertias, friction and motors are the usual ones times the factors shown."""
    env: Any = environments.make("HalfCheetah-v5").unwrapped
    usual, drawn = env.model, environments.make(ENV).unwrapped
    obs, _ = drawn.reset(seed=1)
    mass, friction, *motors = obs["physics"]
    assert ((obs["physics"] >= cheetah.LOW) & (obs["physics"] <= cheetah.HIGH)).all()
    assert np.allclose(drawn.model.body_mass, usual.body_mass * mass)
    assert np.allclose(drawn.model.body_inertia, usual.body_inertia * mass)
    assert np.allclose(drawn.model.geom_friction[:, 0], usual.geom_friction[:, 0] * friction)
    assert np.allclose(drawn.model.actuator_gear[:, 0], usual.actuator_gear[:, 0] * motors)
    # Drawn again from the usual ones, not from those of the last episode.
    obs, _ = drawn.reset(seed=2)
    assert np.allclose(drawn.model.body_mass, usual.body_mass * obs["physics"][0])


def test_the_last_action_is_shown() -> None:
    """Nothing at first, then what was done, within the motors' bounds."""
    env = environments.make(ENV)
    obs, _ = env.reset(seed=1)
    assert not obs["actions"].any()
    obs, *_ = env.step(np.full(6, 0.25, np.float32))
    assert np.allclose(obs["actions"], 0.25)
    assert not env.reset(seed=1)[0]["actions"].any()


def test_training_steps_the_same_cheetah() -> None:
    """MuJoCo's threads move it as the environment does, and reward it alike."""
    pytest.importorskip("stable_baselines3", reason="stable_baselines3 is not installed")
    from policies.cheetah.train import SEES, Cheetahs

    many = Cheetahs(3, 1, seed=5)
    shown: Any = many.reset()
    env: Any = environments.make(ENV).unwrapped
    env.reset(seed=0)
    env.physics = many.physics[1]
    cheetah.apply(env.model, env.usual, env.physics)
    env.set_state(many.state[1, 1:10], many.state[1, 10:])
    random = np.random.default_rng(0)
    for _ in range(15):
        actions = random.uniform(-1.2, 1.2, (3, 6)).astype(np.float32)
        shown, rewards, *_ = many.step(actions)
        obs, reward, *_ = env.step(np.clip(actions[1], -1, 1))
        assert np.isclose(rewards[1], reward, atol=1e-4)
        for name in SEES:
            assert np.allclose(shown[name][1], obs[name], atol=1e-3)
    many.close()


def test_training_begins_episodes_anew() -> None:
    """After 1,000 ticks, with other physics; the last observation is told."""
    pytest.importorskip("stable_baselines3", reason="stable_baselines3 is not installed")
    from policies.cheetah.train import TICKS, Cheetahs

    many = Cheetahs(2, 1, seed=5)
    many.reset()
    many.age[:] = [TICKS - 1, 10]
    before = many.physics.copy()
    shown: Any
    shown, _, ended, infos = many.step(np.zeros((2, 6), np.float32))
    assert ended.tolist() == [True, False]
    assert infos[0]["TimeLimit.truncated"]
    assert np.allclose(infos[0]["terminal_observation"]["physics"], before[0])
    assert np.allclose(shown["physics"], many.physics)
    assert not np.allclose(many.physics[0], before[0])
    assert (many.physics[1] == before[1]).all()
    many.close()
