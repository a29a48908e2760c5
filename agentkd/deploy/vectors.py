"""Golden vectors: observations with what an executor gave where it was made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from agentkd.errors import NumbersError, SpecError
from agentkd.executors.difference import actions_of, margins
from agentkd.executors.executor import Executor
from agentkd.types import Floats

if TYPE_CHECKING:
    from agentkd.executors.native import Native

DRAWN = 64
"""Observations that are drawn; those of real episodes come on top."""
REAL = 192
"""Observations of real episodes, where an executor remembers nothing."""
STEPS = 1024
"""Steps of an executor that remembers."""
_EPISODE = 128
_GOLDEN = 16
_CLEAR = 1e-3
_NUMBERS = 1 << 18
"""Of large observations fewer are taken, so that these make a megabyte at most."""
_FEWEST = 16
_MOST_ROWS = 4096
_MOST_WORK = 1 << 34
"""Multiplications that all golden vectors together may take, some seconds."""
_AT_ONCE = 1 << 24
"""Multiplications of the rows that are computed at once, a bound on memory."""


def probes(executor: Executor, count: int, seed: int = 0) -> Floats:
    """Random observations, (count, obs), spread as the normaliser says they are."""
    random = np.random.default_rng(seed)
    probe = random.standard_normal((count, executor.spec.obs.size)).astype(np.float32)
    spread = np.where(executor.scale == 0, np.float32(1.0), executor.scale)
    return (executor.mean + probe / spread).astype(np.float32)


def vectors(executor: Executor, episodes: Sequence[Floats] = ()) -> dict[str, Any]:
    """Observations, drawn ones and those of episodes, and what is given for them.

    An executor that remembers gets 1,024 steps: of the episodes, each (steps, obs), as far as they
    go, and drawn ones after them. Others get 64 drawn, and up to 192 spread over the episodes.

    Returns:
        "obs" (n, obs), "outputs" (n, out), "actions" (n, numbers or choices), and "starts" (n,): 1
        where an episode begins, else 0.

    Raises:
        NumbersError: If an observation is NaN or infinite.
        SpecError: If an episode's observations have another size.
    """
    for episode in episodes:
        _fits(executor, episode)
    pieces = _steps(executor, episodes) if executor.memory else _rows(executor, episodes)
    obs = np.concatenate(pieces).astype(np.float32)
    if not np.isfinite(obs).all():
        raise NumbersError("An observation of the episodes is NaN or infinite.")
    starts = beginnings(pieces) if executor.memory else np.ones(len(obs), np.float32)
    outputs = answers(executor, obs, starts)
    actions = actions_of(executor, outputs)
    return {"obs": obs, "outputs": outputs, "actions": actions, "starts": starts}


def beginnings(pieces: Sequence[Floats]) -> Floats:
    """Mark where episodes begin that are put one after another: 1 there, else 0, (n,)."""
    starts = np.zeros(sum(map(len, pieces)), np.float32)
    if len(starts):
        starts[np.cumsum([0, *(len(each) for each in pieces[:-1])])] = 1.0
    return starts


def answers(executor: Executor, obs: Floats, starts: Floats | None = None) -> Floats:
    """What an executor gives for observations (n, obs) one after another: (n, out).

    `starts`, (n,), is 1 where an episode begins; by default they are one episode.

    Raises:
        SpecError: If the shapes do not fit.
    """
    _fits(executor, obs)
    if starts is not None and starts.shape != (len(obs),):
        raise SpecError(f"{len(obs)} observations, and starts of {starts.shape}.")
    if not executor.memory:
        # Some rows at a time, so that large layers fit into memory.
        most = max(1, _AT_ONCE // (executor.spec.obs.size + executor.work))
        out = np.empty((len(obs), executor.out), np.float32)
        for at in range(0, len(obs), most):
            out[at : at + most] = executor.outputs(obs[at : at + most])
        return out
    begins = [] if starts is None else np.flatnonzero(starts)[1:].tolist()
    pieces = [executor.follow(each) for each in np.split(obs, begins)]
    return np.concatenate(pieces).astype(np.float32)


def compiled(executor: Executor, native: Native, obs: Floats) -> tuple[Floats, Any]:
    """What the compiled form gives for observations (n, obs), and its actions."""
    outputs = native.follow(obs) if executor.memory else native.outputs(obs)
    native.memory[:] = 0.0
    actions = np.asarray([native.act(each) for each in obs])
    return outputs, actions.reshape(len(obs), -1)


def most_rows(executor: Executor) -> int:
    """How many golden observations are worth the time that they take."""
    return int(min(_MOST_ROWS, max(_FEWEST, _MOST_WORK // executor.work)))


def _fits(executor: Executor, obs: Floats) -> None:
    size = executor.spec.obs.size
    if obs.ndim != 2 or obs.shape[1] != size:
        raise SpecError(f"Observations have shape {obs.shape}, not (steps, {size}).")


def _rows(executor: Executor, episodes: Sequence[Floats]) -> list[Floats]:
    """Single observations: drawn ones, and some of all episodes."""
    size = executor.spec.obs.size
    most = min(most_rows(executor), max(_FEWEST, _NUMBERS // size))
    rows = np.concatenate([np.empty((0, size), np.float32), *episodes])
    even = np.linspace(0, len(rows) - 1, min(REAL, most, len(rows))).astype(int)
    return [probes(executor, min(DRAWN, most)), rows[even]]


def _steps(executor: Executor, episodes: Sequence[Floats]) -> list[Floats]:
    """Episodes, the last perhaps cut; drawn ones where they are too few."""
    found: list[Floats] = []
    left = min(STEPS, most_rows(executor))
    for episode in episodes:
        piece = episode[:left]
        left -= len(piece)
        found += [piece] if len(piece) else []
    drawn = probes(executor, left)
    return found + [drawn[at : at + _EPISODE] for at in range(0, left, _EPISODE)]


def golden(executor: Executor, count: int = _GOLDEN) -> tuple[Floats, Floats, Any]:
    """Observations, their outputs and actions, for exported forms: no near ties if possible.

    With a memory they are one sequence, as it comes.
    """
    obs = probes(executor, count if executor.memory else 8 * count)
    outputs = answers(executor, obs).astype(np.float32)
    clear = margins(executor, outputs) > _CLEAR
    rows = np.flatnonzero(clear)[:count] if clear.any() else np.arange(count)
    if executor.memory:
        rows = np.arange(count)
    return obs[rows], outputs[rows], actions_of(executor, outputs[rows])
