"""Checkpoints that other libraries wrote, against what the libraries answer; see tests/data."""

from __future__ import annotations

import io
import itertools
import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from agentkd import dists
from agentkd.errors import ConfigError, LoadError, NumbersError, SpecError, UnsafeError
from agentkd.planners import Planner, load_planner
from agentkd.planners.files.network import free_box, own_spec
from agentkd.spec import BoxSpec, DiscreteSpec, Spec
from agentkd.types import Categorical, Gaussian, Point, QValues, RecurrentPolicy, SquashedGaussian

# A folder with the same files and more observations may be given instead.
FILES = Path(os.environ.get("AGENTKD_POLICY_FILES", Path(__file__).parent / "data" / "policies"))
CHOICES = own_spec(5, DiscreteSpec(4))


class Case(NamedTuple):
    """A file, whether it has a memory and a normaliser, and what its user tells."""

    file: str
    memory: bool = False
    normaliser: bool = True
    args: dict[str, Any] | None = None
    spec: Spec | None = None


HETERO = {"distribution": "heteroscedastic"}
BETA = {"distribution": "beta", "action_scale": 1.5, "action_offset": -0.5}
ELU, RELU, TANH = ({"activation": name} for name in ("elu", "relu", "tanh"))
TABLE = [
    Case("rsl5_mlp.pt"),
    Case("rsl5_plain.pt", normaliser=False),
    Case("rsl5_gru.pt", memory=True),
    Case("rsl5_lstm.pt", memory=True),
    Case("rsl5_hetero.pt", args=HETERO),
    Case("rsl5_beta.pt", args=BETA),
    Case("rsl4_mlp.pt"),
    Case("rsl4_lstm.pt", memory=True),
    Case("rsl4_hetero.pt", args=HETERO),
    Case("rsl3_mlp.pt"),
    Case("rsl3_lstm.pt", memory=True),
    Case("rsl3_gru.pt", memory=True, normaliser=False),
    Case("rsl3_hetero.pt", args=HETERO),
    Case("rsl2_mlp.pt"),
    Case("rsl2_lstm.pt", memory=True),
    Case("skrl2_gaussian.pt", args=ELU),
    Case("skrl2_plain.pt", normaliser=False, args=RELU),
    Case("skrl2_choice.pt", args=TANH, spec=CHOICES),
    Case("skrl1_gaussian.pt", args=ELU),
    Case("skrl1_plain.pt", normaliser=False, args=RELU),
    Case("skrl1_choice.pt", args=TANH, spec=CHOICES),
    Case("rlgames_mlp.pth", args=ELU),
    Case("rlgames_hetero.pth", args=ELU),
    Case("rlgames_lstm.pth", memory=True, args=ELU),
    Case("rlgames_gru.pth", memory=True, args=ELU),
    Case("rlgames_choice.pth", args=ELU, spec=CHOICES),
]


