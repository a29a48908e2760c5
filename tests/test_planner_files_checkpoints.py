"""Checkpoints that other libraries wrote, against what the libraries answer; see tests/data."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from agentkd.errors import ConfigError, LoadError, NumbersError, SpecError, UnsafeError
from agentkd.planners import load_planner
from agentkd.planners.files.network import free_box, own_spec
from agentkd.planners.files.tensors import load_checkpoint
from agentkd.spec import BoxSpec, DiscreteSpec, Spec
from agentkd.types import Categorical, Gaussian, Point, QValues, RecurrentPolicy
from tests.policy_files import FILES, answers, chain, load, saved

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
    Case("skrl2_shared.pt", args=ELU),
    Case("skrl1_shared.pt", args=ELU),
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


def test_a_compiled_network_is_read_as_the_plain_one(tmp_path: Path) -> None:
    """torch.compile puts a word before the names of the weights."""
    model = {f"a2c_network._orig_mod.{name}": each for name, each in RL_GAMES.items()}
    planner: Any = load(saved(tmp_path, {"model": model, "epoch": 1}, "x.pth"), **ELU)
    assert isinstance(planner.policy(np.zeros((1, 5), np.float32)), Gaussian)


def test_action_values_of_skrl_are_told_by_their_name(tmp_path: Path) -> None:
    """Its DQN keeps a q_network."""
    net = chain(5, 8, 4, between=nn.ELU)
    state = {f"net_container.{name}": each for name, each in net.state_dict().items()}
    planner: Any = load(saved(tmp_path, {"q_network": state}, "agent_1.pt"), CHOICES, **ELU)
    answer = planner.policy(np.ones((1, 5), np.float32))
    assert isinstance(answer, QValues)
    with torch.no_grad():
        np.testing.assert_allclose(answer.values, net(torch.ones(1, 5)), atol=1e-6)


RL_GAMES = {
    "actor_mlp.0.weight": torch.ones(4, 5),
    "actor_mlp.0.bias": torch.ones(4),
    "mu.weight": torch.ones(3, 4),
    "mu.bias": torch.ones(3),
    "sigma": torch.zeros(3),
}


def test_a_whole_module_is_not_unpickled(tmp_path: Path) -> None:
    """torch.save(policy) holds code by name: refused with what to do, and nothing is run."""
    with pytest.raises(UnsafeError, match=r"more than plain tensors.*Export the policy") as caught:
        load(saved(tmp_path, nn.Linear(5, 3), "policy.pt"))
    said = str(caught.value)
    assert "torch.nn.modules.linear.Linear" in said
    assert not any(each in said for each in ("\x1b", "x1b", "weights_only", "[1m"))


def test_a_normaliser_of_another_width_is_refused(tmp_path: Path) -> None:
    """One that is of one number would fit every network by being repeated."""
    found = torch.load(FILES / "rsl5_mlp.pt", weights_only=True)
    state = found["actor_state_dict"]
    for name in ("_mean", "_std"):
        state[f"obs_normalizer.{name}"] = torch.ones(1, 1)
    with pytest.raises(LoadError, match="1 means and 1 deviations; the network takes 5 numbers"):
        load(saved(tmp_path, found, "m.pt"))


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
        ({("a",) * 99: 1}, "with a tuple. Checkpoints"),
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


def changed(name: str, **tensors: Any) -> dict[str, Any]:
    """A checkpoint's contents with other tensors in its actor; `__` stands for a dot."""
    found: dict[str, Any] = torch.load(FILES / name, weights_only=False)
    key = next(each for each in ("actor_state_dict", "model_state_dict", "model") if each in found)
    found[key] |= {each.replace("__", "."): value for each, value in tensors.items()}
    return found


