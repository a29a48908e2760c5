"""`agentkd distill`, from end to end on CartPole."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.cli.distilled import period_of
from agentkd.cli.main import main
from agentkd.deploy.bundle import read_bundle
from agentkd.distillation import task
from agentkd.dists import pack
from agentkd.measure.evaluate import evaluate
from tests.cli_planners import balance
from tests.cli_reports import report, undocumented
from tests.waiting import ENOUGH

ROOT = Path(__file__).parents[1]
BALANCE = "tests.cli_planners:balance"
ENV = "CartPole-v1"


def words(out: Path, *more: str, planner: str = BALANCE) -> list[str]:
    """Make a short command line."""
    short = ["--executor", "mlp:8", "--labels", "400", "--episodes", "2"]
    return ["distill", ENV, "--planner", planner, *short, "--out", str(out), *more]


def test_a_planner_goes_in_and_an_executor_comes_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file acts, the report says what it kept, and the next command is told."""
    out = tmp_path / "out"
    assert main(words(out)) == 0
    bundle = read_bundle(out / "executor.akd")
    assert bundle.executor.architecture == "mlp:8"
    assert bundle.manifest["provenance"]["planner"]["refs"] == [BALANCE]
    data = report(out)
    assert data["command"] == "distill"
    assert data["planner_return"] == 500.0
    assert data["executor_parameters"] == 58
    assert data["labels"] >= 400
    assert data["labels_refused"] == 0
    assert len(data["returns"]["executor"]) == 2
    assert data["executor_return"] == sum(data["returns"]["executor"]) / 2
    assert data["decision_latency_us"]["p50"] > 0
    assert data["seconds"] > 0
    assert not data["interrupted"]
    assert "<svg" in (out / "report.html").read_text()
    assert (out / "tensorboard").is_dir()
    assert undocumented(data) == []
    said = capsys.readouterr().out
    assert "retention" in said
    assert "agentkd run CartPole-v1 --planner" in said


