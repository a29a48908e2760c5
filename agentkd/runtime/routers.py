"""Routers ready to use; they compose by being several, and the first refusal counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, final

import numpy as np

from agentkd import dists
from agentkd.errors import ConfigError, check_range
from agentkd.runtime.arbiter import Moment, Router
from agentkd.runtime.rollforward import Check
from agentkd.spec import ActionSpec
from agentkd.types import Floats, Policy, Source, Strategy

Precondition = Callable[[Strategy, Floats, int], bool]
"""Says whether a strategy still holds, given the observation (obs,) and its row."""
Plan = Callable[[Floats, Sequence[Any]], bool]
"""Says whether actions still lead where they should, given the observation (obs,)."""
Measure = Callable[[Floats], float]
"""How uncertain the executor is about an observation, (obs,)."""
Baseline = Callable[[Floats], Any]
"""A controller that is trusted: the observation, (obs,), to an action."""

_DECIDERS: tuple[Source, ...] = ("strategy", "executor")


@final
class Deadline(Router):
    """Refuses the strategy with less than `reserve` seconds left until the deadline.

    Put it first: what the other routers ask may take long.
    """

    def __init__(self, reserve: float) -> None:
        check_range("reserve", reserve, least=0, below=math.inf)
        self._reserve = reserve

    def veto(self, source: Source, moment: Moment, /) -> str:
        """Refuse the strategy where there is too little time."""
        return "deadline" if source == "strategy" and moment.left < self._reserve else ""


@final
class Fresh(Router):
    """Drops strategies whose observation is older than `max_age` ticks."""

    ends: ClassVar[bool] = True
    judges = True

    def __init__(self, max_age: int) -> None:
        check_range("max_age", max_age, least=0, whole=True)
        self._max_age = max_age

    def veto(self, source: Source, moment: Moment, /) -> str:
        """Refuse a strategy that is too old."""
        return "stale" if source == "strategy" and moment.age > self._max_age else ""


@final
class Valid(Router):
    """Drops a strategy once the world is not what it was made for.

    Args:
        precondition: Asked before each row is used.
        tolerance: How far a number of the observation may be from what the planner expected to be
            observed (`Guidance.expected`); strategies without expectations pass.
        holds: Asked, of the observation and the actions that are left, whether they still lead
            where they should.

    Raises:
        ConfigError: If none of them is given.
    """

    ends: ClassVar[bool] = True
    judges = True

    def __init__(
        self,
        precondition: Precondition | None = None,
        *,
        tolerance: float | Floats | None = None,
        holds: Plan | None = None,
    ) -> None:
        if precondition is None and tolerance is None and holds is None:
            raise ConfigError("Valid needs a precondition, a tolerance or `holds`.")
        if tolerance is not None and not np.all(np.asarray(tolerance) >= 0):
            raise ConfigError(f"tolerance is {tolerance}; at least 0.")
        self._precondition, self._tolerance = precondition, tolerance
        self._holds = holds

    def veto(self, source: Source, moment: Moment, /) -> str:
        """Refuse a strategy that does not hold."""
        strategy, obs, row = moment.strategy, moment.obs, moment.row
        if source != "strategy" or strategy is None:
            return ""
        holds = True
        if self._tolerance is not None and strategy.expected is not None:
            # A late row of a planner that acts alone was expected at another tick.
            expected = strategy.expected[min(row, len(strategy.expected) - 1)]
            holds = bool(np.all(np.abs(obs - expected) <= self._tolerance))
        if holds and self._precondition is not None:
            holds = self._precondition(strategy, obs, row)
        if holds and self._holds is not None:
            holds = self._holds(obs, moment.remaining)
        return "" if holds else "diverged"


@final
class Uncertainty(Router):
    """Refuses the executor where it is uncertain, or where its uncertainty is unknown.

    Args:
        most: How uncertain it may be.
        measure: How uncertain it is about an observation; by default the entropy of its
            distribution in nats, which executors of boxes do not have: give `spread([executor, …])`
            there.
    """

    def __init__(self, most: float, measure: Measure | None = None) -> None:
        if math.isnan(most):
            raise ConfigError("most is NaN; how uncertain may the executor be?")
        self._most, self._measure = most, measure

    def veto(self, source: Source, moment: Moment, /) -> str:
        """Refuse an executor that is too uncertain."""
        if source != "executor":
            return ""
        if self._measure is not None:
            value = float(self._measure(moment.obs))
        else:
            value = float(dists.entropy(moment.executor(), moment.actions)[0])
        return "" if value <= self._most else "uncertain"


def spread(executors: list[Policy], action: ActionSpec) -> Measure:
    """Measure uncertainty by how far several executors' actions are apart.

    Args:
        executors: At least two, such as distillations with different seeds.
        action: Their actions.

    Returns:
        A measure for `Uncertainty`: the largest distance of an executor's action from
        the first one's, 0 to 1 as `Moment.apart` gives it.
    """
    if len(executors) < 2:
        raise ConfigError(f"A spread of {len(executors)} executors; at least 2.")

    def measure(obs: Floats) -> float:
        actions = [dists.mode(each(obs[None]), action) for each in executors]
        agreed = [dists.agreement(actions[0], other, action) for other in actions[1:]]
        return 1.0 - float(min(each[0] for each in agreed))

    return measure


@final
class Disagreement(Router):
    """Refuses a source where it is disputed.

    Args:
        most: How far apart the disputants may be.
        between: "executor": the strategy's action and the executor's, 0 to 1 as `Moment.apart`
            gives it. "members": the planner's own, as its `disagreement` gave it for the
            observation (`Ensemble`); others pass.
        against: Who is refused then.
    """

    def __init__(
        self,
        most: float,
        *,
        between: Literal["executor", "members"] = "executor",
        against: Literal["strategy", "executor"] = "strategy",
    ) -> None:
        check_range("most", most, least=0)
        if between not in ("executor", "members") or against not in _DECIDERS:
            raise ConfigError(
                f"between={between!r}, against={against!r}: 'executor' or 'members', "
                "'strategy' or 'executor'."
            )
        self._most, self._between, self._against = most, between, against
        self.judges = against == "strategy"

    def veto(self, source: Source, moment: Moment, /) -> str:
        """Refuse the source where the two are too far apart."""
        if source != self._against or moment.strategy is None:
            return ""
        inner = self._between == "members"
        apart = moment.strategy.doubt if inner else moment.apart("strategy", "executor")
        return "disputed" if apart > self._most else ""


@final
class Guard(Router):
    """Lets nobody do what is not safe (Simplex: Sha 2001; two-way: Dynamic Simplex).

    A source whose action the check refuses is passed over, and stays so for `dwell` ticks at least
    and until `recover` of its actions in a row would have been safe. So control goes down the
    fallback order at once, and back up only when it is sure.

    Args:
        check: Whether an action may be taken, given the observation (obs,).
        baseline: A trusted controller, in whose place holding makes no sense: it acts (source
            "default") where the guard refused everybody before it.
        back: A stricter check for the way back; by default the same.
        dwell: Ticks for which a source that was refused is not asked again.
        recover: Safe actions in a row after which it acts again.
    """

    def __init__(
        self,
        check: Check,
        *,
        baseline: Baseline | None = None,
        back: Check | None = None,
        dwell: int = 0,
        recover: int = 1,
    ) -> None:
        check_range("dwell", dwell, least=0, whole=True)
        check_range("recover", recover, least=1, whole=True)
        self._check, self._back, self._baseline = check, back or check, baseline
        self._dwell, self._recover = dwell, recover
        self._out: dict[Source, int] = {}
        self._safe: dict[Source, int] = {}
        self._tick = -1
        self._interventions = 0
        self._refused: dict[str, int] = {}

    def reset(self) -> None:
        """Trust everybody again: another episode begins."""
        self._out.clear()
        self._safe.clear()

    def veto(self, source: Source, moment: Moment, /) -> str:
        """Refuse an unsafe action, and its source for a while."""
        if moment.blind:
            # Of what is not observed no check can tell anything.
            return ""
        if source == "hold" and self._baseline and self._tick == moment.tick:
            return "guard"
        action = moment.action(source)
        since = self._out.get(source)
        if since is None:
            if self._check(moment.obs, action):
                return ""
            self._out[source], self._safe[source] = moment.tick, 0
            return self._refuse(source, moment.tick)
        safe = bool(self._back(moment.obs, action))
        self._safe[source] = self._safe[source] + 1 if safe else 0
        if moment.tick - since > self._dwell and self._safe[source] >= self._recover:
            del self._out[source]
            return ""
        if not safe:
            self._out[source] = moment.tick
        return self._refuse(source, moment.tick)

    def _refuse(self, source: Source, tick: int) -> str:
        self._refused[source] = self._refused.get(source, 0) + 1
        self._interventions += tick != self._tick
        self._tick = tick
        return "guard"

    def fallback(self, moment: Moment, /) -> Any:
        """Return the baseline's action, where there is a baseline that can see."""
        if self._baseline is None or moment.blind or self._tick != moment.tick:
            return None
        return self._baseline(moment.obs)

    def counts(self) -> Mapping[str, Any]:
        """Return the ticks at which it refused a source, and how often each."""
        return {
            "guard_interventions_total": self._interventions,
            "guard_refused_total": dict(self._refused),
        }


