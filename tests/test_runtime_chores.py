"""Chores: what is done between ticks, in slices that fit."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.runtime import Agent, Patience, Process, ProcessPlanner
from agentkd.runtime.block import _PAUSE
from agentkd.runtime.chores import SOON, Chore, Chores
from agentkd.runtime.clock import Realtime
from agentkd.runtime.logfile import Decided, LogFile
from agentkd.runtime.workers import priority
from agentkd.runtime.workers.guardian import offspring
from agentkd.runtime.workers.host import Host
from tests.runtime_children import Steps, constant
from tests.waiting import wait_for

OBS = np.zeros(3, np.float32)
HERE = "tests.runtime_children"


class Hand:
    """A clock that is set by hand."""

    period = 1.0

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time


def lasting(clock: Hand, done: list[str], *slices: float) -> Callable[[], Iterator[str]]:
    """Make work whose slices take so long."""

    def work() -> Iterator[str]:
        for number, seconds in enumerate(slices):
            if number:
                yield f"slice {number}"
            clock.time += seconds
            done.append(f"slice {number}")

    return work


def test_a_slice_runs_where_its_usual_duration_fits() -> None:
    """What took 0.3 of a period is not begun with 0.2 left, and is with 0.5."""
    clock, done = Hand(), list[str]()
    chores = Chores(Chore("work", lasting(clock, done, 0.3), every=0.0))
    chores.between(clock, 0.5)
    assert done == ["slice 0"]
    clock.time = 0.8
    chores.between(clock, 1.0)
    assert done == ["slice 0"]
    clock.time = 1.1
    chores.between(clock, 1.6)
    assert done == ["slice 0"] * 2
    assert chores.overruns == 0


def test_slices_go_on_at_later_ticks() -> None:
    """A chore stops after the slice that leaves no room for its next one, and goes on there."""
    clock, done = Hand(), list[str]()
    chores = Chores(Chore("work", lasting(clock, done, 0.2, 0.4, 0.2), every=2.0))
    chores.between(clock, 0.9)
    assert done == ["slice 0", "slice 1", "slice 2"]
    clock.time = 3.0
    chores.between(clock, 3.3)
    assert done[3:] == ["slice 0"]
    clock.time = 3.9
    chores.between(clock, 4.4)
    assert done[3:] == ["slice 0", "slice 1"]
    clock.time = 5.0
    chores.between(clock, 6.0)
    assert done[3:] == ["slice 0", "slice 1", "slice 2"]


def test_a_chore_is_done_when_it_is_due() -> None:
    """It runs again so many seconds after it ended, and not at each tick."""
    clock, done = Hand(), list[str]()
    chores = Chores(Chore("work", lasting(clock, done, 0.0), every=1.0))
    for tick in range(8):
        clock.time = tick * 0.25
        chores.between(clock, clock.time + 0.25)
    assert len(done) == 2


def test_what_never_fits_runs_when_it_is_overdue() -> None:
    """Without slack one slice runs a second after it was due, and is counted."""
    clock, done = Hand(), list[str]()
    chores = Chores(Chore("work", lasting(clock, done, 0.3, 0.3), every=0.0))
    chores.between(clock, 0.5)
    assert (done, chores.overruns) == (["slice 0", "slice 1"], 1)
    done.clear()
    clock.time = 1.0
    chores.between(clock, 1.1)
    assert done == []
    clock.time = 3.0
    chores.between(clock, 3.1)
    assert (done, chores.overruns) == (["slice 0"], 2)


def test_one_overdue_slice_at_a_tick_is_enough() -> None:
    """Several chores that are overdue do not make one tick late together."""
    clock, done = Hand(), list[str]()
    both = [Chore(name, lasting(clock, done, 0.3), every=0.0) for name in ("one", "other")]
    chores = Chores(*both)
    for start in (0.0, 5.0, 6.0):
        clock.time = start
        chores.between(clock, start + 0.1)
    assert len(done) == 3


def test_one_long_slice_is_not_the_usual() -> None:
    """A slice that the system interrupted once runs again with the room that it had before."""
    clock, done = Hand(), list[str]()
    seconds = [0.1, 9.0, 0.1]

    def work() -> None:
        clock.time += seconds[len(done)]
        done.append("")

    chores = Chores(Chore("work", work, every=0.0))
    for start in (0.0, 10.0, 20.0):
        clock.time = start
        chores.between(clock, start + 0.4)
    assert len(done) == 3


def test_an_error_ends_a_chore_until_it_is_due_again(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged once until it goes away, and other chores go on."""
    clock, done, wrong = Hand(), list[str](), [True, True, False, True]

    def work() -> None:
        if wrong.pop(0):
            raise OSError("no more files")

    chores = Chores(Chore("bad", work, every=1.0), Chore("good", lasting(clock, done, 0.0), 1.0))
    with caplog.at_level(logging.ERROR):
        for tick in range(4):
            clock.time = 1.0 + tick
            chores.between(clock, clock.time + 1.0)
    assert len(done) == 4
    assert [each.message for each in caplog.records] == ["Supervision failed; it goes on."] * 2


