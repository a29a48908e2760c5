"""A robot that is updated while it acts: its decisions, and what the device's programs take."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentkd.deploy.bundle import write_bundle
from agentkd.device import Device
from agentkd.errors import ConfigError, check_range
from agentkd.executors.architecture import initial
from agentkd.report.model import Section
from agentkd.signing import repository
from agentkd.spec import DiscreteSpec, ObsSpec, Part, Spec
from benchmarks.runner import Benchmark, Column, Findings, Place, Result, Work, table

_ENOUGH = 300.0
_SPEC = Spec(ObsSpec((Part("", "box", (8,), "float32"),)), DiscreteSpec(4))
_MOST = 2.0
"""How many times longer than idle 999 of 1,000 decisions during updates may take."""


@dataclass(frozen=True, kw_only=True)
class Options(Place):
    """Update a robot while it acts, and time each of its decisions.

    A robot's program ticks with an executor and a trial, as in the guide. In turns it is left
    alone, and updated: `nice agentkd device apply` in another process checks a signed executor,
    and the program tries and confirms it. A decision is what `Agent.act` takes; a gap is by how
    much the time between two actions exceeded the period. Both are compared with those of the idle
    turns of the same run.

    Then the programs of a device are started: how long each takes, and its memory at most.

    Example: python -m benchmarks updates --hz 50 500 --rounds 4
    """

    hz: tuple[float, ...] = (50.0, 500.0)
    """Ticks per second; several rates are gone through."""
    rounds: int = 4
    """Updates at each rate."""
    trial: int = 500
    """Ticks of each half of a trial."""
    starts: int = 5
    """How often each of the device's programs is started."""


def works(options: Options) -> Iterator[Work]:
    """Validate the options, and list what to measure."""
    check_range("rounds", options.rounds, least=1)
    check_range("trial", options.trial, least=2)
    check_range("starts", options.starts, least=0)
    for hz in options.hz:
        check_range("hz", hz, least=1, most=5000)
        work = partial(decisions, hz, options.rounds, options.trial)
        yield Work(f"{hz:g} Hz", {"hz": hz, "part": "decisions"}, work)
    if options.starts:
        yield Work("programs", {"hz": 0.0, "part": "programs"}, partial(programs, options.starts))


def decisions(hz: float, rounds: int, trial: int) -> Mapping[str, Any]:
    """Update a robot some times, and sort its decisions into idle ones and others."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        files, root = _sign(home, rounds + 1)
        device = Device(home / "device", trust=root)
        device.apply(files[0])
        words = (str(device.folder), str(hz), str(trial), str(home / "times.npy"))
        stretches = []
        with _program("-m", "benchmarks.updates_robot", *words) as robot:
            try:
                _pause(robot, 2.0)
                for file in files[1:]:
                    began = time.monotonic_ns()
                    _update(device, file, root, robot)
                    stretches.append((began, time.monotonic_ns()))
                    _pause(robot, (stretches[-1][1] - began) * 1e-9)
            finally:
                robot.send_signal(signal.SIGTERM)
        times = np.load(home / "times.npy")
    return sort(times, stretches, 1e9 / hz)


def _update(device: Device, file: Path, root: Path, robot: subprocess.Popen[bytes]) -> None:
    """Bring an update to its end, as the guide says."""
    words = ("device", "apply", str(file), "--folder", str(device.folder), "--trust", str(root))
    _run("nice", "-n", "10", sys.executable, "-m", "agentkd", *words)
    while device.status().waiting is not None:
        _pause(robot, 0.05)
    # The last writes and the end of its threads belong to the update.
    _pause(robot, 0.2)
    last = device.status().last
    if last is None or last.stage != "CONFIRMED":
        raise ConfigError(f"An update was not confirmed: {last}. Is the machine busy?")


def sort(
    times: NDArray[np.int64], stretches: Sequence[tuple[int, int]], period: float
) -> Mapping[str, Any]:
    """Return quantiles of decisions in updates and beside them, in µs.

    Args:
        times: When each decision began and ended, ns, (n, 2).
        stretches: When each update began and ended, ns.
        period: From tick to tick, ns.
    """
    # The first second is that of the start.
    times = times[times[:, 0] > times[0, 0] + 10**9]
    began, ended = times[1:, 0], times[1:, 1]
    taken = (ended - began) * 1e-3
    gaps = np.maximum(0.0, np.diff(times[:, 1]) - period) * 1e-3
    within = np.zeros(len(began), bool)
    for start, end in stretches:
        within |= (began >= start) & (began < end)
    told: dict[str, Any] = {"seconds": sum(end - start for start, end in stretches) * 1e-9}
    for name, chosen in (("idle", ~within), ("update", within)):
        told[f"{name}_count"] = int(chosen.sum())
        for what, values in (("decision", taken[chosen]), ("gap", gaps[chosen])):
            found = np.quantile(values, (0.5, 0.99, 0.999, 1.0)) if len(values) else np.zeros(4)
            for at, value in zip(("p50", "p99", "p999", "max"), found, strict=True):
                told[f"{name}_{what}_{at}"] = float(value)
    return told


_PROGRAMS = {
    "robot": "from agentkd.runtime.agent import Agent; from agentkd.device import Device, Trial; "
    "Agent(Device({folder!r}, trust={root!r}).executor(), period=0.02).act([0.0] * 8)",
    "agent": "from agentkd.device import Device; from agentkd.fleet.device import Follower; "
    "from agentkd.transport.mqtt import MqttTransport; "
    "Device({folder!r}, trust={root!r}).starting()",
    "agent that checks": "from agentkd.device import Device; "
    "from agentkd.fleet.device import Follower; from agentkd.transport.mqtt import MqttTransport; "
    "import aiomqtt; Device({folder!r}, trust={root!r}).apply({file!r})",
    "agent, checked apart": "from agentkd.device import Device; "
    "from agentkd.fleet.device import Follower; from agentkd.transport.mqtt import MqttTransport; "
    "from agentkd.signing.store import TrustStore; import aiomqtt; "
    "Device({folder!r} + '-3', trust=TrustStore({root!r}, apart=True)).apply({file!r})",
    "command": "from agentkd.cli.main import main; "
    "main(['device', 'status', '--folder', {folder!r}])",
}
"""What a device runs. The agent follows a fleet; it checks signatures once an update comes."""


def programs(starts: int) -> Mapping[str, Any]:
    """Start each of a device's programs some times; return medians of seconds and MiB."""
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        files, root = _sign(Path(name), 2)
        device = Device(Path(name) / "device", trust=root)
        device.apply(files[0])
        names = {"folder": str(device.folder), "root": str(root), "file": str(files[1])}
        for _ in range(starts):
            for each, text in {"Python alone": "import numpy", **_PROGRAMS}.items():
                taken, mib = _started(text.format(**names))
                told.setdefault(f"{each} s", []).append(taken)
                told.setdefault(f"{each} MiB", []).append(mib)
    return {each: float(np.median(values)) for each, values in told.items()}


