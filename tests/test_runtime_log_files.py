"""A decision log's files: rotation, earlier runs, full disks."""

from __future__ import annotations

import os
import re
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentkd.errors import ConfigError, WriteError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.runtime import Agent, DecisionLog, InlineDistiller
from agentkd.runtime import log as logs
from agentkd.runtime.chores import Chore, Chores
from agentkd.runtime.logfile import Decided, Gap, LogFile, Swapped
from agentkd.runtime.replay import replay
from tests.runtime_children import SPEC, Ahead, Towards, constant
from tests.test_runtime_log import decided, live, see
from tests.waiting import ENOUGH


def written(agent: Agent, recorder: DecisionLog) -> None:
    """Let all that was decided be written."""
    agent.supervise()
    recorder._wait()


def test_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes; what is left replays from the first episode begun in it."""
    monkeypatch.setattr(logs, "LEAST", 1000)
    path = tmp_path / "run.akdlog"
    limit = 60_000
    recorder = DecisionLog(path, limit=limit)
    distiller = InlineDistiller(Towards(), swap_every=7)
    with Agent(
        constant(0), planner=Ahead(3), planner_latency=2, distiller=distiller, log=recorder
    ) as agent:
        for _ in range(8):
            live(agent, 130)
            agent.reset()
            written(agent, recorder)
    older = path.with_name("run.akdlog.1")
    assert older.exists()
    assert path.stat().st_size + older.stat().st_size < 1.2 * limit
    log = LogFile(path)
    found = replay(log)
    assert not log.whole
    assert found.differing == 0
    assert found.ticks > 100
    assert found.skipped < 13
    assert decided(path)[-1].tick == 8 * 130 - 1


@pytest.mark.parametrize("step", ["begun", "moved", "renamed"])
def test_killed_while_files_change(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each step between two files, what was written before is readable."""
    path = tmp_path / "run.akdlog"
    recorder = DecisionLog(path)
    agent = Agent(constant(2), planner=Ahead(3), planner_latency=2, log=recorder)
    steps = {"begun": 0, "moved": 1, "renamed": 2}
    done: list[Path] = []
    replace_file = Path.replace

    def until(self: Path, target: Path) -> Path:
        if len(done) == steps[step]:
            raise OSError("killed here")
        done.append(self)
        return replace_file(self, target)

    with agent:
        live(agent, 20)
        written(agent, recorder)
        before = [d.tick for d in decided(path)]
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", until)
            # What a killed process does not do is not to be tidied up either.
            patch.setattr(Path, "unlink", lambda *_, **__: None)
            recorder._change_files()
            recorder._wait()
        assert len(done) == steps[step]
        assert path.exists() == (step != "moved")
        assert [d.tick for d in decided(path)] == before == list(range(20))


def test_records_without_room_are_counted_and_skipped_by_the_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the disk is slow ticks go on; the replay goes on at the next episode."""
    path = tmp_path / "run.akdlog"
    recorder = DecisionLog(path)
    agent = Agent(constant(2), planner=Ahead(3), planner_latency=2, log=recorder)
    agent.start(supervisor=False)
    with agent:
        live(agent, 26)
        written(agent, recorder)
        monkeypatch.setattr(logs, "_PENDING", 5)
        for i in range(9):
            agent.act(see(i))
        agent.swap(constant(1))
        written(agent, recorder)
        monkeypatch.setattr(logs, "_PENDING", 10**6)
        for i in range(4):
            agent.act(see(i))
        agent.reset()
        live(agent, 13)
        dropped = agent.metrics()["log_dropped_total"]
    events = list(LogFile(path).events())
    gaps = [each for each in events if isinstance(each, Gap)]
    assert sum(each.count for each in gaps) == dropped > 0
    found = replay(LogFile(path))
    assert found.differing == 0
    assert found.skipped >= 4
    assert found.ticks >= 26 + 13
    assert any(isinstance(each, Swapped) and each.executor.act(see(0)) == 1 for each in events)


def test_full_disk_ends_the_log_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk refuses, what was written is whole and the agent acts on."""
    path = tmp_path / "run.akdlog"
    write = os.write

    def full(fd: int, data: Any) -> int:
        if fd == recorder._file and os.fstat(fd).st_size > 3000:
            raise OSError(28, "No space left on device")
        return write(fd, data)

    recorder = DecisionLog(path)
    monkeypatch.setattr(os, "write", full)
    with Agent(constant(2), log=recorder) as agent:
        for _ in range(30):
            live(agent, 39)
            agent.reset()
            written(agent, recorder)
        metrics = agent.metrics()
    assert "No space left" in metrics["log_error"]
    assert metrics["log_dropped_total"] > 0
    assert metrics["ticks_total"] == 30 * 39
    assert replay(LogFile(path)).differing == 0


