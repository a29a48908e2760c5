"""Simulated devices of a fleet: the messages of real ones, with a gate that does nothing.

A chunk is checked by its SHA-256, the whole file too; signature, golden vectors and trial are a
pause. So a thousand of them fit one process, and what is measured is the server and the broker.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from agentkd.fleet.messages import Desired, Phase, Report, read_desired
from agentkd.transport.blobs import Blob, need
from agentkd.transport.names import Topics
from agentkd.transport.transport import Connect, Message, Transport


class SimulatedDevice:
    """A device that does what it is told, or fails in a way of its own.

    Args:
        connect: Makes its line.
        site: The fleet.
        name: Its name.
        end: How its trials end; "" for a device that hangs in them.
        trial: Seconds that a trial takes.
        told: Called at each change of the phase.
    """

    def __init__(
        self,
        connect: Connect,
        site: str,
        name: str,
        *,
        end: Phase | str = "CONFIRMED",
        trial: float = 0.0,
        told: Callable[[Report], None] | None = None,
    ) -> None:
        self.end, self.trial = end, trial
        self.active = "0" * 64
        self.former = ""
        self.had: list[str] = [self.active]
        """The executors that acted, in their order."""
        self.name = name
        self.report = Report(os.urandom(8).hex(), 0, online=True, active=self.active)
        self.line: Transport | None = None
        self._connect, self._topics, self._told = connect, Topics(site), told
        self._work: asyncio.Task[None] | None = None
        self._desired = Desired(0)
        self._chunks: dict[tuple[str, int], bytes] = {}
        self._came = asyncio.Event()
        self._random = random.Random(name)  # noqa: S311 (of pauses)

    async def run(self) -> None:
        """Work until it is cancelled."""
        will = lambda: self._message(replace(self._again(), online=False))  # noqa: E731
        self.line = line = self._connect(self._topics.of(self.name, "desired"), will=will)
        self._came = asyncio.Event()
        beat = asyncio.create_task(self._beat())
        try:
            async for received in line.receive():
                if received.connected:
                    self._say()
                    continue
                digest, index = self._topics.place(received.topic)
                if digest:
                    self._chunks[digest, index] = received.payload
                    self._came.set()
                elif received.payload:
                    self._take(read_desired(received.payload))
        finally:
            for each in (beat, self._work):
                if each is not None:
                    each.cancel()
            line.send(self._message(replace(self.report, online=False)))
            await line.aclose()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(60.0)
            self._say()

    def _again(self) -> Report:
        self.report = replace(self.report, session=self.report.session + 1)
        return self.report

    def _take(self, desired: Desired) -> None:
        if desired.revision < self.report.seen:
            return
        same = replace(desired, revision=0) == replace(self._desired, revision=0)
        self._desired = desired
        if same and desired.action != "hold":
            self._say(seen=desired.revision)
            return
        if self._work is not None:
            self._work.cancel()
        digest = "" if desired.action == "hold" else desired.digest
        self.report = replace(
            self.report, seen=desired.revision, digest=digest, phase="IDLE", reason="", text=""
        )
        if desired.action == "apply":
            self._work = asyncio.create_task(self._apply(desired))
        elif desired.action == "rollback":
            if self.active == desired.digest:
                self._act(self.former)
            self._say(phase="ROLLED_BACK", reason="asked", active=self.active)
        else:
            self._say(phase="IDLE")

    async def _apply(self, desired: Desired) -> None:
        if self.active == desired.digest:
            self._say(phase="CONFIRMED")
            return
        self._say(phase="FETCHING")
        blobs = [each for each in (desired.file, desired.proof) if each is not None]
        if self.line is not None:
            self.line.subscribe(*(f"{self._topics.root}/b/{each.digest}/+" for each in blobs))
        for each in blobs:
            await self._fetch(each)
        if self.line is not None:
            self.line.subscribe()
        if self.end == "REFUSED":
            self._say(phase="REFUSED", reason="unfit", text="It is for another robot.")
            return
        self._say(phase="TRIAL")
        await asyncio.sleep(self.trial)
        if self.end == "CONFIRMED":
            self.former = self.active
            self._act(desired.digest)
            self._say(phase="CONFIRMED", active=self.active)
        elif self.end == "ROLLED_BACK":
            self._say(phase="ROLLED_BACK", reason="disagrees", text="It agreed in 3%.")

    async def _fetch(self, blob: Blob) -> None:
        pause = 1.0
        while missing := self._missing(blob):
            self._came.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause * self._random.uniform(0.5, 1.5)):
                    await self._came.wait()
                continue
            pause = min(2 * pause, 30.0)
            topic = self._topics.of(self.name, "need")
            assert self.line is not None
            self.line.send(Message(topic, need(blob.digest, missing).to_bytes()))
        whole = b"".join(self._chunks[blob.digest, each] for each in range(len(blob.hashes)))
        assert hashlib.sha256(whole).hexdigest() == blob.digest

    def _missing(self, blob: Blob) -> list[int]:
        return [
            index
            for index in range(len(blob.hashes))
            if not blob.fits(index, self._chunks.get((blob.digest, index), b""))
        ]

    def _act(self, digest: str) -> None:
        self.active = digest
        self.had.append(digest)

    def _message(self, report: Report) -> Message:
        return Message(self._topics.of(self.name, "state"), report.to_bytes(), retain=True)

    def _say(self, **changes: object) -> None:
        self.report = replace(self.report, online=True, **changes)  # type: ignore[arg-type]
        if self.line is not None:
            self.line.send(self._message(self.report))
        if self._told is not None:
            self._told(self.report)
