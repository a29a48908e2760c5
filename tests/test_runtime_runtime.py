"""The runtime: an environment, ticks in a thread, asyncio around it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from blockbuster import BlockBuster

from agentkd.errors import ConfigError, WorkerError
from agentkd.runtime import (
    Patience,
    Process,
    ProcessDistiller,
    ProcessPlanner,
    Rollback,
    RunResult,
    Runtime,
    WallClock,
)
from agentkd.types import Decision
from tests.runtime_children import Ahead, Echo, Steps, Towards, constant
from tests.waiting import ENOUGH, wait_for

HERE = "tests.runtime_children"
QUICK = Patience(start=60, answer=60, backoff=0.01, grace=60)


@pytest.fixture(autouse=True)
def no_thread_stays() -> Any:
    """Every run ends its threads."""
    yield
    names = {thread.name for thread in threading.enumerate()}
    assert not names & {"ticks", "supervisor", "planner"}


async def virtual(
    planner: Any = None, *, latency: int = 0, distiller: Any = None, **options: Any
) -> tuple[list[Decision], RunResult]:
    """Run 40 ticks of four episodes and give all decisions."""
    options = {"ticks": 40, "seed": 7, "env": Steps(), "mode": "runtime", **options}
    async with Runtime(
        constant(2),
        planner=planner,
        distiller=distiller,
        clock="virtual",
        planner_latency=latency if planner is not None else None,
        mode=options.pop("mode"),
    ) as runtime:
        decisions = [decision async for decision in runtime.run(**options)]
    return decisions, runtime.result


async def test_virtual_runs_are_equal() -> None:
    """Two runs under the virtual clock are the same decision by decision."""

    async def once() -> tuple[list[Any], tuple[float, ...], dict[str, Any]]:
        decisions, result = await virtual(Ahead(3), latency=2, distiller=Towards())
        kept = [(d.action, d.source, d.reason, d.tick, d.version) for d in decisions]
        counted = {
            name: value for name, value in result.metrics.items() if not name.endswith("_us")
        }
        return kept, result.returns, counted

    assert await once() == await once()


async def test_planner_that_is_never_late_earns_everything() -> None:
    """At latency 0 every action is the planner's, and every one is right."""
    decisions, result = await virtual(Echo())
    assert {decision.source for decision in decisions} == {"strategy"}
    assert result.returns == (10.0, 10.0, 10.0, 10.0)
    assert result.lengths == (10, 10, 10, 10)
    assert (result.unfinished_return, result.unfinished_length) == (0.0, 0)


async def test_late_planner_leaves_the_executor_to_act() -> None:
    """At latency 1 with one row the executor acts, and each answer counts as late."""
    decisions, result = await virtual(Echo(), latency=1)
    assert {decision.source for decision in decisions} == {"executor"}
    rejected = result.metrics["strategy_rejected_total"]
    # The first answer of each new episode belongs to the one before.
    assert rejected["late"] + rejected["episode"] == 39
    assert rejected["episode"] == 3
    assert result.returns == (2.0,) * 4


async def test_planner_alone_is_behind_the_world() -> None:
    """The planner's own arm acts on what it saw before, and earns less."""
    decisions, result = await virtual(Echo(), latency=1, mode="planner")
    assert {decision.source for decision in decisions} == {"default", "strategy"}
    assert sum(result.returns) < 40


async def test_episodes_have_seeds_of_their_own() -> None:
    """Episode i is reset with seed + i, and a run can be counted in episodes."""
    env = Steps()
    _, result = await virtual(env=env, ticks=None, episodes=3)
    assert env.seeds == [7, 8, 9]
    assert result.ticks == 30
    assert result.metrics["episodes_total"] == 3


async def test_end_in_the_middle_of_an_episode() -> None:
    """What the episode had earned when the run ended is told apart."""
    _, result = await virtual(Echo(), ticks=14)
    assert result.returns == (10.0,)
    assert (result.unfinished_return, result.unfinished_length) == (4.0, 4)
    assert result.ticks == 14
    assert result.metrics["ticks_total"] == 14


async def test_virtual_seconds_are_ticks() -> None:
    """Under the virtual clock a run of one second at 50 Hz has 50 ticks."""
    _, result = await virtual(ticks=None, seconds=1.0)
    assert result.ticks == 50
    assert result.seconds == 1.0


