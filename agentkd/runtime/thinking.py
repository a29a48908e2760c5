"""One request to a planner: observations in, answers and labels out."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
from agentkd.types import ActionDist, Floats, Guidance, State

_AT_ONCE = "answer_and_disagreement"


@dataclass(frozen=True, slots=True, eq=False)
class Thought:
    """An answer, and the labels that came with it, oldest first.

    Attributes:
        answer: What the runtime gets.
        obs: Observations that were labelled, (labels, obs); with goals, as an executor observes
            them.
        dist: The planner's distributions for them; None where there are no labels.
    """

    answer: Answer
    obs: Floats
    dist: ActionDist | None


@dataclass(frozen=True, slots=True)
class Demands:
    """What an agent wants of a planner besides answers about what it observes.

    Attributes:
        roll: How observations are rolled forward first, None for as they are.
        goals: What the planner's goals look like, None where it gives none.
        executor: The executor that acts meanwhile, and has to be imagined; None where it takes no
            part.
    """

    roll: RollForward | None = None
    goals: Goals | None = None
    executor: Executor | None = None


@final
class Thinker:
    """Asks a planner about the newest observation and those visited since it was last.

    A planner may have an attribute `horizon`: it then answers each observation with so many rows,
    for the ticks from the observation's on. It may answer with a `Guidance`,
    with goals for the executor and with what it expects to be observed. It may have a
    method `improve`, which gives better and better answers (`AnytimePolicy`), and `disagreement`,
    which says how far its members are apart (`Ensemble`); with a method `answer_and_disagreement`,
    which gives both, it is asked once. Where it has an attribute `episode`, that is set to the
    episode's number.

    A planner with a memory steps through the observations one by one, and starts afresh in each
    episode. If one is missing, its memory is wrong until the episode ends: it goes on answering,
    but nothing is learnt of that.

    Args:
        policy: The planner.
        spec: The environment.
        backlog: Whether observations before the newest are wanted as labels.
        demands: What else is wanted.
    """

    def __init__(
        self, policy: Any, spec: Spec, *, backlog: bool, demands: Demands | None = None
    ) -> None:
        """Check what the planner says of itself."""
        wants = demands or Demands()
        self.horizon = int(getattr(policy, "horizon", 1))
        if self.horizon < 1 or not callable(policy):
            raise PlannerError(
                f"{policy!r} is no planner: it has to be callable, with a horizon of "
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
        self._foresight: Foresight | None = None
        if wants.roll is not None:
            self._foresight = Foresight(wants.roll, wants.executor, spec, self._memory)
        self._expects = EXPECTED_BYTES // (4 * max(1, spec.obs.size))
        self._told = hasattr(policy, "episode")
        self._doubts = hasattr(policy, "disagreement")
        # Answer and disagreement in one: each member is asked once.
        plain = not (self.anytime or self.recurrent)
        self._at_once = plain and self._doubts and hasattr(policy, _AT_ONCE)
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

        With a roll-forward, the actions that were sent with an observation are only right if the
        agent had the planner's last answer when it sent them: that answer changes what is done
        next.
        """
        return self._foresight is None or newest.heard >= self._answered

    def warm_up(self) -> None:
        """Ask about nothing once, so that the first answer is not the slowest."""
        obs = np.zeros((1, self._spec.obs.size), np.float32)
        if self.recurrent:
            self._policy(obs, self._policy.initial_state(1))
        else:
            self._policy(obs)

    def think(self, seen: Sequence[Seen]) -> Thought:
        """Ask the planner, and wait for its last answer; see `thoughts`."""
        *_, last = self.thoughts(seen)
        return last

    def thoughts(self, seen: Sequence[Seen]) -> Iterator[Thought]:
        """Ask the planner.

        Args:
            seen: Observations, oldest first; the last is the newest.

        Yields:
            Its answers. All but the last are partial and carry no labels.

        Raises:
            PlannerError: If the planner raised, or answered something that does not fit or is not
                finite.
        """
        try:
            yield from self._thoughts(seen)
        except AgentkdError as error:
            raise PlannerError(str(error)) from error
        except Exception as error:
            raise PlannerError(f"The planner raised {type(error).__name__}: {error}") from error

    def _thoughts(self, seen: Sequence[Seen]) -> Iterator[Thought]:
        if not (self._backlog or self.recurrent):
            seen = seen[-1:]
        newest = seen[-1]
        began = time.monotonic_ns()
        self._id += 1
        if self._told:
            self._policy.episode = newest.episode
        asked, assumed = self._asked(seen)
        predicted = None if assumed is None else asked[-1].obs
        obs = np.stack([each.obs for each in asked])
        sound = np.ones(len(asked), bool)
        doubt = math.nan
        if self.anytime:
            guidance, part = None, -1
            for part, found in enumerate(self._policy.improve(obs)):
                guidance = self._checked(found, 1)
                partial = self._answer(guidance, newest, asked[-1].tick, began)
                partial = replace(partial, assumed=assumed, predicted=predicted)
                yield self._partial(replace(partial, part=part))
            if guidance is None:
                raise PlannerError("The planner's `improve` gave no answer.")
        elif self.recurrent:
            part, guidance = -1, self._step(asked, sound)
        elif self._at_once:
            rows, apart = self._policy.answer_and_disagreement(obs)
            part, guidance = -1, self._checked(rows, len(asked))
            doubt = float(apart[-1])
        else:
            part, guidance = -1, self._checked(self._policy(obs), len(asked))
        if self._doubts and not self._at_once:
            doubt = float(self._policy.disagreement(obs[-1:])[0])
        answer = self._answer(guidance, newest, asked[-1].tick, began)
        kept = np.flatnonzero(sound & (guidance.rows is not None))
        answer = replace(answer, assumed=assumed, predicted=predicted)
        answer = replace(answer, labels=len(kept), part=part + 1, doubt=doubt)
        self._answered = self._id
        yield self._labelled(answer, guidance, asked, kept)

    def _asked(self, seen: Sequence[Seen]) -> tuple[Sequence[Seen], Floats | None]:
        """Return what the planner is shown, and the actions that this counts on."""
        newest = seen[-1]
        if self._foresight is not None and newest.lead:
            obs, assumed = self._foresight(newest)
            ahead = replace(newest, tick=newest.tick + newest.lead, obs=obs)
            # One that is quick labels what was really observed, too.
            both = len(seen) > 1 and not self.anytime
            return [*seen, ahead] if both else [ahead], assumed
        return seen[-1:] if self.anytime else seen, None

    def _checked(self, found: Any, count: int) -> Guidance:
        """Bring an answer about `count` observations into one form.

        Raises:
            PlannerError: If it does not fit.
        """
        guidance = found if isinstance(found, Guidance) else Guidance(rows=found)
        rows, goal = guidance.rows, guidance.goal
        if rows is None and goal is None:
            raise PlannerError("The planner answered neither rows nor a goal.")
        if rows is not None:
            dists.check(rows, self._spec.action, count * self.horizon)
        if goal is not None:
            size = self._memory.goals.size if self._memory is not None else 0
            if goal.shape != (count, size) or not np.isfinite(goal).all():
                raise PlannerError(
                    f"The planner's goals have shape {goal.shape}, for {count} "
                    f"observations and goals of {size} finite numbers. Tell the agent "
                    "their size: StrategyOptions(goals=Goals(size, max_age))."
                )
        expected = guidance.expected
        if expected is not None:
            wanted = (count * self.horizon, self._spec.obs.size)
            if rows is None or expected.shape != wanted:
                raise PlannerError(
                    f"The planner expects observations {expected.shape}; {wanted} "
                    "would go with its rows."
                )
        return guidance

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
        return self._joined(found)

    def _joined(self, found: Sequence[Guidance]) -> Guidance:
        rows = [each.rows for each in found if each.rows is not None]
        goals = [each.goal for each in found if each.goal is not None]
        expected = [each.expected for each in found if each.expected is not None]
        for some in (rows, goals, expected):
            if some and len(some) != len(found):
                raise PlannerError("The planner answers now with, now without rows.")
        return Guidance(
            dists.stack(rows, self._spec.action) if rows else None,
            np.concatenate(goals) if goals else None,
            np.concatenate(expected) if expected else None,
        )

    def _partial(self, answer: Answer) -> Thought:
        nothing = np.empty((0, self._spec.obs.size), np.float32)
        return Thought(replace(answer, partial=True), nothing, None)

    def _answer(self, guidance: Guidance, newest: Seen, tick: int, began: int) -> Answer:
        ended = time.monotonic_ns()
        last = slice(-self.horizon, None)
        rows, expected = guidance.rows, guidance.expected
        if rows is not None:
            packed = np.asarray(dists.pack(rows), np.float32)
            whole = dists.unpack(dists.kind_of(rows), packed, self._spec.action)
            rows = dists.rows(whole, last)
        if expected is not None:
            expected = np.asarray(expected[last], np.float32)
            if len(expected) > self._expects:
                raise PlannerError(
                    f"{len(expected)} expected observations of {self._spec.obs.size} "
                    f"numbers are too many to be carried; {self._expects} are not."
                )
        goal = None
        if guidance.goal is not None:
            goal = np.asarray(guidance.goal[-1:], np.float32)
        return Answer(
            id=self._id,
            episode=newest.episode,
            tick=tick,
            labels=0,
            thinking=(ended - began) * 1e-9,
            latency=(ended - newest.time) * 1e-9,
            rows=rows,
            seen=newest.tick,
            goal=goal,
            expected=expected,
        )

    def _labelled(
        self, answer: Answer, guidance: Guidance, asked: Sequence[Seen], kept: NDArray[Any]
    ) -> Thought:
        if self._memory is not None and guidance.goal is not None:
            for each, goal in zip(asked, guidance.goal, strict=True):
                self._memory.keep(each.episode, each.tick, goal)
        if guidance.rows is None:
            nothing = np.empty((0, self._spec.obs.size), np.float32)
            return Thought(answer, nothing, None)
        if self._memory is None:
            obs = np.stack([each.obs for each in asked])[kept]
        else:
            chosen = [asked[index] for index in kept]
            rows = [self._memory.aged(e.episode, e.tick, e.obs) for e in chosen]
            width = self._spec.obs.size + self._memory.goals.width
            obs = np.reshape(rows, (len(rows), width)).astype(np.float32)
        packed = np.asarray(dists.pack(guidance.rows), np.float32)
        kind = dists.kind_of(guidance.rows)
        whole = dists.unpack(kind, packed, self._spec.action)
        return Thought(answer, obs, dists.rows(whole, kept * self.horizon))
