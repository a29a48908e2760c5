"""A generated executor on a core: does it give what it must, and what does it take.

A program of the executor and its golden vectors is built for a core and run there. It says whether
each vector gave what it must, how many instructions a decision takes, and how deep the stack
becomes. Emulators count instructions, one a nanosecond of virtual time, so that the numbers are the
same on each run; they are not cycles.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from agentkd.deploy.cores import Core
from agentkd.deploy.ctext import array, literal
from agentkd.deploy.int8.emit import emit_c_int8, memory, probes
from agentkd.deploy.int8.reference import Quantised
from agentkd.errors import AgentkdError
from agentkd.types import Floats

_TARGETS = Path(__file__).with_name("targets")
_SPIN = 100_000
"""Rounds of the loop whose instructions are known, as in check.c."""
_OPTIMISE = ("-std=gnu99", "-O2", "-ffunction-sections", "-fdata-sections")
_SECONDS = 120
_SECTIONS = {
    "code": (".text", ".vectors"),
    "constants": (".rodata", ".srodata", ".data.rel.ro"),
    "ram": (".data", ".sdata", ".bss", ".sbss"),
}


class EmulatorError(AgentkdError):
    """A program that did not compile or did not run on a core."""


@dataclass(frozen=True, slots=True)
class Program:
    """A generated executor with vectors to run through it."""

    source: str
    """The C file, with NAME_outputs and NAME_act."""
    name: str
    """What its names begin with."""
    obs: Floats
    """Observations, (rows, obs)."""
    outputs: Any
    """What NAME_outputs gives for them, (rows, out); its dtype is the type."""
    actions: Any
    """What NAME_act gives, (rows, actions)."""
    tolerance: float = 0.0
    """Largest difference, relative to 1 + |x|; 0 for bit by bit."""
    memory: int = 0
    """How many numbers the caller keeps; 0 for most. The rows are then a sequence."""
    state: Literal["float", "int16_t"] = "float"
    """The type of those numbers in C."""


def whole_program(quantised: Quantised, rows: int, name: str = "executor") -> Program:
    """Write an executor in integers, and what it has to give for `rows` observations, bit by bit.

    With a memory they are one sequence.
    """
    obs = probes(quantised, rows)
    given = quantised.integers(obs), quantised.actions(obs)
    source, kept = emit_c_int8(quantised, name), memory(quantised)
    return Program(source, name, obs, *given, memory=kept, state="int16_t")


@dataclass(frozen=True, slots=True)
class Measured:
    """What a program said of itself on a core, in bytes but for the first two."""

    wrong: int
    """How many vectors gave something else."""
    instructions: int | None
    """For one decision, the mean over the vectors; None if not counted."""
    stack: int
    """What a decision takes of it."""
    code: int
    """The executor's code, without libraries."""
    library: int
    """What it takes from the C library and the compiler's."""
    constants: int
    """Weights, biases and tables."""
    ram: int
    """Its buffers."""

    @property
    def flash(self) -> int:
        """Bytes of everything that does not change."""
        return self.code + self.library + self.constants


def measure(program: Program, on: Core, *, flags: Sequence[str] = ()) -> Measured:
    """Build a program for a core and run it there; `flags` are more for the executor's compiler.

    Raises:
        EmulatorError: If a tool is missing, or the program does not compile, does not fit, or does
            not end as it should.
    """
    if missing := on.missing():
        raise EmulatorError(
            f"{on.label} needs {', '.join(missing)}; on Debian and Ubuntu: apt install "
            + " ".join(on.packages)
        )
    with tempfile.TemporaryDirectory(prefix="agentkd-") as folder:
        return _measure(program, on, Path(folder), flags)


def compiler_version(on: Core) -> str:
    """What a core's compiler calls itself: counts of instructions are of its making.

    Raises:
        EmulatorError: If it cannot be run.
    """
    return _run([f"{on.prefix}gcc", "--version"]).partition("\n")[0].strip()


