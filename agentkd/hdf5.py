"""HDF5 files, which another process looks through first.

HDF5's own code loops for ever on some damaged files, and crashes on others; neither can be stopped
from within. So another process reads first, with a limit on its processor time.
"""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from agentkd.errors import LoadError
from agentkd.files import regular

LARGEST = 1 << 40
"""Bytes of a file that is read, some arrays at a time."""
SECONDS = 5
"""Of processor time, in which a file has to be looked through."""
_MEMORY = 1 << 30
"""Bytes of memory for that, besides the largest array."""
_LOOK = """
import resource, sys
path, seconds, numbers, memory = sys.argv[1], *map(int, sys.argv[2:])
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
import h5py

def look(name, found):
    for key in found.attrs:
        each = found.attrs.get_id(key)
        if each.shape == () and (each.dtype.kind in "biufS" or h5py.check_string_dtype(each.dtype)):
            found.attrs[key]
    if isinstance(found, h5py.Dataset) and found.shape is not None and found.dtype.kind in "biuf":
        if found.nbytes < 4 * numbers and not (found.external or found.is_virtual or found.chunks):
            found[()]

def safely(name, found):
    # What stops here would leave the rest unseen.
    try:
        look(name, found)
    except Exception:
        pass

with h5py.File(path, "r") as file:
    safely("", file)
    file.visititems(safely)
"""


def prove(path: Path, numbers: int = 0) -> None:
    """Let another process read a file's attributes, and its arrays of fewer than `numbers`.

    It reads what the readers do: plain arrays, and attributes that are one text or number.

    Raises:
        LoadError: If it is not a regular file; or if it keeps HDF5 busy for too long, crashes it,
            or cannot be looked through.
    """
    with regular(path, LARGEST):  # HDF5 would wait for whoever writes into a pipe
        pass
    limits = (SECONDS, numbers, _MEMORY + 4 * numbers)
    command = [sys.executable, "-I", "-c", _LOOK, str(path), *map(str, limits)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode < 0:
        raise LoadError(
            f"{path} is damaged: it keeps HDF5 busy for {SECONDS} s, or crashes it (signal "
            f"{-done.returncode})."
        )
    if done.returncode:
        told = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise LoadError(f"{path} cannot be looked through: {told:.200}.")


def attribute(found: Any, name: str, default: Any) -> Any:
    """Return an attribute that is one text or number; `default` if there is none of the name.

    Raises:
        LoadError: If it is something else: many texts may share the bytes of one.
    """
    if name not in found.attrs:
        return default
    place = found.attrs.get_id(name)
    kind = place.dtype
    is_text = import_module("h5py").check_string_dtype
    if place.shape != () or not (kind.kind in "biufS" or is_text(kind)):
        raise LoadError(f"its attribute {name!r} is not one text or number")
    return found.attrs[name]
