"""The decision log: every decision with what it was made of, to be replayed.

A tick hands its numbers over and goes on. Between ticks they are laid out with checksums, and a
thread writes them: a disk may take its time, and the thread leaves the interpreter alone meanwhile.

The file is a magic word and records; each record is its length, its CRC-32 and so many bytes, of
which the first tells its kind. What a killed process had written is whole up to the last record.
There are two files, PATH and the older PATH.1, which together keep the limit. While one replaces
the other there is a third, PATH.new, with nothing but its beginning. A log of an earlier run is
renamed: decisions.akdlog becomes decisions.earlier-1.akdlog, and so does its older file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, final

import numpy as np

from agentkd.deploy.bundle import to_bytes
from agentkd.errors import AgentkdError, ConfigError, WriteError, check_range
from agentkd.executors.acting import Form
from agentkd.executors.executor import Executor
from agentkd.printable import logger
from agentkd.runtime.codec import Answer, encode_answer, encode_weights
from agentkd.runtime.recorder import Recorder
from agentkd.spec import Spec
from agentkd.spec_json import to_json
from agentkd.types import Floats, Source

log = logger(__name__)

MAGIC = b"AKDLOG1\n"
FRAME = struct.Struct("<II")
TICK = struct.Struct("<qiqqqqHH")
"""Tick, episode, ns late, ns left, ns taken, executor's version, source, reason."""
NAME = struct.Struct("<H")
NUMBER = struct.Struct("<q")
HEADER, EXECUTOR, WEIGHTS, CALLED, RESET, HEARD, DECIDED, LOST, END = b"HEWNRATLZ"
"""The kinds of records."""
OLDER, FRESH = ".1", ".new"
"""What follows the name of the older file, and of one that has no beginning yet."""
LEAST = 1 << 20
"""The smallest limit, in bytes."""

_TOGETHER, _LATE_TOGETHER = 32, 8192
"""Records that are laid out at once; and where there is no slack, so that none waits for long."""
_LATE = 0.5
"""Seconds without a piece for the disk after which there is no slack."""
_AHEAD = 8
"""Pieces that wait for the disk at most; what more there is waits as records."""
_PENDING = 65536
"""Records that wait at most."""


class _Beginning(NamedTuple):
    """How the next file begins."""

    data: bytes


_Given = bytes | bytearray | _Beginning | threading.Event | None
"""What the thread that writes is given: a piece, another file, a question, the end."""


