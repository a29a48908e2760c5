"""How a planner on another machine is spoken to: framed JSON and raw float32 over TCP.

A frame is `AKD1`, the length of a JSON header, the length of the payload, then both.
The header names the arrays whose numbers are the payload, one after another, in little
endian. Lengths are checked against caps before anything is allocated; nothing is ever
unpickled. Both ends prove that they know the token without sending it (HMAC-SHA-256
over both ends' nonces). The traffic itself is not encrypted: beyond one machine use a
tunnel or a private network.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import math
import os
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from agentkd import dists
from agentkd.dists import KINDS
from agentkd.errors import ConfigError, WireError
from agentkd.spec import Spec
from agentkd.types import ActionDist, Floats, Guidance

PROTOCOL = 1
SCHEME = "tcp://"
TOKEN, TOKEN_FILE = "AGENTKD_TOKEN", "AGENTKD_TOKEN_FILE"
DEFAULT_PORT = 4750
MOST_BYTES = 64 << 20
_MAGIC = b"AKD1"
_FRAME = struct.Struct("<4sIQ")
_MOST_HEADER = 1 << 16
_MOST_DIMENSIONS = 4
_NO_HEADER = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
    OverflowError,
)


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One message.

    Attributes:
        header: What is said.
        arrays: Its arrays, in order.
    """

    header: Mapping[str, Any]
    arrays: tuple[Floats, ...]


def address_of(text: str) -> tuple[str, int]:
    """Read "tcp://host:port", or without the scheme; the port may be left out.

    Raises:
        ConfigError: If it is none.
    """
    rest = text.removeprefix(SCHEME)
    host, colon, port = rest.rpartition(":")
    if not colon or rest.endswith("]"):
        host, port = rest, str(DEFAULT_PORT)
    host = host.strip("[]")
    if not host or not port.isdigit() or not 0 <= int(port) < 65536:
        raise ConfigError(
            f"{text!r} is no address. Write tcp://host:port, such as "
            f"tcp://127.0.0.1:{DEFAULT_PORT}."
        )
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    return host in ("localhost", "::1") or host.startswith("127.")


def token_of_environment() -> str:
    """The token that AGENTKD_TOKEN or the file AGENTKD_TOKEN_FILE holds; "" for none.

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
        token = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"The token {path}: {error.strerror or error}.") from error
    if not token:
        raise ConfigError(f"The token in {path} is empty.")
    return token


def proof(token: str, who: str, nonces: Sequence[str]) -> str:
    """Prove to know a token: an HMAC over who proves it and both ends' nonces."""
    message = "\n".join(["agentkd", str(PROTOCOL), who, *nonces]).encode()
    return hmac.new(token.encode(), message, hashlib.sha256).hexdigest()


def proven(token: str, who: str, nonces: Sequence[str], given: Any) -> bool:
    """Whether a proof is right, compared in constant time."""
    expected = proof(token, who, nonces).encode()
    # As bytes: text beyond ASCII is not compared.
    return isinstance(given, str) and hmac.compare_digest(
        expected, given.encode(errors="replace")
    )


