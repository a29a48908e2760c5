"""Labels with the observations before them, for executors that see a stack.

Such an executor remembers past observations and nothing that it computed. So it need not be
followed along sequences: what is learnt is an executor without a memory whose observation is the
whole stack, and any label can be drawn with those before it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from agentkd.distillation.buffer import LabelBuffer
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Stack
from agentkd.spec import ObsSpec, Part
from agentkd.types import Floats

_TRIES = 16


def stack_of(executor: Executor) -> Stack | None:
    """Return the stack that an executor begins with, if it does."""
    first = executor.layers[0]
    return first if isinstance(first, Stack) else None


def unstacked(executor: Executor) -> Executor:
    """Return an executor without its stack, for observations that are stacked already."""
    stack = stack_of(executor)
    if stack is None:
        return executor
    size = stack.count * stack.size
    return replace(
        executor,
        spec=replace(executor.spec, obs=ObsSpec((Part("", "box", (size,), "float32"),))),
        mean=np.tile(executor.mean, stack.count),
        scale=np.tile(executor.scale, stack.count),
        layers=executor.layers[1:],
    )


def restacked(learnt: Executor, executor: Executor) -> Executor:
    """Return `executor` with the numbers that its form without a stack has learnt."""
    stack = stack_of(executor)
    if stack is None:
        return learnt
    return replace(
        executor,
        mean=learnt.mean[: stack.size],
        scale=learnt.scale[: stack.size],
        layers=(stack, *learnt.layers),
        version=learnt.version,
        about=learnt.about,
    )


@final
class Histories:
    """The labels of a buffer, each with the observations before it in its episode.

    Args:
        labels: With their links.
        stack: How many observations there are, and how long each is.

    Attributes:
        blank: What stands before an episode's first observation: what the normaliser makes 0.
    """

    def __init__(self, labels: LabelBuffer, stack: Stack) -> None:
        self.blank: Floats = np.zeros(stack.size, np.float32)
        self._labels, self._count = labels, stack.count
        self._drawn: Floats = np.empty((0, 0), np.float32)

    def places(self, batch: int, random: np.random.Generator) -> NDArray[np.int64]:
        """Draw labels uniformly, with replacement, into `rows`; return their places there."""
        rows, split = self._labels.rows()
        chosen = self._labels.places(batch, random)
        obs, cut = self._stacked(chosen, rows[:, :split])
        for _ in range(_TRIES):
            if not cut.any():
                break
            # What came before these is no longer held, or was left out.
            chosen[cut] = self._labels.places(int(cut.sum()), random)
            again, still = self._stacked(chosen[cut], rows[:, :split])
            obs[cut], cut[cut] = again, still
        self._drawn = np.concatenate([obs, rows[chosen, split:]], axis=1)
        return np.arange(batch)

    def rows(self) -> tuple[Floats, int]:
        """Return what was drawn, (batch, stack + width), and how many numbers are observed."""
        return self._drawn, self._count * len(self.blank)

    def draw(self, batch: int, random: np.random.Generator) -> tuple[Floats, Floats]:
        """Draw labels: stacked observations (batch, stack) and packed ones (batch, width)."""
        self.places(batch, random)
        rows, split = self.rows()
        return rows[:, :split], rows[:, split:]

    def tiled(self, numbers: Floats) -> Floats:
        """Return numbers of an observation, (size,), for each of the stack, (stack,)."""
        return np.tile(numbers, self._count)

    def _stacked(self, places: NDArray[np.int64], obs: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the stacks that end at places, oldest first, and which are cut off."""
        size = len(self.blank)
        out = np.empty((len(places), self._count, size), np.float32)
        out[:, -1] = obs[places]
        here, alive = places, np.ones(len(places), bool)
        cut = np.zeros(len(places), bool)
        for back in range(2, self._count + 1):
            before, begins = self._labels.before(here)
            cut |= alive & (before < 0) & ~begins
            alive = alive & (before >= 0)
            here = np.where(alive, before, here)
            out[:, -back] = np.where(alive[:, None], obs[here], self.blank)
        return out.reshape(len(places), -1), cut
