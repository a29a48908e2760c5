"""`agentkd footprint`: what an executor takes, and what is missing to measure it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentkd.cli.main import main
from agentkd.deploy.bundle import read_bundle, write_bundle
from agentkd.deploy.cores import CORES, POWER, Power
from agentkd.executors.architecture import initial
from agentkd.spec import DiscreteSpec, ObsSpec, Part, Spec

SPEC = Spec(ObsSpec((Part("", "box", (3,), "float32"),)), DiscreteSpec(2))


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "executor.akd"
    write_bundle(path, initial("mlp:8", SPEC))
    return str(path)


@pytest.mark.needs("gcc")
def test_both_forms_are_built_run_and_shown(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """On this machine float and int8 answer right, and the estimate is called one."""
    assert main(["footprint", file, "--int8", "--cores", "host"]) == 0
    said = capsys.readouterr().out
    assert said.count("right") == 2
    assert "estimate" in said


@pytest.mark.needs("gcc")
def test_an_executor_with_a_memory_is_measured_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Floats remember floats, and integers integers, through one sequence."""
    file = tmp_path / "executor.akd"
    write_bundle(file, initial("gru:5", SPEC))
    assert main(["footprint", str(file), "--int8", "--cores", "host"]) == 0
    assert capsys.readouterr().out.count("right") == 2


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")
def test_the_estimate_names_its_part_and_its_assumption(
    file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Energy comes with part, cycles, voltage and source, and fits eighty columns."""
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["footprint", file, "--cores", "m4f", "m0"]) == 0
    said = capsys.readouterr().out
    assert "0.54 nJ: STM32L476, 1.8 cycles, 3 V; ST DS10198" in said
    assert "nRF51822" in said
    assert max(map(len, said.splitlines())) <= 80
    assert main(["footprint", file, "--cores", "m4f", "--nanojoules", "0.2"]) == 0
    said = capsys.readouterr().out
    assert "× 0.2 nJ on every core" in said
    assert "STM32L476" not in said


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")
def test_json_holds_the_same_numbers(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing but JSON is on stdout; energy is instructions times the stated cost."""
    assert main(["footprint", file, "--cores", "m4f", "rv64", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    first, *rest = data["cores"]
    assert (first["core"], first["form"], first["wrong"]) == ("m4f", "float", 0)
    cost = POWER["m4f"].nanojoules
    assert first["energy_uj"] == pytest.approx(first["instructions"] * cost / 1000)
    assert first["flash"] == first["code"] + first["library"] + first["constants"]
    # Of rv64 no part's current is known: nothing is made up.
    assert [each["energy_uj"] for each in rest] == [None] * len(rest)


def test_a_part_s_energy_is_current_times_voltage_times_cycles() -> None:
    """58 µA/MHz at 3 V are 0.174 nJ a cycle; at 1.5 cycles 0.261 nJ an instruction."""
    assert Power("", 58, 3.0, 1.5, "").nanojoules == pytest.approx(0.261)
    assert set(POWER) <= set(CORES)


@pytest.mark.needs("gcc")
def test_what_was_measured_is_recorded_in_the_file(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file stays whole, and its card shows the bytes."""
    before = read_bundle(file)
    assert main(["footprint", file, "--cores", "host", "--record"]) == 0
    after = read_bundle(file)
    (row,) = after.manifest["footprint"]["cores"]
    assert (row["core"], row["form"]) == ("host", "float")
    assert "gcc" in after.manifest["footprint"]["compilers"]["host"]
    assert "energy_uj" not in row
    assert (before.executor.vector() == after.executor.vector()).all()
    capsys.readouterr()
    assert main(["inspect", file]) == 0
    assert f"flash {row['flash']:,}" in capsys.readouterr().out


def test_a_missing_tool_is_named(
    file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing on the PATH it says which programs and packages it lacks."""
    monkeypatch.setenv("PATH", "")
    assert main(["footprint", file, "--cores", "m4f"]) == 1
    assert "arm-none-eabi-gcc" in capsys.readouterr().out


def test_an_unknown_core_is_refused(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It suggests the nearest, with status 2."""
    assert main(["footprint", file, "--cores", "m4"]) == 2
    assert "m4f" in capsys.readouterr().err
