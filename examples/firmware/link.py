"""The host's end of the line: frames, and an executor that answers over them.

What a frame is stands in link.h. Whatever is lost or damaged on the way is asked for again under
the same number, so that the device decides once for each observation.
"""

from __future__ import annotations

import socket
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from agentkd.types import Floats

STATUS = {0: "decided", 1: "observation", 2: "no model"}
ERRORS = {1: "crc", 2: "length", 3: "type", 4: "long"}
_MODEL = (
    *("ok", "short", "align", "magic", "version", "size", "crc", "kind", "shape"),
    *("numbers", "scratch"),
)
_HELLO = struct.Struct("<7I")
_PROTOCOL = 1


class DeviceError(Exception):
    """A device that is silent, broken, or another than was expected."""


class RefusedError(DeviceError):
    """A frame that the device refused, by name."""


def stuff(data: bytes) -> bytes:
    """Take the zeros out: consistent overhead byte stuffing (Cheshire, Baker 1999)."""
    out, run = bytearray(), bytearray()
    for byte in data:
        if byte:
            run.append(byte)
        if not byte or len(run) == 254:
            out += bytes([len(run) + 1]) + run
            run.clear()
    return bytes(out + bytes([len(run) + 1]) + run)


def unstuff(data: bytes) -> bytes | None:
    """Put the zeros back; None where it was not stuffed so."""
    out, at = bytearray(), 0
    while at < len(data):
        run = data[at]
        if run == 0 or at + run > len(data):
            return None
        out += data[at + 1 : at + run]
        at += run
        if run < 255 and at < len(data):
            out.append(0)
    return bytes(out)


def frame(kind: str, number: int, payload: bytes) -> bytes:
    """Make a frame; a zero on both sides ends whatever was begun before."""
    bare = kind.encode() + bytes([number]) + payload
    return b"\0" + stuff(bare + struct.pack("<I", zlib.crc32(bare))) + b"\0"


def parse(data: bytes) -> tuple[str, int, bytes] | None:
    """Read what stands between two zeros; None where it is damaged."""
    bare = unstuff(data)
    if bare is None or len(bare) < 6:
        return None
    body, (crc,) = bare[:-4], struct.unpack("<I", bare[-4:])
    return None if zlib.crc32(body) != crc else (chr(body[0]), body[1], body[2:])


@final
class Line:
    """A serial line, as good as it is: some of its bytes are changed, if so wished."""

    def __init__(self, end: socket.socket, damage: float = 0.0, seed: int = 0) -> None:
        """Take one end.

        Args:
            end: A connected socket.
            damage: The share of bytes that are changed, in both directions.
            seed: For which of them.
        """
        self._end = end
        self._damage = damage
        self._random = np.random.default_rng(seed)
        self._held = b""

    def send(self, data: bytes) -> None:
        """Write bytes.

        Raises:
            DeviceError: If nobody is at the other end.
        """
        try:
            self._end.sendall(self._worn(data))
        except OSError as error:
            raise DeviceError(f"The line is dead: {error.strerror or error}.") from error

    def frames(self, seconds: float) -> Iterator[bytes]:
        """Give what stands between zeros, as it comes, for some seconds.

        Raises:
            DeviceError: If the other end hung up.
        """
        until = time.monotonic() + seconds
        while True:
            piece, zero, rest = self._held.partition(b"\0")
            if zero:
                self._held = rest
                if piece:
                    yield piece
                continue
            left = until - time.monotonic()
            if left <= 0:
                return
            self._end.settimeout(left)
            try:
                more = self._end.recv(4096)
            except TimeoutError:
                return
            except OSError as error:
                raise DeviceError(f"The line is dead: {error.strerror}.") from error
            if not more:
                raise DeviceError("The device hung up: the emulator ended.")
            self._held += self._worn(more)

    def _worn(self, data: bytes) -> bytes:
        if not self._damage:
            return data
        raw = np.frombuffer(data, np.uint8).copy()
        hit = self._random.random(len(raw)) < self._damage
        raw[hit] ^= self._random.integers(1, 256, int(hit.sum()), dtype=np.uint8)
        return raw.tobytes()


