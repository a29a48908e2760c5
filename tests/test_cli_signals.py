"""SIGTERM and SIGHUP leave what Ctrl-C leaves, at any moment of a command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentkd.deploy.bundle import read_bundle
from agentkd.interrupt import ctrl_c, held
from agentkd.runtime.logfile import LogFile
from tests.waiting import ENOUGH, wait_for

PLANNER = "tests.cli_planners:balance"
ROOT = Path(__file__).parents[1]
LOOP = "agentkd.distillation.run"


def signalled(number: int, event: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command that gets a signal at an event."""
    return subprocess.run(
        [sys.executable, "-m", "tests.signalled", str(int(number)), event, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=ENOUGH,
    )


def distil(out: Path, budget: str = "--seconds") -> list[str]:
    """A distillation that would not end by itself before the signal comes.

    By labels, 32 environments take two turns to as many as a first gradient step needs: on no
    machine does the second checkpoint come before it.
    """
    return [
        *("distill", "CartPole-v1", "--planner", PLANNER, "--executor", "mlp:8"),
        *(budget, "10000000", "--episodes", "2", "--environments", "32", "--out", str(out)),
    ]


@pytest.mark.parametrize(
    ("number", "event"),
    [
        (signal.SIGTERM, "import:torch"),
        (signal.SIGHUP, "import:gymnasium"),
        (signal.SIGTERM, "agentkd.measure.evaluate:Lockstep._step@20"),
        (signal.SIGTERM, f"{LOOP}:Run.loop"),
    ],
)
def test_before_anything_is_learnt_there_is_nothing_to_leave(
    number: int, event: str, tmp_path: Path
) -> None:
    """The command ends with 128 + n, without a traceback."""
    ended = signalled(number, event, *distil(tmp_path / "out"))
    assert ended.returncode == 128 + number, ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "out" / "executor.akd").exists()


@pytest.mark.parametrize(
    ("number", "event"),
    [
        (signal.SIGINT, f"{LOOP}:Run._step@50"),
        (signal.SIGTERM, f"{LOOP}:Run._step@50"),
        (signal.SIGHUP, f"{LOOP}:Run._learn_of@40"),
        (signal.SIGTERM, f"{LOOP}:save_checkpoint@2"),
    ],
)
def test_amid_learning_executor_and_report_are_left(
    number: int, event: str, tmp_path: Path
) -> None:
    """Executor, checkpoint and report are there, and the report says so."""
    out = tmp_path / "out"
    budget = "--labels" if "checkpoint" in event else "--seconds"
    ended = signalled(number, event, *distil(out, budget))
    assert ended.returncode == 128 + number, ended.stderr
    assert "Traceback" not in ended.stderr
    read_bundle(out / "executor.akd")
    assert (out / "checkpoint" / "distiller.pt").exists()
    assert json.loads((out / "report.json").read_text())["interrupted"]


@pytest.mark.parametrize(
    "event",
    [
        "agentkd.deploy.bundle:write_bundle",
        "agentkd.report.write:write_files",
        "agentkd.distillation.loop:Distiller.freeze@4",
    ],
)
def test_what_is_being_written_is_written(event: str, tmp_path: Path) -> None:
    """A signal amid writing waits until executor and report are whole."""
    out = tmp_path / "out"
    words = [word.replace("10000000", "1") for word in distil(out)]
    ended = signalled(signal.SIGTERM, event, *words)
    assert ended.returncode in (0, 143), ended.stderr
    assert "Traceback" not in ended.stderr
    read_bundle(out / "executor.akd")
    json.loads((out / "report.json").read_text())


def test_a_run_closes_its_log_and_ends_its_workers(tmp_path: Path) -> None:
    """Report, executor and a log with its end are left; the planner's process ends."""
    out = tmp_path / "out"
    command = [
        *("run", "CartPole-v1", "--planner", "tests.cli_planners:Noted", "--log"),
        *("--executor", "mlp:8", "--seconds", "10000", "--learn-ticks", "20"),
        *("--arms", "runtime", "--out", str(out)),
    ]
    note = tmp_path / "planners"
    os.environ["AGENTKD_TEST_NOTE"] = str(note)
    try:
        event = "agentkd.measure.live:Scored.step@60"
        ended = signalled(signal.SIGTERM, event, *command)
    finally:
        del os.environ["AGENTKD_TEST_NOTE"]
    assert ended.returncode == 143, ended.stderr
    assert "Traceback" not in ended.stderr
    assert json.loads((out / "report.json").read_text())["interrupted"]
    read_bundle(out / "executor.akd")
    log = LogFile(out / "decisions-runtime.akdlog")
    assert sum(1 for _ in log.events())
    assert log.ended
    for line in note.read_text().split():
        _await_end(int(line))


def _await_end(pid: int) -> None:
    def gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    wait_for(gone, lambda: f"{pid} is still there")


def test_a_recording_is_whole_after_sigterm(tmp_path: Path) -> None:
    """Labels up to the signal are there to be distilled from."""
    from agentkd.distillation import open_dataset

    out = tmp_path / "labels"
    ended = signalled(
        signal.SIGTERM,
        "agentkd.distillation.collector:Collector.step@30",
        *("record", "CartPole-v1", "--planner", PLANNER, "--episodes", "0"),
        *("--out", str(out)),
    )
    assert ended.returncode == 143, ended.stderr
    assert open_dataset(str(out), "CartPole-v1").labels >= 16


def test_a_signal_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    """Under nohup a hang-up ends nothing; with Ctrl-C ignored SIGTERM still ends it."""
    script = 'trap "" HUP INT; exec "$@"'
    for number, status in ((signal.SIGHUP, 2), (signal.SIGTERM, 143)):
        ended = subprocess.run(
            [
                *("sh", "-c", script, "sh", sys.executable, "-m", "tests.signalled"),
                *(str(int(number)), "import:agentkd.deploy.bundle"),
                *("inspect", str(tmp_path / "no.akd")),
            ],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=ENOUGH,
        )
        assert ended.returncode == status, ended.stderr


def test_nested_questions_share_what_was_pressed() -> None:
    """Inside a block that holds Ctrl-C back, a loop hears of it and may end."""
    seen: list[bool | str] = []

    def inside() -> None:
        with held():
            signal.raise_signal(signal.SIGINT)
            with ctrl_c() as asked:
                seen.append(asked())
                with pytest.raises(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGINT)
            seen.append("written")

    with pytest.raises(KeyboardInterrupt):
        inside()
    assert seen == [True, "written"]
