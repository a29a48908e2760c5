"""The least that a server may be: it says what is desired, and sends what is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentkd.errors import LoadError
from agentkd.fleet.messages import Desired, Report, read_report
from agentkd.transport import Connect, Message
from agentkd.transport.blobs import Blob, blob, read_need
from agentkd.transport.names import Topics
from tests.waiting import ENOUGH

SITE = "site"
TOPICS = Topics(SITE)


class SmallServer:
    """Sends each device what is desired until it reports having seen it, and chunks on demand.

    Args:
        connect: Makes the transport.
        chunk: Bytes of a chunk.
        retain: Whether chunks are retained.
    """

    def __init__(self, connect: Connect, chunk: int = 256, *, retain: bool = True) -> None:
        self.reports: dict[str, Report] = {}
        self.history: dict[str, list[Report]] = {}
        self.needs = 0
        self._chunk, self._retain = chunk, retain
        self._blobs: dict[str, tuple[Blob, list[bytes]]] = {}
        self._desired: dict[str, Desired] = {}
        self._line = connect(f"{TOPICS.root}/d/+/state", f"{TOPICS.root}/d/+/need")
        self._news = asyncio.Event()

    def file(self, data: bytes, *, publish: bool = True) -> Blob:
        """Offer a file's bytes."""
        made = blob(data, self._chunk)
        self._blobs[made[0].digest] = made
        if publish:
            self._send(made[0].digest, range(len(made[1])))
        return made[0]

    def desire(self, device: str, action: Any, file: Path | None = None, **options: Any) -> Desired:
        """Say what a device shall run."""
        if file is not None:
            options["file"] = self.file(file.read_bytes())
            options["digest"] = options["file"].digest
            options.setdefault("name", file.name)
            proof = file.with_name(f"{file.name}.proof")
            if proof.exists():
                options["proof"] = self.file(proof.read_bytes())
        found = self._desired.get(device)
        revision = 1 if found is None else found.revision + 1
        self._desired[device] = Desired(revision, action, **options)
        self._say(device)
        return self._desired[device]

    async def until(self, device: str, done: Callable[[Report], bool]) -> Report:
        """Wait for a report."""

        async def look() -> Report:
            while device not in self.reports or not done(self.reports[device]):
                self._news.clear()
                await self._news.wait()
            return self.reports[device]

        try:
            return await asyncio.wait_for(look(), ENOUGH)
        except TimeoutError:
            raise AssertionError(f"it is {self.reports.get(device)}") from None

    async def run(self) -> None:
        """Answer."""
        async for each in self._line.receive():
            if each.connected:
                for device in self._desired:
                    self._say(device)
                if self._retain:
                    for digest, (_, chunks) in self._blobs.items():
                        self._send(digest, range(len(chunks)))
                continue
            device, what = TOPICS.read(each.topic)
            with suppress(LoadError):
                if what == "state":
                    self._heard(device, read_report(each.payload))
                elif what == "need":
                    needed = read_need(each.payload)
                    self.needs += 1
                    self._say(device)
                    self._send(needed.digest, needed.missing)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer while the block lasts."""
        task = asyncio.create_task(self.run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await self._line.aclose()

    def _heard(self, device: str, report: Report) -> None:
        before = self.reports.get(device)
        if before is not None and before.boot == report.boot and report.session < before.session:
            return
        self.reports[device] = report
        self.history.setdefault(device, []).append(report)
        wanted = self._desired.get(device)
        if wanted is not None and report.online and report.seen != wanted.revision:
            # Damage on the way may have made a revision large.
            if report.seen > wanted.revision:
                self._desired[device] = replace(wanted, revision=report.seen + 1)
            self._say(device)
        self._news.set()

    def _say(self, device: str) -> None:
        if device in self._desired:
            payload = self._desired[device].to_bytes()
            self._line.send(Message(TOPICS.of(device, "desired"), payload, retain=True))

    def _send(self, digest: str, indices: Any) -> None:
        chunks = self._blobs[digest][1] if digest in self._blobs else []
        for index in indices:
            if index < len(chunks):
                topic = TOPICS.chunk(digest, index)
                self._line.send(Message(topic, chunks[index], retain=self._retain))


@asynccontextmanager
async def following(follower: Any) -> AsyncIterator[None]:
    """Let a follower follow while the block lasts."""
    task = asyncio.create_task(follower.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
