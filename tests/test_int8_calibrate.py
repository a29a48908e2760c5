"""What integers are calibrated with: an executor's own file, another, or episodes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from agentkd import environments
from agentkd.cli.main import main
from agentkd.deploy.bundle import Bundle, from_bytes, to_bytes, write_bundle
from agentkd.deploy.export import Request, export
from agentkd.deploy.int8.calibrate import episodes, held, integer_form, read
from agentkd.deploy.int8.emit import emit_c_int8
from agentkd.deploy.int8.quantise import quantise
from agentkd.deploy.vectors import DRAWN
from agentkd.errors import ConfigError
from agentkd.executors.architecture import initial
from agentkd.spec import DiscreteSpec, env_spec
from agentkd.types import Floats
from tests.deploy_executors import lively


def lived(architecture: str, lengths: tuple[int, ...]) -> tuple[Bundle, list[Floats]]:
    """An executor's file with episodes in it, far from what would be drawn."""
    executor = lively(architecture, DiscreteSpec(3))
    random = np.random.default_rng(0)
    own = [random.normal(3, 0.1, (n, 7)).astype(np.float32) for n in lengths]
    return from_bytes(to_bytes(executor, {}, golden=own)), own


def test_a_file_with_episodes_gives_them() -> None:
    """Drawn observations and its own, and where each episode begins."""
    bundle, own = lived("mlp:5", (40, 30))
    seen = held(bundle)
    assert seen is not None
    np.testing.assert_array_equal(seen.obs[DRAWN:], np.concatenate(own))
    bundle, own = lived("gru:6", (40, 30))
    seen = held(bundle)
    assert seen is not None
    assert np.flatnonzero(seen.starts)[:3].tolist() == [0, 40, 70]


@pytest.mark.parametrize("architecture", ["mlp:5", "gru:6"])
def test_a_file_without_episodes_gives_none(architecture: str) -> None:
    """What was only drawn is drawn better, and more of it, for calibration."""
    bundle, _ = lived(architecture, ())
    assert held(bundle) is None


def test_the_export_uses_the_files_own_episodes() -> None:
    """With other observations other integers come of it."""
    bundle, _ = lived("mlp:5", (40, 30))
    seen = held(bundle)
    texts = [export(bundle, "c-int8", Request(seen=each)) for each in (None, seen)]
    assert texts[0] == texts[1]
    other = episodes([np.zeros((9, 7), np.float32)])
    assert export(bundle, "c-int8", Request(seen=other)) != texts[0]


@pytest.mark.parametrize("lengths", [(40, 30), ()], ids=["episodes", "drawn"])
def test_the_integer_form_of_a_file_is_the_exported_one(lengths: tuple[int, ...]) -> None:
    """Whoever compares with exported integers has these and no others."""
    bundle, _ = lived("mlp:5", lengths)
    text = emit_c_int8(integer_form(bundle), "executor", {}).encode()
    assert export(bundle, "c-int8") == text
    drawn = emit_c_int8(quantise(bundle.executor), "executor", {}).encode()
    assert (text == drawn) == (not lengths)


def test_files_of_observations_are_read(tmp_path: Path) -> None:
    """A .npy file is one episode; a .npz file says where episodes begin."""
    executor = lively("gru:6", DiscreteSpec(3))
    obs = np.ones((6, 7))
    np.save(tmp_path / "one.npy", obs)
    assert read(tmp_path / "one.npy", executor).starts.tolist() == [1, 0, 0, 0, 0, 0]
    np.savez(tmp_path / "two.npz", obs=obs, starts=[1, 0, 0, 1, 0, 0])
    seen = read(tmp_path / "two.npz", executor)
    assert seen.starts.tolist() == [1, 0, 0, 1, 0, 0]
    assert seen.obs.dtype == np.float32


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    """Missing, damaged, of another shape, or pickled: an error that says which."""
    executor = lively("mlp:5", DiscreteSpec(3))
    with pytest.raises(ConfigError, match="No such file"):
        read(tmp_path / "none.npy", executor)
    (tmp_path / "text.npy").write_text("not an array")
    with pytest.raises(ConfigError, match="no observations"):
        read(tmp_path / "text.npy", executor)
    for bad in (np.zeros((4, 6)), np.zeros(7), np.float32(3)):
        np.save(tmp_path / "bad.npy", bad)
        with pytest.raises(ConfigError, match=r"bad\.npy"):
            read(tmp_path / "bad.npy", executor)
    np.savez(tmp_path / "bad.npz", obs=np.zeros((4, 7)), starts=[1, 0])
    with pytest.raises(ConfigError, match=r"\(2,\) starts"):
        read(tmp_path / "bad.npz", executor)
    np.savez(tmp_path / "other.npz", numbers=np.zeros((4, 7)))
    with pytest.raises(ConfigError, match="obs"):
        read(tmp_path / "other.npz", executor)
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ConfigError, match="no observations"):
        read(tmp_path / "objects.npy", executor)


def test_episodes_can_be_lived_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--calibrate episodes` needs to know the environment, and says what it lived."""
    made = environments.make("CartPole-v1")
    executor = initial("mlp:4", env_spec(made))
    made.close()
    file = tmp_path / "executor.akd"
    words = ["export", str(file), "--to", "c-int8", "--calibrate", "episodes"]
    write_bundle(file, executor)
    assert main(words) == 2
    assert "names no environment" in " ".join(capsys.readouterr().err.split())
    write_bundle(file, executor, {"env": "CartPole-v1"})
    assert main(words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "calibrated with 4096 observations of" in said
    if shutil.which("cc") or shutil.which("gcc") or shutil.which("clang"):
        assert "executor: 16 golden vectors, bit by bit" in said
    assert main([*words[:3], "c", *words[4:]]) == 2
