"""`agentkd fleet demo`: landers that fly while they are updated, well and badly."""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
from rich.live import Live
from rich.text import Text

from agentkd import environments
from agentkd.cli.fleet_serve import connection
from agentkd.cli.fleet_table import line, shown
from agentkd.cli.terminal import Console
from agentkd.deploy.bundle import Bundle, read_bundle, write_bundle
from agentkd.device import Device, Trial, TrialOptions
from agentkd.errors import ConfigError
from agentkd.executors.layers import Dense
from agentkd.extras import needing
from agentkd.fleet.device import Follower
from agentkd.fleet.errand import Pace
from agentkd.fleet.office import ROOT, Office
from agentkd.fleet.server import Server, filters
from agentkd.fleet.setup import begin, local, read_broker
from agentkd.runtime.agent import Agent
from agentkd.signing import repository
from agentkd.transport.memory import Hub
from agentkd.transport.transport import Connect

ENV = "LunarLander-v3"
EXECUTOR = Path("policies/lunarlander/executor.akd")
_LANDERS = 20
_TRIAL = TrialOptions(shadow=150, acting=150)
_WAVES = (10.0, 40.0, 100.0)
_LIMIT = 120.0
_STARTED = 10.0
"""Seconds that a broker may take to listen."""


@final
@dataclass(slots=True)
class _Lander:
    """A lander: a simulation, and the device whose executor flies it."""

    name: str
    env: Any
    device: Device
    agent: Agent
    trial: Trial
    obs: Any = None
    total: float = 0.0
    returns: list[float] = field(default_factory=list)

    def step(self) -> None:
        """Fly for a tick."""
        if self.obs is None:
            seed = None if self.returns else int(self.name.rpartition("-")[2])
            self.obs, _ = self.env.reset(seed=seed)
        action = self.agent.act(self.obs)
        after, reward, ended, cut, _ = self.env.step(action)
        self.trial.tick(self.obs, action)
        self.total += float(reward)
        self.obs = after
        if ended or cut:
            self.returns.append(self.total)
            self.total, self.obs = 0.0, None
            self.agent.reset()
            self.trial.reset()


def demo(folder: Path | None, executor: Path | None, landers: int | None) -> int:
    """Show a rollout that ends well and one that its first wave stops."""
    console = Console()
    file, count = executor or EXECUTOR, _LANDERS if landers is None else landers
    if not 1 <= count <= 100:
        raise ConfigError(f"--landers {count}: from 1 to 100.")
    if not file.exists():
        raise ConfigError(
            f"{file} is not there. Run the demo in a checkout of agentkd, or give --executor: an "
            f"executor for {ENV}, as agentkd distill {ENV} makes it."
        )
    home = folder or Path("runs") / time.strftime("fleet-demo-%Y%m%d-%H%M%S")
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise ConfigError(f"{home} is not empty. Name another folder; nothing is replaced.")
    with needing("fleet demo"):
        import gymnasium  # noqa: F401
        import tuf  # noqa: F401
    asyncio.run(_demo(home, file, count, console))
    return 0


async def _demo(home: Path, file: Path, count: int, console: Console) -> None:
    began = time.monotonic()
    console.print(f"{home}: keys, three signed executors, {count} landers …", soft_wrap=True)
    good, bad = _prepare(home, file)
    office = Office(home / "fleet")
    async with AsyncExitStack() as stack:
        connect = await stack.enter_async_context(_broker(home / "fleet", console))
        crowd = [_lander(home, index, stack) for index in range(count)]
        transport = connect(*filters(office.fleet.site))
        server = Server(office, transport)
        stack.push_async_callback(transport.aclose)
        pace = Pace(look=0.2)
        followers = [
            Follower(each.device, connect, office.fleet.site, each.name, pace=pace)
            for each in crowd
        ]
        tasks = [asyncio.create_task(each.run()) for each in followers]
        tasks.append(asyncio.create_task(server.run()))
        tasks.append(asyncio.create_task(_fly(crowd)))
        stack.push_async_callback(_end, tasks)
        show = stack.enter_context(_Screen(console))
        await _until(tasks, office, show, lambda: office.fleet.online == count)
        desk = Office(home / "fleet")
        told = []
        for which, each in (("new", good), ("bad", bad)):
            show.say(f"push of the {which} executor: {each.name}")
            await asyncio.to_thread(desk.push, each, waves=_WAVES, limit=_LIMIT)
            await _until(tasks, office, show, lambda: _over(office, desk))
            told.append(_outcome(office, each.name))
        await asyncio.sleep(1.0)
        show.last(office)
        flown = [each for lander in crowd for each in lander.returns]
        empty = sum(each.device.starting() is None for each in crowd)
    mean = f", {np.mean(flown):.0f} on average" if flown else ""
    console.print(
        f"{' '.join(told)} Meanwhile they flew {len(flown)} episodes{mean}; {empty or 'no'} lander "
        f"was left without an executor. {time.monotonic() - began:.0f} s.",
        soft_wrap=True,
    )
    console.print(f"next:     agentkd fleet audit {home / 'fleet'}", soft_wrap=True)


