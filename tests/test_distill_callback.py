"""The callback distils a model while it trains, on what the environment gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from agentkd.distillation.sb3.callback import DistilCallback
from agentkd.errors import ConfigError


def small() -> dict[str, Any]:
    """Options for small networks; SB3 writes into them, so each gets its own."""
    return {"policy_kwargs": {"net_arch": [16]}, "seed": 0, "device": "cpu"}


def agreement_at_last(callback: DistilCallback) -> float:
    """The mean of the last rounds, on states that were not learnt from before."""
    return float(np.mean(list(callback.agreement)[-3:]))


def test_ppo_is_followed_while_it_learns() -> None:
    """The executor agrees with a planner that still changes."""
    model = PPO("MlpPolicy", make_vec_env("CartPole-v1", 4), n_steps=64, **small())
    callback = DistilCallback("mlp:16", every=256, steps_per_round=100)
    model.learn(2048, callback=callback)
    assert len(callback.agreement) == 8
    assert agreement_at_last(callback) > 0.8
    assert callback.executor.head == "categorical"


def test_observations_are_those_before_normalisation() -> None:
    """With VecNormalize the executor takes what the environment itself gives."""
    envs = VecNormalize(make_vec_env("Pendulum-v1", 2))
    model = PPO("MlpPolicy", envs, n_steps=128, **small())
    callback = DistilCallback("mlp:16", every=256, steps_per_round=100)
    model.learn(1024, callback=callback)
    # The angular velocity of a pendulum that is driven at random spreads over some units;
    # normalised it would have a deviation of one.
    assert 1 / callback.executor.scale[2] > 1.5
    assert agreement_at_last(callback) > 0.8


@pytest.mark.parametrize(
    ("algorithm", "env", "head"),
    [(DQN, "CartPole-v1", "categorical"), (SAC, "Pendulum-v1", "squashed")],
)
def test_off_policy_models_are_followed_too(algorithm: Any, env: str, head: str) -> None:
    """Whatever collects, the newest states are labelled by the model as it is."""
    model = algorithm("MlpPolicy", env, learning_starts=64, train_freq=8, batch_size=32, **small())
    callback = DistilCallback("mlp:8", every=128, steps_per_round=20)
    model.learn(300, callback=callback)
    # Two whole rounds and what was left at the end.
    assert len(callback.agreement) == 3
    assert callback.executor.head == head


def test_there_is_no_executor_before_training() -> None:
    """Asking too early is told, and rounds of nothing are refused."""
    with pytest.raises(ConfigError, match="before the model learns"):
        _ = DistilCallback().executor
    with pytest.raises(ConfigError, match="every"):
        DistilCallback(every=0)
    with pytest.raises(ConfigError, match="steps_per_round"):
        DistilCallback(steps_per_round=0)


def test_a_model_with_a_memory_is_refused() -> None:
    """Its answers depend on more than the states that were visited."""
    from sb3_contrib import RecurrentPPO

    kwargs = {"lstm_hidden_size": 8, "net_arch": [8]}
    model = RecurrentPPO(
        "MlpLstmPolicy",
        make_vec_env("CartPole-v1", 2),
        n_steps=16,
        policy_kwargs=kwargs,
        device="cpu",
    )
    with pytest.raises(ConfigError, match="memory"):
        model.learn(64, callback=DistilCallback("mlp:8", every=32))
