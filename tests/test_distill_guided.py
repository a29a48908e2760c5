"""A planner beside the reward: the losses, their weights, and what comes of them."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Normal, kl_divergence

from agentkd.cli.main import main
from agentkd.deploy.bundle import read_bundle
from agentkd.distillation.sb3.from_sb3 import from_sb3
from agentkd.distillation.sb3.guide import Gap, Guide, Method, apart_for, gaussian_kl
from agentkd.distillation.sb3.guided_ppo import GuidedPPO
from agentkd.distillation.sb3.to_sb3 import to_sb3
from agentkd.dists import mode
from agentkd.errors import ConfigError, PlannerError, SpecError
from agentkd.executors.architecture import initial
from agentkd.planners import Planner
from agentkd.spec import (
    BoxSpec,
    DiscreteSpec,
    MultiBinarySpec,
    MultiDiscreteSpec,
    ObsSpec,
    Part,
    Spec,
    env_spec,
)
from agentkd.types import ActionDist, Categorical, Floats, Gaussian, Kind, Point, QValues
from tests.cli_planners import Memory, balance
from tests.cli_reports import report, undocumented

CARTPOLE = Spec(ObsSpec((Part("", "box", (4,), "float32"),)), DiscreteSpec(2))
RULE = Planner(balance, CARTPOLE, "rule", 4, "")
BOX = BoxSpec((-2.0,), (2.0,), (1,))
SMALL: dict[str, Any] = {
    "seed": 0,
    "device": "cpu",
    "n_steps": 32,
    "batch_size": 32,
    "policy_kwargs": {"net_arch": [8]},
}


def small() -> dict[str, Any]:
    """Options for a small PPO; SB3 writes into them, so each gets its own."""
    return {**SMALL, "policy_kwargs": {"net_arch": [8]}}


def test_the_divergences_are_the_closed_forms() -> None:
    """Each kind's is what torch gives for the same two distributions."""
    torch.manual_seed(0)
    rows, mine = torch.randn(6, 3), torch.randn(6, 3)
    found: Any = CategoricalDistribution(3).proba_distribution(mine)
    expected = kl_divergence(TorchCategorical(logits=rows), found.distribution)
    apart = apart_for("categorical", DiscreteSpec(3))(found, rows)
    assert torch.allclose(apart, expected, atol=1e-6)

    found = MultiCategoricalDistribution([2, 1]).proba_distribution(mine)
    both = apart_for("multicategorical", MultiDiscreteSpec((2, 1)))(found, rows)
    first = kl_divergence(TorchCategorical(logits=rows[:, :2]), found.distribution[0])
    assert torch.allclose(both, first, atol=1e-6)

    found = BernoulliDistribution(3).proba_distribution(mine)
    yes = torch.distributions.Bernoulli(logits=rows)
    expected = kl_divergence(yes, found.distribution).sum(1)
    apart = apart_for("bernoulli", MultiBinarySpec(3))(found, rows)
    assert torch.allclose(apart, expected, atol=1e-5)

    mean, std = torch.randn(6, 2), torch.rand(6, 2) + 0.1
    other = Normal(torch.randn(6, 2), torch.rand(6, 2) + 0.1)
    expected = kl_divergence(Normal(mean, std), other).sum(1)
    assert torch.allclose(gaussian_kl(mean, std, other), expected, atol=1e-5)


def gaussian(mean: float, std: float) -> Any:
    """SB3's Gaussian over one number, with a gradient."""
    at = torch.tensor([[mean]], requires_grad=True)
    wide = torch.tensor([math.log(std)], requires_grad=True)
    return DiagGaussianDistribution(1).proba_distribution(at, wide), at, wide


def test_a_point_pulls_the_mean_and_leaves_the_spread() -> None:
    """Its divergence is in units of the executor's own spread."""
    found, mean, std = gaussian(0.5, 0.2)
    apart = apart_for("point", BOX)(found, torch.tensor([[0.9]]))
    assert apart.item() == pytest.approx(0.5 * (0.4 / 0.2) ** 2)
    apart.sum().backward()
    assert mean.grad is not None
    assert mean.grad.item() < 0
    assert std.grad is None or std.grad.item() == 0


