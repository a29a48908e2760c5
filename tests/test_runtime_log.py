"""The decision log: written off the tick, readable after a crash, replayed exactly."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.errors import ConfigError, LoadError, SpecError, WriteError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.runtime import (
    Agent,
    DecisionLog,
    Fresh,
    Goals,
    Guard,
    InlineDistiller,
    Seam,
    StrategyOptions,
    conditioned,
)
from agentkd.runtime import log as logs
from agentkd.runtime.logfile import Decided, Gap, Heard, LogFile, Reset, Swapped
from agentkd.runtime.replay import replay
from tests.runtime_children import BOX, SPEC, Ahead, Anytime, Echo, Guiding, Towards, constant
from tests.test_runtime_blending import Levels
from tests.waiting import ENOUGH


def see(*numbers: float) -> Any:
    return np.array([*numbers, 0, 0][:3], np.float32)


def live(agent: Agent, ticks: int = 40, *, episode: int = 13) -> list[Any]:
    """Live some ticks in episodes, now and then blind."""
    out = []
    for i in range(ticks):
        if i and i % episode == 0:
            agent.reset()
        out.append(agent.decide(see(i % episode, np.nan if i % 11 == 5 else 0)))
    return out


def decided(path: Path) -> list[Decided]:
    return [each for each in LogFile(path).events() if isinstance(each, Decided)]


def test_log_tells_each_decision(tmp_path: Path) -> None:
    """Tick, episode, source, reason, observation and action are those of the run."""
    path = tmp_path / "run.akdlog"
    with Agent(constant(2), planner=Ahead(3), planner_latency=2, log=path) as agent:
        decisions = live(agent)
        assert agent.metrics()["log_error"] == ""
    found = decided(path)
    assert [(d.action, d.source, d.reason, d.tick, d.version) for d in decisions] == [
        (d.action, d.source, d.reason, d.tick, d.version) for d in found
    ]
    assert [each.episode for each in found] == [i // 13 for i in range(40)]
    assert found[1].obs.tolist() == [1, 0, 0]
    log = LogFile(path)
    kinds = [type(each) for each in log.events()]
    assert kinds.count(Reset) == 3
    assert kinds.count(Heard) == agent.metrics()["planner_answers_total"]
    assert log.ended
    assert log.whole
    assert log.torn == 0


def agents(path: Path) -> list[Agent]:
    """Agents of all kinds, each with a log."""
    boxes = initial("mlp:4", BOX, seed=3)
    blend = StrategyOptions(seam=Seam(freeze=1, blend=3))
    goals = Goals(2, 4)
    guided = initial("mlp:4", conditioned(SPEC, goals), seed=1)
    distiller = InlineDistiller(Towards(), swap_every=3)
    return [
        Agent(constant(1), log=path),
        Agent(constant(1), planner=Echo(), planner_latency=0, log=path),
        Agent(
            constant(1), planner=Ahead(3), planner_latency=2, mode="planner", default=3, log=path
        ),
        Agent(constant(1), planner=Ahead(3), planner_latency=2, mode="executor", log=path),
        Agent(constant(1), planner=Anytime(3), planner_latency=3, log=path),
        Agent(boxes, planner=Levels(), planner_latency=3, strategies=blend, log=path),
        Agent(
            constant(1),
            planner=Ahead(9),
            planner_latency=2,
            strategies=StrategyOptions(advance="commands"),
            mode="planner",
            log=path,
        ),
        Agent(
            guided,
            planner=Guiding(),
            planner_latency=1,
            strategies=StrategyOptions(goals=goals),
            log=path,
        ),
        Agent(constant(0), planner=Echo(), planner_latency=1, distiller=distiller, log=path),
    ]


@pytest.mark.parametrize("number", range(9))
def test_replay_decides_the_same(number: int, tmp_path: Path) -> None:
    """Every kind of agent, replayed from its log, takes the same decisions."""
    path = tmp_path / "run.akdlog"
    with agents(path)[number] as agent:
        live(agent)
        swaps = agent.metrics()["swaps_total"]
    found = replay(LogFile(path))
    assert found.first is None
    assert (found.ticks, found.skipped, found.differing) == (40, 0, 0)
    assert bool(swaps) == (number == 8)


def test_replay_with_the_routers_of_the_run(tmp_path: Path) -> None:
    """Routers are given again; without them the replay is refused by name."""

    def routers() -> list[Any]:
        return [Fresh(2), Guard(lambda obs, action: action != 3, dwell=2)]

    path = tmp_path / "run.akdlog"
    with Agent(
        constant(3), planner=Ahead(4), planner_latency=2, routers=routers(), log=path
    ) as agent:
        live(agent)
    assert replay(LogFile(path), routers=routers()).differing == 0
    with pytest.raises(ConfigError, match="Fresh, Guard"):
        replay(LogFile(path))
    other = [Fresh(1), Guard(lambda obs, action: True)]
    assert replay(LogFile(path), routers=other).differing > 0


def test_first_difference_is_named(tmp_path: Path) -> None:
    """Another executor differs where it acts, and the first such tick is told."""
    path = tmp_path / "run.akdlog"
    with Agent(constant(2), planner=Ahead(3), planner_latency=2, log=path) as agent:
        decisions = live(agent)
    found = replay(LogFile(path), constant(1))
    assert found.differing == sum(d.source == "executor" for d in decisions) + sum(
        # What is held after the executor's action differs as well.
        d.source == "hold" and d.action == 2 and decisions[d.tick - 1].source == "executor"
        for d in decisions
    )
    assert found.first is not None
    assert (found.first.tick, found.first.episode) == (0, 0)
    assert found.first.logged == "executor (late) 2"
    assert found.first.replayed == "executor (late) 1"


def test_executor_for_something_else_is_refused(tmp_path: Path) -> None:
    """An executor that does not fit what was observed cannot replay it."""
    path = tmp_path / "run.akdlog"
    with Agent(constant(2), log=path) as agent:
        live(agent)
    with pytest.raises(SpecError, match="log of"):
        replay(LogFile(path), initial("linear", BOX))


def test_killed_process_leaves_a_log(tmp_path: Path) -> None:
    """After SIGKILL all whole records are there, and they replay."""
    path = tmp_path / "run.akdlog"
    script = f"""
