"""Whether the planner's late answers are better than the executor, as its later answers say.

An answer says what the planner wanted at a tick that is over. So it can be compared with what the
executor wanted at that tick, and with what the planner alone would have done there: act on its
answers before, held. Where the executor is much further from the planner, as one that has hardly
learnt is, late answers stand in for it.

The first comparisons are made while the executor acts, and an action that is late may steer worse
than it looks. So stints are judged by what is compared during them. Once late answers were further
from the planner than the executor, at the states to which they steered, the next stint needs twice
as many comparisons; after the second time there is none.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, final

from agentkd import dists
from agentkd.printable import logger
from agentkd.runtime.distances import Apart, RunningMean
from agentkd.spec import ActionSpec
from agentkd.types import AnyDist

log = logger(__name__)

_FEW = 16
"""Comparisons before the first stint."""
_TRIALS = 2
"""How often stints may be found worse."""
_TRIED = 8
"""Comparisons during stints before they are judged by them."""
_REMEMBERED = 64
_NEAR = 0.01
"""An executor that is as near as this is good enough."""
_LATEST = 2.0
"""Ticks that answers may take in the mean; of later ones nearness says too little."""
HELD = 5
"""Ticks for which one is held after its last row: two answers take no longer; else none comes."""
_LEAVE = 1.5
"""By how much the bound is wider for answers that stand in already."""
_SELDOM, _CALM = 8, 0.1
"""After so many comparisons in a row that were so near, one answer of as many is compared."""


@dataclass(slots=True)
class _Answer:
    """An answer, read when it is compared."""

    asked: int
    ready: int
    rows: AnyDist
    actions: Any = None

    def action(self, tick: int, action: ActionSpec) -> Any:
        """Return what the planner alone would do by it at a tick."""
        if self.actions is None:
            self.actions = dists.mode(self.rows, action)
        return self.actions[min(tick - self.asked, len(self.actions) - 1)]


@final
class StandIn:
    """Compares executor and late answers. It belongs to one thread.

    Args:
        share: How much nearer late answers have to be: their mean distance from the planner's
            answers, as a share of the executor's.
        action: What actions look like.

    Attributes:
        stands: Whether late answers stand in for the executor.
        stints: How often they began to.
    """

    def __init__(self, share: float, action: ActionSpec) -> None:
        self._share, self._apart, self._action = share, Apart(action), action
        self._before: deque[_Answer] = deque(maxlen=_REMEMBERED)
        self._took, self._mine, self._late = RunningMean(), RunningMean(), RunningMean()
        self._during = RunningMean(), RunningMean()
        self.stands, self.stints = False, 0
        self._failed = self._passed = self._calm = self._since = 0

    def reset(self) -> None:
        """Begin an episode."""
        self._before.clear()

    def swapped(self) -> None:
        """Note that another executor acts: what the former one did hardly counts any more."""
        self._mine.count = min(self._mine.count, 1)
        self._during = RunningMean(), RunningMean()
        self._calm = 0

    def take(self, asked: int, ready: int, rows: AnyDist, mine: Any) -> None:
        """Compare what was done at the tick that an answer is for with it.

        Args:
            asked: The tick that the answer is for.
            ready: The tick at which it arrived.
            rows: Its rows, for `asked` and the ticks after it.
            mine: What the executor would have done at `asked`, None if that is unknown.
        """
        self._took.note(ready - asked)
        answer = _Answer(asked, ready, rows)
        # While the executor is near, a few answers tell as much, and cost the tick less.
        self._passed = (self._passed + 1) % _SELDOM
        if self.stands or self._calm < _SELDOM or not self._passed:
            self._compare(answer, mine)
        self._before.append(answer)

    def _compare(self, answer: _Answer, mine: Any) -> None:
        asked = answer.asked
        held = self._held(asked, asked), self._held(asked - 1, asked)
        # Where nothing is compared for long, as in short episodes, nothing is known any more.
        self._since += 1
        if mine is not None and held[0] is not None and held[1] is not None:
            word, self._since = answer.action(asked, self._action), 0
            apart = self._apart(mine, word)
            self._calm = self._calm + 1 if apart < _CALM else 0
            self._mine.note(apart)
            # It was as old as the first at `asked`, and nearly as old as the second before that.
            late = 0.5 * sum(self._apart(each, word) for each in held)
            self._late.note(late)
            if self.stands:
                for mean, value in zip(self._during, (apart, late), strict=True):
                    mean.note(value)
        self._decide()

    def _decide(self) -> None:
        mine, late, (theirs, during) = self._mine.value, self._late.value, self._during
        bound = self._share * (mine - _NEAR)
        prompt = self._took.value <= _LATEST and self._since < _FEW
        if not self.stands:
            enough = self._mine.count >= _FEW << self._failed and self._failed < _TRIALS
            self.stands = prompt and enough and late < bound
            if self.stands:
                self.stints += 1
                if self.stints == 1:
                    log.info(
                        "The planner's late answers stand in for the executor: %.2g from what the "
                        "planner says later, the executor %.2g. Trust(stand_in=0) prevents it.",
                        late,
                        mine,
                    )
            return
        # Where they steer, they are further from the planner's answers than the executor is.
        worse = during.count >= _TRIED and during.value > theirs.value
        self.stands = prompt and not worse and late < _LEAVE * bound
        if worse:
            self._failed += 1
            self._mine, self._late = RunningMean(), RunningMean()
            self._during = RunningMean(), RunningMean()

    def _held(self, known: int, tick: int) -> Any:
        """Return what the planner alone would do at a tick by what had arrived when `known`."""
        for answer in reversed(self._before):
            if answer.ready <= known:
                return answer.action(tick, self._action)
        return None
