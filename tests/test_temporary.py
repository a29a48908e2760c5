"""The temporary folder: nothing of ours stays in it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from agentkd.cli.main import main
from agentkd.deploy.programs import build
from agentkd.errors import LoadError


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of the test's own."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def test_what_a_compiler_leaves_is_removed_with_its_folder(
    temporary: Path, tmp_path: Path
) -> None:
    """A compiler that is killed cannot remove its own temporary files."""
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\n: > $TMPDIR/left\nexit 1\n")
    compiler.chmod(0o755)
    with (
        tempfile.TemporaryDirectory(dir=tmp_path) as name,
        pytest.raises(LoadError, match="did not compile"),
    ):
        build(Path(name), ["main.c"], cc=str(compiler))
    assert list(temporary.iterdir()) == []


def test_reinforce_leaves_no_folder_of_a_logger(
    temporary: Path, tmp_path: Path
) -> None:
    """Stable-Baselines3 makes one where it is given no logger."""
    words = ["reinforce", "CartPole-v1", "--planner", "tests.cli_planners:balance"]
    words += ["--executor", "mlp:8", "--episodes", "1", "--environments", "1"]
    words += ["--rollout", "32", "--batch", "32", "--steps", "32"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    # One folder for each user is torch's own cache.
    left = {each.name.partition("_")[0] for each in temporary.iterdir()}
    assert left <= {"torchinductor"}