def _started(text: str) -> tuple[float, float]:
    """Run a text in a fresh Python; return how long it took, and its memory at its end."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", f"{text}\nprint('ready', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        for line in process.stdout:
            if line == "ready\n":
                break
        taken = time.monotonic() - began
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
        process.stdin.write("\n")
    return taken, pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _sign(home: Path, count: int) -> tuple[list[Path], Path]:
    """Make so many signed executors of one architecture, and the root that a device trusts."""
    files = []
    repository.create(home / "repository", home / "keys")
    for index in range(count):
        file = home / f"executor-{index}.akd"
        executor = initial("mlp:64,64", _SPEC, seed=index)
        write_bundle(file, executor.with_vector(executor.vector(), index + 1))
        repository.sign(home / "repository", [file], [home / "keys"])
        files.append(file)
    return files, home / "repository" / "metadata" / "1.root.json"


def _program(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)


def _run(*words: str) -> None:
    done = subprocess.run(words, stdout=subprocess.DEVNULL, timeout=_ENOUGH, check=False)
    if done.returncode:
        raise ConfigError(f"{' '.join(words)} failed with status {done.returncode}.")


def _pause(robot: subprocess.Popen[bytes], seconds: float) -> None:
    time.sleep(seconds)
    if robot.poll() is not None:
        raise ConfigError(f"The robot's program ended with status {robot.returncode}.")


def ratio(result: Result) -> float:
    """Return how many times longer 999 of 1,000 decisions took in updates."""
    return float(result["update_decision_p999"] / result["idle_decision_p999"])


_TIMES = [
    Column("Hz", "hz", "g"),
    Column("turns", "turn"),
    Column("count", "count", ","),
    *(Column(at, f"decision_{at}", ".0f") for at in ("p50", "p99", "p999", "max")),
    *(Column(f"gap {at}", f"gap_{at}", ".0f") for at in ("p99", "p999", "max")),
]
_CAPTION = (
    "In µs. p50 to max: what Agent.act takes. A gap: by how much the time between two actions "
    "exceeded the period."
)
_STARTED = [
    Column("program", "name"),
    Column("start s", "seconds", ".2f"),
    Column("memory MiB", "mib", ".1f"),
]


def findings(_: Options, results: Sequence[Result]) -> Findings:
    """Show decisions and programs."""
    sections, said, good = [], [], True
    timed = [each for each in results if each["part"] == "decisions"]
    rows = []
    for each in timed:
        for turn in ("idle", "update"):
            told = {
                name.removeprefix(f"{turn}_"): value
                for name, value in each.items()
                if name.startswith(f"{turn}_")
            }
            rows.append({"hz": each["hz"], "turn": turn, **told})
        found = ratio(each)
        good &= found <= _MOST
        said.append(f"At {each['hz']:g} Hz p99.9 of decisions in updates is {found:.2f} × idle.")
    if rows:
        sections.append(Section("Decisions", "", table(_TIMES, rows, _CAPTION)))
    for each in results:
        if each["part"] == "programs":
            names = ("Python alone", *_PROGRAMS)
            started = [
                {"name": name, "seconds": each[f"{name} s"], "mib": each[f"{name} MiB"]}
                for name in names
            ]
            sections.append(Section("Programs of a device", "", table(_STARTED, started, "")))
    return Findings(sections, " ".join(said), good)


def brief(result: Result) -> str:
    """Give what matters."""
    if result["part"] == "programs":
        return f"agent: {result['agent s']:.2f} s, {result['agent MiB']:.1f} MiB"
    return f"p99.9 in updates {ratio(result):.2f} × idle"


BENCHMARK = Benchmark("updates", works, findings, brief, ("hz", "starts"))
run = BENCHMARK.run
