"""Labels that are there already, as a source: no environment is stepped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from agentkd import dists
from agentkd.distillation.dataset import Dataset, Rows, read_dataset
from agentkd.distillation.minari import PREFIX, is_minari, local_path, read_minari
from agentkd.distillation.sequences import CUT, links_of
from agentkd.executors.executor import Executor
from agentkd.spec import Spec
from agentkd.types import Labels

_CHUNK = 8192
_HELD_OUT = 20
"""One episode in so many is never learnt from."""
_COMPARED = 4096
"""Labels of those on which agreement is measured, at most."""


def open_dataset(path: str | Path, env: str = "", spec: Spec | None = None) -> Dataset:
    """Open recorded labels.

    Args:
        path: A folder of `agentkd record` or of Minari, or "minari:ID" for one where Minari keeps
            its own.
        env: The environment's name, for a Minari dataset that names none.
        spec: The environment's, for the order in which a Minari observation's parts are laid out.

    Raises:
        LoadError: If there is none, or it is damaged.
    """
    text = str(path)
    place = local_path(text) if text.startswith(PREFIX) else Path(path)
    if is_minari(place):
        return read_minari(place, env, spec)
    return read_dataset(place)


@final
class DatasetSource:
    """Gives a dataset's labels, some thousands at a time. It is a `Source`.

    Attributes:
        held_out: Labels of episodes that are never given, at most 4096; None where there is only
            one episode.
        held_back: How many labels these episodes have.

    Args:
        dataset: The labels.
        capacity: How many of them the distiller can hold.
        seed: For the order of the parts.
        taken: Whether each observation ends in the action that was executed before it.
    """

    restarts = 0
    dropped = 0

    def __init__(self, dataset: Dataset, capacity: int, seed: int, *, taken: bool = False) -> None:
        self._dataset, self._taken = dataset, taken
        self._random = np.random.default_rng(seed)
        self._every = min(_HELD_OUT, dataset.episodes)
        self._fits = dataset.labels <= capacity
        self._capacity = capacity
        self.held_back = 0
        self.held_out: Labels | None = None
        self._before: list[int] = []
        self._stream = self._endless()

    def fill(self) -> Iterator[Labels]:
        """Give all labels once, or as many as can be held.

        Raises:
            LoadError: If a part is damaged.
        """
        kept: list[Labels] = []
        given = compared = 0
        highest = -1
        self._before.clear()
        for index in range(self._dataset.parts):
            rows = self._dataset.part(index)
            self._before.append(highest)
            highest = max(highest, int(rows.episode.max(initial=-1)))
            held = self._held(rows)
            self.held_back += int(held.sum())
            if held.any() and compared < _COMPARED:
                chosen = np.flatnonzero(held)[: _COMPARED - compared]
                link = links_of(rows.episode[chosen])
                seen = rows.seen(chosen, taken=self._taken)
                kept.append(Labels(seen, dists.rows(rows.dist, chosen), link))
                compared += len(chosen)
            if given < self._capacity:
                for chunk in self._chunks(index, rows, np.flatnonzero(~held)):
                    given += len(chunk.obs)
                    yield chunk
        if kept:
            action = self._dataset.about.spec.action
            self.held_out = Labels(
                np.concatenate([each.obs for each in kept]),
                dists.stack([each.dist for each in kept], action),
                np.concatenate([each.link for each in kept]),
            )

    @property
    def labels(self) -> int:
        """How many labels are learnt from."""
        return self._dataset.labels - self.held_back

    def overflows(self) -> None:
        """Give labels again and again: a buffer has less room than there are labels."""
        self._fits = False

    def _held(self, rows: Rows) -> NDArray[np.bool_]:
        if self._every < 2:
            return np.zeros(len(rows), bool)
        held: NDArray[np.bool_] = rows.episode % self._every == self._every - 1
        return held

    def _chunks(self, part: int, rows: Rows, index: NDArray[np.int64]) -> Iterator[Labels]:
        # The ticks of an episode are linked; it begins where it is first met.
        episode = rows.episode[index]
        link = links_of(episode)
        went_on = (link == 0) & (episode <= self._before[part])
        link = np.where(went_on, CUT, link).astype(np.int32)
        for start in range(0, len(index), _CHUNK):
            some = slice(start, start + _CHUNK)
            chosen = index[some]
            seen = rows.seen(chosen, taken=self._taken)
            yield Labels(seen, dists.rows(rows.dist, chosen), link[some])

    def _endless(self) -> Iterator[Labels]:
        while True:
            for index in self._random.permutation(self._dataset.parts):
                rows = self._dataset.part(int(index))
                kept = np.flatnonzero(~self._held(rows))
                yield from self._chunks(int(index), rows, kept)

    def take(self) -> list[Labels]:
        """Give nothing more where all is held, else the next labels, without an end."""
        return [] if self._fits else [next(self._stream)]

    def update(self, executor: Executor, share: float) -> None:
        """Nothing is driven here."""

    def returns(self) -> Sequence[float]:
        """None: nothing acts."""
        return ()

    def close(self) -> None:
        """There is nothing to give back."""
