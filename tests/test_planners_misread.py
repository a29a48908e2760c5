"""Planners that would act otherwise than they did elsewhere are refused, or do not."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import ARS, MaskablePPO
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from agentkd import dists
from agentkd.errors import LoadError, PlannerError, SpecError, UnsafeError
from agentkd.planners import load_planner
from agentkd.planners.adapt import from_object
from agentkd.planners.sb3.live import from_model
from agentkd.spec import Spec, action_spec, env_spec
from agentkd.testing import check_policy
from agentkd.types import Categorical, Floats, Point

SPEC = env_spec(gym.make("Pendulum-v1"))
OBS = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
SMALL: dict[str, Any] = {"n_steps": 8, "batch_size": 8, "device": "cpu", "seed": 0}


def ppo(policy: Any = "MlpPolicy", **kwargs: Any) -> Any:
    """A PPO for the pendulum whose actions are large enough to tell apart."""
    model: Any = PPO(policy, "Pendulum-v1", policy_kwargs=kwargs, **SMALL)
    with torch.no_grad():
        model.policy.action_net.weight.mul_(100.0)
    return model


def acts(planner: Any, obs: Floats = OBS) -> Any:
    return dists.mode(planner.policy(obs), planner.spec.action)


def with_weights(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the names of a save's weights."""
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    stream = io.BytesIO()
    state = torch.load(io.BytesIO(entries["policy.pth"]), weights_only=True)
    torch.save(change(state), stream)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(name, stream.getvalue() if name == "policy.pth" else content)


# Masks


