"""What devices ask a planner over the broker, and what it answers, from a peer that means harm."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np

from agentkd import dists
from agentkd.errors import NumbersError
from agentkd.files import loading
from agentkd.fleet.asking import FleetPlanner
from agentkd.fleet.desk import PlannerDesk
from agentkd.frames import answer_frame, pack, unpack
from agentkd.planners import Planner
from agentkd.printable import printable
from agentkd.spec_json import to_json
from agentkd.transport.transport import Message, Received
from agentkd.types import Categorical
from tests.fuzz import mutate
from tests.fuzz.draw import Draw
from tests.fuzz.target import Files, Target
from tests.runtime_children import SPEC, Echo

_OBS = np.zeros((2, 3), np.float32)


def _mutated(draw: Draw, payload: bytes) -> bytes:
    """Return a message with another header, or other numbers."""
    (length,) = struct.unpack_from("<I", payload)
    header, rest = payload[4 : 4 + length], payload[4 + length :]
    if not draw.chance(3):
        header = mutate.document(draw, json.loads(header))
    if draw.chance(3):
        rest = mutate.octets(draw, rest)
    return struct.pack("<I", len(header)) + header + rest


class _Line:
    """A line that says what it was given, one message for each that is sent."""

    def __init__(self, *said: bytes) -> None:
        self.sent: list[Message] = []
        self._said = list(said)
        self._more = asyncio.Event()

    def send(self, message: Message, /) -> bool:
        """Take a message, and let the next one come."""
        self.sent.append(message)
        self._more.set()
        return True

    async def receive(self) -> AsyncIterator[Received]:
        """Yield what is said."""
        yield Received("", b"", connected=True)
        for each in self._said:
            await self._more.wait()
            self._more.clear()
            yield Received("akd", each)
        await asyncio.Event().wait()

    def subscribe(self, *filters: str) -> None:
        """Do nothing."""

    async def aclose(self) -> None:
        """Do nothing."""


def build_ask(draw: Draw) -> Files:
    """Make a question."""
    same = {"id": 3, "episode": 1}
    about = pack({**same, "method": "about", "spec": to_json(SPEC)})
    return {"x": _mutated(draw, draw.choice((about, pack({**same, "method": "call"}, [_OBS]))))}


def read_ask(folder: Path) -> tuple[PlannerDesk, _Line]:
    """Let a desk take it."""
    line = _Line()
    desk = PlannerDesk(Planner(Echo(), SPEC, "a stub", 7, ""), line, "site")
    with loading("A question"):
        desk._take("arm-7", (folder / "x").read_bytes())
    return desk, line


def work_ask(found: tuple[PlannerDesk, _Line]) -> None:
    """It is answered once, to the device that asked."""
    desk, line = found
    if desk._waiting:
        asyncio.run(desk._think(desk._batch()))
    (sent,) = line.sent
    assert sent.topic.endswith("/d/arm-7/answer")
    assert unpack(sent.payload).header["type"] in ("answer", "failed")


def build_answer(draw: Draw) -> Files:
    """Make what a planner tells of itself, and an answer."""
    about = pack(
        {
            "type": "answer",
            "id": 1,
            "episode": 0,
            "spec": to_json(SPEC),
            "name": "x",
            "horizon": 1,
            "parameters": 7,
        }
    )
    said, arrays = answer_frame(Categorical(np.zeros((2, 4), np.float32)))
    answer = pack({"type": "answer", "id": 2, "episode": 0, **said}, arrays)
    if draw.chance(3):
        return {"about": _mutated(draw, about), "x": answer}
    return {"about": about, "x": _mutated(draw, answer)}


def read_answer(folder: Path) -> tuple[str, Any]:
    """Ask."""
    said = [(folder / name).read_bytes() for name in ("about", "x")]
    with FleetPlanner(lambda *_, **__: _Line(*said), "site", "arm-7", SPEC, patience=0.05) as it:
        return it.name, it(_OBS)


def work_answer(found: tuple[str, Any]) -> None:
    """What was taken has the shape of a distribution; the name can be printed."""
    name, answer = found
    assert printable(name)
    rows = getattr(answer, "rows", answer)
    if rows is not None:
        with contextlib.suppress(NumbersError):
            dists.check(rows, SPEC.action, len(dists.pack(rows)))


ASK = Target("fleet-ask", build_ask, read_ask, work_ask)
ANSWER = Target("fleet-answer", build_answer, read_answer, work_answer)