@final
class Shadow(Router):
    """Lets a source decide without acting, and counts how often it agreed with the other."""

    def __init__(self, source: Literal["strategy", "executor"]) -> None:
        if source not in _DECIDERS:
            raise ConfigError(f"Shadow({source!r}): 'strategy' or 'executor'.")
        # Without the executor a late row is better than none.
        self.judges = source == "executor"
        self._source: Source = source
        self._other: Source = "executor" if source == "strategy" else "strategy"
        self._count, self._sum = 0, 0.0

    def veto(self, source: Source, moment: Moment, /) -> str:
        """Refuse it always, once it was compared with the other."""
        if source != self._source:
            return ""
        apart = moment.apart(self._source, self._other)
        if not math.isnan(apart):
            self._count += 1
            self._sum += 1.0 - apart
        return "shadow"

    def counts(self) -> Mapping[str, Any]:
        """Return how often it was compared, and its agreement, 0 to 1."""
        mean = self._sum / self._count if self._count else None
        return {"shadow_compared_total": self._count, "shadow_agreement": mean}


@final
class Hold(Router):
    """Refuses to hold the last action for more than `most` ticks in a row."""

    def __init__(self, most: int) -> None:
        check_range("most", most, least=0, whole=True)
        self._most = most

    def veto(self, source: Source, moment: Moment, /) -> str:
        """Refuse to hold for longer."""
        return "held" if source == "hold" and moment.held >= self._most else ""


@final
class Unless(Router):
    """A router that is overruled where another one, the condition, refuses the executor.

    `Unless(Fresh(2), Uncertainty(0.5))` lets a strategy act that is older than two ticks, where the
    executor is not certain.
    """

    def __init__(self, router: Router, condition: Router) -> None:
        self._router, self._condition = router, condition
        self.judges = router.judges

    def veto(self, source: Source, moment: Moment, /) -> str:
        """Refuse what the router refuses, unless the condition holds."""
        reason = self._router.veto(source, moment)
        if reason and not moment.blind and self._condition.veto("executor", moment):
            return ""
        return reason

    def fallback(self, moment: Moment, /) -> Any:
        """Return what the router falls back on."""
        return self._router.fallback(moment)

    def reset(self) -> None:
        """Forget the episode."""
        self._router.reset()
        self._condition.reset()

    def counts(self) -> Mapping[str, Any]:
        """Return what both counted."""
        return {**self._router.counts(), **self._condition.counts()}
