"""Runs a command that sends itself a signal when something happens.

python -m tests.signalled SIGNAL EVENT COMMAND …: EVENT is "import:MODULE", or
"MODULE:FUNCTION[@N]", the N-th call of a function; FUNCTION may be Class.method. A COMMAND that
begins with "benchmarks" is one of `python -m benchmarks`.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from importlib import import_module
from typing import Any

from tests.waiting import ENOUGH


class OnImport:
    """Sends a signal when a module is imported."""

    def __init__(self, number: int, module: str) -> None:
        self.number, self.module = number, module

    def find_spec(self, name: str, *_: Any) -> None:
        if name == self.module:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), self.number)


def on_call(number: int, event: str) -> None:
    """Send a signal at the N-th call of a function."""
    name, _, path = event.partition(":")
    path, _, count = path.partition("@")
    *outer, last = path.split(".")
    home = functools.reduce(getattr, outer, import_module(name))
    inner, left = getattr(home, last), int(count or 1)

    @functools.wraps(inner)
    def wrapped(*args: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), number)
        return inner(*args, **named)

    setattr(home, last, wrapped)


def main() -> int:
    """Prepare the signal, and run the command."""
    number, event, *words = sys.argv[1:]
    if event.startswith("import:"):
        finder: Any = OnImport(int(number), event.partition(":")[2])
        sys.meta_path.insert(0, finder)
    else:
        on_call(int(number), event)
    sys.argv = ["agentkd", *words]
    if words[0] == "benchmarks":
        from benchmarks.__main__ import main as benchmarks

        return benchmarks(words[1:])
    from agentkd.cli.main import main as agentkd

    return agentkd(words)


if __name__ == "__main__":
    signal.alarm(round(ENOUGH))
    sys.exit(main())
