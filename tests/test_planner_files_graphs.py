"""Policies as ONNX files, and what is told apart by its contents."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from agentkd.deploy.contracts.files import read_contract
from agentkd.errors import ConfigError, LoadError, PlannerError, SpecError
from agentkd.planners import Planner, load_planner
from agentkd.planners.files.contents import contents_of
from agentkd.planners.files.network import free_box, own_spec
from agentkd.spec import DiscreteSpec, MultiBinarySpec, MultiDiscreteSpec, Spec
from agentkd.types import Categorical, Gaussian, MultiCategorical, Point, QValues, RecurrentPolicy
from tests.policy_files import FILES, answers
from tests.policy_files import load as load_quietly

SPEC = own_spec(5, free_box(3))
WEIGHT = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
OBS = np.random.default_rng(1).standard_normal((6, 5)).astype(np.float32)


def load(path: Path, spec: Spec | None = SPEC, **args: Any) -> Planner:
    """Load a file, of five observations and three actions if nothing else is said."""
    return load_quietly(path, spec, **args)


@pytest.mark.parametrize("network", ["mlp", "gru", "lstm"])
@pytest.mark.parametrize("form", ["jit.pt", "export.onnx"])
def test_exports_of_rsl_rl_answer_as_the_model(network: str, form: str) -> None:
    """Rows with a memory each follow an episode of their own, though the graph takes one row."""
    planner = load(FILES / f"rsl5_{network}_{form}", None)
    known = np.load(FILES / f"rsl5_{network}.npz")
    assert isinstance(planner.policy, RecurrentPolicy) == (network != "mlp")
    for tick, answer in enumerate(answers(planner, known["obs"])):
        assert isinstance(answer, Point)
        np.testing.assert_allclose(answer.action, known["mean"][tick], atol=1e-5)


@pytest.mark.parametrize("name", ["godot_ppo", "godot_choice"])
def test_exports_of_godot_rl_are_means_or_logits(name: str) -> None:
    """The dummy memory that its graphs have does no harm."""
    known = np.load(FILES / f"{name}.npz")
    choice = own_spec(5, MultiDiscreteSpec((2, 3)))
    planner = load(FILES / f"{name}.onnx", choice if "choice" in name else SPEC)
    (answer,) = answers(planner, known["obs"])
    assert isinstance(answer, MultiCategorical if "choice" in name else Point)
    found = answer.logits if isinstance(answer, MultiCategorical) else answer.action
    np.testing.assert_allclose(found, known["out"][0], atol=1e-5)


def graph(
    path: Path,
    nodes: list[Any],
    inputs: dict[str, Any],
    outputs: dict[str, Any],
    constants: dict[str, Any] | None = None,
) -> Path:
    """Write an ONNX file; shapes are lists, and int64 is a pair of it and the shape."""

    def value(name: str, shape: Any) -> Any:
        kind = TensorProto.FLOAT
        if isinstance(shape, tuple):
            kind, shape = shape
        return helper.make_tensor_value_info(name, kind, shape)

    held = [numpy_helper.from_array(v, k) for k, v in (constants or {"w": WEIGHT}).items()]
    made = helper.make_graph(
        nodes,
        "g",
        [value(*each) for each in inputs.items()],
        [value(*each) for each in outputs.items()],
        held,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def node(kind: str, inputs: str, outputs: str, **options: Any) -> Any:
    """Make a node; names are words."""
    return helper.make_node(kind, inputs.split(), outputs.split(), **options)


@pytest.mark.parametrize("name", ["obs", "obs_0", "input_0", "input", "observation", "anything"])
@pytest.mark.parametrize("batch", ["batch", 1])
def test_the_only_input_is_the_observation(name: str, batch: Any, tmp_path: Path) -> None:
    """A batch fixed at 1 is asked row by row."""
    nodes = [node("MatMul", f"{name} w", "out")]
    path = graph(tmp_path / "p.bin", nodes, {name: [batch, 5]}, {"out": [batch, 3]})
    for spec in (SPEC, None):
        (answer,) = answers(load(path, spec), OBS[None])
        np.testing.assert_allclose(answer.action, OBS @ WEIGHT, atol=1e-5)


def test_scale_offset_and_deviation_are_told_by_the_user(tmp_path: Path) -> None:
    """Without them the answer is a point; that is announced with the names of the options."""
    nodes = [node("MatMul", "obs w", "actions")]
    path = graph(tmp_path / "p.onnx", nodes, {"obs": ["b", 5]}, {"actions": ["b", 3]})
    with pytest.warns(UserWarning, match=r"sigma.*action_scale.*--planner-args"):
        load_planner(str(path), SPEC)
    args = {"sigma": 0.5, "action_scale": 0.25, "action_offset": [1.0, 2.0, 3.0]}
    (answer,) = answers(load(path, **args), OBS[None])
    assert isinstance(answer, Gaussian)
    np.testing.assert_allclose(answer.mean, 0.25 * (OBS @ WEIGHT) + [1, 2, 3], atol=1e-5)
    np.testing.assert_allclose(np.exp(answer.log_std), 0.125, rtol=1e-5)


def test_numbers_for_choices_are_logits_or_action_values_and_integers_are_choices(
    tmp_path: Path,
) -> None:
    """--planner-args output=q-values tells the former apart."""
    spec = own_spec(5, DiscreteSpec(3))
    nodes = [node("MatMul", "obs w", "output_0")]
    path = graph(tmp_path / "p.onnx", nodes, {"obs": ["b", 5]}, {"output_0": ["b", 3]})
    one, two = (answers(load(path, spec, **a), OBS[None])[0] for a in ({}, {"output": "q-values"}))
    assert isinstance(one, Categorical)
    assert isinstance(two, QValues)
    nodes = [node("MatMul", "obs w", "x"), node("ArgMax", "x", "actions", axis=1)]
    whole = {"actions": (TensorProto.INT64, ["b", 1])}
    path = graph(tmp_path / "q.onnx", nodes, {"obs": ["b", 5]}, whole)
    (answer,) = answers(load(path, spec), OBS[None])
    np.testing.assert_array_equal(answer.logits.argmax(1), (OBS @ WEIGHT).argmax(1))


def choices(path: Path, *kinds: str, name: str = "out") -> Path:
    """Write a graph whose numbers pass through these operations."""
    nodes = [node("MatMul", "obs w", "x0")]
    nodes += [node(kind, f"x{i}", f"x{i + 1}") for i, kind in enumerate(kinds)]
    nodes.append(node("Identity", f"x{len(kinds)}", name))
    return graph(path, nodes, {"obs": ["b", 5]}, {name: ["b", 3]})


CHOICE = own_spec(5, DiscreteSpec(3))


def test_numbers_taken_for_logits_are_announced(tmp_path: Path) -> None:
    """Nothing tells them from action values; logarithms of probabilities need no word."""
    with pytest.warns(UserWarning, match=r"output=logits \(nothing tells.*action values"):
        load_planner(str(choices(tmp_path / "p.onnx")), CHOICE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_planner(str(choices(tmp_path / "p.onnx", "LogSoftmax")), CHOICE)
        load_planner(str(choices(tmp_path / "p.onnx")), CHOICE, args={"output": "logits"})


def test_probabilities_are_asked_for_and_become_logits(tmp_path: Path) -> None:
    """Numbers that sum to 1 would make a far flatter distribution as logits."""
    path = choices(tmp_path / "p.onnx", "Softmax")
    with pytest.raises(ConfigError, match=r"sum to 1.*--planner-args output=probabilities"):
        load(path, CHOICE)
    logits = OBS @ WEIGHT
    wanted = logits - np.logaddexp.reduce(logits, 1, keepdims=True)
    (answer,) = answers(load(path, CHOICE, output="probabilities"), OBS[None])
    assert isinstance(answer, Categorical)
    np.testing.assert_allclose(answer.logits, wanted, atol=1e-4)
    (answer,) = answers(load(path, CHOICE, output="logits"), OBS[None])
    np.testing.assert_allclose(answer.logits, np.exp(wanted), atol=1e-5)
    with pytest.raises(ConfigError, match="is for choices out of many"):
        load(path, own_spec(5, MultiBinarySpec(3)), output="probabilities")
    with pytest.raises(PlannerError, match=r"below 0, .*output=logits"):
        answers(load(choices(tmp_path / "q.onnx"), CHOICE, output="probabilities"), OBS[None])
    with pytest.raises(ConfigError, match="output=tanh is not for choices"):
        load(path, CHOICE, output="tanh")


@pytest.mark.parametrize(
    ("name", "kind", "taken"),
    [("q_values", "Identity", "q-values"), ("probs", "Softmax", "probabilities")],
)
def test_the_name_of_an_output_tells_what_its_numbers_are(
    name: str, kind: str, taken: str, tmp_path: Path
) -> None:
    """That is announced, and the user may say otherwise."""
    path = choices(tmp_path / "p.onnx", kind, name=name)
    with pytest.warns(UserWarning, match=rf"output={taken} \(it is called '{name}'\)"):
        (answer,) = answers(load_planner(str(path), CHOICE), OBS[None])
    if isinstance(answer, QValues):
        np.testing.assert_allclose(answer.values, OBS @ WEIGHT, atol=1e-5)
    else:
        np.testing.assert_allclose(np.exp(answer.logits).sum(1), 1.0, atol=1e-5)
    (answer,) = answers(load(path, CHOICE, output="logits"), OBS[None])
    assert isinstance(answer, Categorical)


def test_ml_agents_observations_masks_memory_and_metadata(tmp_path: Path) -> None:
    """Observations lie in the order of their numbers, all choices are allowed, and the memory goes
    in and out; the deterministic output is taken.
    """
    nodes = [
        node("Concat", "obs_0 obs_1", "obs", axis=1),
        node("MatMul", "obs w", "x"),
        node("Squeeze", "recurrent_in axes", "m"),
        node("Add", "x m", "y"),
        node("Mul", "y action_masks", "z"),
        node("Add", "z noise", "continuous_actions"),
        node("Identity", "z", "deterministic_continuous_actions"),
        node("Unsqueeze", "y axes", "recurrent_out"),
        node("Identity", "version", "version_number"),
        node("Identity", "size", "memory_size"),
    ]
    constants = {
        "w": WEIGHT,
        "axes": np.array([1]),
        "noise": np.ones((1, 3), np.float32),
        "version": np.array([3.0], np.float32),
        "size": np.array([3.0], np.float32),
    }
    inputs = {
        "obs_1": ["b", 3],
        "obs_0": ["b", 2],
        "action_masks": ["b", 3],
        "recurrent_in": ["b", 1, 3],
    }
    outputs = {
        "version_number": [1],
        "memory_size": [1],
        "continuous_actions": ["b", 3],
        "deterministic_continuous_actions": ["b", 3],
        "recurrent_out": ["b", 1, 3],
    }
    path = graph(tmp_path / "p.onnx", nodes, inputs, outputs, constants)
    first, second = answers(load(path), np.stack([OBS, OBS]))
    np.testing.assert_allclose(first.action, OBS @ WEIGHT, atol=1e-5)
    np.testing.assert_allclose(second.action, 2 * (OBS @ WEIGHT), atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_a_memory_of_another_precision_is_read(dtype: Any, tmp_path: Path) -> None:
    """It is kept as float32, and handed over as the graph takes it."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [
        node("MatMul", "obs w", "x"),
        node("Cast", "x", "now", to=kind),
        node("Add", "now h_in", "h_out"),
        node("Cast", "h_out", "actions", to=TensorProto.FLOAT),
    ]
    inputs = {"obs": [1, 5], "h_in": (kind, [1, 3])}
    outputs = {"actions": [1, 3], "h_out": (kind, [1, 3])}
    path = graph(tmp_path / "p.onnx", nodes, inputs, outputs)
    _, second = answers(load(path), np.stack([OBS, OBS]))
    np.testing.assert_allclose(second.action, 2 * (OBS @ WEIGHT), atol=1e-2)


