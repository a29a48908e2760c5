"""What a fuzz target is, and what counts as a finding."""

from __future__ import annotations

import hashlib
import logging
import resource
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from agentkd.errors import AgentkdError
from tests.fuzz.draw import Draw

SECONDS = 10
"""Processor time for one input. What only waits is ended by the runner instead."""
MEMORY = 512 << 20
"""Bytes by which inputs may grow the process that reads them."""
ADDRESSES = 4 << 30
"""Bytes of address space beyond the process's own; larger requests fail at once."""

Files = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Target:
    """One format and its reader.

    Attributes:
        name: Such as "bundle".
        build: Makes hostile files, by name, with right checksums.
        read: Reads them in a folder. An `AgentkdError` is a refusal.
        work: Uses what was read. No error is allowed here.
    """

    name: str
    build: Callable[[Draw], Files]
    read: Callable[[Path], Any]
    work: Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one input.

    Attributes:
        verdict: "accepted", "refused" or "finding".
        kind: Of a finding, its exception and the last line of the library's in it.
        text: Of a finding, the traceback.
    """

    verdict: str
    kind: str = ""
    text: str = ""


class TooSlowError(BaseException):
    """An input took more than `SECONDS` of processor time."""


class TooLargeError(Exception):
    """An input grew the process by more than `MEMORY`."""


def _ring(_: int, __: FrameType | None) -> None:
    raise TooSlowError(f"over {SECONDS} s of processor time")


@contextmanager
def limited() -> Iterator[None]:
    """Run an input with a time limit and nothing logged.

    Raises:
        RuntimeWarning: If NumPy warned of arithmetic that went wrong. It is raised at the end: a
            reader must not take it for a reason to refuse.
    """
    signal.signal(signal.SIGPROF, _ring)
    logged = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", RuntimeWarning)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            logging.disable(logged)
    for each in heard:
        where = each.filename.rpartition("/agentkd/")[2]
        raise RuntimeWarning(f"{each.message} in {where}:{each.lineno}")


def limit_addresses() -> None:
    """Let this process map at most `ADDRESSES` more bytes."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0])
    most = mapped * resource.getpagesize() + ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def peak() -> int:
    """The most memory this process has used so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def lay_out(files: Files, folder: Path) -> None:
    """Write files into a folder that holds nothing else afterwards."""
    for old in sorted(folder.rglob("*"), reverse=True):
        if old.is_dir() and not old.is_symlink():
            old.rmdir()
        else:
            old.unlink()
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def attempt(target: Target, data: bytes, folder: Path, base: int) -> Outcome:
    """Run one input.

    Args:
        target: The format.
        data: The input; see `Draw`.
        folder: An empty folder, or one of an earlier attempt.
        base: What `peak` gave before the first input.
    """
    lay_out(target.build(Draw(data)), folder)
    heard: list[threading.ExceptHookArgs] = []
    before, threading.excepthook = threading.excepthook, heard.append
    try:
        with limited():
            outcome = _tried(target, folder)
            _check(heard, base)
    except (Exception, TooSlowError, SystemExit) as error:
        return Outcome("finding", _kind(error), "".join(traceback.format_exception(error)))
    else:
        return outcome
    finally:
        threading.excepthook = before


def _check(heard: list[threading.ExceptHookArgs], base: int) -> None:
    """Make sure that no thread died and that memory did not grow too much."""
    for each in heard:
        if each.exc_value is not None:
            raise each.exc_value
    if peak() - base > MEMORY:
        raise TooLargeError(f"over {MEMORY >> 20} MiB")


def _tried(target: Target, folder: Path) -> Outcome:
    try:
        value = target.read(folder)
    except AgentkdError as error:
        _check_causes(error)
        return Outcome("refused")
    target.work(value)
    return Outcome("accepted")


def _check_causes(error: BaseException | None) -> None:
    """Make sure that no refusal comes from asking for more memory than there is."""
    while error is not None:
        if isinstance(error, MemoryError):
            raise error
        error = error.__cause__


def _kind(error: BaseException) -> str:
    """Name a finding by its exception and the innermost line of the library in it."""
    if isinstance(error, RuntimeWarning):
        return f"RuntimeWarning: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    ours = [each for each in frames if "/agentkd/" in each.filename]
    inner = ours[-1] if ours else frames[-1]
    where = inner.filename.rpartition("/agentkd/")[2]
    return f"{type(error).__name__} in {where}:{inner.name}"


def digest(data: bytes) -> str:
    """A short name for an input."""
    return hashlib.sha256(data).hexdigest()[:12]
