"""How a planner on another machine is spoken to: framed JSON and raw float32 over TCP.

A frame is `AKD1`, the length of a JSON header, the length of the payload, then both. The header
names the arrays whose numbers are the payload, one after another, in little endian. Lengths are
checked against caps, memory is taken as bytes arrive, and each message has one time limit, however
slowly it comes. Nothing is ever unpickled.

Both ends prove that they know the token without sending it (HMAC-SHA-256 over the nonces of both).
The traffic itself is not encrypted: beyond one machine use a tunnel or a private network.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ipaddress
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
MOST_UNPROVEN = 1 << 16
"""Bytes of a payload while the other end has not proven that it knows the token."""
_MOST_HEADER = 1 << 16
_MOST_ARRAYS, _MOST_DIMENSIONS = 256, 4
_MOST_TOKEN = 1 << 12
_NAMES = ("rows", "goal", "expected")
"""What an answer may hold, in this order."""
_PIECE = 1 << 18
"""Bytes for which memory is taken before they arrive."""


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
    digits = port.isascii() and port.isdigit() and len(port) <= 5
    if not host or not digits or int(port) > 65535:
        raise ConfigError(
            f"{text!r} is no address. Write tcp://host:port, such as "
            f"tcp://127.0.0.1:{DEFAULT_PORT}."
        )
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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
        with path.open(encoding="utf-8") as file:
            token = file.read(_MOST_TOKEN).strip()
    except OSError as error:
        raise ConfigError(f"The token {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise ConfigError(f"The token in {path} is not UTF-8 text.") from error
    if not token:
        raise ConfigError(f"The token in {path} is empty.")
    return token


def proof(token: str, who: str, nonces: Sequence[str]) -> str:
    """Prove to know a token: an HMAC over who proves it and both ends' nonces."""
    words = ["agentkd", str(PROTOCOL), who, *nonces]
    message = "\n".join(words).encode(errors="replace")
    secret = token.encode(errors="surrogateescape")
    return hmac.new(secret, message, hashlib.sha256).hexdigest()


def proven(token: str, who: str, nonces: Sequence[str], given: Any) -> bool:
    """Whether a proof is right, compared in constant time."""
    expected = proof(token, who, nonces).encode()
    # As bytes: text beyond ASCII is not compared.
    return isinstance(given, str) and hmac.compare_digest(expected, given.encode(errors="replace"))


def connect(host: str, port: int, seconds: float) -> socket.socket:
    """Connect to the first address of a host that answers.

    Args:
        host: The host.
        port: The port.
        seconds: For all addresses together.

    Raises:
        OSError: If none answers in time.
        ConfigError: If the host cannot be a name.
    """
    end = time.monotonic() + seconds
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except ValueError as error:
        raise ConfigError(f"{host!r} is no host: {error}.") from error
    failed = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in found:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError("it took too long")
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(left)
            connection.connect(address)
            # A port in which nobody listens may be given to this very socket.
            if connection.getsockname() == connection.getpeername():
                raise ConnectionRefusedError("nobody listens there")
        except OSError as error:
            connection.close()
            failed = error
        else:
            return connection
    raise failed