NORMALISER = {f"_{each}": torch.ones(1, 5) for each in ("mean", "var", "std")}
AGAIN = {f"running_{each}": torch.ones(5) for each in ("mean", "var")}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (changed("rsl3_mlp.pt") | {"obs_norm_state_dict": NORMALISER}, "two normalisers"),
        (changed("rlgames_mlp.pth") | {"running_mean_std": AGAIN}, "two normalisers"),
        (
            changed("rsl5_mlp.pt", distribution__std_param=-torch.ones(3)),
            r"nan.*between 1e-10 and 1e10.*sigma=",
        ),
        (changed("rsl5_mlp.pt", distribution__std_param=torch.zeros(3)), r"0\.0.*sigma="),
        (changed("rlgames_mlp.pth", a2c_network__sigma=torch.full((3,), 1e9)), "inf.*sigma="),
        (
            changed("rsl5_gru.pt", rnn__rnn__weight_ih_l0=torch.ones(20, 5)),
            r"rnn\.rnn\.weight_ih_l0 has the shape \(20, 5\), not \(21, 5\).*ONNX",
        ),
        (
            changed("rsl5_gru.pt", rnn__rnn__weight_ih_l0_reverse=torch.ones(21, 5)),
            r"bias_hh_l1 has the shape none, not \(21,\).*ONNX",
        ),
    ],
)
def test_what_cannot_be_of_one_policy_is_refused(found: Any, said: str, tmp_path: Path) -> None:
    """Normalisers in two places, deviations that are none, and gates of another width."""
    args = ELU if "epoch" in found else {}
    with pytest.raises(LoadError, match=said):
        load(saved(tmp_path, found, "x.pt"), own_spec(5, free_box(3)), **args)


def test_a_normaliser_may_be_left_out_if_its_user_says_so() -> None:
    """In each library that has one; the answer is another one."""
    for name, args in (("rsl5_mlp.pt", {}), ("skrl2_gaussian.pt", ELU), ("rlgames_mlp.pth", ELU)):
        assert load(FILES / name, **args, normaliser="off").policy.network.normaliser is None  # type: ignore[union-attr]


def pickled(tmp_path: Path, data: bytes) -> Path:
    """Write a checkpoint in whose place another pickle lies."""
    with (
        zipfile.ZipFile(FILES / "rsl5_plain.pt") as file,
        zipfile.ZipFile(tmp_path / "m.pt", "w") as out,
    ):
        for name in file.namelist():
            out.writestr(name, data if name.endswith("data.pkl") else file.read(name))
    return tmp_path / "m.pt"


HUGE = b"J\xff\xff\xff\x7f\x85R"
"""Calls what lies on the stack with 2,147,483,647."""
DOUBLED = b"q\x00h\x00\x86"
"""A tuple of what lies on the stack, twice."""


@pytest.mark.parametrize(
    ("data", "said"),
    [
        # As the key of a dictionary it would crash the process by hashing it.
        (b"}" + b")" + b"\x85" * 250_000 + b"Ns.", "more than 256 deep"),
        (b"(" * 100_000 + b"t" * 100_000 + b".", "more than 256 deep"),
        # Each list is put into another one while it is empty.
        (b"]q\x00" + b"]q\x01ah\x01" * 40_000 + b"h\x00.", "more than 256 deep"),
        (b"]q\x00h\x00a.", "more than 256 deep"),
        (b"N0" * 200_000 + b"N.", "more than 262,144 parts"),
        # Few bytes that hashing, printing or copying takes for ever.
        (b"})" + DOUBLED * 60 + b"Ns.", "more than 262,144 parts"),
        (b"])" + DOUBLED * 60 + b"a.", "more than 262,144 parts"),
        (b")" + DOUBLED * 16 + b"q\x00" + b"}h\x00Ns" * 10 + b".", "more than 262,144 parts"),
        (b"(X\x00\x00\x10\x00" + bytes(1 << 20) + b"q\x00" + b"h\x00" * 300 + b"t.", "parts"),
        (b"cbuiltins\nbytearray\n" + HUGE + b".", r"such as builtins\.bytearray"),
        (b"ctorch\nFloatTensor\n" + HUGE + b".", r"such as torch\.FloatTensor"),
        (b"(ctorch\nFloatTensor\nq\x00h\x00" + HUGE + b"t.", r"such as torch\.FloatTensor"),
        (b"ctorch\nTensor\nK\x09\x85\x81.", r"such as torch\.Tensor"),
        # Torch joins the two parts of a name, wherever it is split.
        *(
            (b"c%s\n" % name.replace(b" ", b"\n") + HUGE + b".", rf"such as torch\.{told}")
            for name, told in (
                (b"torch.storage UntypedStorage", r"storage\.UntypedStorage"),
                (b"torch storage.UntypedStorage", r"storage\.UntypedStorage"),
                (b"torch sparse.FloatTensor", r"sparse\.FloatTensor"),
                (b"torch _tensor._rebuild_from_type_v2", r"_tensor\._rebuild_from_type_v2"),
            )
        ),
        *(
            (
                b"X\x05\x00\x00\x00torchX%c\x00\x00\x00%s\x93" % (len(name), name) + HUGE + b".",
                "more than plain tensors",
            )
            for name in (
                b"storage.UntypedStorage",
                b"sparse.FloatTensor",
                b"_tensor._rebuild_from_type_v2",
            )
        ),
        (b".", "damaged"),
    ],
)
def test_a_pickle_that_asks_for_more_than_it_holds_is_refused(
    data: bytes, said: str, tmp_path: Path
) -> None:
    """Torch's own reader would take gigabytes or minutes, or end the process."""
    with pytest.raises(LoadError, match=said):
        load(pickled(tmp_path, b"\x80\x02" + data))


