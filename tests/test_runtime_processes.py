"""Planners and distillers in processes of their own, and their faults."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.errors import ConfigError, WorkerError
from agentkd.runtime import (
    Agent,
    InlineDistiller,
    Patience,
    Process,
    ProcessDistiller,
    ProcessPlanner,
)
from tests.programs import alive, running
from tests.runtime_children import SPEC, Towards, constant
from tests.waiting import ENOUGH, wait_for

HERE = "tests.runtime_children"
QUICK = Patience(start=60, answer=60, backoff=0.01, most_backoff=0.05, grace=60)
"""Starts again at once; long enough that only a real hang is taken for one."""
HASTY = replace(QUICK, answer=1.0)
"""For planners that are to be found hung."""


def see(*numbers: float) -> Any:
    return np.array([*numbers, 0, 0][:3], np.float32)


def planner(fault: str = "", *, patience: Patience = QUICK) -> ProcessPlanner:
    return ProcessPlanner(Process(f"{HERE}:Faulty", {"fault": fault}), patience=patience)


def act_until(
    agent: Agent, done: Callable[[dict[str, Any]], bool], *, fault: bool = False
) -> dict[str, Any]:
    """Act, on observations that are at fault or not, until metrics are as wanted.

    A planner that is asked about the newest only may never see one that was shown once.
    """
    end = time.monotonic() + ENOUGH
    number = 0
    while time.monotonic() < end:
        number += 1
        assert agent.act(see(number, fault)) in range(4)
        metrics = agent.metrics()
        if done(metrics):
            return metrics
        time.sleep(0.001)
    raise AssertionError(f"It did not happen: {agent.metrics()}")


def gone(pid: int | None) -> bool:
    """Whether a process has ended; one that nobody reaped has not."""
    assert pid is not None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def answered(more_than: int = 0) -> Callable[[dict[str, Any]], bool]:
    return lambda metrics: metrics["planner_answers_total"] > more_than


def test_planner_process_answers_and_ends() -> None:
    """Answers come back without an error, and no child stays."""
    port = planner()
    with Agent(constant(2), planner=port) as agent:
        metrics = act_until(agent, answered(5))
        pid = port.pid
        assert not gone(pid)
    assert gone(pid)
    assert port.pid is None
    assert metrics["planner_errors_total"] == 0
    assert agent.metrics()["planner_restarts_total"] == {"died": 0, "hung": 0, "raised": 0}


def test_budget_lets_a_fast_planner_act() -> None:
    """With a generous budget a process is waited for, and its strategy acts."""
    with Agent(constant(2), planner=planner(), budget=ENOUGH) as agent:
        act_until(agent, answered())
        decision = agent.decide(see(3))
    assert (decision.action, decision.source) == (3, "strategy")


@pytest.mark.parametrize(("fault", "cause"), [("die", "died"), ("hang", "hung")])
def test_planner_that_dies_or_hangs_is_started_again(fault: str, cause: str) -> None:
    """The executor acts on, the loss is counted under its cause, answers come again."""
    port = planner(fault, patience=HASTY)
    with Agent(constant(2), planner=port) as agent:
        act_until(agent, answered())
        first = port.pid
        metrics = act_until(agent, lambda m: m["planner_restarts_total"][cause] > 0, fault=True)
        act_until(agent, answered(metrics["planner_answers_total"]))
        assert port.pid != first
    assert gone(first)
    restarts = agent.metrics()["planner_restarts_total"]
    assert restarts[cause] == sum(restarts.values())


def test_stopped_planner_never_blocks_a_tick() -> None:
    """A planner that is stopped (SIGSTOP) is found hung; ticks fill its mailbox."""
    port = planner(patience=HASTY)
    with Agent(constant(2), planner=port) as agent:
        act_until(agent, answered())
        first = port.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        for number in range(100_000):
            agent.act(see(number))
        metrics = act_until(agent, lambda metrics: metrics["planner_restarts_total"]["hung"] > 0)
        metrics = act_until(agent, answered(metrics["planner_answers_total"]))
    assert gone(first)
    assert metrics["observations_unlabelled_total"] > 0


@pytest.mark.parametrize(
    ("fault", "words"), [("raise", "no idea"), ("nan", "NaN"), ("shape", "shape")]
)
def test_planner_that_errs_again_and_again_is_made_anew(fault: str, words: str) -> None:
    """One error is counted; several in a row mean a new start, with its words kept."""
    with Agent(constant(2), planner=planner(fault)) as agent:
        act_until(agent, answered())
        metrics = act_until(agent, lambda m: words in m["planner_error"], fault=True)
        assert metrics["planner_errors_total"] >= 1
        metrics = act_until(agent, lambda m: m["planner_restarts_total"]["raised"] > 0, fault=True)
        metrics = act_until(agent, answered(metrics["planner_answers_total"]))
    assert metrics["planner_errors_total"] >= 3
    assert metrics["decisions_total"].keys() <= {"executor", "strategy"}


def test_planner_that_cannot_be_made_says_why() -> None:
    """A factory that fails ends the start with the child's own words, and no child."""
    agent = Agent(constant(2), planner=Process(f"{HERE}:no_factory"))
    with pytest.raises(WorkerError, match="the file is not there"):
        agent.start(wait=True)
    nowhere = Agent(constant(2), planner=Process(f"{HERE}:Faultly"))
    with pytest.raises(WorkerError, match="Did you mean 'Faulty'"):
        nowhere.start(wait=True)


