"""Memory and a doorbell that two processes share, handed over as file descriptors."""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import tempfile
from typing import final

from agentkd.errors import WorkerError


@final
class Segment:
    """Shared memory without a name: it is gone with the last process that holds it.

    Args:
        size: Bytes; they begin as zeros.
        fd: A descriptor of the same segment, in the process it was handed to.
    """

    def __init__(self, size: int, fd: int = -1) -> None:
        """Make a segment, or map the one behind `fd`."""
        self.size = max(8, size)
        try:
            if fd < 0:
                fd = _anonymous_file(self.size)
            self.fd = fd
            self._map = mmap.mmap(fd, self.size)
        except (OSError, ValueError) as error:
            raise WorkerError(
                f"{self.size} bytes of could not allocate shared memory: {error}. "
                "Free some in /dev/shm, or keep fewer labels."
            ) from error
        self.buffer = memoryview(self._map)

    def handle(self) -> tuple[int, int]:
        """What another process needs to map it: descriptor and size."""
        return self.fd, self.size

    def close(self) -> None:
        """Give the descriptor back; the memory goes when nothing looks at it."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def _anonymous_file(size: int) -> int:
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("agentkd", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd


@final
class Bell:
    """Wakes another process. Ringing never blocks, however long nobody listens."""

    def __init__(self, reader: int = -1, writer: int = -1) -> None:
        """Make a bell, or take the ends that were handed over."""
        if reader < 0:
            reader, writer = os.pipe()
            os.set_blocking(reader, False)
            os.set_blocking(writer, False)
        self._reader, self._writer = reader, writer

    def handle(self) -> tuple[int, int]:
        """What another process needs: the descriptors of both ends."""
        return self._reader, self._writer

    def ring(self) -> None:
        """Wake the waiting process."""
        # A full pipe rings already.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._writer, b"!")

    def wait(self, seconds: float) -> None:
        """Wait until it rings, at most so long, and take all the ringing."""
        if select.select([self._reader], [], [], seconds)[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(self._reader, 65536)

    def close(self) -> None:
        """Give both descriptors back."""
        if self._reader >= 0:
            os.close(self._reader)
            os.close(self._writer)
            self._reader = self._writer = -1
