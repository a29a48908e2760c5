"""The callback distils a model while it trains, on what the environment gives."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from agentkd.distillation.sb3.callback import DistilCallback
from agentkd.dists import pack
from agentkd.errors import ConfigError
from agentkd.planners.adapt import from_object


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
    with pytest.raises(ConfigError):
        DistilCallback(every=0)


def test_labels_of_old_versions_are_let_go() -> None:
    """Each update of PPO is a version; two of them are two rollouts of labels."""
    model = PPO("MlpPolicy", make_vec_env("CartPole-v1", 4), n_steps=64, **small())
    callback = DistilCallback("mlp:8", every=256, steps_per_round=5, versions=2)
    model.learn(1536, callback=callback)
    assert callback.version == 6
    buffer = callback._distiller.buffer  # type: ignore[union-attr]
    assert (len(buffer), buffer.seen) == (512, 1536)
    everything = DistilCallback("mlp:8", every=256, steps_per_round=5)
    model.learn(512, callback=everything)
    assert len(everything._distiller.buffer) == 512  # type: ignore[union-attr]


class Paying(gym.Env[Any, Any]):
    """Pays what it is told to, once, whatever is done."""

    observation_space = gym.spaces.Box(-1, 1, (4,), np.float32)
    action_space = gym.spaces.Discrete(2)
    pay: ClassVar[list[float]] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(4, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(4, np.float32), self.pay.pop(0), True, False, {}


def test_the_best_planner_so_far_is_followed() -> None:
    """It is frozen when it does best; what the model learns later changes nothing."""
    Paying.pay = [1.0, 5.0, 3.0, 4.0, 2.0, 0.0]
    model = PPO(
        "MlpPolicy", make_vec_env("CartPole-v1", 4), n_steps=64, learning_rate=0.01, **small()
    )
    callback = DistilCallback(
        "mlp:8",
        every=256,
        steps_per_round=5,
        evaluate=Paying,
        evaluate_every=256,
        evaluate_episodes=1,
    )
    seen: list[Any] = []
    obs = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)

    class Look(BaseCallback):
        def _on_step(self) -> bool:
            if callback.version:
                policy: Any = callback.planner.policy
                seen.append((callback.version, pack(policy(obs)).tolist()))
            return True

    model.learn(1536, callback=[callback, Look()])
    assert Paying.pay == []
    assert callback.best_return == 5.0
    assert callback.version == 2
    answers = dict(seen)
    assert answers[1] != answers[2]
    # To the bit the same, over all updates since.
    assert all(answer == answers[2] for version, answer in seen if version == 2)
    live: Any = from_object(model, "PPO").policy
    assert pack(live(obs)).tolist() != answers[2]


def test_the_model_is_evaluated_in_an_environment_by_name() -> None:
    """Its mean return is told, and labels of one version only are held."""
    model = PPO("MlpPolicy", make_vec_env("CartPole-v1", 4), n_steps=64, **small())
    callback = DistilCallback(
        "mlp:8",
        every=256,
        steps_per_round=5,
        versions=1,
        evaluate="CartPole-v1",
        evaluate_every=256,
        evaluate_episodes=2,
    )
    with pytest.raises(ConfigError, match="evaluate"):
        _ = callback.planner
    model.learn(1024, callback=callback)
    assert 8 <= callback.best_return <= 500
    assert callback.planner.name == "PPO"
    assert callback.executor.head == "categorical"


@pytest.mark.parametrize(
    "wrong", [{"versions": 0}, {"evaluate_every": 0}, {"evaluate_episodes": 0}]
)
def test_options_that_cannot_be_meant_are_refused(wrong: dict[str, int]) -> None:
    """Each is told by its name."""
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        DistilCallback(**wrong)  # type: ignore[arg-type]


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
