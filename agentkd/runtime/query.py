"""One request to a planner: observations in, answers and labels out."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from agentkd import dists
from agentkd.errors import AgentkdError, PlannerError
from agentkd.executors.executor import Executor
from agentkd.runtime.codec import EXPECTED_BYTES, Answer, Seen
from agentkd.runtime.goals import GoalMemory, Goals
from agentkd.runtime.rollforward import Foresight, RollForward
from agentkd.spec import Spec
from agentkd.types import Floats, Guidance, Labels, State

Reply = tuple[Answer, Labels | None]
"""An answer, and the labels that came with it, oldest first; with goals, of observations as an
executor makes them."""


@dataclass(frozen=True, slots=True)
class Demands:
    """What an agent wants of a planner besides answers about what it observes.

    Observations may be rolled forward first, by the actions of the executor that acts meanwhile;
    and the planner may give goals. With `shown` numbers labels are of what the executor is shown.
    """

    roll: RollForward | None = None
    goals: Goals | None = None
    executor: Executor | None = None
    shown: int = 0


@final
class PlannerQuery:
    """Asks a planner about the newest observation and those visited since it was last.

    A planner may have an attribute `horizon`: it then answers each observation with so many rows,
    for the ticks from the observation's on. It may answer with a `Guidance`. It may have a method
    `improve` (`AnytimePolicy`), and `disagreement` (`Ensemble`); with `answer_and_disagreement`,
    which gives both, it is asked once. An attribute `episode` is set to the episode's number.

    A planner with a memory steps through the observations one by one, and starts afresh in each
    episode. If one is missing, it goes on answering until the episode ends, but nothing is learnt
    of that.
    """

    def __init__(
        self, policy: Any, spec: Spec, *, backlog: bool, demands: Demands | None = None
    ) -> None:
        wants = demands or Demands()
        self.horizon = int(getattr(policy, "horizon", 1))
        if self.horizon < 1 or not callable(policy):
            raise PlannerError(
                f"{policy!r} is not a planner: it has to be callable, with a horizon of "
                "at least 1 if it has one."
            )
        self.recurrent = hasattr(policy, "initial_state")
        self.anytime = hasattr(policy, "improve")
        if self.recurrent and wants.roll is not None:
            raise PlannerError(
                "A planner with a memory cannot be asked about states that were never "
                "visited. Leave the roll-forward out."
            )
        self._policy = policy
        self._spec = spec
        self._backlog = backlog
        self._memory = GoalMemory(wants.goals) if wants.goals is not None else None
        self._shown = wants.shown
        self._foresight: Foresight | None = None
        if wants.roll is not None:
            self._foresight = Foresight(wants.roll, wants.executor, spec, self._memory)
        self._told = hasattr(policy, "episode")
        self._doubts = hasattr(policy, "disagreement")
        # Answer and disagreement in one: each member is asked once.
        plain = not (self.anytime or self.recurrent)
        self._at_once = plain and self._doubts and hasattr(policy, "answer_and_disagreement")
        self._tick = -1
        self._broken = False
        self._state: State | None = None
        self._episode: int | None = None
        self._id = self._answered = 0

    def follow(self, executor: Executor) -> None:
        """Take another executor to act while the planner thinks."""
        if self._foresight is not None:
            self._foresight.follow(executor)

    def may_ask(self, newest: Seen) -> bool:
        """Return whether the planner may be asked about an observation now.

        With a roll-forward the committed actions are only right if the agent had the last answer
        when it sent them: that answer changes what is done next.
        """
        return self._foresight is None or newest.heard >= self._answered

    def warm_up(self) -> None:
        """Ask about nothing once, so that the first answer is not the slowest."""
        obs = np.zeros((1, self._spec.obs.size), np.float32)
        if self.recurrent:
            self._policy(obs, self._policy.initial_state(1))
        else:
            self._policy(obs)

    def last(self, seen: Sequence[Seen]) -> Reply:
        """Ask the planner, and wait for its last answer; see `replies`."""
        *_, last = self.replies(seen)
        return last

    def replies(self, seen: Sequence[Seen]) -> Iterator[Reply]:
        """Ask the planner about observations, oldest first.

        Yields:
            Its answers. All but the last are partial and carry no labels.

        Raises:
            PlannerError: If it raised, or its answer does not fit or is not finite.
        """
        try:
            yield from self._replies(seen)
        except AgentkdError as error:
            raise PlannerError(str(error)) from error
        except Exception as error:
            raise PlannerError(f"The planner raised {type(error).__name__}: {error}") from error

    def _replies(self, seen: Sequence[Seen]) -> Iterator[Reply]:
        if not (self._backlog or self.recurrent):
            seen = seen[-1:]
        newest = seen[-1]
        began = time.monotonic_ns()
        self._id += 1
        if self._told:
            self._policy.episode = newest.episode
        asked, assumed = self._asked(seen)
        made = partial(self._answer, newest, asked[-1], assumed, began)
        obs = np.stack([each.obs for each in asked])
        sound = np.ones(len(asked), bool)
        doubt, part = math.nan, 0
        found: Guidance | None = None
        if self.anytime:
            for part, better in enumerate(self._policy.improve(obs), 1):
                found = self._checked(better, 1)
                yield replace(made(found), part=part - 1, partial=True), None
            if found is None:
                raise PlannerError("The planner's `improve` gave no answer.")
        elif self.recurrent:
            found = self._step(asked, sound)
        elif self._at_once:
            rows, apart = self._policy.answer_and_disagreement(obs)
            found, doubt = self._checked(rows, len(asked)), float(apart[-1])
        else:
            found = self._checked(self._policy(obs), len(asked))
        if self._doubts and not self._at_once:
            doubt = float(self._policy.disagreement(obs[-1:])[0])
        answer = made(found)
        labels = self._labels(found, asked, np.flatnonzero(sound))
        count = 0 if labels is None else len(labels.obs)
        self._answered = self._id
        yield replace(answer, labels=count, part=part, doubt=doubt), labels

    def _asked(self, seen: Sequence[Seen]) -> tuple[Sequence[Seen], Floats | None]:
        """Return what the planner is shown, and the actions that this counts on."""
        newest = seen[-1]
        if self._foresight is not None and newest.lead:
            obs, assumed = self._foresight(newest)
            ahead = newest._replace(tick=newest.tick + newest.lead, obs=obs)
            # One that is quick labels what was really observed, too.
            both = len(seen) > 1 and not self.anytime
            return [*seen, ahead] if both else [ahead], assumed
        return seen[-1:] if self.anytime else seen, None

    def _checked(self, found: Any, count: int) -> Guidance:
        """Check an answer about `count` observations; return it, packed."""
        guidance = found if isinstance(found, Guidance) else Guidance(rows=found)
        rows, goal = guidance.rows, guidance.goal
        if rows is None and goal is None:
            raise PlannerError("The planner answered neither rows nor a goal.")
        wanted = (count * self.horizon, self._spec.obs.size)
        packed = None if rows is None else dists.check(rows, self._spec.action, wanted[0])
        if goal is not None:
            size = self._memory.goals.size if self._memory is not None else 0
            if goal.shape != (count, size) or not np.isfinite(goal).all():
                raise PlannerError(
                    f"The planner's goals have shape {goal.shape}, for {count} "
                    f"observations and goals of {size} finite numbers. Tell the agent "
                    "their size: StrategyOptions(goals=Goals(size, max_age))."
                )
        expected = guidance.expected
        if expected is not None and (packed is None or expected.shape != wanted):
            raise PlannerError(
                f"The planner expects observations {expected.shape}; {wanted} would go with its "
                "rows."
            )
        return Guidance(packed, goal, expected)

    def _step(self, seen: Sequence[Seen], sound: NDArray[np.bool_]) -> Guidance:
        found = []
        for index, each in enumerate(seen):
            if self._state is None or each.episode != self._episode:
                self._state = self._policy.initial_state(1)
                # A planner that starts in the middle of an episode has missed its beginning.
                self._broken = self._episode is None and each.tick > 0
                self._episode = each.episode
            elif each.tick != self._tick + 1:
                self._broken = True
            self._tick = each.tick
            sound[index] = not self._broken
            answer, self._state = self._policy(each.obs[None], self._state)
            found.append(self._checked(answer, 1))
        rows = [each.rows for each in found if each.rows is not None]
        goals = [each.goal for each in found if each.goal is not None]
        expected = [each.expected for each in found if each.expected is not None]
        for some in (rows, goals, expected):
            if some and len(some) != len(found):
                raise PlannerError("The planner answers now with, now without rows.")
        return Guidance(
            dists.packed(dists.stack(rows, self._spec.action)) if rows else None,
            np.concatenate(goals) if goals else None,
            np.concatenate(expected) if expected else None,
        )

    def _answer(
        self, newest: Seen, asked: Seen, assumed: Floats | None, began: int, guidance: Guidance
    ) -> Answer:
        ended = time.monotonic_ns()
        # By numbers, which copies: the planner may write its next answer into the same arrays.
        last = np.arange(-self.horizon, 0)
        rows, goal, expected = guidance.rows, guidance.goal, guidance.expected
        if expected is not None:
            expected = np.asarray(expected[last], np.float32)
            size = self._spec.obs.size
            most = EXPECTED_BYTES // (4 * max(1, size))
            if len(expected) > most:
                raise PlannerError(
                    f"{len(expected)} expected observations of {size} numbers are too many to be "
                    f"carried; {most} are not."
                )
        return Answer(
            id=self._id,
            episode=newest.episode,
            tick=asked.tick,
            labels=0,
            thinking=(ended - began) * 1e-9,
            latency=(ended - newest.time) * 1e-9,
            rows=None if rows is None else dists.rows(dists.packed(rows), last),
            seen=newest.tick,
            goal=None if goal is None else np.array(goal[-1:], np.float32),
            expected=expected,
            assumed=assumed,
            predicted=None if assumed is None else asked.obs,
        )

    def _labels(
        self, guidance: Guidance, asked: Sequence[Seen], kept: NDArray[np.intp]
    ) -> Labels | None:
        """Return what is learnt of an answer: the first row of each kept observation.

        With goals, each observation gets a goal of a random age. An executor with a stack or a
        delay learns from what it was shown.
        """
        memory = self._memory
        if memory is not None and guidance.goal is not None:
            for each, goal in zip(asked, guidance.goal, strict=True):
                memory.keep(each.episode, each.tick, goal)
        if guidance.rows is None:
            return None
        chosen = [asked[index] for index in kept]
        obs = [each.obs if each.window is None else each.window for each in chosen]
        if memory is not None:
            obs = [memory.aged(each.episode, each.tick, each.obs) for each in chosen]
        width = self._shown or self._spec.obs.size
        width += 0 if memory is None else memory.goals.width
        flat = np.reshape(obs, (len(obs), width)).astype(np.float32)
        return Labels(flat, dists.rows(guidance.rows, kept * self.horizon))
