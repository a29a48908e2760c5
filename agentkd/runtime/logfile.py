"""Reads what `DecisionLog` wrote, however it ended."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from agentkd.deploy.bundle import from_bytes
from agentkd.dists import action_width
from agentkd.errors import LoadError
from agentkd.executors.executor import Executor
from agentkd.fields import Fields, parse_json
from agentkd.files import loading, read_file
from agentkd.runtime import log as layout
from agentkd.runtime.codec import Answer, decode_answer, decode_weights, shaped_action
from agentkd.spec import Spec
from agentkd.spec_json import from_json
from agentkd.types import Floats

_LONGEST = 1 << 28
"""The longest record that is believed, in bytes."""
_LARGEST = 1 << 31
"""Bytes of a log that are read at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Decided:
    """A decision, as it was logged.

    It has the seconds by which the tick came late, that were left until the deadline, and that the
    decision took; the executor's version; who decided and why; what was observed, (obs,); and the
    action, in the environment's units.
    """

    tick: int
    episode: int
    lateness: float
    left: float
    taken: float
    version: int
    source: str
    reason: str
    obs: Floats
    action: Any


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer of the planner, and the tick at which it was heard."""

    tick: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class Reset:
    """An episode begins."""

    episode: int


@dataclass(frozen=True, slots=True)
class Swapped:
    """Another executor acts from here on."""

    executor: Executor


@dataclass(frozen=True, slots=True)
class Gap:
    """So many records were not written: the disk was too slow."""

    count: int


Event = Decided | Heard | Reset | Swapped | Gap


@final
class LogFile:
    """A log that was written.

    Attributes:
        header: What was run and how.
        spec: The environment.
        whole: Whether it has its beginning; else the oldest part went for the limit.
        ended: Whether it was closed, once all events were read.
        torn: Bytes at the end that are not a whole record, once all events were read.

    Raises:
        LoadError: If it is not a log, or not even its beginning is whole.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.ended, self.torn = False, 0
        older = Path(f"{self.path}{layout.OLDER}")
        # One that was killed while it changed files may have left the older alone.
        with loading(self.path):
            alone = older.exists() and not self.path.exists()
        file = older if alone else self.path
        newest = _read(file)
        self.header = _header(newest, file)
        self._parts = [newest]
        self.whole = self.header.get("segment") == 0
        if older.exists() and not alone:
            data = _read(older)
            before = _header(data, older)
            # One that an earlier run left does not belong here, and one that has just been put
            # there may be the same again.
            mine, next_one = self.header, before.get("segment", 0) + 1
            if (before.get("run"), next_one) == (mine.get("run"), mine.get("segment", 0)):
                self._parts.insert(0, data)
                self.whole = before.get("segment") == 0
        with loading(f"{self.path}: its header"):
            self.spec: Spec = from_json(self.header.get("spec"))

    def events(self) -> Iterator[Event]:
        """Give what happened, in order, as far as records are whole, or a LoadError."""
        self.ended = False
        executor: Executor | None = None
        with loading(self.path):
            for data in self._parts:
                names: dict[int, str] = {}
                self.torn, known = len(data) - len(layout.MAGIC), executor is not None
                for kind, body, end in _records(data, len(layout.MAGIC)):
                    self.torn = len(data) - end
                    if kind == layout.END:
                        self.ended = True
                    elif kind == layout.CALLED:
                        (number,) = layout.NAME.unpack_from(body)
                        names[number] = body[layout.NAME.size :].decode(errors="replace")
                    elif kind in (layout.EXECUTOR, layout.WEIGHTS):
                        executor = _executor(kind, body, executor, self.path)
                        # An older file's successor begins with the one that acts already.
                        if not known:
                            yield Swapped(executor)
                        known = False
                    elif kind != layout.HEADER:
                        yield self._event(kind, body, names)

    def _event(self, kind: int, body: bytes, names: Mapping[int, str]) -> Event:
        if kind == layout.DECIDED:
            return self._decided(body, names)
        (number,) = layout.NUMBER.unpack_from(body)
        if kind == layout.RESET:
            return Reset(number)
        if kind == layout.LOST:
            return Gap(number)
        if kind == layout.HEARD:
            return Heard(number, decode_answer(body[layout.NUMBER.size :], self.spec))
        raise LoadError(
            f"{self.path} holds a record of kind {chr(kind)!r}, which this version "
            "does not know. Read it with the version that wrote it."
        )

    def _decided(self, body: bytes, names: Mapping[int, str]) -> Decided:
        tick, episode, late, left, taken, version, source, reason = layout.TICK.unpack_from(body)
        numbers = np.frombuffer(body, np.float32, offset=layout.TICK.size)
        size = self.spec.obs.size
        if len(numbers) != size + action_width(self.spec.action):
            raise LoadError(f"{self.path}: a decision of {len(numbers)} numbers.")
        action = shaped_action(numbers[size:], self.spec.action)
        times = late * 1e-9, left * 1e-9, taken * 1e-9
        who, why = names[source], names[reason]
        return Decided(tick, episode, *times, version, who, why, numbers[:size], action)


def _read(path: Path) -> bytes:
    data = read_file(path, _LARGEST)
    if not data.startswith(layout.MAGIC):
        raise LoadError(f"{path} is not a decision log of agentkd's.")
    return data


def _header(data: bytes, path: Path) -> dict[str, Any]:
    """Read the header, and check the types of what is used of it."""
    kind, body, _ = next(_records(data, len(layout.MAGIC)), (0, b"", 0))
    if kind != layout.HEADER:
        raise LoadError(f"{path} ends before its header does: nothing can be read of it.")
    found = parse_json(body, f"{path}: its header")
    fields = Fields(found, f"{path}: its header")
    fields.whole("segment", 0)
    fields.texts("routers", ())
    fields.text("mode", "")
    return dict(found)


def _records(data: bytes, at: int) -> Iterator[tuple[int, bytes, int]]:
    """Yield kind, body and end of each record, up to the first that is not whole."""
    while at + layout.FRAME.size < len(data):
        length, check = layout.FRAME.unpack_from(data, at)
        body = data[at + layout.FRAME.size : at + layout.FRAME.size + length]
        if not 0 < length <= _LONGEST or len(body) < length or zlib.crc32(body) != check:
            return
        at += layout.FRAME.size + length
        yield body[0], body[1:], at


def _executor(kind: int, body: bytes, before: Executor | None, path: Path) -> Executor:
    with loading(f"{path}: an executor in it"):
        (version,) = layout.NUMBER.unpack_from(body)
        rest = body[layout.NUMBER.size :]
        if kind == layout.EXECUTOR:
            executor = from_bytes(rest).executor
            return executor.with_vector(executor.vector(), version)
        if before is None:
            raise LoadError(f"{path}: weights without an executor.")
        return before.with_vector(decode_weights(rest), version)
