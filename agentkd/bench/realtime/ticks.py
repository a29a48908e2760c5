"""How well a clock is kept while planner and distiller work: ours and others'."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentkd.bench.realtime.cadence import Cadence, Metronome, cadence
from agentkd.bench.ticks import ACTIONS, OBS, SPEC
from agentkd.errors import ConfigError
from agentkd.executors.architecture import initial
from agentkd.runtime.clock import Realtime
from agentkd.runtime.planner import ProcessPlanner
from agentkd.runtime.runtime import Runtime
from agentkd.runtime.workers.host import Patience, Process
from agentkd.spec import to_json
from agentkd.types import Floats, SquashedGaussian

SYSTEMS = ("rtgym", "openpi")
"""What can be timed beside ours: rtgym and openpi-client."""
_SCRIPT = Path(__file__).with_name("rivals.py")
_NICE = 19
_HERE = "agentkd.bench.realtime.ticks"


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """How one loop kept its clock.

    Attributes:
        system: Whose loop.
        load: What went on beside it.
        hz: What it was to keep.
        rounds: Of each round the moments at which actions came, in ns.
        note: What there is to say, such as why it could not be timed.
    """

    system: str
    load: str
    hz: float
    rounds: tuple[NDArray[np.int64], ...]
    note: str = ""

    def cadence(self) -> Cadence | None:
        """How evenly actions came; None where it could not be timed."""
        return cadence(self.rounds, self.hz) if self.rounds else None


def together(rounds: Sequence[Kept]) -> Kept:
    """Join the rounds of one loop."""
    first = rounds[0]
    moments = tuple(each for one in rounds for each in one.rounds)
    notes = dict.fromkeys(one.note for one in rounds if one.note)
    return replace(first, rounds=moments, note="; ".join(notes))


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
    obs = np.zeros((1, OBS), np.float32)
    while True:
        planner(obs)


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
    children = [_beside(name) for name in ("think_on", "learn_on")]
    try:
        # Both are at work when torch has been loaded.
        time.sleep(4.0)
        yield
    finally:
        for child in children:
            child.kill()
            child.wait()


def _beside(name: str) -> subprocess.Popen[bytes]:
    code = (
        f"import os, sys; sys.path[:] = {sys.path!r}; os.nice({_NICE}); "
        f"from {_HERE} import {name}; {name}()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
    )


def ours(hz: float, seconds: float, *, busy: bool, realtime: Realtime | None = None) -> Kept:
    """Keep a clock, with planner and distiller working all the time if `busy`."""
    world = Metronome(OBS, round(hz * seconds) + 1000, time.perf_counter_ns)
    planner = distiller = None
    if busy:
        # It thinks for a period at least, so that it never waits to be asked.
        remote = Process(f"{_HERE}:thinking_planner", {"seconds": 1.0 / hz})
        planner = ProcessPlanner(remote, patience=Patience())
        distiller = Process(
            "agentkd.distillation.service:build", {"executor": "mlp:64,64", "spec": to_json(SPEC)}
        )

    async def run() -> Runtime:
        executor = initial("mlp:64,64", SPEC)
        async with Runtime(
            executor, planner=planner, distiller=distiller, hz=hz, realtime=realtime, wait=True
        ) as runtime:
            async for _ in runtime.run(world, seconds=seconds):
                pass
        return runtime

    metrics = asyncio.run(run()).result.metrics
    note = ""
    if busy:
        note = (
            f"{metrics['planner_answers_total']:,} answers, "
            f"{metrics['distiller_steps_total']:,} gradient steps"
        )
    for what, told in metrics["realtime"].items():
        note += f"; {what} {told}"
    load_name = "planner and distiller" if busy else "none"
    return Kept("agentkd", load_name, hz, (world.moments,), note.strip("; "))


def theirs(
    python: Path,
    system: str,
    hz: float,
    seconds: float,
    *,
    busy: bool,
    policy_ms: float = 0.0,
    horizon: int = 1,
) -> Kept:
    """Time another's loop, in a Python that has it.

    What it cannot do is told in `Kept.note`.
    """
    beside: Any = load() if busy else contextlib.nullcontext()
    name = "planner and distiller" if busy else "none"
    if policy_ms:
        name = f"{policy_ms:g} ms planner"
    with tempfile.TemporaryDirectory() as folder, beside:
        path = Path(folder) / "moments.npy"
        command = [str(python), str(_SCRIPT), system, str(hz), str(seconds), str(path)]
        if system == "openpi":
            command += [str(policy_ms), str(horizon)]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=4 * seconds + 120,
                check=False,
                # Its own packages, not those of this program.
                env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return Kept(system, name, hz, (), str(error))
        if done.returncode or not path.exists():
            last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
            return Kept(system, name, hz, (), last[0])
        moments = np.load(path, allow_pickle=False)
    return Kept(system, name, hz, (moments,))


def chunks(hz: float, seconds: float, *, policy_ms: float, horizon: int) -> Kept:
    """Keep a clock with a planner that waits as long and answers as many rows."""
    world = Metronome(OBS, round(hz * seconds) + 1000, time.perf_counter_ns)
    remote = Process(f"{_HERE}:waiting_planner", {"seconds": policy_ms / 1e3, "horizon": horizon})

    async def run() -> Any:
        executor = initial("mlp:64,64", SPEC)
        async with Runtime(executor, planner=remote, hz=hz, wait=True) as runtime:
            async for _ in runtime.run(world, seconds=seconds):
                pass
        return runtime.result

    metrics = asyncio.run(run()).metrics
    acted = metrics["decisions_total"]
    total = max(1, metrics["ticks_total"])
    share = sum(acted.get("strategy", {}).values()) / total
    note = f"strategies {share:.0%} of the ticks, the executor the rest"
    return Kept("agentkd", f"{policy_ms:g} ms planner", hz, (world.moments,), note)


def check_python(path: Path, systems: Sequence[str]) -> None:
    """Make sure that a Python can run what is to be timed.

    Raises:
        ConfigError: If it cannot, with what to install.
    """
    names = {"rtgym": "rtgym", "openpi": "openpi_client"}
    code = "; ".join(f"import {names[system]}" for system in systems)
    try:
        done = subprocess.run(
            [str(path), "-c", code],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{path} is no Python that runs: {error}") from error
    if done.returncode:
        raise ConfigError(
            f"{path} lacks what is to be timed: {done.stderr.strip().splitlines()[-1]}."
            " Make one: python3 -m venv others && others/bin/pip install rtgym==0.16 "
            "openpi-client==0.1.2"
        )
