"""A file that arrives in chunks, on the disk of the device that fetches it.

Which chunks are there is told by their hashes alone. So a kill at any moment loses the chunk that
was being written at most, and what is damaged on the disk counts as missing.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import final

from agentkd.transport.blobs import Blob


@final
class Incoming:
    """A file of which some chunks are there.

    Args:
        path: Where it lies; its folder is made.
        blob: What it shall be.

    Raises:
        OSError: If it cannot be read or written; by every method.
    """

    def __init__(self, path: Path, blob: Blob) -> None:
        self.path, self.blob = path, blob
        self.missing: set[int] = set()
        """The chunks that are not there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.whole()

    @property
    def here(self) -> int:
        """How many chunks are there."""
        return len(self.blob.hashes) - len(self.missing)

    def put(self, index: int, data: bytes) -> None:
        """Write a chunk that fits."""
        with self._opened() as file:
            if os.pwrite(file, data, index * self.blob.chunk) < len(data):
                raise OSError(f"{self.path} could not be written.")
        self.missing.discard(index)

    def whole(self) -> bool:
        """Read the disk again; return whether the file is what it shall be.

        It is not, and no chunk is missing, if the blob's hashes are those of another file.
        """
        digest = hashlib.sha256()
        with self._opened() as file:
            for index in range(len(self.blob.hashes)):
                data = os.pread(file, self.blob.length(index), index * self.blob.chunk)
                digest.update(data)
                if self.blob.fits(index, data):
                    self.missing.discard(index)
                else:
                    self.missing.add(index)
        return digest.hexdigest() == self.blob.digest

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """Open the file, in its size; what was not written is zeros."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.open(self.path, flags, 0o644)
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(f"{self.path} is not a regular file.")
            if found.st_size != self.blob.size:
                os.ftruncate(file, self.blob.size)
            yield file
        finally:
            os.close(file)
