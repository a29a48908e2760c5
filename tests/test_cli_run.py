"""`agentkd run`, from end to end on CartPole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.cli import run
from agentkd.cli.main import main
from agentkd.deploy.bundle import read_bundle, write_bundle
from agentkd.errors import WorkerError
from agentkd.executors.architecture import initial
from agentkd.measure import live as measure
from agentkd.runtime.live.page import LivePage
from agentkd.spec import BoxSpec, DiscreteSpec, ObsSpec, Part, Spec
from tests.cli_reports import report, undocumented
from tests.waiting import longer

CARTPOLE = Spec(ObsSpec((Part("", "box", (4,), "float32"),)), DiscreteSpec(2))
BALANCE = "tests.cli_planners:balance"


def words(out: Path, *more: str, env: str = "CartPole-v1") -> list[str]:
    """Make a short command line."""
    return [
        *["run", env, "--planner", BALANCE, "--clock", "virtual"],
        *["--executor", "mlp:8", "--planner-latency", "3", "--ticks", "200"],
        *["--learn-ticks", "500", "--film", "off", "--out", str(out), *more],
    ]


def test_three_arms_live_the_same_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It learns live, lives each arm for 200 ticks, and reports who acted."""
    out = tmp_path / "out"
    assert main(words(out)) == 0
    data = report(out)
    assert data["command"] == "run"
    assert list(data["arms"]) == ["executor", "planner", "runtime"]
    assert data["planner_return"] == 500.0
    assert data["planner_latency_ticks"] == 3
    for name, arm in data["arms"].items():
        assert arm["ticks"] == 200, name
        assert arm["metrics"]["ticks_total"] == 200, name
        assert arm["fault"] == ""
    # Every decision of the executor's arm is its own; the planner never acts late.
    assert list(data["arms"]["executor"]["metrics"]["decisions_total"]) == ["executor"]
    assert "executor" not in data["arms"]["planner"]["metrics"]["decisions_total"]
    assert data["learning"]["ticks"] == 500
    assert 450 <= data["labels"] <= 500
    learnt = data["learning"]
    arm = data["arms"]["runtime"]
    assert undocumented(data, learnt, learnt["metrics"], arm, arm["metrics"]) == []
    assert data["deadline_miss_total"] == arm["metrics"]["deadline_miss_total"]
    assert data["missed_cycles_total"] == 0
    assert sum(sum(e.values()) for e in data["decisions_total"].values()) == 200
    bundle = read_bundle(out / "executor.akd")
    assert bundle.executor.architecture == "mlp:8"
    assert bundle.contract.period == 1 / 50
    assert "<svg" in (out / "report.html").read_text()
    said = capsys.readouterr().out
    for name in ("planner, never late", "runtime", "random actions", "agentkd eval"):
        assert name in said


def test_a_planner_that_does_not_start_again_loses_no_arm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each arm starts its own; what earlier arms lived is reported, and the status says so."""
    real, names = measure.live, iter(["learning", "planner", "executor"])

    async def live(*given: Any) -> Any:
        if next(names, None) is None:
            raise WorkerError("The planner did not start: It was ended by SIGKILL.")
        return await real(*given)

    monkeypatch.setattr(run, "live", live)
    assert main(words(tmp_path / "out")) == 1
    assert list(report(tmp_path / "out")["arms"]) == ["executor", "planner"]
    assert "Without the arm runtime" in " ".join(capsys.readouterr().out.split())


def test_the_lead_says_which_arm_is_better_alone(tmp_path: Path) -> None:
    """An executor that pushes one way whatever happens, and a planner that balances though late."""
    executor, out = tmp_path / "one way.akd", tmp_path / "out"
    untaught = initial("linear", CARTPOLE)
    untaught.with_vector(np.zeros_like(untaught.vector()), 0).save(executor)
    how = ["run", "CartPole-v1", "--planner", BALANCE, "--clock", "virtual", "--film", "off"]
    how += ["--executor", str(executor), "--planner-latency", "3", "--episodes", "8"]
    assert main([*how, "--out", str(out)]) == 0
    data = report(out)
    apart = data["arms"]["planner"]["return"] - data["arms"]["runtime"]["return"]
    assert apart > 5
    assert f"The planner alone does better here, by {apart:.1f} (" in data["lead"]
    assert "The executor alone" not in data["lead"]


def test_a_live_page_shows_the_arms_and_changes_no_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its address is told; what is measured is the same with it and without."""
    quick = ["--hz", "5000", "--arms", "planner,runtime"]
    assert main(words(tmp_path / "a", "--live", *quick)) == 0
    assert "live at http://127.0.0.1:" in capsys.readouterr().out
    assert main(words(tmp_path / "b", *quick)) == 0
    shown, unseen = report(tmp_path / "a"), report(tmp_path / "b")
    assert shown["arms"]["runtime"]["returns"] == unseen["arms"]["runtime"]["returns"]
    assert shown["latency_changes"] == []