async def test_virtual_consumer_sees_every_decision() -> None:
    """The virtual clock waits for a slow consumer."""
    seen = 0
    async with Runtime(constant(0), clock="virtual", views=2) as runtime:
        async for _ in runtime.run(Steps(), ticks=30):
            seen += 1
            await asyncio.sleep(0.002)
    assert seen == 30
    assert runtime.result.metrics["views_dropped_total"] == 0


async def test_slow_consumer_slows_no_tick() -> None:
    """On the wall clock a busy consumer misses views; every tick is measured."""
    seen = 0

    def ticks() -> int:
        return int(runtime.agent.metrics()["ticks_total"])

    async with Runtime(constant(0), hz=1000, views=4) as runtime:
        async for _ in runtime.run(Steps(), ticks=200):
            seen += 1
            if seen == 1:
                await asyncio.to_thread(wait_for, lambda: ticks() >= 100)
    result = runtime.result
    assert result.ticks == 200
    assert seen + result.metrics["views_dropped_total"] == 200
    assert result.metrics["views_dropped_total"] > 0
    assert len(result.timeline["tick"]) == 200
    assert sum(result.lengths) + result.unfinished_length == 200


async def test_environment_that_raises_ends_the_run_with_what_was_measured() -> None:
    """The error comes through with a note; the ticks before it are in the result."""
    async with Runtime(constant(0), clock="virtual") as runtime:
        with pytest.raises(OSError, match="motor is off") as caught:
            async for _ in runtime.run(Steps(raises_at=23), ticks=100):
                pass
        assert "tick 23, episode 2" in caught.value.__notes__[0]
        assert runtime.result.ticks == 23
    assert len(runtime.result.returns) == 2


async def test_leaving_early_ends_the_run() -> None:
    """A consumer that breaks off ends the run when it leaves the block."""
    async with Runtime(constant(0), hz=1000) as runtime:
        async for decision in runtime.run(Steps()):
            if decision.tick > 5:
                break
        await runtime.stop()
        ticks = runtime.result.ticks
    assert runtime.result.ticks == ticks > 5


async def test_cancelled_run_leaves_nothing() -> None:
    """Ctrl-C cancels the task: the run ends, its children too, and it is measured."""
    runtime = Runtime(
        constant(0),
        planner=ProcessPlanner(Process(f"{HERE}:Echo"), patience=QUICK),
        hz=500,
        wait=True,
    )
    pids: list[Any] = []

    async def main() -> None:
        async with runtime:
            async for decision in runtime.run(Steps()):
                if decision.tick == 20:
                    pids.append(runtime.agent._companions.planner.pid)  # type: ignore[union-attr]
                    asyncio.current_task().cancel()  # type: ignore[union-attr]

    with pytest.raises(asyncio.CancelledError):
        await main()
    assert runtime.result.ticks > 20
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


async def test_cancelled_start_leaves_nothing() -> None:
    """Cancelled while the planner loads, the runtime ends its process at once."""
    patience = Patience(start=600, grace=0.1)
    port = ProcessPlanner(Process("signal:pause"), patience=patience)
    runtime = Runtime(constant(0), planner=port, wait=True)
    entering = asyncio.ensure_future(runtime.__aenter__())
    pid = None
    while pid is None:
        await asyncio.sleep(0.001)
        pid = port.pid
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert port.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_wall_run_with_processes_blocks_no_loop(nonblocking: BlockBuster) -> None:
    """Planner and distiller in processes, a death between: the event loop never waits."""
    planner = ProcessPlanner(Process(f"{HERE}:Faulty", {"fault": "die"}), patience=QUICK)
    distiller = ProcessDistiller(Process(f"{HERE}:Towards"), publish_seconds=0.05, patience=QUICK)
    async with Runtime(constant(0), planner=planner, distiller=distiller, hz=200) as runtime:
        killed = None
        async for _ in runtime.run(Steps(length=50), seconds=ENOUGH):
            metrics = runtime.agent.metrics()
            if killed is None and metrics["swaps_total"]:
                killed = planner.pid
                assert killed is not None
                os.kill(killed, signal.SIGKILL)
            if metrics["planner_restarts_total"]["died"] and planner.pid != killed:
                break
    measured = runtime.result.metrics
    assert measured["planner_restarts_total"]["died"] == 1
    assert measured["tick_lateness_us"]["count"] == runtime.result.ticks


async def test_late_world_misses_cycles() -> None:
    """A step that takes longer than the period costs cycles, which are counted."""
    env = Steps(slow=0.012)
    async with Runtime(constant(0), hz=200) as runtime:
        async for _ in runtime.run(env, ticks=10):
            pass
    metrics = runtime.result.metrics
    assert metrics["missed_cycles_total"] >= 9
    assert metrics["ticks_total"] == 10


