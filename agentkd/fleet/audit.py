"""The audit trail: signed lines that are only ever added to. A fleet's state is their fold.

Each line is a JSON object with its number, its time, the SHA-256 of the line before, an event, and
an Ed25519 signature of all that. So the signature of the last line holds for the lines before it.
A line that a kill left unfinished is cut off by the next writer.

A checkpoint is a line with the state that all lines before it make. It begins a new file, so that a
start reads no further back. The lines before stay beside it, in a file that is named by the first
of them: `audit-000000001.log`. Nothing but `everything` reads those.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, final

from agentkd.errors import ConfigError, LoadError, WriteError
from agentkd.extras import needing
from agentkd.fields import Fields, parse_json
from agentkd.files import loading, sync, write_atomic
from agentkd.fleet.keys import read_private, read_public, write_private
from agentkd.printable import logger

log = logger(__name__)

NAME, KEY, PUBLIC = "audit.log", "audit.pem", "audit.pub"
CHECKPOINT = "checkpoint"
"""What the event of a checkpoint is called."""
Event = Mapping[str, Any]
"""What happened: its kind under "what", and what belongs to it."""
_LARGEST = 1 << 24
"""Bytes of a line."""
_PURPOSE = b"agentkd.audit 1\n"
"""Stands before what is signed, so that a signature of something else is not one of a line."""
_FIRST = "0" * 64
_SEGMENTS = "audit-*.log"
_END = re.compile(rb',"signature":"([0-9a-f]{128})"\}\Z')


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the trail."""

    number: int
    time: float
    """Seconds since 1970; never before that of the line before."""
    event: Event
    digest: str
    """SHA-256 of the line, in hexadecimal; it stands for all lines so far."""


