"""A board: the program for it, built with make, and the emulator in its place."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from examples.firmware.link import DeviceError

HERE = Path(__file__).parent
MACHINES = {"m3": "mps2-an385", "m4f": "mps2-an386", "m7": "mps2-an500"}
FORMS = ("float", "int8", "akx")
PLACE = 0x80000
"""Where a model lies that is exchanged by itself; as in board.ld."""
_NEEDED = ("make", "arm-none-eabi-gcc", "qemu-system-arm", "timeout")


@dataclass(frozen=True, slots=True)
class Built:
    """A program for a board.

    Attributes:
        elf: The program.
        model: The executor as data beside it; None where it is compiled in.
        takes: What it takes of flash and RAM, as the linker says.
    """

    elf: Path
    model: Path | None
    takes: str


def missing() -> list[str]:
    """Programs that are needed and not on the PATH."""
    return [each for each in _NEEDED if shutil.which(each) is None]


def build(
    executor: Path,
    machine: str,
    form: str,
    folder: Path,
    model_id: int = 0,
    version: int = 0,
    variables: Sequence[str] = (),
) -> Built:
    """Build the program with make.

    Args:
        executor: The executor file.
        machine: m3, m4f or m7.
        form: float, int8, akx or gate.
        folder: Where to build.
        model_id: Which executor this is, 32 bits; the device tells it.
        version: The executor's.
        variables: More for make, such as "GATE_KEY=1,2,3".

    Raises:
        DeviceError: If it does not build; the text is make's own.
    """
    # What make made of another executor has the same name.
    shutil.rmtree(folder, ignore_errors=True)
    done = subprocess.run(
        [
            *("make", "-s", "-C", str(HERE), f"EXECUTOR={executor.resolve()}"),
            *(f"MACHINE={machine}", f"FORM={form}", f"BUILD={folder.resolve()}"),
            *(f"MODEL_ID={model_id}u", f"MODEL_VERSION={version}u"),
            f"PYTHON={sys.executable}",
            *variables,
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise DeviceError(f"It does not build: {done.stderr.strip()[-2000:]}")
    lines = [each for each in done.stdout.splitlines() if "%" in each or " B " in each]
    model = folder / "model.akx" if form == "akx" else None
    return Built(folder / "firmware.elf", model, "\n".join(lines))


@final
class Board:
    """A running emulator.

    Attributes:
        line: Its first serial line.
    """

    def __init__(self, line: socket.socket, process: subprocess.Popen[bytes]) -> None:
        """Hold what `emulate` started."""
        self.line = line
        self._process = process

    def freeze(self) -> None:
        """Stop the board's clock: to its host it hangs."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def kill(self) -> None:
        """End the emulator, whatever it is doing."""
        _end(self._process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End an emulator and the `timeout` around it, also one that stands still."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGCONT)
    # `timeout` passes it on, and insists after a second.
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def emulate(built: Built, machine: str, seconds: int, flash: Path | None = None) -> Iterator[Board]:
    """Start a program on an emulated board, and end it however this block is left.

    Args:
        built: The program.
        machine: m3, m4f or m7.
        seconds: When it is ended even if this process is killed.
        flash: A file that keeps what flash.c writes, for the next start.

    Raises:
        DeviceError: If the emulator does not start.
    """
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="agentkd-"))
        waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
        waiting.bind(f"{name}/line")
        waiting.listen(1)
        command = _command(built, machine, seconds, f"{name}/line", flash)
        process = stack.enter_context(
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        )
        stack.callback(_end, process)
        line = stack.enter_context(_accept(waiting, process))
        yield Board(line, process)


def _command(built: Built, machine: str, seconds: int, path: str, flash: Path | None) -> list[str]:
    board = MACHINES[machine]
    if flash is not None:
        board += ",memory-backend=flash"
    words = [
        *("timeout", "-k", "1", str(seconds), "qemu-system-arm"),
        *("-M", board, "-display", "none", "-monitor", "none"),
        # An instruction takes a nanosecond of the emulated time, on each run alike.
        *("-icount", "shift=0", "-chardev", f"socket,id=line,path={path}"),
        *("-serial", "chardev:line", "-kernel", str(built.elf)),
    ]
    if built.model is not None:
        place = f"loader,file={built.model},addr={PLACE:#x},force-raw=on"
        words += ["-device", place]
    if flash is not None:
        kept = f"memory-backend-file,id=flash,size=16M,mem-path={flash},share=on"
        words += ["-object", kept]
    return words


def _accept(waiting: socket.socket, process: subprocess.Popen[bytes]) -> socket.socket:
    waiting.settimeout(0.1)
    for _ in range(200):
        try:
            return waiting.accept()[0]
        except TimeoutError:
            if process.poll() is not None:
                break
    _end(process)
    said = process.communicate()[1].decode(errors="replace").strip()
    raise DeviceError(f"The emulator does not start: {said[-2000:]}")