def test_a_squashed_planner_is_compared_in_the_units_of_the_box() -> None:
    """Where tanh is flat its spread is small, though never none."""
    found, _, _ = gaussian(2.0 * math.tanh(0.3), 0.1 * (1 - math.tanh(0.3) ** 2) * 2)
    rows = torch.tensor([[0.3, math.log(0.1)]])
    assert apart_for("squashed", BOX)(found, rows).item() == pytest.approx(0, abs=1e-6)
    far = torch.tensor([[20.0, math.log(0.1)]])
    found, _, _ = gaussian(2.0, 0.05 * 2)
    assert apart_for("squashed", BOX)(found, far).item() == pytest.approx(0, abs=1e-5)


def test_a_mean_beyond_the_bounds_counts_only_for_who_can_go_there() -> None:
    """An executor that is kept within the box agrees at its edge."""
    rows = torch.tensor([[5.0, math.log(0.1)]])
    found, _, _ = gaussian(2.0, 0.1)
    assert apart_for("gaussian", BOX, bounded=True)(found, rows).item() < 1e-6
    assert apart_for("gaussian", BOX)(found, rows).item() > 100


def test_action_values_are_tempered_by_their_own_gap() -> None:
    """Ten times the values are the same planner."""
    torch.manual_seed(0)
    rows = torch.randn(32, 3)
    found: Any = CategoricalDistribution(3).proba_distribution(torch.randn(32, 3))
    one, ten = (apart_for("qvalues", DiscreteSpec(3)) for _ in range(2))
    assert torch.allclose(one(found, rows), ten(found, 10 * rows), atol=1e-4)


@pytest.mark.parametrize(
    ("executor", "weight"), [(-500, 2.0), (-100, 2.0), (-75, 1.5), (-50, 1.0), (0, 0.0), (50, 0.0)]
)
def test_the_weight_follows_the_gap(executor: float, weight: float) -> None:
    """From `start` for random play to nothing at the planner's return, also below 0."""
    gap = Gap(planner=0.0, random=-100.0, start=2.0)
    assert gap.at(executor) == pytest.approx(weight)
    assert Guide(weight=gap).weight_at(executor) == pytest.approx(weight)
    assert gap.at(math.nan) == 2.0


def test_what_cannot_be_meant_is_refused() -> None:
    """A planner that is no better than chance has no gap; a method has a name."""
    with pytest.raises(ConfigError, match="no gap"):
        Gap(planner=1.0, random=1.0)
    with pytest.raises(ConfigError, match="Did you mean"):
        Guide(method="pdd")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="weight"):
        Guide(weight=-1.0)


def cart(method: Method = "ppd", **more: Any) -> GuidedPPO:
    """A small executor beside the balancing rule."""
    guide = Guide(method, more.pop("weight", 1.0))
    envs = make_vec_env("CartPole-v1", 4, seed=0)
    options = {**small(), **more}
    return GuidedPPO("MlpPolicy", envs, planner=RULE, guide=guide, **options)


def agreed(model: GuidedPPO) -> float:
    """How often the executor does what the rule says, near balance."""
    obs = np.random.default_rng(0).uniform(-0.2, 0.2, (500, 4)).astype(np.float32)
    mine = mode(from_sb3(model)(obs), CARTPOLE.action)
    return float((mine == mode(balance(obs), CARTPOLE.action)).mean())


@pytest.mark.parametrize("method", ["ppd", "kickstart"])
def test_every_method_brings_the_executor_to_the_planner(method: Method) -> None:
    """It decides as the rule does, near balance."""
    model = cart(method, learning_rate=3e-3)
    model.learn(5120)
    assert agreed(model) > 0.9


def test_without_a_weight_it_is_ppo() -> None:
    """The planner is asked and changes nothing: weights are PPO's to the bit."""
    model = cart(weight=0.0)
    model.learn(256)
    plain = PPO("MlpPolicy", make_vec_env("CartPole-v1", 4, seed=0), **small())
    plain.learn(256)
    left, right = (each.policy.state_dict() for each in (model, plain))
    assert all(torch.equal(left[name], right[name]) for name in right)


