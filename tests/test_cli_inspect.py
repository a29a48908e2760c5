"""`agentkd inspect`: a card of an executor file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agentkd.cli.main import main
from agentkd.deploy.bundle import write_bundle
from agentkd.deploy.contract import Contract
from agentkd.executors.architecture import initial
from agentkd.spec import (
    ActionSpec,
    BoxSpec,
    DiscreteSpec,
    MultiBinarySpec,
    MultiDiscreteSpec,
    ObsSpec,
    Part,
    Spec,
)

OBS = ObsSpec((Part("", "box", (3,), "float32"),))


def test_the_card_says_what_it_is_and_where_it_comes_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Architecture, sizes, provenance, digest; and that the file is whole."""
    file = tmp_path / "e.akd"
    bundle = write_bundle(
        file,
        initial("mlp:8,4,tanh", Spec(OBS, DiscreteSpec(5, 2))),
        {
            "env": "Small-v1",
            "planner": {"name": "PPO", "refs": ["a/b"]},
            "labels": 12345,
            "network": "a lie",
        },
    )
    assert main(["inspect", str(file)]) == 0
    said = capsys.readouterr().out.replace("│", " ")
    for words in (
        "mlp:8,4,tanh, version 0",
        "3 - 8 - 4 - 5, dense with tanh, dense, 93 parameters",
        "one choice of 5, from 2 on",
        "Small-v1",
        "PPO, a/b",
        "12,345",
        "none; clipped at ±10",
        bundle.digest[:40],
        f"{file.stat().st_size:,} bytes",
    ):
        assert words in said, words
    assert "whole: every entry" in said
    # What a maker wrote does not stand in for what the file is.
    assert "a lie" not in said


def test_the_contract_and_what_was_kept_stand_on_the_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Numbers with name and unit, the clock, retention with its interval, footprint."""
    file = tmp_path / "e.akd"
    core = {"label": "Cortex-M4F", "form": "int8", "instructions": 14687}
    write_bundle(
        file,
        initial("mlp:4", Spec(OBS, DiscreteSpec(2))),
        {
            "retention": {"mean": 0.98, "low": 0.9, "high": 1.0, "episodes": 20} | {"seed": 1000},
            "returns": {"planner": 250.0, "executor": 245.5},
            "versions": {"numpy": "2.4.6"},
        },
        contract=Contract(("x", "y", "spin"), ("m", "m", ""), ("left", "right"), (), 0.02),
        footprint={"cores": [{**core, "flash": 6756, "ram": 416, "stack": 184}]},
    )
    assert main(["inspect", str(file)]) == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for words in (
        "0 x (m), 1 y (m), 2 spin",
        "0 left, 1 right",
        "every 0.02 s, 50 Hz",
        "0.980 (0.900 … 1.000), 20 episodes from seed 1000",
        "planner 250.0",
        "numpy 2.4.6",
        "Cortex-M4F, int8 14,687 instructions; flash 6,756, RAM 416, stack 184",
        "64 golden vectors",
    ):
        assert words in said, words


def test_a_card_fits_eighty_columns_whatever_its_maker_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long and odd provenance is folded and shown as it is, not read as markup."""
    monkeypatch.setenv("COLUMNS", "80")
    file = tmp_path / "e.akd"
    odd = {"retention": "much", "planner": 7, "labels": "many", "returns": [1]}
    odd |= {"versions": "old", "note": "[red]" + "x" * 300, "command": "by hand"}
    write_bundle(file, initial("mlp:4", Spec(OBS, DiscreteSpec(2))), odd)
    assert main(["inspect", str(file)]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    for words in ("much", "many", "[1]", "old", "[red]", "by hand"):
        assert words in said, words


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (BoxSpec((-1.0, -2.0), (3.0, 3.0), (2,)), "2 numbers, from (-1, -2) to 3"),
        (MultiDiscreteSpec((2, 3)), "2 choices, of (2, 3)"),
        (MultiBinarySpec(4), "4 yes/no choices"),
    ],
)
def test_actions_are_told_in_words(
    action: ActionSpec, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each kind of action has its sentence."""
    file = tmp_path / "e.akd"
    write_bundle(file, initial("mlp:4", Spec(OBS, action)))
    assert main(["inspect", str(file)]) == 0
    assert words in capsys.readouterr().out


def test_the_normaliser_s_ranges_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Means and deviations, from the least to the greatest."""
    executor = initial("mlp:4", Spec(OBS, DiscreteSpec(2)))
    vector = executor.vector()
    vector[:6] = np.array([-1, 0, 2, 0.5, 1, 4])
    file = tmp_path / "e.akd"
    write_bundle(file, executor.with_vector(vector, 7))
    assert main(["inspect", str(file)]) == 0
    said = capsys.readouterr().out
    assert "means -1 to 2, deviations 0.25 to 2" in said
    assert "version 7" in said


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "other"])
def test_a_damaged_file_is_refused(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever happened to the bytes, nothing of it is shown as if it were whole."""
    file = tmp_path / "e.akd"
    write_bundle(file, initial("mlp:4", Spec(OBS, DiscreteSpec(2))))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    contents = {"empty": b"", "cut": bytes(data[:-100]), "flipped": bytes(data), "other": b"hello"}
    file.write_bytes(contents[damage])
    assert main(["inspect", str(file)]) == 2
    said = capsys.readouterr()
    assert "whole" not in said.out
    assert said.err.startswith("error: ")
