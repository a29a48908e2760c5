"""Programs that a test starts and kills, and whether a process runs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tests.waiting import ENOUGH

ROOT = Path(__file__).parents[1]


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@contextlib.contextmanager
def running(script: str) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Run Python text; give the process and what it prints."""
    words = [sys.executable, "-c", script]
    with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=ROOT, text=True) as parent:
        assert parent.stdout is not None
        yield parent, parent.stdout


def killed_at(event: str, program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m PROGRAM WORDS`, killed at an event; at none, where it is "none"."""
    start = ["-m", program]
    if event != "none":
        start = ["-m", "tests.signalled", str(int(signal.SIGKILL)), event]
        start += ["benchmarks"] if program == "benchmarks" else []
    return subprocess.run(
        [sys.executable, *start, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=ENOUGH,
    )
