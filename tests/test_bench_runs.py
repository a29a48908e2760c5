"""Suites that are run: the same figures however they are run, killed, interrupted or failing."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from agentkd.bench.cells import Cell
from agentkd.bench.rows import Row, read_rows
from agentkd.bench.work import measure
from agentkd.cli.main import main
from tests.cli_reports import report, undocumented
from tests.programs import ROOT
from tests.waiting import ENOUGH, wait_for

SUITE = """
about = "Tests."
seeds = 2
episodes = 2
labels = 64
executors = ["mlp:4"]
methods = [{name = "fresh", method = "tests.bench_methods:fresh"}, "distill"]
arms = ["planner", "executor", "int8", "runtime"]
latencies = [1]

[[tasks]]
env = "tests.bench_methods:Stroll"
planner = "tests.bench_methods:forward"
"""
CELLS = 2 * (2 + 2 * 3 + 1)
FEW = SUITE.replace('"planner", "executor", "int8", "runtime"', '"executor"')


def suite_of(folder: Path, text: str = SUITE, method: str = "") -> str:
    """Write a suite; with a method, it has that one alone."""
    if method:
        text = re.sub(r"methods = .*", f'methods = ["tests.bench_methods:{method}"]', text)
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def rows_in(out: Path) -> list[Row]:
    """The rows, none of which may be damaged or there twice."""
    rows, damaged = read_rows(out / "cells.csv")
    assert not damaged
    assert len({each.key for each in rows}) == len(rows)
    return rows


def figures(out: Path) -> dict[str, tuple[object, ...]]:
    """What has to be the same in each run: everything but seconds."""
    return {
        each.key: tuple(v for k, v in each.values().items() if "seconds" not in k)
        for each in rows_in(out)
    }


def bench(*words: str) -> list[str]:
    """The command of a run as a program."""
    return [sys.executable, "-m", "agentkd", "bench", *words]


@contextlib.contextmanager
def program(*words: str) -> Iterator[subprocess.Popen[str]]:
    """A run as a program of its own, which is gone afterwards."""
    with subprocess.Popen(
        bench(*words), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        try:
            yield running
        finally:
            running.kill()


@pytest.fixture(autouse=True)
def _from_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run in one process."""
    folder = tmp_path_factory.mktemp("serial")
    os.chdir(ROOT)
    assert main(["bench", suite_of(folder), "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_each_cell_is_a_row_and_the_report_tells_its_keys(serial: Path) -> None:
    """With returns of the right episodes, and tables without a bare mean."""
    rows = rows_in(serial)
    assert len(rows) == CELLS
    walk = {each.seed: each for each in rows if each.arm == "planner" and not each.latency}
    # Seed 0 lives episodes 1000 and 1001 of 3 and 4 steps, each of which pays 2.
    assert walk[0].returns == (6.0, 8.0)
    data = report(serial)
    assert (data["command"], data["cells"]) == ("bench", CELLS)
    assert undocumented(data, *data["aggregates"], *data["comparisons"]) == []
    assert data["results"][0]["key"] in {each.key for each in rows}
    assert "| who acts |" in (serial / "table.md").read_text(encoding="utf-8")
    page = (serial / "report.html").read_text(encoding="utf-8")
    for title in (
        "Retention",
        "Performance profile",
        "In pairs",
        "tests.bench_methods:Stroll tests.bench_methods:forward",
    ):
        assert title in page


def test_processes_change_no_figure(serial: Path, tmp_path: Path) -> None:
    """Two give what one gives, to the last digit."""
    out = tmp_path / "out"
    assert main(["bench", suite_of(tmp_path), "--jobs", "2", "--out", str(out)]) == 0
    assert figures(out) == figures(serial)
    assert (out / "table.csv").read_bytes() == (serial / "table.csv").read_bytes()


def test_a_run_that_is_there_is_only_shown(serial: Path) -> None:
    """--resume measures nothing, and starts no process."""
    before = (serial / "cells.csv").read_bytes()
    suite = str(serial.parent / "mine.toml")
    assert main(["bench", suite, "--resume", "--out", str(serial)]) == 0
    assert (serial / "cells.csv").read_bytes() == before
    assert main(["bench", suite, "--out", str(serial)]) == 2


def test_a_dry_run_lists_cells_and_measures_none(
    serial: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What is done and what is to do, with an estimate."""
    suite = str(serial.parent / "mine.toml")
    assert main(["bench", suite, "--dry-run", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert said.count("to do") == CELLS + 1
    assert f"{CELLS} of {CELLS} cells are to do" in said
    assert "2 executors" not in said
    assert "4 executors" in said
    assert not (tmp_path / "out").exists()
    assert main(["bench", suite, "--dry-run", "--out", str(serial)]) == 0
    assert f"0 of {CELLS} cells are to do" in capsys.readouterr().out


def _has_rows(file: Path, wanted: int, running: subprocess.Popen[str]) -> bool:
    """Whether so many lines are there, or none will come."""
    there = file.exists() and file.read_bytes().count(b"\n") >= wanted
    return there or running.poll() is not None


def killed_runs(folder: Path, kills: int, text: str = SUITE, cells: int = CELLS) -> None:
    """Kill a run again and again when so many rows are there, drawn at random; then let it end."""
    suite, out = suite_of(folder, text), folder / "out"
    file = out / "cells.csv"
    draw = random.Random(5)
    before, resume = b"", False
    for number in range(kills):
        have = before.count(b"\n")
        # Later kills find less to do: each leaves some for the next.
        most = max(1, (cells - max(0, have - 1)) // (kills - number))
        wanted = max(1, have) + draw.randrange(most)
        words = [suite, "--jobs", "2", "--out", str(out), *(["--resume"] * resume)]
        with program(*words) as running:
            wait_for(partial(_has_rows, file, wanted, running))
            running.send_signal(signal.SIGKILL)
        resume = True
        after = file.read_bytes()
        # What was whole before is as it was: nothing is lost, and nothing done twice.
        whole = before[: before.rfind(b"\n") + 1]
        assert after.startswith(whole)
        before = after
    assert main(["bench", suite, "--jobs", "2", "--resume", "--out", str(out)]) == 0
    assert (out / "cells.csv").read_bytes().startswith(before[: before.rfind(b"\n") + 1])


def test_a_killed_run_goes_on_and_repeats_nothing(serial: Path, tmp_path: Path) -> None:
    """Three kill -9 at random moments: each finished cell has one row, the same as ever."""
    killed_runs(tmp_path, 3)
    assert figures(tmp_path / "out") == figures(serial)


@pytest.mark.live
def test_twenty_kills_lose_and_repeat_nothing(tmp_path: Path) -> None:
    """The same, twenty times in a run of more cells."""
    text = SUITE.replace("seeds = 2", "seeds = 12")
    killed_runs(tmp_path, 20, text, 6 * CELLS)
    here = tmp_path / "here"
    assert main(["bench", suite_of(tmp_path, text), "--out", str(here)]) == 0
    assert figures(tmp_path / "out") == figures(here)


def test_a_folder_is_one_runs_until_that_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second run is refused; after a kill -9 in the midst of a cell the folder is free."""
    note = tmp_path / "note"
    monkeypatch.setenv("AGENTKD_TEST_NOTE", str(note))
    suite, out = suite_of(tmp_path, FEW, "waiting"), tmp_path / "out"
    words = ["--resume", "--out", str(out), "--only", "executor  mlp:4  fresh"]
    with program(suite, "--out", str(out)) as running:
        wait_for(lambda: note.exists() or running.poll() is not None)
        assert main(["bench", suite, "--resume", "--out", str(out)]) == 2
        assert "Another run writes into" in capsys.readouterr().err
        running.send_signal(signal.SIGKILL)
    assert main(["bench", suite_of(tmp_path, FEW), *words]) == 0
    # What is chosen comes with what it is compared with.
    assert sorted({each.arm for each in rows_in(out)}) == ["executor", "planner", "random"]
    assert {each.method for each in rows_in(out)} == {"", "fresh"}


def test_ctrl_c_leaves_a_report_of_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 130; the cell under way has no row."""
    note = tmp_path / "note"
    monkeypatch.setenv("AGENTKD_TEST_NOTE", str(note))
    out = tmp_path / "out"
    with program(suite_of(tmp_path, FEW, "waiting"), "--jobs", "2", "--out", str(out)) as running:

        def under_way() -> bool:
            there = out / "cells.csv"
            return note.exists() and there.exists() and there.read_bytes().count(b"\n") > 0

        wait_for(lambda: under_way() or running.poll() is not None)
        running.send_signal(signal.SIGINT)
        said, _ = running.communicate(timeout=ENOUGH)
        assert running.returncode == 130, said
    assert report(out)["interrupted"] is True
    assert "go on with --resume" in said
    assert all(each.arm in ("random", "planner") for each in rows_in(out))


def test_a_cell_that_raises_is_a_row_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1; what needs its executor has the same error; --resume tries it again."""
    out = tmp_path / "out"
    suite = suite_of(tmp_path, method="failing")
    assert main(["bench", suite, "--out", str(out)]) == 1
    rows = rows_in(out)
    failed = [each for each in rows if each.error]
    assert {each.seed for each in failed} == {1}
    assert sorted(each.arm for each in failed) == ["executor", "int8", "runtime"]
    assert all("ValueError: the optimiser is gone (bench_methods.py:" in e.error for e in failed)
    assert sum("Its executor was not made" in each.error for each in failed) == 2
    assert "3 of" in capsys.readouterr().out
    assert main(["bench", suite, "--resume", "--out", str(out)]) == 1
    assert {e.key for e in rows_in(out)} == {e.key for e in rows}


def test_whatever_a_method_does_is_a_row(tmp_path: Path) -> None:
    """Ending the program, giving something else, dying."""
    reasons = {
        "leaving": "SystemExit: 3",
        "nothing": "returned a dict, no Executor",
        "dying": "It was ended by SIGKILL",
    }
    text = FEW.replace("seeds = 2", "seeds = 1")
    methods = [f"tests.bench_methods:{each}" for each in reasons]
    text = re.sub(r"methods = .*", f"methods = {methods}", text)
    out = tmp_path / "out"
    assert main(["bench", suite_of(tmp_path, text), "--out", str(out)]) == 1
    failed = {each.method.rpartition(":")[2]: each.error for each in rows_in(out) if each.error}
    assert set(failed) == set(reasons)
    for method, reason in reasons.items():
        assert reason in failed[method]


def test_a_process_that_is_lost_once_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cell is measured in another one."""
    monkeypatch.setenv("AGENTKD_TEST_NOTE", str(tmp_path / "note"))
    out = tmp_path / "out"
    assert main(["bench", suite_of(tmp_path, FEW, "dying"), "--out", str(out)]) == 0
    assert not [each for each in rows_in(out) if each.error]


def test_what_draws_without_a_seed_is_seeded_for_each_cell(tmp_path: Path) -> None:
    """So figures depend neither on the order of cells nor on their processes."""
    found = []
    for jobs in ("1", "2"):
        out = tmp_path / jobs
        suite = suite_of(tmp_path, FEW, "drawing")
        assert main(["bench", suite, "--jobs", jobs, "--out", str(out)]) == 0
        found.append(figures(out))
    assert found[0] == found[1]


def test_who_makes_the_executor_measures_as_who_finds_it() -> None:
    """A run that was killed after it was made has the same figures."""
    cell = Cell(
        env="tests.bench_methods:Stroll",
        planner="tests.bench_methods:tiring",
        arm="runtime",
        executor="mlp:4",
        method="asking",
        reference="tests.bench_methods:asking",
        labels=1,
        episodes=2,
    )
    made: list[bytes] = []
    first = measure(cell, None, made.append)
    again = measure(cell, made[0], made.append)
    assert len(made) == 1
    assert first.returns == again.returns