@final
class Line:
    """A connection that carries frames. One thread uses it; others may `hang_up`.

    Args:
        connection: The socket.
        most: Bytes that a payload may have.
    """

    def __init__(self, connection: socket.socket, most: int = MOST_BYTES) -> None:
        """Take the socket; it is this object's from now on."""
        self._socket, self._most = connection, most
        self._end: float | None = None
        self._unsent = memoryview(b"")
        # A question is one small packet, and its answer another: nothing is gathered.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def within(self, seconds: float) -> None:
        """Limit all sending and receiving together, until this is called again."""
        self._end = time.monotonic() + seconds

    def trust(self, most: int) -> None:
        """Take payloads of so many bytes from now on."""
        self._most = most

    def send(self, header: Mapping[str, Any], arrays: Sequence[Floats] = ()) -> None:
        """Send a frame.

        Raises:
            WireError: If it is larger than the cap.
            OSError: If the connection is lost, or the time is over.
        """
        data = self._laid_out(header, arrays)
        unsent, self._unsent = self._unsent, memoryview(b"")
        self._limit()
        # Its timeout is for the whole, unlike that of `recv`.
        self._socket.sendall(bytes(unsent) + data if unsent else data)

    def offer(self, header: Mapping[str, Any], arrays: Sequence[Floats] = ()) -> bool:
        """Send a frame without waiting for the peer; the next call sends the rest.

        Returns:
            False if the peer has not yet taken the frame before: this one is not sent.

        Raises:
            WireError: If it is larger than the cap.
            OSError: If the connection is lost.
        """
        data = self._laid_out(header, arrays)
        self._push()
        if self._unsent:
            return False
        self._unsent = memoryview(data)
        self._push()
        return True

    def wait(self) -> None:
        """Wait for the next message, without a limit.

        Raises:
            OSError: If the connection is lost.
        """
        self._socket.settimeout(None)
        if not self._socket.recv(1, socket.MSG_PEEK):
            raise ConnectionError("the other end closed the connection")

    def receive(self) -> Frame:
        """Receive a frame.

        Raises:
            WireError: If it is none, or larger than the cap.
            OSError: If the connection is lost, or the time is over.
        """
        magic, head, size = _FRAME.unpack(self._exactly(_FRAME.size))
        if magic != _MAGIC:
            raise WireError(f"{bytes(magic)!r} does not begin a message of agentkd's.")
        if head > _MOST_HEADER or size > self._most:
            raise WireError(
                f"A message of {head} + {size} bytes was announced; at most "
                f"{_MOST_HEADER} + {self._most} are taken."
            )
        header, shapes, counts = _header(self._exactly(head))
        if 4 * sum(counts) != size:
            raise WireError(f"{size} bytes for arrays of the shapes {shapes}.")
        payload = self._exactly(size)
        numbers = np.frombuffer(payload, "<f4").astype(np.float32, copy=False)
        ends = np.cumsum(counts, dtype=np.int64)
        try:
            arrays = [
                numbers[end - count : end].reshape(shape)
                for end, count, shape in zip(ends, counts, shapes, strict=True)
            ]
        except (ValueError, OverflowError) as error:
            raise WireError(f"Arrays of shapes that cannot be: {error}") from error
        return Frame(header, tuple(arrays))

    def _laid_out(self, header: Mapping[str, Any], arrays: Sequence[Floats]) -> bytes:
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
        return b"".join(pieces + [array.tobytes() for array in flat])

    def _push(self) -> None:
        """Send as much as the system takes at once."""
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]

    def _limit(self) -> None:
        left = None
        if self._end is not None:
            left = self._end - time.monotonic()
            if left <= 0:
                raise TimeoutError("it took too long")
        self._socket.settimeout(left)

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            self._limit()
            got = self._socket.recv(min(count - len(data), _PIECE))
            if not got:
                raise ConnectionError("the other end closed the connection")
            data += got
        return bytes(data)

    def hang_up(self) -> None:
        """End the connection from another thread; its own thread closes it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection."""
        self.hang_up()
        self._socket.close()


def _header(data: bytes) -> tuple[dict[str, Any], list[Any], list[int]]:
    """Read a header; gives it, the shapes of the arrays, and how many numbers each has.

    Raises:
        WireError: If it is none.
    """
    try:
        header = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise WireError(f"A header that is no JSON: {error!r:.200}") from error
    shapes = header.pop("shapes", None) if isinstance(header, dict) else None
    if not isinstance(shapes, list) or len(shapes) > _MOST_ARRAYS:
        raise WireError(f"A header without at most {_MOST_ARRAYS} shapes.")
    return header, shapes, [_count(shape) for shape in shapes]


def _count(shape: Any) -> int:
    """How many numbers an array of a shape has."""
    sizes = shape if isinstance(shape, list) else [None]
    whole = all(type(size) is int and 0 <= size <= MOST_BYTES for size in sizes)
    if not whole or len(sizes) > _MOST_DIMENSIONS:
        raise WireError(f"{shape!r:.100} is no shape.")
    return math.prod(sizes)


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


def names_of(frame: Frame) -> list[str]:
    """What the first arrays of an answer are.

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
        WireError: If it is not that.
    """
    header = frame.header
    names, kind = names_of(frame), header.get("kind")
    found = dict(zip(names, frame.arrays, strict=False))
    rows = None
    if "rows" in found:
        packed = found["rows"]
        if not isinstance(kind, str) or kind not in KINDS or packed.ndim != 2:
            raise WireError(f"Rows of kind {kind!r:.100} and shape {packed.shape}.")
        if packed.shape[1] != dists.width(kind, spec.action):
            raise WireError(f"Rows of shape {packed.shape} for {spec.action}.")
        rows = dists.unpack(kind, packed, spec.action)
    guidance = Guidance(rows, found.get("goal"), found.get("expected"))
    if header.get("guidance") or rows is None:
        return guidance
    return rows
