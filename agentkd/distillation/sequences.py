"""Sequences of labels, for executors with a memory: found by each label's link."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agentkd.types import Floats

Places = NDArray[np.int64]
HOLE = -1
"""The link of a label that was left out: nothing is learnt from it, or across it."""
CUT = -2
"""The link of a label within an episode whose previous tick is missing."""


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """Labels of consecutive ticks, side by side; shorter ones are padded at their end.

    Attributes:
        obs: Observations, (ticks, sequences, obs).
        planner: Packed distributions, (ticks, sequences, width).
        learnt: Which are learnt from, (ticks, sequences): not the padding, and not the first ticks
            of a sequence that begins amid an episode, when the memory is still being made (burn-in,
            Kapturowski et al. 2019).
    """

    obs: Floats
    planner: Floats
    learnt: NDArray[np.bool_]


def links_of(streams: NDArray[np.integer]) -> NDArray[np.int32]:
    """The links of labels that belong to streams, such as episodes by number, (n,).

    A label's link is how many before it the last of its stream came; 0 for the first.
    """
    count = len(streams)
    order = np.lexsort((np.arange(count), streams))
    ordered = streams[order]
    link = np.zeros(count, np.int32)
    same = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
    link[order[same]] = order[same] - order[same - 1]
    return link


def walk_back(
    links: NDArray[np.int32], ends: Places, ticks: int, *, oldest: int
) -> tuple[Places, Places, NDArray[np.bool_]]:
    """Follow links back from labels in a ring, up to `ticks` labels each.

    Args:
        links: Of all labels, (room,).
        ends: Where sequences end, (n,).
        ticks: Their greatest length.
        oldest: Where the oldest lies.

    Returns:
        Places, (ticks, n), first to last and repeated at the end where a sequence is shorter;
        lengths, (n,); and whether the first label begins an episode, (n,).
    """
    room = len(links)
    back = np.empty((ticks, len(ends)), np.int64)
    back[0] = ends
    length = np.ones(len(ends), np.int64)
    alive = np.ones(len(ends), bool)
    for tick in range(1, ticks):
        here = back[tick - 1]
        link = links[here].astype(np.int64)
        before = (here - link) % room
        alive = alive & (link > 0) & ((here - oldest) % room >= link)
        alive &= links[before] != HOLE
        back[tick] = np.where(alive, before, here)
        length += alive
    begins = links[back[-1]] == 0
    # Turned round: row t is the label at tick t, and the last one fills the end.
    turned = np.maximum(length - 1 - np.arange(ticks)[:, None], 0)
    return np.take_along_axis(back, turned, axis=0), length, begins
