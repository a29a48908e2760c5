"""Planners from objects: modules, callables, black boxes, models, ensembles."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import QRDQN, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.torch_layers import FlattenExtractor

from agentkd import dists
from agentkd.deploy.bundle import write_bundle
from agentkd.errors import ConfigError, PlannerError, RefError, SpecError
from agentkd.executors.architecture import initial
from agentkd.planners import Planner, load_planner, load_policy
from agentkd.planners.actions import from_actions
from agentkd.planners.adapt import BlackBox, from_module, from_object
from agentkd.planners.sb3.live import from_model
from agentkd.spec import Spec, env_spec
from agentkd.types import (
    ActionDist,
    Bernoulli,
    Categorical,
    Floats,
    Gaussian,
    MultiCategorical,
    Point,
    Policy,
    QValues,
    RecurrentPolicy,
    SquashedGaussian,
)
from tests.still import BOX, CHOICE, Env

VECTOR = spaces.Box(-2.0, 2.0, (3,), np.float32)


def spec_of(observation: Any, action: Any) -> Spec:
    return env_spec(Env(observation, action))


VECTOR_CHOICE = spec_of(VECTOR, CHOICE)
VECTOR_BOX = spec_of(VECTOR, BOX)
OBS = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], str]:
    """Give an object a reference, module:attribute."""

    def name(found: Any) -> str:
        module: Any = ModuleType("somewhere")
        module.it = found
        monkeypatch.setitem(sys.modules, "somewhere", module)
        return "somewhere:it"

    return name


def call(policy: Policy | RecurrentPolicy, obs: Floats = OBS) -> ActionDist:
    assert not isinstance(policy, RecurrentPolicy)
    dist = policy(obs)
    assert dists.pack(dist).dtype == np.float32
    return dist


def test_importing_planners_does_not_import_torch() -> None:
    """Nor SB3 nor Gymnasium: they come with the first planner that needs them."""
    code = (
        "import sys, agentkd.planners; "
        "sys.exit(bool({'torch', 'stable_baselines3', 'gymnasium'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


# Modules


@pytest.mark.parametrize(
    ("action", "out", "kind"),
    [
        (CHOICE, 3, Categorical),
        (BOX, 2, Point),
        (spaces.MultiDiscrete([2, 3]), 5, MultiCategorical),
        (spaces.MultiBinary(4), 4, Bernoulli),
    ],
)
def test_a_module_is_read_through_the_actions(action: Any, out: int, kind: Any, named: Any) -> None:
    """The same linear layer gives logits, odds or an action, as the actions are."""
    spec, module = spec_of(VECTOR, action), torch.nn.Linear(3, out)
    planner = load_planner(named(module), spec)
    dist = call(planner.policy)
    assert isinstance(dist, kind)
    dists.check(dist, spec.action, 5)
    with torch.no_grad():
        np.testing.assert_allclose(dists.pack(dist), module(torch.from_numpy(OBS)))
    assert planner.parameters == 4 * out
    assert planner.name == "module somewhere:it"


def test_modules_that_give_distributions() -> None:
    """A module may give torch's distributions, a pair, or ours."""

    class Module(torch.nn.Module):
        def __init__(self, answer: Callable[[torch.Tensor], Any]) -> None:
            super().__init__()
            self.answer = answer

        def forward(self, x: torch.Tensor) -> Any:
            return self.answer(x)

    def ask(answer: Callable[[torch.Tensor], Any], action: Any = BOX) -> ActionDist:
        return from_module(Module(answer), spec_of(VECTOR, action))(OBS)

    d, two = torch.distributions, OBS[:, :2]
    normal = ask(lambda x: d.Independent(d.Normal(x[:, :2], torch.tensor(0.5)), 1))
    assert isinstance(normal, Gaussian)
    np.testing.assert_allclose(normal.mean, two)
    np.testing.assert_allclose(np.exp(normal.log_std), np.full((5, 2), 0.5))
    pair = ask(lambda x: (x[:, :2], torch.zeros(2)))
    assert isinstance(pair, Gaussian)
    assert pair.log_std.shape == (5, 2)
    assert isinstance(ask(lambda x: Point(x[:, :2].numpy())), Point)
    assert isinstance(ask(lambda x: d.Categorical(logits=x), CHOICE), Categorical)
    yes = ask(lambda x: d.Bernoulli(logits=x), spaces.MultiBinary(3))
    assert isinstance(yes, Bernoulli)
    np.testing.assert_allclose(yes.logits, OBS)
    several = ask(
        lambda x: [d.Categorical(logits=x), d.Categorical(logits=x[:, :2])],
        spaces.MultiDiscrete([3, 2]),
    )
    assert isinstance(several, MultiCategorical)
    assert several.sizes == (3, 2)
    with pytest.raises(SpecError, match="answered with a str"):
        ask(lambda _: "hello")
    with pytest.raises(SpecError, match=r"\(1, 3\); \(batch, 2\)"):
        ask(lambda x: x)