def load(path: Path, spec: Spec | None = None, **args: Any) -> Planner:
    """Load a file; what is assumed about it is announced, and of no interest here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return load_planner(str(path), spec, args=args or None)


def answers(planner: Planner, obs: Any) -> list[Any]:
    """What a planner answers to sequences of observations, (ticks, rows, size)."""
    policy: Any = planner.policy
    if not isinstance(policy, RecurrentPolicy):
        return [policy(each) for each in obs]
    state, found = policy.initial_state(obs.shape[1]), []
    for each in obs:
        answer, state = policy(each, state)
        found.append(answer)
    return found


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.file)
def test_a_checkpoint_answers_as_in_its_library(case: Case) -> None:
    """Means, deviations and logits are the library's, tick by tick."""
    planner = load(FILES / case.file, case.spec, **(case.args or {}))
    known = np.load((FILES / case.file).with_suffix(".npz"))
    network = planner.policy.network  # type: ignore[union-attr]
    assert isinstance(planner.policy, RecurrentPolicy) == case.memory
    assert (network.normaliser is not None) == case.normaliser
    for tick, answer in enumerate(answers(planner, known["obs"])):
        if isinstance(answer, Categorical):
            # rl_games gives logarithms of probabilities.
            both = answer.logits, known["logits"][tick]
            one, other = (each - np.logaddexp.reduce(each, 1, keepdims=True) for each in both)
            np.testing.assert_allclose(one, other, atol=1e-5)
            continue
        np.testing.assert_allclose(answer.mean, known["mean"][tick], atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(np.exp(answer.log_std), known["std"][tick], atol=1e-5)


def test_what_a_checkpoint_does_not_tell_is_announced_once(tmp_path: Path) -> None:
    """The defaults of rsl_rl are named with the flag; with agent.yaml beside nothing is assumed."""
    with pytest.warns(UserWarning, match=r"activation=elu.*epsilon=0\.01.*--planner-args") as heard:
        load_planner(str(FILES / "rsl5_mlp.pt"))
    assert len(heard) == 1
    path = run_folder(
        tmp_path, "rsl5_mlp.pt", "actor:\n  class_name: MLPModel\n  activation: ELU\n"
    )
    load_planner(str(path))


def run_folder(tmp_path: Path, file: str, settings: str) -> Path:
    """Lay out a run's folder as Isaac Lab does, with params/agent.yaml."""
    (tmp_path / "params").mkdir(parents=True, exist_ok=True)
    (tmp_path / "params" / "agent.yaml").write_text(settings)
    path = tmp_path / "model_20.pt"
    path.write_bytes((FILES / file).read_bytes())
    return path


def test_the_settings_of_a_run_tell_activation_and_distribution(tmp_path: Path) -> None:
    """A Beta's interval and a class of Python's are read from agent.yaml; the tag is not."""
    settings = (
        "seed: 42\nactor:\n  class_name: MLPModel\n  hidden_dims: !!python/tuple\n  - 8\n  - 6\n"
        "  activation: elu\n  distribution_cfg:\n    class_name: BetaDistribution\n"
        "    action_range:\n    - -2.0\n    - 1.0\n"
    )
    planner = load_planner(str(run_folder(tmp_path, "rsl5_beta.pt", settings)))
    known = np.load(FILES / "rsl5_beta.npz")
    (answer,) = answers(planner, known["obs"])
    np.testing.assert_allclose(answer.mean, known["mean"][0], atol=1e-5)
    np.testing.assert_allclose(np.exp(answer.log_std), known["std"][0], atol=1e-5)


def test_a_run_folder_means_its_last_checkpoint(tmp_path: Path) -> None:
    """Of model_20.pt and model_100.pt the latter is read; two policies without numbers are not."""
    path = run_folder(tmp_path, "rsl5_plain.pt", "actor:\n  activation: elu\n")
    path.rename(tmp_path / "model_100.pt")
    run_folder(tmp_path, "rsl5_mlp.pt", "actor:\n  activation: elu\n")
    assert load_planner(str(tmp_path)).name == "rsl_rl actor of model_100.pt"
    both = tmp_path / "exported"
    both.mkdir()
    for name in ("a.pt", "b.pt"):
        (both / name).write_bytes((FILES / "rsl5_plain.pt").read_bytes())
    with pytest.raises(LoadError, match=r"2 policy files \(a.pt, b.pt\); name one"):
        load_planner(str(both))


def test_what_cannot_be_known_is_asked_for_by_its_flag() -> None:
    """skrl does not keep the activation, and rsl_rl not what half of the last layer is."""
    with pytest.raises(ConfigError, match=r"activation.*--planner-args activation=elu"):
        load(FILES / "skrl2_gaussian.pt")
    with pytest.raises(ConfigError, match=r"--planner-args distribution=heteroscedastic"):
        load(FILES / "rsl5_hetero.pt")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"activatoin": "elu"}, "Did you mean 'activation'"),
        ({"activation": "eluu"}, "Did you mean 'elu'"),
        ({"sigma": 0}, "sigma=0: a number above 0"),
        ({"action_scale": [1.0, 2.0]}, "action_scale is a list of 2; the action has 3"),
        ({"action_scale": "big"}, "action_scale=big"),
        ({"epsilon": float("nan")}, "epsilon=nan"),
        ({"normaliser": "off"}, "no use for --planner-args normaliser"),
    ],
)
def test_a_wrong_option_is_named(args: dict[str, Any], said: str) -> None:
    """Each message gives the key, the value and what is needed."""
    with pytest.raises(ConfigError, match=said):
        load(FILES / "rsl5_plain.pt", **args)


