"""Workers yield to the tick, and still get on where every processor is busy."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.deploy.bundle import read_bundle, write_bundle
from agentkd.runtime import Agent, Patience, Process, ProcessDistiller, ProcessPlanner
from agentkd.runtime.clock import Realtime, realtime
from agentkd.runtime.workers.priority import (
    NEVER,
    Ladder,
    Level,
    Usage,
    levels,
    lowest_reachable,
    niceness,
    set_level,
    usage,
)
from tests.runtime_children import constant
from tests.waiting import ENOUGH, wait_for

HERE = "tests.runtime_children"
IDLE, LEAST, SOME, OWN = Level(19, idle=True), Level(19), Level(10), Level(0)

linux = pytest.mark.skipif(sys.platform != "linux", reason="priorities of Linux")
raisable = pytest.mark.skipif(lowest_reachable() > 0, reason="this user may not raise a worker")


@pytest.mark.parametrize(
    ("nice", "own", "reachable", "expected"),
    [
        (19, 0, 0, (IDLE, LEAST, SOME, OWN)),
        (19, 0, 10, (IDLE, LEAST, SOME)),
        (18, 0, 0, (Level(18), SOME, OWN)),
        (5, 0, 0, (Level(5), OWN)),
        (0, 0, 0, (OWN,)),
        (19, 5, 5, (IDLE, LEAST, SOME, Level(5))),
        (3, 5, 5, (Level(5),)),
        (19, 0, 11, (SOME,)),
        (19, 0, NEVER, (SOME,)),
        (4, 0, NEVER, (Level(4),)),
        (4, 15, NEVER, (Level(15),)),
    ],
)
def test_levels_go_up_from_what_was_asked_for(
    nice: int, own: int, reachable: int, expected: tuple[Level, ...]
) -> None:
    """Without the right to raise, a worker has one level that gets on."""
    assert levels(nice, own, reachable) == expected


class World:
    """A worker under a virtual clock: silent or not, with a share of a processor."""

    def __init__(self, bound: float = 0.5) -> None:
        self.ladder = Ladder((IDLE, LEAST, SOME, OWN), bound)
        self.now = self.heard = self.used = 0.0
        self.ladder.begin(0.0)

    def live(self, seconds: float, *, share: float, silent: bool, runnable: bool = True) -> Level:
        for _ in range(round(seconds / 0.05)):
            self.now += 0.05
            self.used += 0.05 * share
            if not silent:
                self.heard = self.now
            self.ladder.look(self.now, self.heard, lambda: Usage(self.used, runnable))
        return self.ladder.level


def test_worker_that_hardly_runs_is_raised_step_by_step() -> None:
    """Silence with work to do and no processor raises, up to the last level."""
    world = World()
    seen = [world.live(0.6, share=0.02, silent=True) for _ in range(12)]
    assert [each for i, each in enumerate(seen) if i == 0 or each != seen[i - 1]] == [
        IDLE,
        LEAST,
        SOME,
        OWN,
    ]
    assert world.ladder.raised == 3


@pytest.mark.parametrize(
    ("share", "silent", "runnable"), [(1.0, True, True), (0.0, True, False), (0.01, False, True)]
)
def test_worker_that_computes_waits_or_answers_is_not_raised(
    share: float, silent: bool, runnable: bool
) -> None:
    """A long answer, a wait for a device and answers in time are no starvation."""
    world = World()
    level = world.live(60.0, share=share, silent=silent, runnable=runnable)
    assert level == IDLE
    assert world.ladder.raised == 0


def test_quick_worker_is_lowered_again() -> None:
    """A worker that answers for a while goes down again, one level at a time."""
    world = World()
    assert world.live(10.0, share=0.02, silent=True) == OWN
    assert world.live(9.0, share=0.5, silent=False) == OWN
    assert world.live(2.0, share=0.5, silent=False) == SOME
    assert world.live(60.0, share=0.5, silent=False) == IDLE


def test_worker_that_starves_again_is_lowered_later() -> None:
    """Each raise after a lowering doubles the time until the next lowering."""
    world = World()
    world.live(1.2, share=0.02, silent=True)
    assert world.ladder.level == LEAST
    waits = []
    for _ in range(8):
        before = world.now
        while world.ladder.level == LEAST:
            world.live(0.05, share=0.5, silent=False)
        waits.append(round(world.now - before, 1))
        while world.ladder.level == IDLE:
            world.live(0.05, share=0.02, silent=True)
    assert waits == sorted(waits)
    assert waits[0] < 12.0
    assert waits[2] == pytest.approx(40.0, abs=2.0)
    assert waits[-1] == pytest.approx(300.0, abs=2.0)


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep processors busy with programs of ordinary priority."""
    command = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(processes)]
    try:
        for each in started:
            assert each.stdout is not None
            each.stdout.readline()
        yield
    finally:
        for each in started:
            each.kill()
            each.communicate()


