"""How much of a planner's answers the state explains: whether it can be taught at all.

A planner that searches anew, or at random, may answer the same state in many ways. An executor then
learns their mean, which may be to do nothing. A small regression on the first labels tells that
before long training does: kernel ridge regression with a Gaussian kernel, its width and its
regularisation chosen by leave-one-out errors (Rasmussen and Williams 2006, 5.4.2), judged on whole
sequences of ticks that it has not seen.
"""

from __future__ import annotations

import math
from typing import final

import numpy as np
from numpy.typing import NDArray

from agentkd import dists
from agentkd.executors.executor import Executor
from agentkd.planners.ensemble import probabilities
from agentkd.planners.search.worlds import Doubles
from agentkd.spec import ActionSpec, BoxSpec
from agentkd.types import ActionDist, Floats, Labels
from agentkd.views import pick

LEAST = 0.3
"""The share of the variance below which a planner is hard to teach."""
LABELS = 768
"""Labels that are looked at: two thirds to learn from, one to judge by."""
FEWEST = 192
"""Fewer tell nothing."""
_MOST_NUMBERS = 64
"""Numbers of an observation up to which distances between observations tell much."""
_WIDTHS = (0.25, 0.5, 1.0, 2.0)
"""Widths of the kernel, in units of the median distance."""
_RIDGES = 10.0 ** np.arange(-4, 3)
_FAR = 5.0
"""Deviations at which an observation is cut off."""


@final
class FirstLabels:
    """The first labels of a distillation, until there are enough to judge the planner by.

    An executor with a memory, or a stack, learns from more than one observation: for it nothing is
    judged.

    Attributes:
        share: How much of the answers what the executor sees explains; NaN while unknown.

    Args:
        executor: Says what is seen of an observation, and what an action is.
    """

    def __init__(self, executor: Executor) -> None:
        self.share = math.nan
        self._spec = executor.spec
        self._open = not executor.memory
        self._kept: list[tuple[Floats, Doubles, NDArray[np.int32]]] = []

    def add(self, labels: Labels) -> None:
        """Take labels; with the last one that is needed the share becomes known."""
        if not self._open:
            return
        obs, dist, link = labels
        links = np.zeros(len(obs), np.int32) if link is None else link
        wanted = targets(dists.opened(dist, self._spec.action), self._spec.action)
        self._kept.append((pick(self._spec.obs, obs), wanted, links))
        if sum(len(each[0]) for each in self._kept) >= LABELS:
            self.judge()

    def judge(self) -> None:
        """Tell the share by the labels that are there, if they are enough; take no more."""
        if self._kept:
            obs, wanted, links = (
                np.concatenate([each[part] for each in self._kept])[:LABELS] for part in range(3)
            )
            if len(obs) >= FEWEST:
                held = held_out(links)
                self.share = explained(obs[~held], wanted[~held], obs[held], wanted[held])
        self._kept.clear()
        self._open = False


def targets(dist: ActionDist, action: ActionSpec) -> Doubles:
    """What is to be explained, (n, k): actions in halves of the box, or probabilities."""
    if not isinstance(action, BoxSpec):
        return probabilities(dist, None).astype(float)
    low, high = dists.bounds(action)
    half = np.where(np.isfinite(high - low), (high - low) / 2, 1.0)
    modes = np.asarray(dists.mode(dist, action), float)
    return modes.reshape(len(modes), -1) / half


def held_out(links: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Choose a third of the labels to judge by: whole sequences, else the last ones."""
    sequence = np.arange(len(links))
    for index, link in enumerate(links):
        if 0 < link <= index:
            sequence[index] = sequence[index - link]
    _, number = np.unique(sequence, return_inverse=True)
    if number.max(initial=0) < 5 or number.max() > len(links) // 4:
        # Few sequences, or no links: what comes later is judged by what came before.
        return np.arange(len(links)) >= len(links) * 2 // 3
    held: NDArray[np.bool_] = number % 3 == 2
    return held


def explained(obs: Floats, wanted: Doubles, new_obs: Floats, new_wanted: Doubles) -> float:
    """Return the share of the variance of `new_wanted` that a regression explains, at most 1.

    NaN where it cannot be told: too few labels, answers that are all alike, or more numbers in an
    observation than distances tell something about.

    Args:
        obs: Observations to learn from, (n, obs).
        wanted: Answers, (n, k).
        new_obs: Observations to judge by, (m, obs).
        new_wanted: Their answers, (m, k).
    """
    finite = np.isfinite(wanted).all(axis=1) & np.isfinite(obs).all(axis=1)
    new_finite = np.isfinite(new_wanted).all(axis=1) & np.isfinite(new_obs).all(axis=1)
    obs, wanted = obs[finite].astype(float), wanted[finite]
    new_obs, new_wanted = new_obs[new_finite].astype(float), new_wanted[new_finite]
    spread = new_wanted.var(axis=0).sum() if len(new_wanted) else 0.0
    deviation = obs.std(axis=0) if len(obs) else np.zeros(obs.shape[1])
    moves = deviation > 1e-9
    if min(len(obs), len(new_obs)) < 2 or spread < 1e-9 or not 1 <= moves.sum() <= _MOST_NUMBERS:
        return math.nan
    mean, deviation = obs.mean(axis=0)[moves], deviation[moves]
    x, new = (np.clip((each[:, moves] - mean) / deviation, -_FAR, _FAR) for each in (obs, new_obs))
    middle = wanted.mean(axis=0)
    apart, new_apart = _squares(x, x), _squares(new, x)
    median = float(np.median(apart[np.triu_indices(len(x), 1)])) or 1.0
    best, found = math.inf, np.zeros_like(new_wanted)
    for width in _WIDTHS:
        scale = -0.5 / (width**2 * median)
        values, vectors = np.linalg.eigh(np.exp(scale * apart))
        turned, squared = vectors.T @ (wanted - middle), np.square(vectors)
        for ridge in _RIDGES:
            inverse = 1 / (np.maximum(values, 0) + ridge)
            weights = vectors @ (inverse[:, None] * turned)
            error = float(np.square(weights / (squared @ inverse)[:, None]).mean())
            if error < best:
                best, found = error, np.exp(scale * new_apart) @ weights
    left = np.square(new_wanted - middle - found).sum(axis=1).mean()
    return float(1 - left / spread)


def _squares(left: Doubles, right: Doubles) -> Doubles:
    """Squared distances between rows, (n, m)."""
    both = np.square(left).sum(axis=1)[:, None] + np.square(right).sum(axis=1)
    return np.asarray(np.maximum(both - 2 * left @ right.T, 0.0))


def warning(share: float) -> str:
    """Return what to say about a share: "" where the planner can be taught, or it is unknown."""
    if not share < LEAST:
        return ""
    return (
        f"What the executor sees explains {max(0.0, share):.0%} of the planner's first answers. It "
        "learns the mean of the rest, which may be worth little. If the planner searches, let an "
        "executor practise in its model (agentkd practise) and guide the search; else give a "
        "planner that answers the same state alike, or an executor that sees more or has a memory."
    )
