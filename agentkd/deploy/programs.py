"""Exported C, compiled and run as a program of its own: what it does cannot hurt us."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agentkd.deploy.akx import RUNTIME, to_akx
from agentkd.deploy.c99 import emit_c
from agentkd.deploy.layout import actions, ctype
from agentkd.errors import LoadError
from agentkd.executors.executor import Executor
from agentkd.executors.native import compiler
from agentkd.types import Floats

STRICT = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror")
"""How exported C is compiled: portable, and without a warning."""
_SECONDS = 120

# Observations come on stdin and answers leave on stdout, as raw 32-bit words.
_MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
{prelude}
int main(int argc, char **argv)
{{
    static float obs[{obs}], out[{out}];
    static float memory[{memory}], copy[{memory}];
    static {kind} action[{actions}];
    int status = 0;
    (void)argc;
    (void)argv;
    (void)memory;
    (void)copy;
{setup}
    while (status == 0 && fread(obs, sizeof obs, 1, stdin) == 1) {{
        memcpy(copy, memory, sizeof copy);
{decide}
        if (status == 0) {{
            fwrite(out, sizeof out, 1, stdout);
            fwrite(action, sizeof action, 1, stdout);
        }}
    }}
{teardown}    return status;
}}
"""
_AKX_SETUP = """
    struct akx net;
    FILE *file = argc > 1 ? fopen(argv[1], "rb") : NULL;
    const size_t room = {room};
    void *data = malloc(room);
    size_t length = 0;
    if (file != NULL && data != NULL)
        length = fread(data, 1, room, file);
    if (file != NULL)
        fclose(file);
    status = akx_open(&net, data, length);
    const size_t floats = status == 0 ? akx_scratch(&net) : 1;
    float *scratch = calloc(floats, sizeof *scratch);
"""
_AKX_DECIDE = """
        status = akx_outputs(&net, obs, copy, scratch, floats, out);
        if (status == 0)
            status = akx_act(&net, obs, memory, scratch, floats, {choices}, {values});
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an exported form gave for observations.

    Attributes:
        outputs: The last layer's numbers, (batch, out); None if it does not give them.
        actions: In the environment's units, (batch, numbers or choices).
    """

    outputs: Floats | None
    actions: Any


def run_c(
    executor: Executor,
    obs: Floats,
    *,
    cc: str | None = None,
    flags: Sequence[str] = STRICT,
    under: Sequence[str] = (),
) -> Answer:
    """Ask the generated C file about observations (batch, obs).

    With a memory they are a sequence that begins with none.

    Args:
        executor: The executor.
        obs: The observations.
        cc: The compiler; by default the system's.
        flags: For the compiler.
        under: A program that runs it, such as ("valgrind", "-q").

    Raises:
        LoadError: If there is no compiler, it does not compile, or it fails.
    """
    copy, memory = (", copy", ", memory") if executor.memory else ("", "")
    body = _main(
        executor,
        prelude='#include "executor.c"',
        setup="",
        decide=f"        status = executor_outputs(obs{copy}, out);\n"
        f"        status |= executor_act(obs{memory}, action);",
    )
    with tempfile.TemporaryDirectory(prefix="agentkd-") as name:
        folder = Path(name)
        (folder / "executor.c").write_text(emit_c(executor))
        (folder / "main.c").write_text(body)
        program = build(folder, ["main.c"], cc=cc, flags=flags)
        return _ask(executor, [*under, str(program)], obs)


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
    floats = ctype(executor) == "float"
    body = _main(
        executor,
        prelude='#include "akx.h"',
        setup=_AKX_SETUP.format(room=len(data) + 4),
        decide=_AKX_DECIDE.format(
            choices="NULL" if floats else "action", values="action" if floats else "NULL"
        ),
    ).replace("    return status;", "    free(scratch);\n    free(data);\n    return status;")
    with tempfile.TemporaryDirectory(prefix="agentkd-") as name:
        folder = Path(name)
        (folder / "model.akx").write_bytes(data)
        (folder / "main.c").write_text(body)
        for source in RUNTIME:
            shutil.copy(source, folder)
        program = build(folder, ["main.c", "akx.c"], cc=cc, flags=flags)
        return _ask(executor, [*under, str(program), str(folder / "model.akx")], obs)


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


def _main(executor: Executor, *, prelude: str, setup: str, decide: str, teardown: str = "") -> str:
    return _MAIN.format(
        prelude=prelude,
        setup=setup,
        decide=decide,
        teardown=teardown,
        obs=executor.spec.obs.size,
        out=executor.out,
        memory=max(1, executor.memory),
        kind=ctype(executor),
        actions=actions(executor),
    )


def _ask(executor: Executor, command: Sequence[str], obs: Floats) -> Answer:
    done = subprocess.run(
        command,
        input=np.ascontiguousarray(obs, np.float32).tobytes(),
        capture_output=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[:2000]
        raise LoadError(f"the program ended with status {done.returncode}. {said}")
    out, count = executor.out, actions(executor)
    words = np.frombuffer(done.stdout, "<u4")
    if len(words) != len(obs) * (out + count):
        raise LoadError(f"the program wrote {len(words)} words for {len(obs)} rows")
    rows = words.reshape(len(obs), out + count)
    kind = np.float32 if ctype(executor) == "float" else np.int32
    return Answer(rows[:, :out].copy().view(np.float32), rows[:, out:].copy().view(kind))