def test_actions_that_are_drawn_at_random_are_announced(tmp_path: Path) -> None:
    """Old files of ML-Agents have no deterministic actions."""
    nodes = [node("MatMul", "obs_0 w", "continuous_actions")]
    path = graph(tmp_path / "p.onnx", nodes, {"obs_0": ["b", 5]}, {"continuous_actions": ["b", 3]})
    with pytest.warns(UserWarning, match="drawn at random"):
        load_planner(str(path), SPEC)


@pytest.mark.parametrize(
    "more",
    [
        [node("RandomNormalLike", "a", "noise", scale=0.01), node("Add", "a noise", "actions")],
        [node("Dropout", "a half yes", "actions")],
    ],
)
def test_a_graph_that_draws_random_numbers_is_refused(more: list[Any], tmp_path: Path) -> None:
    """It was exported with its exploration, or in training mode."""
    constants = {"w": WEIGHT, "half": np.float32(0.5), "yes": np.array(True)}
    nodes = [node("MatMul", "obs w", "a"), *more]
    shapes = {"obs": ["b", 5]}, {"actions": ["b", 3]}
    path = graph(tmp_path / "p.onnx", nodes, *shapes, constants)
    with pytest.raises(PlannerError, match="draws random numbers"):
        load(path)


def test_rows_that_a_graph_does_not_keep_apart_are_asked_one_by_one(tmp_path: Path) -> None:
    """The first axis may be time, or an average may be taken over it."""
    nodes = [
        node("MatMul", "obs w", "a"),
        node("ReduceMean", "a", "mean", axes=[0], keepdims=1),
        node("Add", "a mean", "actions"),
    ]
    path = graph(tmp_path / "p.onnx", nodes, {"obs": ["b", 5]}, {"actions": ["b", 3]})
    (answer,) = answers(load(path), OBS[None])
    np.testing.assert_allclose(answer.action, 2 * (OBS @ WEIGHT), atol=1e-5)


