"""Starting never stops the robot: the executor acts, and the others join."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blockbuster import BlockBuster

from agentkd.errors import ConfigError, WorkerError
from agentkd.runtime import (
    Agent,
    InlineDistiller,
    Patience,
    Process,
    ProcessDistiller,
    ProcessPlanner,
    Runtime,
    Staggered,
)
from tests.runtime_children import Steps, Towards, constant
from tests.waiting import ENOUGH, wait_for

HERE = "tests.runtime_children"
QUICK = Patience(start=60, answer=30.0, backoff=0.01, most_backoff=0.05, grace=0.1)


def see(*numbers: float) -> Any:
    return np.array([*numbers, 0, 0][:3], np.float32)


def gated(gate: Path, attempts: Path | None = None) -> ProcessPlanner:
    """A planner that is ready once `gate` exists; with `attempts` it fails before."""
    arguments = {"path": str(gate), "attempts": str(attempts) if attempts else ""}
    return ProcessPlanner(Process(f"{HERE}:gated", arguments), patience=QUICK)


def act_until(agent: Agent, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Act until the metrics are as wanted."""
    end = time.monotonic() + ENOUGH
    while time.monotonic() < end:
        agent.act(see(1))
        metrics = agent.metrics()
        if done(metrics):
            return metrics
        time.sleep(0.001)
    raise AssertionError(f"It did not happen: {agent.metrics()}")


def test_executor_acts_before_the_planner_is_ready(tmp_path: Path) -> None:
    """The block is entered at once; the planner joins when it is ready."""
    gate = tmp_path / "gate"
    with Agent(constant(2), planner=gated(gate)) as agent:
        for _ in range(20):
            decision = agent.decide(see(1))
            assert (decision.action, decision.source) == (2, "executor")
        assert agent.metrics()["planner_state"] == "starting"
        assert agent.metrics()["planner_ready"] == 0
        gate.touch()
        metrics = act_until(agent, lambda m: m["planner_answers_total"] > 0)
    assert metrics["planner_state"] == "ready"
    assert metrics["planner_starts_failed_total"] == 0
    by_planner = metrics["decision_latency_by_planner_us"]
    assert by_planner["absent"]["count"] >= 20
    assert by_planner["ready"]["count"] > 0


def test_labels_wait_for_a_distiller_that_is_starting(tmp_path: Path) -> None:
    """A distiller that is ready late learns from the labels that came before."""
    gate = tmp_path / "gate"
    distiller = ProcessDistiller(
        Process(f"{HERE}:gated_distiller", {"path": str(gate)}),
        publish_seconds=0.02,
        patience=QUICK,
    )
    planner = Process(f"{HERE}:Echo")
    with Agent(constant(0), planner=planner, distiller=distiller) as agent:
        act_until(agent, lambda m: m["labels_total"] > 20)
        assert agent.metrics()["distiller_state"] == "starting"
        gate.touch()
        act_until(agent, lambda m: m["swaps_total"] > 0)
        assert agent.metrics()["distiller_state"] == "ready"


def test_start_that_waits(tmp_path: Path) -> None:
    """With wait=True a start returns when both are ready."""
    agent = Agent(constant(2), planner=Process(f"{HERE}:Echo"))
    agent.start(wait=True)
    with agent:
        assert agent.metrics()["planner_state"] == "ready"
    with pytest.raises(ConfigError, match="once"):
        agent.start()


def test_start_that_waits_too_long_says_so(tmp_path: Path) -> None:
    """A timeout ends the wait and the agent, with the time in the error."""
    planner = gated(tmp_path / "gate")
    agent = Agent(constant(2), planner=planner)
    with pytest.raises(WorkerError, match="not ready after 0 s"):
        agent.start(wait=True, timeout=0.0)
    assert planner.pid is None


def test_failed_start_is_reported_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Failures are counted, logged once with the planner's words, and tried again."""
    gate, attempts = tmp_path / "gate", tmp_path / "attempts"
    caplog.set_level(logging.WARNING)
    with Agent(constant(2), planner=gated(gate, attempts)) as agent:
        metrics = act_until(agent, lambda m: m["planner_starts_failed_total"] >= 3)
        assert metrics["planner_state"] == "failed"
        assert "no camera yet" in metrics["planner_error"]
        assert metrics["decisions_total"].keys() == {"executor"}
        gate.touch()
        act_until(agent, lambda m: m["planner_answers_total"] > 0)
        assert agent.metrics()["planner_state"] == "ready"
    assert len(attempts.read_text()) >= 3
    said = [each for each in caplog.messages if "no camera yet" in each]
    assert said == ["The planner did not start and is tried again: OSError: no camera yet"]


@pytest.mark.parametrize(
    ("planner", "words"),
    [
        (ProcessPlanner(Process(f"{HERE}:Faultly"), patience=QUICK), "Faulty"),
        (ProcessPlanner(Process("no_module_of:ours"), patience=QUICK), "no module"),
        (
            ProcessPlanner(Process(f"{HERE}:Ahead", {"horizon": 9}), most_rows=8, patience=QUICK),
            "most_rows=9",
        ),
    ],
)
def test_start_that_cannot_succeed_is_not_repeated(planner: ProcessPlanner, words: str) -> None:
    """A bad reference is reported once, and the executor goes on alone."""
    with Agent(constant(2), planner=planner) as agent:
        metrics = act_until(agent, lambda m: m["planner_state"] == "failed")
        assert words in metrics["planner_error"]
        for _ in range(10):
            agent.supervise()
            assert agent.act(see(1)) == 2
        metrics = agent.metrics()
        assert planner.pid is None
    assert metrics["planner_starts_failed_total"] == 1
    assert sum(metrics["planner_restarts_total"].values()) == 0


