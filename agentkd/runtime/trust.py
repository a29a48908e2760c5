"""Whether a row that arrived late is still right.

A row is planned for one state, and the state changes while the planner thinks. The row for the
observation at hand is the planner's own word and always acts. Any other row acts in the executor's
place only if it passes four tests, in this order (docs/reference/runtime.md, Late rows). The first
that fails is the reason, and ends the strategy:

1. The state that it is for was predicted (`RollForward`, `Guidance.expected`), else it is
   **unpredicted**.
2. What was executed since is what the prediction counted on, else the world **changed**. Where the
   planner says what it expects at each row, the row may act all the same if that is what is seen;
   but such a row says nothing of how good predictions are.
3. The executor does the same at the predicted and at the seen observation, and predictions explain
   at least half of how observations move, else there was a **surprise**. An executor that does the
   same everywhere notices nothing.
4. Rows of this age have been no further from the executor than planner and executor are about one
   and the same observation, else they lead **astray**.

Until there are a few comparisons, 3 and 4 give **unproven**. Distances between actions are mean
absolute differences in units of the bounds' distance; for choices, the share that differs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import numpy as np

from agentkd.runtime.distances import Apart, RunningMean
from agentkd.runtime.strategies import Strategies, Trust
from agentkd.spec import ActionSpec, BoxSpec
from agentkd.types import Floats, Strategy

IDLE = object()
"""Executed where the world stood still, because nobody decided."""
_KEPT = 1024
"""Ticks whose actions are remembered."""
_FORGET = 1 / 32
_BEFORE_BOXES, _BEFORE_CHOICES = 0.1, 1.0
"""Distances that are expected before any was seen."""
_FEW = 8
_ROUNDING, _LEAST = 1e-8, 1e-16
_AGES = 12
"""Ages are counted in groups: 1, 2, 3 to 4, 5 to 8, and so on."""


class _Missed:
    """The share of how far observations move that predictions miss, lately.

    A constant prediction, or that of no movement, has a share near 1 and an exact one
    0. The first movement counts as missed, so that a few good predictions prove
    nothing.
    """

    def __init__(self) -> None:
        self.count = 0
        self._last: Any = None
        self._error: Any = None
        self._moved: Any = None

    def note(self, predicted: Floats, seen: Floats) -> float:
        """Compare a prediction with what was seen, (obs,); return the share, 0 to 1."""
        last, self._last = self._last, seen.astype(np.float64)
        if last is None:
            return 1.0
        moved = np.square(self._last - last)
        if self._moved is None:
            self.count, self._error, self._moved = 1, moved.copy(), moved.copy()
        self.count += 1
        weight = max(_FORGET, 1 / self.count)
        self._error += weight * (np.square(predicted - self._last) - self._error)
        self._moved += weight * (moved - self._moved)
        # Differences of float32's own size are none.
        least = np.maximum(_ROUNDING * np.square(self._last), _LEAST)
        most = np.maximum(np.maximum(self._moved, self._error), least)
        return float(np.mean(self._error / most))


@final
class History:
    """What the executor would have done and what was executed at the last ticks.

    An action is None where it is not known, and `IDLE` was executed where nothing was.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[int, Any, Any]] = [(-1, None, None)] * _KEPT

    def own(self, tick: int, action: Any) -> None:
        """Note what the executor would do at a tick."""
        self._kept[tick % _KEPT] = tick, action, None

    def executed(self, tick: int, action: Any) -> None:
        """Note what was executed at a tick."""
        self._kept[tick % _KEPT] = tick, self.at(tick)[0], action

    def at(self, tick: int) -> tuple[Any, Any]:
        """Return what the executor would have done at a tick, and what was executed."""
        kept, own, did = self._kept[tick % _KEPT]
        return (own, did) if kept == tick else (None, None)


class _Case:
    """A strategy that is judged: how far its past was checked, and why it ended.

    `kept` is whether what was executed is what its prediction counted on.
    """

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self.next, self.step, self.ended = strategy.origin, 0, ""
        self.missed: float | None = None
        self.kept = True


