"""Has another process check a signature, which ends with its libraries.

python-tuf and cryptography take 11 MB that Python gives back only at its end. A program that runs
for months and is updated now and then need not hold them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from agentkd.errors import LoadError, WriteError
from agentkd.fields import Fields, parse_json

# With -P the working directory is no home of modules, unless it is one in this process.
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from agentkd.signing.checking import main; main()"
)
_SECONDS = 120.0


def sent(path: Path) -> str:
    """Return a path, whose name may be no text, as `received` reads it."""
    return os.fsencode(path.absolute()).decode("latin-1")


def received(path: str) -> Path:
    """Return the path that was sent."""
    return Path(os.fsdecode(path.encode("latin-1")))


def unkept(what: object, place: Path | None, error: OSError) -> WriteError:
    """Return the error for what cannot be written while a signature is checked."""
    return WriteError(
        f"What was verified of {what} cannot be kept in {place or tempfile.gettempdir()}: "
        f"{error.strerror or error}. Nothing was accepted."
    )


def ask(question: dict[str, Any], data: bytes, what: object) -> Fields:
    """Return what `agentkd.signing.checking` answers in another process.

    Raises:
        WriteError: If there is no answer, for example for lack of memory; asking again may help.
    """
    command = [sys.executable, "-P", "-c", _BOOT, json.dumps(sys.path)]
    letter = json.dumps(question).encode() + b"\n" + data
    try:
        done = subprocess.run(
            command, input=letter, capture_output=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WriteError(f"The signature of {what} could not be checked: {error}.") from error
    if done.returncode:
        told = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise WriteError(
            f"The signature of {what} could not be checked: the process that does it ended with "
            f"status {done.returncode}. {told:.200}".rstrip()
        )
    try:
        return Fields(parse_json(done.stdout, "the answer"), "the answer")
    except LoadError as error:
        raise WriteError(f"The signature of {what} could not be checked: {error}") from error
