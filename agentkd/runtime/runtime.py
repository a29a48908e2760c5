"""The runtime: an agent in an environment, tick by tick, with asyncio around it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal, Self, Unpack, final

from agentkd.errors import ConfigError, WorkerError, check_range
from agentkd.executors.executor import Executor
from agentkd.runtime.agent import Agent
from agentkd.runtime.clock import Clock, Realtime, VirtualClock, make_clock
from agentkd.runtime.connect import AgentOptions
from agentkd.runtime.loop import Limits, Loop, RunResult
from agentkd.spec import Spec
from agentkd.types import Decision

_SHARE = 0.05
"""Seconds for which a consumer may keep other tasks waiting."""
_LOOK = 0.25
"""How often it is looked for decisions at least, in seconds. Under a wall clock the tick's thread
calls before it sleeps, so that the consumer does not take the interpreter from a tick."""
_LOOK_VIRTUAL = 0.05
_STUCK = 5.0


@final
class Runtime:
    """Runs an agent in an environment at a steady rate.

        async with Runtime(executor, planner=planner, hz=50) as runtime:
            async for decision in runtime.run(env, seconds=60, seed=0):
                ...
        print(runtime.result.returns)

    Ticks happen in a thread, which looks after processes and swaps between them; asyncio hands the
    decisions on. A consumer that is slow misses some and slows nothing down. Under the virtual
    clock everything happens on the tick, in the same order in each run.

    Args:
        executor: As `Agent` takes it.
        spec: The environment.
        hz: Ticks per second.
        clock: "wall", "virtual", or a clock of your own.
        realtime: What is asked of the system for the tick thread on the wall clock.
        views: How many decisions wait for the consumer.
        wait: Enter the block only when planner and distiller are ready. Else the executor acts from
            the first tick, and they join when they are.
        timeout: Seconds to wait at most; None for as long as a start may take.
        options: What else `Agent` takes. Under the virtual clock `planner_latency` is in its ticks,
            and a distiller may be an object.

    Attributes:
        agent: The agent: its executor, its metrics.
    """

    def __init__(
        self,
        executor: Executor | str | Path,
        spec: Spec | None = None,
        *,
        hz: float = 50.0,
        clock: Literal["wall", "virtual"] | Clock = "wall",
        realtime: Realtime | None = None,
        views: int = 1024,
        wait: bool = False,
        timeout: float | None = None,
        **options: Unpack[AgentOptions],
    ) -> None:
        check_range("views", views, least=1, whole=True)
        chosen = make_clock(clock, hz)
        self.agent = Agent(executor, spec, period=chosen.period, **options)
        self._clock = self.agent.adopt(chosen)
        self._views, self._wait, self._timeout = views, wait, timeout
        self._realtime = realtime or Realtime()
        self._loop: Loop | None = None
        self._result: RunResult | None = None
        self._entered = self._open = False

    async def __aenter__(self) -> Self:
        if self._entered:
            raise ConfigError("A runtime is entered once. Make a new one.")
        self._entered = True
        await self.agent.astart(wait=self._wait, timeout=self._timeout)
        self._open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.stop()
        finally:
            self._open = False
            await self.agent.aclose()
            if self._loop is not None:
                self._result = self._loop.result()

    async def stop(self) -> None:
        """End the run, if one goes on; what was measured is in `result` then.

        Raises:
            WorkerError: If the environment does not come back from its step.
        """
        loop = self._loop
        if loop is None:
            return
        loop.stop()
        if loop.thread.is_alive():
            await asyncio.to_thread(loop.thread.join, _STUCK)
        if loop.thread.is_alive():
            raise WorkerError(
                f"The environment's step did not return within {_STUCK:.0f} s. Its "
                "thread is left alone."
            )
        self._result = loop.result()

    async def run(
        self,
        env: Any,
        *,
        ticks: int | None = None,
        seconds: float | None = None,
        episodes: int | None = None,
        seed: int | None = None,
    ) -> AsyncIterator[Decision]:
        """Run, and give the decisions as they are made.

        Args:
            env: Has `reset(seed=…)` and `step(action)` as Gymnasium has them. It is used in the
                tick thread only, and not closed.
            ticks: The end, in ticks.
            seconds: The end, in seconds of the run's clock.
            episodes: The end, in episodes. Without any end it runs until you leave.
            seed: Episode i is reset with seed + i.

        Raises:
            ConfigError: Outside of `async with`, or for a second run.
            Exception: What the environment raised, with a note that says when.
        """
        if not self._open:
            raise ConfigError("Use the runtime in a block: async with Runtime(...).")
        if self._loop is not None:
            raise ConfigError("A runtime runs once. Make a new one for another run.")
        limits = Limits(ticks, seconds, episodes)
        loop = Loop(self.agent, self._clock, env, limits, seed, self._views, self._realtime)
        self._loop = loop
        called, look = self._called(loop)
        loop.thread.start()
        try:
            while loop.thread.is_alive() or loop.views:
                if loop.views:
                    await asyncio.sleep(0)
                else:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(look):
                            await called.wait()
                    called.clear()
                # A consumer that is slower than the ticks starves no other task.
                until = time.monotonic() + _SHARE
                while loop.views and time.monotonic() < until:
                    yield loop.views.popleft()
        finally:
            await self.stop()
        if loop.error is not None:
            raise loop.error

    def _called(self, loop: Loop) -> tuple[asyncio.Event, float]:
        """Let the tick's thread set an event; return it, and how long to wait for it."""
        called, events = asyncio.Event(), asyncio.get_running_loop()

        def call() -> None:
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                events.call_soon_threadsafe(called.set)

        loop.call = call
        return called, _LOOK_VIRTUAL if isinstance(self._clock, VirtualClock) else _LOOK

    @property
    def result(self) -> RunResult:
        """What the run measured.

        Raises:
            ConfigError: If no run has ended yet.
        """
        if self._result is None:
            raise ConfigError("There is no result before a run ends. Await stop().")
        return self._result
