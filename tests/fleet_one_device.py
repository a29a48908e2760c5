"""A hub in memory, a server, a device and what follows the server on it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from agentkd.device import Device
from agentkd.fleet.device import Follower
from agentkd.fleet.messages import Report
from agentkd.transport.memory import Faults, Hub
from tests.fleet_server import SITE, SmallServer
from tests.runtime_children import constant
from tests.test_device import written
from tests.virtual_loop import run_virtually

NAME = "arm-7"


class World:
    """A hub, a server, a device with its first executor, and a follower."""

    def __init__(self, folder: Path, faults: Faults | None = None, **options: Any) -> None:
        self.hub = Hub(faults, seed=options.pop("seed", 0))
        self.folder = folder
        trust = options.pop("trust", None)
        self.device = Device(folder / "device", trust=trust)
        if trust is None:
            self.device.apply(self.written("first", 1))
        self.server = SmallServer(self.hub.line, **options)
        self.lines: list[Any] = []
        self.follower = self.follow()

    def follow(self, **options: Any) -> Follower:
        """Make a follower, as a program that starts does."""

        def connect(*filters: str, **more: Any) -> Any:
            self.lines.append(self.hub.line(*filters, **more))
            return self.lines[-1]

        return Follower(self.device, connect, SITE, NAME, seed=1, **options)

    def written(self, name: str, choice: int) -> Path:
        """Write an executor file."""
        return written(self.folder, name, constant(choice))

    def __call__(self, body: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a test's body beside the server."""

        async def main() -> None:
            async with self.server.running():
                await body()

        run_virtually(main())

    async def phase(self, *phases: str) -> Report:
        """Wait until the device reports a phase."""
        return await self.server.until(NAME, lambda each: each.online and each.phase in phases)


def left(world: World) -> list[str]:
    """Return the names of what was fetched and not removed."""
    folder = world.device.folder / "incoming"
    return sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []
