"""Policy files from the command line, and the pages about them."""

from __future__ import annotations

import ctypes
import re
import shlex
import subprocess
import warnings
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO

from agentkd import distill
from agentkd.cli.main import main
from agentkd.deploy.onnx import OPSETS
from agentkd.errors import LoadError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.planners import load_planner
from agentkd.planners.files.freeze import difference, from_checkpoint
from agentkd.planners.files.network import own_spec
from agentkd.planners.files.options import FileOptions
from agentkd.spec import BoxSpec
from tests.policy_files import Robot, load

ROOT = Path(__file__).parents[1]
FILES = ROOT / "tests" / "data" / "policies"
SETTINGS = "seed: 1\nactor:\n  class_name: MLPModel\n  activation: elu\n"


@pytest.mark.needs("cc")
def test_the_page_on_isaac_lab_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its three commands lead from a run's folder to a C file that acts as rsl_rl does."""
    page = (ROOT / "docs" / "guides" / "isaac.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    commands = [shlex.split(line) for line in block.splitlines()]
    assert len(commands) == 3
    folder = tmp_path / commands[0][2]
    (folder / "params").mkdir(parents=True)
    (folder / "params" / "agent.yaml").write_text(SETTINGS)
    for number, name in ((0, "rsl5_plain.pt"), (1499, "rsl5_mlp.pt")):
        (folder / f"model_{number}.pt").write_bytes((FILES / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    for words in commands:
        assert main(words[1:]) == 0
    build = ["cc", "-std=c99", "-fPIC", "-shared", "policy.c", "-lm", "-o", "policy.so"]
    subprocess.run(build, cwd=tmp_path, check=True)
    built = ctypes.CDLL(str(tmp_path / "policy.so"))
    known, out = np.load(FILES / "rsl5_mlp.npz"), np.zeros(3, np.float32)
    for obs, wanted in zip(known["obs"][0], known["mean"][0], strict=True):
        at = np.ascontiguousarray(obs)
        assert built.executor_outputs(*(ctypes.c_void_p(e.ctypes.data) for e in (at, out))) == 0
        np.testing.assert_allclose(out, wanted, atol=1e-5)


def test_the_reference_has_each_argument() -> None:
    """Every key of --planner-args has a row."""
    page = (ROOT / "docs" / "reference" / "policies.md").read_text(encoding="utf-8")
    for each in fields(FileOptions):
        assert f"`{each.name}`" in page, each.name


def test_the_command_line_passes_arguments_on(capsys: pytest.CaptureFixture[str]) -> None:
    """What is asked for is named by its flag; a word that is neither form is refused."""
    env = "tests.policy_files:Robot"
    skrl = str(FILES / "skrl2_plain.pt")
    how = ["--episodes", "1"]
    assert main(["eval", env, skrl, *how]) == 2
    assert "--planner-args activation=elu" in capsys.readouterr().err
    assert main(["eval", env, skrl, *how, "--planner-args", "activation"]) == 2
    assert "neither KEY=VALUE" in capsys.readouterr().err
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert main(["eval", env, skrl, *how, "--planner-args", "activation=relu"]) == 0
    assert "skrl policy" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["rsl5_gru.pt", "rsl5_mlp.pt", "rsl5_lstm_jit.pt"])
def test_a_policy_file_is_distilled(name: str) -> None:
    """With a memory, without, and with one inside a graph for one row."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        executor = distill(Robot, str(FILES / name), "mlp:8", labels=256, episodes=1, native=False)
    assert executor.about.provenance["labels"] >= 256


@pytest.mark.parametrize(
    ("name", "architecture", "args"),
    [
        ("rsl5_mlp.pt", "mlp:8,6,elu", {}),
        ("rsl5_hetero.pt", "mlp:8,6,elu", {"distribution": "heteroscedastic"}),
        ("rsl3_mlp.pt", "mlp:8,6,elu", {"action_scale": 0.25, "action_offset": [1.0, 2.0, 3.0]}),
        ("skrl2_gaussian.pt", "mlp:8,6,elu", {"activation": "elu"}),
        ("rlgames_lstm.pth", "lstm:8,6,7,elu", {"activation": "elu"}),
    ],
)
def test_a_checkpoint_is_frozen_as_it_is(name: str, architecture: str, args: Any) -> None:
    """Normaliser, clip, scale and memory are taken over."""
    planner = load(FILES / name, **args)
    executor = from_checkpoint(planner)
    assert executor.architecture == architecture
    obs = 3.0 * np.random.default_rng(0).standard_normal((200, 5)).astype(np.float32)
    assert difference(executor, planner, obs) < 1e-5


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("rsl5_gru.pt", {}, "layers after its memory"),
        ("rsl5_mlp.pt", {"activation": "mish"}, "activation Mish"),
        ("rsl5_beta.pt", {"distribution": "beta"}, "does not end in a linear layer"),
    ],
)
def test_what_no_executor_does_is_not_frozen(name: str, args: Any, said: str) -> None:
    """The message says what is missing, and to distil it."""
    with pytest.raises(LoadError, match=rf"{said}.*Distil it instead"):
        from_checkpoint(load(FILES / name, **args))


def test_a_repository_of_the_hugging_face_hub_is_an_sb3_save(tmp_path: Path) -> None:
    """Its .zip is read, also where the same lies unpacked beside it."""
    model = PPO("MlpPolicy", Robot(), n_steps=8, batch_size=8, device="cpu")
    model.save(tmp_path / "ppo-Robot-v0.zip")
    with zipfile.ZipFile(tmp_path / "ppo-Robot-v0.zip") as file:
        file.extractall(tmp_path / "ppo-Robot-v0")
    for place in (tmp_path, tmp_path / "ppo-Robot-v0"):
        assert load_planner(str(place)).name == "PPO"
    with pytest.raises(LoadError, match=r"policy\.pth of a save.*give the save"):
        load(tmp_path / "ppo-Robot-v0" / "policy.pth")


BOX = BoxSpec((-1.0,) * 3, (1.0,) * 3, (3,))


@pytest.mark.parametrize("architecture", ["mlp:8", "gru:6"])
@pytest.mark.parametrize("flavour", sorted(OPSETS))
def test_our_own_onnx_files_are_planners(flavour: str, architecture: str, tmp_path: Path) -> None:
    """Each flavour that agentkd exports is read back as it acts."""
    executor: Executor = initial(architecture, own_spec(5, BOX), seed=1)
    executor.export(tmp_path / "x.onnx", flavour=flavour)
    planner: Any = load(tmp_path / "x.onnx", executor.spec)
    obs = np.random.default_rng(0).standard_normal((9, 5)).astype(np.float32)
    # Godot RL's graphs have a memory always.
    state = planner.policy.initial_state(1) if flavour == "godot-rl" or executor.memory else None
    held = np.zeros((1, executor.memory), np.float32)
    for row in obs:
        wanted, held = executor.answer(row[None], held)
        found = planner.policy(row[None], *([] if state is None else [state]))
        found, state = (found, None) if state is None else found
        np.testing.assert_allclose(found.action, wanted.action, atol=1e-5)  # type: ignore[union-attr]
