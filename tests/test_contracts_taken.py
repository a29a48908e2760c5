"""The contract of a run's folder is taken along: from a checkpoint into an executor's file."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentkd.cli.main import main
from agentkd.deploy.bundle import read_bundle
from agentkd.deploy.contract import Contract
from agentkd.deploy.contracts.files import beside
from tests.contract_files import MJLAB, graph
from tests.contract_files import write as write_file

FILES = Path(__file__).parent / "data" / "policies"
SETTINGS = "seed: 1\nactor:\n  class_name: MLPModel\n  activation: elu\n"
# The checkpoint has five numbers and three joints.
ISAACLAB = """\
actions:
- joint_names: [hip, knee, foot]
  offset: [0.1, 0.2, 0.3]
  scale: 0.5
  shape: [3]
observations:
  policy:
  - extras: {axes: [X, Y], units: rad/s}
    name: base_ang_vel
    shape: [2]
  - joint_names: [hip, knee, foot]
    name: joint_pos_rel
    shape: [3]
scene: {dt: 0.02}
"""
JOINTS = ("hip", "knee", "foot")


@pytest.fixture(autouse=True)
def quietly() -> Iterator[None]:
    """What is assumed about the checkpoint is of no interest here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with a checkpoint, its settings and its descriptors."""
    folder = tmp_path / "run"
    for name in ("params", "io_descriptors"):
        (folder / name).mkdir(parents=True)
    (folder / "params" / "agent.yaml").write_text(SETTINGS)
    (folder / "io_descriptors" / "IO_descriptors.yaml").write_text(ISAACLAB)
    (folder / "model_1499.pt").write_bytes((FILES / "rsl5_mlp.pt").read_bytes())
    return folder


def frozen(run: Path, *words: str, save: Path | None = None) -> Contract:
    """The contract in the file that `agentkd freeze` makes."""
    out = run.parent / "policy.akd"
    assert main(["freeze", str(save or run), f"--out={out}", "--overwrite", *words]) == 0
    return read_bundle(out).contract


@pytest.mark.parametrize("save", ["", "model_1499.pt"])
def test_a_run_s_contract_is_taken_along(
    save: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the folder or beside the checkpoint; its numbers get names and units; it is said."""
    told = frozen(run, save=run / save)
    assert "IO_descriptors.yaml" in capsys.readouterr().out
    assert told.action_names == JOINTS
    assert (told.action_scale, told.action_offset) == ((0.5,) * 3, (0.1, 0.2, 0.3))
    assert told.period == 0.02
    assert told.obs_names == (
        *("base_ang_vel.X", "base_ang_vel.Y"),
        *(f"joint_pos_rel.{joint}" for joint in JOINTS),
    )
    assert told.obs_units == ("rad/s", "rad/s", "", "", "")
    assert main(["inspect", str(run.parent / "policy.akd")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "base_ang_vel 2, joint_pos_rel 3" in shown
    assert "0.5 · action + (0.1, 0.2, 0.3)" in shown
    assert frozen(run, "--contract", "off") == Contract()


def test_a_contract_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It counts before the run's own; one of another robot is refused."""
    other = run.parent / "other.yaml"
    other.write_text(ISAACLAB.replace("0.02", "0.01"))
    assert frozen(run, "--contract", str(other)).period == 0.01
    wrong = str(write_file("unitree", run.parent))
    out = run.parent / "wrong.akd"
    assert main(["freeze", str(run), f"--out={out}", "--contract", wrong]) == 2
    assert "51 numbers, the executor has 5" in capsys.readouterr().err
    assert not out.exists()


def test_terms_that_the_run_does_not_describe_are_left_out(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Isaac Lab leaves out terms without a descriptor; the rest of the contract is good."""
    short = ISAACLAB.replace("axes: [X, Y], ", "").replace("shape: [2]", "shape: [1]")
    (run / "io_descriptors" / "IO_descriptors.yaml").write_text(short)
    told = frozen(run)
    assert "without the observation's terms: 4 numbers" in capsys.readouterr().out
    assert (told.terms, told.obs_names, told.action_names) == ((), (), JOINTS)
    path = run / "io_descriptors" / "IO_descriptors.yaml"
    assert frozen(run, "--contract", str(path)) == told
    capsys.readouterr()
    words = [str(run.parent / "policy.akd"), "--contract", str(path), "--rows", "0"]
    assert main(["verify", *words]) == 0
    assert "observation size" in capsys.readouterr().out
    # It may leave terms out, and have no others.
    path.write_text(ISAACLAB.replace("axes: [X, Y], ", "").replace("shape: [2]", "shape: [9]"))
    assert main(["verify", *words]) == 1
    assert "5 here, at least 12 in" in " ".join(capsys.readouterr().out.split())
    out = run.parent / "x.akd"
    assert main(["freeze", str(run), f"--out={out}", "--contract", str(path)]) == 2
    assert "12 numbers, the executor has 5" in " ".join(capsys.readouterr().err.split())


def test_a_damaged_contract_says_what_to_do(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own error, and the two ways on."""
    (run / "io_descriptors" / "IO_descriptors.yaml").write_text(ISAACLAB + "scene: {}\n")
    assert main(["freeze", str(run), f"--out={run.parent / 'x.akd'}"]) == 2
    said = capsys.readouterr().err
    assert "stands twice" in said
    assert "--contract off" in said


def test_several_contracts_are_asked_about(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which robot is meant is not known; two that tell the same are one."""
    other = run / "io_descriptors" / "go2_IO_descriptors.yaml"
    other.write_text(ISAACLAB + "# again\n")
    assert frozen(run).action_scale == (0.5,) * 3
    other.write_text(ISAACLAB.replace("0.5", "0.25"))
    assert main(["freeze", str(run), f"--out={run.parent / 'x.akd'}"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "2 contracts lie in" in said
    assert "--contract FILE" in said
    assert frozen(run, "--contract", str(other)).action_scale == (0.25,) * 3


def test_a_scale_inside_the_executor_is_not_told_twice(tmp_path: Path) -> None:
    """With --planner-args action_scale the executor gives targets itself."""
    (tmp_path / "policy.onnx").write_bytes((FILES / "rsl5_mlp_export.onnx").read_bytes())
    (tmp_path / "IO_descriptors.yaml").write_text(ISAACLAB)
    env = "tests.policy_files:Robot"
    words = ["distill", env, "--planner", str(tmp_path / "policy.onnx"), "--executor", "mlp:4"]
    how = ["--labels", "64", "--episodes", "1", "--out", str(tmp_path / "out")]
    given = ["--planner-args", "action_scale=0.5", "action_offset=[0.1, 0.2, 0.3]"]
    assert main([*words, *how, *given, "--names", "action=a,b,c"]) == 0
    told = read_bundle(tmp_path / "out" / "executor.akd").contract
    assert (told.action_scale, told.action_offset) == ((1.0,) * 3, (0.0,) * 3)
    assert (told.action_names, told.period) == (("a", "b", "c"), 0.02)


@pytest.mark.parametrize(
    ("given", "scale", "words"),
    [
        (["action_scale=0.5"], 0.5, ""),
        (["action_offset=[0.1, 0.2, 0.3]"], 1.0, ""),
        (["action_offset=[0.1, 0.2, 0.3]"], 0.5, "action_offset is given alone"),
        (["action_scale=0.25"], 0.5, "action_scale is 0.25 for number 0"),
        (["action_scale=0.5", "action_offset=0.1"], 0.5, "action_offset is 0.1 for number 1"),
    ],
)
def test_only_what_is_given_is_taken_out_of_the_contract(
    given: list[str], scale: float, words: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A scale alone leaves the default pose to the robot; contradictions are refused by name."""
    path = run / "io_descriptors" / "IO_descriptors.yaml"
    path.write_text(ISAACLAB.replace("scale: 0.5", f"scale: {scale}"))
    if words:
        out = f"--out={run.parent / 'x.akd'}"
        assert main(["freeze", str(run), out, "--planner-args", *given]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert words in said
        return
    told = frozen(run, "--planner-args", *given)
    assert told.action_scale == (1.0,) * 3
    pose = (0.1, 0.2, 0.3) if "scale" in given[0] else (0.0,) * 3
    assert told.action_offset == pose


def test_where_a_contract_is_looked_for(tmp_path: Path) -> None:
    """In the run's folder and its own subfolders; a policy's own metadata first."""
    run = tmp_path / "runs" / "one"
    for name in ("exported", "params", "nn"):
        (run / name).mkdir(parents=True)
    for name in ("nn/a.pth", "model_1.pt"):
        (run / name).write_bytes(b"")
    assert beside(run) is None
    # Of other programs, and of another policy.
    (run / "config.yaml").write_text("seed: 1\n")
    (tmp_path / "runs" / "other.onnx").write_bytes(graph(MJLAB))
    assert beside(run / "model_1.pt") is None
    deploy = write_file("unitree", run / "params")
    policy = run / "exported" / "policy.onnx"
    policy.write_bytes(graph({}))
    for place in ("", "nn/a.pth", "model_1.pt", "exported/policy.onnx"):
        assert beside(run / place) == deploy, place
    policy.write_bytes(graph(MJLAB))
    assert beside(policy) == policy
