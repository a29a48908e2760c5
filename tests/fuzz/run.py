"""Runs targets on seeded inputs, each batch in a process of its own."""

from __future__ import annotations

import faulthandler
import json
import mmap
import os
import random
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.fuzz.draw import Draw
from tests.fuzz.target import SECONDS, Outcome, Target, attempt, digest, limit_addresses, peak

BATCH = 200
WAITING = 20 * SECONDS
"""Seconds of wall time after which an input that only waits is ended."""
_STATE = struct.Struct("<qd")


@dataclass(slots=True)
class Tally:
    """What became of a target's inputs.

    Attributes:
        inputs: How many were run.
        verdicts: How many were accepted, refused, or are findings.
        kinds: How often each kind of finding was seen.
    """

    inputs: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)


def seeded(target: Target, seed: int) -> Iterator[bytes]:
    """Give inputs without end, the same for the same seed."""
    random_ = random.Random(f"{target.name} {seed}")
    while True:
        yield random_.randbytes(random_.choice((8, 16, 32, 64)))


class Findings:
    """A folder with one input, and what it breaks, for each kind of finding."""

    def __init__(self, folder: Path) -> None:
        """Make the folder."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def keep(self, target: Target, data: bytes, outcome: Outcome) -> Path:
        """Save an input, the files it makes, and the command that replays it."""
        name = f"{target.name}-{digest(outcome.kind.encode())}"
        path = self.folder / f"{name}.input"
        if path.exists():
            return path
        path.write_bytes(data)
        for file, content in target.build(Draw(data)).items():
            made = self.folder / f"{name}.files" / file
            made.parent.mkdir(parents=True, exist_ok=True)
            made.write_bytes(content)
        command = f"python -m tests.fuzz --target {target.name} --replay {path}"
        text = f"{outcome.kind}\n\n{command}\n\n{outcome.text}"
        path.with_suffix(".txt").write_text(text, encoding="utf-8", errors="replace")
        return path


def run(target: Target, inputs: Iterator[bytes], findings: Findings, batch: int = BATCH) -> Tally:
    """Run one batch of inputs in child processes; a crash ends one input only."""
    tally = Tally()
    target.build(Draw(b""))  # what its inputs are made from is made once, here
    todo = [next(inputs) for _ in range(batch)]
    while todo:
        done, ended = _child(target, todo, tally, findings)
        if ended is not None:
            outcome = Outcome("finding", *ended)
            _count(tally, target, todo[done], outcome, findings)
            done += 1
        todo = todo[done:]
    return tally


def _count(tally: Tally, target: Target, data: bytes, outcome: Outcome, findings: Findings) -> None:
    tally.inputs += 1
    tally.verdicts[outcome.verdict] += 1
    if outcome.verdict == "finding":
        tally.kinds[outcome.kind] += 1
        findings.keep(target, data, outcome)


def _child(
    target: Target, todo: list[bytes], tally: Tally, findings: Findings
) -> tuple[int, tuple[str, str] | None]:
    """Run inputs until one of them ends the process.

    Returns:
        How many came to an end, and how the next one ended the process, if it did.
    """
    shared = mmap.mmap(-1, _STATE.size)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            _inside(target, todo, folder, shared)
        status = _watched(pid, shared)
        done, _ = _STATE.unpack(shared)
        lines = (folder / "outcomes").read_text(encoding="utf-8").splitlines()
        for data, line in zip(todo, lines[:done], strict=False):
            _count(tally, target, data, Outcome(**json.loads(line)), findings)
        if not status:
            return done, None
        trace = (folder / "trace").read_text(errors="replace")
        how = f"ended by status {os.waitstatus_to_exitcode(status)}"
        if os.WIFSIGNALED(status):
            how = signal.Signals(os.WTERMSIG(status)).name
            how = {"SIGKILL": f"waits for over {WAITING} s", "SIGXCPU": "hangs"}.get(how, how)
        return done, (f"{how} {_innermost(trace)}".strip(), trace)


def _innermost(trace: str) -> str:
    """Where the library was, in what faulthandler wrote."""
    lines = [line.strip() for line in trace.splitlines() if "/agentkd/" in line]
    return lines[0].rpartition("/agentkd/")[2] if lines else ""


def _inside(target: Target, todo: list[bytes], folder: Path, shared: mmap.mmap) -> None:
    """Run inputs in the child process."""
    status = 1
    try:
        (folder / "work").mkdir()
        if "LD_PRELOAD" not in os.environ:  # a sanitizer maps terabytes
            limit_addresses()
        base = peak()
        with (
            (folder / "trace").open("w") as trace,
            (folder / "outcomes").open("w", encoding="utf-8") as told,
        ):
            faulthandler.enable(trace)
            _STATE.pack_into(shared, 0, 0, time.monotonic())
            for index, data in enumerate(todo):
                # Where a reader swallows the first signal, this one ends the process.
                faulthandler.dump_traceback_later(WAITING, file=trace)
                outcome = attempt(target, data, folder / "work", base)
                told.write(json.dumps(asdict(outcome)) + "\n")
                told.flush()
                _STATE.pack_into(shared, 0, index + 1, time.monotonic())
                if outcome.verdict == "finding":
                    # What it left behind is not the next one's fault.
                    break
        status = 0
    except BaseException as error:
        with (folder / "trace").open("a") as trace:
            trace.write(f"{error!r}\n")
    finally:
        os._exit(status)


def _watched(pid: int, shared: mmap.mmap) -> int:
    """Wait for the child; end it where one input waits too long."""
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        _, since = _STATE.unpack(shared)
        if since and time.monotonic() - since > WAITING + SECONDS:
            os.kill(pid, signal.SIGKILL)
            return os.waitpid(pid, 0)[1]
        time.sleep(0.01)


def replay(target: Target, data: bytes, folder: Path) -> Outcome:
    """Run one input here, without a child, so that a debugger sees it."""
    folder.mkdir(parents=True, exist_ok=True)
    return attempt(target, data, folder, peak())
