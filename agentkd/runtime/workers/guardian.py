"""The guardian of a worker: a process that ends the worker and all its descendants.

It runs as a program of its own, `python -c BOOT`, and forks the worker before any library has
started a thread. As the worker's parent and the reaper of orphans it finds every process that the
worker has started, also those in other sessions and those whose parents have ended. It ends all of
them when the worker ends, when its standard input closes, and when the process that started it is
gone, however that one ended.

This module imports nothing of agentkd, so that the guardian stays small.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import select
import signal
import sys
from pathlib import Path

BOOT = "import sys; exec(compile(open(sys.argv[1]).read(), sys.argv[1], 'exec'))"
"""The program; its arguments are those of `main`, after this file's path."""
_PDEATHSIG, _DUMPABLE, _SUBREAPER = 1, 4, 36
_LOOK = 1.0
"""Seconds between two checks of whether the starting process is alive."""


def main() -> None:
    """Fork, and run "module:function" with its orders in the worker.

    The arguments are the starting process's id, `sys.path` as JSON, the function, the descriptor
    and size of the orders, which are JSON, and the processors to run on as JSON, none for those of
    the thread that starts it.
    """
    parent, path, entry, descriptor, size, cores = sys.argv[2:8]
    sys.path[:] = json.loads(path)
    if found := json.loads(cores):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, found)
    _guard(int(parent))
    orders = json.loads(os.pread(int(descriptor), int(size), 0))
    module, _, function = entry.partition(":")
    getattr(importlib.import_module(module), function)(orders)


def _guard(parent: int) -> None:
    """Fork. Return in the worker only."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    caught = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    for number in caught:
        signal.signal(number, lambda *_: None)
    _prctl(_SUBREAPER, 1)
    own = os.getpid()
    if sys.platform == "linux":
        # A planner never has the real-time priority of a thread that starts it.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    worker = os.fork()
    if worker:
        _leave(worker, _watch(worker, parent, reader))
    signal.set_wakeup_fd(-1)
    for number in caught:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.close(reader)
    os.close(writer)
    _prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != own:
        os._exit(1)
    # The pipe is the guardian's: what the worker starts must not read from it.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def _watch(worker: int, parent: int, signals: int) -> int | None:
    """Wait for an end: return the worker's wait status, None for any other end."""
    while True:
        ready, _, _ = select.select([0, signals], [], [], _LOOK)
        if signals in ready and set(os.read(signals, 512)) - {signal.SIGCHLD}:
            return None
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == worker:
                return status
            if not pid:
                break
        if 0 in ready or os.getppid() != parent:
            return None


def _leave(worker: int, status: int | None) -> None:
    """End all descendants, then this process as the worker ended."""
    if status is None:
        os.kill(worker, signal.SIGKILL)
    while True:
        for pid in offspring(os.getpid()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            break
    if sys.platform != "linux":
        # Orphans are not found there; those that stayed in the group are.
        os.killpg(0, signal.SIGKILL)
    code = 0 if status is None else os.waitstatus_to_exitcode(status)
    if code < 0:
        # A signal that dumps memory has done so in the worker.
        _prctl(_DUMPABLE, 0)
        with contextlib.suppress(OSError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def offspring(root: int) -> list[int]:
    """Return the ids of all descendants of a process; none without `/proc`."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found, look = [], [root]
    while look:
        born = children.pop(look.pop(), [])
        found += born
        look += born
    return found


def _prctl(option: int, value: int) -> None:
    """Set an option of this process where the system is Linux."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    main()
