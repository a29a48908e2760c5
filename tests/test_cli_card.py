"""`agentkd card`: figures that were measured, in a README that keeps its own text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentkd.cli.main import main
from agentkd.deploy.bundle import write_bundle
from agentkd.executors.architecture import initial
from agentkd.report import card
from agentkd.spec import DiscreteSpec, ObsSpec, Part, Spec

yaml: Any = pytest.importorskip("yaml")
EXECUTOR = initial("mlp:4", Spec(ObsSpec((Part("", "box", (3,), "float32"),)), DiscreteSpec(2)))
ENV = 'envs.mine:team/Mine-v0{"gravity": -5}'
EVAL: dict[str, Any] = {
    "schema": 1,
    "argv": ["agentkd", "eval", "Mine-v0", "<b>"],
    "versions": {"python": "3.11.7", "numpy": "2.4.6"},
    "command": "eval",
    "env": ENV,
    "seed": 1000,
    "episodes": 3,
    "reference": "policies/mine",
    "platform": "Linux x86_64, 2 cores",
    "random_return": -10.0,
    "random_return_interval": [-12.0, -8.0],
    "policies": [
        {"ref": "policies/mine", "name": "PPO", "parameters": 4996, "return": 2.0}
        | {"returns": [1.0, 2.0, 3.0], "return_interval": [1.0, 3.0], "retention": 1.0}
        | {"retention_interval": [1.0, 1.0], "decision_latency_us": {"p50": 240.04}},
        {"ref": "e|x.akd", "name": "executor", "parameters": 30, "return": 1.5}
        | {"returns": [1.5], "return_interval": [None, None], "retention": 0.5}
        | {"retention_interval": [0.25, 0.75], "decision_latency_us": None},
        {"ref": "failed", "name": "PPO", "return": None, "returns": []},
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "mine"
    place.mkdir()
    told = {
        "env": "Mine-v0",
        "retention": {"mean": 0.98, "low": 0.95, "high": 1.01, "episodes": 20, "seed": 1000},
        "returns": {"planner": 270.1, "executor": 265.0, "random": -211.5},
    }
    write_bundle(place / "executor.akd", EXECUTOR, told)
    return place


def front(text: str) -> dict[str, Any]:
    """The front matter, as YAML."""
    assert text.startswith("---\n")
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def test_an_executor_file_tells_its_own_figures(folder: Path) -> None:
    """Without a report: what was measured where it was distilled."""
    assert main(["card", str(folder / "executor.akd"), "--licence", "mit"]) == 0
    text = (folder / "README.md").read_text()
    told = front(text)
    assert told["library_name"] == "agentkd"
    assert told["license"] == "mit"
    assert {"reinforcement-learning", "Mine-v0"} <= set(told["tags"])
    planner, executor = told["model-index"]
    assert planner["name"] == "mine, planner"
    (result,) = executor["results"]
    assert result["task"]["type"] == "reinforcement-learning"
    assert result["dataset"] == {"name": "Mine-v0", "type": "Mine-v0"}
    metrics = {each["type"]: each["value"] for each in result["metrics"]}
    assert metrics == {"mean_reward": "265.00", "retention": "0.980"}
    assert text.split("---\n")[2].startswith("\n# mine\n")
    assert "| executor | 265.0 |  | 0.980 (0.950 … 1.010) |" in text
    assert "20 episodes each from seed 1000" in text
    assert 'agentkd.read_bundle("executor.akd")' in text


def test_a_report_tells_more(folder: Path) -> None:
    """Each policy with its interval, spread, size and latency; markup in a name is text."""
    report = folder / "report.json"
    report.write_text(json.dumps(EVAL))
    assert main(["card", str(folder), "--name", "walk: it"]) == 0
    text = (folder / "README.md").read_text()
    told = front(text)
    names = [each["name"] for each in told["model-index"]]
    assert names == ["walk: it, policies/mine (PPO)", "walk: it, e|x.akd (executor)"]
    metrics = told["model-index"][0]["results"][0]["metrics"]
    values = {each["type"]: each["value"] for each in metrics}
    assert values == {"mean_reward": "2.00 +/- 1.00", "decision_latency_us_p50": "240.0"}
    assert told["model-index"][0]["results"][0]["dataset"] == {"name": ENV, "type": "Mine-v0"}
    assert "| policies/mine (PPO) | 2.0 | 1.0 … 3.0 |  | 4,996 | 240.0 µs |" in text
    assert "| e\\|x.akd (executor) | 1.5 |  | 0.500 (0.250 … 0.750) | 30 |  |" in text
    assert "| random | -10.0 | -12.0 … -8.0 |  |  |  |" in text
    assert "failed" not in text
    assert "    agentkd eval Mine-v0 '<b>'\n" in text
    assert "On Linux x86_64, 2 cores. With numpy 2.4.6, python 3.11.7." in text


def test_a_readme_keeps_its_text(folder: Path) -> None:
    """The front matter and one block are replaced; twice is once."""
    own = "# My policy\n\nTrained for days.\n\n## Notes\n\nMine.\n"
    (folder / "README.md").write_text(own)
    for _ in range(2):
        assert main(["card", str(folder)]) == 0
    text = (folder / "README.md").read_text()
    assert text.count(card.BEGIN) == 1
    assert text.count("library_name") == 1
    assert own in text
    moved = text.replace("## Notes\n\nMine.\n", "") + "\n## Notes\n\nMine.\n"
    (folder / "README.md").write_text(moved)
    assert main(["card", str(folder)]) == 0
    assert (folder / "README.md").read_text() == moved


def test_front_matter_of_ones_own_is_not_replaced(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error says what to do."""
    own = "---\nlicense: apache-2.0\n---\n\n# Mine\n"
    (folder / "README.md").write_text(own)
    assert main(["card", str(folder)]) == 2
    assert "front matter of its own" in " ".join(capsys.readouterr().err.split())
    assert (folder / "README.md").read_text() == own
    assert main(["card", str(folder), "--out", str(folder / "CARD.md")]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere is not there"),
        (["empty"], "no file of a planner"),
        (["mine", "--report", "empty.json"], "holds no returns"),
        (["mine", "--out", "odd.md"], "is not UTF-8"),
    ],
)
def test_what_makes_no_card_is_named(
    words: list[str],
    said: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing is written."""
    monkeypatch.chdir(folder.parent)
    Path("empty").mkdir()
    Path("odd.md").write_bytes(b"\xff\xfe")
    Path("empty.json").write_text('{"schema": 1, "argv": [], "versions": {}}')
    assert main(["card", *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (folder / "README.md").exists()


@pytest.mark.parametrize(
    "value", [None, "x", [], {}, [1], {"p50": "x"}, float("nan"), True, [None, 1], [[1, 2]]]
)
def test_a_report_of_other_kinds_of_values_makes_a_card(value: Any) -> None:
    """What is no figure is left out."""
    for key in (
        "policies",
        "returns",
        "random_return",
        "episodes",
        "seed",
        "versions",
        "argv",
        "env",
    ):
        data = {**EVAL, key: value}
        text = card.card(card.of_report(data), {}, name="x", files={})
        front(text)


def test_the_cards_of_the_policies_are_cards() -> None:
    """Front matter that the Hub reads, and figures."""
    root = Path(__file__).parents[1] / "policies"
    for name in ("cheetah", "freeway", "lunarlander", "pendulum", "transformer"):
        told = front((root / name / "README.md").read_text())
        assert told["library_name"] == "agentkd"
        assert told["model-index"]
