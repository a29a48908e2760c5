"""SB3 saves of all eleven algorithms, compared with SB3's own answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TQC, TRPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3

from agentkd import dists
from agentkd.planners import Planner, load_planner
from agentkd.spec import Spec, env_spec, flatten
from agentkd.types import (
    Bernoulli,
    Categorical,
    Floats,
    Gaussian,
    MultiCategorical,
    Point,
    QValues,
    RecurrentPolicy,
    SquashedGaussian,
)
from tests.still import BOX, CHOICE, Env

VECTOR = spaces.Box(-2.0, 2.0, (5,), np.float32)
IMAGE = spaces.Box(0, 255, (36, 40, 3), np.uint8)
ON_POLICY: dict[str, Any] = {"n_steps": 8, "batch_size": 8}


@pytest.fixture(autouse=True)
def _nothing_is_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("something was unpickled")

    for name in ("pickle.load", "pickle.loads"):
        monkeypatch.setattr(name, refuse)
    monkeypatch.setattr("cloudpickle.loads", refuse)


def shaken(model: Any) -> Any:
    """Give every number that acts a random value, so that none can hide."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.2 * noise)
    return model


def observed(space: Any, batch: int = 7) -> tuple[Any, Floats]:
    """Draw a batch of observations, as SB3 takes them and flat."""
    space.seed(5)
    spec = env_spec(Env(space, CHOICE)).obs
    drawn = [space.sample() for _ in range(batch)]
    if isinstance(space, spaces.Dict):
        own: Any = {key: np.stack([each[key] for each in drawn]) for key in space}
    else:
        own = np.stack(drawn)
    return own, flatten(spec, own)


def loaded(model: Any, env: Env, folder: Path) -> tuple[Planner, Spec]:
    """Save a model and load it as a planner for its environment."""
    path = folder / "planner.zip"
    model.save(path)
    spec = env_spec(env)
    return load_planner(str(path), spec), spec


def same_actions(model: Any, planner: Planner, spec: Spec, space: Any) -> Any:
    """Compare the most probable actions, one by one and in a batch."""
    own, flat = observed(space)
    assert not isinstance(planner.policy, RecurrentPolicy)
    dist = planner.policy(flat)
    dists.check(dist, spec.action, len(flat))
    assert dists.pack(dist).dtype == np.float32
    expected, _ = model.predict(own, deterministic=True)
    np.testing.assert_allclose(dists.mode(dist, spec.action), expected, atol=1e-5)
    for row in range(len(flat)):
        alone = planner.policy(flat[row : row + 1])
        np.testing.assert_allclose(
            dists.pack(alone)[0], dists.pack(dist)[row], atol=1e-4, rtol=1e-4
        )
    return dist


def torch_dist(model: Any, own: Any) -> Any:
    """SB3's own distribution of an on-policy model."""
    with torch.no_grad():
        tensor, _ = model.policy.obs_to_tensor(own)
        return model.policy.get_distribution(tensor).distribution


ALL: dict[str, tuple[Any, Any, dict[str, Any], Any]] = {
    "PPO": (PPO, CHOICE, ON_POLICY, Categorical),
    "A2C": (A2C, BOX, {}, Gaussian),
    "TRPO": (TRPO, BOX, ON_POLICY, Gaussian),
    "SAC": (SAC, BOX, {}, SquashedGaussian),
    "TQC": (TQC, BOX, {}, SquashedGaussian),
    "TD3": (TD3, BOX, {}, Point),
    "DDPG": (DDPG, BOX, {}, Point),
    "DQN": (DQN, CHOICE, {}, QValues),
    "QRDQN": (QRDQN, CHOICE, {}, QValues),
    "ARS": (ARS, BOX, {}, Point),
}


@pytest.mark.parametrize("name", ALL)
def test_every_algorithm_acts_as_in_sb3(name: str, tmp_path: Path) -> None:
    """A save of each algorithm, read without unpickling, acts as the model did."""
    kind, action, options, expected = ALL[name]
    env = Env(VECTOR, action)
    arch = {"net_arch": [8, 6]}
    model = shaken(kind("MlpPolicy", env, policy_kwargs=arch, seed=1, **options))
    planner, spec = loaded(model, env, tmp_path)
    assert isinstance(same_actions(model, planner, spec, VECTOR), expected)
    assert planner.name == name
    assert planner.spec == spec
    assert len(planner.digest) == 64


@pytest.mark.parametrize("name", ALL)
def test_a_save_tells_its_own_spec(name: str, tmp_path: Path) -> None:
    """Without an environment the planner knows the spaces it was trained with."""
    kind, action, options, _ = ALL[name]
    env = Env(VECTOR, action)
    kind("MlpPolicy", env, policy_kwargs={"net_arch": [4]}, **options).save(tmp_path / "p.zip")
    assert load_planner(str(tmp_path / "p.zip")).spec == env_spec(env)