class Board(gym.Env[Any, Any]):
    """Moves are legal where the observation is above a half."""

    observation_space = spaces.Box(0, 1, (4,), np.float32)
    action_space = spaces.Discrete(4)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.ones(4, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.ones(4, np.float32), 0.0, False, False, {}

    def action_masks(self) -> Any:
        return np.ones(4, bool)


def masked() -> Any:
    return MaskablePPO("MlpPolicy", Board(), **SMALL)


def test_a_planner_that_needs_masks_is_refused(tmp_path: Path) -> None:
    """A file, whatever is said of it, a model and its policy: all speak of masks."""
    model, path = masked(), str(tmp_path / "mask.zip")
    model.save(path)
    ways: list[Callable[[], Any]] = [
        lambda: load_planner(path),
        lambda: load_planner(path, algorithm="PPO"),
        lambda: load_planner(path, allow_pickle=True),
        lambda: from_model(model),
        lambda: from_object(model.policy, "policy", env_spec(Board())),
    ]
    for way in ways:
        with pytest.raises(SpecError, match=r"masks.*module:planner"):
            way()


def test_what_is_advised_about_masks_works() -> None:
    """A function that finds the masks from the observations never acts illegally."""
    model = masked()

    def planner(spec: Spec) -> Any:
        del spec

        def choose(obs: Floats) -> Categorical:
            seen = torch.from_numpy(obs)
            with torch.no_grad():
                found = model.policy.get_distribution(seen, obs > 0.5)
            return Categorical(found.distribution.logits.numpy())

        return choose

    obs = np.random.default_rng(0).random((64, 4)).astype(np.float32)
    obs[np.arange(64), np.arange(64) % 4] = 1.0
    chosen = acts(from_object(planner, "planner", env_spec(Board())), obs)
    assert (obs[np.arange(64), chosen] > 0.5).all()


def test_a_black_box_that_takes_masks_is_refused() -> None:
    """An object whose predict has a parameter for masks needs them."""

    class Masked:
        def predict(self, obs: Any, action_masks: Any = None) -> Any:
            del action_masks
            return np.zeros(len(obs), int)

    with pytest.raises(SpecError, match="action_masks"):
        from_object(Masked(), "it", env_spec(Board()))

    class Legal:
        def predict(self, obs: Any, legal_actions: Any = None) -> Any:
            del legal_actions
            return np.zeros(len(obs), int)

    with pytest.raises(SpecError, match="legal_actions"):
        from_object(Legal(), "it", env_spec(Board()))

    class Old:
        """As SB3 before 1.5, where the mask says which episodes begin."""

        def predict(self, obs: Any, state: Any = None, mask: Any = None) -> Any:
            del state, mask
            return np.zeros(len(obs), int), None

    acts(from_object(Old(), "it", env_spec(Board())), np.zeros((2, 4), np.float32))


# Networks that are not assumed


class Chosen(ActorCriticPolicy):
    """It only sets options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs |= {"activation_fn": nn.ReLU, "net_arch": [8]}
        super().__init__(*args, **kwargs)


class Turned(ActorCriticPolicy):
    """It turns the deterministic action."""

    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        return -super()._predict(observation, deterministic)


class Doubled(ActorCriticPolicy):
    """It doubles the features."""

    def extract_features(self, obs: Any, features_extractor: Any = None) -> Any:
        return 2.0 * super().extract_features(obs, features_extractor)  # type: ignore[operator]


@pytest.mark.parametrize("policy", [Chosen, Turned, Doubled])
def test_a_policy_class_of_ones_own(policy: Any, tmp_path: Path) -> None:
    """Its file is refused, and what the refusal advises acts as predict."""
    model, path = ppo(policy), str(tmp_path / "mine.zip")
    model.save(path)
    wanted, _ = model.predict(OBS, deterministic=True)
    with pytest.raises(UnsafeError, match=r"module:function.*--unpickle"):
        load_planner(path, algorithm="PPO")
    for planner in (
        load_planner(path, allow_pickle=True),
        from_object(lambda spec: PPO.load(path, device="cpu"), "mine", SPEC),
        from_object(model.policy, "policy", SPEC),
    ):
        np.testing.assert_allclose(acts(planner), wanted, atol=1e-4)


def test_a_model_whose_layers_were_exchanged() -> None:
    """A network that was changed after it was made is not rebuilt as it was."""
    model = ppo()
    model.policy.mlp_extractor.policy_net[1] = nn.Softplus()
    wanted, _ = model.predict(OBS, deterministic=True)
    np.testing.assert_allclose(acts(from_model(model)), wanted, atol=1e-4)


def test_a_model_with_a_predict_of_its_own() -> None:
    """What an algorithm's class makes of its policy's actions is followed."""

    class Half(PPO):
        def predict(self, *args: Any, **kwargs: Any) -> Any:
            action, state = super().predict(*args, **kwargs)
            return 0.5 * action, state

    model = Half("MlpPolicy", "Pendulum-v1", **SMALL)
    wanted, _ = model.predict(OBS, deterministic=True)
    np.testing.assert_allclose(acts(from_model(model)), wanted, atol=1e-5)


def test_a_model_whose_predict_fails_is_refused() -> None:
    """SB3 makes a model of a single number's space, and cannot ask it."""

    class Number(gym.Env[Any, Any]):
        observation_space: Any = spaces.Box(-1, 1, (), np.float32)
        action_space: Any = spaces.Discrete(2)

    with pytest.raises(PlannerError, match="predict fails: IndexError"):
        from_model(PPO("MlpPolicy", Number(), **SMALL))


@pytest.mark.parametrize("kind", [PPO, SAC, TD3, DQN])
def test_a_bare_policy_acts_as_its_predict(kind: Any) -> None:
    """A policy without its model is no torch module like any other."""
    env = "CartPole-v1" if kind is DQN else "Pendulum-v1"
    model = kind("MlpPolicy", env, device="cpu", seed=0)
    spec = env_spec(gym.make(env))
    obs = np.random.default_rng(0).normal(size=(9, spec.obs.size)).astype(np.float32)
    wanted, _ = model.predict(obs, deterministic=True)
    parts = [model.policy, *(p for p in (getattr(model, "actor", None),) if p)]
    for policy in parts:
        found = acts(from_object(policy, "policy", spec), obs)
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("activation", [nn.PReLU, nn.RReLU])
def test_activations_with_weights_or_chance(activation: Any, tmp_path: Path) -> None:
    """Weights of an activation are not made up, and chance is switched off."""
    model, path = ppo(activation_fn=activation), str(tmp_path / "p.zip")
    model.save(path)
    wanted, _ = model.predict(OBS, deterministic=True)
    planners = [load_planner(path, allow_pickle=True), from_model(model)]
    if activation is nn.PReLU:
        with pytest.raises(LoadError, match=r"weights.*module:function.*--unpickle"):
            load_planner(path)
    else:
        planners.append(load_planner(path))
    for planner in planners:
        np.testing.assert_allclose(acts(planner), wanted, atol=1e-4)
        check_policy(planner.policy, SPEC)


def test_an_asked_model_answers_in_evaluation_mode() -> None:
    """Also after the model was put back into training."""
    model = ppo(activation_fn=nn.Dropout)
    planner = from_model(model)
    model.policy.set_training_mode(True)
    wanted, _ = model.predict(OBS, deterministic=True)
    model.policy.set_training_mode(True)
    np.testing.assert_allclose(acts(planner), wanted, atol=1e-5)


# Valid files


@pytest.mark.parametrize("prefix", ["_orig_mod.", "mlp_extractor._orig_mod."])
def test_saves_of_compiled_policies(prefix: str, tmp_path: Path) -> None:
    """What torch.compile puts into the weights' names is taken off."""
    model, path = ppo(), tmp_path / "p.zip"
    model.save(path)
    plain = prefix.replace("_orig_mod.", "")

    def named(state: dict[str, Any]) -> dict[str, Any]:
        return {
            prefix + name[len(plain) :] if name.startswith(plain) else name: value
            for name, value in state.items()
        }

    with_weights(path, named)
    wanted, _ = model.predict(OBS, deterministic=True)
    np.testing.assert_allclose(acts(load_planner(str(path))), wanted, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_linear_ars_of_old_versions(bias: bool, tmp_path: Path) -> None:
    """Its weights were named action_net.weight before sb3-contrib 1.7."""
    options = {"with_bias": bias}
    model: Any = ARS("LinearPolicy", "Pendulum-v1", policy_kwargs=options, device="cpu")
    with torch.no_grad():
        model.policy.action_net[0].weight.copy_(torch.tensor([[0.3, -0.7, 0.2]]))
    path = tmp_path / "old.zip"
    model.save(path)
    with_weights(path, lambda s: {k.replace("action_net.0.", "action_net."): s[k] for k in s})
    wanted, _ = model.predict(OBS, deterministic=True)
    np.testing.assert_allclose(acts(load_planner(str(path))), wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["agent_v1.0", "agent.pkl", "agent", "a.b.c"])
def test_saves_are_told_by_their_contents(name: str, tmp_path: Path) -> None:
    """`model.save` writes any suffix, and adds .zip where there is none."""
    ppo().save(tmp_path / name)
    assert load_planner(str(tmp_path / name)).name == "PPO"


# Modules


class Counting(nn.Module):
    """It holds its answer for four calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.held = 0, torch.zeros(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.calls % 4 == 0:
            self.held = x[:, :1]
        self.calls += 1
        return self.held


class RecurrentExecutor(nn.Module):
    """A recurrent actor as exporters script it: its memory is a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 8)
        self.out = nn.Linear(8, 1)
        self.register_buffer("h", torch.zeros(1, 1, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, h = self.rnn(x.unsqueeze(0), self.h)
        self.h[:] = h  # type: ignore[operator]
        out: torch.Tensor = self.out(y.squeeze(0))
        return out


class Chancy(nn.Module):
    """Its dropout is always on."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, 0.5)[:, :1]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    "make", [Counting, RecurrentExecutor, Chancy, lambda: torch.jit.script(RecurrentExecutor())]
)
def test_modules_with_a_memory_or_chance_are_refused(make: Any) -> None:
    """What answers the same question differently is no function of its question."""
    module = make()
    before = {name: value.clone() for name, value in module.named_buffers()}
    with pytest.raises(PlannerError, match=r"memory.*initial_state"):
        from_object(module, "module", SPEC)
    for name, value in module.named_buffers():
        torch.testing.assert_close(value, before[name])


def test_a_memory_for_many_rows_is_refused_too() -> None:
    """A module that takes only as many rows as its memory has is refused."""

    class Wide(RecurrentExecutor):
        def __init__(self) -> None:
            super().__init__()
            self.h = torch.zeros(1, 16, 8)

    with pytest.raises(PlannerError, match=r"one observation alone.*initial_state"):
        from_object(Wide(), "module", SPEC)


def test_what_is_advised_about_memories_works() -> None:
    """An object with an explicit memory is a planner with one."""
    module = RecurrentExecutor()

    class Explicit:
        def initial_state(self, batch: int) -> Any:
            return (np.zeros((batch, 8), np.float32),)

        def __call__(self, obs: Floats, state: Any) -> Any:
            with torch.no_grad():
                seen, before = (torch.tensor(x.copy())[None] for x in (obs, *state))
                y, h = module.rnn(seen, before)
                return Point(module.out(y[0]).numpy()), (h[0].numpy(),)

    check_policy(from_object(lambda spec: Explicit(), "it", SPEC).policy, SPEC)


def test_a_pair_of_output_and_memory_is_not_mean_and_deviation() -> None:
    """A recurrent module's second output is no logarithm of a deviation."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRUCell(3, 1)

        def forward(self, x: torch.Tensor) -> Any:
            h = self.rnn(x)
            return h, h

    with pytest.raises(PlannerError, match=r"\(output, memory\).*Normal"):
        from_object(Pair(), "module", SPEC)

    class Valued(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return x[:, :2], x[:, :1]

    two = Spec(SPEC.obs, action_spec(spaces.Box(-1.0, 1.0, (2,), np.float32)))
    with pytest.raises(SpecError, match=r"\(mean, log_std\)"):
        from_object(Valued(), "module", two)


def test_a_module_that_is_put_back_into_training() -> None:
    """A planner answers in evaluation mode whatever was done to its module since."""
    module = nn.Sequential(nn.Linear(3, 1), nn.Dropout(0.9))
    planner: Any = from_object(module, "module", SPEC)
    before = acts(planner)
    module.train()
    np.testing.assert_array_equal(acts(planner), before)


# Black boxes


def test_black_boxes_are_asked_deterministically_and_without_memory() -> None:
    """Where predict can choose, it chooses its best; a state that it gives is said."""

    class Box:
        remembers = False

        def predict(self, obs: Any, state: Any = None, deterministic: bool = False) -> Any:
            return np.full((len(obs), 1), float(deterministic)), (0 if self.remembers else None)

    box = Box()
    planner: Any = from_object(box, "box", SPEC)
    assert (acts(planner) == 1.0).all()
    box.remembers = True
    with pytest.raises(PlannerError, match=r"memory.*initial_state"):
        acts(planner)

    class Recurrent:
        def predict(self, obs: Any, lstm_states: Any = None) -> Any:
            return np.ones((len(obs), 1)), np.zeros(3)

    with pytest.raises(PlannerError, match=r"memory.*initial_state"):
        acts(from_object(Recurrent(), "box", SPEC))
