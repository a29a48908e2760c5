"""`agentkd eval`, from end to end on CartPole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentkd.cli import eval as command
from agentkd.cli.main import main
from agentkd.deploy.bundle import write_bundle
from agentkd.executors.architecture import initial
from agentkd.report import comparison
from agentkd.report.model import Report
from agentkd.report.write import write_report
from agentkd.spec import BoxSpec, DiscreteSpec, ObsSpec, Part, Spec
from tests.cli_reports import report, undocumented

CARTPOLE = Spec(ObsSpec((Part("", "box", (4,), "float32"),)), DiscreteSpec(2))
BALANCE = "tests.cli_planners:balance"
ENV = "CartPole-v1"
FEW = ["--episodes", "3"]


@pytest.fixture(autouse=True)
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time decisions for a moment only."""
    monkeypatch.setattr(command, "_SECONDS", 0.01)


@pytest.fixture
def executor(tmp_path: Path) -> str:
    """Make an executor that has learnt nothing."""
    file = tmp_path / "e.akd"
    write_bundle(file, initial("mlp:4", CARTPOLE, seed=3))
    return str(file)


Evaluated = Callable[..., dict[str, Any]]


@pytest.fixture
def evaluated(tmp_path: Path) -> Evaluated:
    """Run the command and give its report."""

    def evaluate(*words: str, status: int = 0) -> dict[str, Any]:
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        assert main(["eval", ENV, *words, *FEW, "--out", str(out)]) == status
        assert (out / "report.html").is_file()
        return report(out)

    return evaluate


def test_planner_and_executor_stand_side_by_side(
    executor: str, evaluated: Evaluated, capsys: pytest.CaptureFixture[str]
) -> None:
    """Return, retention, agreement, parameters and latency, on screen and in JSON."""
    data = evaluated(executor, BALANCE)
    planner, tiny = data["policies"]
    assert (planner["ref"], planner["kind"]) == (BALANCE, "planner")
    assert planner["returns"] == [500.0] * 3
    assert planner["retention"] == 1.0
    assert planner["agreement"] == 1.0
    assert (tiny["ref"], tiny["kind"]) == (executor, "executor")
    assert tiny["parameters"] == 30
    assert tiny["return"] < 100
    assert tiny["retention"] < 0.3
    assert 0.0 < tiny["agreement"] < 1.0
    assert tiny["decision_latency_us"]["p50"] > 0
    assert data["reference"] == BALANCE
    assert data["agreement_states"] == 1500
    assert data["planner_return"] == 500.0
    assert data["executor_return"] == tiny["return"]
    assert data["retention"] == tiny["retention"]
    assert data["decision_latency_us"] == tiny["decision_latency_us"]
    assert len(data["returns"]["random"]) == 3
    assert not data["interrupted"]
    assert undocumented(data, planner) == []
    said = capsys.readouterr().out
    assert BALANCE in said
    assert "500.0" in said
    assert "random" in said


def test_the_same_command_gives_the_same_returns(executor: str, evaluated: Evaluated) -> None:
    """Seeds are fixed; another seed gives other episodes."""
    first, again = evaluated(executor, BALANCE), evaluated(executor, BALANCE)
    other = evaluated(executor, BALANCE, "--seed", "5")
    assert first["returns"] == again["returns"]
    assert first["returns"]["random"] != other["returns"]["random"]


def test_the_reference_can_be_named(executor: str, evaluated: Evaluated) -> None:
    """Any policy can be; one that is not in the list joins it, first."""
    data = evaluated(BALANCE, executor, "--reference", executor)
    assert [each["ref"] for each in data["policies"]] == [executor, BALANCE]
    data = evaluated(executor, "--reference", BALANCE)
    assert [each["ref"] for each in data["policies"]] == [BALANCE, executor]


def test_without_a_planner_there_is_no_retention(
    executor: str, evaluated: Evaluated, capsys: pytest.CaptureFixture[str]
) -> None:
    """Executors alone are measured, and what is missing is said."""
    data = evaluated(executor)
    assert data["reference"] is None
    assert data["policies"][0]["retention"] is None
    assert data["policies"][0]["agreement"] is None
    assert "--reference" in capsys.readouterr().out


def test_a_memory_is_measured_without_agreement(evaluated: Evaluated) -> None:
    """A single state does not tell what a policy with memory would do there."""
    data = evaluated(BALANCE, "tests.cli_planners:memory")
    _, recurrent = data["policies"]
    assert recurrent["return"] == 500.0
    assert recurrent["agreement"] is None
    assert recurrent["decision_latency_us"]["count"] > 0