import sys
from tests.runtime_children import constant, Ahead
from agentkd.runtime import Agent
path = {str(path)!r}
with Agent(constant(2), planner=Ahead(3), planner_latency=2, log=path) as agent:
    for i in range(10**9):
        agent.act([i % 4, 0, 0])
        if i == 2000:
            print("going", flush=True)
"""
    root = Path(__file__).parent.parent
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=root)
    assert child.stdout is not None
    with child, child.stdout:
        child.stdout.readline()
        while not path.exists() or path.stat().st_size < 100_000:
            assert child.poll() is None
        os.kill(child.pid, signal.SIGKILL)
    log = LogFile(path)
    found = replay(log)
    assert found.ticks > 100
    assert found.differing == 0
    assert not log.ended


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_torn_tail_is_left_out(tmp_path: Path, cut: int) -> None:
    """A last record that is not whole is not read; those before it are."""
    path = tmp_path / "run.akdlog"
    with Agent(constant(2), log=path) as agent:
        live(agent, 20)
    whole = decided(path)
    path.write_bytes(path.read_bytes()[: -17 - cut])
    log = LogFile(path)
    found = [each for each in log.events() if isinstance(each, Decided)]
    assert len(found) == len(whole) - 1
    assert log.torn > 0
    assert not log.ended


def test_flipped_bit_ends_the_log(tmp_path: Path) -> None:
    """A record that was changed on the disk is noticed, and nothing after it read."""
    path = tmp_path / "run.akdlog"
    with Agent(constant(2), log=path) as agent:
        live(agent, 30)
    data = bytearray(path.read_bytes())
    data[-600] ^= 1
    path.write_bytes(data)
    log = LogFile(path)
    assert 0 < len([each for each in log.events() if isinstance(each, Decided)]) < 30
    assert log.torn > 600


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


def test_log_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    """A place that cannot be written to is told before the first tick."""
    with pytest.raises(WriteError, match="No such file"):
        Agent(constant(2), log=tmp_path / "nowhere" / "run.akdlog").start()
    with pytest.raises(ConfigError, match="at least"):
        DecisionLog(tmp_path / "x", limit=10)


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    """Other files, and files cut off in their beginning, are refused by name."""
    path = tmp_path / "run.akdlog"
    with pytest.raises(LoadError, match="cannot be read"):
        LogFile(path)
    path.write_text("hello")
    with pytest.raises(LoadError, match="no decision log"):
        LogFile(path)
    path.write_bytes(logs.MAGIC + b"\x05")
    with pytest.raises(LoadError, match="ends before"):
        LogFile(path)


def test_other_architecture_is_logged_whole(tmp_path: Path) -> None:
    """An executor of another shape that is swapped in by hand replays as well."""
    path = tmp_path / "run.akdlog"
    with Agent(constant(2), log=path) as agent:
        live(agent, 5)
        agent.swap(initial("mlp:5", SPEC, seed=4))
        live(agent, 5)
    swapped = [each.executor for each in LogFile(path).events() if isinstance(each, Swapped)]
    assert [each.architecture for each in swapped] == ["linear", "mlp:5"]
    assert replay(LogFile(path)).differing == 0


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
