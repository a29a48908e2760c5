"""A planner killed, hung, slowed or corrupted in the middle of a run."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, final, get_args

import numpy as np

from agentkd.errors import ConfigError
from agentkd.executors.architecture import initial
from agentkd.report.model import Section
from agentkd.runtime.planner import ProcessPlanner
from agentkd.runtime.runtime import Runtime
from agentkd.runtime.workers.host import Patience, Process
from agentkd.types import Floats, SquashedGaussian
from benchmarks.cadence import ACTIONS, LATE, OBS, SPEC, Metronome, cadence
from benchmarks.runner import Benchmark, Column, Findings, Place, Result, Work, table

Fault = Literal["none", "killed", "stopped", "slowed", "garbage"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
_MEANING = {
    "none": "nothing is done to it",
    "killed": "SIGKILL",
    "stopped": "SIGSTOP, so that it hangs",
    "slowed": "each answer takes ten times as long, for a third of the run",
    "garbage": "NaN in each answer, until it is started again",
}
_SLOWER = 10.0
_ANSWER = 0.002
"""Seconds that an answer takes."""
_LOOK = 0.002
_GIVE_UP = 300.0
"""Seconds that a run goes on for a planner that has not recovered at its end."""


@dataclass(frozen=True, kw_only=True)
class Options(Place):
    """Kill, stop, slow down and corrupt a planner in the middle of a run at 1 kHz.

    After a third of the run it is killed (SIGKILL), stopped (SIGSTOP), made to answer ten times
    slower for a third of the run, or made to answer NaN. Decisions that were lost would be the
    runtime's fault: there have to be none, and no more missed cycles than in the run in which
    nothing happens. How soon answers come again depends on how long a start takes, and for a
    planner that hangs on --patience, which is 1 s here and 30 s by default.

    Example: python -m benchmarks faults
    """

    hz: float = 1000.0
    """Ticks per second."""
    seconds: float = 12.0
    """How long each run is."""
    rounds: int = 1
    """How often each fault happens, in turns."""
    faults: tuple[Fault, ...] = FAULTS
    """Which faults."""
    patience: float = 1.0
    """Seconds of silence after which the planner counts as hung."""


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


def survive(fault: Fault, options: Options) -> dict[str, Any]:
    """Run, and let something happen to the planner after a third of the time.

    The run goes on until the planner answers again, for 300 s at most.
    """
    # What befalls the planner is in the table.
    logging.getLogger("agentkd.runtime").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        run = _Run(fault, options, Path(folder) / "orders")
        return asyncio.run(run.live())


@final
class _Run:
    def __init__(self, fault: Fault, options: Options, orders: Path) -> None:
        self._fault, self._orders = fault, orders
        self._hz, self._seconds = options.hz, options.seconds
        self._port = ProcessPlanner(
            Process("benchmarks.faults:Stub", {"seconds": _ANSWER, "orders": str(orders)}, nice=5),
            patience=Patience(answer=options.patience),
        )
        self._recovery = float("nan")

    async def live(self) -> dict[str, Any]:
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
        found = cadence([world.moments], self._hz)
        decisions = sum(sources.values())
        return {
            "cadence": asdict(found),
            "missed_share": found.share,
            "decisions": decisions,
            "lost": found.ticks - decisions,
            "sources": sources,
            "answers": metrics["planner_answers_total"],
            "restarts": metrics["planner_restarts_total"],
            # To the first answer after the fault, or after its end where it has one.
            "recovery": self._recovery,
            "error": metrics["planner_error"],
        }

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


def works(options: Options) -> Iterator[Work]:
    """List the faults, in turns."""
    if not options.faults or options.rounds < 1:
        raise ConfigError("--faults and --rounds: at least one.")
    for name in ("hz", "seconds", "patience"):
        if not 0 < getattr(options, name) < math.inf:
            raise ConfigError(f"--{name} {getattr(options, name)}: above 0.")
    for number in range(options.rounds):
        for fault in options.faults:
            yield Work(
                f"{fault}, round {number + 1}",
                {"fault": fault, "round": number},
                partial(survive, fault, options),
            )


def _restarts(result: Result) -> str:
    return ", ".join(f"{n} {why}" for why, n in result["restarts"].items() if n) or "–"


def _late(name: str, result: Result) -> float:
    return float(result["cadence"]["late_us"][name])


COLUMNS = [
    Column("planner", "fault"),
    Column("ticks", lambda r: r["cadence"]["ticks"], ","),
    Column("lost", "lost", ","),
    Column("missed", lambda r: r["cadence"]["missed"], ","),
    Column("share", "missed_share", ".3%"),
    *(Column(name, partial(_late, name), ",.0f") for name in LATE[1:]),
    Column("restarts", _restarts),
    Column("back", "recovery", ".3f"),
]
_CAPTION = (
    "Lost: ticks without a decision. Missed: periods without a tick. p99 to max: µs by "
    "which the time from one action to the next exceeded the period. Back: seconds "
    "until answers came again."
)


def findings(options: Options, results: Sequence[Result]) -> Findings:
    """Show what was lost under each fault."""
    lost = sum(each["lost"] for each in results)
    meaning = "\n\n".join(f"{each}: {_MEANING[each]}" for each in options.faults)
    title = f"What befalls a planner at {options.hz:g} Hz"
    section = Section(title, meaning, table(COLUMNS, results, _CAPTION))
    return Findings([section], f"{lost} decisions were lost.", not lost)


def brief(result: Result) -> str:
    """Give what was lost."""
    return f"{result['lost']} lost, {result['missed_share']:.3%} missed"


BENCHMARK = Benchmark("faults", works, findings, brief, ("rounds", "faults"))
run = BENCHMARK.run