def act_until(agent: Agent, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    end = time.monotonic() + ENOUGH
    number = 0
    while time.monotonic() < end:
        number += 1
        agent.act(np.array([number, 0, 0], np.float32))
        metrics = agent.metrics()
        if done(metrics):
            return metrics
        time.sleep(0.01)
    raise AssertionError(f"It did not happen: {agent.metrics()}")


@linux
def test_planner_answers_where_every_core_is_busy() -> None:
    """Planner and distiller get on beside one busy program for each core and more."""
    # In SCHED_IDLE each answer would take more than a minute.
    planner = Process(f"{HERE}:Laborious", {"rounds": 10_000_000})
    distiller = ProcessDistiller(Process(f"{HERE}:Towards"), publish_seconds=0.02)
    cores = len(os.sched_getaffinity(0))
    with Agent(constant(2), planner=planner, distiller=distiller) as agent:
        agent.await_ready()
        with busy(cores + 1):
            before = agent.metrics()["planner_answers_total"]
            act_until(agent, lambda m: m["planner_answers_total"] >= before + 3)
            swaps = agent.metrics()["swaps_total"]
            metrics = act_until(agent, lambda m: m["swaps_total"] > swaps)
    assert set(metrics["workers_raised_total"]) == {"planner", "distiller"}


def classes(pid: int) -> set[tuple[int, int]]:
    """Policy and niceness of a process's threads."""
    threads = [int(each.name) for each in Path(f"/proc/{pid}/task").iterdir()]
    return {
        (os.sched_getscheduler(each), os.getpriority(os.PRIO_PROCESS, each)) for each in threads
    }


@linux
@raisable
def test_starved_planner_is_raised_with_its_children() -> None:
    """A planner that hardly runs is raised, all threads and children of it."""
    patience = Patience(start=60, answer=ENOUGH, silence=0.05)
    port = ProcessPlanner(
        Process(f"{HERE}:Laborious", {"rounds": 10**9, "children": 1}), patience=patience
    )
    cores = sorted(os.sched_getaffinity(0))
    try:
        # Everything on one core: the planner, its child and what keeps it busy.
        os.sched_setaffinity(0, cores[:1])
        with Agent(constant(2), planner=port) as agent:
            agent.await_ready()
            pid = port.pid
            assert pid is not None
            task = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            (child,) = map(int, task)

            def raised(metrics: dict[str, Any]) -> bool:
                found = classes(pid) | classes(child)
                return metrics["workers_raised_total"]["planner"] >= 2 and all(
                    policy == os.SCHED_BATCH and nice <= 10 for policy, nice in found
                )

            with busy(2):
                metrics = act_until(agent, raised)
            assert metrics["planner_restarts_total"]["hung"] == 0
    finally:
        os.sched_setaffinity(0, cores)


def test_refused_raise_means_a_start_at_a_level_that_gets_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the system refuses a raise after all, a worker starts again, once."""
    given: list[Level] = []

    def refuse(pids: list[int], level: Level) -> None:
        given.append(level)
        if given[:2] == [IDLE, LEAST] and len(given) == 2:
            raise PermissionError("no raise")

    monkeypatch.setattr("agentkd.runtime.workers.priority.lowest_reachable", lambda: 0)
    monkeypatch.setattr("agentkd.runtime.workers.priority.niceness", lambda: 0)
    monkeypatch.setattr("agentkd.runtime.workers.priority.set_level", refuse)
    monkeypatch.setattr("agentkd.runtime.workers.priority.usage", lambda _: Usage(0.0, True))
    patience = Patience(start=60, answer=1000, silence=0.02, backoff=0.01)
    slow = Process(f"{HERE}:Laborious", {"rounds": 10**12})
    with Agent(constant(2), planner=ProcessPlanner(slow, patience=patience)) as agent:
        agent.await_ready()
        metrics = act_until(agent, lambda m: m["planner_ready"] and len(given) == 3)
        assert "could not be raised" in metrics["planner_error"]
        assert metrics["planner_restarts_total"]["hung"] == 1
    assert given == [IDLE, LEAST, SOME]


@linux
def test_worker_has_not_the_real_time_priority_of_its_starter() -> None:
    """A worker started from a thread in SCHED_FIFO is an ordinary process."""
    port = ProcessPlanner(Process(f"{HERE}:Echo"))
    before = os.sched_getscheduler(0)
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        pytest.skip("this user has no real-time priority")
    agent = Agent(constant(2), planner=port)
    try:
        agent.start()
    finally:
        os.sched_setscheduler(0, before, os.sched_param(0))
    with agent:
        act_until(agent, lambda _: port.pid is not None)
        assert port.pid is not None
        ordinary = {os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_IDLE}
        assert {policy for policy, _ in classes(port.pid)} <= ordinary


@linux
def test_worker_has_ordinary_priority_until_it_is_ready(tmp_path: Path) -> None:
    """A start takes what it needs; only then the worker stands back."""
    gate = tmp_path / "gate"
    port = ProcessPlanner(Process(f"{HERE}:gated", {"path": str(gate)}))
    mine = os.sched_getscheduler(0), niceness()
    with Agent(constant(2), planner=port) as agent:
        act_until(agent, lambda _: port.pid is not None)
        assert port.pid is not None
        assert classes(port.pid) == {mine}
        gate.touch()
        act_until(agent, lambda m: m["planner_state"] == "ready")
        agent.supervise()
        assert classes(port.pid) != {mine}


def without_the_right_to_raise() -> None:
    """Drop CAP_SYS_NICE and the limit on niceness for what is executed next."""
    import resource

    resource.setrlimit(resource.RLIMIT_NICE, (0, 0))
    ctypes.CDLL(None).prctl(24, 23, 0, 0, 0)


@linux
def test_without_the_right_to_raise_a_planner_gets_on() -> None:
    """A user who may not raise a worker has one that was never in SCHED_IDLE."""
    script = f"""
import os, subprocess, sys
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from tests.test_runtime_priority import *
assert lowest_reachable() == NEVER
port = ProcessPlanner(Process("{HERE}:Laborious", {{"rounds": 200_000}}))
with Agent(constant(2), planner=port) as agent:
    agent.await_ready()
    with busy(len(os.sched_getaffinity(0)) + 1):
        act_until(agent, lambda m: m["planner_answers_total"] > 3)
    assert classes(port.pid) == {{(os.SCHED_BATCH, max(niceness(), 10))}}
    assert agent.metrics()["workers_raised_total"] == {{"planner": 0}}
print("got on")
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        preexec_fn=without_the_right_to_raise,
        capture_output=True,
        text=True,
        timeout=ENOUGH,
        check=False,
    )
    assert done.stdout == "got on\n", done.stderr


