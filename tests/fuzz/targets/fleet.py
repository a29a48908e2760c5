"""What a fleet's server and its devices tell each other, from a peer that means harm."""

from __future__ import annotations

import asyncio
import json
import math
import random
import struct
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from agentkd.device import Device
from agentkd.errors import LoadError
from agentkd.fleet.errand import Errand, Pace, Patience
from agentkd.fleet.messages import Action, Desired, Report, read_desired, read_report
from agentkd.fleet.notes import Note, read_note
from agentkd.printable import printable
from agentkd.transport.blobs import Need, blob, read_need
from agentkd.transport.names import Topics
from tests.fuzz import mutate
from tests.fuzz.draw import Draw
from tests.fuzz.target import Files, Target
from tests.runtime_children import constant
from tests.test_device import written

_CHUNK = 512
_DIGEST = "ab" * 32
_TOPICS = Topics("site")
_REPORT = Report(
    "0123456789abcdef", 3, True, 7, "ROLLED_BACK", _DIGEST, _DIGEST, 2, "slow", "It was."
)


@cache
def _offered() -> tuple[Files, bytes]:
    """Return a device's folder with its first executor, and the file of a second one."""
    with TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        Device(folder / "device").apply(written(folder, "first", constant(1)))
        second = written(folder, "second", constant(2)).read_bytes()
        names = ("state.json", "slot-a.akd")
        return {f"device/{each}": (folder / "device" / each).read_bytes() for each in names}, second


def build_desired(draw: Draw) -> Files:
    """Make a desired state, and chunks, whose hashes are right but for now and then."""
    files, data = _offered()
    if draw.chance(2):
        data = mutate.octets(draw, data)
    made, chunks = blob(data or b"x", _CHUNK)
    action: Action = draw.choice(("hold", "apply", "apply", "apply", "rollback"))
    told = json.loads(Desired(3, action, made.digest, "second.akd", made, made).to_bytes())
    found = dict(files)
    found["desired.json"] = mutate.document(draw, told) if draw.chance(2) else mutate.written(told)
    for index, chunk in enumerate(chunks):
        if not draw.chance(12):
            found[f"chunks/{index}"] = mutate.octets(draw, chunk) if draw.chance(12) else chunk
    return found


def read_told(folder: Path) -> tuple[Path, Desired]:
    """Read what is desired."""
    return folder, read_desired((folder / "desired.json").read_bytes())


def work_desired(found: tuple[Path, Desired]) -> None:
    """Let a device do it: whatever it is, the device starts with an executor that is whole."""
    folder, desired = found
    assert read_desired(desired.to_bytes()) == desired
    device = Device(folder / "device")
    first = device.starting()
    assert first is not None
    standing = asyncio.run(_done(folder, desired, device))
    starting = device.starting()
    assert starting is not None
    assert starting.digest == first.digest
    waiting = device.status().waiting
    assert (waiting is None) == (standing.phase != "STAGED")
    assert waiting is None or waiting.held.digest == desired.digest


async def _done(folder: Path, desired: Desired, device: Device) -> Any:
    errand = Errand(desired, device, Patience(Pace(), random.Random(1)))
    for _ in range(5):
        standing = await errand.step(device.status(), device.starting())
        for digest in errand.fetching:
            for path in sorted((folder / "chunks").glob("*")):
                errand.put(digest, int(path.name), path.read_bytes())
    return standing


def build_report(draw: Draw) -> Files:
    """Make a report."""
    return {"x": mutate.document(draw, json.loads(_REPORT.to_bytes()))}


def work_report(found: Report) -> None:
    """Write it again, and print it."""
    assert read_report(found.to_bytes()) == found
    assert printable(found.reason + found.text) == found.reason + found.text


def build_need(draw: Draw) -> Files:
    """Make what asks for chunks."""
    return {"x": mutate.document(draw, json.loads(Need(_DIGEST, "3f").to_bytes()))}


def work_need(found: Need) -> None:
    """Write it again, and look at the numbers."""
    assert read_need(found.to_bytes()) == found
    assert all(0 <= each < 4096 for each in found.missing)


def build_note(draw: Draw) -> Files:
    """Make what a device noted."""
    obs = np.arange(6, dtype=np.float32).reshape(2, 3)
    values = {"ticks_total": 3.0, "deadline_miss_total": 0.5}
    note = Note(values=values) if draw.chance(2) else Note(_DIGEST, obs, obs[:, 0])
    payload = note.to_bytes()
    (length,) = struct.unpack_from("<I", payload)
    header, rest = payload[4 : 4 + length], payload[4 + length :]
    if not draw.chance(3):
        header = mutate.document(draw, json.loads(header))
    if not draw.chance(3):
        rest = mutate.octets(draw, rest)
    return {"x": struct.pack("<I", len(header)) + header + rest}


def work_note(found: Note) -> None:
    """Write it again, and look at the numbers."""
    assert read_note(found.to_bytes()).kind == found.kind
    assert found.obs is None or np.isfinite(found.obs).all()
    assert all(math.isfinite(each) for each in found.values.values())


def build_topic(draw: Draw) -> Files:
    """Make a topic."""
    topics = (_TOPICS.of("arm-7", "need"), _TOPICS.chunk(_DIGEST, 7))
    return {"x": mutate.text(draw, draw.choice(topics)).encode(errors="surrogatepass")}


def read_topic(folder: Path) -> tuple[str, str, str, int]:
    """Read it."""
    topic = (folder / "x").read_bytes().decode(errors="replace")
    found = (*_TOPICS.read(topic), *_TOPICS.place(topic))
    if not found[0] and not found[2]:
        raise LoadError("no topic of the site")
    return found


def work_topic(found: tuple[str, str, str, int]) -> None:
    """Nothing of it leads out of a folder."""
    device, what, digest, index = found
    assert "/" not in device + what + digest
    assert (not digest) or (len(digest) == 64 and index >= 0)


DESIRED = Target("fleet-desired", build_desired, read_told, work_desired)
REPORT = Target(
    "fleet-report", build_report, lambda f: read_report((f / "x").read_bytes()), work_report
)
NEED = Target("fleet-need", build_need, lambda f: read_need((f / "x").read_bytes()), work_need)
NOTE = Target("fleet-note", build_note, lambda f: read_note((f / "x").read_bytes()), work_note)
TOPIC = Target("fleet-topic", build_topic, read_topic, work_topic)
