"""Bytes in chunks: what they are, which of them are missing, and how that is said in JSON."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from agentkd.errors import LoadError
from agentkd.fields import Fields, parse_json
from agentkd.transport.names import DIGEST, matching

CHUNK = 1 << 14
"""Bytes of a chunk, unless a sender says otherwise."""
MOST_CHUNKS = 4096
LARGEST_CHUNK = 1 << 18
LARGEST = 1 << 20
"""Bytes of a message other than a chunk."""


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
            matching(DIGEST, each, "A digest")
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
class Need:
    """The chunks of a file that are missing at the other end."""

    digest: str
    bitmap: str
    """In hexadecimal; bit i of the number is set if chunk i is missing."""

    def __post_init__(self) -> None:
        """Check the values."""
        matching(DIGEST, self.digest, "A digest")
        if not re.fullmatch(rf"[0-9a-f]{{1,{MOST_CHUNKS // 4}}}", self.bitmap):
            raise LoadError(f"{self.bitmap[:40]!r} is not a bitmap in hexadecimal")

    @property
    def missing(self) -> tuple[int, ...]:
        """The numbers of the chunks."""
        bits = int(self.bitmap, 16)
        return tuple(index for index in range(bits.bit_length()) if bits >> index & 1)

    def to_bytes(self) -> bytes:
        """Return the payload."""
        return packed(self)


def need(digest: str, missing: Iterable[int]) -> Need:
    """Ask for chunks by their numbers."""
    return Need(digest, f"{sum(1 << index for index in missing):x}")


def read_need(payload: bytes) -> Need:
    """Read which chunks are missing.

    Raises:
        LoadError: If it is not a `Need`.
    """
    what = "The need"
    fields = Fields(parse_json(payload, what, limit=LARGEST), what)
    return Need(fields.text("digest"), fields.text("bitmap"))


def read_blob(fields: Fields, name: str) -> Blob | None:
    """Read a field that holds a file's chunks; None where it holds none.

    Raises:
        LoadError: If it is not a `Blob`.
    """
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


def packed(value: Any) -> bytes:
    """Return a dataclass with slots, and those in it, as JSON."""
    # asdict would copy all of it first.
    return json.dumps(
        _plain(value), separators=(",", ":"), ensure_ascii=False, default=_plain
    ).encode()


def _plain(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__}