@linux
def test_usage_counts_what_a_process_and_its_children_compute() -> None:
    """A busy child of a sleeping process is seen."""
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    with subprocess.Popen([sys.executable, "-c", code], process_group=0) as child:
        try:
            wait_for(lambda: usage(child.pid).seconds > 0.5)
            wait_for(lambda: usage(child.pid).runnable)
        finally:
            os.killpg(child.pid, 9)


@linux
def test_processes_that_are_gone_have_no_priority() -> None:
    """Setting and measuring a process that ended does nothing."""
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    set_level([child.pid], LEAST)
    assert usage(child.pid) == Usage(0.0, runnable=False)


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two processors",
)
def test_what_a_bound_thread_starts_is_not_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker, and the thread that reads a followed file, keep to no processor of the tick's."""
    file, every = tmp_path / "executor.akd", os.sched_getaffinity(0)
    write_bundle(file, constant(1))
    seen: list[set[int]] = []

    def read(path: Any, **how: Any) -> Any:
        seen.append(os.sched_getaffinity(0))
        return read_bundle(path, **how)

    planner = ProcessPlanner(Process("tests.runtime_children:Echo"))
    agent = Agent(file, planner=planner, watch=True)
    monkeypatch.setattr("agentkd.runtime.watched.read_bundle", read)
    with realtime(Realtime(cores=[min(every)], freeze=False)) as granted:
        agent.start(supervisor=False)
        agent.await_ready()
        write_bundle(file, constant(2))
        agent._swaps.look_at_file()
        assert planner.pid is not None
        worker = os.sched_getaffinity(planner.pid)
        assert os.sched_getaffinity(0) == {min(every)}
        agent.close()
    assert granted["cores"] == "granted"
    assert worker == every
    assert seen == [every]
    assert os.sched_getaffinity(0) == every