@final
class AuditLog:
    """A folder's audit trail.

    Several processes may use it: each appends under a lock, after it has read what others added.

    Args:
        folder: The server's folder.
        public: The file of the public key; by default the one in the folder. A copy kept elsewhere
            shows that the whole folder was not replaced.

    Raises:
        LoadError: If there is no trail, or the key cannot be read.
    """

    def __init__(self, folder: str | Path, public: str | Path | None = None) -> None:
        self.folder = Path(folder)
        self.path = self.folder / NAME
        if not self.path.exists():
            raise LoadError(
                f"{self.folder} is not the folder of a fleet: it has no {NAME}. "
                f"Make one: agentkd fleet setup {self.folder}."
            )
        self.torn = 0
        """Bytes of an unfinished line at the end, as of the last look."""
        self.absent: list[tuple[int, int]] = []
        """First and last number of lines that are not here, after `everything`."""
        self._key = read_public(self.folder / PUBLIC if public is None else Path(public))
        self._private: Any = None
        self._last = Entry(0, 0.0, {}, _FIRST)
        self._at = 0
        self._raw = b""
        self._reading, self._file = self.path, (0, 0)
        self._first = 1

    @property
    def lines(self) -> int:
        """Lines since the checkpoint with which the file begins, as of the last look."""
        return self._last.number - self._first

    def read(self, *, signatures: bool = False) -> Iterator[Entry]:
        """Yield the lines that are new since the last call; take all of them, or none counts.

        Args:
            signatures: Check each line's own signature, not only the last one's, which holds for
                all before it.

        Raises:
            LoadError: If a line was changed, removed, or put in; it names the line.
        """
        with loading(self.path), self.path.open("rb") as stream:
            yield from self._read(stream, signatures)

    def everything(self) -> Iterator[Entry]:
        """Yield all lines that are in the folder, those before checkpoints too, all verified.

        `absent` says which are not there: lines before a checkpoint may be moved elsewhere.

        Raises:
            LoadError: If a line was changed, removed, or put in; it names the line.
        """
        self._last, self._raw, self.absent = Entry(0, 0.0, {}, _FIRST), b"", []
        with loading(self.path), self.path.open("rb") as newest:
            for path in sorted(self.folder.glob(_SEGMENTS)):
                if os.path.samestat(path.stat(), os.fstat(newest.fileno())):
                    # A kill came before the new file took its place.
                    continue
                with path.open("rb") as stream:
                    yield from self._segment(stream, path)
                if self.torn:
                    raise self._damaged(self._last.number + 1, "it is unfinished")
            yield from self._segment(newest, self.path)

    def _segment(self, stream: BinaryIO, path: Path) -> Iterator[Entry]:
        """Yield the lines of a file, and note which lie between it and the one before."""
        self._reading, self._at, expected = path, 0, self._last.number + 1
        for entry in self._new(stream, signatures=True):
            if entry.number > expected:
                self.absent.append((expected, entry.number - 1))
            expected = entry.number + 1
            yield entry

    def append(
        self, make: Callable[[Sequence[Entry]], Sequence[Event]], now: float | None = None
    ) -> list[Entry]:
        """Append events under the lock, on the disk, and return all new lines, others' too.

        Args:
            make: Is given the lines that others have added, and returns the events to add.
            now: Seconds since 1970; by default the clock's.

        Raises:
            LoadError: If a line does not verify, or the private key cannot be read.
            WriteError: If the events cannot be written; then none is.
        """
        private = self._signer()
        with self._locked() as stream:
            found = self._newest(stream)
            events = make(found)
            if events:
                found += self._write(stream, events, private, time.time() if now is None else now)
        return found

    def checkpoint(
        self, make: Callable[[Sequence[Entry]], Event], now: float | None = None
    ) -> list[Entry]:
        """Begin a new file with a checkpoint, and return all new lines, others' too.

        After a kill the trail is as before, or with the checkpoint.

        Args:
            make: Is given the lines that others have added, and returns the checkpoint.
            now: Seconds since 1970; by default the clock's.

        Raises:
            LoadError: If a line does not verify, or the private key cannot be read.
            WriteError: If it cannot be written; then the trail is as before.
        """
        private, fresh = self._signer(), self.folder / f".{os.urandom(8).hex()}.tmp"
        with self._locked() as stream:
            found = self._newest(stream)
            event, last = make(found), self._last
            at = max(time.time() if now is None else now, last.time)
            line = _signed(last, event, at, private)
            try:
                with fresh.open("xb") as begun:
                    # Who opens it waits until it is in its place for good.
                    fcntl.flock(begun, fcntl.LOCK_EX)
                    begun.write(line + b"\n")
                    begun.flush()
                    os.fsync(begun.fileno())
                    self._set_aside(stream)
                    fresh.replace(self.path)
                    sync(self.folder)
            except OSError as error:
                raise WriteError(
                    f"No checkpoint could be written in {self.folder}: {error.strerror or error}. "
                    "The trail is as before; make room."
                ) from error
            finally:
                fresh.unlink(missing_ok=True)
        # The new file is read as any other's is.
        return found + list(self.read())

    def _set_aside(self, stream: BinaryIO) -> None:
        """Give the file a second name, which it keeps."""
        kept = self.folder / _SEGMENTS.replace("*", f"{self._first:09}")
        if not (kept.exists() and os.path.samestat(kept.stat(), os.fstat(stream.fileno()))):
            # Unlike a rename, a link replaces nothing.
            os.link(self.path, kept)
            sync(self.folder)

    def _newest(self, stream: BinaryIO) -> list[Entry]:
        """Return the new lines of a file that is locked; cut off an unfinished one."""
        found = list(self._read(stream, signatures=False))
        if self.torn:
            log.warning(
                "%s: %d bytes of an unfinished line after line %d were cut off.",
                self.path,
                self.torn,
                self._last.number,
            )
            os.ftruncate(stream.fileno(), self._at)
            self.torn = 0
        return found

    def _read(self, stream: BinaryIO, signatures: bool) -> Iterator[Entry]:
        before = self._last, self._at, self._raw, self._file, self._first
        try:
            yield from self._new(stream, signatures)
        except BaseException:
            # What comes before a line that does not verify is read again next time.
            self._last, self._at, self._raw, self._file, self._first = before
            raise

    def _new(self, stream: BinaryIO, signatures: bool) -> Iterator[Entry]:
        facts = os.fstat(stream.fileno())
        if self._file != (facts.st_dev, facts.st_ino):
            # It is read for the first time, or a checkpoint began it.
            self._file, self._at = (facts.st_dev, facts.st_ino), 0
        size = stream.seek(0, os.SEEK_END)
        if size < self._at:
            raise LoadError(
                f"{self.path} ends before line {self._last.number}, which was read before: lines "
                "were removed. Restore it from a copy."
            )
        stream.seek(self._at)
        raw = b""
        while line := stream.readline(_LARGEST):
            if not line.endswith(b"\n"):
                break
            raw = line[:-1]
            entry = self._checked(raw)
            if signatures:
                self._verify(raw, entry.number)
            if not self._at:
                self._first = entry.number
            # Only what was verified, or is followed by what is, leaves here as true.
            self._last, self._at, self._raw = entry, self._at + len(line), raw
            yield entry
        self.torn = size - self._at
        if self.torn >= _LARGEST:
            raise self._damaged(self._last.number + 1, f"it has over {_LARGEST:,} bytes")
        if raw and not signatures:
            self._verify(raw, self._last.number)
        if not self._last.number:
            raise LoadError(f"{self.path} holds no whole line. Restore it from a copy.")

    def _checked(self, raw: bytes) -> Entry:
        """Read a line, and check that it follows the last one."""
        number, last = self._last.number + 1, self._last
        end = _END.search(raw)
        if end is None:
            raise self._damaged(number, "it has no signature")
        try:
            fields = Fields(parse_json(raw, f"Line {number}", limit=_LARGEST), f"Line {number}")
            found = fields.whole("number"), fields.text("before")
            at, event = fields.number("time"), fields.get("event")
            Fields(event, f"Line {number}: 'event'").text("what")
        except LoadError as error:
            raise self._damaged(number, str(error)) from error
        if not self._at and event["what"] == CHECKPOINT and found[0] > number:
            # The lines between are not read: it stands for them.
            number = found[0]
        elif found != (number, last.digest):
            # If the line before was changed, its own signature says so.
            if self._raw:
                self._verify(self._raw, last.number)
            raise self._damaged(number, "it does not follow the line before")
        if at < last.time:
            raise self._damaged(number, "its time is before that of the line before")
        return Entry(number, at, event, hashlib.sha256(raw).hexdigest())

    def _verify(self, raw: bytes, number: int) -> None:
        from cryptography.exceptions import InvalidSignature

        end = _END.search(raw)
        assert end is not None
        try:
            self._key.verify(bytes.fromhex(end[1].decode()), _PURPOSE + raw[: end.start()] + b"}")
        except InvalidSignature:
            raise self._damaged(number, "its signature is not that of the audit key") from None

    def _damaged(self, number: int, why: str) -> LoadError:
        return LoadError(
            f"{self._reading}: line {number} does not verify: {why}. Something else than agentkd "
            "has changed the file. Restore it from a copy."
        )

    def _write(
        self, stream: BinaryIO, events: Sequence[Event], private: Any, now: float
    ) -> list[Entry]:
        written, last, lines = [], self._last, []
        for event in events:
            line = _signed(last, event, max(now, last.time), private)
            last = Entry(
                last.number + 1, max(now, last.time), event, hashlib.sha256(line).hexdigest()
            )
            written.append(last)
            lines.append(line + b"\n")
        data = b"".join(lines)
        target, at = stream.fileno(), self._at
        try:
            while at < self._at + len(data):
                at += os.pwrite(target, data[at - self._at :], at)
            os.fsync(target)
        except OSError as error:
            os.ftruncate(target, self._at)
            raise WriteError(
                f"{self.path} could not be written: {error.strerror or error}. Nothing was "
                "decided; make room and try again."
            ) from error
        self._last, self._at, self._raw = last, self._at + len(data), lines[-1][:-1]
        return written

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        try:
            stream = self.path.open("r+b")
        except OSError as error:
            raise WriteError(
                f"{self.path} cannot be written: {error.strerror or error}. Run this as the user "
                "who owns it."
            ) from error
        with stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            # Another file may have taken its place meanwhile.
            if os.path.samestat(os.fstat(stream.fileno()), self.path.stat()):
                yield stream
                return
        with self._locked() as other:
            yield other

    def _signer(self) -> Any:
        if self._private is None:
            self._private = read_private(self.folder / KEY)
        return self._private