def test_the_clip_keeps_the_divergence_from_being_escaped() -> None:
    """An action made improbable counts at least 1 - clip; kickstarting as it is."""
    found = {}
    for method in ("ppd", "kickstart"):
        model = cart(method)
        model.learn(128)
        model.collect_rollouts(model.env, _nobody(model), model.rollout_buffer, model.n_steps)
        labels = model._labels()
        rollouts: Any = model.rollout_buffer
        batch = next(iter(rollouts.get(None)))
        rows = labels[rollouts.chosen]
        plain = model._losses(batch, rows, 0.2).apart.item()
        rare = batch._replace(old_log_prob=batch.old_log_prob + 50.0)
        likely = batch._replace(old_log_prob=batch.old_log_prob - math.log(3.0))
        found[method] = [
            model._losses(each, rows, 0.2).apart.item() / plain for each in (rare, likely)
        ]
    assert found["ppd"] == pytest.approx([0.8, 3.0], rel=1e-4)
    assert found["kickstart"] == pytest.approx([1.0, 1.0])


def _nobody(model: GuidedPPO) -> Any:
    from stable_baselines3.common.callbacks import CallbackList

    callback = CallbackList([])
    callback.init_callback(model)
    return callback


def test_labels_belong_to_the_states_of_a_batch() -> None:
    """Whatever the order in which a buffer gives its rows."""
    model = cart()
    model.learn(128)
    model.collect_rollouts(model.env, _nobody(model), model.rollout_buffer, model.n_steps)
    labels = model._labels()
    rollouts: Any = model.rollout_buffer
    for batch in rollouts.get(50):
        rows = labels[rollouts.chosen]
        said = balance(batch.observations.numpy()).logits
        assert np.allclose(rows.numpy(), said, atol=1e-5)


def test_the_planner_sees_what_the_environment_gives() -> None:
    """Behind VecNormalize the executor sees normalised numbers, the planner none."""
    seen: list[Floats] = []

    def spy(obs: Floats, /) -> Categorical:
        seen.append(obs)
        return balance(obs)

    def one() -> Any:
        env = gym.make("CartPole-v1")
        return Monitor(gym.wrappers.TransformObservation(env, shifted, None))

    def shifted(obs: Any) -> Any:
        return np.asarray(obs + 100.0, np.float32)

    envs = VecNormalize(DummyVecEnv([one] * 2))
    planner = Planner(spy, CARTPOLE, "spy", 0, "")
    model = GuidedPPO("MlpPolicy", envs, planner=planner, **small())
    model.learn(128)
    raw = np.concatenate(seen)
    assert len(raw) == 128
    assert raw.min() > 90
    assert np.abs(model.rollout_buffer.observations).max() <= 10


def test_observations_of_parts_reach_the_planner_flat() -> None:
    """A dictionary is laid out as its environment's spec says."""

    class Two(gym.Env[Any, Any]):
        observation_space = gym.spaces.Dict(
            {"z": gym.spaces.Box(-5, 5, (2,), np.float32), "a": gym.spaces.Discrete(3)}
        )
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            return self.observation_space.sample(), {}

        def step(self, action: Any) -> Any:
            return self.observation_space.sample(), 0.0, False, False, {}

    spec = env_spec(Two())

    def by_choice(obs: Floats, /) -> Categorical:
        assert (obs[:, :3].sum(1) == 1).all()
        yes = 8.0 * obs[:, 2] - 4.0
        return Categorical(np.stack([-yes, yes], axis=1))

    planner = Planner(by_choice, spec, "by choice", 0, "")
    model = GuidedPPO(
        "MultiInputPolicy",
        Two(),
        planner=planner,
        guide=Guide("kickstart", weight=10.0),
        learning_rate=1e-2,
        **small(),
    )
    model.learn(640)
    chosen = [
        int(model.predict({"a": np.array(each), "z": np.zeros(2)}, deterministic=True)[0])
        for each in range(3)
    ]
    assert chosen == [0, 0, 1]


