"""Labels in memory, with a bound: when it is full, the oldest make room."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any, cast, final
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from agentkd.archives import array_header, opened_zip, read_array
from agentkd.distillation.sequences import CUT, HOLE, Sequences, walk_back
from agentkd.dists import KINDS, check_kind, kind_of, pack, width
from agentkd.errors import LoadError, SpecError, check_range
from agentkd.files import loading, regular
from agentkd.sizes import is_whole
from agentkd.spec import Spec
from agentkd.types import AnyDist, Floats, Kind

_MOST_BYTES = 1 << 30
_MOST_FILE = 1 << 36
"""Bytes of a file of labels that are read at most, some at a time."""
_MOST_VALUE = 4096
_COUNTS = ("split", "first", "seen", "refused")
_PIECE = 65_536


@final
class LabelBuffer:
    """Observations and the planner's packed distributions, side by side.

    Room for `capacity` labels, or as many as fit `most_bytes`, is set aside at the first; the
    system gives the memory as it is written to, so that nothing is copied as labels come. One label
    of 17 + 12 numbers takes 116 bytes, a million 116 MB.

    Args:
        capacity: The most labels that are kept.
        most_bytes: The most memory they take, 1 GiB by default: images are large.
        linked: Whether links are kept too, so that `draw_sequences` finds sequences.
        gaps: Whether observations may hold NaN, where there was nothing to be observed.

    Attributes:
        kind: The kind of distribution, None before the first label.
        seen: How many labels were ever added.
        refused: How many labels held NaN or infinity and were left out.
    """

    def __init__(
        self,
        capacity: int = 1_000_000,
        most_bytes: int = _MOST_BYTES,
        *,
        linked: bool = False,
        gaps: bool = False,
    ) -> None:
        """Begin empty; the first label decides the widths."""
        check_range("capacity", capacity, least=1, whole=True)
        self._capacity = capacity
        self._most_bytes = most_bytes
        self._rows: Floats = np.empty((0, 0), np.float32)
        self._linked, self._gaps = linked, gaps
        self._links = np.empty(0, np.int32)
        self._split = 0
        self._next = 0
        self._size = 0
        self.kind: Kind | None = None
        self.seen = 0
        self.refused = 0

    def __len__(self) -> int:
        """How many labels are held."""
        return self._size

    @property
    def nbytes(self) -> int:
        """How much memory the labels take, in bytes."""
        return 4 * self._size * int(self._rows.shape[1])

    def add(self, obs: Floats, dist: AnyDist, link: NDArray[np.int32] | None = None) -> None:
        """Keep labels; rows that hold NaN or infinity are counted and left out.

        Args:
            obs: Observations, (batch, obs).
            dist: The planner's answer to them.
            link: As in `Labels`. Without, each label stands alone.

        Raises:
            SpecError: If kind or widths differ from those of the first label.
        """
        packed = pack(dist)
        kind = kind_of(dist)
        if self.kind is None:
            self.kind = kind
            self._split = obs.shape[1]
            self._set_aside(obs.shape[1] + packed.shape[1])
        if (
            kind != self.kind
            or obs.shape[1] != self._split
            or packed.shape != (len(obs), self._rows.shape[1] - self._split)
        ):
            raise SpecError(
                f"{kind} labels of {obs.shape} and {packed.shape} do not fit the "
                f"{self.kind} ones here, {self._split} numbers and "
                f"{self._rows.shape[1] - self._split}."
            )
        rows = np.concatenate([obs, packed], axis=1, dtype=np.float32)
        links = np.zeros(len(rows), np.int32) if link is None else link
        finite = np.isfinite(rows)
        if self._gaps:
            finite[:, : self._split] |= np.isnan(rows[:, : self._split])
        whole = np.asarray(finite.all(axis=1))
        if not whole.all():
            self.refused += int((~whole).sum())
            if self._linked:
                # What is left out keeps its place: links count places.
                rows = np.where(whole[:, None], rows, np.float32(0))
                links = np.where(whole, links, HOLE).astype(np.int32)
            else:
                rows = rows[whole]
        self.seen += int(whole.sum())
        rows, links = rows[-self._capacity :], links[-self._capacity :]
        first = min(len(rows), len(self._rows) - self._next)
        self._rows[self._next : self._next + first] = rows[:first]
        self._rows[: len(rows) - first] = rows[first:]
        if self._linked:
            self._links[self._next : self._next + first] = links[:first]
            self._links[: len(rows) - first] = links[first:]
        self._next = (self._next + len(rows)) % len(self._rows)
        self._size = min(self._size + len(rows), len(self._rows))

    def forget(self, count: int) -> None:
        """Take the newest labels out, of labels without links."""
        if self._size == len(self._rows) and self._next:
            # The oldest first, so that what is left has no gap.
            self._rows[:] = np.roll(self._rows, -self._next, axis=0)
        self._size -= min(count, self._size)
        self._next = self._size % max(1, len(self._rows))

    def _set_aside(self, width: int) -> None:
        """Make room for the capacity, or for what the bytes hold."""
        fitting = self._most_bytes // (4 * max(1, width))
        self._capacity = max(1, min(self._capacity, fitting))
        self._rows = np.empty((self._capacity, width), np.float32)
        if self._linked:
            self._links = np.zeros(self._capacity, np.int32)

    def draw(self, batch: int, random: np.random.Generator) -> tuple[Floats, Floats]:
        """Draw labels uniformly, with replacement.

        Returns:
            Observations (batch, obs) and packed distributions (batch, width).
        """
        rows = self._rows[self.places(batch, random)]
        return rows[:, : self._split], rows[:, self._split :]

    def rows(self) -> tuple[Floats, int]:
        """All places, (capacity, obs + width), and how many numbers of a row are observed."""
        return self._rows, self._split

    def places(
        self, batch: int, random: np.random.Generator, newest: int | None = None
    ) -> NDArray[np.int64]:
        """Draw places of labels uniformly, with replacement, (batch,); of the `newest` alone."""
        if newest is not None:
            back = random.integers(1, min(self._size, newest) + 1, batch)
            return (self._next - back) % len(self._rows)
        places = random.integers(0, self._size, batch)
        if self._linked and self.refused:
            # What was left out keeps its place, and is not learnt from.
            out = self._links[places] == HOLE
            while out.any():
                places[out] = random.integers(0, self._size, int(out.sum()))
                out = self._links[places] == HOLE
        return places

    def before(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return where the labels of the tick before lie, (n,), and which begin an episode.

        A place is -1 where there is none: at the beginning, or where it is no longer held.
        """
        room = max(1, len(self._rows))
        oldest = self._next if self._size == len(self._rows) else 0
        link = self._links[places].astype(np.int64)
        before = (places - link) % room
        held = (link > 0) & ((places - oldest) % room >= link) & (self._links[before] != HOLE)
        return np.where(held, before, -1), link == 0

    def sample(self, count: int, random: np.random.Generator) -> tuple[Floats, Floats]:
        """Draw labels of the newer half, each at most once.

        Returns:
            At most `count` observations (n, obs) and packed distributions (n, width).
        """
        rows = self._rows[self.newer(count, random)]
        return rows[:, : self._split], rows[:, self._split :]

    def newer(self, count: int, random: np.random.Generator) -> NDArray[np.int64]:
        """Draw places of labels of the newer half, each at most once."""
        oldest = self._next if self._size == len(self._rows) else 0
        chosen = np.sort(random.permutation(np.arange(self._size // 2, self._size))[:count])
        return np.asarray((oldest + chosen) % max(1, len(self._rows)))

    def draw_sequences(
        self,
        count: int,
        ticks: int,
        random: np.random.Generator,
        *,
        burn_in: int = 0,
        newest: int | None = None,
    ) -> Sequences:
        """Draw sequences that end anywhere, with replacement.

        Args:
            count: How many.
            ticks: How many labels each has at most.
            random: Draws where they end.
            burn_in: Ticks at the start of one that begins amid an episode from which nothing is
                learnt.
            newest: End only among so many of the newest labels; None: among all.
        """
        oldest = self._next if self._size == len(self._rows) else 0
        among = min(self._size, newest or self._size)
        drawn = random.integers(self._size - among, self._size, count)
        places, length, begins = walk_back(
            self._links, (oldest + drawn) % len(self._rows), ticks, oldest=oldest
        )
        tick = np.arange(ticks)[:, None]
        first = np.where(begins, 0, burn_in)
        learnt = (tick < length) & (tick >= first) & (self._links[places] != HOLE)
        rows = self._rows[places]
        return Sequences(rows[..., : self._split], rows[..., self._split :], learnt)

    def all(self) -> tuple[Floats, Floats]:
        """All labels: observations (n, obs) and packed ones (n, width).

        They are views, unless some keep a place without being labels.
        """
        rows = self._rows[: self._size]
        if self._linked and self.refused:
            rows = rows[self._links[: self._size] != HOLE]
        return rows[:, : self._split], rows[:, self._split :]

    def save(self, path: Path) -> None:
        """Write the labels to a .npz file, as they lie."""
        with path.open("wb") as file:
            np.savez(
                file,
                rows=self._rows[: self._size],
                links=self._links[: self._size],
                first=self._next if self._size == len(self._rows) else 0,
                split=self._split,
                kind=np.array(self.kind or ""),
                seen=self.seen,
                refused=self.refused,
            )

    def load(self, path: Path, spec: Spec | None = None) -> None:
        """Read what `save` wrote, into an empty buffer.

        Args:
            path: The file.
            spec: The environment that the labels have to be of.

        Raises:
            LoadError: If the file is damaged, or of other labels.
        """
        with (
            regular(path, _MOST_FILE) as stream,
            opened_zip(stream, path) as file,
            loading(f"{path} holds no labels: it"),
        ):
            one = {name: _only(file, name) for name in ("kind", *_COUNTS)}
            split, first, seen, refused = (_count(one[name]) for name in _COUNTS)
            kind = str(one["kind"])
            if not kind:
                return
            if kind not in KINDS:
                raise LoadError(f"labels of {kind!r:.40}")
            links = _column(file, "links")
            with file.open("rows.npy") as rows:
                size = file.getinfo("rows.npy").file_size
                shape, dtype, turned = array_header(rows, size)
                if dtype != np.float32 or turned or len(shape) != 2:
                    raise LoadError(f"rows of {dtype}, {shape}")
                _check_fit(spec, kind, split, shape[1])
                if first >= max(1, shape[0]):
                    raise LoadError(f"{shape[0]} rows, the oldest at {first}")
                if len(links) != shape[0] and (self._linked or len(links)):
                    raise LoadError(f"{shape[0]} rows and {len(links)} links")
                self._read(rows, first, *shape)
            if self._linked:
                self._links[: self._size] = np.roll(links, -first)[-self._size :]
            self.kind, self._split = kind, split
            self.seen, self.refused = seen, refused

    def _read(self, file: IO[bytes], first: int, count: int, width: int) -> None:
        """Read rows some at a time, the oldest of which is the `first`.

        Read whole, they would be in memory twice.
        """
        self._set_aside(width)
        kept = min(count, self._capacity)
        for start in range(0, count, _PIECE):
            size = min(_PIECE, count - start)
            piece = np.frombuffer(file.read(4 * size * width), np.float32)
            if not np.isfinite(piece).all():
                raise LoadError("a label with NaN or infinity")
            place = (np.arange(start, start + size) - first) % count - (count - kept)
            # Where there is less room than before, the oldest make it.
            self._rows[place[place >= 0]] = piece.reshape(size, width)[place >= 0]
        self._size, self._next = kept, kept % len(self._rows)


def _only(file: ZipFile, name: str) -> Any:
    """Read an array of one value."""
    size = file.getinfo(f"{name}.npy").file_size
    if size > _MOST_VALUE:
        raise LoadError(f"{name!r} has {size:,} bytes")
    with file.open(f"{name}.npy") as entry:
        return read_array(entry, size).item()


def _check_fit(spec: Spec | None, kind: Kind, split: int, wide: int) -> None:
    """Make sure that rows hold an observation, and then an answer."""
    wanted = (split, wide)
    if spec is not None:
        check_kind(kind, spec.action)
        obs = spec.obs.size
        wanted = obs, obs + width(kind, spec.action)
    if (split, wide) != wanted or not 0 < split < wide:
        raise LoadError(f"rows of {wide} numbers, {split} of them observed")


def _count(value: Any) -> int:
    if not is_whole(value, 0, 2**62):
        raise LoadError(f"{value!r:.40} is not a count")
    return int(value)


def _column(file: ZipFile, name: str) -> NDArray[np.int32]:
    """Read the links, a whole number for each row."""
    with file.open(f"{name}.npy") as entry:
        links = read_array(entry, file.getinfo(f"{name}.npy").file_size)
    if links.ndim != 1 or links.dtype != np.int32 or not (links >= CUT).all():
        raise LoadError(f"links of {links.dtype}, {links.shape}")
    return cast(NDArray[np.int32], links)
