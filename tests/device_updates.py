"""Updates a device in many processes, each of which strace kills one system call later.

    python tests/device_updates.py CALL FOLDER FILE TRUST

FOLDER holds a device each, named 1, 2, 3, …. The process for device i makes the system call so
often in vain that the one which strace kills at is the i-th of its update. Prints the numbers of
those that were killed; ends with the first that was not.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from agentkd.deploy.bundle import read_bundle
from agentkd.device import Device
from agentkd.executors.native import compile_native

AT = 4000
"""The system call at which strace kills: more than this process needs before it forks."""
_LIBC = ctypes.CDLL(None, use_errno=True)
_IN_VAIN = {
    "openat": lambda: _LIBC.openat(-1, b"x", 0),
    "write": lambda: _LIBC.write(-1, b"", 0),
    "fsync": lambda: _LIBC.fsync(-1),
    "rename": lambda: _LIBC.rename(b"/nowhere/a", b"/nowhere/b"),
    "unlink": lambda: _LIBC.unlink(b"/nowhere/a"),
    "mkdir": lambda: _LIBC.mkdir(b"/nowhere/a", 0),
    "flock": lambda: _LIBC.flock(-1, 2),
    "close": lambda: _LIBC.close(-1),
}
CALLS = tuple(_IN_VAIN)


def update(folder: Path, file: str, trust: str) -> None:
    """Bring a device from its executor to that of the file."""
    device = Device(folder, trust=trust or None)
    device.apply(file)
    device.begin()
    device.confirm()


def main(call: str, folders: Path, file: str, trust: str) -> None:
    """Update one device after another, until one is not killed."""
    # Whatever is done once is done before: what is imported, compiled and cached.
    compile_native(read_bundle(file).executor)
    if trust:
        import tuf.ngclient  # noqa: F401

        Device(folders / "0", trust=trust).apply(file)
    for folder in sorted(int(each.name) for each in folders.iterdir() if each.name != "0"):
        child = os.fork()
        if not child:
            for _ in range(AT - folder):
                _IN_VAIN[call]()
            update(folders / str(folder), file, trust)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(os.waitstatus_to_exitcode(status))
        print(folder, flush=True)
    sys.exit(3)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4])