@final
class Line:
    """A connection that carries frames.

    Args:
        connection: The socket.
        most: Bytes that a payload may have.
    """

    def __init__(self, connection: socket.socket, most: int = MOST_BYTES) -> None:
        """Take the socket; it is this object's from now on."""
        self._socket, self._most = connection, most
        self._end: float | None = None
        # A question is one small packet, and its answer another: nothing is gathered.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def patience(self, seconds: float | None) -> None:
        """How long each sending and receiving may take; None for any."""
        self._end = None
        self._socket.settimeout(seconds)

    def until(self, seconds: float) -> None:
        """How long everything together may take, until `patience` is called."""
        self._end = time.monotonic() + seconds
        self._socket.settimeout(seconds)

    def trust(self, most: int) -> None:
        """Take payloads of so many bytes from now on."""
        self._most = most

    def send(self, header: Mapping[str, Any], arrays: Sequence[Floats] = ()) -> None:
        """Send a frame.

        Raises:
            WireError: If it is larger than the cap.
            OSError: If the connection is lost.
        """
        flat = [np.ascontiguousarray(array, "<f4") for array in arrays]
        shapes = [array.shape for array in flat]
        head = json.dumps({**header, "shapes": shapes}).encode()
        size = sum(array.nbytes for array in flat)
        if size > self._most or len(head) > _MOST_HEADER:
            raise WireError(
                f"A message of {len(head)} + {size} bytes; at most {_MOST_HEADER} + "
                f"{self._most} are sent. Ask about fewer observations, or raise the "
                "cap at both ends."
            )
        pieces = [_FRAME.pack(_MAGIC, len(head), size), head]
        self._socket.sendall(b"".join(pieces + [array.tobytes() for array in flat]))

    def receive(self) -> Frame:
        """Receive a frame.

        Raises:
            WireError: If it is none, or larger than the cap.
            OSError: If the connection is lost, or patience is at its end.
        """
        magic, head, size = _FRAME.unpack(self._exactly(_FRAME.size))
        if magic != _MAGIC:
            raise WireError(f"{bytes(magic)!r} does not begin a message of agentkd's.")
        if head > _MOST_HEADER or size > self._most:
            raise WireError(
                f"A message of {head} + {size} bytes was announced; at most "
                f"{_MOST_HEADER} + {self._most} are taken."
            )
        try:
            header = json.loads(self._exactly(head))
            shapes = header.pop("shapes")
            counts = [_count(shape) for shape in shapes]
        except _NO_HEADER as error:
            raise WireError(f"A header that is none: {error!r}") from error
        payload = self._exactly(size)
        if 4 * sum(counts) != size:
            raise WireError(f"{size} bytes for arrays of the shapes {shapes}.")
        numbers = np.frombuffer(payload, "<f4").astype(np.float32, copy=False)
        ends = np.cumsum(counts)
        try:
            arrays = [
                numbers[end - count : end].reshape(shape)
                for end, count, shape in zip(ends, counts, shapes, strict=True)
            ]
        except (ValueError, OverflowError) as error:
            raise WireError(f"Arrays of shapes that cannot be: {error}") from error
        return Frame(header, tuple(arrays))

    def _exactly(self, count: int) -> bytes:
        data = bytearray(count)
        view, at = memoryview(data), 0
        while at < count:
            if self._end is not None:
                left = self._end - time.monotonic()
                if left <= 0:
                    raise TimeoutError("it took too long")
                self._socket.settimeout(left)
            got = self._socket.recv_into(view[at:])
            if not got:
                raise ConnectionError("the other end closed the connection")
            at += got
        return bytes(data)

    def close(self) -> None:
        """End the connection, also for somebody who waits for it in another thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _count(shape: Any) -> int:
    """How many numbers an array of a shape has."""
    if not isinstance(shape, list) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"{shape!r} is no shape")
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError(f"{shape!r} is no shape")
    return math.prod(shape)


def answer_frame(answer: ActionDist | Guidance) -> tuple[dict[str, Any], list[Floats]]:
    """Lay an answer out: what its arrays are, and the arrays."""
    guidance = answer if isinstance(answer, Guidance) else Guidance(rows=answer)
    arrays: list[Floats] = []
    names: list[str] = []
    kind = None
    if guidance.rows is not None:
        kind = dists.kind_of(guidance.rows)
        names.append("rows")
        arrays.append(dists.pack(guidance.rows))
    for name, array in (("goal", guidance.goal), ("expected", guidance.expected)):
        if array is not None:
            names.append(name)
            arrays.append(array)
    guides = isinstance(answer, Guidance)
    return {"kind": kind, "names": names, "guidance": guides}, arrays


def answer_of(frame: Frame, spec: Spec) -> ActionDist | Guidance:
    """Read what `answer_frame` laid out.

    Raises:
        WireError: If it is not that.
    """
    header = frame.header
    names, kind = header.get("names"), header.get("kind")
    if not isinstance(names, list) or len(names) > len(frame.arrays):
        raise WireError(f"An answer without its arrays: {names!r}.")
    found = dict(zip(names, frame.arrays, strict=False))
    rows = None
    if "rows" in found:
        packed = found["rows"]
        if kind not in KINDS or packed.ndim != 2:
            raise WireError(f"Rows of kind {kind!r} and shape {packed.shape}.")
        if packed.shape[1] != dists.width(kind, spec.action):
            raise WireError(f"Rows of shape {packed.shape} for {spec.action}.")
        rows = dists.unpack(kind, packed, spec.action)
    guidance = Guidance(rows, found.get("goal"), found.get("expected"))
    if header.get("guidance") or rows is None:
        return guidance
    return rows