def test_scale_offset_and_deviation_are_the_users() -> None:
    """They apply to the policy's output; the deviation is scaled too."""
    known = np.load(FILES / "rsl5_plain.npz")
    args = {"sigma": 0.2, "action_scale": [0.5, 1.0, 2.0], "action_offset": 0.1}
    (answer,) = answers(load(FILES / "rsl5_plain.pt", **args), known["obs"])
    scale = np.array([0.5, 1.0, 2.0], np.float32)
    np.testing.assert_allclose(answer.mean, known["mean"][0] * scale + 0.1, atol=1e-5)
    wide = np.broadcast_to(0.2 * scale, answer.mean.shape)
    np.testing.assert_allclose(np.exp(answer.log_std), wide, atol=1e-6)


def test_a_policy_of_another_environment_is_refused() -> None:
    """The message says how many numbers each has."""
    with pytest.raises(SpecError, match="observes 5 numbers; the environment gives 4"):
        load(FILES / "rsl5_mlp.pt", own_spec(4, free_box(3)))
    with pytest.raises(SpecError, match="gives 3 numbers"):
        load(FILES / "rsl5_mlp.pt", own_spec(5, free_box(2)))
    with pytest.raises(SpecError, match="acts with numbers"):
        load(FILES / "rsl5_mlp.pt", own_spec(5, DiscreteSpec(3)))


def test_rl_games_scales_to_the_box_as_its_player_does() -> None:
    """A mean from -1 to 1 becomes one between the bounds, and the deviation with it."""
    box = BoxSpec((0.0, -2.0, 1.0), (4.0, 2.0, 2.0), (3,))
    known = np.load(FILES / "rlgames_mlp.npz")
    (answer,) = answers(load(FILES / "rlgames_mlp.pth", own_spec(5, box), **ELU), known["obs"])
    half, middle = np.array([2.0, 2.0, 0.5]), np.array([2.0, 0.0, 1.5])
    np.testing.assert_allclose(answer.mean, known["mean"][0] * half + middle, atol=1e-5)
    np.testing.assert_allclose(np.exp(answer.log_std), known["std"][0] * half, atol=1e-5)


def saved(tmp_path: Path, found: Any, name: str = "x.cleanrl_model") -> Path:
    """Write a file with torch.save."""
    torch.save(found, tmp_path / name)
    return tmp_path / name


def chain(*sizes: int, between: type[nn.Module]) -> nn.Sequential:
    """Linear layers with an activation between them."""
    pairs = itertools.pairwise(sizes)
    return nn.Sequential(*[m for a, b in pairs for m in (nn.Linear(a, b), between())][:-1])


OBS = np.random.default_rng(0).standard_normal((1000, 5)).astype(np.float32)


class Ppo(nn.Module):
    """As in cleanrl/ppo_continuous_action.py, smaller."""

    def __init__(self) -> None:
        """Make an actor and a critic."""
        super().__init__()
        self.critic = chain(5, 8, 8, 1, between=nn.Tanh)
        self.actor_mean = chain(5, 8, 8, 3, between=nn.Tanh)
        self.actor_logstd = nn.Parameter(torch.randn(1, 3))


class OffPolicy(nn.Module):
    """As the actors in cleanrl/td3_continuous_action.py and sac_continuous_action.py, smaller."""

    def __init__(self, *last: str) -> None:
        """Make an actor with these last layers."""
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(5, 8), nn.Linear(8, 8)
        for name in last:
            setattr(self, name, nn.Linear(8, 3))
        self.register_buffer("action_scale", torch.tensor([2.0, 1.0, 0.5]))
        self.register_buffer("action_bias", torch.tensor([1.0, 0.0, 0.25]))

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """What the last layers get."""
        return torch.relu(self.fc2(torch.relu(self.fc1(x))))


BOX = BoxSpec((-1.0, -1.0, -0.25), (3.0, 1.0, 0.75), (3,))


