"""Programs that run beside a clock that is timed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator

from agentkd.runtime.live.page import LivePage

_NICE = 19
_START = 60.0
"""Seconds for a program to look at a live page."""


def beside(function: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a process that calls "module:function"; it yields to others."""
    module, _, name = function.partition(":")
    code = (
        f"import os, sys; sys.path[:] = {sys.path!r}; os.nice({_NICE}); "
        f"from {module} import {name}; {name}(*{arguments!r})"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
    )


@contextlib.contextmanager
def looked_at() -> Iterator[LivePage]:
    """Give a live page that a program beside it reads."""
    with LivePage() as page:
        page.await_ready()
        child = beside(f"{__name__}:look_on", page.address)
        try:
            end = time.monotonic() + _START
            while not page.watched and time.monotonic() < end:
                time.sleep(0.1)
            yield page
        finally:
            child.kill()
            child.wait()


def look_on(address: str) -> None:
    """Read all that a live page tells; a process runs it."""
    from websockets.sync.client import connect
    from websockets.typing import Origin

    own = Origin(address.rsplit("/", 2)[0])
    with connect(address.replace("http", "ws", 1) + "ws", origin=own) as page:
        for _ in page:
            pass