def test_a_module_sees_the_observations_own_shape() -> None:
    """An image comes as an image, a dictionary as tensors by name."""
    space = spaces.Dict({"i": spaces.Box(0, 255, (2, 4, 3), np.uint8), "d": spaces.Discrete(3)})
    seen: list[Any] = []

    class Module(torch.nn.Module):
        def forward(self, x: Any) -> torch.Tensor:
            seen.append(x)
            return torch.zeros(len(x if isinstance(x, torch.Tensor) else x["d"]), 3)

    spec = spec_of(space, CHOICE)
    from_module(Module(), spec)(np.eye(2, spec.obs.size, dtype=np.float32))
    assert seen[-1]["i"].shape == (2, 2, 4, 3)
    assert seen[-1]["i"].dtype == torch.float32
    assert seen[-1]["d"].dtype == torch.int64
    image = spec_of(spaces.Box(0, 255, (2, 4, 3), np.uint8), CHOICE)
    from_module(Module(), image)(np.zeros((2, 24), np.float32))
    assert seen[-1].shape == (2, 2, 4, 3)


# Callables


def test_a_function_that_gives_a_distribution(named: Any) -> None:
    """It is passed on as it is."""

    def answer(obs: Floats) -> ActionDist:
        return Categorical(obs)

    planner = load_planner(named(answer), VECTOR_CHOICE)
    np.testing.assert_array_equal(dists.pack(call(planner.policy)), OBS)
    assert planner.name == "callable somewhere:it"
    assert planner.spec == VECTOR_CHOICE


def test_a_function_that_gives_actions(named: Any) -> None:
    """Choices are smoothed, boxes are points."""
    chosen = load_policy(named(lambda obs: obs.argmax(axis=1)), VECTOR_CHOICE)
    dist = call(chosen)
    assert isinstance(dist, Categorical)
    np.testing.assert_array_equal(dist.logits.argmax(axis=1), OBS.argmax(axis=1))
    np.testing.assert_allclose(np.exp(dist.logits).sum(axis=1), np.ones(5), rtol=1e-5)
    point = call(load_policy(named(lambda obs: obs[:, :2]), VECTOR_BOX))
    assert isinstance(point, Point)
    np.testing.assert_array_equal(point.action, OBS[:, :2])


def test_a_function_that_makes_a_planner(named: Any) -> None:
    """A first parameter named `spec` marks a factory."""

    def make(spec: Spec) -> Any:
        return torch.nn.Linear(spec.obs.size, 3)

    assert load_planner(named(make), VECTOR_CHOICE).parameters == 12


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda _: np.zeros((5, 4)), r"\(5, 4\); \(5, 1\)"),
        (lambda _: np.full(5, 7), "is not one of 3"),
        (lambda _: np.full(5, 0.5), "not whole numbers"),
        (lambda _: None, "shape"),
        (lambda _: Gaussian(OBS, OBS), "gaussian"),
        (lambda _: Categorical(OBS[:2]), r"\(2, 3\)"),
        (lambda _: Categorical(OBS * np.nan), "NaN"),
    ],
)
def test_a_function_that_gives_garbage(answer: Any, said: str, named: Any) -> None:
    """The error says what was wrong with the answer."""
    policy = load_policy(named(answer), VECTOR_CHOICE)
    with pytest.raises(PlannerError, match=said):
        call(policy)


def test_objects_that_cannot_be_planners(named: Any) -> None:
    """What it is instead, and what to do, is said."""
    with pytest.raises(RefError, match="is a int, which cannot act"):
        load_planner(named(3), VECTOR_CHOICE)
    with pytest.raises(RefError, match="is the class dict"):
        load_planner(named(dict), VECTOR_CHOICE)
    with pytest.raises(ConfigError, match="give a spec"):
        load_planner(named(len))
    with pytest.raises(ConfigError, match="needs no algorithm"):
        load_planner(named(len), VECTOR_CHOICE, algorithm="PPO")