def test_cleanrl_ppo_answers_a_gaussian(tmp_path: Path) -> None:
    """The statistics of its environment's normaliser are not in the file, which is said."""
    agent = Ppo()
    path = saved(tmp_path, agent.state_dict())
    with pytest.warns(UserWarning, match="NormalizeObservation and does not save"):
        planner = load_planner(str(path))
    answer: Any = planner.policy(OBS)  # type: ignore[call-arg]
    with torch.no_grad():
        mean = agent.actor_mean(torch.from_numpy(OBS)).numpy()
    np.testing.assert_allclose(answer.mean, mean, atol=1e-5)
    np.testing.assert_allclose(answer.log_std[0], agent.actor_logstd.detach()[0], atol=1e-6)


def test_cleanrl_choices_are_logits_or_action_values(tmp_path: Path) -> None:
    """PPO's actor gives logits, DQN's network action values, with their own activations."""
    ppo, dqn = chain(5, 8, 4, between=nn.Tanh), chain(5, 8, 6, 4, between=nn.ReLU)
    held = {f"actor.{k}": v for k, v in ppo.state_dict().items()}
    first: Any = load(saved(tmp_path, held)).policy
    second: Any = load(saved(tmp_path, {f"network.{k}": v for k, v in dqn.state_dict().items()}))
    with torch.no_grad():
        logits, values = (net(torch.from_numpy(OBS)).numpy() for net in (ppo, dqn))
    answer, other = first(OBS), second.policy(OBS)
    assert isinstance(answer, Categorical)
    assert isinstance(other, QValues)
    np.testing.assert_allclose(answer.logits, logits, atol=1e-5)
    np.testing.assert_allclose(other.values, values, atol=1e-5)


def test_cleanrl_td3_and_sac_act_within_their_own_bounds(tmp_path: Path) -> None:
    """Bounds are in the file; an environment with others is refused."""
    td3, sac = OffPolicy("fc_mu"), OffPolicy("fc_mean", "fc_logstd")
    one: Any = load(saved(tmp_path, (td3.state_dict(), {}, {})), own_spec(5, BOX))
    two: Any = load(saved(tmp_path, sac.state_dict(), "y.cleanrl_model"))
    with torch.no_grad():
        x = td3.hidden(torch.from_numpy(OBS))
        point = torch.tanh(td3.fc_mu(x)) * td3.action_scale + td3.action_bias
        x = sac.hidden(torch.from_numpy(OBS))
        mean, log_std = sac.fc_mean(x), -5 + 3.5 * (torch.tanh(sac.fc_logstd(x)) + 1)
        mode = torch.tanh(mean) * sac.action_scale + sac.action_bias
    answer, other = one.policy(OBS), two.policy(OBS)
    assert isinstance(answer, Point)
    assert isinstance(other, SquashedGaussian)
    np.testing.assert_allclose(answer.action, point, atol=1e-5)
    np.testing.assert_allclose(other.mean, mean, atol=1e-5)
    np.testing.assert_allclose(other.log_std, log_std, atol=1e-5)
    np.testing.assert_allclose(dists.mode(other, two.spec.action), mode, atol=1e-5)
    with pytest.raises(SpecError, match="RescaleAction"):
        load(tmp_path / "y.cleanrl_model", own_spec(5, BoxSpec((-1.0,) * 3, (1.0,) * 3, (3,))))


def test_a_distillation_asks_for_student_or_teacher(tmp_path: Path) -> None:
    """Both are in the file, and which is the planner nobody can know."""
    nets = {
        name: {f"mlp.{k}": v for k, v in chain(size, 8, 3, between=nn.ELU).state_dict().items()}
        for name, size in (("student", 5), ("teacher", 7))
    }
    path = saved(tmp_path, {f"{name}_state_dict": state for name, state in nets.items()}, "m.pt")
    with pytest.raises(ConfigError, match=r"student and a teacher.*model=teacher"):
        load(path)
    teacher = load(path, own_spec(7, free_box(3)), model="teacher")
    assert teacher.spec.obs.size == 7
    assert load(path, model="student", distribution="none").spec.obs.size == 5


