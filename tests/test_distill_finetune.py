"""Executors become SB3 models and SB3 policies executors, and do the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import ARS, QRDQN, TQC, TRPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from agentkd import dists
from agentkd.cli.main import main
from agentkd.deploy.bundle import read_bundle
from agentkd.distillation.sb3.from_sb3 import from_sb3
from agentkd.distillation.sb3.to_sb3 import CriticFirst, to_sb3
from agentkd.errors import AgentkdError, ConfigError, LoadError, SpecError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.planners.adapt import from_object
from agentkd.spec import DiscreteSpec, env_spec
from agentkd.types import Floats

SMALL: dict[str, Any] = {"seed": 0, "device": "cpu"}
OFF: dict[str, Any] = {**SMALL, "buffer_size": 100, "learning_starts": 10}


def nets() -> dict[str, Any]:
    """Options for small networks; SB3 writes into them, so each gets its own."""
    return {"policy_kwargs": {"net_arch": [12, 8]}}


def drawn(env: str, architecture: str, *, squashed: bool = True) -> Executor:
    """An executor with arbitrary numbers, its normaliser's among them."""
    random = np.random.default_rng(3)
    made = gym.make(env)
    executor = initial(architecture, env_spec(made), squashed=squashed)
    vector = 0.4 * random.standard_normal(executor.vector().shape)
    size = executor.spec.obs.size
    vector[size : 2 * size] = random.uniform(0.3, 3.0, size)
    return executor.with_vector(vector.astype(np.float32), 0)


def observations(env: str, count: int = 64) -> Floats:
    """Observations far and near, (count, obs)."""
    size = gym.make(env).observation_space.shape[0]  # type: ignore[index]
    obs = np.random.default_rng(5).standard_normal((count, size))
    obs[: count // 4] *= 20
    return obs.astype(np.float32)


def acts(model: Any, obs: Any) -> Any:
    """What a model does, deterministically."""
    return model.predict(obs, deterministic=True)[0]


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "SAC", "TD3", "DDPG"])
@pytest.mark.parametrize("architecture", ["mlp:12,8", "mlp:6,tanh", "linear"])
def test_a_model_begins_as_the_executor(algorithm: str, architecture: str) -> None:
    """Normaliser, tanh and scaling are inside: the first answers are the same."""
    executor = drawn("Pendulum-v1", architecture)
    options = SMALL if algorithm in ("PPO", "A2C") else OFF
    model = to_sb3(executor, algorithm, "Pendulum-v1", **options)
    obs = observations("Pendulum-v1")
    mine = dists.mode(executor(obs), executor.spec.action)
    assert np.ptp(mine) > 0.5
    assert np.abs(acts(model, obs) - mine).max() <= 1e-5


def test_logits_are_taken_over_as_they_are() -> None:
    """PPO's probabilities are the executor's."""
    executor = drawn("CartPole-v1", "mlp:12,8,silu")
    model = to_sb3(executor, "PPO", "CartPole-v1", **SMALL)
    obs = observations("CartPole-v1")
    with torch.inference_mode():
        found = model.policy.get_distribution(torch.from_numpy(obs)).distribution
    theirs = torch.log_softmax(torch.from_numpy(executor.outputs(obs)), dim=1)
    assert (found.logits - theirs).abs().max() <= 1e-5


def test_an_executor_that_is_clipped_becomes_a_ppo() -> None:
    """Where the mean leaves the box both clip it."""
    executor = drawn("Pendulum-v1", "mlp:12", squashed=False)
    model = to_sb3(executor, "PPO", "Pendulum-v1", **SMALL)
    obs = observations("Pendulum-v1")
    assert np.abs(acts(model, obs) - dists.mode(executor(obs), executor.spec.action)).max() <= 1e-5
    with pytest.raises(ConfigError, match="tanh"):
        to_sb3(executor, "SAC", "Pendulum-v1", **OFF)