def _prepare(home: Path, file: Path) -> tuple[Path, Path]:
    """Sign three executors, make the server's folder, and return the good one and the bad one."""
    bundle = read_bundle(file)
    drawn = np.random.default_rng(0)
    before = bundle.executor.vector()
    near = before * (1 + 1e-3 * drawn.standard_normal(before.shape)).astype(np.float32)
    files = {
        "lander-1.akd": before,
        "lander-2.akd": near,
        "lander-3-shuffled.akd": _shuffled(bundle),
    }
    paths = [_write(home / "executors" / name, bundle, v) for name, v in files.items()]
    repository.create(home / "repository", home / "keys")
    repository.sign(home / "repository", paths, [home / "keys"])
    begin(home / "fleet", "demo")
    shutil.copy(home / "repository" / "metadata" / "1.root.json", home / "fleet" / ROOT)
    return paths[1], paths[2]


def _shuffled(bundle: Bundle) -> Any:
    """Return weights whose last layer answers for another action: a file that proves itself."""
    executor = bundle.executor
    last = executor.layers[-1]
    if not isinstance(last, Dense):
        raise ConfigError(f"The demo needs an executor that ends in a dense layer, not {last}.")
    after = executor.vector().copy()
    after[-(last.weight.size + last.bias.size) :] *= -1
    return after


def _write(path: Path, bundle: Bundle, vector: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    executor = bundle.executor.with_vector(vector, bundle.executor.version)
    write_bundle(path, executor, {"env": ENV, "made": "agentkd fleet demo"})
    return path


def _lander(home: Path, index: int, stack: AsyncExitStack) -> _Lander:
    name = f"lander-{index + 1:02}"
    device = Device(home / "landers" / name, trust=home / "fleet" / ROOT)
    device.apply(home / "executors" / "lander-1.akd")
    # On a virtual clock there is no period, and so no deadline that a busy machine could miss.
    agent = stack.enter_context(Agent(device.executor()))
    trial = stack.enter_context(Trial(device, agent, _TRIAL))
    env = environments.make(ENV)
    stack.callback(env.close)
    return _Lander(name, env, device, agent, trial)


async def _fly(crowd: list[_Lander]) -> None:
    """Let all fly, a tick each in turn."""
    while True:
        for each in crowd:
            each.step()
        await asyncio.sleep(0)


@asynccontextmanager
async def _broker(folder: Path, console: Console) -> AsyncIterator[Connect]:
    """Start mosquitto if it is installed; a hub in memory takes its place."""
    program = _mosquitto()
    if program is None:
        console.print(
            "broker: mosquitto is not installed; a hub in memory takes its place", soft_wrap=True
        )
        yield Hub().line
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    file = local(folder, port)
    process = await asyncio.create_subprocess_exec(
        program, "-c", str(file), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await _listens(port)
        console.print(f"broker: {program} at port {port}", soft_wrap=True)
        yield connection(read_broker(folder))
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


def _mosquitto() -> str | None:
    # Debian has it where a user's PATH does not lead.
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/local/sbin:/usr/sbin")


async def _listens(port: int) -> None:
    for _ in range(int(_STARTED / 0.1)):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.1)
            continue
        writer.close()
        return
    raise ConfigError(f"mosquitto did not listen at port {port} within {_STARTED:.0f} s.")


async def _until(tasks: list[Any], office: Office, show: _Screen, holds: Any) -> None:
    """Wait until something holds, and show the fleet meanwhile."""
    end = time.monotonic() + 3 * _LIMIT
    while not holds():
        if time.monotonic() > end:
            raise ConfigError(
                f"The demo came no further within {3 * _LIMIT:.0f} s: {line(office.fleet, end)} Is "
                "the machine too busy? Try fewer: --landers 5."
            )
        for each in tasks:
            if each.done():
                each.result()
        show.update(office)
        await asyncio.sleep(0.1)


def _over(office: Office, desk: Office) -> bool:
    """Tell whether the rollout that was pushed last is over."""
    wanted, rollout = desk.fleet.rollout, office.fleet.rollout
    assert wanted is not None
    known = rollout is not None and rollout.number == wanted.number
    return known and rollout is not None and rollout.course not in ("running", "paused")


def _outcome(office: Office, name: str) -> str:
    rollout, counts = office.fleet.rollout, office.fleet.counts
    assert rollout is not None
    if rollout.course == "finished":
        return f"{counts['confirmed']} of {len(office.fleet.devices)} landers confirmed {name}."
    return f"{name} was stopped in wave {rollout.wave + 1}: {rollout.text}."


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for each in tasks:
        each.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@final
class _Screen:
    """A live table on a terminal, lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console, self._at = console, 0.0
        self._live = Live(console=console, auto_refresh=False) if console.is_interactive else None

    def __enter__(self) -> _Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print what comes next."""
        self._console.print(Text(text, "bold"))

    def update(self, office: Office) -> None:
        """Show the state, if it was not shown just now."""
        now = time.monotonic()
        if now - self._at < (0.25 if self._live is not None else 5.0):
            return
        self._at = now
        if self._live is not None:
            self._live.update(shown(office.fleet, time.time()), refresh=True)
        elif office.fleet.rollout is not None:
            self._console.print(line(office.fleet, time.time()), soft_wrap=True)

    def last(self, office: Office) -> None:
        """Show how it ended."""
        table = shown(office.fleet, time.time())
        if self._live is not None:
            self._live.update(table, refresh=True)
        else:
            self._console.print(table)
