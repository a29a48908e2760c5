"""`agentkd footprint`: what an executor takes, and what is missing to measure it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentkd.cli.main import main
from agentkd.deploy.bundle import write_bundle
from agentkd.executors.architecture import initial
from agentkd.spec import DiscreteSpec, ObsSpec, Part, Spec

SPEC = Spec(ObsSpec((Part("", "box", (3,), "float32"),)), DiscreteSpec(2))


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "executor.akd"
    write_bundle(path, initial("mlp:8", SPEC))
    return str(path)


@pytest.mark.needs("gcc")
def test_both_forms_are_built_run_and_shown(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On this machine float and int8 answer right, and the estimate is called one."""
    assert main(["footprint", file, "--int8", "--cores", "host"]) == 0
    said = capsys.readouterr().out
    assert said.count("right") == 2
    assert "estimate" in said


def test_a_missing_tool_is_named(
    file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing on the PATH it says which programs and packages it lacks."""
    monkeypatch.setenv("PATH", "")
    assert main(["footprint", file, "--cores", "m4f"]) == 1
    assert "arm-none-eabi-gcc" in capsys.readouterr().out


def test_an_unknown_core_is_refused(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It suggests the nearest, with status 2."""
    assert main(["footprint", file, "--cores", "m4"]) == 2
    assert "m4f" in capsys.readouterr().err
