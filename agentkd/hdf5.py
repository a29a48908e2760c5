"""HDF5 files, which another process looks through first.

HDF5's own code loops for ever on some damaged files, and crashes on others; neither can be stopped
from within. So another process reads first, with a limit on its processor time.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from agentkd.errors import LoadError

SECONDS = 5
"""Of processor time, in which a file has to be looked through."""
_LOOK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[2]), int(sys.argv[2])))
import h5py

def look(name, found):
    for key in found.attrs:
        found.attrs[key]
    data = isinstance(found, h5py.Dataset) and not (found.external or found.is_virtual)
    if data and found.size < int(sys.argv[3]):
        found[()]

with h5py.File(sys.argv[1], "r") as file:
    look("", file)
    file.visititems(look)
"""


def prove(path: Path, numbers: int = 0) -> None:
    """Let another process read a file's attributes, and its arrays of fewer than `numbers`.

    What it merely refuses is left to the reader proper, which knows the words for it.

    Raises:
        LoadError: If the file keeps HDF5 busy for too long, or crashes it.
    """
    command = [sys.executable, "-I", "-c", _LOOK, str(path), str(SECONDS), str(numbers)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode < 0:
        raise LoadError(
            f"{path} is damaged: it keeps HDF5 busy for {SECONDS} s, or crashes it (signal "
            f"{-done.returncode})."
        )