@pytest.mark.parametrize("kind", ["gaussian", "squashed", "point"])
def test_planners_of_boxes_guide_an_executor(kind: Kind) -> None:
    """The executor's own policy, squashed, comes to each kind of answer."""
    spec = env_spec(gym.make("Pendulum-v1"))

    def planner(obs: Floats, /) -> ActionDist:
        from agentkd.types import SquashedGaussian

        action = (1.5 * np.tanh(obs[:, 1:2])).astype(np.float32)
        std = np.full_like(action, np.log(0.2))
        if kind == "squashed":
            return SquashedGaussian(np.arctanh(action / 2), std)
        return Point(action) if kind == "point" else Gaussian(action, std)

    known = Planner(planner, spec, kind, 0, "")
    executor = initial("mlp:16", spec)
    model = to_sb3(
        executor,
        GuidedPPO,
        "Pendulum-v1",
        planner=known,
        guide=Guide("ppd", 1.0),
        learning_rate=1e-2,
        seed=0,
        n_steps=256,
        std=0.3,
    )
    model.learn(2048)
    obs = np.random.default_rng(0).uniform(-1, 1, (200, 3)).astype(np.float32)
    mine = mode(from_sb3(model)(obs), spec.action)
    assert np.abs(mine - 1.5 * np.tanh(obs[:, 1:2])).mean() < 0.3


def test_a_planner_that_fails_is_named() -> None:
    """One that raises, one for another environment, one with a memory."""

    def mortal(obs: Floats, /) -> QValues:
        raise ValueError("worn out")

    model = GuidedPPO(
        "MlpPolicy", "CartPole-v1", planner=Planner(mortal, CARTPOLE, "mortal", 0, ""), **small()
    )
    with pytest.raises(PlannerError, match="worn out"):
        model.learn(64)
    with pytest.raises(SpecError, match="environment"):
        GuidedPPO("MlpPolicy", "Pendulum-v1", planner=RULE, **small())
    memory = Planner(Memory(), CARTPOLE, "memory", 0, "")
    with pytest.raises(ConfigError, match="memory"):
        GuidedPPO("MlpPolicy", "CartPole-v1", planner=memory, **small())


def test_a_guided_model_is_saved_without_its_planner(tmp_path: Path) -> None:
    """What is read back is a PPO of the same weights."""
    model = cart()
    model.learn(128)
    model.save(tmp_path / "model.zip")
    loaded = PPO.load(tmp_path / "model.zip", device="cpu")
    obs = np.zeros((3, 4), np.float32)
    with torch.inference_mode():
        values = [each.policy.predict_values(torch.zeros(1, 4)) for each in (loaded, model)]
    assert torch.equal(*values)
    assert loaded.predict(obs, deterministic=True)[0].shape == (3,)


REINFORCE = [
    *["reinforce", "CartPole-v1", "--planner", "tests.cli_planners:balance"],
    *["--executor", "mlp:8", "--episodes", "3", "--environments", "4"],
    *["--rollout", "32", "--steps", "1280", "--learning-rate", "0.003"],
]


@pytest.mark.parametrize("weight", ["1.0", "gap:2"])
def test_reinforce_leaves_an_executor_and_a_report(
    weight: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it leaves can be gone on from, and nothing is in the temporary folder."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    out = tmp_path / "out"
    words = [*REINFORCE, "--batch", "64", "--weight", weight]
    assert main([*words, "--out", str(out)]) == 0
    data = report(out)
    assert undocumented(data) == []
    assert data["retention"] > 0.2
    assert data["environment_steps"] == 1280
    executor = read_bundle(out / "executor.akd").executor
    assert executor.parameters == 58
    assert executor.mean.any()
    more = ["--executor", str(out / "executor.akd"), "--critic-first", "10000"]
    assert main([*words, *more, "--out", str(tmp_path / "more")]) == 0
    after = read_bundle(tmp_path / "more" / "executor.akd").executor
    assert np.array_equal(after.vector(), executor.vector())
    # One folder for each user is torch's own cache.
    left = {each.name.partition("_")[0] for each in temporary.iterdir()}
    assert left <= {"torchinductor"}


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--steps", "0"], "steps is 0"),
        (["--weight", "much"], "weight is 'much'"),
        (["--weight", "-1"], "weight is -1"),
        (["--gamma", "0"], "gamma is 0"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    more: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2 and the reason, before anything is written."""
    assert main([*REINFORCE, *more, "--out", str(tmp_path / "out")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