def test_a_latency_that_the_live_page_changed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arms of which one had another planner do not compare, and the report says so."""
    entitle = LivePage.entitle

    def changed(page: LivePage, title: str, pace: float) -> None:
        entitle(page, title, pace)
        if title == "runtime":
            page.changes.append((title, 7, 9))

    monkeypatch.setattr(LivePage, "entitle", changed)
    out = tmp_path / "out"
    assert main(words(out, "--live", "--hz", "5000", "--arms", "planner,runtime")) == 0
    assert report(out)["latency_changes"] == [["runtime", 7, 9]]
    page = (out / "report.html").read_text()
    assert "(runtime at tick 7: 9): the arms do not compare." in page


def test_an_executor_file_is_run_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is learnt, the chosen arms alone live, and it is said that nobody signed it."""
    file = tmp_path / "e.akd"
    executor = write_bundle(file, initial("mlp:4", CARTPOLE, seed=2)).executor
    out = tmp_path / "out"
    command = ["run", "CartPole-v1", "--planner", BALANCE, "--executor", str(file)]
    rest = ["--clock", "virtual", "--episodes", "2", "--arms", "runtime,executor", "--film", "off"]
    assert main([*command, *rest, "--out", str(out)]) == 0
    # Where a line is broken depends on how long the path is.
    assert "e.akd:unsigned" in "".join(capsys.readouterr().out.split())
    assert main([*command, *rest, "--out", str(tmp_path / "b"), "--executor-trust", "r.json"]) == 2
    assert "metadata/1.root.json" in capsys.readouterr().err.replace("\n", "")
    data = report(out)
    assert sorted(data["arms"]) == ["executor", "runtime"]
    assert all(len(arm["returns"]) == 2 for arm in data["arms"].values())
    assert "learning" not in data
    kept = read_bundle(out / "executor.akd").executor
    assert (kept.vector() == executor.vector()).all()


def test_the_same_command_gives_the_same_run(tmp_path: Path) -> None:
    """Under the virtual clock nothing depends on how fast the machine is."""
    reports = []
    for name in ("a", "b"):
        assert main(words(tmp_path / name)) == 0
        reports.append(report(tmp_path / name))
    for name in ("planner", "executor", "runtime"):
        first, second = (each["arms"][name] for each in reports)
        assert first["returns"] == second["returns"]
        assert first["unfinished_return"] == second["unfinished_return"]


def test_an_environment_that_raises_leaves_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was measured until then is kept, its words are told, the status is 1."""
    out = tmp_path / "out"
    status = main(words(out, "--arms", "executor", env="tests.cli_planners:Breaking"))
    said = capsys.readouterr()
    assert "the cable is loose" in said.out + said.err
    assert status in (1, 2)


def test_an_earlier_run_is_kept_unless_it_is_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--overwrite has to be given."""
    out = tmp_path / "out"
    assert main(words(out)) == 0
    before = (out / "executor.akd").read_bytes()
    assert main(words(out, "--seed", "3")) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (out / "executor.akd").read_bytes() == before
    assert main(words(out, "--seed", "3", "--overwrite")) == 0
    assert (out / "executor.akd").read_bytes() != before


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--arms", "runtme"], "Did you mean 'runtime'?"),
        (["--arms", ","], "No arms"),
        (["--planner-latency", "soon"], "'soon'"),
        (["--planner-latency", "real"], "--clock wall"),
        (["--learn-ticks", "0"], "--learn-ticks is 0"),
        (["--executor", "kept.akd", "--learn-ticks", "5"], "--learn-ticks"),
        (["--executor", "mpl:3"], "Did you mean 'mlp'"),
        (["--hz", "0"], "--hz is 0"),
        (["--ticks", "0"], "--ticks is 0"),
        (["--ticks", "-5"], "--ticks is -5"),
        (["--seconds", "nan"], "--seconds is nan"),
        (["--episodes", "0"], "--episodes is 0"),
        (["--seed", "-1"], "--seed is -1"),
        (["--budget", "-1"], "--budget is -1"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(
    more: list[str],
    reason: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each wrong option ends in status 2 before anything is measured or made."""
    monkeypatch.chdir(tmp_path)
    write_bundle(Path("kept.akd"), initial("mlp:4", CARTPOLE))
    out = tmp_path / "out"
    assert main(words(out, *more)) == 2
    said = capsys.readouterr()
    assert reason in " ".join(said.err.split())
    assert "Measuring" not in said.out
    assert not out.exists()


def test_an_executor_for_another_environment_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file's actions have to be the environment's."""
    file = tmp_path / "e.akd"
    box = Spec(CARTPOLE.obs, BoxSpec((-1.0,), (1.0,), (1,)))
    write_bundle(file, initial("mlp:4", box))
    command = ["run", "CartPole-v1", "--planner", BALANCE, "--executor", str(file)]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "Distil one for this environment" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_on_the_wall_clock_planner_and_distiller_are_processes(tmp_path: Path) -> None:
    """Two short arms in real time, learning included; every tick is accounted for."""
    out = tmp_path / "out"
    command = ["run", "CartPole-v1", "--planner", BALANCE, "--executor", "mlp:8"]
    command += ["--hz", "100", "--arms", "runtime", "--out", str(out), "--overwrite"]
    command += ["--film", "off"]
    for seconds in longer(1.0):
        ticks = round(100 * seconds)
        rest = ["--ticks", str(ticks), "--learn-ticks", str(2 * ticks)]
        assert main([*command, *rest]) == 0
        data = report(out)
        assert data["clock"] == "wall"
        assert data["planner_latency_ticks"] is None
        total = data["decisions_total"].values()
        assert sum(sum(reasons.values()) for reasons in total) == ticks
        arms = data["arms"]["runtime"], data["learning"]
        answered, learnt = (arm["metrics"] for arm in arms)
        if answered["planner_answers_total"] and learnt["distiller_steps_total"]:
            return
    raise AssertionError("neither answers nor steps")