def test_closing_ends_what_was_begun_and_begins_nothing() -> None:
    """Weights that were taken are swapped in at the end; nothing runs later."""
    clock, done = Hand(), list[str]()
    begun = Chore("work", lasting(clock, done, 0.1, 0.1))
    chores = Chores(begun, Chore("other", lasting(clock, done, 0.0)))
    assert not begun.step()
    chores.close()
    assert done == ["slice 0", "slice 1"]
    clock.time += 100.0
    chores.between(clock, clock.time + 100.0)
    chores.all()
    assert done == ["slice 0", "slice 1"]


def test_chores_are_for_one_thread_at_a_time() -> None:
    """A tick does not wait for another thread that runs chores."""
    entered, leave = threading.Event(), threading.Event()

    def work() -> None:
        entered.set()
        leave.wait()

    chores = Chores(Chore("work", work))
    thread = threading.Thread(target=chores.all)
    thread.start()
    entered.wait()
    chores.between(Hand(), 1.0)
    leave.set()
    thread.join()


def test_closing_in_the_middle_of_a_chore_waits_for_its_slice(tmp_path: Path) -> None:
    """As a signal's handler does that interrupts a chore: no slice is torn, nothing locks up."""
    path = tmp_path / "run.akdlog"
    agent = Agent(constant(2), log=path, period=0.001)
    closed: list[bool] = []

    def work() -> Iterator[str]:
        yield "begin"
        agent.close()
        agent.close()
        agent.supervise()
        closed.append(agent._open)
        yield "end"
        closed.append(agent._open)

    agent.chores.add(Chore("interrupted", work))
    agent.start(supervisor=False)
    decided = 0
    while agent.tick():
        agent.act(OBS)
        decided += 1
    assert closed == [True, True]
    assert not agent._open
    file = LogFile(path)
    assert sum(isinstance(each, Decided) for each in file.events()) == decided
    assert file.ended
    agent.close()


def test_a_handler_may_close_while_a_worker_is_looked_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker's host is locked then: closing waits until it is free."""
    port = ProcessPlanner(Process(f"{HERE}:Echo", nice=0))
    agent = Agent(constant(2), planner=port, period=0.001)
    agent.start(supervisor=False)
    listen, looks = Host._listen, list[bool]()

    def interrupted(self: Host) -> None:
        if not looks:
            looks.append(True)
            signal.raise_signal(signal.SIGUSR1)
        listen(self)

    before = signal.signal(signal.SIGUSR1, lambda *_: agent.close())
    monkeypatch.setattr(Host, "_listen", interrupted)
    try:
        while agent.tick():
            agent.act(OBS)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert looks
    assert port.pid is None


class Waits:
    """An event that is asked for so often; it notes for how long."""

    def __init__(self, chores: Chores, ticks: str) -> None:
        self.chores, self.ticks, self.asked = chores, list(ticks), list[float]()

    def wait(self, seconds: float) -> bool:
        self.asked.append(seconds)
        if self.ticks and self.ticks.pop(0) == "t":
            self.chores.between(Hand(), 0.0)
        return not self.ticks


