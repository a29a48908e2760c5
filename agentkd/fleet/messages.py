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

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from agentkd.errors import LoadError
from agentkd.fields import Fields, parse_json
from agentkd.printable import printable

CHUNK = 1 << 14
"""Bytes of a chunk, unless a server says otherwise."""
MOST_CHUNKS = 4096
LARGEST = 1 << 20
"""Bytes of a message other than a chunk."""
LARGEST_CHUNK = 1 << 18
_SITE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DEVICE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,119}")
_BOOT = re.compile(r"[0-9a-f]{16}")
_TEXT = 500
_MOST_SEEN = 2**62
"""A server has to be able to go on above what a device has seen."""

What = Literal["desired", "state", "need", "note", "ask", "answer"]
Action = Literal["hold", "apply", "rollback"]
Phase = Literal["IDLE", "FETCHING", "STAGED", "TRIAL", "CONFIRMED", "REFUSED", "ROLLED_BACK"]
"""How far a device came with what is desired; the last three are ends."""
ENDS: tuple[Phase, ...] = ("CONFIRMED", "REFUSED", "ROLLED_BACK")


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of a site.

    Raises:
        LoadError: If a name is not one word of letters, digits, `_` and `-` (a device's may have
            points).
    """

    site: str

    def __post_init__(self) -> None:
        """Check the site's name."""
        _matches(_SITE, self.site, "The site's name")

    @property
    def root(self) -> str:
        """What every topic of the site begins with."""
        return f"akd/v1/{self.site}"

    def of(self, device: str, what: What) -> str:
        """Return a device's topic."""
        return f"{self.root}/d/{device_name(device)}/{what}"

    def chunk(self, digest: str, index: int) -> str:
        """Return the topic of a chunk."""
        return f"{self.root}/b/{_matches(_DIGEST, digest, 'A digest')}/{index}"

    def chunks(self, digest: str) -> str:
        """Return the filter of all chunks of a file."""
        return f"{self.root}/b/{_matches(_DIGEST, digest, 'A digest')}/+"

    def device(self, topic: str) -> tuple[str, str]:
        """Return which device a topic is about and which of its topics it is, or "" twice."""
        begins = f"{self.root}/d/"
        name, _, what = topic[len(begins) :].partition("/")
        known = topic.startswith(begins) and _DEVICE.fullmatch(name) and what.isalpha()
        return (name, what) if known else ("", "")

    def place(self, topic: str) -> tuple[str, int]:
        """Return digest and index of a chunk's topic, or "" and -1."""
        begins = f"{self.root}/b/"
        digest, _, index = topic[len(begins) :].partition("/")
        known = topic.startswith(begins) and _DIGEST.fullmatch(digest)
        if not known or not re.fullmatch(r"\d{1,4}", index):
            return "", -1
        return digest, int(index)