def test_what_is_quoted_of_a_file_is_printable(tmp_path: Path) -> None:
    """An announcement goes to the terminal as it is."""
    nodes = [node("MatMul", "obs w", "actions")]
    path = graph(tmp_path / "p.onnx", nodes, {"obs": ["b", 5]}, {"actions": ["b", 3]})
    model = onnx.load(str(path))
    helper.set_model_props(model, {"action_scale": "\x1b[2J"})
    path.write_bytes(model.SerializeToString())
    with pytest.warns(UserWarning, match=r"\\x1b\[2J"):
        load_planner(str(path), SPEC)


@pytest.mark.parametrize("read", [load, read_contract])
def test_a_file_of_millions_of_fields_is_refused(read: Any, tmp_path: Path) -> None:
    """Two bytes make a field, and each takes its time."""
    nodes = [node("MatMul", "obs w", "actions")]
    path = graph(tmp_path / "p.onnx", nodes, {"obs": ["b", 5]}, {"actions": ["b", 3]})
    path.write_bytes(path.read_bytes() + b"\x08\x08" * (1 << 20))
    with pytest.raises(LoadError, match="more than 1,048,576 fields"):
        read(path)


def test_metadata_of_mjlab_is_announced(tmp_path: Path) -> None:
    """It tells the action_scale, which the environment applies unless the user says otherwise."""
    nodes = [node("MatMul", "obs w", "actions")]
    path = graph(tmp_path / "p.onnx", nodes, {"obs": ["b", 5]}, {"actions": ["b", 3]})
    model = onnx.load(str(path))
    helper.set_model_props(model, {"action_scale": "0.25,0.5,0.25", "joint_names": "a,b,c"})
    path.write_bytes(model.SerializeToString())
    with pytest.warns(UserWarning, match=r"action_scale of its metadata, 0\.25,0\.5,0\.25"):
        load_planner(str(path), SPEC)


