"""The stored ZIP of a bundle: one layout for the same entries, and no other.

Python's `zipfile` writes the same bytes, and any unzip opens them. They are written and read here
because a device should start without it, and because a reader that knows each byte can say what is
wrong: where a file ends early, and where it was changed.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

from agentkd.errors import BundleError

COMMENT = 64
"""Bytes of the comment: a SHA-256 in hexadecimal."""
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_LOCAL_MAGIC, _CENTRAL_MAGIC, _END_MAGIC = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_VERSION = 20
_UNIX = 3 << 8 | _VERSION
_DATE = 1 << 5 | 1
"""The first of January 1980, the least that a ZIP can hold."""
_MODE = 0o600 << 16
_MOST_ENTRIES = 16


def pack(entries: Mapping[str, bytes], comment: str) -> bytes:
    """Lay entries out, in their order.

    Args:
        entries: Their bytes by name, in ASCII.
        comment: 64 characters of ASCII.
    """
    bodies, places = [], []
    offset = 0
    for name, data in entries.items():
        raw, size = name.encode("ascii"), len(data)
        fixed = (_VERSION, 0, 0, 0, _DATE, zlib.crc32(data), size, size, len(raw), 0)
        head = _LOCAL.pack(_LOCAL_MAGIC, *fixed)
        bodies += [head, raw, data]
        tail = (0, 0, 0, _MODE, offset)
        places += [_CENTRAL.pack(_CENTRAL_MAGIC, _UNIX, *fixed, *tail), raw]
        offset += len(head) + len(raw) + size
    central = b"".join(places)
    count = len(entries)
    end = (0, 0, count, count, len(central), offset, COMMENT)
    return b"".join([*bodies, central, _END.pack(_END_MAGIC, *end), comment.encode("ascii")])


def unpack(data: bytes) -> tuple[dict[str, bytes], str]:
    """Find the entries and the comment, trusting none of them yet.

    The caller checks their sums, packs them again and compares, so that every byte is checked.

    Raises:
        BundleError: If the data are empty, something else, end early, or are laid out otherwise
            than `pack` does.
    """
    if not data:
        raise BundleError("The file is empty.", "empty")
    if data[:4] != _LOCAL_MAGIC[: len(data)]:
        raise BundleError("It is not an executor file: it does not begin as one.", "foreign")
    entries: dict[str, bytes] = {}
    at = 0
    while data[at : at + 4] == _LOCAL_MAGIC:
        name, body, at = _entry(data, at)
        if len(entries) == _MOST_ENTRIES:
            raise BundleError(f"It has more than {_MOST_ENTRIES} entries.", "layout")
        if name in entries:
            raise BundleError(f"It holds {name!r} twice.", "layout")
        entries[name] = body
    tail = sum(_CENTRAL.size + len(name) for name in entries) + _END.size + COMMENT
    if len(data) - at < tail:
        raise _short(data)
    if len(data) - at > tail:
        raise BundleError("It holds bytes that belong to no entry.", "layout")
    return entries, data[-COMMENT:].decode("ascii", "replace")


def _entry(data: bytes, at: int) -> tuple[str, bytes, int]:
    """Read the entry at `at`: its name, its bytes, and where it ends."""
    if at + _LOCAL.size > len(data):
        raise _short(data)
    fields = _LOCAL.unpack_from(data, at)
    method, stored, size, length = fields[3], fields[7], fields[8], fields[9]
    if method != 0:
        raise BundleError("An entry is compressed; they are stored.", "layout")
    begin = at + _LOCAL.size + length
    end = begin + size
    if stored != size:
        raise BundleError("An entry is said to have two sizes.", "layout")
    if end > len(data):
        raise _short(data)
    return data[begin - length : begin].decode("ascii", "replace"), data[begin:end], end


def _short(data: bytes) -> BundleError:
    """Say that data end too early, or, with their end in place, only seem to."""
    end = data[-COMMENT - _END.size :]
    if end[:4] == _END_MAGIC and end[_END.size - 2 : _END.size] == b"\x40\x00":
        return BundleError("It is laid out otherwise than it was written.", "layout")
    return BundleError(f"It ends early, after {len(data)} bytes.", "truncated")
