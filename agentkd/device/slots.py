"""A device's folder: its two slots, and the locks under which it is changed."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import final

from agentkd.deploy.bundle import Bundle
from agentkd.device.checks import read
from agentkd.device.state import Held, Slot
from agentkd.errors import DeviceError, LoadError, WriteError
from agentkd.files import digest_of, read_file, regular
from agentkd.signing.store import WORK

LARGEST = 1 << 28
"""Bytes of an executor file that are read at most."""
_FETCHING = "fetching.lock"


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of an executor file, in hexadecimal.

    Raises:
        DeviceError: If it cannot be read.
    """
    try:
        with regular(path, LARGEST) as stream:
            return digest_of(stream)
    except LoadError as error:
        raise DeviceError(str(error), "", "damaged") from error


@final
class Slots:
    """The files in a device's folder.

    Args:
        folder: The folder.
        signed: Whether what came in unsigned is refused.
    """

    def __init__(self, folder: Path, *, signed: bool) -> None:
        self._folder, self._signed = folder, signed

    def path(self, slot: Slot) -> Path:
        """Return the file of a slot."""
        return self._folder / f"slot-{slot}.akd"

    def whole(self, held: Held) -> bool:
        """Return whether a slot's file has the bytes that the state says, signed if need be."""
        if self._signed and not held.signed:
            return False
        try:
            return file_digest(self.path(held.slot)) == held.digest
        except DeviceError:
            return False

    def open(self, held: Held) -> Bundle:
        """Read what lies in a slot, if it is what the state says.

        Raises:
            DeviceError: If it is not, or came in unsigned where signatures are asked for.
        """
        path = self.path(held.slot)
        if self._signed and not held.signed:
            raise DeviceError(
                f"{held.name} in {path} came onto the device unsigned. Apply a signed executor, or "
                "leave trust out.",
                "CONFIRMED",
                "unsigned",
            )
        try:
            data = read_file(path, LARGEST)
        except LoadError as error:
            raise DeviceError(f"{held.name}: {error}", "STAGED", "damaged") from error
        digest = hashlib.sha256(data).hexdigest()
        if digest != held.digest:
            raise DeviceError(
                f"{path} is not {held.name}: its SHA-256 is {digest}, not {held.digest}. Apply an "
                "executor again.",
                "STAGED",
                "damaged",
            )
        return read(data, held.name)

    def tidy(self) -> None:
        """Remove what an update that was killed has left; what one at work needs stays."""
        with suppress(BlockingIOError, PermissionError), self._locked(fetching=True, wait=False):
            for pattern in (".*.tmp", f"{WORK}*"):
                for each in self._folder.glob(pattern):
                    folder = each.is_dir() and not each.is_symlink()
                    shutil.rmtree(each) if folder else each.unlink(missing_ok=True)

    @contextmanager
    def changing(self, stage: str, *, fetching: bool = False) -> Iterator[None]:
        """Keep others from changing the state, and name what cannot be written.

        With `fetching`, only others that check signatures are kept waiting, however long it takes.
        """
        try:
            with self._locked(fetching=fetching):
                yield
        except (OSError, WriteError) as error:
            text = str(error) if isinstance(error, WriteError) else f"{self._folder}: {error}."
            raise DeviceError(
                f"{text} The executor that acts is whole. Make room and the folder writable, then "
                "apply again.",
                stage,
                "unwritten",
            ) from error

    @contextmanager
    def _locked(self, *, fetching: bool, wait: bool = True) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        # A pipe in the lock's place would block without O_NONBLOCK.
        path, flags = self._folder, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        if fetching:
            path, flags = path / _FETCHING, flags | os.O_CREAT
        descriptor = os.open(path, flags, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            try:
                yield
            finally:
                # Closing is not enough: a process that was forked meanwhile has it open too.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)