def test_tensors_of_rare_numbers_are_read(tmp_path: Path) -> None:
    """Beside the weights all that torch knows, as weights what float32 holds."""
    rare = {"seen": torch.ones(2).to(torch.uint16)}
    load(saved(tmp_path, changed("rsl5_plain.pt") | {"infos": rare}, "m.pt"))
    for dtype in (torch.float8_e4m3fn, torch.bfloat16):
        known = changed("rsl5_plain.pt")["actor_state_dict"]["mlp.0.weight"]
        weight = torch.ones_like(known).to(dtype)
        load(saved(tmp_path, changed("rsl5_plain.pt", mlp__0__weight=weight), "m.pt"))
    found = changed("rsl5_plain.pt", mlp__0__weight=weight.to(torch.uint16))
    with pytest.raises(LoadError, match=r"holds torch\.uint16; floating-point.*tensor\.float\(\)"):
        load(saved(tmp_path, found, "m.pt"))


def test_a_tensor_with_an_attribute_is_refused_by_its_name(tmp_path: Path) -> None:
    """The attribute could take the place of a tensor's method."""
    tensor = torch.ones(3)
    tensor.note = "mine"  # type: ignore[attr-defined]
    with pytest.raises(UnsafeError, match=r"plain tensors, such as.*_from_type_v2.*Export"):
        load(saved(tmp_path, {"a": tensor}, "m.pt"))


def test_the_digest_is_of_the_bytes_that_were_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that writes its next checkpoint meanwhile does not change it."""
    raw = (FILES / "rsl5_plain.pt").read_bytes()
    path = tmp_path / "model_1.pt"
    path.write_bytes(raw)

    def overtaken(data: bytes, where: str) -> Any:
        path.write_bytes(b"the next one")
        return load_checkpoint(data, where)

    monkeypatch.setattr("agentkd.planners.files.load.load_checkpoint", overtaken)
    assert load(path).digest == hashlib.sha256(raw).hexdigest()


def test_a_flipped_bit_in_a_checkpoint_is_found(tmp_path: Path) -> None:
    """Torch does not compare what it reads with its checksum; one that was left out is no fault."""
    raw = (FILES / "rsl5_plain.pt").read_bytes()
    weight = torch.load(FILES / "rsl5_plain.pt", weights_only=True)["actor_state_dict"]
    at = raw.index(weight["mlp.0.weight"].numpy().tobytes())
    path = tmp_path / "m.pt"
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    with pytest.raises(LoadError, match="CRC"):
        load(path)
    torch.serialization.set_crc32_options(compute_crc32=False)
    try:
        load(saved(tmp_path, {"actor_state_dict": weight}, "m.pt"), own_spec(5, free_box(3)))
    finally:
        torch.serialization.set_crc32_options(compute_crc32=True)


def test_files_of_an_old_torch_are_read(tmp_path: Path) -> None:
    """Before version 1.6 torch.save wrote no zip."""
    found = torch.load(FILES / "rsl5_plain.pt", weights_only=True)
    out = io.BytesIO()
    torch.save(found, out, _use_new_zipfile_serialization=False)
    (tmp_path / "model_1.pt").write_bytes(out.getvalue())
    assert load(tmp_path / "model_1.pt").parameters == 123


def test_options_of_policy_files_are_not_for_others() -> None:
    """An object that is named needs none, and says so; policy files need none of SB3's."""
    with pytest.raises(ConfigError, match="takes no arguments"):
        load_planner("tests.cli_planners:balance", CHOICES, args={"activation": "elu"})
    with pytest.raises(ConfigError, match="are for SB3 saves"):
        load_planner(str(FILES / "rsl5_plain.pt"), algorithm="PPO")
