"""A clock under load, with planner and distiller at work: ours and others'."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentkd.errors import ConfigError
from agentkd.executors.architecture import initial
from agentkd.report.model import Section
from agentkd.runtime.live.page import LivePage
from agentkd.runtime.runtime import Runtime
from agentkd.runtime.workers.host import Process
from agentkd.spec_json import to_json
from agentkd.types import Floats, SquashedGaussian
from benchmarks.beside import beside, looked_at
from benchmarks.cadence import ACTIONS, LATE, OBS, SPEC, Metronome, cadence
from benchmarks.lateness import Delays, Ran, TracedClock, delays, traced
from benchmarks.pythons import Elsewhere
from benchmarks.runner import Benchmark, Column, Findings, Place, Result, Work, table

SYSTEMS = ("rtgym", "openpi")
"""What can be timed beside ours."""
_SCRIPT = Path(__file__).with_name("other_loops.py")
_HERE = "benchmarks.ticks"
_POLICY, _POLICY_HZ, _CHUNKS = 0.15, 50.0, (10, 5, 1)


@dataclass(frozen=True, kw_only=True)
class Options(Place, Elsewhere):
    """Keep clocks while a planner and a distiller work without a pause.

    Each loop commands a robot that costs nothing and writes down when it was commanded; lateness is
    by how much the time between two commands exceeded the period, so that loops with and without an
    absolute schedule can be compared. The planner thinks for a period at least and the distiller
    learns all the time, each in a process of its own; loops of others have the same two processes
    beside them. All take turns in rounds, so that a noisy moment meets each of them.

    --chunks adds openpi-client's own case: a policy of 150 ms at 50 Hz, with chunks of 10, 5 and 1
    actions, and how much of the time its robot has no command.

    Others' loops take part where `python -m benchmarks pythons loops` built their Python.

    Example: python -m benchmarks ticks --hz 1000 --seconds 30
    """

    hz: tuple[float, ...] = (1000.0,)
    """Ticks per second; several rates are gone through."""
    seconds: float = 30.0
    """How long each loop is timed at each rate, all rounds together."""
    rounds: int = 3
    """In how many turns."""
    idle: bool = True
    """Time each loop with nothing beside it as well: what the machine itself loses."""
    chunks: bool = False
    """Time the 150 ms policy as well."""
    live: bool = False
    """Time ours with a live page as well, which a program beside it reads."""
    trace: bool = False
    """Tell what delayed our late ticks, and how long each chore between ticks took."""


@dataclass(slots=True)
class Timed:
    """How a loop kept its clock, all rounds together.

    Attributes:
        moments: Of each round the moments at which actions came, in ns.
        counts: What our runtime counted.
        note: Why another's loop could not be timed.
        delays: Why our ticks were late, if that was traced.
    """

    moments: list[NDArray[np.int64]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    note: str = ""
    delays: Delays | None = None

    def add(self, other: Timed) -> None:
        """Join a round."""
        self.moments += other.moments
        self.note = other.note or self.note
        if self.delays is None:
            self.delays = other.delays
        elif other.delays is not None:
            self.delays.add(other.delays)
        for name, count in other.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count

    def told(self, hz: float) -> dict[str, Any]:
        """Return it as JSON values."""
        if not self.moments:
            return {"note": self.note}
        found = cadence(self.moments, hz)
        told = {**asdict(found), "share": found.share, **self.counts}
        return told if self.delays is None else told | {"delays": self.delays.told()}


Loop = Callable[[], Timed]


def works(options: Options) -> Iterator[Work]:
    """List the rates; all loops of a rate take turns."""
    if min(options.hz, default=0) < 1 or not options.seconds > 0 or options.rounds < 1:
        raise ConfigError(
            f"--hz {' '.join(f'{hz:g}' for hz in options.hz)} --seconds "
            f"{options.seconds:g} --rounds {options.rounds}: at least 1, above 0, at "
            "least 1."
        )
    python = options.find("loops")
    others = {"others": python is not None}
    for hz in options.hz:
        loops = _loops(options, python, hz)
        timed = partial(in_turns, loops, hz, options.rounds)
        yield Work(f"{hz:g} Hz", {"hz": hz, "policy": False, **others}, timed)
    if options.chunks:
        timed = partial(in_turns, _chunk_loops(options, python), _POLICY_HZ, 1)
        yield Work("150 ms policy", {"hz": _POLICY_HZ, "policy": True, **others}, timed)


def _loops(options: Options, python: Path | None, hz: float) -> dict[str, Loop]:
    seconds = options.seconds / options.rounds
    loads = {"idle": False, "busy": True} if options.idle else {"busy": True}
    loops: dict[str, Loop] = {
        f"ours, {name}": partial(ours, hz, seconds, busy=busy, trace=options.trace)
        for name, busy in loads.items()
    }
    for name, busy in loads.items() if options.live else ():
        shown = partial(ours, hz, seconds, busy=busy, trace=options.trace, live=True)
        loops[f"ours, {name}, live"] = shown
    for system in SYSTEMS if python is not None else ():
        for name, busy in loads.items():
            assert python is not None
            timed = partial(theirs, python, system, hz, seconds, busy=busy)
            loops[f"{system}, {name}"] = timed
    return loops


def _chunk_loops(options: Options, python: Path | None) -> dict[str, Loop]:
    seconds = min(20.0, options.seconds)
    slow = Process(f"{_HERE}:waiting_planner", {"seconds": _POLICY, "horizon": _CHUNKS[0]})
    loops: dict[str, Loop] = {"ours": partial(kept, _POLICY_HZ, seconds, planner=slow)}
    for horizon in _CHUNKS if python is not None else ():
        assert python is not None
        loops[f"openpi, chunks of {horizon}"] = partial(
            theirs, python, "openpi", _POLICY_HZ, seconds, chunk=horizon
        )
    return loops


def in_turns(loops: Mapping[str, Loop], hz: float, rounds: int) -> dict[str, Any]:
    """Time loops in turns; who goes first changes."""
    names = list(loops)
    found = {name: Timed() for name in names}
    for number in range(rounds):
        shift = number % len(names)
        for name in (*names[shift:], *names[:shift]):
            found[name].add(loops[name]())
    return {"loops": {name: each.told(hz) for name, each in found.items()}}


def ours(
    hz: float, seconds: float, *, busy: bool, trace: bool = False, live: bool = False
) -> Timed:
    """Keep a clock, with planner and distiller working all the time if `busy`."""
    with looked_at() if live else contextlib.nullcontext() as page:
        return _ours(hz, seconds, busy=busy, trace=trace, page=page)


def _ours(hz: float, seconds: float, *, busy: bool, trace: bool, page: LivePage | None) -> Timed:
    if not busy:
        return kept(hz, seconds, trace=trace, live=page)
    # It thinks for a period at least, so that it never waits to be asked.
    planner = Process(f"{_HERE}:thinking_planner", {"seconds": 1.0 / hz})
    arguments = {"executor": "mlp:64,64", "spec": to_json(SPEC)}
    distiller = Process("agentkd.distillation.service:build", arguments)
    return kept(hz, seconds, trace=trace, planner=planner, distiller=distiller, live=page)


def kept(hz: float, seconds: float, *, trace: bool = False, **workers: Any) -> Timed:
    """Keep a clock beside workers."""
    world = Metronome(OBS, round(hz * seconds) + 1000, time.perf_counter_ns)
    clock = TracedClock(1.0 / hz) if trace else None
    slices: list[Ran] = []

    async def run() -> Mapping[str, Any]:
        executor = initial("mlp:64,64", SPEC)
        options = {"hz": hz, "clock": clock or "wall", "wait": True, **workers}
        async with Runtime(executor, **options) as runtime:
            if clock is not None:
                runtime.agent.chores.trace = slices
            async for _ in runtime.run(world, seconds=seconds):
                pass
        return runtime.result.metrics

    metrics = asyncio.run(run())
    found = None if clock is None else delays(clock.ticks, slices, clock.stop())
    decisions = metrics["decisions_total"]
    by = {source: sum(each.values()) for source, each in decisions.items()}
    counts = {
        "lost": metrics["ticks_total"] - sum(by.values()),
        "deadline_misses": metrics["deadline_miss_total"],
        "strategies": by.get("strategy", 0),
        "answers": metrics["planner_answers_total"],
        "steps": metrics.get("distiller_steps_total", 0),
    }
    return Timed([world.moments], counts, delays=found)


def thinking_planner(seconds: float, width: int = 512) -> Callable[[Floats], Any]:
    """Make a planner that computes for so long before it answers."""
    random = np.random.default_rng(0)
    sizes = [OBS, width, width, ACTIONS]
    layers = [
        random.standard_normal((a, b)).astype(np.float32) / np.float32(np.sqrt(a))
        for a, b in pairwise(sizes)
    ]

    def planner(obs: Floats) -> SquashedGaussian:
        end = time.monotonic() + seconds
        while True:
            x = obs
            for weight in layers[:-1]:
                x = np.maximum(x @ weight, 0)
            mean = x @ layers[-1]
            if time.monotonic() >= end:
                return SquashedGaussian(mean, np.zeros_like(mean))

    return planner


def waiting_planner(seconds: float, horizon: int) -> Any:
    """Make a planner that waits, as for a GPU, and answers with so many rows."""

    class Planner:
        def __call__(self, obs: Floats) -> SquashedGaussian:
            time.sleep(seconds)
            mean = np.zeros((len(obs) * horizon, ACTIONS), np.float32)
            return SquashedGaussian(mean, np.zeros_like(mean))

    planner = Planner()
    vars(planner)["horizon"] = horizon
    return planner


def think_on() -> None:
    """Compute without a pause, as a planner that is always asked; a process runs it."""
    planner = thinking_planner(1.0)
    while True:
        planner(np.zeros((1, OBS), np.float32))


def learn_on() -> None:
    """Take gradient steps without a pause, as a distiller does; a process runs it."""
    from agentkd.distillation.service import build

    distiller = build("mlp:64,64", to_json(SPEC))
    random = np.random.default_rng(0)
    obs = random.standard_normal((4096, OBS)).astype(np.float32)
    distiller.add(obs, thinking_planner(0.0)(obs))
    while True:
        distiller.step()


@contextlib.contextmanager
def load() -> Iterator[None]:
    """Let a planner and a distiller work beside, each in a process of its own."""
    children = [beside(f"{_HERE}:{name}") for name in ("think_on", "learn_on")]
    try:
        # Both are at work when torch has been loaded.
        time.sleep(4.0)
        yield
    finally:
        for child in children:
            child.kill()
            child.wait()


def theirs(
    python: Path, system: str, hz: float, seconds: float, *, busy: bool = False, chunk: int = 0
) -> Timed:
    """Time another's loop, in a Python that has it; the note says what it cannot do.

    Args:
        python: The Python.
        system: Whose loop.
        hz: Ticks per second.
        seconds: For how long.
        busy: Whether planner and distiller work beside it.
        chunk: Actions in an answer of the 150 ms policy; 0 for a policy without delay.
    """
    beside: Any = load() if busy else contextlib.nullcontext()
    with tempfile.TemporaryDirectory() as folder, beside:
        path = Path(folder) / "moments.npy"
        words = [system, str(hz), str(seconds), str(path)]
        if system == "openpi":
            words += [str(1e3 * _POLICY if chunk else 0), str(chunk or 1)]
        fault = _run(python, [str(_SCRIPT), *words], 4 * seconds + 120)
        if fault or not path.exists():
            return Timed(note=fault or "it said nothing")
        return Timed([np.load(path, allow_pickle=False)])


def _run(python: Path, words: Sequence[str], seconds: float) -> str:
    """Run another Python; return why it failed, "" if it did not."""
    try:
        done = subprocess.run(
            [str(python), *words],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
            # Its own packages, not those of this program.
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if not done.returncode:
        return ""
    return (done.stderr.strip().splitlines() or ["it said nothing"])[-1]


def _late(name: str, row: Mapping[str, Any]) -> float | None:
    return row["late_us"][name] if "late_us" in row else None


def _of(name: str, row: Mapping[str, Any]) -> Any:
    return row.get(name)


KEPT = [
    Column("Hz", "hz", "g"),
    Column("loop", "loop"),
    Column("actions", partial(_of, "ticks"), ","),
    Column("missed", partial(_of, "missed"), ","),
    Column("share", partial(_of, "share"), ".3%"),
    *(Column(f"µs {name}", partial(_late, name), ",.0f") for name in LATE),
]
OURS = [
    *KEPT[:2],
    Column("lost", "lost", ","),
    Column("late", "deadline_misses", ","),
    Column("answers", "answers", ","),
    Column("steps", "steps", ","),
]
SLOW = [
    Column("loop", "loop"),
    Column("actions/s", partial(_of, "hz"), ".1f"),
    Column("no command", partial(_of, "uncommanded"), ".1%"),
    Column("longest ms", partial(_of, "longest_ms"), ",.0f"),
]
_KEPT = (
    "Missed: periods without an action. µs: by how much the time from one action to "
    "the next exceeded the period. Busy: two processes at niceness 19 beside others' "
    "loops; ours are in SCHED_IDLE, as the runtime has them, and answer the loop and "
    "send it weights, too."
)
_OURS = (
    "Lost: ticks without a decision. Late: decisions after their deadline. Answers of "
    "the planner, and gradient steps of the distiller."
)


def findings(options: Options, results: Sequence[Result]) -> Findings:
    """Show how each loop kept its clock, and what ours did meanwhile."""
    rows: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for each in results:
        for loop, told in each["loops"].items():
            found = told if each["policy"] else {**told, "hz": each["hz"]}
            rows[each["policy"]].append({"loop": loop, **found})
    notes = [f"{r['loop']}: {r['note']}" for r in rows[False] if "note" in r]
    mine = [row for row in rows[False] if "lost" in row]
    caption = "\n".join([_KEPT, *notes])
    sections = [
        Section("Ticks", "", table(KEPT, rows[False], caption)),
        Section("What ours did meanwhile", "", table(OURS, mine, _OURS)),
        Section("A policy of 150 ms at 50 Hz", "", table(SLOW, rows[True])),
        *traced(mine),
    ]
    lost = sum(row["lost"] for row in mine)
    said = [_missed(each) for each in results if not each["policy"]]
    said.append(f"{lost} decisions were lost.")
    if not all(each["others"] for each in results):
        said.append(f"The loops of rtgym and openpi-client are left out. {options.remedy('loops')}")
    if rows[True]:
        share = rows[True][0]["uncommanded"]
        said.append(
            f"With a planner of 150 ms our robot has no command for {share:.1%} of the time."
        )
    return Findings(sections, "\n".join(said), not lost)


def _missed(result: Result) -> str:
    """Say what ours missed busy, and how much more that is than idle."""
    loops = result["loops"]
    busy, idle = loops["ours, busy"]["share"], loops.get("ours, idle")
    text = f"At {result['hz']:g} Hz busy missed {busy:.3%} of the cycles"
    return f"{text}, {busy - idle['share']:+.3%} beside idle." if idle else f"{text}."


def brief(result: Result) -> str:
    """Give what each loop missed, or its time without a command."""
    name = "uncommanded" if result["policy"] else "share"
    loops = result["loops"].items()
    return ", ".join(f"{k} {v[name]:.3%}" for k, v in loops if name in v)


BENCHMARK = Benchmark("ticks", works, findings, brief, ("hz", "chunks", "pythons"))
run = BENCHMARK.run