async def test_every_late_decision_is_a_counted_miss() -> None:
    """With a clock whose ticks come too late, each decision misses its deadline."""

    class Behind(WallClock):  # type: ignore[misc]
        def wait(self) -> Any:
            tick = super().wait()
            return type(tick)(tick.index, tick.scheduled, 1.0, 0)

    async with Runtime(constant(0), clock=Behind(0.001)) as runtime:
        async for _ in runtime.run(Steps(), ticks=12):
            pass
    assert runtime.result.metrics["deadline_miss_total"] == 12


async def test_policy_needs_a_place_to_think() -> None:
    """On the wall clock a policy object is refused, with what to give instead."""
    with pytest.raises(ConfigError, match="Process"):
        Runtime(constant(0), planner=Echo())


async def test_remote_planner_is_made_here_under_the_virtual_clock() -> None:
    """The same reference serves both clocks; under the virtual one it is exact."""
    planner, distiller = Process(f"{HERE}:Echo"), Process(f"{HERE}:Towards")
    decisions, _ = await virtual(planner, distiller=distiller, ticks=120)
    assert {decision.source for decision in decisions} == {"strategy"}
    assert decisions[-1].version == 2


async def test_planner_that_does_not_load_says_why() -> None:
    """Entering fails with the child's words, and leaves nothing behind."""
    planner = Process(f"{HERE}:no_factory")
    with pytest.raises(WorkerError, match="the file is not there"):
        async with Runtime(constant(0), planner=planner, wait=True):
            pass


async def test_runtime_is_used_in_its_block_and_once() -> None:
    """Outside its block, twice, or too early: each says what to do."""
    runtime = Runtime(constant(0), clock="virtual")

    async def first(run: AsyncIterator[Decision]) -> Decision:
        return await anext(run)

    with pytest.raises(ConfigError, match="async with"):
        await first(runtime.run(Steps()))
    async with runtime:
        with pytest.raises(ConfigError, match="no result"):
            _ = runtime.result
        with pytest.raises(ConfigError, match="ticks is 0"):
            await first(runtime.run(Steps(), ticks=0))
        async for _ in runtime.run(Steps(), ticks=3):
            pass
        with pytest.raises(ConfigError, match="once"):
            await first(runtime.run(Steps()))
    with pytest.raises(ConfigError, match="once"):
        async with runtime:
            pass


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hz": 0}, "hz is 0"),
        ({"hz": float("nan")}, "hz is nan"),
        ({"clock": "sun"}, "No clock 'sun'"),
        ({"views": 0}, "views is 0"),
        ({"mode": "planner"}, "needs a planner"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], words: str) -> None:
    """Invalid options are refused before anything starts."""
    with pytest.raises(ConfigError, match=words):
        Runtime(constant(0), **options)


async def test_timeline_tells_who_acted_when() -> None:
    """The timeline has one sample a tick here, with source, version and reward."""
    _, result = await virtual(Echo(), latency=0)
    assert result.timeline["tick"].tolist() == list(range(40))
    assert set(result.timeline["source"]) == {0.0}
    assert np.all(result.timeline["reward"] == 1.0)


async def test_rewards_that_fall_after_a_swap_roll_it_back() -> None:
    """The environment's rewards are the scores; the file's executor acts again."""

    class Paying(Steps):
        """Pays for the choice 2."""

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            obs, _, ended, cut, info = super().step(action)
            return obs, float(action == 2) + 0.01 * (self.t % 2), ended, cut, info

    rule = Rollback(window=20)
    async with Runtime(constant(2), clock="virtual", rollback=rule) as runtime:
        acted = []
        async for decision in runtime.run(Paying(slow=0.0005), seed=0):
            acted.append(decision.action)
            if len(acted) == 40:
                runtime.agent.swap(constant(1))
            if 1 in acted and acted[-1] == 2:
                break
        metrics = runtime.agent.metrics()
    assert metrics["rollbacks_total"] == {"score": 1}


async def test_a_slow_consumer_starves_no_other_task() -> None:
    """Supervision goes on while decisions come faster than they are looked at."""
    passed = asyncio.Event()

    async def other() -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        passed.set()

    async with Runtime(constant(0), hz=1000) as runtime:
        task = asyncio.create_task(other())
        async for _ in runtime.run(Steps(), seconds=ENOUGH):
            time.sleep(0.01)  # noqa: ASYNC251 (a consumer that is slower than ticks)
            if passed.is_set():
                break
        await task
    assert passed.is_set()