def test_only_what_acts_is_counted(tmp_path: Path) -> None:
    """The parameters are those of the actor: critics and value functions are not."""
    env = Env(VECTOR, BOX)
    model = SAC("MlpPolicy", env, policy_kwargs={"net_arch": [8, 6]})
    planner, _ = loaded(model, env, tmp_path)
    assert planner.parameters == sum(p.numel() for p in model.actor.parameters())
    assert planner.parameters == 5 * 8 + 8 + 8 * 6 + 6 + 2 * (6 * 2 + 2)


@pytest.mark.parametrize("kind", [SAC, TQC])
def test_squashed_gaussians_are_those_of_the_actor(kind: Any, tmp_path: Path) -> None:
    """Mean and deviation before tanh equal `get_action_dist_params`."""
    env = Env(VECTOR, BOX)
    model = shaken(kind("MlpPolicy", env, policy_kwargs={"net_arch": [8]}))
    planner, spec = loaded(model, env, tmp_path)
    dist = same_actions(model, planner, spec, VECTOR)
    own, _ = observed(VECTOR)
    with torch.no_grad():
        mean, log_std, _ = model.actor.get_action_dist_params(torch.from_numpy(own))
    np.testing.assert_allclose(dist.mean, mean, atol=1e-5)
    np.testing.assert_allclose(dist.log_std, log_std, atol=1e-5)


@pytest.mark.parametrize("use_expln", [False, True])
@pytest.mark.parametrize("kind", [SAC, TQC])
def test_state_dependent_noise_of_sac(kind: Any, use_expln: bool, tmp_path: Path) -> None:
    """The variance of gSDE is that of SB3, before tanh, with its bound on the mean."""
    env = Env(VECTOR, BOX)
    options = {"net_arch": [8], "use_expln": use_expln, "clip_mean": 0.3}
    model = shaken(kind("MlpPolicy", env, use_sde=True, policy_kwargs=options))
    with torch.no_grad():
        model.actor.log_std[:4] += 3.5
    planner, spec = loaded(model, env, tmp_path)
    dist = same_actions(model, planner, spec, VECTOR)
    assert isinstance(dist, SquashedGaussian)
    assert np.abs(dist.mean).max() == pytest.approx(0.3)
    own, _ = observed(VECTOR)
    with torch.no_grad():
        mean, log_std, more = model.actor.get_action_dist_params(torch.from_numpy(own))
        found = model.actor.action_dist.proba_distribution(mean, log_std, **more)
    std = found.distribution.stddev
    np.testing.assert_allclose(np.exp(dist.log_std), std, rtol=1e-4)


@pytest.mark.parametrize("full_std", [False, True])
@pytest.mark.parametrize("squash_output", [False, True])
@pytest.mark.parametrize("use_expln", [False, True])
def test_state_dependent_noise_of_ppo(
    full_std: bool, squash_output: bool, use_expln: bool, tmp_path: Path
) -> None:
    """The variance of gSDE is that of SB3, with and without tanh and shared noise."""
    env = Env(VECTOR, BOX)
    options = {
        "net_arch": [8],
        "full_std": full_std,
        "squash_output": squash_output,
        "use_expln": use_expln,
    }
    model = PPO("MlpPolicy", env, use_sde=True, policy_kwargs=options, **ON_POLICY)
    planner, spec = loaded(shaken(model), env, tmp_path)
    dist = same_actions(model, planner, spec, VECTOR)
    assert isinstance(dist, SquashedGaussian if squash_output else Gaussian)
    own, _ = observed(VECTOR)
    found = torch_dist(model, own)
    np.testing.assert_allclose(dist.mean, found.mean, atol=1e-5)
    np.testing.assert_allclose(np.exp(dist.log_std), found.stddev, rtol=1e-4)


def test_gaussians_have_the_deviation_of_sb3(tmp_path: Path) -> None:
    """PPO's deviation, one number for each dimension, is the same for every row."""
    env = Env(VECTOR, BOX)
    model = shaken(PPO("MlpPolicy", env, **ON_POLICY))
    planner, spec = loaded(model, env, tmp_path)
    dist = same_actions(model, planner, spec, VECTOR)
    found = torch_dist(model, observed(VECTOR)[0])
    np.testing.assert_allclose(dist.mean, found.mean, atol=1e-5)
    np.testing.assert_allclose(np.exp(dist.log_std), found.stddev, rtol=1e-5)


