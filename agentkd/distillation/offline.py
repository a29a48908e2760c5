"""Distillation from labels that lie there already: no environment is stepped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from agentkd import dists
from agentkd.deploy.kept import BYTES
from agentkd.distillation.checkpoint import Checkpoint, go_on
from agentkd.distillation.dataset import Dataset, Rows, read_dataset
from agentkd.distillation.distiller import Distiller, DistillerOptions
from agentkd.distillation.loop import Budget, Distilled, carry_out
from agentkd.distillation.minari import PREFIX, is_minari, local_path, read_minari
from agentkd.distillation.progress import Watch
from agentkd.distillation.run import Run
from agentkd.distillation.sequences import CUT, links_of
from agentkd.distillation.source import CollectionOptions
from agentkd.errors import ConfigError, PlannerError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.planners import Planner
from agentkd.spec import ActionSpec, Spec
from agentkd.types import ActionDist, Floats, Labels

_CHUNK = 8192
_HELD_OUT = 20
"""One episode in so many is never learnt from."""
_COMPARED = 4096
"""Labels of those on which agreement is measured, at most."""


def open_dataset(path: str | Path, env: str = "", spec: Spec | None = None) -> Dataset:
    """Open labels that lie somewhere.

    Args:
        path: A folder that `agentkd record` wrote or that Minari did, or "minari:ID"
            for one where Minari keeps its own.
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


def distill_dataset(
    dataset: Dataset,
    executor: str | Executor = "mlp:64,64",
    *,
    budget: Budget | None = None,
    seed: int = 0,
    options: DistillerOptions | None = None,
    watch: Watch | None = None,
    every: float = 0.5,
    checkpoint: Path | None = None,
    resume: bool = False,
    stop: Callable[[], bool] | None = None,
    kept_bytes: int = BYTES,
) -> Distilled:
    """Distil an executor from a dataset alone.

    One episode in twenty is held out; the agreement is measured on it. A dataset with more labels
    than `DistillerOptions.capacity` goes through memory part by part, again and again.

    Args:
        dataset: The labels.
        executor: An architecture such as "mlp:64,64", or an executor to go on from.
        budget: When to end: seconds or steps; 60 seconds by default.
        seed: For weights and draws.
        options: How to learn.
        watch: Called with a `Progress` every so often.
        every: Seconds between two looks.
        checkpoint: A folder in which to leave what is needed to go on later.
        resume: Go on from that folder.
        stop: Asked now and then; True ends the distillation with what was learnt.
        kept_bytes: What the sample of labels in `Distilled.kept` may take; 0 for none.

    Returns:
        The executor and what is known about it. Its planner is known by name only: it
        cannot be asked.

    Raises:
        ConfigError: If an option is invalid.
        LoadError: If the dataset is damaged.
    """
    end = budget or Budget(seconds=60.0)
    if end.labels is not None or (end.seconds is None and end.steps is None):
        raise ConfigError("The dataset has its labels: give seconds or steps.")
    about = dataset.about
    chosen = executor
    if isinstance(chosen, str):
        squashed = dataset.kind != "gaussian"
        chosen = initial(chosen, about.spec, seed=seed, squashed=squashed)
    elif _shape(chosen.spec) != _shape(about.spec):
        raise ConfigError(
            f"The executor is for {_shape(chosen.spec)}, the dataset is of "
            f"{_shape(about.spec)}: numbers observed and actions."
        )
    learning = options or DistillerOptions(seed=seed)
    source = DatasetSource(dataset, learning.capacity, seed)
    distiller = Distiller(chosen, learning)
    origin = Checkpoint(planner=about.digest)
    earlier = 0.0
    if resume:
        earlier = go_on(checkpoint, distiller, origin)
    fresh = not len(distiller.buffer)
    for labels in source.fill():
        if fresh:
            distiller.add(*labels)
    if distiller.buffer.seen > len(distiller.buffer):
        # Bounded by bytes rather than by their number, as with images.
        source.overflows()
    # However few labels there are, there will be no more.
    least = max(1, min(learning.least, len(distiller.buffer)))
    distiller.options = replace(learning, least=least)
    run = Run(
        distiller=distiller,
        source=source,
        budget=end,
        way=CollectionOptions(schedule="constant", least_share=1.0),
        earlier=earlier,
        every=every,
        watch=watch,
        checkpoint=checkpoint,
        origin=origin,
        held_out=source.held_out,
    )
    result = carry_out(run, by_name(dataset), stop, kept_bytes)
    return replace(result, labels=dataset.labels - source.held_back)


def by_name(dataset: Dataset) -> Planner:
    """Give the planner that a dataset's labels are of; it cannot be asked."""
    about = dataset.about
    name = about.planner or "a dataset"
    return Planner(_silent, about.spec, name, about.parameters, about.digest)


def _shape(spec: Spec) -> tuple[int, ActionSpec]:
    return spec.obs.size, spec.action


def _silent(_: Floats, /) -> ActionDist:
    raise PlannerError("The planner is known by its labels only; it cannot be asked.")


@final
class DatasetSource:
    """Gives a dataset's labels, some thousands at a time. It is a `Source`.

    Attributes:
        held_out: Labels of episodes that are never given, at most 4096; None where there is only
            one episode.
        held_back: How many labels these episodes have.

    Args:
        dataset: The labels.
        capacity: How many of them whoever learns can hold.
        seed: For the order of the parts.
    """

    restarts = 0
    dropped = 0

    def __init__(self, dataset: Dataset, capacity: int, seed: int) -> None:
        """Look at the episodes that are held out."""
        self._dataset = dataset
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
                kept.append(self._labels(rows, chosen))
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

    def overflows(self) -> None:
        """Let labels go round: a buffer has less room than there are labels."""
        self._fits = False

    def _held(self, rows: Rows) -> NDArray[np.bool_]:
        if self._every < 2:
            return np.zeros(len(rows), bool)
        held: NDArray[np.bool_] = rows.episode % self._every == self._every - 1
        return held

    def _chunks(self, part: int, rows: Rows, index: NDArray[np.int64]) -> Iterator[Labels]:
        link = self._links(part, rows, index)
        for start in range(0, len(index), _CHUNK):
            some = slice(start, start + _CHUNK)
            chosen = index[some]
            dist = dists.rows(rows.dist, chosen)
            yield Labels(rows.obs[chosen], dist, link[some])

    def _links(self, part: int, rows: Rows, index: NDArray[np.int64]) -> NDArray[np.int32]:
        """The ticks of an episode are linked; it begins where it is first met."""
        episode = rows.episode[index]
        link = links_of(episode)
        went_on = (link == 0) & (episode <= self._before[part])
        return np.where(went_on, CUT, link).astype(np.int32)

    def _labels(self, rows: Rows, chosen: NDArray[np.int64]) -> Labels:
        """Take some rows; the ticks of an episode are linked with each other."""
        link = links_of(rows.episode[chosen])
        return Labels(rows.obs[chosen], dists.rows(rows.dist, chosen), link)

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
        """None: nobody acts."""
        return ()

    def close(self) -> None:
        """There is nothing to give back."""
