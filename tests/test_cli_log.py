"""`agentkd log`, and what `agentkd run` writes for others to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.cli.main import main
from agentkd.deploy.bundle import write_bundle
from agentkd.runtime import Agent, Fresh, Guard, StrategyOptions
from tests.cli_reports import report
from tests.runtime_children import Ahead, constant
from tests.test_cli_run import words


def safe(obs: Any, action: Any) -> bool:
    """A guard's check for the command line: nobody chooses 3."""
    return bool(action != 3)


def routers() -> list[Any]:
    return [Fresh(2), Guard(safe)]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A log of 40 ticks in four episodes."""
    path = tmp_path / "run.akdlog"
    options = StrategyOptions(trust=None)
    with Agent(
        constant(2), planner=Ahead(3), planner_latency=2, strategies=options, log=path
    ) as agent:
        for i in range(40):
            if i and i % 10 == 0:
                agent.reset()
            agent.act(np.array([i % 10, 0, 0], np.float32))
    return path


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    main(["log", *words, "--json"])
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    return data


def test_summary_counts_what_was_decided(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ticks, episodes, sources and reasons are those of the run."""
    data = told([str(written)], capsys)
    assert (data["ticks"], data["episodes"], data["ended"]) == (40, 4, True)
    assert sum(sum(each.values()) for each in data["decisions"].values()) == 40
    assert data["decisions"]["strategy"]["ahead"] > 0
    assert data["replay"] is None
    assert main(["log", str(written)]) == 0
    said = capsys.readouterr().out
    assert "40 ticks (0 to 39), 4 episodes" in said
    assert "executor" in said


def test_filters_choose_decisions(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Source, reason, episode and ticks narrow what is shown and written."""
    out = tmp_path / "some.csv"
    command = ["log", str(written), "--show", "-1", "--csv", str(out)]
    assert main([*command, "--source", "executor", "--ticks", "10:19"]) == 0
    lines = out.read_text().splitlines()
    assert lines[0] == (
        "tick,episode,source,reason,version,taken_us,lateness_us,action0,obs0,obs1,obs2"
    )
    rows = [line.split(",") for line in lines[1:]]
    assert rows
    assert {row[2] for row in rows} == {"executor"}
    assert all(10 <= int(row[0]) <= 19 for row in rows)
    assert {row[1] for row in rows} == {"1"}
    said = capsys.readouterr().out
    assert f"{len(rows)} decisions in" in said
    assert main([*command, "--reason", "late"]) == 2
    assert "there already" in capsys.readouterr().err


def test_replay_ends_in_0_or_names_the_first_difference(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same executors decide the same; another one differs, with status 1."""
    assert main(["log", str(written), "--replay"]) == 0
    assert "Every one came out as it was logged" in capsys.readouterr().out
    other = tmp_path / "other.akd"
    write_bundle(other, constant(1))
    assert main(["log", str(written), "--executor", str(other)]) == 1
    said = capsys.readouterr().out
    assert "tick 0, episode 0" in said
    assert "executor (late) 2" in said
    data = told([str(written), "--executor", str(other)], capsys)
    assert data["replay"]["first"]["replayed"] == "executor (late) 1"


def test_replay_takes_the_routers_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reference gives them again; without it the log says which they were."""
    path = tmp_path / "run.akdlog"
    with Agent(
        constant(3), planner=Ahead(4), planner_latency=2, routers=routers(), log=path
    ) as agent:
        for i in range(30):
            agent.act(np.array([i, 0, 0], np.float32))
    assert main(["log", str(path), "--replay"]) == 2
    assert "Fresh, Guard" in " ".join(capsys.readouterr().err.split())
    ref = "tests.test_cli_log:routers"
    assert main(["log", str(path), "--replay", "--routers", ref]) == 0


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--source", "strategi"], "Did you mean 'strategy'?"),
        (["--ticks", "5"], "FIRST:LAST"),
        (["--ticks", "a:b"], "FIRST:LAST"),
        (["--tolerance", "-1"], "at least 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    written: Path, more: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Filters that is invalid end in status 2."""
    assert main(["log", str(written), *more]) == 2
    assert reason in " ".join(capsys.readouterr().err.split())


def test_run_writes_a_log_that_replays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`run --log` leaves a log for each arm; metrics go where they were asked to."""
    out, prom = tmp_path / "out", tmp_path / "agent.prom"
    more = ["--log", "--prometheus", "0", "--prometheus-file", str(prom)]
    assert main(words(out, *more, "--tensorboard")) == 0
    said = capsys.readouterr().out
    assert "metrics at http://127.0.0.1:" in said
    for arm in ("planner", "executor", "runtime"):
        assert main(["log", str(out / f"decisions-{arm}.akdlog"), "--replay"]) == 0
        assert "200 ticks were decided again" in capsys.readouterr().out
    page = prom.read_text()
    assert 'agentkd_ticks_total{arm="runtime",env="CartPole-v1"} 200.0' in page
    assert list((out / "tensorboard").glob("events.*"))


def test_run_takes_routers_and_seams_as_references(tmp_path: Path) -> None:
    """A guard on the command line refuses what it refuses in a program."""
    out = tmp_path / "out"
    guard = ["--guard", "tests.test_cli_log:never_left", "--dwell", "1"]
    assert main(words(out, *guard, "--max-age", "5", "--workers", "2")) == 0
    data = report(out)
    metrics = data["arms"]["executor"]["metrics"]
    assert metrics["guard_interventions_total"] > 0
    assert "guard" in metrics["vetoes_total"]["executor"]


def never_left(obs: Any, action: Any) -> bool:
    """A guard's check that refuses one of CartPole's choices."""
    return bool(action != 0)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--dwell", "3"], "belong to --guard"),
        (["--lead", "3"], "belongs to --roll-forward"),
        (["--workers", "0"], "--workers is 0"),
        (["--guard", "tests.test_cli_log:nothing"], "has no 'nothing'"),
        (["--guard", "tests.test_cli_log:__name__"], "not a function"),
        (["--routers", "tests.test_cli_log:__name__"], "a router, a list of them"),
        (["--priority", "0"], "at least 1 and at most 99"),
        (["--blend", "-1"], "at least 0"),
        (["--blend", "3"], "would average"),
    ],
)
def test_run_refuses_what_cannot_be_meant(
    more: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options that do not go together end in status 2 before anything is measured."""
    assert main(words(tmp_path / "out", *more)) == 2
    assert reason in " ".join(capsys.readouterr().err.split())