def _measure(program: Program, on: Core, folder: Path, flags: Sequence[str]) -> Measured:
    (folder / "model.c").write_text(program.source, encoding="utf-8")
    (folder / "data.h").write_text(_data(program), encoding="utf-8")
    compiler = [f"{on.prefix}gcc", *on.flags, *_OPTIMISE]
    objects = []
    for source in (folder / "model.c", _TARGETS / "check.c", _TARGETS / on.port):
        objects.append(folder / f"{source.stem}.o")
        more = (f"-I{folder}", f"-I{_TARGETS}", *(flags if source.stem == "model" else ()))
        _run([*compiler, *more, "-c", source, "-o", objects[-1]], folder)
    elf = folder / "program.elf"
    link: list[Any] = [*compiler, *objects, "-o", elf, "-Wl,--gc-sections"]
    if on.rom[1]:
        script = folder / "bare.ld"
        text = (_TARGETS / "bare.ld").read_text(encoding="utf-8")
        places = zip(("ROM", "ROM_SIZE", "RAM", "RAM_SIZE"), (*on.rom, *on.ram), strict=True)
        for key, value in places:
            text = text.replace(f"@{key}@", f"{value:#x}")
        script.write_text(text, encoding="utf-8")
        link += ["-nostartfiles", f"-T{script}"]
    _run([*link, "-lm"], folder)
    text = _run([*on.emulator, elf], folder, status=(0, 1))
    said = {name: int(value) for name, value in re.findall(r"(\w+) (\d+)", text)}
    if not {"spin", "empty", "ticks", "deep", "wrong"} <= set(said):
        raise EmulatorError(f"The program ended early; it said {text.strip()!r}.")
    found = [_sizes(on, each) for each in objects]
    sizes, library, instructions = found[0], 0, None
    if on.rom[1]:
        own = sum(each["code"] + each["constants"] for each in found)
        library = _sizes(on, elf)["code"] - own
    if on.round:
        a_tick = on.round * _SPIN / said["spin"]
        total = (said["ticks"] - said["empty"]) * a_tick
        instructions = round(total / len(program.obs))
    return Measured(
        wrong=said["wrong"],
        instructions=instructions,
        stack=said["deep"],
        code=sizes["code"],
        library=max(library, 0),
        constants=sizes["constants"],
        ram=sizes["ram"],
    )


def _run(command: Sequence[Any], folder: Path | None = None, status: Sequence[int] = (0,)) -> str:
    """Run a command whose temporary files lie in `folder`; give what it printed."""
    words = [str(each) for each in command]
    temporary = {} if folder is None else {"TMPDIR": str(folder)}
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **temporary},
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EmulatorError(f"{words[0]} did not end in {_SECONDS} s.") from error
    except OSError as error:
        raise EmulatorError(f"{words[0]}: {error.strerror or error}.") from error
    if done.returncode not in status:
        raise EmulatorError(
            f"{words[0]} ended with status {done.returncode}: "
            + (done.stderr or done.stdout).strip()[-2000:]
        )
    return done.stdout


def _sizes(on: Core, path: Path) -> dict[str, int]:
    """Bytes of code, constants and buffers, by the names of the sections."""
    text = _run([f"{on.prefix}size", "-A", path])
    found = dict.fromkeys(_SECTIONS, 0)
    for name, size in re.findall(r"^(\.\S+) +(\d+)", text, re.MULTILINE):
        for what, names in _SECTIONS.items():
            if name.startswith(names):
                found[what] += int(size)
                break
    return found


def _data(program: Program) -> str:
    kinds = {np.dtype(np.float32): "float", np.dtype(np.int32): "int32_t"}
    rows = len(program.obs)
    outputs, actions = np.asarray(program.outputs), np.asarray(program.actions).reshape(rows, -1)
    if actions.dtype != np.float32:
        actions = actions.astype(np.int32)
    output, action = kinds[outputs.dtype], kinds[actions.dtype]
    defines = {
        "ROWS": rows,
        "OBS": program.obs.shape[1],
        "MEMORY": program.memory,
        "OUT": outputs.shape[1],
        "ACTIONS": actions.shape[1],
        "OUTPUT": output,
        "ACTION": action,
        "STATE": program.state,
        "outputs": f"{program.name}_outputs",
        "act": f"{program.name}_act",
        "TOLERANCE": literal(program.tolerance),
    }
    lines = [f"#define {name} {value}\n" for name, value in defines.items()]
    lines.append(array("float", "observations", program.obs))
    lines += [array(output, "wanted", outputs), array(action, "actions", actions)]
    return "".join(lines)