def test_logs_of_earlier_runs_are_renamed_and_the_oldest_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each new run begins a log; so many earlier ones can still be read."""
    path = tmp_path / "run.akdlog"
    for ticks in (1, 2, 3, 4):
        with Agent(constant(2), log=DecisionLog(path, keep=2)) as agent:
            live(agent, ticks)
    assert len(decided(path)) == 4
    assert [len(decided(logs.earlier(path, n))) for n in (1, 2)] == [3, 2]
    assert not logs.earlier(path, 3).exists()
    assert "run.earlier-1.akdlog now" in caplog.text
    with Agent(constant(2), log=DecisionLog(path, overwrite=True)) as agent:
        live(agent, 5)
    assert len(decided(path)) == 5
    assert len(decided(logs.earlier(path, 1))) == 3


def test_both_files_of_an_earlier_run_are_renamed(tmp_path: Path) -> None:
    """The older file goes with its log, also where a kill left one of them alone."""
    path = tmp_path / "run.akdlog"
    older = tmp_path / "run.akdlog.1"
    with Agent(constant(2), log=path) as agent:
        live(agent, 5)
    older.write_bytes(path.read_bytes())
    path.unlink()
    with Agent(constant(2), log=path) as agent:
        live(agent, 2)
    assert not older.exists()
    assert len(decided(logs.earlier(path, 1))) == 5
    path.rename(tmp_path / "run.akdlog.new")
    with Agent(constant(2), log=path) as agent:
        live(agent, 3)
    assert [len(decided(logs.earlier(path, n))) for n in (1, 2)] == [2, 5]


def test_a_log_that_is_being_written_is_not_renamed(tmp_path: Path) -> None:
    """A second agent with the same log is refused, and the first goes on."""
    path = tmp_path / "run.akdlog"
    with Agent(constant(2), log=path) as agent:
        live(agent, 3)
        for overwrite in (False, True):
            other = DecisionLog(path, overwrite=overwrite)
            with pytest.raises(ConfigError, match="another agent"):
                Agent(constant(2), log=other).start()
        live(agent, 4)
    assert len(decided(path)) == 7


def test_files_that_change_places_are_not_read_twice(tmp_path: Path) -> None:
    """Read while it rotates, the same part may lie under both names."""
    path = tmp_path / "run.akdlog"
    with Agent(constant(1), log=path) as agent:
        for i in range(5):
            agent.act(see(i))
    path.with_name("run.akdlog.1").write_bytes(path.read_bytes())
    ticks = [e.tick for e in LogFile(path).events() if isinstance(e, Decided)]
    assert ticks == list(range(5))


@pytest.mark.parametrize("end", ["", ".1", ".new"])
def test_a_file_of_another_kind_is_kept(end: str, tmp_path: Path) -> None:
    """What is no decision log is neither renamed nor written over."""
    other = tmp_path / f"run.akdlog{end}"
    other.write_text("mine")
    with pytest.raises(ConfigError, match=f"{re.escape(other.name)} is there already"):
        Agent(constant(1), log=tmp_path / "run.akdlog").start()
    assert other.read_text() == "mine"


def test_a_log_that_cannot_begin_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An executor that is too large for the limit is told, and no file stays."""
    log = DecisionLog(tmp_path / "run.akdlog", limit=1 << 20)
    with pytest.raises(WriteError, match="larger limit"):
        Agent(initial("mlp:400,400", SPEC), log=log).start()
    assert list(tmp_path.iterdir()) == []


def test_older_file_of_another_run_is_not_read(tmp_path: Path) -> None:
    """What an earlier run left beside it is none of this log's."""
    path = tmp_path / "run.akdlog"
    with Agent(constant(2), log=path) as agent:
        live(agent, 5)
    path.rename(tmp_path / "run.akdlog.1")
    (tmp_path / "other").mkdir()
    with Agent(constant(2), log=tmp_path / "other" / "run.akdlog") as agent:
        live(agent, 3)
    (tmp_path / "other" / "run.akdlog").rename(path)
    assert len(decided(path)) == 3
    assert isinstance(replace(constant(2), version=3), Executor)


def test_a_disk_that_hangs_costs_records_and_no_decision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a write does not come back, ticks go on and a bounded number of records waits."""
    path = tmp_path / "run.akdlog"
    hangs, back = threading.Event(), threading.Event()
    write = os.write

    def slow(fd: int, data: Any) -> int:
        if fd == recorder._file and os.fstat(fd).st_size > 3000 and not back.is_set():
            hangs.set()
            back.wait(ENOUGH)
        return write(fd, data)

    recorder = DecisionLog(path)
    monkeypatch.setattr(logs, "_PENDING", 100)
    monkeypatch.setattr(os, "write", slow)
    agent = Agent(constant(2), log=recorder)
    agent.start(supervisor=False)
    with agent:
        for _ in range(60):
            live(agent, 39)
            agent.reset()
            agent.supervise()
        assert hangs.is_set()
        metrics = agent.metrics()
        back.set()
        while recorder._queue:
            written(agent, recorder)
        live(agent, 5)
    assert metrics["ticks_total"] == 60 * 39
    assert metrics["log_dropped_total"] > 0
    assert metrics["log_error"] == ""
    gaps = [each for each in LogFile(path).events() if isinstance(each, Gap)]
    assert sum(each.count for each in gaps) == metrics["log_dropped_total"]
    assert decided(path)[-1].tick == 60 * 39 + 4


def test_a_loop_without_slack_is_logged_up_to_the_last_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each tick takes longer than its period; a kill loses what the last second decided."""
    clock: Any = SimpleNamespace(time=0.0, period=0.01, now=lambda: clock.time)
    path = tmp_path / "run.akdlog"
    recorder = DecisionLog(path)
    agent = Agent(constant(2), planner=Ahead(3), planner_latency=2, log=recorder)
    agent.start(supervisor=False)
    monkeypatch.setattr(logs, "time", SimpleNamespace(monotonic=clock.now))
    recorder._handed = 0.0
    chores = Chores(Chore("log", recorder.writing))
    for _ in range(400):
        agent.decide(see(0))
        clock.time += 0.012
        chores.between(clock, clock.time)
    recorder._wait()
    assert len(decided(path)) > 300
    agent.close()
