"""ONNX flavours, and `agentkd verify` and `agentkd export`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from agentkd.cli.main import main
from agentkd.deploy.bundle import from_bytes, to_bytes, write_bundle
from agentkd.deploy.onnx import OPSETS, Flavour, as_flavour, run_onnx, to_onnx
from agentkd.deploy.programs import Answer
from agentkd.deploy.vectors import probes
from agentkd.deploy.verify import Backend, compare, reference, verify
from agentkd.errors import ConfigError
from agentkd.executors.executor import Executor
from agentkd.spec import ActionSpec
from agentkd.types import Floats
from tests.deploy_executors import CASES, NAMES, lively

onnxruntime: Any = import_module("onnxruntime")


@pytest.mark.parametrize(("architecture", "action"), CASES, ids=NAMES)
def test_every_backend_agrees(architecture: str, action: ActionSpec) -> None:
    """Whatever can run here gives NumPy's numbers."""
    bundle = from_bytes(to_bytes(lively(architecture, action), {}))
    found = list(verify(bundle, rows=200))
    assert [each for each in found if each.status == "differs"] == []
    assert sum(each.status == "agrees" for each in found) >= 3


def test_the_first_difference_is_named() -> None:
    """Backend, row, output and both values."""

    def wrong(executor: Executor, obs: Floats) -> Answer:
        outputs = executor.outputs(obs).copy()
        outputs[7, 2] += 1
        return Answer(outputs, np.zeros((len(obs), 1), np.int64))

    bundle = from_bytes(to_bytes(lively(*CASES[0]), {}))
    backends = [Backend("odd", str, wrong), Backend("gone", lambda: "no odd", wrong)]
    first, second = verify(bundle, rows=5, backends=backends)
    assert (first.status, first.text[:16]) == ("differs", "row 7, output 2:")
    assert (second.status, second.text) == ("missing", "no odd")


@pytest.mark.parametrize(
    ("case", "flavour", "inputs", "outputs"),
    [
        (0, "plain", {"obs"}, {"action", "outputs"}),
        (5, "rsl-rl", {"obs"}, {"actions"}),
        (0, "godot-rl", {"obs", "state_ins"}, {"output", "state_outs"}),
        (3, "ml-agents", {"obs_0", "action_masks"}, {"discrete_actions"}),
        (5, "ml-agents", {"obs_0"}, {"continuous_actions", "version_number"}),
    ],
)
def test_a_flavour_has_the_names_it_promises(
    case: int, flavour: str, inputs: set[str], outputs: set[str]
) -> None:
    """Inputs are exactly those; the outputs are there."""
    data = to_onnx(lively(*CASES[case]), as_flavour(flavour))
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert {each.name for each in session.get_inputs()} == inputs
    assert outputs <= {each.name for each in session.get_outputs()}


def test_a_masked_choice_is_not_taken() -> None:
    """Unity's masks are 0 for what is not to be had."""
    executor = lively(*CASES[0])
    obs = probes(executor, 50)
    data = to_onnx(executor, "ml-agents")
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    masks = np.ones((50, 4), np.float32)
    (free,) = session.run(["discrete_actions"], {"obs_0": obs, "action_masks": masks})
    assert np.array_equal(free[:, 0], executor.outputs(obs).argmax(1))
    masks[np.arange(50), free[:, 0]] = 0
    (held,) = session.run(["discrete_actions"], {"obs_0": obs, "action_masks": masks})
    assert (held != free).all()


@pytest.mark.parametrize("opset", [9, 10, 11, 12, 13, 15, 16, 17, 18, 19, 21, 22])
@pytest.mark.parametrize("case", [0, 2, 3, 4, 5, 9, 10, 11, 12])
def test_every_opset_gives_the_same_numbers(case: int, opset: int) -> None:
    """Splits, clips, means and norms are written as each version has them."""
    executor = lively(*CASES[case])
    obs = probes(executor, 20)
    answer = run_onnx(executor, obs, opset=opset)
    verdict = compare("ONNX", executor, answer, reference(executor, obs))
    assert verdict.status == "agrees", verdict.text


@pytest.mark.parametrize(
    ("flavour", "case"),
    [
        *((each, case) for each in OPSETS for case in (5, 9)),
        *((each, case) for each in OPSETS if each != "rsl-rl" for case in (3, 11, 12)),
    ],
)
def test_a_flavour_has_the_opset_of_its_reader(flavour: Flavour, case: int) -> None:
    """By default and at both ends the model is valid, and of the oldest format."""
    executor, known = lively(*CASES[case]), OPSETS[flavour]
    for asked in (None, known.least, known.most):
        data = to_onnx(executor, flavour, opset=asked)
        model = onnx.load_from_string(data)
        onnx.checker.check_model(model, full_check=True)
        (found,) = model.opset_import
        assert found.version == (asked or known.usual)
        assert model.ir_version == onnx.helper.find_min_ir_version_for([found])
        onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


def test_unity_is_given_what_it_documents() -> None:
    """Sentis takes 7 to 15, ML-Agents writes 9; beyond, the error names both ends."""
    assert OPSETS["ml-agents"].usual == 9
    for asked in (8, 16, 17):
        with pytest.raises(ConfigError, match="choose 9 to 15, which Unity's"):
            to_onnx(lively(*CASES[0]), "ml-agents", opset=asked)


def test_rsl_rl_has_no_choices() -> None:
    """The refusal says what to take instead."""
    with pytest.raises(ConfigError, match="plain"):
        to_onnx(lively(*CASES[0]), "rsl-rl")


@pytest.mark.parametrize("to", ["onnx", "c", "akx"])
def test_export_and_verify_from_the_command_line(to: str, tmp_path: Path) -> None:
    """Both end with 0, and the file is there; an unknown target ends with 2."""
    file = tmp_path / "executor.akd"
    write_bundle(file, lively(*CASES[0]))
    out = tmp_path / "exported"
    assert main(["export", str(file), "--to", to, "--out", str(out)]) == 0
    assert out.stat().st_size > 1000
    assert main(["verify", str(file), "--rows", "10"]) == 0
    assert main(["export", str(file), "--to", "onxn"]) == 2
