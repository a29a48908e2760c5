"""Pythons that other libraries need are built once, whole, and found by the studies."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentkd.errors import ConfigError
from benchmarks import pythons
from benchmarks.__main__ import main
from benchmarks.pythons import FOLDER, RECIPES, Elsewhere

FAKE = """#!{python}
import json, pathlib, sys
words = sys.argv[1:]
home = pathlib.Path({home!r})
with (home / "calls").open("a") as calls:
    calls.write(json.dumps(words) + "\\n")
if words[:2] == ["-m", "venv"]:
    inside = pathlib.Path(words[-1]) / "bin"
    inside.mkdir(parents=True, exist_ok=True)
    (inside / "python").write_text(pathlib.Path(__file__).read_text())
    (inside / "python").chmod(0o755)
elif "install" in words:
    print("Collecting", words[-1])
    sys.exit((home / "offline").exists() and "No matching distribution")
elif "freeze" in words:
    print("rtgym==0.16")
elif "sys.version_info" in words[-1]:
    print(*json.loads((home / "version").read_text()))
elif "import" in words[-1] and (home / "broken").exists():
    sys.exit("ModuleNotFoundError: No module named 'rtgym'")
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A program that takes a Python's words, and makes environments with itself in them."""
    made = tmp_path / "python"
    made.write_text(FAKE.format(python=sys.executable, home=str(tmp_path)))
    made.chmod(0o755)
    (tmp_path / "version").write_text("[3, 11]")
    return made


def build(python: Path, *words: str) -> int:
    """Build into a folder beside the fake Python."""
    at = ["--python", str(python), "--at", str(python.parent / "at")]
    return main(["pythons", *words, *at])


def calls(python: Path) -> list[list[str]]:
    """What was asked of it, but its version."""
    asked = [json.loads(line) for line in (python.parent / "calls").read_text().splitlines()]
    (python.parent / "calls").write_text("")
    return [each for each in asked if "sys.version_info" not in each[-1]]


def test_an_environment_is_built_once_and_found(
    python: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has the pinned packages, is tried, and is left alone from then on."""
    assert build(python, "loops") == 0
    venv, install, tried, freeze = calls(python)
    home = python.parent / "at" / "loops"
    assert venv == ["-m", "venv", "--clear", str(home)]
    assert install[-2:] == ["rtgym==0.16", "openpi-client==0.1.2"]
    assert install[-3].endswith("benchmarks/constraints/loops.txt")
    assert "import rtgym" in tried[-1]
    assert freeze[-1] == "freeze"
    assert (home.parent / "loops.txt").read_text() == "rtgym==0.16\n"
    assert "Collecting openpi-client" in (home.parent / "loops.log").read_text()
    assert Elsewhere(pythons=home.parent).find("loops") == home / "bin" / "python"
    assert Elsewhere(pythons=home.parent).find("executorch") is None
    assert build(python, "loops") == 0
    assert calls(python) == []
    assert "was there" in capsys.readouterr().out


def test_what_failed_is_told_and_built_anew(
    python: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are built all the same; a kill, an error and newer pins all begin anew."""
    (python.parent / "offline").touch()
    assert build(python, "loops") == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "No matching distribution" in said
    assert "loops.log" in said
    at = python.parent / "at"
    assert Elsewhere(pythons=at).find("loops") is None
    (python.parent / "offline").unlink()
    (python.parent / "broken").touch()
    assert build(python, "loops", "executorch") == 1
    assert "No module named 'rtgym'" in " ".join(capsys.readouterr().out.split())
    assert Elsewhere(pythons=at).find("loops") is None
    (python.parent / "broken").unlink()
    assert build(python, "loops") == 0
    newer = {**RECIPES, "loops": replace(RECIPES["loops"], packages=("rtgym==0.17",))}
    monkeypatch.setattr(pythons, "RECIPES", newer)
    assert Elsewhere(pythons=at).find("loops") is None
    assert build(python, "loops") == 0
    assert Elsewhere(pythons=at).find("loops") is not None


def test_what_others_made_is_left_alone(python: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of that name is not cleared, and a Python that is too new or none is refused."""
    mine = python.parent / "at" / "loops" / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work")
    assert build(python, "loops") == 2
    assert "was not built here" in " ".join(capsys.readouterr().err.split())
    assert mine.read_text() == "years of work"
    (python.parent / "version").write_text("[3, 13]")
    assert build(python, "imitation") == 2
    assert "imitation needs 3.12 or older" in " ".join(capsys.readouterr().err.split())
    assert build(Path("/usr/bin/false"), "loops") == 2
    assert "cannot make environments" in " ".join(capsys.readouterr().err.split())
    assert build(python.parent / "nowhere", "loops") == 2
    assert "does not start" in " ".join(capsys.readouterr().err.split())


def test_two_do_not_build_the_same(python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is told, and touches nothing."""
    options: Any = pythons.Options(names=("loops",), at=python.parent / "at", python=python)
    options.at.mkdir()
    with pythons._held(options.at, "loops"), pytest.raises(ConfigError, match="another process"):
        pythons.run(options)
    assert not (options.at / "loops").exists()


def test_each_is_pinned_and_named_by_what_needs_it() -> None:
    """Versions are exact, and each environment says which study asks for it."""
    for name, recipe in RECIPES.items():
        exact = (pythons._CONSTRAINTS / f"{name}.txt").read_text().lower().splitlines()
        for each in recipe.packages:
            wanted = each if "==" in each else f"{each}=="
            found = [line for line in exact if line.replace("_", "-").startswith(wanted)]
            assert len(found) == 1, each
        assert recipe.serves.partition(":")[0] in ("libraries", "ticks", "latency")
    assert FOLDER.name in (Path(__file__).parents[1] / ".gitignore").read_text().replace("/", "")
    with pytest.raises(ConfigError, match="no such folder"):
        Elsewhere(pythons=Path("/nowhere")).find("loops")
