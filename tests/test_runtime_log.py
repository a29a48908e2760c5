"""The decision log: written off the tick, readable after a crash, replayed exactly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.errors import ConfigError, LoadError, SpecError, WriteError
from agentkd.executors.architecture import initial
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
from agentkd.runtime.logfile import Decided, Heard, LogFile, Reset, Swapped
from agentkd.runtime.replay import replay
from tests.runtime_children import BOX, SPEC, Ahead, Anytime, Echo, Guiding, Towards, constant
from tests.test_runtime_blending import Levels


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
    with pytest.raises(LoadError, match="not a decision log"):
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