def test_a_planner_or_a_policy_with_memory_is_taken_as_it_is(named: Any) -> None:
    """What is already one needs nothing."""

    class Remembers:
        def initial_state(self, batch: int) -> Any:
            return (np.zeros((batch, 1), np.float32),)

        def __call__(self, obs: Floats, state: Any, /) -> Any:
            return Categorical(obs), state

    found = Remembers()
    planner = load_planner(named(found), VECTOR_CHOICE)
    assert planner.policy is found
    assert load_planner(named(planner)) is planner


# Black boxes


def test_a_black_box_gets_what_the_environment_gives() -> None:
    """`predict` sees the observation's own shape, and may give a pair as SB3 does."""
    image = spec_of(spaces.Box(0, 255, (2, 2, 3), np.uint8), CHOICE)
    seen: list[Any] = []

    def predict(obs: Any) -> Any:
        seen.append(obs)
        return np.array([0, 2]), None

    box = from_object(SimpleNamespace(predict=predict), "x", image)
    dist = call(box.policy, np.zeros((2, 12), np.float32))
    assert seen[0].shape == (2, 2, 2, 3)
    assert seen[0].dtype == np.uint8
    np.testing.assert_array_equal(dists.mode(dist, image.action), [0, 2])
    assert box.name == "black box x"
    with pytest.raises(PlannerError, match="predict answered garbage"):
        BlackBox(lambda _: [9], VECTOR_CHOICE)(OBS)


@pytest.mark.parametrize("wrong", [["left"] * 3, [object()] * 3, [1j] * 3])
def test_actions_that_are_no_numbers_are_refused(wrong: Any) -> None:
    """They are the planner's, and said so."""

    class Box:
        def predict(self, obs: Any) -> Any:
            return np.array(wrong[: len(obs)])

    spec = spec_of(VECTOR, spaces.Box(-2.0, 2.0, (1,), np.float32))
    planner: Any = from_object(Box(), "box", spec)
    with pytest.raises(PlannerError, match="not numbers"):
        planner.policy(np.zeros((3, 3), np.float32))


@pytest.mark.parametrize(
    ("action", "chosen"),
    [
        (CHOICE, [0, 2, 1]),
        (spaces.Discrete(3, start=5), [5, 7, 6]),
        (spaces.MultiDiscrete([2, 3]), [[0, 2], [1, 0], [1, 1]]),
        (spaces.MultiBinary(2), [[0, 1], [1, 1], [0, 0]]),
        (BOX, [[0.5, -2.5], [1.0, 2.0], [0.0, 0.0]]),
    ],
)
def test_the_chosen_action_stays_the_most_probable(action: Any, chosen: Any) -> None:
    """Smoothing gives the others something, never more than the chosen one."""
    spec = spec_of(VECTOR, action).action
    dist = from_actions(np.array(chosen), 3, spec)
    dists.check(dist, spec, 3)
    np.testing.assert_array_equal(dists.mode(dist, spec), np.array(chosen))


def test_how_much_is_smoothed() -> None:
    """The chosen action keeps 1 - smoothing and its share of the rest."""
    dist = from_actions([1], 1, VECTOR_CHOICE.action, smoothing=0.3)
    probability = np.exp(dists.pack(dist))
    np.testing.assert_allclose(probability, [[0.1, 0.8, 0.1]], rtol=1e-5)


# Ensembles


def test_several_references_are_an_ensemble(tmp_path: Path, named: Any) -> None:
    """DQN's values and PPO's logits, from files, and a function, in one planner."""
    env, small = Env(VECTOR, CHOICE), {"net_arch": [4]}
    DQN("MlpPolicy", env, policy_kwargs=small, buffer_size=10).save(tmp_path / "a.zip")
    PPO("MlpPolicy", env, policy_kwargs=small, n_steps=8, batch_size=8).save(tmp_path / "b.zip")
    refs = [str(tmp_path / "a.zip"), str(tmp_path / "b.zip")]
    planner = load_planner([*refs, named(lambda obs: obs.argmax(axis=1))])
    assert planner.name == "DQN + PPO + callable somewhere:it"
    assert planner.parameters == 2 * (3 * 4 + 4 + 4 * 3 + 3)
    assert len(planner.digest) == 64
    dist = call(planner.policy)
    dists.check(dist, planner.spec.action, 5)
    np.testing.assert_allclose(np.exp(dists.pack(dist)).sum(axis=1), np.ones(5), 1e-4)
    assert load_planner(refs[:1]).name == "DQN"
    with pytest.raises(ConfigError, match="cannot serve an ensemble"):
        load_planner(refs, vecnormalize="v.pkl")