def test_categorical_probabilities_are_those_of_sb3(tmp_path: Path) -> None:
    """Logits may differ by a constant; the probabilities may not."""
    env = Env(VECTOR, CHOICE)
    model = shaken(A2C("MlpPolicy", env))
    planner, spec = loaded(model, env, tmp_path)
    dist = same_actions(model, planner, spec, VECTOR)
    probability = torch.softmax(torch.from_numpy(dist.logits), dim=1)
    found = torch_dist(model, observed(VECTOR)[0]).probs
    np.testing.assert_allclose(probability, found, atol=1e-5)


def test_several_choices_at_once(tmp_path: Path) -> None:
    """MultiDiscrete actions come out as one logit for each choice of each."""
    env = Env(VECTOR, spaces.MultiDiscrete([2, 4, 3]))
    model = shaken(PPO("MlpPolicy", env, **ON_POLICY))
    planner, spec = loaded(model, env, tmp_path)
    dist = same_actions(model, planner, spec, VECTOR)
    assert isinstance(dist, MultiCategorical)
    assert dist.sizes == (2, 4, 3)


def test_several_yes_or_no(tmp_path: Path) -> None:
    """MultiBinary actions come out as the log-odds of yes."""
    env = Env(VECTOR, spaces.MultiBinary(4))
    model = shaken(A2C("MlpPolicy", env))
    planner, spec = loaded(model, env, tmp_path)
    dist = same_actions(model, planner, spec, VECTOR)
    assert isinstance(dist, Bernoulli)
    found = torch_dist(model, observed(VECTOR)[0]).probs
    odds = torch.sigmoid(torch.from_numpy(dist.logits))
    np.testing.assert_allclose(odds, found, atol=1e-5)


@pytest.mark.parametrize("kind", [PPO, DQN, QRDQN])
def test_images_go_through_sb3s_convolutions(kind: Any, tmp_path: Path) -> None:
    """Channel-last bytes from the environment become what the saved CNN expects."""
    env = Env(IMAGE, CHOICE)
    options = ON_POLICY if kind is PPO else {"buffer_size": 10}
    small = {"features_extractor_kwargs": {"features_dim": 16}}
    model = shaken(kind("CnnPolicy", env, policy_kwargs=small, **options))
    planner, spec = loaded(model, env, tmp_path)
    same_actions(model, planner, spec, IMAGE)


def test_images_without_convolutions(tmp_path: Path) -> None:
    """An MlpPolicy on images sees them divided by 255 with their channels first."""
    env = Env(IMAGE, CHOICE)
    model = shaken(A2C("MlpPolicy", env, policy_kwargs={"net_arch": [4]}))
    planner, spec = loaded(model, env, tmp_path)
    same_actions(model, planner, spec, IMAGE)


def test_images_that_are_not_scaled(tmp_path: Path) -> None:
    """`normalize_images=False` leaves an image's numbers as they are."""
    env = Env(spaces.Box(0.0, 1.0, (1, 36, 36), np.float32), CHOICE)
    small = {
        "features_extractor_kwargs": {"features_dim": 16, "normalized_image": True},
        "normalize_images": False,
    }
    model = shaken(A2C("CnnPolicy", env, policy_kwargs=small))
    planner, spec = loaded(model, env, tmp_path)
    same_actions(model, planner, spec, env.observation_space)


def test_dictionaries_of_vectors_choices_and_images(tmp_path: Path) -> None:
    """MultiInputPolicy: each part by its name, images by their convolutions."""
    space = spaces.Dict(
        {
            "zone": spaces.Discrete(3),
            "camera": spaces.Box(0, 255, (36, 36, 3), np.uint8),
            "arm": spaces.Box(-1.0, 1.0, (2, 2), np.float32),
            "lamps": spaces.MultiBinary(3),
            "gears": spaces.MultiDiscrete([2, 3]),
        }
    )
    env = Env(space, BOX)
    small = {"features_extractor_kwargs": {"cnn_output_dim": 8}, "net_arch": [8]}
    model = shaken(A2C("MultiInputPolicy", env, policy_kwargs=small))
    planner, spec = loaded(model, env, tmp_path)
    same_actions(model, planner, spec, space)


def test_a_dictionary_in_another_order(tmp_path: Path) -> None:
    """Parts are found by name, however the environment sorts them."""
    saved = spaces.Dict({"b": VECTOR, "a": spaces.Box(-1.0, 1.0, (2,), np.float32)})
    given = spaces.Dict({"a": saved["a"], "b": VECTOR})
    env = Env(saved, CHOICE)
    model = shaken(A2C("MultiInputPolicy", env))
    model.save(tmp_path / "p.zip")
    spec = env_spec(Env(given, CHOICE))
    planner = load_planner(str(tmp_path / "p.zip"), spec)
    same_actions(model, planner, spec, given)


