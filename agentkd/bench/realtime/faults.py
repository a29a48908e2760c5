"""A planner that is killed, stopped, slowed or answers garbage while ticks go on."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final, get_args

import numpy as np

from agentkd.bench.realtime.cadence import Cadence, Metronome, cadence
from agentkd.bench.ticks import ACTIONS, OBS, SPEC
from agentkd.errors import ConfigError
from agentkd.executors.architecture import initial
from agentkd.runtime.planner import ProcessPlanner
from agentkd.runtime.runtime import Runtime
from agentkd.runtime.workers.host import Patience, Process
from agentkd.types import Floats, SquashedGaussian

Fault = Literal["none", "killed", "stopped", "slowed", "garbage"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
MEANING = {
    "none": "nothing is done to it",
    "killed": "SIGKILL",
    "stopped": "SIGSTOP, so that it hangs",
    "slowed": "each answer takes ten times as long, for a third of the run",
    "garbage": "NaN in each answer, until it is started again",
}
_SLOWER = 10.0
_LOOK = 0.002
_GIVE_UP = 300.0
"""Seconds that a run goes on for a planner that has not recovered at its end."""


@dataclass(frozen=True, slots=True)
class Survived:
    """How a run went in which something happened to the planner.

    Attributes:
        fault: What happened.
        cadence: How evenly actions came.
        decisions: Decisions; as many as ticks, or some were lost.
        sources: Decisions by who decided.
        answers: The planner's answers.
        restarts: How often it was started again, by cause.
        recovery: Seconds from the fault, or from its end where it has one, to the first answer
            after it; NaN without a fault, and if there was none.
        error: The planner's last words.
    """

    fault: str
    cadence: Cadence
    decisions: int
    sources: dict[str, int]
    answers: int
    restarts: dict[str, int]
    recovery: float
    error: str


@final
class Stub:
    """A planner that takes its time, and does what a file tells it to.

    Args:
        seconds: For one answer.
        orders: The file: "slow" or "garbage", or nothing.
    """

    horizon = 8

    def __init__(self, seconds: float, orders: str) -> None:
        """Take the file."""
        self._seconds, self._orders = seconds, Path(orders)

    def __call__(self, obs: Floats) -> SquashedGaussian:
        """Answer for observations, (batch, obs)."""
        order = self._orders.read_text() if self._orders.exists() else ""
        time.sleep(self._seconds * (_SLOWER if order == "slow" else 1.0))
        value = np.nan if order == "garbage" else 0.0
        mean = np.full((len(obs) * self.horizon, ACTIONS), value, np.float32)
        return SquashedGaussian(mean, np.zeros_like(mean))


def survive(
    fault: Fault,
    *,
    hz: float = 1000.0,
    seconds: float = 12.0,
    answer_seconds: float = 0.002,
    patience: float = 1.0,
) -> Survived:
    """Run, and let something happen to the planner after a third of the time.

    Args:
        fault: What.
        hz: Ticks per second.
        seconds: How long the run is. It goes on until the planner answers again, for 300 s at most.
        answer_seconds: How long an answer takes.
        patience: Seconds of silence after which the planner counts as hung.

    Raises:
        ConfigError: If the fault is unknown, or a number is invalid.
    """
    if fault not in FAULTS:
        raise ConfigError(f"No fault {fault!r}: {', '.join(FAULTS)}.")
    if not hz > 0 or not seconds > 0 or not answer_seconds > 0 or not patience > 0:
        raise ConfigError("hz, seconds, answer_seconds and patience: above 0.")
    with tempfile.TemporaryDirectory() as folder:
        orders = Path(folder) / "orders"
        run = _Run(fault, hz, seconds, answer_seconds, patience, orders)
        return asyncio.run(run.live())


@final
class _Run:
    def __init__(
        self,
        fault: Fault,
        hz: float,
        seconds: float,
        answer_seconds: float,
        patience: float,
        orders: Path,
    ) -> None:
        self._fault, self._hz, self._seconds = fault, hz, seconds
        self._orders = orders
        self._answer_seconds = answer_seconds
        self._port = ProcessPlanner(
            Process(
                "agentkd.bench.realtime.faults:Stub",
                {"seconds": answer_seconds, "orders": str(orders)},
                nice=5,
            ),
            patience=Patience(answer=patience),
        )
        self._recovery = float("nan")

    async def live(self) -> Survived:
        world = Metronome(
            OBS, round(self._hz * (self._seconds + _GIVE_UP)) + 1000, time.perf_counter_ns
        )
        runtime = Runtime(initial("mlp:64,64", SPEC), planner=self._port, hz=self._hz, wait=True)
        async with runtime:
            harm = asyncio.ensure_future(self._harm(runtime))
            began = time.monotonic()
            async for _ in runtime.run(world):
                over = time.monotonic() - began - self._seconds
                if over > _GIVE_UP or (over > 0 and harm.done()):
                    break
            await runtime.stop()
            harm.cancel()
            await asyncio.gather(harm, return_exceptions=True)
        metrics = runtime.result.metrics
        sources = {
            source: sum(reasons.values()) for source, reasons in metrics["decisions_total"].items()
        }
        return Survived(
            fault=self._fault,
            cadence=cadence([world.moments], self._hz),
            decisions=sum(sources.values()),
            sources=sources,
            answers=metrics["planner_answers_total"],
            restarts=metrics["planner_restarts_total"],
            recovery=self._recovery,
            error=metrics["planner_error"],
        )

    async def _harm(self, runtime: Runtime) -> None:
        await asyncio.sleep(self._seconds / 3)
        harms: dict[str, Callable[[Runtime], Awaitable[None]]] = {
            "killed": lambda each: self._signalled(each, signal.SIGKILL),
            "stopped": lambda each: self._signalled(each, signal.SIGSTOP),
            "slowed": self._slowed,
            "garbage": self._garbage,
        }
        if self._fault in harms:
            await harms[self._fault](runtime)

    async def _signalled(self, runtime: Runtime, number: int) -> None:
        pid = self._port.pid
        assert pid is not None
        began = time.monotonic()
        os.kill(pid, number)
        # Until another process is there, answers are those that were on their way.
        await _until(lambda: self._port.pid not in (pid, None))
        await self._recovered(runtime, began)

    async def _slowed(self, runtime: Runtime) -> None:
        self._orders.write_text("slow")
        await asyncio.sleep(self._seconds / 3)
        began = time.monotonic()
        self._orders.unlink()
        # Whatever is thought of at this moment is slow still.
        answers = runtime.agent.counters.answers
        await _until(lambda: runtime.agent.counters.answers > answers)
        await self._recovered(runtime, began)

    async def _garbage(self, runtime: Runtime) -> None:
        began = time.monotonic()
        self._orders.write_text("garbage")
        restarts = sum(self._port.counts().restarts.values())
        await _until(lambda: sum(self._port.counts().restarts.values()) > restarts)
        self._orders.unlink()
        await self._recovered(runtime, began)

    async def _recovered(self, runtime: Runtime, began: float) -> None:
        answers = runtime.agent.counters.answers
        await _until(lambda: runtime.agent.counters.answers > answers)
        self._recovery = time.monotonic() - began


async def _until(done: Callable[[], Any]) -> None:
    # Counters of other threads and processes ring no bell: they are looked at.
    while True:
        if done():
            return
        await asyncio.sleep(_LOOK)