@pytest.mark.parametrize("algorithm", ["PPO", "SAC", "TD3"])
def test_there_and_back_and_learning_between(algorithm: str) -> None:
    """Untouched, the executor comes back; after learning, what was learnt does."""
    executor = drawn("Pendulum-v1", "mlp:12,8")
    options: dict[str, Any] = {**SMALL, "n_steps": 64} if algorithm == "PPO" else OFF
    model = to_sb3(executor, algorithm, "Pendulum-v1", **options)
    back = from_sb3(model)
    assert np.allclose(back.vector(), executor.vector(), atol=1e-7)
    assert (back.head, back.clip) == (executor.head, executor.clip)
    model.learn(128)
    learnt = from_sb3(model)
    obs = observations("Pendulum-v1")
    apart = np.abs(acts(model, obs) - dists.mode(learnt(obs), executor.spec.action))
    assert apart.max() <= 1e-5
    assert not np.allclose(learnt.vector(), executor.vector(), atol=1e-7)
    # What learns on does not change what was taken before.
    before = learnt.vector()
    model.learn(64)
    assert np.array_equal(learnt.vector(), before)


def test_a_dictionary_is_laid_out_alike() -> None:
    """Parts and choices come to the policy in the executor's order."""

    class Two(gym.Env[Any, Any]):
        observation_space = gym.spaces.Dict(
            {"z": gym.spaces.Box(-5, 5, (2,), np.float32), "a": gym.spaces.Discrete(3)}
        )
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return self.observation_space.sample(), {}

        def step(self, action: Any) -> Any:
            return self.observation_space.sample(), 0.0, False, True, {}

    spec = env_spec(Two())
    executor = initial("mlp:5", spec)
    vector = np.random.default_rng(0).standard_normal(executor.vector().shape)
    executor = executor.with_vector(vector.astype(np.float32), 0)
    model = to_sb3(executor, "PPO", Two(), **SMALL)
    env = Two()
    env.observation_space.seed(1)
    for _ in range(20):
        obs = env.observation_space.sample()
        from agentkd.spec import flatten_one

        assert acts(model, obs) == executor.act(flatten_one(spec.obs, obs))


def test_the_critic_learns_first() -> None:
    """Until then the actor stays to the bit, and the critic does not."""
    executor = drawn("CartPole-v1", "mlp:8")
    model = to_sb3(executor, "PPO", "CartPole-v1", n_steps=64, batch_size=32, **SMALL)
    values = model.policy.value_net.weight.detach().clone()
    model.learn(128, callback=CriticFirst(10_000))
    assert np.array_equal(from_sb3(model).vector(), executor.vector())
    assert not torch.equal(model.policy.value_net.weight, values)
    model.learn(128, callback=CriticFirst(64))
    assert not np.array_equal(from_sb3(model).vector(), executor.vector())


def test_the_critic_of_sac_learns_first() -> None:
    """It is the same where actor and critic have optimisers of their own."""
    executor = drawn("Pendulum-v1", "mlp:8")
    model = to_sb3(executor, "SAC", "Pendulum-v1", **OFF)
    before = [each.detach().clone() for each in model.critic.parameters()]
    model.learn(40, callback=CriticFirst(1000))
    assert np.array_equal(from_sb3(model).vector(), executor.vector())
    after = list(model.critic.parameters())
    assert not all(map(torch.equal, before, after))


def test_what_sb3_cannot_do_is_refused() -> None:
    """Each with its reason."""
    executor = drawn("CartPole-v1", "mlp:8")
    with pytest.raises(ConfigError, match="logits"):
        to_sb3(executor, "DQN", "CartPole-v1")
    with pytest.raises(ConfigError, match="Did you mean"):
        to_sb3(executor, "PPPO", "CartPole-v1")
    with pytest.raises(ConfigError, match="none of"):
        to_sb3(executor, DQN, "CartPole-v1")
    with pytest.raises(SpecError, match="environment"):
        to_sb3(executor, "PPO", "Pendulum-v1")
    with pytest.raises(ConfigError, match="std"):
        to_sb3(executor, "PPO", "CartPole-v1", std=0.0)


