"""What two processes share: memory, a bell, messages, labels and a status.

The process that makes a channel gives the other one its `handle`, a descriptor and a size; `attach`
opens it there. Each channel's layout stands at the head of its memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import select
import struct
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from agentkd import dists
from agentkd.dists import KINDS
from agentkd.errors import ConfigError, WorkerError
from agentkd.spec import Spec
from agentkd.types import AnyDist, Floats, Labels, Packed

Buffer = bytes | bytearray | memoryview


class Handle(NamedTuple):
    """What another process needs to attach a channel: a descriptor that it inherits, and a size.

    The size is that of the shared memory in bytes; 0 for a pipe.
    """

    fd: int
    size: int


@final
class Segment:
    """Shared memory without a name: it is freed with the last process that holds it.

    It is new, or the memory behind `fd`, which another process made.
    """

    def __init__(self, size: int, fd: int = -1) -> None:
        self.size = max(8, size)
        try:
            self.fd = _anonymous_file(self.size) if fd < 0 else fd
            self._map = mmap.mmap(self.fd, self.size)
        except (OSError, ValueError) as error:
            raise WorkerError(
                f"Could not allocate {self.size} bytes of shared memory: {error}. "
                "Free some in /dev/shm, or keep fewer labels."
            ) from error
        self.buffer = memoryview(self._map)

    @classmethod
    def attach(cls, handle: Sequence[int]) -> Segment:
        """Map a segment that another process made."""
        return cls(handle[1], handle[0])

    def handle(self) -> Handle:
        """Return what `attach` takes in another process."""
        return Handle(self.fd, self.size)

    def close(self) -> None:
        """Close the descriptor; the memory stays mapped while it is in use."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def _anonymous_file(size: int) -> int:
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("agentkd", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd


class Channel:
    """A shared data structure; its shape stands in the last two words of its memory's head."""

    def __init__(self, shape: tuple[int, int], size: int, segment: Segment | None) -> None:
        self.segment = segment or Segment(size)
        if self.segment.size < size:
            raise ConfigError(f"{self.segment.size} bytes do not hold {size}.")
        # One aligned store of eight bytes is atomic; struct's standard sizes are not.
        self._words = self.segment.buffer[: self.segment.size // 8 * 8].cast("Q")
        if segment is None:
            self._words[6], self._words[7] = shape

    def handle(self) -> Handle:
        """Return what `attach` takes in another process."""
        return self.segment.handle()

    def close(self) -> None:
        """Close the descriptor."""
        self.segment.close()

    @staticmethod
    def _attached(handle: Sequence[int]) -> tuple[int, int, Segment]:
        segment = Segment.attach(handle)
        first, second = segment.buffer[: 8 * _HEADER].cast("Q")[6:8]
        return first, second, segment


_HEADER = 8
"""Words of a channel's head."""


@final
class Bell:
    """Wakes another process. Ringing never blocks, even if nobody listens."""

    def __init__(self, reader: int = -1) -> None:
        self._reader, self._writer = reader, -1
        if reader < 0:
            self._reader, self._writer = os.pipe()
            os.set_blocking(self._reader, False)
            os.set_blocking(self._writer, False)

    @classmethod
    def attach(cls, handle: Sequence[int]) -> Bell:
        """Listen to a bell that another process rings."""
        return cls(handle[0])

    def handle(self) -> Handle:
        """Return what `attach` takes in another process."""
        return Handle(self._reader, 0)

    def ring(self) -> None:
        """Wake the listener."""
        # This is on the tick's way, where `suppress` would take as long as the rest.
        try:  # noqa: SIM105
            os.write(self._writer, b"!")
        except (BlockingIOError, BrokenPipeError):
            pass  # a full pipe rings already

    def wait(self, seconds: float) -> None:
        """Wait until it rings, at most so long, and clear it."""
        if select.select([self._reader], [], [], seconds)[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(self._reader, 65536)

    def close(self) -> None:
        """Close both ends."""
        ends, self._reader, self._writer = (self._reader, self._writer), -1, -1
        for fd in ends:
            if fd >= 0:
                os.close(fd)


_WRITTEN, _TAKEN = 0, 1
"""Words of a mailbox: how many messages were written, and how many are dealt with."""
_SLOT = 2
"""Words before a slot's message: its number, and its length and CRC-32."""
_LENGTH_AND_SUM = struct.Struct("=II")


@final
class Mailbox(Channel):
    """Message slots with one writer and one reader; new messages overwrite old ones.

    The writer never waits. The reader counts the messages that it missed. Each slot has its
    message's number before and after (a sequence lock) and a CRC-32, so a message that its writer
    left half written is never read.
    """

    def __init__(self, size: int, slots: int = 1, segment: Segment | None = None) -> None:
        if size < 1 or slots < 1:
            raise ConfigError(
                f"A mailbox of {slots} slots of {size} bytes; both have to be above 0."
            )
        self.size, self.slots = size, slots
        self._stride = _SLOT + -(-size // 8)
        super().__init__((size, slots), 8 * (_HEADER + slots * self._stride), segment)
        self._bytes = self.segment.buffer
        self.missed = self.torn = 0

    @classmethod
    def attach(cls, handle: Sequence[int]) -> Mailbox:
        """Open a mailbox that another process made."""
        return cls(*cls._attached(handle))

    def write(self, message: Buffer) -> None:
        """Put a message in, over the oldest one if all slots are taken."""
        length = len(message)
        if length > self.size:
            raise ConfigError(f"{length} bytes do not fit slots of {self.size}.")
        words = self._words
        number = words[_WRITTEN]
        word = _HEADER + (number % self.slots) * self._stride
        words[word] = 2 * number + 1
        start = 8 * (word + _SLOT)
        self._bytes[start : start + length] = message
        _LENGTH_AND_SUM.pack_into(
            self._bytes, start - 8, length, zlib.crc32(message, number & 0xFFFFFFFF)
        )
        words[word] = 2 * number + 2
        words[_WRITTEN] = number + 1

    def waiting(self) -> bool:
        """Return whether there is a message that was not taken."""
        return bool(self._words[_WRITTEN] != self._words[_TAKEN])

    def take(self) -> list[bytes]:
        """Take the messages since the last call, oldest first; count lost ones."""
        words = self._words
        written, taken = words[_WRITTEN], words[_TAKEN]
        if written == taken:
            return []
        first = max(taken, written - self.slots)
        self.missed += first - taken
        found = [self._read(number) for number in range(first, written)]
        words[_TAKEN] = written
        return [message for message in found if message is not None]

    def last(self) -> bytes | None:
        """Return the newest message, taken or not; None if there is no whole one."""
        written = self._words[_WRITTEN]
        return self._read(written - 1) if written else None

    def _read(self, number: int) -> bytes | None:
        words = self._words
        word = _HEADER + (number % self.slots) * self._stride
        if words[word] != 2 * number + 2:
            self.missed += 1
            return None
        start = 8 * (word + _SLOT)
        length, check = _LENGTH_AND_SUM.unpack_from(self._bytes, start - 8)
        message = bytes(self._bytes[start : start + min(length, self.size)])
        if words[word] != 2 * number + 2:
            self.missed += 1
            return None
        if length > self.size or zlib.crc32(message, number & 0xFFFFFFFF) != check:
            self.torn += 1
            return None
        return message


_PUSHED, _DROPPED = 0, 2
_MOST_BYTES = 32 << 20
_MOST_ROWS, _LEAST_ROWS = 16384, 256


@final
class LabelRing(Channel):
    """Labels on their way to the distiller; those that find it full are dropped.

    A row is the kind of the distribution, the label's link (see `Labels`), the observation and the
    packed distribution. By default it holds what fits in 32 MiB, 256 to 16384 rows. Several
    producers take turns by a lock on the memory's file, which ends with its holder; there is one
    consumer. Either side may die and be replaced: a row counts only once it is whole. Links hold
    for a single producer that loses none.
    """

    def __init__(self, spec: Spec, rows: int = 0, segment: Segment | None = None) -> None:
        self._spec = spec
        self._obs = spec.obs.size
        # The widest packed form: mean and log_std, where actions are numbers.
        self._width = 2 + self._obs + dists.width("gaussian", spec.action)
        fitting = _MOST_BYTES // (4 * self._width)
        self.rows = rows or min(max(fitting, _LEAST_ROWS), _MOST_ROWS)
        size = 8 * _HEADER + 4 * self.rows * self._width
        super().__init__((self.rows, self._width), size, segment)
        self._turn = threading.Lock()
        self._data: Floats = np.frombuffer(
            self.segment.buffer, np.float32, self.rows * self._width, 8 * _HEADER
        ).reshape(self.rows, self._width)

    @classmethod
    def attach(cls, handle: Sequence[int], spec: Spec) -> LabelRing:
        """Open a ring that another process made for the same environment."""
        rows, _, segment = cls._attached(handle)
        return cls(spec, rows, segment)

    @property
    def dropped(self) -> int:
        """How many labels found it full."""
        return int(self._words[_DROPPED])

    def __len__(self) -> int:
        """Return how many labels wait."""
        return int(self._words[_PUSHED] - self._words[_TAKEN])

    def push(self, obs: Floats, dist: AnyDist, link: NDArray[np.int32] | None = None) -> int:
        """Put labels in, as many as there is room for; return how many went in."""
        packed, kind = dists.pack(dist), KINDS.index(dists.kind_of(dist))
        with self._turn, self._locked():
            words = self._words
            start = words[_PUSHED]
            count = min(len(obs), self.rows - (start - words[_TAKEN]))
            words[_DROPPED] += len(obs) - count
            where = (start + np.arange(count)) % self.rows
            self._data[where, 0] = kind
            self._data[where, 1] = 0 if link is None else link[:count]
            self._data[where, 2 : 2 + self._obs] = obs[:count]
            ends = 2 + self._obs + packed.shape[1]
            self._data[where, 2 + self._obs : ends] = packed[:count]
            words[_PUSHED] = start + count
            return int(count)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # The file's lock keeps processes apart; `_turn` keeps this process's threads apart.
        fd = self.segment.fd
        if fd >= 0:
            fcntl.lockf(fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            if fd >= 0:
                fcntl.lockf(fd, fcntl.LOCK_UN)

    def take(self, most: int = 4096) -> list[Labels]:
        """Take at most so many labels, oldest first, as batches of one kind each."""
        words = self._words
        start = words[_TAKEN]
        count = min(words[_PUSHED] - start, most)
        if not count:
            return []
        rows = self._data[(start + np.arange(count)) % self.rows]
        words[_TAKEN] = start + count
        cuts = np.flatnonzero(np.diff(rows[:, 0])) + 1
        return [self._read(piece) for piece in np.split(rows, cuts)]

    def _read(self, rows: Floats) -> Labels:
        kind = KINDS[int(rows[0, 0])]
        begin = 2 + self._obs
        packed = rows[:, begin : begin + dists.width(kind, self._spec.action)]
        link = rows[:, 1].astype(np.int32)
        return Labels(rows[:, 2:begin], Packed(kind, packed), link)


State = Literal["starting", "ready", "failed", "restarting"]


@dataclass(frozen=True, slots=True)
class Health:
    """The state of a worker, starts that failed, and how often its priority was raised.

    It is "starting" until it is ready for the first time; "failed" after a start that failed, until
    one succeeds; "restarting" after it was lost.
    """

    state: State = "ready"
    starts_failed: int = 0
    raised: int = 0


_BEAT, READY, STOP, PID, STARTS, LABELS, ERRORS, DROPPED, STEPS, _COUNT = range(10)
"""Places in a status; from STARTS on they count."""


@final
class Status:
    """What a worker tells of itself: its heartbeat, its state and its counters.

    `status[PID]` is 0 while the process has not begun, `status[STOP]` is 1 when it is to end.
    Counters have one writer each: the host counts starts, the worker the rest.
    """

    def __init__(self, segment: Segment | None = None) -> None:
        self.segment = segment or Segment(8 * _COUNT)
        self._numbers = self.segment.buffer[: 8 * _COUNT].cast("q")
        self._times = self.segment.buffer[: 8 * _COUNT].cast("d")

    @classmethod
    def attach(cls, handle: Sequence[int]) -> Status:
        """Open the status that another process made."""
        return cls(Segment.attach(handle))

    def __getitem__(self, place: int) -> int:
        return int(self._numbers[place])

    def __setitem__(self, place: int, number: int) -> None:
        self._numbers[place] = number

    @property
    def ready(self) -> bool:
        """Whether the worker serves."""
        return bool(self._numbers[READY])

    @property
    def heard(self) -> float:
        """When the last heartbeat was, by the monotonic clock."""
        return self._times[_BEAT]

    def beat(self) -> None:
        """Show a sign of life."""
        self._times[_BEAT] = time.monotonic()

    def begin(self) -> None:
        """Note that a worker is being started."""
        self[READY] = self[STOP] = self[PID] = 0
        self[STARTS] += 1
        self.beat()

    def set_ready(self) -> None:
        """Note that the worker serves."""
        self.beat()
        self[READY] = 1
