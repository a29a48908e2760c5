"""Exported C, compiled and run as a program of its own: what it does cannot hurt us."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agentkd.deploy.akx import RUNTIME, to_akx
from agentkd.deploy.c99 import emit_c
from agentkd.dists import action_width
from agentkd.errors import LoadError
from agentkd.executors.executor import Executor
from agentkd.executors.native import compiler
from agentkd.executors.plan import ctype
from agentkd.types import Floats

STRICT = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror")
"""How exported C is compiled: portable, and without a warning."""
_SECONDS = 120
_PROGRAM = Path(__file__).with_name("targets") / "program.c"


class Answer(NamedTuple):
    """What an exported form gave for observations."""

    outputs: Floats
    """The last layer's numbers, (batch, out)."""
    actions: Any
    """In the environment's units, (batch, numbers or choices)."""


def run_c(
    executor: Executor,
    obs: Floats,
    *,
    cc: str | None = None,
    flags: Sequence[str] = STRICT,
    under: Sequence[str] = (),
) -> Answer:
    """Ask the generated C file about observations (batch, obs).

    With a memory they are a sequence that begins with none. `cc` is the compiler, by default the
    system's, `under` a program that runs it, such as ("valgrind", "-q").

    Raises:
        LoadError: If there is no compiler, it does not compile, or it fails.
    """
    with tempfile.TemporaryDirectory(prefix="agentkd-") as folder:
        (Path(folder) / "executor.c").write_text(emit_c(executor))
        return _run(executor, obs, Path(folder), [], cc, flags, under)


def run_akx(
    executor: Executor,
    obs: Floats,
    *,
    cc: str | None = None,
    flags: Sequence[str] = STRICT,
    under: Sequence[str] = (),
) -> Answer:
    """Ask the fixed C runtime, reading `model.akx`; as `run_c`."""
    data = to_akx(executor)
    choices = "NULL, action" if ctype(executor.spec) == "float" else "action, NULL"
    flags = (*flags, f"-DAKX={len(data) + 4}", f"-DCHOICES={choices}")
    with tempfile.TemporaryDirectory(prefix="agentkd-") as folder:
        (Path(folder) / "model.akx").write_bytes(data)
        for source in RUNTIME:
            shutil.copy(source, folder)
        return _run(executor, obs, Path(folder), ["akx.c"], cc, flags, under)


def build(
    folder: Path, sources: Sequence[str], *, cc: str | None = None, flags: Sequence[str] = STRICT
) -> Path:
    """Compile sources in a folder into a program in it.

    Raises:
        LoadError: If there is no compiler, or it refuses; the text is its own.
    """
    command = cc or compiler()
    if command is None:
        raise LoadError("no C compiler (cc, gcc, clang)")
    program = folder / "program"
    done = subprocess.run(
        [command, *flags, *sources, "-o", str(program), "-lm"],
        cwd=folder,
        # What a compiler that is killed leaves behind goes with the folder.
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode:
        raise LoadError(f"{command} did not compile it: {done.stderr.strip()[:2000]}")
    return program


def _run(
    executor: Executor,
    obs: Floats,
    folder: Path,
    sources: Sequence[str],
    cc: str | None,
    flags: Sequence[str],
    under: Sequence[str],
) -> Answer:
    """Build program.c with what lies in a folder, and ask it."""
    out, count = executor.out, action_width(executor.spec.action)
    numbers = {"OBS": obs.shape[1], "OUT": out, "ACTIONS": count, "MEMORY": executor.memory}
    defines = [f"-D{name}={value}" for name, value in numbers.items()]
    defines.append(f"-DACTION={ctype(executor.spec)}")
    shutil.copy(_PROGRAM, folder)
    program = build(folder, ["program.c", *sources], cc=cc, flags=(*flags, *defines))
    done = subprocess.run(
        [*under, program, folder / "model.akx"],
        input=np.ascontiguousarray(obs, np.float32).tobytes(),
        capture_output=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[:2000]
        raise LoadError(f"the program ended with status {done.returncode}. {said}")
    words = np.frombuffer(done.stdout, "<u4")
    if len(words) != len(obs) * (out + count):
        raise LoadError(f"the program wrote {len(words)} words for {len(obs)} rows")
    rows = words.reshape(len(obs), out + count)
    kind = np.float32 if ctype(executor.spec) == "float" else np.int32
    return Answer(rows[:, :out].copy().view(np.float32), rows[:, out:].copy().view(kind))
