"""Whether the planner's late answers are better than the executor, as its own word later says.

An answer says what the planner wanted at a tick that is over. So it can be compared with what the
executor wanted at that tick, and with what the planner alone would have done there: acted on its
answers before, held. Where the executor is much further from the planner's word, as one that has
hardly learnt is, late answers stand in for it.
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
"""Comparisons before anything is said."""
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
        share: How much nearer late answers have to be: their mean distance from the planner's word,
            as a share of the executor's.
        action: What actions look like.

    Attributes:
        stands: Whether late answers stand in for the executor.
    """

    def __init__(self, share: float, action: ActionSpec) -> None:
        self.stands = False
        self._share, self._apart, self._told = share, Apart(action), False
        self._mine, self._late, self._took = RunningMean(), RunningMean(), RunningMean()
        self._action, self._passed, self._calm = action, 0, 0
        self._before: deque[_Answer] = deque(maxlen=_REMEMBERED)

    def reset(self) -> None:
        """Begin an episode."""
        self._before.clear()

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
        often = self.stands or self._calm < _SELDOM
        if mine is not None and (often or not self._passed):
            held = self._held(asked, asked), self._held(asked - 1, asked)
            if held[0] is not None and held[1] is not None:
                word = answer.action(asked, self._action)
                apart = self._apart(mine, word)
                self._calm = self._calm + 1 if apart < _CALM else 0
                self._mine.note(apart)
                # It was as old as the first at `asked`, and nearly as old as the second before.
                self._late.note(0.5 * sum(self._apart(each, word) for each in held))
                self._decide()
        self._before.append(answer)

    def _decide(self) -> None:
        mine, late, before = self._mine, self._late, self.stands
        bound = self._share * (mine.value - _NEAR) * (_LEAVE if before else 1.0)
        prompt = mine.count >= _FEW and self._took.value <= _LATEST
        self.stands = prompt and late.value < bound
        if self.stands and not self._told:
            self._told = True
            log.info(
                "The planner's late answers stand in for the executor: %.2g from what it says "
                "later, the executor %.2g. Trust(stand_in=0) is for never.",
                late.value,
                mine.value,
            )

    def _held(self, known: int, tick: int) -> Any:
        """Return what the planner alone would do at a tick by what had arrived when `known`."""
        for answer in reversed(self._before):
            if answer.ready <= known:
                return answer.action(tick, self._action)
        return None