@final
class DecisionLog(Recorder):
    """Writes the decisions of one agent.

    Args:
        path: The file.
        limit: Bytes that it and the older file may take together.
        overwrite: Whether a log of an earlier run goes; else it is renamed.
        keep: How many logs of earlier runs stay.
    """

    def __init__(
        self, path: str | Path, *, limit: int = 64 << 20, overwrite: bool = False, keep: int = 3
    ) -> None:
        if limit < LEAST:
            raise ConfigError(f"A log of {limit} bytes; at least {LEAST}.")
        check_range("keep", keep, least=0, whole=True)
        self.path = Path(path)
        self.error = ""
        self.records = self.dropped = 0
        self._limit, self._keep = limit, 0 if overwrite else keep
        self._queue: deque[tuple[int, Any]] = deque()
        self._unsaid = 0
        self._seen: tuple[int, int, int, bytes] = (0, 0, 0, b"")
        self._left = 0
        self._file = -1
        self._size = self._segment = 0
        self._names: dict[str, int] = {}
        self._header: Mapping[str, Any] = {}
        self._executor: Executor | None = None
        self._piece = bytearray()
        self._handed = time.monotonic()
        self._given: SimpleQueue[_Given] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def open(self, header: Mapping[str, Any], executor: Executor) -> None:
        """Begin the file with a header, as JSON values, and the first executor.

        Raises:
            ConfigError: If another process or agent writes this log.
            WriteError: If it cannot be written.
        """
        self._header = {**header, "run": os.urandom(8).hex(), "began": time.time()}
        self._executor = executor
        try:
            self._need_unused()
            self._make_room()
            self._begin_file(self._beginning())
            self._fresh.replace(self.path)
        except (AgentkdError, OSError) as error:
            self._drop_fresh()
            if isinstance(error, AgentkdError):
                raise
            raise WriteError(
                f"The log {self.path} cannot be written: {error.strerror or error}. "
                "Name another file, or leave the log out."
            ) from error
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def _need_unused(self) -> None:
        """Raise ConfigError if a file in the way is not a log, or somebody writes it."""
        for end in ("", OLDER, FRESH):
            _need_log(self.path.with_name(self.path.name + end))
        try:
            there = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            fcntl.flock(there, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"The log {self.path} is being written by another agent. Name another file."
            ) from error
        except OSError:  # a file system without locks
            return
        finally:
            os.close(there)

    def _make_room(self) -> None:
        """Rename the logs of earlier runs, each with its older file; the last goes."""
        fresh = self._fresh
        if not self.path.exists() and fresh.exists():
            # A run that was killed while it rotated.
            fresh.replace(self.path)
        fresh.unlink(missing_ok=True)
        for number in range(self._keep, -1, -1):
            here = self.path if number == 0 else earlier(self.path, number)
            there = earlier(self.path, number + 1)
            for end in (OLDER, ""):
                source = here.with_name(here.name + end)
                if number == self._keep:
                    source.unlink(missing_ok=True)
                elif source.exists():
                    source.replace(there.with_name(there.name + end))
                    if number == 0 and not end:
                        log.warning("The earlier log %s is %s now.", source, there)

    def close(self) -> None:
        """Write what is left, mark the end, and close the file."""
        if self._thread is None:
            return
        self._lay_out(len(self._queue))
        self._piece += self._framed(END, NUMBER.pack(self.records))
        self._hand_over()
        self._given.put(None)
        self._thread.join()
        self._thread = None
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.fsync(self._file)
            os.close(self._file)
            self._file = -1

    def counts(self) -> dict[str, Any]:
        """Return records written, records that found no room, and what the disk said."""
        return {
            "log_records_total": self.records,
            "log_dropped_total": self.dropped,
            "log_error": self.error,
        }

    # What follows runs on the tick.

    def executor(self, form: Form, _used: Form) -> Form:
        """Note a swap."""
        if form is not _used:
            self._put(WEIGHTS, form.executor)
        return form

    def observe(self, tick: int, episode: int, lateness: int, obs: Floats) -> None:
        """Keep the observation until the decision is known."""
        self._seen = tick, episode, lateness, obs.tobytes()

    def hear(self, answer: Answer) -> None:
        """Note an answer."""
        self._put(HEARD, (self._seen[0], answer))

    def left(self, ns: int) -> int:
        """Keep the time that is left."""
        self._left = ns
        return ns

    def decide(self, action: Any, source: Source, reason: str, version: int, taken: int) -> None:
        """Note a decision."""
        flat = np.asarray(action, np.float32).tobytes()
        seen = self._seen
        self._put(DECIDED, (seen, self._left, taken, version, source, reason, flat))

    def reset(self, episode: int) -> None:
        """Note that an episode begins."""
        self._put(RESET, episode)

    def _put(self, kind: int, what: Any) -> None:
        if len(self._queue) >= _PENDING or self.error:
            self.dropped += 1
            self._unsaid += 1
            return
        if self._unsaid:
            self._queue.append((LOST, self._unsaid))
            self._unsaid = 0
        self._queue.append((kind, what))

    # What follows runs between ticks.

    def writing(self) -> Iterator[str]:
        """Lay out what ticks handed over, a few records at each step, and let it be written."""
        while self._queue and self._given.qsize() < _AHEAD:
            late = time.monotonic() - self._handed > _LATE
            self._lay_out(_LATE_TOGETHER if late else _TOGETHER)
            if late:
                break
            yield "lay out"
        self._hand_over()

    def _lay_out(self, most: int) -> None:
        """Lay out so many records at most."""
        try:
            for _ in range(min(most, len(self._queue))):
                self._piece += self._laid_out(*self._queue.popleft())
                if self._size + len(self._piece) > self._limit // 2:
                    self._change_files()
        except Exception as error:
            self._give_up(error)

    def _hand_over(self) -> None:
        """Let what is laid out be written, in one piece: the thread wakes once for it."""
        self._handed = time.monotonic()
        piece, self._piece = self._piece, bytearray()
        if piece and not self.error:
            self._size += len(piece)
            self._given.put(piece)

    def _change_files(self) -> None:
        """Let the thread that writes go on with another file."""
        self._hand_over()
        self._segment += 1
        self._given.put(_Beginning(self._beginning()))

    def _beginning(self) -> bytes:
        """Return how a file begins, and count its size and its names from there."""
        assert self._executor is not None
        self._names = {}
        header = json.dumps({**self._header, "segment": self._segment}).encode()
        first = MAGIC + self._framed(HEADER, header) + self._whole(self._executor)
        if 4 * len(first) > self._limit:
            raise WriteError(
                f"The executor alone takes {len(first)} bytes of a log of "
                f"{self._limit}. Give a larger limit."
            )
        self._size = len(first)
        return first

    def _laid_out(self, kind: int, what: Any) -> bytes:
        """Make records of what a tick handed over."""
        self.records += 1
        if kind == DECIDED:
            return self._decision(what)
        if kind == HEARD:
            tick, answer = what
            return self._framed(kind, NUMBER.pack(tick) + encode_answer(answer))
        if kind == WEIGHTS:
            return self._swap(what)
        framed = self._framed(kind, NUMBER.pack(what))
        if kind == LOST and self._executor is not None:
            # A swap may have been among what was lost.
            framed += self._whole(self._executor)
        return framed

    def _decision(self, what: Any) -> bytes:
        (tick, episode, late, obs), left, taken, version, source, reason, flat = what
        named = b""
        for name in (source, reason):
            if name not in self._names:
                self._names[name] = len(self._names)
                number = NAME.pack(self._names[name])
                named += self._framed(CALLED, number + name.encode())
        who, why = self._names[source], self._names[reason]
        head = TICK.pack(tick, episode, late, left, taken, version, who, why)
        return named + self._framed(DECIDED, head + obs + flat)

    def _swap(self, executor: Executor) -> bytes:
        before, self._executor = self._executor, executor
        if before is None or _all_but_numbers(before) != _all_but_numbers(executor):
            return self._whole(executor)
        body = NUMBER.pack(executor.version) + encode_weights(executor.vector())
        return self._framed(WEIGHTS, body)

    def _whole(self, executor: Executor) -> bytes:
        return self._framed(EXECUTOR, NUMBER.pack(executor.version) + to_bytes(executor, {}))

    @staticmethod
    def _framed(kind: int, body: bytes) -> bytes:
        whole = bytes((kind,)) + body
        return FRAME.pack(len(whole), zlib.crc32(whole)) + whole

    # What follows runs in the thread that writes.

    def _run(self) -> None:
        while (given := self._given.get()) is not None:
            if isinstance(given, threading.Event):
                given.set()
            elif isinstance(given, _Beginning):
                self._rotate(given.data)
            else:
                self._write(given)

    def _wait(self) -> None:
        """Wait until what was laid out is written; in any thread."""
        written = threading.Event()
        self._given.put(written)
        written.wait()

    @property
    def _fresh(self) -> Path:
        """Where a file gets its beginning, so that under its name it always has one."""
        return self.path.with_name(self.path.name + FRESH)

    def _drop_fresh(self) -> None:
        """Leave nothing of a file that could not be begun."""
        if self._file < 0:
            return
        with contextlib.suppress(OSError):
            os.close(self._file)
            self._fresh.unlink(missing_ok=True)
        self._file = -1

    def _begin_file(self, first: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._file = os.open(self._fresh, flags, 0o644)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._put_down(first)

    def _rotate(self, first: bytes) -> None:
        if self.error:
            return
        try:
            os.close(self._file)
            self._file = -1
            self._begin_file(first)
            self.path.replace(self.path.with_name(self.path.name + OLDER))
            self._fresh.replace(self.path)
        except OSError as error:
            self._drop_fresh()
            self._give_up(error)

    def _write(self, data: bytes | bytearray) -> None:
        if self.error or not data or self._file < 0:
            return
        try:
            self._put_down(data)
        except OSError as error:
            self._give_up(error)

    def _put_down(self, data: bytes | bytearray) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._file, rest) :]

    def _give_up(self, error: Exception) -> None:
        self.error = f"{self.path}: {getattr(error, 'strerror', None) or error}"
        log.warning(
            "The decision log ends here: %s. What was written is whole; decisions go "
            "on without it.",
            self.error,
        )