def external(path: Path, location: str) -> Path:
    """Write an ONNX file whose weights lie elsewhere."""
    held = numpy_helper.from_array(WEIGHT, "w")
    held.ClearField("raw_data")
    held.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(WEIGHT.nbytes)}.items():
        held.external_data.add(key=key, value=value)
    made = helper.make_graph(
        [node("MatMul", "obs w", "actions")],
        "g",
        [helper.make_tensor_value_info("obs", TensorProto.FLOAT, ["b", 5])],
        [helper.make_tensor_value_info("actions", TensorProto.FLOAT, ["b", 3])],
        [held],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(made, opset_imports=opset, ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_in_a_second_file_are_read_only_from_beside(tmp_path: Path) -> None:
    """The exporter of torch 2.9 and later writes policy.onnx.data; no other place is looked at."""
    (tmp_path / "p.onnx.data").write_bytes(WEIGHT.tobytes())
    (answer,) = answers(load(external(tmp_path / "p.onnx", "p.onnx.data")), OBS[None])
    np.testing.assert_allclose(answer.action, OBS @ WEIGHT, atol=1e-5)
    digest = load(tmp_path / "p.onnx").digest
    (tmp_path / "p.onnx.data").write_bytes((2 * WEIGHT).tobytes())
    assert load(tmp_path / "p.onnx").digest != digest
    for place in ("../p.onnx.data", "/etc/passwd", "..", ""):
        with pytest.raises(LoadError, match=r"no file beside it.*external_data=False"):
            load(external(tmp_path / "q.onnx", place))
    with pytest.raises(LoadError, match=r"'gone\.data', which is not beside it"):
        load(external(tmp_path / "q.onnx", "gone.data"))


def long_varint(value: int, length: int) -> bytes:
    """Write a number of protobuf in so many bytes."""
    pieces = [(value >> 7 * i & 127) | 128 for i in range(length)]
    return bytes((*pieces[:-1], pieces[-1] & 127))


@pytest.mark.parametrize(("bit", "length"), [(1 << 32, 5), (1 << 34, 5), (0, 6)])
def test_a_tag_that_protobuf_in_other_languages_cuts_off_is_refused(
    bit: int, length: int, tmp_path: Path
) -> None:
    """C++ reads 32 bits of it: a reference to another file would escape the walk."""
    (tmp_path / "far").mkdir()
    path = external(tmp_path / "far" / "p.onnx", "../p.data")
    (tmp_path / "p.data").write_bytes(WEIGHT.tobytes())
    model = onnx.load(str(path), load_external_data=False)
    held = model.graph.initializer[0]
    entries = [each.SerializeToString() for each in held.external_data]
    del held.external_data[:]
    tensor = held.SerializeToString() + b"".join(
        long_varint(13 << 3 | 2 | bit, length) + long_varint(len(each), 5) + each
        for each in entries
    )
    del model.graph.initializer[:]
    inner = model.graph.SerializeToString()
    inner += long_varint(5 << 3 | 2, 1) + long_varint(len(tensor), 5) + tensor
    model.ClearField("graph")
    raw = model.SerializeToString()
    path.write_bytes(raw + long_varint(7 << 3 | 2, 1) + long_varint(len(inner), 5) + inner)
    with pytest.raises(LoadError, match="longer than 32 bits"):
        load(path)
    path.write_bytes(raw + long_varint(7 << 3 | 2 | bit, length) + inner)
    assert contents_of(path) is None


@pytest.mark.parametrize(
    ("inputs", "outputs", "said"),
    [
        ({"obs": ["b", 5], "goal": ["b", 3]}, {"actions": ["b", 3]}, r"inputs obs.*goal"),
        ({"obs": ["b", 5]}, {"a": ["b", 3], "b": ["b", 3]}, r"outputs \['a', 'b'\]"),
        (
            {"obs": ["b", 5]},
            {"continuous_actions": ["b", 3], "discrete_actions": ["b", 3]},
            "numbers and with choices at once",
        ),
    ],
)
def test_a_graph_that_is_no_policy_is_refused(
    inputs: Any, outputs: Any, said: str, tmp_path: Path
) -> None:
    """The message lists what it has and says what is needed."""
    nodes = [node("MatMul", "obs w", name) for name in outputs]
    with pytest.raises(LoadError, match=said):
        load(graph(tmp_path / "p.onnx", nodes, inputs, outputs))


def test_a_graph_of_another_environment_is_refused(tmp_path: Path) -> None:
    """By the observation, or by the action."""
    nodes = [node("MatMul", "obs w", "actions")]
    path = graph(tmp_path / "p.onnx", nodes, {"obs": ["b", 5]}, {"actions": ["b", 3]})
    with pytest.raises(SpecError, match="observes 5 numbers; the environment gives 4"):
        load(path, own_spec(4, free_box(3)))
    with pytest.raises(SpecError, match="gives 3 numbers"):
        load(path, own_spec(5, free_box(2)))


def test_onnx_without_onnxruntime_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The extra is named."""
    nodes = [node("MatMul", "obs w", "actions")]
    path = graph(tmp_path / "p.onnx", nodes, {"obs": ["b", 5]}, {"actions": ["b", 3]})
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"onnxruntime.*agentkd\[export\]"):
        load(path)


TENSORS = b'\x20\0\0\0\0\0\0\0{"w":{"dtype":"F32"}}' + bytes(16)
FLAX = b"\x81\xa6params\x81\xa7Dense_0\x82\xa4bias\xc0\xa6kernel\xc0"


@pytest.mark.parametrize(
    ("name", "data", "kind", "said"),
    [
        ("a.safetensors", TENSORS, "safetensors", "LeRobot"),
        ("agent.pickle", b"\x80\x04N.", "pickle", "run whatever code"),
        ("m.cleanrl_model", FLAX, "flax", "ONNX"),
        ("m.onnx", b"version https://git-lfs.github.com/spec/v1\n", "lfs", "git lfs pull"),
    ],
)
def test_what_is_known_and_not_read_says_what_to_do(
    name: str, data: bytes, kind: str, said: str, tmp_path: Path
) -> None:
    """Told by the contents; the remedy is of that kind."""
    (tmp_path / name).write_bytes(data)
    assert contents_of(tmp_path / name) == kind
    with pytest.raises(LoadError, match=said):
        load(tmp_path / name)


def test_a_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    """Each format, at several places."""
    for name in ("rsl5_mlp.pt", "rsl5_gru_jit.pt", "godot_ppo.onnx", "raptor.h5"):
        raw = (FILES / name).read_bytes()
        for share in (0.3, 0.9, 0.999):
            (tmp_path / "policy.pt").write_bytes(raw[: int(share * len(raw))])
            with pytest.raises(LoadError):
                load(tmp_path / "policy.pt", None)
