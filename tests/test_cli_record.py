"""`agentkd record` and `agentkd distill --data`, from the command line to the files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentkd.cli.main import main
from agentkd.deploy.bundle import read_bundle
from agentkd.distillation.dataset import read_dataset
from tests.cli_reports import report, undocumented

BALANCE = "tests.cli_planners:balance"
RECORD = ["record", "CartPole-v1", "--planner", BALANCE, "--episodes", "3"]


def recorded(out: Path, *more: str) -> Path:
    """Record some thousand labels of the balancing rule."""
    assert main([*RECORD, "--labels", "2000", "--out", str(out), *more]) == 0
    return out


def distilled(data: Path, out: Path, *more: str) -> int:
    """Distil from them, and give the status."""
    words = ["distill", "--data", str(data), "--executor", "mlp:16", "--steps", "400"]
    return main([*words, "--episodes", "3", "--out", str(out), *more])


def test_what_is_recorded_is_distilled_without_the_planner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The dataset knows environment, planner and returns: nothing else is named."""
    data = recorded(tmp_path / "labels")
    about = report(data)
    assert about["labels"] == 2000
    assert about["planner_return"] == 500.0
    assert undocumented(about) == []
    assert "agentkd distill --data" in capsys.readouterr().out
    assert distilled(data, tmp_path / "out") == 0
    found = report(tmp_path / "out")
    assert found["env"] == "CartPole-v1"
    assert found["returns"]["planner"] == [500.0] * 3
    assert found["retention"] > 0.9
    assert found["labels"] < 2000
    assert read_bundle(tmp_path / "out" / "executor.akd").executor.parameters == 114


def test_steps_repeat_themselves_exactly(tmp_path: Path) -> None:
    """The same dataset and seed give the same weights."""
    data = recorded(tmp_path / "labels")
    vectors = []
    for index, seed in enumerate(("1", "1", "2")):
        out = tmp_path / f"out{index}"
        assert distilled(data, out, "--seed", seed) == 0
        vectors.append(read_bundle(out / "executor.akd").executor.vector().tolist())
    assert vectors[0] == vectors[1] != vectors[2]


def test_a_dataset_is_distilled_where_its_environment_cannot_be_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is an executor, and it is said that nothing could be measured."""
    data = recorded(tmp_path / "labels")
    path = data / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "env": "Elsewhere-v3"}))
    assert distilled(data, tmp_path / "out") == 0
    assert "Nothing can be measured" in capsys.readouterr().out
    assert report(tmp_path / "out")["retention"] is None
    assert (tmp_path / "out" / "executor.akd").is_file()


def test_a_dataset_calls_nothing_that_it_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A function that stands for the environment is not called."""
    data = recorded(tmp_path / "labels")
    manifest = json.loads((data / "manifest.json").read_text())
    made = tmp_path / "made"
    for env in (f'os:mkdir{{"path": "{made}"}}', "os:abort"):
        (data / "manifest.json").write_text(json.dumps({**manifest, "env": env}))
        assert distilled(data, tmp_path / "out", "--overwrite") == 0
        assert "name the environment yourself" in capsys.readouterr().out
        auto = ["--executor", "auto", "--steps", "9"]
        assert distilled(data, tmp_path / "auto", *auto) == 2
        assert "name the environment yourself" in capsys.readouterr().err
    assert not made.exists()


def test_an_executor_may_drive(tmp_path: Path) -> None:
    """Labels stay the planner's, for states that the executor visits."""
    data = recorded(tmp_path / "labels")
    assert distilled(data, tmp_path / "out") == 0
    executor = str(tmp_path / "out" / "executor.akd")
    more = recorded(tmp_path / "more", "--executor", executor, "--random", "0")
    dataset = read_dataset(more)
    assert dataset.about.more["executor"] == executor
    assert dataset.kind == "categorical"


def test_a_dataset_is_overwritten_only_if_it_is_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The earlier labels stay, unless --overwrite is given."""
    data = recorded(tmp_path / "labels")
    before = (data / "manifest.json").read_text()
    assert main([*RECORD, "--out", str(data), "--labels", "99"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (data / "manifest.json").read_text() == before
    recorded(data, "--overwrite", "--seed", "5")
    assert read_dataset(data).about.seed == 5


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["distill", "--data", "nowhere"], "not a dataset"),
        (["distill", "--data", "minari:none/of-v0"], "no dataset"),
        (["distill", "--data", ".", "--labels", "9"], "--labels"),
        (["distill", "CartPole-v1"], "--planner"),
        (["distill", "--planner", BALANCE], "environment"),
        (["distill", "CartPole-v1", "--planner", BALANCE, "--steps", "9"], "--steps"),
        ([*RECORD, "--labels", "0"], "labels is 0"),
        ([*RECORD, "--random", "2"], "chance is 2"),
        ([*RECORD, "--planner-share", "7"], "least_share is 7"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    words: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2 and the reason, before anything is written."""
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_labels_of_another_environment_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Naming the wrong environment ends before any learning."""
    data = recorded(tmp_path / "labels")
    assert distilled(data, tmp_path / "out", "Pendulum-v1") == 2
    assert "4 numbers" in capsys.readouterr().err


def test_an_executor_with_a_memory_drives_and_learns(tmp_path: Path) -> None:
    """From a dataset, with sequences, to a measured file; then it drives."""
    data = recorded(tmp_path / "labels")
    out = tmp_path / "out"
    assert distilled(data, out, "--executor", "gru:6") == 0
    bundle = read_bundle(out / "executor.akd")
    assert bundle.executor.memory == 6
    assert len(bundle.golden["obs"]) >= 1000
    assert bundle.contract.period == 0.02
    assert "retention" in bundle.manifest["provenance"]
    words = ["--executor", str(out / "executor.akd"), "--labels", "200"]
    again = tmp_path / "again"
    assert main([*RECORD, *words, "--out", str(again)]) == 0


def test_equal_runs_give_equal_files(tmp_path: Path) -> None:
    """Nothing in them tells when or how fast they were made."""
    data = recorded(tmp_path / "labels")
    files = []
    for name in ("one", "two"):
        assert distilled(data, tmp_path / name) == 0
        bundle = read_bundle(tmp_path / name / "executor.akd")
        facts = dict(bundle.manifest["provenance"])
        facts.pop("command")
        files.append((facts, bundle.manifest["entries"]))
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--steps-per-label", "3"], "--steps-per-label is not for --data"),
        (["--halving", "3"], "--halving is not for --data"),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody gets another planner than was asked for."""
    data = recorded(tmp_path / "labels")
    assert distilled(data, tmp_path / "out", *words) == 2
    assert said in " ".join(capsys.readouterr().err.split())
