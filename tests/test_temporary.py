"""The temporary folder: nothing of ours stays in it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

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


def test_what_a_compiler_leaves_is_removed_with_its_folder(temporary: Path, tmp_path: Path) -> None:
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