def run_header(
    spec: Spec,
    architecture: str,
    how: tuple[str, Any, float],
    routers: Sequence[object],
    **more: Any,
) -> dict[str, Any]:
    """Return what a log says of a run, to be replayed.

    `how` is the agent's mode, default action and budget; of routers the names of their classes are
    kept.
    """
    mode, default, _ = how
    return {
        **more,
        "spec": to_json(spec),
        "architecture": architecture,
        "mode": mode,
        "default": default if default is None else np.asarray(default).tolist(),
        "routers": [type(router).__name__ for router in routers],
    }


def _all_but_numbers(executor: Executor) -> tuple[Any, ...]:
    size = len(executor.vector())
    return executor.architecture, executor.head, executor.clip, executor.spec, size


def _need_log(path: Path) -> None:
    """Check that a file is a log, or one that has hardly begun."""
    if not path.exists():
        return
    begun = False
    if path.is_file():
        with path.open("rb") as file:
            begun = MAGIC.startswith(file.read(len(MAGIC)))
    if not begun:
        raise ConfigError(
            f"{path} is there already and is not a decision log. Name another file for the log."
        )


def earlier(path: Path, number: int) -> Path:
    """Return the name of the log of an earlier run; 1 is the last run."""
    return path.with_name(f"{path.stem}.earlier-{number}{path.suffix}")