def test_planner_that_is_never_ready_is_given_up() -> None:
    """A factory that takes longer than patience allows ends the start."""
    patience = Patience(start=0.3)
    port = ProcessPlanner(Process("time:sleep", {}), patience=patience)
    with pytest.raises(WorkerError, match="sleep"):
        Agent(constant(0), planner=port).start(wait=True)


def test_horizon_beyond_the_mailbox_is_refused() -> None:
    """A planner with more rows than there is room for says what to give."""
    port = ProcessPlanner(Process(f"{HERE}:Ahead", {"horizon": 9}), most_rows=8)
    with pytest.raises(WorkerError, match="most_rows=9"):
        Agent(constant(0), planner=port).start(wait=True)


def test_child_has_settings_of_its_own() -> None:
    """Threads are limited before the child's libraries load."""
    remote = Process(f"{HERE}:own_settings", threads=3, nice=1)
    with Agent(constant(2), planner=remote, mode="planner") as agent:
        act_until(agent, answered())
        assert agent.act(see(0)) == 3


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="Linux has SCHED_IDLE")
@pytest.mark.parametrize(("nice", "idle"), [(19, 1), (18, 0)])
def test_who_is_as_nice_as_can_be_stands_back(nice: int, idle: int) -> None:
    """The default gives its processor up at once; less nice, a process shares."""
    port = ProcessPlanner(Process(f"{HERE}:own_class", nice=nice))

    def stands_back(metrics: Any) -> bool:
        # Looked at from here too: where other programs keep every processor busy, it is raised
        # before it has answered.
        behind = bool(idle and port.pid) and os.sched_getscheduler(port.pid or 0) == os.SCHED_IDLE
        return behind or agent.act(see(0)) == idle

    with Agent(constant(2), planner=port, mode="planner") as agent:
        # It is lowered by the first look after it became ready.
        act_until(agent, stands_back)


def test_answers_can_be_made_to_take_longer() -> None:
    """A planner that stands in for a larger one answers no sooner than it would."""
    port = ProcessPlanner(Process(f"{HERE}:Echo"), at_least=0.05)
    with Agent(constant(2), planner=port) as agent:
        act_until(agent, answered(2))
        assert agent.metrics()["planner_latency_us"]["p50"] >= 0.95 * 50_000
    with pytest.raises(ConfigError, match="at least"):
        ProcessPlanner(Process("a:b"), at_least=-1)


def test_labels_go_from_process_to_process() -> None:
    """Each state visited is labelled once and in order, or counted as left out."""
    distiller = InlineDistiller(Towards(after=10**9))
    with Agent(constant(2), planner=planner(), distiller=distiller) as agent:
        act_until(agent, lambda m: m["labels_learnt_total"] >= 300)
    metrics = agent.metrics()
    towards = distiller._distiller
    assert isinstance(towards, Towards)
    numbers = [row[0] for row in towards.obs]
    assert numbers == sorted(set(numbers))
    left_out = numbers[-1] - len(numbers)
    assert left_out <= metrics["observations_unlabelled_total"]
    assert metrics["labels_dropped_total"] == 0


