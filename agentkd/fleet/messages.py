"""What a fleet's server and its devices tell each other, under which topics.

All of it works on MQTT 3.1.1: what belongs together is said in the payload. Nothing in a message is
ever a path, and nothing in it is trusted: a file is checked by the device's gate, with its proof.

| topic below `akd/v1/SITE` | from, to | payload |
|---|---|---|
| `d/DEVICE/desired` | server, device; retained | `Desired`: what the device shall run |
| `d/DEVICE/state` | device, server; retained, also its last will | `Report`: what it runs |
| `d/DEVICE/need` | device, server | `Need`: the chunks that it lacks |
| `d/DEVICE/note` | device, server | `Note` (`agentkd/fleet/notes.py`): what it met |
| `d/DEVICE/ask`, `answer` | device, planner and back | a frame (`agentkd/fleet/desk.py`) |
| `b/DIGEST/INDEX` | server, all; retained during a rollout | a chunk's bytes |

A device acknowledges a `Desired` by a `Report` with its revision, for a broker's own
acknowledgement proves nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast, get_args

from agentkd.errors import LoadError
from agentkd.fields import Fields, parse_json
from agentkd.printable import printable
from agentkd.transport.blobs import LARGEST, MOST_CHUNKS, Blob, packed, read_blob
from agentkd.transport.names import DIGEST, matching

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,119}")
_BOOT = re.compile(r"[0-9a-f]{16}")
_TEXT = 500
_MOST_SEEN = 2**62
"""A server has to be able to go on above what a device has seen."""

Action = Literal["hold", "apply", "rollback"]
Phase = Literal["IDLE", "FETCHING", "STAGED", "TRIAL", "CONFIRMED", "REFUSED", "ROLLED_BACK"]
"""How far a device came with what is desired; the last three are ends."""
ENDS: tuple[Phase, ...] = ("CONFIRMED", "REFUSED", "ROLLED_BACK")


@dataclass(frozen=True, slots=True)
class Desired:
    """What a device shall run.

    It proves nothing: a device applies a file only if the file's own proof holds.

    Raises:
        LoadError: If a value is out of its range.
    """

    revision: int
    """Grows with each message to a device; the device answers with it."""
    action: Action = "hold"
    """Leave the device as it is, let the file in, or go back from the executor `digest`."""
    digest: str = ""
    """The executor that is meant, SHA-256 of its file in hexadecimal; "" for hold."""
    name: str = ""
    """What the executor was signed as."""
    file: Blob | None = None
    proof: Blob | None = None

    def __post_init__(self) -> None:
        """Check the values against each other."""
        if self.action != "hold":
            matching(DIGEST, self.digest, "The digest of what is desired")
        if self.action == "apply":
            matching(_NAME, self.name, "The name of what is desired")
            if self.file is None or self.file.digest != self.digest:
                raise LoadError("what is to be applied has no file of its digest")

    def to_bytes(self) -> bytes:
        """Return the payload."""
        return packed(self)


@dataclass(frozen=True, slots=True)
class Report:
    """What a device runs, and how far it came with what is desired."""

    boot: str
    """16 hexadecimal digits, drawn when the program starts."""
    session: int
    """Connections of that program so far."""
    online: bool
    """False in the last will."""
    seen: int = 0
    """Revision of the newest `Desired` that came."""
    phase: Phase = "IDLE"
    digest: str = ""
    """The executor that `phase` is about."""
    active: str = ""
    """The executor that a start begins with; "" if there is none."""
    fetched: int = 0
    """Chunks that are here."""
    reason: str = ""
    """Why it was refused or rolled back, in one word."""
    text: str = ""
    """The same in a sentence."""

    def __post_init__(self) -> None:
        """Check the digests; keep what can be printed."""
        matching(_BOOT, self.boot, "The boot's number")
        for each in (self.digest, self.active):
            if each:
                matching(DIGEST, each, "A digest")
        object.__setattr__(self, "reason", printable(self.reason)[:40])
        object.__setattr__(self, "text", printable(self.text)[:_TEXT])

    def to_bytes(self) -> bytes:
        """Return the payload."""
        return packed(self)


def read_desired(payload: bytes) -> Desired:
    """Read what a server desires.

    Raises:
        LoadError: If it is not a `Desired`.
    """
    fields = _fields(payload, "The desired state")
    return Desired(
        revision=fields.whole("revision"),
        action=cast(Action, fields.choice("action", get_args(Action))),
        digest=fields.text("digest"),
        name=fields.text("name"),
        file=read_blob(fields, "file"),
        proof=read_blob(fields, "proof"),
    )


def read_report(payload: bytes) -> Report:
    """Read what a device reports.

    Raises:
        LoadError: If it is not a `Report`.
    """
    fields = _fields(payload, "The report")
    return Report(
        boot=fields.text("boot"),
        session=fields.whole("session"),
        online=fields.flag("online"),
        seen=fields.whole("seen", most=_MOST_SEEN),
        phase=cast(Phase, fields.choice("phase", get_args(Phase))),
        digest=fields.text("digest"),
        active=fields.text("active"),
        fetched=fields.whole("fetched", most=2 * MOST_CHUNKS),
        reason=fields.text("reason"),
        text=fields.text("text"),
    )


def _fields(payload: bytes, what: str) -> Fields:
    return Fields(parse_json(payload, what, limit=LARGEST), what)
