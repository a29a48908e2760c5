"""A fleet of simulated devices: from a push until all have confirmed, at a real broker."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agentkd.deploy.bundle import write_bundle
from agentkd.device import Device
from agentkd.errors import ConfigError, check_range
from agentkd.executors.architecture import initial
from agentkd.fleet.office import ROOT, Office
from agentkd.fleet.setup import begin, local
from agentkd.report.model import Section
from agentkd.signing import repository
from agentkd.spec import DiscreteSpec, ObsSpec, Part, Spec
from benchmarks.fleet_devices import SimulatedDevice
from benchmarks.fleet_line import Lines
from benchmarks.runner import Benchmark, Column, Findings, Place, Result, Work, table

_PAGE, _TICK = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
_ENOUGH = 600.0


@dataclass(frozen=True, kw_only=True)
class Options(Place):
    """Push a signed executor to simulated devices, and time each one until it is confirmed.

    mosquitto, `agentkd fleet serve` and all devices run on this machine, in a process each, over
    loopback. A device receives, checks and reports as a real one does; its signature check, golden
    vectors and trial are a pause of --trial seconds, which does not count. The devices share one
    process and speak MQTT by a small client, so that little of what is measured is the simulation.
    What a real device's gate takes is measured apart. The times are those of the server's audit
    trail, from the push to the line of each confirmation.

    Example: python -m benchmarks fleet --devices 10 100 1000 2000 --rounds 3
    """

    devices: tuple[int, ...] = (10, 100, 1000)
    """How many devices, each in turn."""
    rounds: int = 3
    """How often each size is measured."""
    trial: float = 1.0
    """Seconds of a trial."""


@dataclass(frozen=True, slots=True)
class _Usage:
    """What a process has used."""

    seconds: float
    mib: float

    @classmethod
    def of(cls, process: int) -> _Usage:
        """Read the processor time of a process and its memory now."""
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        return cls((int(fields[11]) + int(fields[12])) / _TICK, pages * _PAGE / 2**20)


def works(options: Options) -> list[Work]:
    """Validate the options, and list what to measure."""
    check_range("rounds", options.rounds, least=1)
    check_range("trial", options.trial, least=0, below=_ENOUGH)
    for count in options.devices:
        check_range("devices", count, least=1, most=20_000)
    if _mosquitto() is None:
        raise ConfigError("fleet needs mosquitto: apt-get install mosquitto.")
    return [
        Work(
            f"{count:,} devices, round {number + 1}",
            {"devices": count, "round": number},
            partial(measure, count, options.trial),
        )
        for number in range(options.rounds)
        for count in options.devices
    ]


def measure(count: int, trial: float) -> Mapping[str, Any]:
    """Push to so many devices."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * count + 500
    if soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise ConfigError(f"{count} devices need {wanted} open files; {hard} are allowed.")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_measure(Path(folder), count, trial))


async def _measure(home: Path, count: int, trial: float) -> Mapping[str, Any]:
    file, folder = _prepare(home)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    program = _mosquitto()
    assert program is not None
    serve = (sys.executable, "-m", "agentkd", "fleet", "serve", str(folder))
    async with (
        _running(program, "-c", str(local(folder, port))) as broker,
        _running(*serve) as server,
    ):
        await _listens(port)
        connect = Lines("127.0.0.1", port)
        devices = [
            SimulatedDevice(connect, "bench", f"d{each:05}", trial=trial) for each in range(count)
        ]
        tasks = [asyncio.create_task(each.run()) for each in devices]
        office = Office(folder)
        try:
            await _until(lambda: office.look() is not None and office.fleet.online == count, tasks)
            await asyncio.sleep(2.0)
            before = [_Usage.of(each) for each in (server, broker, os.getpid())]
            plan = await asyncio.to_thread(
                office.push, file, waves=(100.0,), limit=_ENOUGH, sample=count
            )
            number = office.fleet.number
            await _until(lambda: all(each.active == plan.digest for each in devices), tasks)
            after = [_Usage.of(each) for each in (server, broker, os.getpid())]
            found = await _confirmations(office, number, count, tasks)
            # The last reports were written down since.
            after[:2] = [_Usage.of(each) for each in (server, broker)]
            await asyncio.sleep(1.0)
        finally:
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    taken = np.array(found) - trial
    p50, p99, most = (float(each) for each in np.quantile(taken, (0.5, 0.99, 1.0)))
    return {
        "bytes": plan.size,
        "p50": p50,
        "p99": p99,
        "max": most,
        "server_cpu": after[0].seconds - before[0].seconds,
        "server_mib": after[0].mib,
        "broker_cpu": after[1].seconds - before[1].seconds,
        "broker_mib": after[1].mib,
        "devices_cpu": after[2].seconds - before[2].seconds,
        "gate_cpu": _gate(home, file),
        "trail_bytes": (folder / "audit.log").stat().st_size if folder.exists() else 0,
        "without": sum(not each.active for each in devices),
    }


