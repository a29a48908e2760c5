"""Decisions drawn from bytes, so that one short input replays a whole mutation."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from typing import TypeVar, final

Item = TypeVar("Item")


@final
class Draw:
    """A stream of decisions: the bytes of `data`, then numbers seeded by them.

    Any bytes are a valid input of any length. A fuzzer that changes one byte changes one decision
    and the ones after it.
    """

    def __init__(self, data: bytes) -> None:
        """Start at the first byte."""
        self._data, self._at = data, 0
        self._rest = random.Random(zlib.crc32(data))

    def raw(self, count: int) -> bytes:
        """Take `count` bytes."""
        taken = self._data[self._at : self._at + count]
        self._at += len(taken)
        return taken + self._rest.randbytes(count - len(taken))

    def below(self, limit: int) -> int:
        """Draw a whole number from 0 to limit - 1."""
        return int.from_bytes(self.raw(1 if limit <= 256 else 4), "little") % limit

    def chance(self, one_in: int) -> bool:
        """Draw true once in so many draws."""
        return self.below(one_in) == 0

    def choice(self, items: Sequence[Item]) -> Item:
        """Draw one of the items."""
        return items[self.below(len(items))]