@dataclass(frozen=True, slots=True)
class Hello:
    """What a device says of itself.

    Attributes:
        obs: Numbers in an observation.
        actions: Numbers or choices in an action.
        version: The executor's.
        id: Which executor it is.
        hz: Of the clock that times decisions.
    """

    obs: int
    actions: int
    version: int
    id: int
    hz: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a device decided.

    Attributes:
        status: "decided", or why it could not be; then the action is the safe one.
        action: Its words, as choices (int32) or numbers (float32).
        ticks: Of the device's clock that it took.
    """

    status: str
    action: Any
    ticks: int


@final
class Device:
    """An executor at the other end of a line."""

    def __init__(
        self, line: Line, *, floats: bool, patience: float = 0.25, tries: int = 20
    ) -> None:
        """Talk over a line.

        Args:
            line: The line.
            floats: Whether actions are numbers, not choices.
            patience: How long an answer is waited for before it is asked again, s.
            tries: How often that is done before the device counts as hung.
        """
        self._line = line
        self._kind = np.float32 if floats else np.int32
        self._patience, self._tries = patience, tries
        self._number = 0
        self.again = 0
        """How many frames were sent again."""

    def hello(self) -> Hello:
        """Ask who is there.

        Raises:
            DeviceError: If nobody is, or it has no model or another protocol.
        """
        words = _HELLO.unpack(self.ask("h", b""))
        protocol, status, *rest = words
        if protocol != _PROTOCOL:
            raise DeviceError(f"It talks protocol {protocol}, not {_PROTOCOL}.")
        if status:
            named = _MODEL[status] if status < len(_MODEL) else str(status)
            raise DeviceError(f"It has no model that it could run: {named}.")
        return Hello(*rest)

    def reset(self) -> None:
        """Begin an episode."""
        self.ask("r", b"")

    def act(self, obs: Floats) -> Answer:
        """Have a flat observation, (obs,), decided."""
        said = self.ask("o", np.asarray(obs, "<f4").tobytes())
        status, ticks = struct.unpack_from("<2I", said)
        action = np.frombuffer(said, "<u4", offset=8).astype(np.uint32)
        return Answer(STATUS.get(status, str(status)), action.view(self._kind), ticks)

    def ask(self, kind: str, payload: bytes) -> bytes:
        """Send a frame until its answer comes; give the answer's payload.

        Raises:
            RefusedError: If the device cannot mean it.
            DeviceError: If it is silent, hung up, or broke.
        """
        self._number = (self._number + 1) % 256
        data = frame(kind, self._number, payload)
        for attempt in range(self._tries):
            self.again += attempt > 0
            self._line.send(data)
            found = self._answer(kind.upper())
            if found is not None:
                return found
        raise DeviceError(
            f"The device hangs: no answer to {self._tries} frames in "
            f"{self._tries * self._patience:g} s."
        )

    def _answer(self, kind: str) -> bytes | None:
        """Wait for the answer to the last frame; None if it has to be sent again."""
        for piece in self._line.frames(self._patience):
            match parse(piece):
                case ("f", _, where):
                    place, cause = (f"{e:#010x}" for e in struct.unpack("<2I", where))
                    raise DeviceError(f"The program broke at {place}, cause {cause}.")
                case ("e", number, why):
                    named = ERRORS.get(why[0], str(why[0]))
                    if named in ("length", "type") and number == self._number:
                        raise RefusedError(f"The device refused a frame: {named}.")
                    return None
                case (said, number, found) if (said, number) == (kind, self._number):
                    return found
                case None:
                    return None
                case _:
                    # The answer to something that was asked again before.
                    continue
        return None
