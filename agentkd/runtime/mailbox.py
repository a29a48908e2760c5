"""Messages from one process to another, the newest first in importance.

The writer never waits: a message that nobody took in time is overwritten, and the reader counts it.
Each slot carries its message's number before and after (a sequence lock) and a CRC-32, so what was
half written when its writer died is never read.
"""

from __future__ import annotations

import struct
import zlib
from typing import final

from agentkd.errors import ConfigError
from agentkd.runtime.memory import Segment

Buffer = bytes | bytearray | memoryview

_WRITTEN, _TAKEN, _HEADER = 0, 1, 8
"""Words of the head: how many messages were written, and how many are dealt with."""
_SLOT = 2
"""Words before a slot's message: its number, and its length and CRC-32."""
_LENGTH_AND_SUM = struct.Struct("=II")


@final
class Mailbox:
    """One writer, one reader, `slots` messages of up to `size` bytes.

    Args:
        size: The longest message, in bytes.
        slots: How many of the newest are kept.
        segment: The shared memory of a mailbox that exists already.
    """

    def __init__(self, size: int, slots: int = 1, segment: Segment | None = None) -> None:
        """Lay the slots out."""
        if size < 1 or slots < 1:
            raise ConfigError(f"A mailbox of {slots} slots of {size} bytes cannot be.")
        self.size, self.slots = size, slots
        self._stride = _SLOT + -(-size // 8)
        total = 8 * (_HEADER + slots * self._stride)
        self.segment = segment or Segment(total)
        if self.segment.size < total:
            raise ConfigError(f"{self.segment.size} bytes do not hold {total}.")
        self._bytes = self.segment.buffer
        # One aligned store of eight bytes is atomic; struct's standard sizes are not.
        self._words = self._bytes.cast("Q")
        self.missed = 0
        self.torn = 0

    def handle(self) -> tuple[int, int, int, int]:
        """What `attach` takes."""
        return (self.size, self.slots, *self.segment.handle()[::-1])

    @classmethod
    def attach(cls, size: int, slots: int, total: int, fd: int) -> Mailbox:
        """Open a mailbox that another process made."""
        return cls(size, slots, Segment(total, fd))

    def write(self, message: Buffer) -> None:
        """Put a message in, over the oldest one where all slots are taken.

        Raises:
            ConfigError: If it is longer than a slot.
        """
        length = len(message)
        if length > self.size:
            raise ConfigError(f"{length} bytes do not fit slots of {self.size}.")
        words = self._words
        number = words[_WRITTEN]
        word = _HEADER + (number % self.slots) * self._stride
        words[word] = 2 * number + 1
        start = 8 * (word + _SLOT)
        self._bytes[start : start + length] = message
        _LENGTH_AND_SUM.pack_into(
            self._bytes, start - 8, length, zlib.crc32(message, number & 0xFFFFFFFF)
        )
        words[word] = 2 * number + 2
        words[_WRITTEN] = number + 1

    def waiting(self) -> bool:
        """Whether a message was written that was not taken."""
        return bool(self._words[_WRITTEN] != self._words[_TAKEN])

    def take(self) -> list[bytes]:
        """Take what was written since the last time, oldest first.

        Messages that were overwritten, or that are not whole, are left out and counted in `missed`
        and `torn`.
        """
        words = self._words
        written, taken = words[_WRITTEN], words[_TAKEN]
        if written == taken:
            return []
        first = max(taken, written - self.slots)
        self.missed += first - taken
        found = [self._read(number) for number in range(first, written)]
        words[_TAKEN] = written
        return [message for message in found if message is not None]

    def last(self) -> bytes | None:
        """The newest message, taken or not; None where there is no whole one."""
        written = self._words[_WRITTEN]
        return self._read(written - 1) if written else None

    def _read(self, number: int) -> bytes | None:
        words = self._words
        word = _HEADER + (number % self.slots) * self._stride
        if words[word] != 2 * number + 2:
            self.missed += 1
            return None
        start = 8 * (word + _SLOT)
        length, check = _LENGTH_AND_SUM.unpack_from(self._bytes, start - 8)
        message = bytes(self._bytes[start : start + min(length, self.size)])
        if words[word] != 2 * number + 2:
            self.missed += 1
            return None
        if length > self.size or zlib.crc32(message, number & 0xFFFFFFFF) != check:
            self.torn += 1
            return None
        return message