@dataclass(frozen=True, slots=True)
class Blob:
    """A file in chunks.

    Raises:
        LoadError: If the chunks do not make up the size, or a value is out of its range.
    """

    digest: str
    """SHA-256 of the whole, in hexadecimal."""
    size: int
    chunk: int
    """Bytes of each chunk but the last."""
    hashes: tuple[str, ...]
    """SHA-256 of each chunk, in hexadecimal."""

    def __post_init__(self) -> None:
        """Check the values against each other."""
        for each in (self.digest, *self.hashes):
            _matches(_DIGEST, each, "A digest")
        if not 1 <= self.chunk <= LARGEST_CHUNK:
            raise LoadError(f"chunks of {self.chunk:,} bytes; 1 to {LARGEST_CHUNK:,} are possible")
        wanted = -(-self.size // self.chunk)
        if not 1 <= wanted <= MOST_CHUNKS or wanted != len(self.hashes):
            raise LoadError(
                f"{len(self.hashes)} chunks of {self.chunk:,} bytes for {self.size:,} bytes; a "
                f"file has 1 to {MOST_CHUNKS:,} chunks"
            )

    def length(self, index: int) -> int:
        """Return how many bytes a chunk has."""
        return min(self.chunk, self.size - index * self.chunk)

    def fits(self, index: int, data: bytes) -> bool:
        """Tell whether bytes are this chunk."""
        known = 0 <= index < len(self.hashes)
        return known and hashlib.sha256(data).hexdigest() == self.hashes[index]


def blob(data: bytes, chunk: int = CHUNK) -> tuple[Blob, list[bytes]]:
    """Cut a file into chunks."""
    chunks = [data[at : at + chunk] for at in range(0, len(data), chunk)]
    hashes = tuple(hashlib.sha256(each).hexdigest() for each in chunks)
    return Blob(hashlib.sha256(data).hexdigest(), len(data), chunk, hashes), chunks


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
            _matches(_DIGEST, self.digest, "The digest of what is desired")
        if self.action == "apply":
            _matches(_NAME, self.name, "The name of what is desired")
            if self.file is None or self.file.digest != self.digest:
                raise LoadError("what is to be applied has no file of its digest")

    def to_bytes(self) -> bytes:
        """Return the payload."""
        return _packed(self)


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
        _matches(_BOOT, self.boot, "The boot's number")
        for each in (self.digest, self.active):
            if each:
                _matches(_DIGEST, each, "A digest")
        object.__setattr__(self, "reason", printable(self.reason)[:40])
        object.__setattr__(self, "text", printable(self.text)[:_TEXT])

    def to_bytes(self) -> bytes:
        """Return the payload."""
        return _packed(self)


@dataclass(frozen=True, slots=True)
class Need:
    """The chunks of a file that a device lacks."""

    digest: str
    bitmap: str
    """In hexadecimal; bit i of the number is set if chunk i is missing."""

    def __post_init__(self) -> None:
        """Check the values."""
        _matches(_DIGEST, self.digest, "A digest")
        if not re.fullmatch(rf"[0-9a-f]{{1,{MOST_CHUNKS // 4}}}", self.bitmap):
            raise LoadError(f"{self.bitmap[:40]!r} is not a bitmap in hexadecimal")

    @property
    def missing(self) -> tuple[int, ...]:
        """The numbers of the chunks."""
        bits = int(self.bitmap, 16)
        return tuple(index for index in range(bits.bit_length()) if bits >> index & 1)

    def to_bytes(self) -> bytes:
        """Return the payload."""
        return _packed(self)


def need(digest: str, missing: Iterable[int]) -> Need:
    """Ask for chunks by their numbers."""
    return Need(digest, f"{sum(1 << index for index in missing):x}")


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
        file=_blob(fields, "file"),
        proof=_blob(fields, "proof"),
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


def read_need(payload: bytes) -> Need:
    """Read which chunks a device lacks.

    Raises:
        LoadError: If it is not a `Need`.
    """
    fields = _fields(payload, "The need")
    return Need(fields.text("digest"), fields.text("bitmap"))


def device_name(name: str) -> str:
    """Return a device's name if it can be one.

    Raises:
        LoadError: If it is not one word of letters, digits, `_`, `-` and points.
    """
    return _matches(_DEVICE, name, "The device's name")


def _fields(payload: bytes, what: str) -> Fields:
    return Fields(parse_json(payload, what, limit=LARGEST), what)


def _blob(fields: Fields, name: str) -> Blob | None:
    if fields.get(name) is None:
        return None
    found = fields.fields(name)
    return Blob(
        digest=found.text("digest"),
        size=found.whole("size"),
        chunk=found.whole("chunk"),
        hashes=_bounded(found.texts("hashes")),
    )


def _bounded(hashes: Sequence[str]) -> tuple[str, ...]:
    if len(hashes) > MOST_CHUNKS:
        raise LoadError(f"{len(hashes):,} chunks; at most {MOST_CHUNKS:,} are read")
    return tuple(hashes)


def _matches(pattern: re.Pattern[str], text: str, what: str) -> str:
    if not pattern.fullmatch(text):
        raise LoadError(f"{what} is {text[:80]!r}; it has to match {pattern.pattern}.")
    return text


def _packed(value: Any) -> bytes:
    # asdict would copy all of it first.
    return json.dumps(
        _plain(value), separators=(",", ":"), ensure_ascii=False, default=_plain
    ).encode()


def _plain(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__}