def test_saved_results_join_in(
    executor: str, evaluated: Evaluated, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder with a report, or its file; what was measured otherwise is told."""
    write_report(
        tmp_path / "run",
        Report(
            {
                "command": "run",
                "env": ENV,
                "seed": 77,
                "executor_parameters": 30,
                "arms": {"executor": {"returns": [100.0, 200.0]}, "runtime": {"returns": []}},
            }
        ),
    )
    evaluated(executor, BALANCE)
    earlier = next(each for each in tmp_path.glob("out*"))
    capsys.readouterr()
    data = evaluated(BALANCE, str(tmp_path / "run"), str(earlier / "report.json"))
    refs = [(each["kind"], each["name"]) for each in data["policies"]]
    assert refs[:2] == [("planner", f"callable {BALANCE}"), ("saved", "arm executor")]
    arm = data["policies"][1]
    assert (arm["return"], arm["parameters"]) == (150.0, 30)
    assert arm["decision_latency_us"] is None
    assert ("saved", executor) in refs
    said = " ".join(capsys.readouterr().out.split())
    assert "lived other episodes: 2, from seed 77" in said
    # The earlier evaluation was over the same episodes.
    assert said.count("lived other episodes") == 1


def test_a_policy_that_fails_leaves_the_others(
    evaluated: Evaluated, capsys: pytest.CaptureFixture[str]
) -> None:
    """NaN ends its own episodes; the rest is measured, and the status is 1."""
    data = evaluated(BALANCE, "tests.cli_planners:late_nothing", status=1)
    good, bad = data["policies"]
    assert good["return"] == 500.0
    assert bad["return"] is None
    assert "NaN" in bad["fault"]
    assert "failed" in capsys.readouterr().out


def test_ctrl_c_keeps_what_was_measured(
    executor: str, evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policies that were done are in the report, and the status is 130."""
    real = comparison.live

    def interrupted(candidate: Any, *rest: Any, **named: Any) -> Any:
        if candidate.kind == "executor":
            raise KeyboardInterrupt
        return real(candidate, *rest, **named)

    monkeypatch.setattr(comparison, "live", interrupted)
    data = evaluated(BALANCE, executor, status=130)
    assert data["interrupted"]
    assert [each["return"] for each in data["policies"]] == [500.0]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "at least one policy"),
        (["nowhere"], "No planner 'nowhere'"),
        (["gone.akd"], "gone.akd"),
        (["gone.json"], "gone.json"),
        (["tests.cli_planners:balnce"], "Did you mean 'balance'?"),
        ([BALANCE, "--episodes", "0"], "--episodes is 0"),
        ([BALANCE, "--seed", "-1"], "--seed is -1"),
        ([BALANCE, "--reference", "nowhere"], "No planner 'nowhere'"),
    ],
)
def test_what_leads_nowhere_is_refused_at_once(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is measured, with the reason, in status 2."""
    try:
        status = main(["eval", ENV, *words])
    except SystemExit as ended:
        status = int(ended.code or 0)
    assert status == 2
    assert reason in capsys.readouterr().err


def test_what_is_for_another_environment_is_refused(
    executor: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An executor, a report, and an environment that is not there."""
    other = tmp_path / "other.akd"
    box = Spec(CARTPOLE.obs, BoxSpec((-1.0,), (1.0,), (1,)))
    write_bundle(other, initial("mlp:4", box))
    assert main(["eval", ENV, str(other)]) == 2
    assert "DiscreteSpec(n=2" in capsys.readouterr().err
    write_report(tmp_path / "r", Report({"env": "Acrobot-v1", "returns": {"planner": [1]}}, []))
    assert main(["eval", ENV, str(tmp_path / "r")]) == 2
    assert "is about Acrobot-v1, not CartPole-v1" in capsys.readouterr().err
    write_report(tmp_path / "b", Report({"env": ENV, "command": "latency"}, []))
    assert main(["eval", ENV, str(tmp_path / "b")]) == 2
    assert "holds no returns" in capsys.readouterr().err
    assert main(["eval", "CartPol-v1", executor]) == 2
    assert "CartPole-v1" in capsys.readouterr().err


def test_an_earlier_report_is_not_overwritten_unasked(
    executor: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--overwrite has to be given, and only our own files are replaced."""
    out = tmp_path / "out"
    words = ["eval", ENV, executor, "--episodes", "1", "--out", str(out)]
    assert main(words) == 0
    before = (out / "report.json").read_text()
    assert main(words) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (out / "report.json").read_text() == before
    assert main([*words, "--overwrite"]) == 0


def test_nothing_is_written_without_out(executor: str, tmp_path: Path) -> None:
    """The table on the screen is all, unless a folder is named."""
    before = sorted(Path.cwd().iterdir())
    assert main(["eval", ENV, executor, "--episodes", "1"]) == 0
    assert sorted(Path.cwd().iterdir()) == before


def test_a_wide_terminal_shows_names_beside_figures(
    executor: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there is room, no numbers stand for names."""
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["eval", ENV, executor, BALANCE, "--episodes", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(BALANCE in line and "500.0" in line for line in lines)
