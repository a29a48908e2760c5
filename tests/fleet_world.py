"""A fleet on a virtual clock: a folder, a hub, a server, and simulated devices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from agentkd.deploy.bundle import write_bundle
from agentkd.executors.architecture import initial
from agentkd.fleet.audit import create
from agentkd.fleet.decisions import decide
from agentkd.fleet.knowledge import Knowledge
from agentkd.fleet.known import Plan
from agentkd.fleet.messages import Report
from agentkd.fleet.office import Office
from agentkd.fleet.rollout import Fleet
from agentkd.fleet.server import Server, filters
from agentkd.spec import DiscreteSpec, ObsSpec, Part, Spec
from agentkd.transport.memory import Faults, Hub
from agentkd.transport.names import Topics
from agentkd.transport.transport import Message
from benchmarks.fleet_devices import SimulatedDevice
from tests.virtual_loop import run_virtually

SITE = "plant"


def executor_file(folder: Path, seed: int = 0, name: str = "executor.akd") -> Path:
    """Write an executor's file."""
    spec = Spec(ObsSpec((Part("", "box", (3,), "float32"),)), DiscreteSpec(2))
    path = folder / name
    write_bundle(path, initial("mlp:64,64", spec, seed=seed))
    return path


def office(folder: Path) -> Office:
    """Make a server's folder."""
    place = folder / "fleet"
    place.mkdir()
    create(place, {"what": "created", "site": SITE}, now=0.0)
    return Office(place)


class World:
    """Runs a server and devices in one loop."""

    def __init__(self, place: Office, faults: Faults | None = None, seed: int = 0) -> None:
        self.office = place
        self.hub = Hub(faults, seed=seed)
        self.devices: dict[str, SimulatedDevice] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.server: Server | None = None
        self.failed: list[BaseException] = []
        self.clock: Callable[[], float] | None = None
        """The machine's; by default the loop's."""

    @property
    def fleet(self) -> Fleet:
        """What the server knows."""
        return self.office.fleet

    def desk(self) -> Office:
        """Open the folder as another process would."""
        return Office(self.office.folder, self.clock or asyncio.get_running_loop().time)

    def push(self, file: Path, **options: Any) -> Plan:
        """Begin a rollout, from another process."""
        return self.desk().push(file, **options)

    def serve(self, *, collect: bool = False) -> None:
        """Start a server, with nothing but what is in the folder."""
        self.office = self.desk()
        line = self.hub.line(*filters(self.fleet.site, collect=collect))
        knowledge = Knowledge(self.office.folder) if collect else None
        self.server = Server(self.office, line, knowledge=knowledge)
        self._start("server", self.server.run())

    def add(self, name: str, **options: Any) -> SimulatedDevice:
        """Start a device."""
        device = self.devices[name] = SimulatedDevice(self.hub.line, SITE, name, **options)
        self._start(name, device.run())
        return device

    def tell(self, name: str, payload: bytes) -> None:
        """Let a device note something down."""
        self.hub.publish(Message(Topics(SITE).of(name, "note"), payload))

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        async def watched() -> None:
            try:
                await work
            except Exception as error:
                self.failed.append(error)
                raise

        self.tasks[name] = asyncio.create_task(watched(), name=name)

    async def stop(self, name: str) -> None:
        """End a device or the server at once."""
        task = self.tasks.pop(name)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def until(self, holds: Callable[[], bool], seconds: float = 3600.0) -> None:
        """Wait until something holds; raise if it does not within so many virtual seconds."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not holds():
            if self.failed:
                raise self.failed[0]
            if loop.time() > end:
                rollout = self.fleet.rollout
                raise AssertionError(f"{dict(self.fleet.counts)} {rollout}")
            await asyncio.sleep(0.05)

    async def over(self, seconds: float = 3600.0) -> str:
        """Wait until the rollout is over; return how."""
        await self.until(
            lambda: (
                self.fleet.rollout is not None
                and self.fleet.rollout.course not in ("running", "paused")
            ),
            seconds,
        )
        assert self.fleet.rollout is not None
        return self.fleet.rollout.course

    async def close(self) -> None:
        """End everything."""
        for name in list(self.tasks):
            with suppress(Exception):
                await self.stop(name)


def live(place: Office, main: Callable[[World], Coroutine[Any, Any, None]], **options: Any) -> None:
    """Run a story in a world on a virtual clock."""

    async def run() -> None:
        world = World(place, **options)
        try:
            await main(world)
            if world.failed:
                raise world.failed[0]
        finally:
            await world.close()

    run_virtually(run())


class Paper:
    """A fleet without messages: events are folded in as if they had been written."""

    def __init__(self, place: Office) -> None:
        self.now = 0.0
        self.office = Office(place.folder, lambda: self.now)
        self.sessions: dict[str, int] = {}

    @property
    def fleet(self) -> Fleet:
        """The state."""
        return self.office.fleet

    def report(self, name: str, *, online: bool = True, **told: Any) -> None:
        """Let a device report, and what is due happen."""
        from agentkd.fleet.decisions import transition

        known = self.fleet.devices.get(name)
        if known is not None and known.target is not None:
            told.setdefault("seen", known.target.revision)
        session = self.sessions.get(name, 1)
        report = Report("0" * 16, session, online, **told)
        event = transition(report, name, known)
        if event is not None:
            self.office.change(lambda _: [event])
        self.pass_time(0)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and what is due happen."""
        self.now += seconds
        while decide(self.fleet, self.now):
            self.office.change(lambda fleet: decide(fleet, self.now))

    def asked(self) -> set[str]:
        """Return the devices that were asked."""
        return {name for name, each in self.fleet.devices.items() if each.asked}
