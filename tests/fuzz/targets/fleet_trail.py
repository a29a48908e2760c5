"""A fleet's audit trail whose lines are signed, and say what nobody would write."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from agentkd.cli.fleet_table import line, shown
from agentkd.cli.terminal import Console
from agentkd.fleet.audit import KEY, NAME, PUBLIC, Entry, create
from agentkd.fleet.decisions import decide, push_event
from agentkd.fleet.known import Plan
from agentkd.fleet.office import Office, told
from agentkd.fleet.rollout import fold
from tests.fuzz import mutate
from tests.fuzz.draw import Draw
from tests.fuzz.target import Files, Target

_DIGEST = "ab" * 32
_DEVICE = {
    "what": "device", "device": "d0", "online": True, "boot": "0" * 16, "session": 1, "seen": 0,
    "phase": "TRIAL", "digest": _DIGEST, "active": "", "reason": "", "text": "",
}  # fmt: skip
_EVENTS: list[dict[str, Any]] = [
    {"what": "created", "site": "plant"},
    _DEVICE,
    {**_DEVICE, "device": "d1"},
    push_event(Plan(_DIGEST, "x.akd", 9), "me"),
    {"what": "wave", "rollout": 4, "index": 0},
    {**_DEVICE, "phase": "CONFIRMED", "active": _DIGEST, "seen": 5},
    {**_DEVICE, "device": "d1", "online": False},
    {"what": "timed-out", "rollout": 4, "devices": ["d1"]},
    {"what": "pause", "rollout": 4, "by": "me"},
    {"what": "resume", "rollout": 4, "by": "me"},
    {"what": "abort", "rollout": 4, "kind": "refused", "text": "x"},
    {"what": "rollback", "rollout": 4, "by": "me"},
    {"what": "finish", "rollout": 4},
]
_LINES = [Entry(number, float(number), event, "") for number, event in enumerate(_EVENTS, 1)]
_STATES = [fold(_LINES[:count]).checkpoint() for count in range(len(_LINES) + 1)]
"""A checkpoint after so many of the events."""


@cache
def _keys() -> tuple[Files, Any]:
    """Return the files of a key, and what signs with it."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    with TemporaryDirectory(prefix="fuzz-") as name:
        create(Path(name), _EVENTS[0], 1.0)
        files = {each: (Path(name) / each).read_bytes() for each in (KEY, PUBLIC)}
    return files, load_pem_private_key(files[KEY], None)


def build(draw: Draw) -> Files:
    """Make a trail with right hashes and signatures but for now and then."""
    files, private = _keys()
    before, out = "0" * 64, b""
    # Some begin with a checkpoint, in the place of the lines before it.
    gone = 1 + draw.below(len(_EVENTS) - 1) if draw.chance(40) else 0
    events = [*_EVENTS[:gone], _STATES[gone], *_EVENTS[gone:]] if gone else _EVENTS
    for number, event in enumerate(events[gone:], gone + 1):
        told_now: Any = mutate.tree(draw, event) if draw.chance(8) else event
        entry = {"number": number, "time": float(number), "before": before, "event": told_now}
        body = mutate.document(draw, entry) if draw.chance(40) else mutate.written(entry)
        signature = private.sign(b"agentkd.audit 1\n" + body).hex().encode()
        raw = body[:-1] + b',"signature":"' + signature + b'"}'
        before = hashlib.sha256(raw).hexdigest()
        out += raw + b"\n"
    return {**files, NAME: mutate.octets(draw, out) if draw.chance(12) else out}


def read(folder: Path) -> Office:
    """Read it."""
    (folder / KEY).chmod(0o600)
    return Office(folder)


def work(office: Office) -> None:
    """Decide what is due, and print the state and every line."""
    console = Console()
    console.quiet = True
    for _ in range(20):
        if not decide(office.fleet, 1e6):
            break
        office.change(lambda fleet: decide(fleet, 1e6))
    else:
        raise AssertionError("what is due never ends")
    console.print(shown(office.fleet, 1e6))
    assert line(office.fleet, 1e6)
    for raw in office.log.path.read_bytes().splitlines():
        if raw.endswith(b'"}'):
            console.print(told(json.loads(raw)["event"]))


TARGET = Target("fleet-trail", build, read, work)