def test_a_flattened_dictionary(tmp_path: Path) -> None:
    """A planner trained behind FlattenObservation takes the environment unwrapped."""
    space = spaces.Dict({"a": VECTOR, "b": spaces.Discrete(3)})
    env = Env(space, CHOICE)
    flat_env: Any = gym.wrappers.FlattenObservation(env)
    model = shaken(A2C("MlpPolicy", flat_env))
    planner, spec = loaded(model, env, tmp_path)
    drawn = [space.sample() for _ in range(5)]
    own = {key: np.stack([each[key] for each in drawn]) for key in space}
    seen = np.stack([flat_env.observation(each) for each in drawn])
    expected, _ = model.predict(seen, deterministic=True)
    assert not isinstance(planner.policy, RecurrentPolicy)
    found = dists.mode(planner.policy(flatten(spec.obs, own)), spec.action)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "space", [spaces.Discrete(6), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(4)]
)
def test_observations_that_are_choices(space: Any, tmp_path: Path) -> None:
    """Choices come flat as one-hot vectors, which is what SB3 makes of them."""
    env = Env(space, CHOICE)
    model = shaken(A2C("MlpPolicy", env))
    planner, spec = loaded(model, env, tmp_path)
    same_actions(model, planner, spec, space)


@pytest.mark.parametrize(
    "activation", ["ReLU", "Tanh", "ELU", "SiLU", "LeakyReLU", "Sigmoid", "GELU", "Identity"]
)
def test_activations(activation: str, tmp_path: Path) -> None:
    """Every activation of torch.nn acts as it does in SB3."""
    env = Env(VECTOR, BOX)
    options = {"net_arch": [8, 8], "activation_fn": getattr(torch.nn, activation)}
    model = shaken(TD3("MlpPolicy", env, policy_kwargs=options))
    planner, spec = loaded(model, env, tmp_path)
    same_actions(model, planner, spec, VECTOR)


@pytest.mark.parametrize("arch", [[], {"pi": [9, 7, 5], "vf": [3]}])
def test_any_depth_and_width(arch: Any, tmp_path: Path) -> None:
    """Depth and width are those of the weights, also none at all."""
    env = Env(VECTOR, BOX)
    model = shaken(A2C("MlpPolicy", env, policy_kwargs={"net_arch": arch}))
    planner, spec = loaded(model, env, tmp_path)
    same_actions(model, planner, spec, VECTOR)


@pytest.mark.parametrize("policy", ["MlpPolicy", "LinearPolicy"])
@pytest.mark.parametrize("action", [BOX, CHOICE])
def test_ars_with_and_without_layers(policy: str, action: Any, tmp_path: Path) -> None:
    """ARS is squashed with layers, clipped without; over choices it has logits."""
    env = Env(VECTOR, action)
    model = shaken(ARS(policy, env))
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.mul_(4.0)  # beyond the bounds
    planner, spec = loaded(model, env, tmp_path)
    dist = same_actions(model, planner, spec, VECTOR)
    assert isinstance(dist, Point if action is BOX else Categorical)


def test_separate_features_extractors(tmp_path: Path) -> None:
    """Where policy and value have an extractor each, the policy's is taken."""
    env = Env(spaces.Box(0, 255, (36, 36, 1), np.uint8), CHOICE)
    small = {"share_features_extractor": False, "features_extractor_kwargs": {"features_dim": 8}}
    model = shaken(A2C("CnnPolicy", env, policy_kwargs=small))
    planner, spec = loaded(model, env, tmp_path)
    same_actions(model, planner, spec, env.observation_space)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("action", [BOX, CHOICE])
def test_recurrent_ppo_keeps_its_memory(layers: int, action: Any, tmp_path: Path) -> None:
    """Over several steps, with a row reset among them, it acts as in SB3."""
    env = Env(VECTOR, action)
    options = {"lstm_hidden_size": 6, "n_lstm_layers": layers, "net_arch": [5]}
    model = RecurrentPPO("MlpLstmPolicy", env, policy_kwargs=options, **ON_POLICY)
    planner, spec = loaded(shaken(model), env, tmp_path)
    policy = planner.policy
    assert isinstance(policy, RecurrentPolicy)
    assert planner.name == "RecurrentPPO"
    state, sb3_state = policy.initial_state(3), None
    generator = np.random.default_rng(0)
    for step in range(6):
        obs = generator.standard_normal((3, 5)).astype(np.float32)
        starts = np.array([step == 0, step in (0, 3), step == 0])
        fresh = policy.initial_state(3)
        mask = starts[:, None, None]
        state = tuple(np.where(mask, new, old) for new, old in zip(fresh, state, strict=True))
        dist, state = policy(obs, state)
        expected, sb3_state = model.predict(
            obs, state=sb3_state, episode_start=starts, deterministic=True
        )
        found = dists.mode(dist, spec.action)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert all(len(each) == 3 for each in state)