def test_distiller_process_teaches_the_executor() -> None:
    """Planner and distiller both elsewhere: weights come back and are swapped in."""
    distiller = ProcessDistiller(Process(f"{HERE}:Towards"), publish_seconds=0.05, patience=QUICK)
    with Agent(constant(0), planner=planner(), distiller=distiller) as agent:
        wait_for(lambda: agent.act(see(3)) == 3 and agent.executor.version >= 2)
        metrics = agent.metrics()
        pid = distiller.pid
    assert gone(pid)
    assert metrics["distiller_progress"]["labels"] > 0
    assert metrics["distiller_steps_total"] > 0
    assert metrics["swaps_total"] >= 2


def test_last_weights_are_swapped_in_at_the_end() -> None:
    """What was learnt since the last swap is not lost when the agent closes."""
    distiller = ProcessDistiller(Process(f"{HERE}:Towards"), publish_seconds=1000, patience=QUICK)
    with Agent(constant(0), planner=planner(), distiller=distiller) as agent:

        def learnt() -> bool:
            agent.act(see(3))
            return bool(agent.metrics()["distiller_steps_total"] > 0)

        wait_for(learnt)
        assert agent.executor.version == 0
    assert agent.executor.version == 1
    assert agent.executor.act(see(0)) == 3


def test_distiller_that_dies_is_started_again_and_the_executor_stays(tmp_path: Path) -> None:
    """A dead distiller is counted; the new one goes on from the published weights."""
    record = tmp_path / "record"
    distiller = ProcessDistiller(
        Process(f"{HERE}:Towards", {"record": str(record)}), publish_seconds=0.02, patience=QUICK
    )
    with Agent(constant(0), planner=planner(), distiller=distiller) as agent:
        act_until(agent, lambda m: m["swaps_total"] > 0)
        assert not record.exists()
        assert distiller.pid is not None
        os.kill(distiller.pid, signal.SIGKILL)
        metrics = act_until(agent, lambda m: m["distiller_restarts_total"]["died"] == 1)
        swaps = metrics["swaps_total"]
        act_until(agent, lambda m: m["swaps_total"] > swaps)
    assert record.read_text() == "warm"


@pytest.mark.parametrize(
    ("fault", "count"),
    [
        ("raise", lambda m: m["distiller_errors_total"]),
        ("nan", lambda m: m["swaps_refused_total"].get("numbers", 0)),
    ],
)
def test_distiller_that_fails_leaves_the_executor_alone(
    fault: str, count: Callable[[dict[str, Any]], int]
) -> None:
    """Neither a distiller that raises nor one that gives NaN changes who acts."""
    distiller = ProcessDistiller(
        Process(f"{HERE}:Towards", {"fault": fault}), publish_seconds=0.02, patience=QUICK
    )
    with Agent(constant(2), planner=planner(), distiller=distiller) as agent:
        metrics = act_until(agent, lambda m: count(m) >= 3)
    assert metrics["swaps_total"] == 0
    assert agent.executor.act(see(0)) == 2


def test_nothing_outlives_a_parent_that_was_killed() -> None:
    """When the parent is killed its planner ends too, even in the middle of a hang."""
    script = f"""
import time
from tests.runtime_children import constant
from agentkd.runtime import Agent, Patience, ProcessPlanner, Process
port = ProcessPlanner(Process("{HERE}:Faulty", {{"fault": "hang"}}))
with Agent(constant(0), planner=port) as agent:
    agent.await_ready()
    agent.act([0, 1, 0])
    time.sleep(0.2)
    print(port.pid, flush=True)
    time.sleep(1000)
"""
    with running(script) as (parent, said):
        child = int(said.readline())
        parent.kill()
    wait_for(lambda: not alive(child))


def test_descriptors_are_given_back() -> None:
    """A planner that comes and goes leaves no open file behind."""
    folder = Path("/proc/self/fd")
    left = []
    for _ in range(3):
        with Agent(constant(0), planner=planner()) as agent:
            act_until(agent, answered())
        # Memory that is looked at is given back once the agent is no more.
        gc.collect()
        left.append(len(list(folder.iterdir())))
    assert left[-1] <= left[0]


def test_spec_is_what_the_child_gets() -> None:
    """The port of a planner that was never opened says how to open it."""
    port = planner()
    with pytest.raises(ConfigError, match="with block"):
        port.counts()
    port.close()
    assert SPEC.obs.size == 3
