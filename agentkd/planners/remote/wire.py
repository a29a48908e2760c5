"""Messages to and from a planner on another machine: JSON and raw float32.

A message is one binary WebSocket message: the length of a JSON header, the header, and the numbers
of the arrays that it names, one after another, in little endian. Lengths are compared with the
bytes that are there. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import math
import os
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from agentkd import dists
from agentkd.dists import KINDS
from agentkd.errors import ConfigError, LoadError, SpecError, WireError
from agentkd.files import read_file
from agentkd.spec import Spec
from agentkd.types import ActionDist, Floats, Guidance

PROTOCOL = "agentkd.2"
"""The WebSocket subprotocol."""
SCHEMES = ("ws://", "wss://")
TOKEN, TOKEN_FILE = "AGENTKD_TOKEN", "AGENTKD_TOKEN_FILE"
CA_FILE = "AGENTKD_CA_FILE"
DEFAULT_PORT = 4750
MOST_BYTES = 64 << 20
MOST_HEADER = 1 << 16
_LENGTH = struct.Struct("<I")
_MOST_ARRAYS, _MOST_DIMENSIONS = 256, 4
_MOST_TOKEN = 1 << 12
_NAMES = ("rows", "goal", "expected")
"""What an answer may hold, in this order."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a planner is served; `secure` means TLS."""

    secure: bool
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{SCHEMES[self.secure]}{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether it is reached from this machine only."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One message: what is said, and its arrays in order."""

    header: Mapping[str, Any]
    arrays: tuple[Floats, ...]


def address_of(text: str) -> Address:
    """Read "ws://host:port" or "wss://host:port"; the port may be left out.

    Raises:
        ConfigError: If it is not an address.
    """
    with suppress(ValueError):
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
        known = f"{parts.scheme}://" in SCHEMES and text.count("/") == 2 and "@" not in text
        if host and known:
            return Address(parts.scheme == "wss", host, DEFAULT_PORT if port is None else port)
    raise ConfigError(
        f"{text!r} is not an address. Write ws://HOST:PORT, such as "
        f"ws://127.0.0.1:{DEFAULT_PORT}, or wss://HOST:PORT for TLS."
    )


def token_of_environment() -> str:
    """Read the token of AGENTKD_TOKEN or the file AGENTKD_TOKEN_FILE; "" for none.

    Raises:
        ConfigError: If the file cannot be read.
    """
    path = os.environ.get(TOKEN_FILE)
    return read_token(Path(path)) if path else os.environ.get(TOKEN, "")


def read_token(path: Path) -> str:
    """Read a token from a file.

    Raises:
        ConfigError: If it cannot be read, or is empty.
    """
    try:
        token = read_file(path, _MOST_TOKEN).decode().strip()
    except LoadError as error:
        raise ConfigError(f"The token {error}") from error
    except ValueError as error:
        raise ConfigError(f"The token in {path} is not UTF-8 text.") from error
    if not token:
        raise ConfigError(f"The token in {path} is empty.")
    return token


def bearer(token: str) -> str:
    """Give the Authorization header for a token: its SHA-256, so any text will do."""
    secret = token.encode(errors="surrogateescape")
    return f"Bearer {hashlib.sha256(secret).hexdigest()}"


def pack(header: Mapping[str, Any], arrays: Sequence[Floats] = (), most: int = MOST_BYTES) -> bytes:
    """Write a message whose arrays have at most `most` bytes, or raise a `WireError`."""
    flat = [np.ascontiguousarray(array, "<f4") for array in arrays]
    head = json.dumps({**header, "shapes": [array.shape for array in flat]}).encode()
    size = sum(array.nbytes for array in flat)
    if size > most or len(head) > MOST_HEADER:
        raise WireError(
            f"A message of {len(head)} + {size} bytes; at most {MOST_HEADER} + {most} "
            "are sent. Ask about fewer observations, or raise the cap at both ends."
        )
    pieces = [_LENGTH.pack(len(head)), head, *(array.tobytes() for array in flat)]
    return b"".join(pieces)


def unpack(data: str | bytes) -> Frame:
    """Read a message, or raise a `WireError`."""
    if isinstance(data, str) or len(data) < _LENGTH.size:
        raise WireError("A message without a header.")
    (length,) = _LENGTH.unpack_from(data)
    begin = _LENGTH.size + length
    if length > MOST_HEADER or begin > len(data):
        raise WireError(f"A header of {length} bytes in a message of {len(data)}.")
    try:
        header = json.loads(data[_LENGTH.size : begin])
    except (ValueError, RecursionError) as error:
        raise WireError(f"A header that is not JSON: {error!r:.200}") from error
    shapes = header.pop("shapes", None) if isinstance(header, dict) else None
    if not isinstance(shapes, list) or len(shapes) > _MOST_ARRAYS:
        raise WireError(f"A header without at most {_MOST_ARRAYS} shapes.")
    counts = [_count(shape) for shape in shapes]
    if 4 * sum(counts) != len(data) - begin:
        raise WireError(f"{len(data) - begin} bytes for arrays of shapes {shapes}.")
    numbers = np.frombuffer(data, "<f4", offset=begin).astype(np.float32)
    arrays, end = [], 0
    try:
        for count, shape in zip(counts, shapes, strict=True):
            arrays.append(numbers[end : end + count].reshape(shape))
            end += count
    except (ValueError, OverflowError) as error:
        raise WireError(f"Arrays of shapes that cannot be: {error}") from error
    return Frame(header, tuple(arrays))


def _count(shape: Any) -> int:
    """Count the numbers of an array of a shape."""
    sizes = shape if isinstance(shape, list) else [None]
    whole = all(type(size) is int and 0 <= size <= MOST_BYTES for size in sizes)
    if not whole or len(sizes) > _MOST_DIMENSIONS:
        raise WireError(f"{shape!r:.100} is not a shape.")
    return math.prod(sizes)


def answer_frame(answer: ActionDist | Guidance) -> tuple[dict[str, Any], list[Floats]]:
    """Lay an answer out: what its arrays are, and the arrays."""
    guidance = answer if isinstance(answer, Guidance) else Guidance(rows=answer)
    rows = guidance.rows
    found = {
        "rows": None if rows is None else dists.pack(rows),
        "goal": guidance.goal,
        "expected": guidance.expected,
    }
    held = {name: array for name, array in found.items() if array is not None}
    header = {
        "kind": None if rows is None else dists.kind_of(rows),
        "names": list(held),
        "guidance": isinstance(answer, Guidance),
    }
    return header, list(held.values())


def names_of(frame: Frame) -> list[str]:
    """Say what the first arrays of an answer are; refuse one that does not tell.

    Raises:
        WireError: If it does not tell, or they are not there.
    """
    names = frame.header.get("names")
    known = [name for name in _NAMES if isinstance(names, list) and name in names]
    if names != known or len(known) > len(frame.arrays):
        raise WireError(f"An answer without its arrays: {names!r:.100}.")
    return known


def answer_of(frame: Frame, spec: Spec) -> ActionDist | Guidance:
    """Read what `answer_frame` laid out.

    Raises:
        WireError: If the message holds something else.
    """
    header = frame.header
    names, kind = names_of(frame), header.get("kind")
    found = dict(zip(names, frame.arrays, strict=False))
    rows = None
    if "rows" in found:
        packed = found["rows"]
        if not isinstance(kind, str) or kind not in KINDS or packed.ndim != 2:
            raise WireError(f"Rows of kind {kind!r:.100} and shape {packed.shape}.")
        try:
            dists.check_kind(kind, spec.action)
        except SpecError as error:
            raise WireError(str(error)) from error
        if packed.shape[1] != dists.width(kind, spec.action):
            raise WireError(f"Rows of shape {packed.shape} for {spec.action}.")
        rows = dists.unpack(kind, packed, spec.action)
    guidance = Guidance(rows, found.get("goal"), found.get("expected"))
    if header.get("guidance") or rows is None:
        return guidance
    return rows