def _prepare(home: Path) -> tuple[Path, Path]:
    """Make a signed executor of about 32 KB, and the server's folder."""
    spec = Spec(ObsSpec((Part("", "box", (32,), "float32"),)), DiscreteSpec(4))
    file = home / "executor.akd"
    write_bundle(file, initial("mlp:48,48", spec))
    repository.create(home / "repository", home / "keys")
    repository.sign(home / "repository", [file], [home / "keys"])
    folder = home / "fleet"
    begin(folder, "bench")
    shutil.copy(home / "repository" / "metadata" / "1.root.json", folder / ROOT)
    return file, folder


def _gate(home: Path, file: Path) -> float:
    """Return the seconds of processor time in which a real device takes the file to its gate."""
    root, taken = home / "repository" / "metadata" / "1.root.json", []
    for number in range(5):
        device = Device(home / f"device-{number}", trust=root)
        began = time.process_time()
        device.apply(file)
        taken.append(time.process_time() - began)
    return float(np.median(taken))


async def _confirmations(
    office: Office, number: int, count: int, tasks: Sequence[asyncio.Task[None]]
) -> list[float]:
    """Return, for each device, the seconds from the push to the line of its confirmation."""
    found: dict[str, float] = {}
    began = office.fleet.time

    def all_told() -> bool:
        for entry in office.look():
            event = entry.event
            if entry.number > number and event.get("phase") == "CONFIRMED":
                found.setdefault(event["device"], entry.time - began)
        return len(found) == count

    await _until(all_told, tasks)
    return list(found.values())


async def _until(holds: Callable[[], bool], tasks: Sequence[asyncio.Task[None]]) -> None:
    end = asyncio.get_running_loop().time() + _ENOUGH
    while not holds():
        _check(tasks, end)
        await asyncio.sleep(0.1)


def _check(tasks: Sequence[asyncio.Task[None]], end: float) -> None:
    for each in tasks:
        if each.done():
            each.result()
    if asyncio.get_running_loop().time() > end:
        raise ConfigError(f"It took more than {_ENOUGH:g} s. Fewer devices?")


@asynccontextmanager
async def _running(*words: str) -> AsyncIterator[int]:
    process = await asyncio.create_subprocess_exec(
        *words, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield process.pid
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 20.0)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise ConfigError(f"{words[0]} did not end by SIGTERM.") from None


async def _listens(port: int) -> None:
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.1)
            continue
        writer.close()
        return
    raise ConfigError(f"mosquitto does not listen at port {port}.")


def _mosquitto() -> str | None:
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/local/sbin:/usr/sbin")


def _each(name: str) -> Callable[[Any], float]:
    """Return milliseconds for each device."""
    return lambda row: 1000 * row[name] / row["devices"]


COLUMNS = [
    Column("devices", "devices", ","),
    Column("p50 s", "p50", ".2f"),
    Column("p99 s", "p99", ".2f"),
    Column("last s", "max", ".2f"),
    Column("server ms/device", _each("server_cpu"), ".2f"),
    Column("broker ms/device", _each("broker_cpu"), ".2f"),
    Column("simulation ms/device", _each("devices_cpu"), ".2f"),
    Column("gate ms", lambda row: 1000 * row["gate_cpu"], ".0f"),
    Column("server MiB", "server_mib", ".0f"),
    Column("broker MiB", "broker_mib", ".0f"),
    Column("trail KB", lambda row: row["trail_bytes"] / 1000, ",.0f"),
]
_NAMES = (
    *("p50", "p99", "max", "server_cpu", "broker_cpu", "devices_cpu", "gate_cpu"),
    *("server_mib", "broker_mib", "trail_bytes"),
)
_CAPTION = (
    "Seconds from the push to the confirmation, without the trial's; medians over the rounds. ms: "
    "of processor time during the rollout; the gate's are those that a real device takes to check "
    "the file, which the simulated ones do not."
)


def findings(options: Options, results: Sequence[Result]) -> Findings:
    """Show the medians of each size."""
    rows = []
    for count in options.devices:
        mine = [each for each in results if each["devices"] == count]
        if mine:
            middle = {name: float(np.median([each[name] for each in mine])) for name in _NAMES}
            rows.append({"devices": count, **middle})
    without = sum(each["without"] for each in results)
    section = Section("From a push to the confirmation", "", table(COLUMNS, rows, _CAPTION))
    return Findings([section], f"{without} devices were without an executor.", not without)


def brief(result: Result) -> str:
    """Give the times."""
    cpu = [1000 * result[f"{each}_cpu"] / result["devices"] for each in ("server", "devices")]
    return (
        f"p50 {result['p50']:.2f} s, p99 {result['p99']:.2f} s, last {result['max']:.2f} s; a "
        f"device takes {cpu[0]:.2f} ms of the server, {cpu[1]:.2f} ms of the simulation"
    )


BENCHMARK = Benchmark("fleet", works, findings, brief, ("rounds", "devices"))
run = BENCHMARK.run