@final
class Judge:
    """Applies `Trust`, tick by tick. It belongs to one thread.

    `executor` gives the executor's action at an observation, (obs,).
    """

    def __init__(
        self,
        trust: Trust,
        action: ActionSpec,
        history: History,
        executor: Callable[[Floats], Any],
        vetoes: dict[tuple[str, str], int],
    ) -> None:
        self.trust, self._history, self._executor = trust, history, executor
        self._vetoes = vetoes
        self._apart = Apart(action)
        self._base = RunningMean()
        before = _BEFORE_BOXES if isinstance(action, BoxSpec) else _BEFORE_CHOICES
        self._error, self._missed = RunningMean(before), _Missed()
        self._aged = [RunningMean(before) for _ in range(_AGES)]
        self._case: _Case | None = None
        self._former: _Case | None = None

    def choose(
        self, strategies: Strategies, served: tuple[Any, str], tick: int, seen: tuple[Floats, Any]
    ) -> tuple[Any, str]:
        """Return the action of the newest strategy that is still right, and why.

        Strategies that are not right end. `served` is the newest one's action and why it serves;
        `seen` is the observation and what the executor would do, or None.
        """
        (action, why), first = served, ""
        while action is not None:
            strategy = strategies.current
            assert strategy is not None
            reason = self._verdict(strategy, strategies.row(strategy, tick), tick, seen)
            if not reason:
                return action, why
            first = first or reason
            key = "strategy", reason
            self._vetoes[key] = self._vetoes.get(key, 0) + 1
            strategies.refuse(reason)
            strategies.revert()
            action, why = strategies.serve(tick)
        return None, first

    def _verdict(self, strategy: Strategy, row: int, tick: int, seen: tuple[Floats, Any]) -> str:
        """Return why a strategy may not act at a tick; "" if it may."""
        case = self._case
        if case is None or case.strategy is not strategy:
            case = self._open(strategy)
        if tick == strategy.origin:
            return ""
        if not case.ended:
            case.ended = self._refusal(case, row, tick, seen)
        return case.ended

    def _open(self, strategy: Strategy) -> _Case:
        """Take up a strategy, or again the one before the one at hand."""
        former, self._former = self._former, self._case
        if former is not None and former.strategy is strategy:
            self._case = former
            return former
        # How far are planner and executor apart about the same observation?
        own = self._imagined(strategy)
        if strategy.obs_tick == strategy.origin:
            own = self._history.at(strategy.origin)[0]
        if own is not None:
            self._base.note(self._apart(own, strategy.actions[0]))
        self._case = case = _Case(strategy)
        return case

    def _refusal(self, case: _Case, row: int, tick: int, seen: tuple[Floats, Any]) -> str:
        strategy, (obs, mine) = case.strategy, seen
        expected = strategy.expected
        if mine is None or (strategy.assumed is None and expected is None):
            return "unpredicted"
        if strategy.assumed is not None and case.kept:
            case.kept = self._as_assumed(case, tick)
        if expected is None and not case.kept:
            return "changed"
        trust, base = self.trust, self._base.value
        aged = self._aged[min((tick - strategy.origin - 1).bit_length(), _AGES - 1)]
        if case.kept:
            aged.note(self._apart(strategy.actions[row], mine))
        if expected is not None or row == 0:
            # The observation that the row is for, and what the executor does there.
            if expected is None:
                there, predicted = strategy.predicted, self._imagined(strategy)
            else:
                there, predicted = expected[row], self._executor(expected[row])
            if predicted is None or there is None:
                return "unpredicted"
            apart, error = self._apart(predicted, mine), self._error
            limit = trust.sharp * base + trust.slack
            if case.kept:
                if case.missed is None:
                    case.missed = self._missed.note(there, obs)
                error.note(apart)
                close = error.value <= limit and apart <= trust.surprise
                right = close and case.missed <= trust.missed
            else:
                # Expected after actions that nobody executed: that says nothing of predictions.
                right = apart <= limit
            few = min(error.count, self._missed.count) <= _FEW
            if not right or (few and not case.kept):
                return "unproven" if few else "surprise" if case.kept else "changed"
        if not aged.value <= trust.excess * base + trust.slack:
            return "astray" if aged.count > _FEW else "unproven"
        return ""

    def _imagined(self, strategy: Strategy) -> Any:
        """Return what the executor would do at the predicted observation."""
        lead = strategy.obs_tick - strategy.origin
        assumed = strategy.assumed
        return assumed[lead] if assumed is not None and len(assumed) > lead else None

    def _as_assumed(self, case: _Case, tick: int) -> bool:
        """Compare what was executed before a tick with what was counted on."""
        strategy = case.strategy
        lead = strategy.obs_tick - strategy.origin
        while case.next < tick:
            did = self._history.at(case.next)[1]
            case.next += 1
            if did is IDLE:
                continue
            step, case.step = case.step, case.step + 1
            wanted = None
            if step >= lead:
                wanted = strategy.actions[step - lead]
            elif strategy.assumed is not None:
                wanted = strategy.assumed[step]
            if did is None or wanted is None or self._apart(did, wanted) > self.trust.same:
                return False
        return True
