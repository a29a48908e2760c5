"""The limit on observations in one request, so that labels never make it late."""

from __future__ import annotations

from typing import final

_TWICE = 2.0
_NOTHING = 5e-3
_BEGIN = 16
_FORGET = 0.2


@final
class BatchLimit:
    """Keeps a request about as quick as one about the newest observation alone.

    A large model labels a batch in the time of one observation; a search does not. The first
    request is about the newest alone, to measure that. Then the limit begins at 16, doubles while a
    request takes at most twice as long as one observation (or less than five milliseconds), and
    halves where it takes longer. It is at most `most`.
    """

    def __init__(self, most: int) -> None:
        """Begin with a few."""
        self._most = max(1, most)
        self.rows = 1
        self._alone: float | None = None

    def note(self, rows: int, seconds: float) -> None:
        """Take how long a request of so many observations took."""
        if self._alone is None:
            if rows == 1:
                self._alone = seconds
                self.rows = min(_BEGIN, self._most)
            return
        if rows == 1:
            self._alone += _FORGET * (seconds - self._alone)
        if seconds > max(_TWICE * self._alone, _NOTHING):
            self.rows = max(1, self.rows // 2)
        elif rows >= self.rows:
            self.rows = min(2 * self.rows, self._most)