STUDENTS: list[tuple[type[BaseAlgorithm], str, dict[str, Any]]] = [
    (PPO, "CartPole-v1", {**SMALL, **nets()}),
    (PPO, "Pendulum-v1", {**SMALL, **nets()}),
    (PPO, "Pendulum-v1", {**SMALL, **nets(), "use_sde": True}),
    (A2C, "CartPole-v1", {**SMALL, "policy_kwargs": {"net_arch": []}}),
    (DQN, "CartPole-v1", {**OFF, **nets()}),
    (QRDQN, "CartPole-v1", {**OFF, **nets()}),
    (SAC, "Pendulum-v1", {**OFF, **nets()}),
    (SAC, "Pendulum-v1", {**OFF, **nets(), "use_sde": True}),
    (TQC, "Pendulum-v1", {**OFF, **nets()}),
    (TD3, "Pendulum-v1", {**OFF, **nets()}),
    (DDPG, "Pendulum-v1", {**OFF, **nets()}),
    (TRPO, "CartPole-v1", {**SMALL, **nets()}),
    (ARS, "Pendulum-v1", {**SMALL, **nets()}),
    (ARS, "CartPole-v1", {**SMALL, **nets()}),
]


@pytest.mark.parametrize(
    ("kind", "env", "options"),
    STUDENTS,
    ids=[f"{k.__name__}-{e}{'-sde' * ('use_sde' in o)}" for k, e, o in STUDENTS],
)
def test_a_student_of_sb3_is_an_executor(
    kind: Any, env: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """In memory and from its save, it does what the policy does."""
    model = kind("MlpPolicy", env, **options)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        # Means far from zero, so that bounds, clips and tanh all matter.
        for parameter in model.policy.parameters():
            draws = torch.randn(parameter.shape, generator=noise)
            parameter.mul_(1.5).add_(0.3 * draws if parameter.ndim > 1 else 0.0)
    obs = observations(env)
    theirs = acts(model, obs)
    for student in (model, _saved(model, tmp_path)):
        executor = from_sb3(student)
        mine = dists.mode(executor(obs), executor.spec.action)
        assert np.abs(np.asarray(mine, float) - theirs).max() <= 1e-5
        assert np.ptp(executor.outputs(obs)[:, 0]) > 0
        if isinstance(executor.spec.action, DiscreteSpec):
            policy: Any = from_object(model, "student").policy
            said = dists.pack(policy(obs))
            assert (np.abs(executor.outputs(obs) - said) / (1 + np.abs(said))).max() < 1e-5


def _saved(model: Any, folder: Path) -> str:
    model.save(folder / "student.zip")
    return str(folder / "student.zip")


def test_statistics_go_inside() -> None:
    """What VecNormalize knew becomes the executor's normaliser."""
    envs = VecNormalize(make_vec_env("Pendulum-v1", 2), clip_obs=2.0)
    model = PPO("MlpPolicy", envs, n_steps=64, **SMALL, **nets())
    model.learn(256)
    executor = from_sb3(model)
    obs = observations("Pendulum-v1")
    theirs = acts(model, envs.normalize_obs(obs))
    mine = dists.mode(executor(obs), executor.spec.action)
    assert np.abs(mine - theirs).max() <= 1e-5
    assert executor.clip == 2.0


def test_what_is_no_executor_is_refused() -> None:
    """An activation that executors lack, and anything that is no policy of SB3's."""
    kwargs = {"activation_fn": torch.nn.LeakyReLU}
    model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs, **SMALL)
    with pytest.raises(LoadError, match="activation"):
        from_sb3(model)
    spec = env_spec(gym.make("CartPole-v1"))
    with pytest.raises(LoadError, match="Distil"):
        from_sb3("tests.cli_planners:balance", spec)


def test_freeze_writes_an_executor_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file does what the save does, and is not written over."""
    model = PPO("MlpPolicy", "Pendulum-v1", **SMALL, **nets())
    save = _saved(model, tmp_path)
    assert main(["freeze", save, "--env", "Pendulum-v1"]) == 0
    executor = read_bundle(tmp_path / "student.akd").executor
    obs = observations("Pendulum-v1")
    mine = dists.mode(executor(obs), executor.spec.action)
    assert np.abs(acts(model, obs) - mine).max() <= 1e-5
    assert "agentkd inspect" in capsys.readouterr().out
    assert main(["freeze", save]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["freeze", save, "--overwrite", "--env", "CartPole-v1"]) == 2
    assert main(["freeze", save, "--out", str(tmp_path / "x.zip")]) == 2


def test_errors_are_of_our_tree() -> None:
    """A reference that leads nowhere is named."""
    with pytest.raises(AgentkdError, match="nowhere"):
        from_sb3("nowhere.zip")
