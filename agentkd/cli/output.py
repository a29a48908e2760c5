"""Standard output that may go away, as with `| head`, while the work goes on."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any, TextIO, final

_NOBODY = (errno.EPIPE, errno.EIO)
"""The reader of the pipe, or the terminal, is gone."""


@final
class Lasting:
    """A text stream that drops output once it cannot be written.

    Attributes:
        error: Why output was dropped; None if it was not, or if the reader is gone.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Flush what was written, or drop it."""
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        if error.errno not in _NOBODY:
            self.error = error
        with contextlib.suppress(OSError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)


@contextlib.contextmanager
def lasting_output() -> Iterator[Lasting]:
    """Keep the block running when standard output or error goes away.

    Characters that the terminal's encoding lacks are replaced.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: a file opened later would take its number
            os.open(os.devnull, os.O_RDWR)
    threading.excepthook = _tell_in_a_line
    before = sys.stdout, sys.stderr
    streams = [_patient(each) for each in before]
    sys.stdout, sys.stderr = streams
    try:
        yield streams[0]
    finally:
        for stream in streams:
            stream.flush()
        sys.stdout, sys.stderr = before
        threading.excepthook = threading.__excepthook__


def _tell_in_a_line(failed: threading.ExceptHookArgs) -> None:
    """Print the error of a thread that could not write, as TensorBoard's, in a line."""
    if isinstance(failed.exc_value, OSError):
        sys.stderr.write(f"{failed.exc_value}\n")
    else:
        threading.__excepthook__(failed)


def _patient(stream: TextIO | None) -> Lasting:
    if stream is None:
        stream = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")
    return Lasting(stream)