# Executor files


def test_an_executor_file_is_a_planner(tmp_path: Path) -> None:
    """An executor may be a planner in turn, for its own environment only."""
    executor = initial("mlp:4", VECTOR_CHOICE, seed=1)
    write_bundle(tmp_path / "e.akd", executor, {})
    planner = load_planner(str(tmp_path / "e.akd"), VECTOR_CHOICE)
    np.testing.assert_array_equal(dists.pack(call(planner.policy)), dists.pack(executor(OBS)))
    assert planner.name == "executor mlp:4"
    assert planner.parameters == executor.parameters
    assert planner.spec == VECTOR_CHOICE
    with pytest.raises(SpecError, match="is an executor for"):
        load_planner(str(tmp_path / "e.akd"), VECTOR_BOX)


# Models in memory


class OwnFeatures(FlattenExtractor):
    """A features extractor of the user's own."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        doubled: torch.Tensor = 2.0 * self.flatten(observations)
        return doubled


@pytest.mark.parametrize(
    ("kind", "action", "options", "expected"),
    [
        (A2C, BOX, {}, Gaussian),
        (A2C, BOX, {"use_sde": True}, Gaussian),
        (A2C, CHOICE, {}, Categorical),
        (A2C, spaces.MultiDiscrete([2, 3]), {}, MultiCategorical),
        (A2C, spaces.MultiBinary(3), {}, Bernoulli),
        (SAC, BOX, {}, SquashedGaussian),
        (SAC, BOX, {"use_sde": True}, SquashedGaussian),
        (TD3, BOX, {}, Point),
        (DQN, CHOICE, {}, QValues),
        (QRDQN, CHOICE, {}, QValues),
    ],
)
def test_a_model_with_an_extractor_of_ones_own(
    kind: Any, action: Any, options: dict[str, Any], expected: Any
) -> None:
    """It is asked through its own methods, and acts as in SB3."""
    extra = {"features_extractor_class": OwnFeatures, "net_arch": [8]}
    model = kind("MlpPolicy", Env(VECTOR, action), policy_kwargs=extra, **options)
    planner = from_model(model, spec_of(VECTOR, action))
    dist = call(planner.policy)
    assert isinstance(dist, expected)
    wanted, _ = model.predict(OBS, deterministic=True)
    found = dists.mode(dist, planner.spec.action)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert "Policy" in planner.name


def test_a_recurrent_model_with_an_extractor_of_ones_own() -> None:
    """Its memory is explicit, as that of SB3's own."""
    extra = {"features_extractor_class": OwnFeatures, "lstm_hidden_size": 4}
    env = Env(VECTOR, BOX)
    model = RecurrentPPO("MlpLstmPolicy", env, policy_kwargs=extra, n_steps=8)
    planner = from_model(model)
    assert isinstance(planner.policy, RecurrentPolicy)
    state, theirs = planner.policy.initial_state(5), None
    for step in range(3):
        dist, state = planner.policy(OBS * (step + 1), state)
        wanted, theirs = model.predict(
            OBS * (step + 1), theirs, np.full(5, step == 0), deterministic=True
        )
        found = dists.mode(dist, planner.spec.action)
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_model_for_another_environment() -> None:
    """Shapes are checked for models as for files."""
    extra = {"features_extractor_class": OwnFeatures}
    model = A2C("MlpPolicy", Env(VECTOR, CHOICE), policy_kwargs=extra)
    four = spec_of(spaces.Box(-1.0, 1.0, (4,), np.float32), CHOICE)
    with pytest.raises(SpecError, match=r"3 numbers.*4"):
        from_model(model, four)
    with pytest.raises(SpecError, match="another environment"):
        from_model(model, VECTOR_BOX)


def test_a_model_by_reference(named: Any) -> None:
    """module:attribute may name a model, or a function that loads one."""
    model = A2C("MlpPolicy", Env(VECTOR, CHOICE))
    direct: Planner = load_planner(named(model))
    made = load_planner(named(lambda spec: model), VECTOR_CHOICE)
    np.testing.assert_array_equal(dists.pack(call(direct.policy)), dists.pack(call(made.policy)))
    assert direct.name == made.name == "A2C"