@pytest.mark.parametrize(("given", "most"), [((), 1_000_000), (("--kept-bytes", "480"), 480)])
def test_the_file_keeps_labels(given: tuple[str, ...], most: int, tmp_path: Path) -> None:
    """Some of the newer half, as many as was said, with the planner's own answers."""
    assert main(words(tmp_path, *given)) == 0
    labels = read_bundle(tmp_path / "executor.akd").labels
    assert labels is not None
    assert 20 <= len(labels.obs) <= min(most // 24, 208)
    right = balance(labels.obs)
    assert np.array_equal(pack(labels.dist), pack(right))


def test_the_file_keeps_no_labels_if_none_are_wanted(tmp_path: Path) -> None:
    """0 bytes hold none, and fewer cannot be."""
    assert main(words(tmp_path, "--kept-bytes", "0")) == 0
    assert read_bundle(tmp_path / "executor.akd").labels is None
    assert main(words(tmp_path, "--kept-bytes", "-1", "--overwrite")) == 2


def test_the_file_says_what_its_numbers_mean_and_what_was_kept(tmp_path: Path) -> None:
    """Contract, clock, retention and its own episodes are in the executor's file."""
    out = tmp_path / "out"
    told = ["--names", "obs=x,v,lean,turn", "action=left,right", "--units", "obs=m,,,"]
    assert main(words(out, *told)) == 0
    bundle = read_bundle(out / "executor.akd")
    assert bundle.contract.obs_names == ("x", "v", "lean", "turn")
    assert bundle.contract.obs_units == ("m", "", "", "")
    assert bundle.contract.action_names == ("left", "right")
    assert bundle.contract.period == 0.02
    came, data = bundle.manifest["provenance"], report(out)
    assert came["retention"]["mean"] == data["retention"]
    interval = [came["retention"]["low"], came["retention"]["high"]]
    assert interval == data["retention_interval"]
    assert came["returns"]["executor"] == data["executor_return"]
    assert came["versions"]["numpy"] == np.__version__
    assert len(bundle.golden["obs"]) > 64
    # CartPole begins within 0.05 of the middle in each number.
    assert np.abs(bundle.golden["obs"][64]).max() <= 0.05


@pytest.mark.parametrize(("env", "period"), [("Pendulum-v1", 0.05), ("InvertedPendulum-v5", 0.04)])
def test_the_clock_is_the_environment_s_own(env: str, period: float) -> None:
    """The length of a simulated step goes before the frames a second it is drawn at."""
    assert period_of(env) == pytest.approx(period)


def test_labels_alone_repeat_themselves_exactly(tmp_path: Path) -> None:
    """The same seed gives the same executor, byte for byte of its weights."""
    vectors: list[list[float]] = []
    for seed in ("3", "3", "4"):
        out = tmp_path / f"out{len(vectors)}"
        assert main(words(out, "--seed", seed)) == 0
        vectors.append(read_bundle(out / "executor.akd").executor.vector().tolist())
    assert vectors[0] == vectors[1]
    assert vectors[0] != vectors[2]


def test_the_same_command_gives_the_same_file(tmp_path: Path) -> None:
    """Provenance, contract and golden episodes hold no date and no speed either."""
    files = []
    for _ in range(2):
        assert main(words(tmp_path / "out", "--overwrite")) == 0
        files.append((tmp_path / "out" / "executor.akd").read_bytes())
    assert files[0] == files[1]


def test_an_earlier_run_is_kept_unless_it_is_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a run of ours nor a folder of others is overwritten by accident."""
    out = tmp_path / "out"
    assert main(words(out)) == 0
    before = (out / "executor.akd").read_bytes()
    assert main(words(out, "--seed", "9")) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (out / "executor.akd").read_bytes() == before
    # An option that is invalid is refused before anything is replaced.
    assert main(words(out, "--overwrite", "--batch", "0")) == 2
    assert main(words(out, "--overwrite", "--temperature", "-1")) == 2
    assert main(words(out, "--overwrite", "--executor", "mpl:3")) == 2
    assert (out / "report.json").is_file()
    assert main(words(out, "--seed", "9", "--overwrite")) == 0
    assert (out / "executor.akd").read_bytes() != before
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    assert main(words(other, "--overwrite")) == 2
    assert [each.name for each in other.iterdir()] == ["thesis.tex"]


def test_resuming_goes_on_from_where_it_ended(tmp_path: Path) -> None:
    """Labels and steps count on, and the time does."""
    out = tmp_path / "out"
    assert main(words(out)) == 0
    first = report(out)
    assert main(words(out, "--labels", "900", "--resume")) == 0
    second = report(out)
    assert second["labels"] >= 900
    assert second["steps"] > first["steps"]
    assert second["seconds"] > first["seconds"]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--labels", "0"], "labels is 0"),
        (["--seconds", "-1"], "seconds is -1"),
        (["--episodes", "0"], "episodes is 0"),
        (["--executor", "mlp:0"], "widths"),
        (["--terms", "hard:smoothing=2"], "smoothing is 2"),
        (["--terms", "soft + hrad"], "Did you mean 'hard'?"),
        (["--terms", "2 soft", "--temperature", "1"], "write it into --terms"),
        (["--temperature", "warm"], "a number or 'auto'"),
        (["--resume"], "--resume"),
        (["--algorithm", "PPO"], "algorithm"),
        (["--names", "obs=x,y"], "2 obs names for 4"),
        (["--units", "speed=m/s"], "obs=x,y or action="),
        (["--period", "0"], "above 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    more: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each wrong option ends in status 2, with the reason and without a traceback."""
    out = tmp_path / "out"
    assert main(words(out, *more)) == 2
    assert reason in " ".join(capsys.readouterr().err.split())
    assert not (out / "executor.akd").exists()


@pytest.mark.parametrize(
    ("planner", "reason"),
    [
        ("nowhere", "No planner 'nowhere'"),
        ("tests.cli_planners:nothing", "NaN"),
        ("tests.cli_planners:Breaking", "Breaking"),
    ],
)
def test_a_planner_that_is_none_is_refused(
    planner: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What leads nowhere, answers NaN or cannot act is told before anything is made."""
    out = tmp_path / "out"
    assert main(words(out, planner=planner)) == 2
    assert reason in capsys.readouterr().err
    assert not out.exists()


def test_an_interruption_while_measuring_keeps_the_executor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after the learning leaves the file and a report without its return."""
    real = evaluate

    def interrupted(env: str, policy: Any, **named: Any) -> Any:
        if hasattr(policy, "layers"):
            raise KeyboardInterrupt
        return real(env, policy, **named)

    monkeypatch.setattr(task, "evaluate", interrupted)
    out = tmp_path / "out"
    main(words(out))
    assert read_bundle(out / "executor.akd").executor.architecture == "mlp:8"
    data = report(out)
    assert data["interrupted"]
    assert data["executor_return"] is None
    assert data["planner_return"] == 500.0


def test_ctrl_c_keeps_what_was_learnt(tmp_path: Path) -> None:
    """A real interruption of a real process leaves executor and report."""
    out = tmp_path / "out"
    command = [
        *[sys.executable, "-m", "agentkd", "distill", ENV, "--planner", BALANCE],
        *["--executor", "mlp:8", "--seconds", "10000", "--episodes", "2"],
        *["--out", str(out)],
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            # Lines come when there is progress; the first ones may have no label yet.
            said = ""
            for line in process.stdout:
                said += line
                if re.search("labels [1-9]", line):
                    break
            # As a terminal does: to every process of the group.
            os.killpg(process.pid, signal.SIGINT)
            rest, errors = process.communicate(timeout=ENOUGH)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert "Traceback" not in errors
    assert "--resume" in rest
    data = report(out)
    assert data["interrupted"]
    assert data["labels"] > 0
    assert 0 < data["seconds"] < 10_000
    assert read_bundle(out / "executor.akd").executor.parameters == 58
