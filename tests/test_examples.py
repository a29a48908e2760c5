"""Every example runs, and README and pages quote them truly."""

from __future__ import annotations

import json
import re
import runpy
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import pytest

from agentkd import env_spec, initial
from agentkd.cli import run
from examples import change
from tests.waiting import longer

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"

# What each is run with here, so that it takes seconds, and what it has to say; those that are given
# a time may need a longer one where the machine is busy.
SHORT: dict[str, tuple[list[str], str]] = {
    "crowd.py": (["--agents", "50", "--frames", "100"], r"50 decisions took [\d.]+ ms"),
    "deploy.py": ([], r"action [01]\nwritten: executor\.c"),
    "fine_tuning.py": (["--steps", "2048"], r"before, \d+ now"),
    "game_loop.py": (["--seconds", "3"], r"frames over budget: \d+ of \d{2,}"),
    "online_distillation.py": (["--steps", "4096"], r"written: .*executor\.akd"),
    "own_loop.py": (["--seconds", "{seconds:g}"], r"executor version [1-9]"),
    "sb3_model.py": (["--steps", "2048"], r"written: executor\.akd, 1282 parameters"),
}
# What an example does for half a minute is done for seconds here.
SMALLER = {"sb3_model.py": ("seconds=30)", "seconds=2)")}
# What examples import, and planners that are served in other environments (test_examples_served).
MODULES = {"lerobot_planner.py", "openpi_planner.py", "robot.py"}
# They have tests of their own: one takes minutes, the other needs Flower (test_federated).
DEMO, CHANGE, FEDERATED = "demo.py", "change.py", "federated.py"


def test_every_example_is_listed() -> None:
    """An example that is added or removed is added or removed here."""
    assert {each.name for each in EXAMPLES.glob("*.py")} == {
        *SHORT,
        *MODULES,
        DEMO,
        CHANGE,
        FEDERATED,
    }


@pytest.mark.parametrize("name", sorted(SHORT))
def test_an_example_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It ends well, warns of nothing and prints what it is for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    if name == "deploy.py":
        initial("mlp:8", env_spec(gym.make("CartPole-v1"))).save(tmp_path / "executor.akd")
    arguments, expected = SHORT[name]
    program = EXAMPLES / name
    if name in SMALLER:
        text, program = program.read_text(), tmp_path / name
        assert SMALLER[name][0] in text
        program.write_text(text.replace(*SMALLER[name]))
    for seconds in longer(6.0):
        words = [each.format(seconds=seconds) for each in arguments]
        monkeypatch.setattr(sys, "argv", [name, *words])
        runpy.run_path(str(program), run_name="__main__")
        printed, errors = capfd.readouterr()
        assert "Traceback" not in errors
        said = re.search(expected, printed)
        if said or words == arguments:
            break
    assert said, printed


def test_the_demo_runs_in_small(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With little of its labels and episodes it does all that it does, and writes its report."""

    def small(options: run.Options) -> int:
        return long(replace(options, episodes=1, film="off"))

    long = run.run
    monkeypatch.setattr(run, "run", small)
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.chdir(tmp_path)
    demo = runpy.run_path(str(EXAMPLES / DEMO))
    demo["HOW"].update(labels=640, steps=100)
    monkeypatch.setitem(change.HOW, "labels", 640)
    monkeypatch.setattr(change, "PLANNER", str(ROOT / change.PLANNER))
    for name, episodes in (("BEFORE", 1), ("AFTER", 1), ("EACH", 1)):
        monkeypatch.setattr(change, name, episodes)
    assert demo["main"]() == 0
    assert "with agentkd, learning" in capsys.readouterr().out
    assert (tmp_path / "runs" / "change" / "change.webp").stat().st_size > 1000
    report = json.loads((tmp_path / "runs" / "demo" / "report.json").read_text())
    assert report["planner_latency_ticks"] == int(demo["LATENCY"])
    assert report["executor_parameters"] > 0
    assert set(report["arms"]) == {"planner", "executor", "runtime"}


def quoted(snippet: str, text: str) -> bool:
    """Whether the lines of `snippet` stand together in `text`, at any indent."""
    wanted = textwrap.dedent(snippet).strip().splitlines()
    lines = text.splitlines()
    return any(
        textwrap.dedent("\n".join(lines[start : start + len(wanted)])).splitlines() == wanted
        for start in range(len(lines) - len(wanted) + 1)
    )


def test_quoting_is_exact() -> None:
    """A quotation keeps each character and line; only the common indent may differ."""
    text = "def main():\n    a = 1\n    if a:\n        b = 2\n"
    assert quoted("a = 1\nif a:\n    b = 2\n", text)
    assert not quoted("a = 1\nb = 2\n", text)
    assert not quoted("a = 1\nif a:\n  b = 2\n", text)
    assert not quoted("a = 2\n", text)


def snippets(page: str) -> list[str]:
    """The Python blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_pages_quote_the_examples() -> None:
    """Each Python snippet in the README is a piece of an example, word for word.

    So are those in the guides that name an example.
    """
    guides = "docs/guides"
    quotes = [
        *snippets("README.md"),
        snippets(f"{guides}/robot.md")[0],
        snippets(f"{guides}/game.md")[0],
        snippets(f"{guides}/distillation.md")[-1],
    ]
    texts = [each.read_text(encoding="utf-8") for each in EXAMPLES.glob("*.py")]
    assert len(quotes) > 3
    for quote in quotes:
        assert any(quoted(quote, text) for text in texts), quote
