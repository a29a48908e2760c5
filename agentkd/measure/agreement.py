"""How far a policy agrees with a reference, on the states that the reference visits."""

from __future__ import annotations

import math
from typing import final

import numpy as np

from agentkd import dists
from agentkd.errors import check_range
from agentkd.planners.planner import one_row
from agentkd.spec import Spec
from agentkd.types import Actions, Floats, Policy, RecurrentPolicy

_CHUNK = 512


@final
class Sample:
    """A uniform sample of what a policy saw and did, bounded in size.

    Algorithm R (Vitter 1985, "Random Sampling with a Reservoir"), with a fixed seed; it keeps
    `most` states. Give it to `evaluate` as `visited`.
    """

    def __init__(self, most: int = 4096, seed: int = 0) -> None:
        check_range("most", most, least=1, whole=True)
        self.seen = 0
        self._most = most
        self._random = np.random.default_rng(seed)
        self._obs: Floats = np.empty((0, 0), np.float32)
        self._actions: Actions = np.empty(0, np.float32)

    def __call__(self, obs: Floats, actions: Actions) -> None:
        """Take observations (batch, size) and the actions taken there (batch, …)."""
        if not self.seen:
            self._obs = np.empty((self._most, *obs.shape[1:]), np.float32)
            self._actions = np.empty((self._most, *actions.shape[1:]), actions.dtype)
        for row in range(len(obs)):
            place = self.seen
            self.seen += 1
            if place >= self._most:
                place = int(self._random.integers(self.seen))
                if place >= self._most:
                    continue
            self._obs[place] = obs[row]
            self._actions[place] = actions[row]

    @property
    def size(self) -> int:
        """How many states are kept."""
        return min(self.seen, self._most)

    @property
    def obs(self) -> Floats:
        """The observations kept, (size, obs)."""
        return self._obs[: self.size]

    @property
    def actions(self) -> Actions:
        """The actions taken there, (size, …)."""
        return self._actions[: self.size]


def agreement_with(sample: Sample, policy: Policy | RecurrentPolicy, spec: Spec) -> float:
    """Compare a policy's actions with those of a sample: the mean of `dists.agreement`.

    Returns:
        0 to 1; NaN where the sample is empty, or the policy has a memory: a state alone does not
        tell what it would do there.
    """
    if not sample.size or isinstance(policy, RecurrentPolicy):
        return math.nan
    total = 0.0
    ask = one_row(policy)
    for start in range(0, sample.size, _CHUNK):
        piece = slice(start, min(start + _CHUNK, sample.size))
        obs = sample.obs[piece]
        dist = ask(obs)
        dists.check(dist, spec.action, len(obs))
        mine = dists.mode(dist, spec.action)
        agreed = dists.agreement(mine, sample.actions[piece], spec.action)
        total += float(agreed.sum(dtype=np.float64))
    return total / sample.size