def test_an_old_distillation_has_its_normaliser_and_noise_in_their_places(tmp_path: Path) -> None:
    """In 2.3 statistics lie beside the model; the deviation is the student's."""
    student, teacher = chain(5, 8, 3, between=nn.ELU), chain(7, 8, 3, between=nn.ELU)
    model = {f"student.{k}": v for k, v in student.state_dict().items()}
    model |= {f"teacher.{k}": v for k, v in teacher.state_dict().items()}
    model["std"] = torch.full((3,), 0.3)
    found = {
        "model_state_dict": model,
        "privileged_obs_norm_state_dict": {"_mean": torch.ones(1, 7), "_std": torch.ones(1, 7)},
    }
    path = saved(tmp_path, found, "m.pt")
    planner: Any = load(path, own_spec(7, free_box(3)), model="teacher")
    obs = np.ones((1, 7), np.float32)
    assert isinstance(planner.policy(obs), Point)
    with torch.no_grad():
        np.testing.assert_allclose(
            planner.policy(obs).action, teacher(torch.zeros(1, 7)), atol=1e-6
        )
    other: Any = load(path, model="student")
    assert isinstance(other.policy(obs[:, :5]), Gaussian)


def test_a_whole_module_is_not_unpickled(tmp_path: Path) -> None:
    """torch.save(policy) holds code by name: refused with what to do, and nothing is run."""
    with pytest.raises(UnsafeError, match=r"more than tensors.*Export the policy"):
        load(saved(tmp_path, nn.Linear(5, 3), "policy.pt"))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"weights": torch.zeros(3)}, "with 'weights'.*Checkpoints of rsl_rl, skrl"),
        ({"model_state_dict": {"encoder.0.weight": torch.zeros(3, 3)}}, "no actor in it"),
        ({"model": {"a": torch.zeros(1)}, "epoch": 1}, "no weights 'a2c_network.mu.weight'"),
        ({"actor": {}, "epoch": 1}, "SAC, which is not read"),
        ({"policy": {f"{name}.0.weight": torch.zeros(3, 3) for name in "ab"}}, "containers"),
        ({"network.0.weight": torch.zeros(3, 4, 8, 8)}, "no linear layer"),
        ({"actor_mean.0.weight": torch.full((3, 5), torch.nan)}, "NaN"),
        ([1, 2], "of a list"),
    ],
)
def test_what_is_no_such_network_is_refused_with_a_remedy(
    tmp_path: Path, found: Any, said: str
) -> None:
    """The message says what the file holds and what is needed."""
    with pytest.raises((LoadError, NumbersError), match=said) as caught:
        load(saved(tmp_path, found, "x.pt"), **ELU)
    assert "x.pt" in str(caught.value)


def test_a_rare_network_is_not_taken_for_a_plain_one(tmp_path: Path) -> None:
    """Weights that no plain network has are named: a convolution, a normalisation between."""
    state = {f"mlp.{k}": v for k, v in chain(5, 8, 3, between=nn.ELU).state_dict().items()}
    state["cnns.image.0.weight"] = torch.zeros(2, 2)
    with pytest.raises(LoadError, match=r"cnns\.image.*no part of a network.*ONNX"):
        load(saved(tmp_path, {"actor_state_dict": state}, "m.pt"), distribution="none")
    state = {f"mlp.{i}.weight": torch.zeros(5, 5) for i in (0, 1, 3)}
    with pytest.raises(LoadError, match="not linear layers with an activation after each"):
        load(saved(tmp_path, {"actor_state_dict": state}, "m.pt"), distribution="none")


def test_files_of_an_old_torch_are_read(tmp_path: Path) -> None:
    """Before version 1.6 torch.save wrote no zip."""
    found = torch.load(FILES / "rsl5_plain.pt", weights_only=True)
    out = io.BytesIO()
    torch.save(found, out, _use_new_zipfile_serialization=False)
    (tmp_path / "model_1.pt").write_bytes(out.getvalue())
    assert load(tmp_path / "model_1.pt").parameters == 123


def test_options_of_policy_files_are_not_for_others() -> None:
    """An object that is named needs none, and says so; policy files need none of SB3's."""
    with pytest.raises(ConfigError, match="not a policy file"):
        load_planner("tests.cli_planners:missing", CHOICES, args={"activation": "elu"})
    with pytest.raises(ConfigError, match="are for SB3 saves"):
        load_planner(str(FILES / "rsl5_plain.pt"), algorithm="PPO")