def test_a_thread_supervises_only_while_no_tick_comes() -> None:
    """It looks once a second whether ticks come, and does all that is due when none does."""
    agent, done = Agent(constant(2)), list[str]()

    def work() -> None:
        done.append(threading.current_thread().name)

    chores = agent.chores = Chores(Chore("work", work, every=9.0))
    waits = Waits(chores, "..tt...t..")
    thread = threading.Thread(target=agent._supervise_on, args=(waits,), name="supervisor")
    thread.start()
    thread.join()
    assert waits.asked == [SOON] * 3 + [_PAUSE] * 2 + [SOON] * 3 + [_PAUSE, SOON]
    assert done == ["supervisor"] * (2 + 3 + 1)


def test_a_loop_that_ticks_looks_after_its_worker() -> None:
    """Where no thread does, ticks do: a worker that dies comes back."""
    port = ProcessPlanner(
        Process(f"{HERE}:Echo", nice=0), patience=Patience(start=60, answer=60, backoff=0.001)
    )
    agent = Agent(constant(2), planner=port, period=0.002)
    agent.start(supervisor=False)
    agent.await_ready()
    first = port.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    tick_until(agent, lambda: port.ready and port.pid not in (None, first))
    assert agent.metrics()["planner_restarts_total"]["died"] == 1
    agent.close()


def test_a_loop_that_pauses_is_looked_after() -> None:
    """A worker that dies between two ticks comes back before the next."""
    port = ProcessPlanner(
        Process(f"{HERE}:Echo", nice=0), patience=Patience(start=60, answer=60, backoff=0.001)
    )
    with Agent(constant(2), planner=port, period=0.002) as agent:
        agent.await_ready()
        agent.tick()
        first = port.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: port.ready and port.pid not in (None, first))


def tick_until(agent: Agent, done: Callable[[], Any]) -> None:
    """Tick and act until something is so."""

    def so() -> bool:
        agent.tick()
        agent.act(OBS)
        return bool(done())

    wait_for(so)


def test_a_run_that_pauses_is_looked_after() -> None:
    """A step that takes long, as a robot that is put back by hand, does not end supervision."""
    port = ProcessPlanner(
        Process(f"{HERE}:Echo", nice=0), patience=Patience(start=60, answer=60, backoff=0.001)
    )
    agent, env, killed = Agent(constant(2), planner=port), Steps(), list[int]()
    step = env.step

    def long(action: Any) -> Any:
        first = port.pid
        if not killed and first is not None:
            killed.append(first)
            os.kill(first, signal.SIGKILL)
            wait_for(lambda: port.ready and port.pid not in (None, first))
        return step(action)

    env.step = long  # type: ignore[method-assign]
    agent.run(env, hz=500, ticks=50, wait=True)
    assert killed


def test_garbage_is_looked_for_between_ticks() -> None:
    """A run on the wall clock, where automatic collection is off, still collects."""
    seen: list[str] = []

    def note(phase: str, info: Any) -> None:
        del info
        seen.append(phase if threading.current_thread().name == "MainThread" else "")

    agent, env = Agent(constant(2)), Steps()
    step = env.step

    def watched(action: Any) -> Any:
        if not gc.isenabled() and note not in gc.callbacks:
            gc.callbacks.append(note)
        return step(action)

    env.step = watched  # type: ignore[method-assign]
    try:
        agent.run(env, hz=1000, ticks=40)
    finally:
        gc.callbacks.remove(note)
    assert "start" in seen


@pytest.mark.parametrize("switched_off", [False, True])
def test_a_heap_that_is_not_frozen_is_not_looked_through(switched_off: bool) -> None:
    """With freeze=False the interpreter collects; a user who switched that off collects."""
    agent = Agent(constant(2))
    if switched_off:
        gc.disable()
    try:
        agent.run(Steps(), hz=1000, ticks=5, realtime=Realtime(freeze=switched_off))
        assert gc.isenabled() != switched_off
    finally:
        gc.enable()
    assert "garbage" not in {each.name.split()[-1] for each in agent.chores._chores}


def test_descendants_are_found_without_looking_at_all_processes() -> None:
    """The quick way finds what the slow one does."""
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        wait_for(lambda: len(priority.family(child.pid)) == 2)
        assert priority.family(child.pid) == [child.pid, *offspring(child.pid)]
        assert child.pid in priority.family(os.getpid())
    finally:
        child.communicate(b"\n")
    assert priority.family(child.pid) == [child.pid]
