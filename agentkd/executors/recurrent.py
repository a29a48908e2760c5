"""Executors with a memory as policies that are handed it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, final

import numpy as np

from agentkd import dists
from agentkd.spec import Spec
from agentkd.types import ActionDist, Floats, State
from agentkd.views import pick


@final
class RecurrentExecutor:
    """An executor with a memory, in any form, as a `RecurrentPolicy`.

    One that sees past actions remembers the last one too: its own, or what `executed` says.

    Args:
        spec: The executor's.
        memory: How many numbers it remembers.
        answer: Gives the action distribution and the memory after, both (batch, …), for
            observations (batch, obs) and the memory before.
    """

    def __init__(
        self, spec: Spec, memory: int, answer: Callable[[Floats, Floats], tuple[ActionDist, Floats]]
    ) -> None:
        self._action, self._memory, self._answer = spec.action, memory, answer
        self.taken = spec.obs.taken
        self._seen = replace(spec.obs, taken=0)

    def initial_state(self, batch: int) -> State:
        """The memory that an episode starts with: zeros, (batch, memory), and of the action."""
        sizes = (self._memory, self.taken) if self.taken else (self._memory,)
        return tuple(np.zeros((batch, size), np.float32) for size in sizes)

    def __call__(self, obs: Floats, state: State, /) -> tuple[ActionDist, State]:
        """Answer for the environment's observations, and give the memory that follows."""
        if self.taken:
            obs = np.concatenate([pick(self._seen, obs), state[1]], axis=1)
        dist, after = self._answer(obs, state[0])
        return dist, self.executed((after,), dists.mode(dist, self._action))

    def executed(self, state: State, actions: Any) -> State:
        """Return a memory in which these actions, (batch, …), were executed last."""
        return (state[0], dists.coded(actions, self._action)) if self.taken else state