def test_lost_planner_is_restarting(tmp_path: Path) -> None:
    """Between a death and the next start the state says so, and no tick waits."""
    gate = tmp_path / "gate"
    gate.touch()
    planner = gated(gate)
    with Agent(constant(2), planner=planner, budget=5.0) as agent:
        agent.await_ready()
        gate.unlink()
        worker = planner._host
        assert worker is not None
        worker._fail("died", "as a test")
        assert agent.metrics()["planner_state"] == "restarting"
        assert agent.decide(see(1)).source == "executor"


def test_close_during_a_start_ends_the_child(tmp_path: Path) -> None:
    """An agent that closes while its planner starts leaves no process."""
    planner = gated(tmp_path / "gate")
    with Agent(constant(2), planner=planner) as agent:
        act_until(agent, lambda _: planner.pid is not None)
        pid = planner.pid
    assert not Path(f"/proc/{pid}").exists()


def test_close_ends_a_start_that_waits_in_another_thread(tmp_path: Path) -> None:
    """A start that waits gives up when the agent is closed."""
    planner = gated(tmp_path / "gate")
    agent = Agent(constant(2), planner=planner)
    raised: list[BaseException] = []

    def start() -> None:
        try:
            agent.start(wait=True)
        except (WorkerError, ConfigError) as error:
            raised.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    wait_for(lambda: planner.pid is not None or not thread.is_alive())
    agent.close()
    thread.join(ENOUGH)
    assert len(raised) == 1


async def test_agent_starts_without_blocking_the_loop(
    tmp_path: Path, nonblocking: BlockBuster
) -> None:
    """In asyncio an agent starts, waits and closes off the event loop."""
    gate = tmp_path / "gate"
    agent = Agent(constant(2), planner=gated(gate))
    waiting = asyncio.ensure_future(agent.astart(wait=True, timeout=ENOUGH))
    beats = 0
    while agent._companions.planner.pid is None:  # type: ignore[union-attr]
        beats += 1
        await asyncio.sleep(0.001)
    assert not waiting.done()
    gate.touch()
    await waiting
    async with agent:
        assert agent.metrics()["planner_state"] == "ready"
        assert agent.act(see(1)) in (1, 2)
    assert beats > 0


async def test_asynchronous_block_is_entered_at_once(tmp_path: Path) -> None:
    """`async with` does not wait for the planner."""
    async with Agent(constant(2), planner=gated(tmp_path / "gate")) as agent:
        assert agent.act(see(1)) == 2
        assert agent.metrics()["planner_state"] == "starting"


async def test_runtime_ticks_before_the_planner_is_ready(
    tmp_path: Path, nonblocking: BlockBuster
) -> None:
    """A runtime acts from its first tick, and its planner joins later."""
    gate = tmp_path / "gate"
    async with Runtime(constant(2), planner=gated(gate), hz=500) as runtime:
        async for decision in runtime.run(Steps(length=1000)):
            if decision.tick == 0:
                assert decision.source == "executor"
            if decision.tick >= 20:
                gate.touch()
            if runtime.agent.counters.answers:
                break
    assert runtime.result.ticks > 20
    assert runtime.result.metrics["planner_state"] == "ready"


def test_long_orders_hold_up_no_start(tmp_path: Path) -> None:
    """Orders longer than a pipe holds are handed over without waiting for the child."""
    arguments = {"path": str(tmp_path / "gate"), "attempts": "", "more": "x" * 500_000}
    planner = ProcessPlanner(Process(f"{HERE}:gated", arguments), patience=QUICK)
    with Agent(constant(2), planner=planner) as agent:
        # The factory takes no `more`, which it says once it has read all of it.
        metrics = act_until(agent, lambda m: m["planner_starts_failed_total"] > 0)
    assert "more" in metrics["planner_error"]


def test_staggered_planners_join_one_by_one(tmp_path: Path) -> None:
    """With several planners the ready one answers, and none waits for the other."""
    first, second = tmp_path / "first", tmp_path / "second"
    port = Staggered([gated(first), gated(second)])
    distiller = InlineDistiller(Towards(after=10**9))
    with Agent(constant(2), planner=port, distiller=distiller) as agent:
        for _ in range(5):
            assert agent.decide(see(1)).source == "executor"
        second.touch()
        act_until(agent, lambda m: m["planner_answers_total"] > 2)
        assert agent.metrics()["planner_state"] == "ready"
        with pytest.raises(WorkerError, match="not ready"):
            agent.await_ready(timeout=0.0)


def test_state_at_the_end_is_how_it_was(tmp_path: Path) -> None:
    """A planner that became ready after the last look at it was ready at the end."""
    gate = tmp_path / "gate"
    planner = gated(gate)
    agent = Agent(constant(2), planner=planner)
    agent.start(supervisor=False)
    with agent:
        agent.supervise()
        gate.touch()
        wait_for(lambda: agent.metrics()["planner_state"] == "ready")
    assert agent.metrics()["planner_state"] == "ready"
