"""What leaves a device: nothing by default, else what is listed, within a budget, written down."""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from agentkd.errors import ConfigError, LoadError, check_range
from agentkd.fields import Fields, parse_json
from agentkd.files import read_file
from agentkd.fleet.notes import FOLDER, LARGEST, OBSERVATIONS, Note, read_note, waiting_in
from agentkd.printable import logger

log = logger(__name__)

LEDGER = "left.log"
"""The file, in the device's folder, in which all that left is written down."""
_LONGEST = 1 << 20
"""Bytes of the ledger; then it begins anew, and the former one stays beside it."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """What may leave a device, and how much.

    Attributes:
        leave: What may leave: "observations", and names of an agent's metrics such as
            "deadline_miss_total"; nothing by default.
        per_hour: Bytes that may leave in an hour. A program that starts goes on with what the one
            before it had left, so starting often gives no more. A note of which not even one
            observation, or not all numbers, fit into it is removed, and a warning says so.

    Raises:
        ConfigError: If a name is none, or the budget is out of its range.
    """

    leave: tuple[str, ...] = ()
    per_hour: int = 100_000

    def __post_init__(self) -> None:
        """Check the values."""
        for each in self.leave:
            if not each.isidentifier():
                raise ConfigError(
                    f"What may leave is {each!r}: observations, or the name of a metric."
                )
        check_range("per_hour", self.per_hour, least=1, most=1 << 40, whole=True)


@final
class Outbox:
    """Gives, one after another, the notes of a device that may leave, and writes down each.

    Args:
        folder: The device's folder.
        sharing: What may leave.
        now: Seconds, of a clock that only goes forward.
    """

    def __init__(self, folder: Path, sharing: Sharing, now: float) -> None:
        self.sharing = sharing
        self._folder, self._ledger = folder / FOLDER, folder / LEDGER
        self._at, self._allowance = now, self._before()

    def next(self, now: float) -> bytes | None:
        """Return the next note that may leave, None if there is none or the budget is used.

        It is written down before it is returned. What may not leave is removed.

        Raises:
            OSError: If that cannot be written; then nothing leaves.
        """
        most = self.sharing.per_hour
        self._allowance = min(most, self._allowance + (now - self._at) * most / 3600)
        self._at = now
        for path in waiting_in(self._folder):
            note = self._allowed(path)
            if note is None or self._never_fits(note, path):
                path.unlink(missing_ok=True)
                continue
            payload = self._fitted(note)
            if payload is None:
                return None
            self._allowance -= len(payload)
            self._note_down(note.kind, payload)
            path.unlink(missing_ok=True)
            return payload
        return None

    def _allowed(self, path: Path) -> Note | None:
        """Return what may leave of a note."""
        try:
            note = read_note(read_file(path, LARGEST))
        except LoadError as error:
            log.warning("%s is removed: %s", path, error)
            return None
        leave = self.sharing.leave
        if note.obs is not None:
            return note if OBSERVATIONS in leave else None
        values = {name: value for name, value in note.values.items() if name in leave}
        return Note(values=values) if values else None

    def _never_fits(self, note: Note, path: Path) -> bool:
        """Tell whether even a whole hour's budget is too small for a note."""
        least, most = len(_first(note, 1).to_bytes()), self.sharing.per_hour
        if least > most:
            log.warning(
                "%s is removed: at least %d bytes of it would leave at once, and %d may leave in "
                "an hour. Raise that (--share-per-hour).",
                *(path, least, most),
            )
        return least > most

    def _fitted(self, note: Note) -> bytes | None:
        """Return a note's bytes with as many of its first observations as the budget has."""
        payload = note.to_bytes()
        if len(payload) <= self._allowance:
            return payload
        if note.obs is None or note.hardness is None or self._allowance < self.sharing.per_hour / 4:
            return None
        # A quarter of an hour's budget is worth a message.
        row = 4 * (note.obs.shape[1] + 1)
        rows = len(note.obs) - -(-(len(payload) - int(self._allowance)) // row) - 1
        payload = _first(note, max(1, rows)).to_bytes()
        return payload if len(payload) <= self._allowance else None

    def _note_down(self, kind: str, payload: bytes) -> None:
        line = {
            "time": round(time.time(), 3),
            "kind": kind,
            "bytes": len(payload),
            "sha256": hashlib.sha256(payload).hexdigest(),
            "allowance": int(self._allowance),
        }
        if self._ledger.exists() and self._ledger.stat().st_size > _LONGEST:
            self._ledger.replace(self._ledger.with_name(f"{LEDGER}.1"))
        file = os.open(self._ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        with os.fdopen(file, "ab") as stream:
            # A line that a kill left unfinished ends here.
            stream.write((b"\n" if self._torn() else b"") + json.dumps(line).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _torn(self) -> bool:
        with self._ledger.open("rb") as stream:
            return (
                stream.seek(0, os.SEEK_END) > 0
                and stream.seek(-1, os.SEEK_END) >= 0
                and (stream.read(1) != b"\n")
            )

    def _before(self) -> float:
        """Return what the program before had left to send."""
        for path in (self._ledger, self._ledger.with_name(f"{LEDGER}.1")):
            try:
                lines = read_file(path, 2 * _LONGEST).splitlines()
            except LoadError:
                continue
            for line in reversed(lines):
                with suppress(LoadError):  # a kill left it unfinished
                    return float(Fields(parse_json(line, path), str(path)).whole("allowance"))
        return 0.0


def _first(note: Note, rows: int) -> Note:
    """Return a note with its first observations alone; numbers are all or none."""
    if note.obs is None or note.hardness is None:
        return note
    return replace(note, obs=note.obs[:rows], hardness=note.hardness[:rows])
