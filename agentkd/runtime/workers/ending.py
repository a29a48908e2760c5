"""The end of a worker's guardian, which takes a while and is not waited for on a tick."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from typing import final

_ENDING = 5.0
"""Seconds for a guardian to end all that its worker started."""
_LOOK = 0.002
"""Seconds between two looks at one that is waited for."""


@final
class Ending:
    """Ends a guardian, which ends the worker and all that the worker started.

    It closes the guardian's standard input, and kills its process group after five seconds.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdin is not None:
            process.stdin.close()
        self._process, self._limit = process, time.monotonic() + _ENDING

    def over(self) -> bool:
        """Return whether it has ended; kill it if it takes too long."""
        if self._process.poll() is not None:
            return True
        if time.monotonic() > self._limit:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        return False

    def wait(self) -> None:
        """Wait until it has ended."""
        while not self.over():
            time.sleep(_LOOK)
