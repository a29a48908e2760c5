"""A mosquitto of a test's own, and a proxy before it that spoils what passes."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.waiting import ENOUGH


class Mosquitto:
    """A broker on this machine's own address, at a port that was free.

    Args:
        folder: Where its configuration lies.
        lines: Of the configuration, besides the listener's.
    """

    def __init__(self, folder: Path, *lines: str) -> None:
        self._folder, self._lines = folder, lines or ("allow_anonymous true",)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def address(self) -> str:
        """Where clients find it."""
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, at the port that it had before."""
        for _ in range(10):
            port = self.port or _free_port()
            lines = [f"listener {port} 127.0.0.1", *self._lines]
            if os.getuid() == 0:
                # It would give up root, and could not read its files then.
                lines.append("user root")
            path = self._folder / "mosquitto.conf"
            path.write_text("\n".join(lines) + "\n")
            with (self._folder / "mosquitto.log").open("ab") as output:
                self._process = subprocess.Popen(
                    ["mosquitto", "-c", str(path)], stdout=output, stderr=output
                )
            if self._answers(port):
                self.port = port
                return
        raise AssertionError((self._folder / "mosquitto.log").read_text())

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.send_signal(signal.SIGCONT)
        self._process.wait(ENOUGH)

    def freeze(self) -> None:
        """Stop it; its connections stay."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _answers(self, port: int) -> bool:
        assert self._process is not None
        end = time.monotonic() + ENOUGH
        while self._process.poll() is None and time.monotonic() < end:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                # Another program may have taken the port meanwhile; then it ends.
                time.sleep(0.05)
                return self._process.poll() is None
            time.sleep(0.01)
        return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.kill()


class ChaosProxy:
    """Passes bytes on to a port, and spoils some of them: so many faults, then none.

    Args:
        port: Where the broker is.
        kinds: Of faults: cut, delay, duplicate, truncate, corrupt.
        faults: How many there are in all.
        every: One piece of so many is spoilt.
        seed: Of which ones.
    """

    def __init__(
        self, port: int, kinds: tuple[str, ...] = (), faults: int = 0, every: int = 4, seed: int = 0
    ) -> None:
        self.left, self.port, self.connections = faults, 0, 0
        self._target, self._kinds, self._every = port, kinds, every
        self._random = random.Random(seed)
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def address(self) -> str:
        """Where clients find it."""
        return f"mqtt://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Pass bytes on while the block lasts."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            self.cut()
            # The handlers end with their connections.
            await until(lambda: not self._writers)

    def cut(self) -> None:
        """Cut all connections."""
        for each in list(self._writers):
            each.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            with suppress(OSError):
                inner, outer = await asyncio.open_connection("127.0.0.1", self._target)
                self._writers.add(outer)
                try:
                    await asyncio.gather(self._pass(reader, outer), self._pass(inner, writer))
                finally:
                    outer.transport.abort()
                    self._writers.discard(outer)
        finally:
            writer.transport.abort()
            self._writers.discard(writer)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2048):
            for piece in await self._spoilt(data):
                writer.write(piece)
                await writer.drain()
        raise ConnectionResetError("the other end has gone")

    async def _spoilt(self, data: bytes) -> list[bytes]:
        if not self.left or self._random.randrange(self._every):
            return [data]
        self.left -= 1
        match self._random.choice(self._kinds):
            case "cut":
                raise ConnectionResetError("cut")
            case "delay":
                await asyncio.sleep(self._random.uniform(0, 0.3))
                return [data]
            case "duplicate":
                return [data, data]
            case "truncate":
                return [data[: self._random.randrange(len(data))]]
            case _:
                at = self._random.randrange(len(data))
                other = data[at] ^ self._random.randrange(1, 256)
                return [data[:at] + bytes([other]) + data[at + 1 :]]


async def until(done: Callable[[], Any], state: Callable[[], Any] = str) -> None:
    """Wait until something is so; `state` is called for the message if it is not."""
    end = time.monotonic() + ENOUGH
    while not done():
        assert time.monotonic() < end, state()
        await asyncio.sleep(0.01)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
