"""Labels on their way to the distiller: rows of float32 in shared memory."""

from __future__ import annotations

import contextlib
import fcntl
import threading
from collections.abc import Iterator
from typing import final

import numpy as np
from numpy.typing import NDArray

from agentkd import dists
from agentkd.dists import KINDS
from agentkd.runtime.memory import Segment
from agentkd.spec import Spec
from agentkd.types import ActionDist, Floats, Labels

_PUSHED, _TAKEN, _DROPPED, _HEADER = 0, 1, 2, 8
_MOST_BYTES = 32 << 20
_MOST_ROWS, _LEAST_ROWS = 16384, 256


@final
class LabelRing:
    """Several producers, one consumer; a label that finds it full is dropped, counted.

    Producers take turns, by a lock on the memory's file that ends with its holder. A row is the
    kind of the distribution, the label's link (see `Labels`), the observation and the packed
    distribution. Links hold for one producer that loses none. It may be pushed and taken in
    different processes, and either may die and be replaced: a row counts only once it is whole.

    Args:
        spec: The environment, which fixes the width of a row.
        rows: How many labels it holds; by default what 32 MiB hold, 256 to 16384.
        segment: The shared memory of a ring that exists already.
    """

    def __init__(self, spec: Spec, rows: int = 0, segment: Segment | None = None) -> None:
        """Lay the rows out."""
        self._spec = spec
        self._obs = spec.obs.size
        # The widest packed form: mean and log_std, where actions are numbers.
        most = max(dists.width(kind, spec.action) for kind in KINDS)
        self._width = 2 + self._obs + most
        fitting = _MOST_BYTES // (4 * self._width)
        self.rows = rows or min(max(fitting, _LEAST_ROWS), _MOST_ROWS)
        self.segment = segment or Segment(8 * _HEADER + 4 * self.rows * self._width)
        self._turn = threading.Lock()
        self._head = self.segment.buffer[: 8 * _HEADER].cast("Q")
        self._data: Floats = np.frombuffer(
            self.segment.buffer, np.float32, self.rows * self._width, 8 * _HEADER
        ).reshape(self.rows, self._width)

    @property
    def pushed(self) -> int:
        """How many labels went in."""
        return int(self._head[_PUSHED])

    @property
    def dropped(self) -> int:
        """How many labels found it full."""
        return int(self._head[_DROPPED])

    def __len__(self) -> int:
        """How many labels wait."""
        return int(self._head[_PUSHED] - self._head[_TAKEN])

    def push(self, obs: Floats, dist: ActionDist, link: NDArray[np.int32] | None = None) -> int:
        """Put labels in, as many as there is room for.

        Args:
            obs: Observations, (batch, obs).
            dist: The planner's answer to them.
            link: As in `Labels`; none has one by default.

        Returns:
            How many went in.
        """
        with self._taking_turns():
            return self._push(obs, dist, link)

    @contextlib.contextmanager
    def _taking_turns(self) -> Iterator[None]:
        # The file's lock keeps processes apart, the other one this process's threads.
        with self._turn:
            fd = self.segment.fd
            if fd >= 0:
                fcntl.lockf(fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                if fd >= 0:
                    fcntl.lockf(fd, fcntl.LOCK_UN)

    def _push(self, obs: Floats, dist: ActionDist, link: NDArray[np.int32] | None) -> int:
        head = self._head
        start = head[_PUSHED]
        count = min(len(obs), self.rows - (start - head[_TAKEN]))
        head[_DROPPED] += len(obs) - count
        packed = dists.pack(dist)
        where = (start + np.arange(count)) % self.rows
        self._data[where, 0] = KINDS.index(dists.kind_of(dist))
        self._data[where, 1] = 0 if link is None else link[:count]
        self._data[where, 2 : 2 + self._obs] = obs[:count]
        ends = 2 + self._obs + packed.shape[1]
        self._data[where, 2 + self._obs : ends] = packed[:count]
        head[_PUSHED] = start + count
        return count

    def take(self, most: int = 4096) -> list[Labels]:
        """Take labels, oldest first, as batches of one kind each.

        Args:
            most: How many at most.
        """
        head = self._head
        start = head[_TAKEN]
        count = min(head[_PUSHED] - start, most)
        if not count:
            return []
        rows = self._data[(start + np.arange(count)) % self.rows]
        head[_TAKEN] = start + count
        cuts = np.flatnonzero(np.diff(rows[:, 0])) + 1
        return [self._read(piece) for piece in np.split(rows, cuts)]

    def _read(self, rows: Floats) -> Labels:
        kind = KINDS[int(rows[0, 0])]
        begin = 2 + self._obs
        packed = rows[:, begin : begin + dists.width(kind, self._spec.action)]
        dist = dists.unpack(kind, packed, self._spec.action)
        return Labels(rows[:, 2:begin], dist, rows[:, 1].astype(np.int32))