def create(folder: Path, event: Event, now: float | None = None) -> AuditLog:
    """Make a folder's keys and its trail, with a first event; go on where a kill interrupted it.

    Raises:
        ConfigError: If there is a trail.
        WriteError: If something cannot be written.
    """
    if (folder / NAME).exists():
        raise ConfigError(f"{folder / NAME} is there. A trail is never begun anew.")
    with needing("A fleet's audit trail"):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import (
            Encoding,
            NoEncryption,
            PrivateFormat,
            PublicFormat,
        )
    if not (folder / KEY).exists():
        pem = Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        write_private(folder / KEY, pem)
    private = read_private(folder / KEY)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    write_atomic(folder / PUBLIC, public)
    line = _signed(Entry(0, 0.0, {}, _FIRST), event, time.time() if now is None else now, private)
    write_atomic(folder / NAME, line + b"\n")
    return AuditLog(folder)


def _signed(last: Entry, event: Event, now: float, private: Any) -> bytes:
    """Return the line that follows another one."""
    told = {"number": last.number + 1, "time": now, "before": last.digest, "event": event}
    body = json.dumps(told, separators=(",", ":"), allow_nan=False).encode()
    if len(body) > _LARGEST - 200:
        raise WriteError(f"An event of {len(body):,} bytes; at most {_LARGEST:,} fit a line.")
    signature: bytes = private.sign(_PURPOSE + body).hex().encode()
    return body[:-1] + b',"signature":"' + signature + b'"}'
