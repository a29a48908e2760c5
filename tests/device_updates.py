"""Updates a device in many processes, each of which strace kills one system call later.

    python tests/device_updates.py CALLS FOLDER FILE TRUST

FOLDER holds a device each, named after a system call and a number: rename-1, rename-2, …. The
process for rename-3 makes that call so often in vain that the one which strace kills at is the
third of its update. Prints the names of those that were killed; of each call, the first process
that was not has made all of its update's calls.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import agentkd.deploy.verify  # noqa: F401 (before anything is counted)
from agentkd.deploy.bundle import read_bundle
from agentkd.device import Device
from agentkd.executors.native import compile_native

AT = {"openat": 2500}
"""The call of a kind at which strace kills: more than this process makes, and its children in vain.
"""
OTHERWISE = 500
_LIBC = ctypes.CDLL(None, use_errno=True)
_IN_VAIN = {
    "openat": lambda: _LIBC.openat(-1, b"x", 0),
    "write": lambda: _LIBC.write(-1, b"", 0),
    "fsync": lambda: _LIBC.fsync(-1),
    "rename": lambda: _LIBC.rename(b"/nowhere/a", b"/nowhere/b"),
    "unlink": lambda: _LIBC.unlink(b"/nowhere/a"),
    "mkdir": lambda: _LIBC.mkdir(b"/nowhere/a", 0),
    "flock": lambda: _LIBC.flock(-1, 2),
    "symlink": lambda: _LIBC.symlink(b"", b""),
}
CALLS = tuple(_IN_VAIN)
MOST = 200
"""Calls of one kind that an update may make; there are fewer."""


def update(folder: Path, file: str, trust: str) -> None:
    """Bring a device from its executor to that of the file."""
    device = Device(folder, trust=trust or None)
    device.apply(file)
    device.begin()
    device.confirm()


def main(calls: list[str], folders: Path, file: str, trust: str) -> None:
    """Update one device after another, until one is not killed; of each call."""
    # What is done once is done before: what is imported, compiled and cached.
    compile_native(read_bundle(file).executor)
    if trust:
        import tuf.ngclient  # noqa: F401

        Device(folders / "warm", trust=trust).apply(file)
    for call in calls:
        for number in range(1, MOST + 1):
            name = f"{call}-{number}"
            child = os.fork()
            if not child:
                for _ in range(AT.get(call, OTHERWISE) - number):
                    _IN_VAIN[call]()
                update(folders / name, file, trust)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            if not os.WIFSIGNALED(status):
                break
            sys.stdout.write(f"{name}\n")
            sys.stdout.flush()
        else:
            sys.exit(f"More than {MOST} calls of {call}.")
        if os.waitstatus_to_exitcode(status):
            sys.exit(f"{name} failed")


if __name__ == "__main__":
    main(sys.argv[1].split(","), Path(sys.argv[2]), sys.argv[3], sys.argv[4])
