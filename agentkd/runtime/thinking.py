"""One request to a planner: observations in, an answer and labels out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from agentkd import dists
from agentkd.errors import AgentkdError, PlannerError
from agentkd.runtime.codec import Answer, Seen
from agentkd.spec import Spec
from agentkd.types import (
    ActionDist,
    Floats,
    Policy,
    RecurrentPolicy,
    State,
)


@dataclass(frozen=True, slots=True, eq=False)
class Thought:
    """An answer, and the labels that came with it, oldest first.

    Attributes:
        answer: What the runtime gets.
        obs: Observations that were labelled, (labels, obs).
        dist: The planner's distributions for them.
    """

    answer: Answer
    obs: Floats
    dist: ActionDist


@final
class Thinker:
    """Asks a planner about the newest observation and those visited since it was last.

    A planner may have an attribute `horizon`: it then answers each observation with so
    many rows, for the ticks from the observation's on. A planner with a memory steps
    through the observations one by one, and starts afresh in each epoch. If one is
    missing, its memory is wrong until the epoch ends: it goes on answering, but nothing
    is learnt of that.

    Args:
        policy: The planner.
        spec: The environment.
        backlog: Whether observations before the newest are wanted as labels.
    """

    def __init__(
        self, policy: Policy | RecurrentPolicy, spec: Spec, *, backlog: bool
    ) -> None:
        """Check what the planner says of itself."""
        self.horizon = int(getattr(policy, "horizon", 1))
        if self.horizon < 1 or not callable(policy):
            raise PlannerError(
                f"{policy!r} is no planner: it has to be callable, with a horizon of "
                "at least 1 if it has one."
            )
        self._policy: Any = policy
        self._spec = spec
        self._backlog = backlog
        self.recurrent = hasattr(policy, "initial_state")
        self._tick = -1
        self._broken = False
        self._state: State | None = None
        self._epoch: int | None = None
        self._id = 0

    def warm_up(self) -> None:
        """Ask about nothing once, so that the first answer is not the slowest."""
        obs = np.zeros((1, self._spec.obs.size), np.float32)
        if self.recurrent:
            self._policy(obs, self._policy.initial_state(1))
        else:
            self._policy(obs)

    def think(self, seen: Sequence[Seen]) -> Thought:
        """Ask the planner.

        Args:
            seen: Observations, oldest first; the last is the newest.

        Raises:
            PlannerError: If the planner raised, or answered something that does not
                fit or is not finite.
        """
        if not (self._backlog or self.recurrent):
            seen = seen[-1:]
        newest = seen[-1]
        began = time.monotonic_ns()
        self._id += 1
        obs = np.stack([each.obs for each in seen])
        sound = np.ones(len(seen), bool)
        try:
            dist = self._step(seen, sound) if self.recurrent else self._policy(obs)
            dists.check(dist, self._spec.action, len(seen) * self.horizon)
        except AgentkdError as error:
            raise PlannerError(str(error)) from error
        except Exception as error:
            raise PlannerError(
                f"The planner raised {type(error).__name__}: {error}"
            ) from error
        packed = np.asarray(dists.pack(dist), np.float32)
        whole = dists.unpack(dists.kind_of(dist), packed, self._spec.action)
        ended = time.monotonic_ns()
        answer = Answer(
            id=self._id,
            epoch=newest.epoch,
            tick=newest.tick,
            labels=len(seen),
            thinking=(ended - began) * 1e-9,
            latency=(ended - newest.time) * 1e-9,
            rows=dists.rows(whole, slice(-self.horizon, None)),
        )
        kept = np.flatnonzero(sound)
        labels = dists.rows(whole, kept * self.horizon)
        return Thought(replace(answer, labels=len(kept)), obs[kept], labels)

    def _step(self, seen: Sequence[Seen], sound: NDArray[np.bool_]) -> ActionDist:
        answers = []
        for index, each in enumerate(seen):
            if self._state is None or each.epoch != self._epoch:
                self._state = self._policy.initial_state(1)
                # Whoever starts in the middle of an episode has missed its beginning.
                self._broken = self._epoch is None and each.tick > 0
                self._epoch = each.epoch
            elif each.tick != self._tick + 1:
                self._broken = True
            self._tick = each.tick
            sound[index] = not self._broken
            dist, self._state = self._policy(each.obs[None], self._state)
            answers.append(dist)
        return dists.stack(answers, self._spec.action)
