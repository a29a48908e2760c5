"""Any history of wishes, losses, damage, kills and trials leaves a device that acts, and tells."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentkd.device import Device
from agentkd.errors import DeviceError
from agentkd.executors.architecture import initial
from agentkd.fleet.device import Follower
from agentkd.fleet.messages import Report
from agentkd.transport.memory import Faults, Hub, Line
from tests.fleet_server import SITE, SmallServer
from tests.runtime_children import BOX, constant
from tests.test_device import written
from tests.virtual_loop import VirtualLoop

NAME = "arm-7"
GOOD = 3


class Histories(RuleBasedStateMachine):
    """A server, a device and its follower over a hub that spoils, on a virtual clock."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.device = Device(self.folder / "device")
        self.files = [written(self.folder, f"{n}", constant(n)) for n in range(GOOD)]
        self.files.append(written(self.folder, "unfit", initial("mlp:4", BOX)))
        self.files.append(self.folder / "damaged.akd")
        self.files[-1].write_bytes(self.files[1].read_bytes()[:-9])
        self.device.apply(self.files[0])
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.tasks: list[asyncio.Task[None]] = []
        self.lines: list[Line] = []

    @initialize(seed=some.integers(0, 2**32), chunk=some.sampled_from([128, 1024]))
    def begin(self, seed: int, chunk: int) -> None:
        """Start the server, and the device's program."""

        async def start() -> None:
            self.hub = Hub(seed=seed)
            self.server = SmallServer(self.hub.line, chunk)
            self.tasks.append(asyncio.create_task(self.server.run()))

        self.runner.run(start())
        self.seed = seed
        self.restart()

    def restart(self) -> None:
        """Start the device's program."""

        def connect(*filters: str, **options: Any) -> Line:
            self.lines.append(self.hub.line(*filters, **options))
            return self.lines[-1]

        async def start() -> None:
            self.follower = Follower(self.device, connect, SITE, NAME, seed=self.seed)
            self.tasks.append(asyncio.create_task(self.follower.run()))
            await asyncio.sleep(0.01)

        self.runner.run(start())

    def pass_by(self, seconds: float) -> None:
        """Let time go by."""
        self.runner.run(asyncio.sleep(seconds))

    @rule(number=some.integers(0, GOOD + 1))
    def desire(self, number: int) -> None:
        """Ask for an executor."""
        self._wish("apply", self.files[number])
        self.pass_by(0.1)

    @rule(number=some.integers(0, GOOD - 1))
    def back(self, number: int) -> None:
        """Ask to go back from one."""
        digest = self.server.file(self.files[number].read_bytes(), publish=False).digest
        self._wish("rollback", digest=digest)

    @rule()
    def hold(self) -> None:
        """Ask for nothing."""
        self._wish("hold")

    @rule(
        loss=some.sampled_from([0, 0, 0.3, 0.6]),
        repeat=some.sampled_from([0, 0.3]),
        damage=some.sampled_from([0, 0, 0.3]),
        delay=some.sampled_from([0, 0, 2.0]),
    )
    def spoil(self, loss: float, repeat: float, damage: float, delay: float) -> None:
        """Let the hub lose, repeat, damage and delay what passes."""
        self.hub.faults = Faults(loss, repeat, damage, delay)

    @rule(long=some.booleans())
    def wait(self, long: bool) -> None:
        """Let time go by."""
        self.pass_by(40.0 if long else 1.0)

    @rule()
    def cut(self) -> None:
        """Cut the line for a while."""
        self._do(self.lines[-1].cut)
        self.pass_by(1.0)
        self._do(self.lines[-1].restore)

    @rule()
    def kill(self) -> None:
        """Kill the device's program, and start it again."""
        self._do(self.lines[-1].cut)
        self._end(self.tasks.pop())
        self.restart()

    @rule(at=some.integers(0, 5000), byte=some.integers(0, 255))
    def damage(self, at: int, byte: int) -> None:
        """Damage what was fetched so far."""
        for path in (self.device.folder / "incoming").glob("*"):
            data = bytearray(path.read_bytes())
            data[at % len(data)] = byte
            path.write_bytes(data)

    @rule(end=some.sampled_from(["confirm", "fail", "leave"]))
    def trial(self, end: str) -> None:
        """Let the robot's program try what waits."""
        waiting = self.device.status().waiting
        if waiting is None:
            return
        with suppress(DeviceError):
            self.device.begin()
            if end == "confirm":
                self.device.confirm(waiting.held.digest)
            elif end == "fail":
                self.device.fail(waiting.held.digest, "slow", "It was slow.")
        self.pass_by(0.6)

    @invariant()
    def an_executor_acts_that_was_meant(self) -> None:
        """Never nothing, and never anything corrupt or unfit."""
        starting = self.device.starting()
        assert starting is not None
        state = self.device.status()
        held = [state.active, state.former, state.waiting and state.waiting.held]
        assert {each.name for each in held if each} <= {"0.akd", "1.akd", "2.akd"}

    @precondition(lambda self: hasattr(self, "server"))
    @rule(number=some.integers(0, GOOD + 1))
    def converge(self, number: int) -> None:
        """Once the line is good, the device does what is desired, or says why it does not."""
        self.hub.faults = Faults()
        # The next report tells the server how far damage has driven the revision.
        self.pass_by(70.0)
        waiting = self.device.status().waiting
        if waiting is not None:
            self.device.fail(waiting.held.digest, "slow", "It was slow.")
        desired = self._wish("apply", self.files[number])
        report: Report = self.runner.run(
            self.server.until(
                NAME,
                lambda each: (
                    each.seen >= desired.revision and each.phase not in ("IDLE", "FETCHING")
                ),
            )
        )
        assert (report.online, report.digest) == (True, desired.digest)
        state = self.device.status()
        if report.phase == "STAGED":
            assert state.waiting is not None
            assert state.waiting.held.digest == desired.digest
        elif report.phase == "CONFIRMED":
            assert report.active == desired.digest
        else:
            assert report.phase in ("REFUSED", "ROLLED_BACK")
            assert report.reason
            assert number >= GOOD or desired.digest in state.blacklist
        assert state.active is not None
        assert report.active == state.active.digest

    def teardown(self) -> None:
        """End everything, and remove the folder."""
        for each in self.tasks:
            self._end(each)
        self.runner.close()
        shutil.rmtree(self.folder)

    def _wish(self, action: Any, file: Path | None = None, **options: Any) -> Any:
        return self._do(lambda: self.server.desire(NAME, action, file, **options))

    def _do(self, what: Callable[[], Any]) -> Any:
        """Do something inside the event loop."""

        async def do() -> Any:
            return what()

        return self.runner.run(do())

    def _end(self, task: asyncio.Task[None]) -> None:
        """End a program at once."""

        async def end() -> None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

        self.runner.run(end())


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
