"""The arbiter: the first source in the fallback order that no router refuses acts.

The order is strategy, executor, hold (the last action again), default. A router is asked about each
source that has an action, and says why it may not act; the default needs no leave. Routers compose
by being several: the first refusal counts.

Where one strategy goes over into another, `HandOver` freezes the old one for some ticks, then
blends. The weights are those of real-time chunking (Black, Galliker and Levine 2025, arXiv
2506.07339, equation 5): 1 while the old actions are frozen, then an exponential decay to exactly 0.
Where the old strategy has no row left, its last action is held; it is never continued with zeros.
Choices are never averaged: they change at a tick.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, final, get_args

import numpy as np

from agentkd import dists
from agentkd.errors import ConfigError, SpecError, did_you_mean
from agentkd.executors.acting import Form
from agentkd.printable import logger
from agentkd.runtime.metrics import Metrics
from agentkd.runtime.strategies import Seam, Strategies
from agentkd.spec import ActionSpec, BoxSpec, Spec
from agentkd.types import ActionDist, Floats, Source, Strategy

log = logger(__name__)

Mode = Literal["runtime", "planner", "executor"]
"""Strategy or executor, whichever is in time; the planner alone; the executor alone."""
MODES: tuple[Mode, ...] = get_args(Mode)
ORDER: tuple[Source, ...] = get_args(Source)
"""The fallback order."""
_WITHOUT: Mapping[Mode, Source | None] = {
    "runtime": None,
    "planner": "executor",
    "executor": "strategy",
}
Chosen = tuple[Any, Source, str]
"""Action, source, reason."""
Actor = tuple[Source, int, int]
"""Who acts: the source, and of a strategy the tick of its observation and its part."""


def check_mode(mode: str) -> Mode:
    """Return a mode; raise ConfigError if it is none."""
    if mode not in MODES:
        raise ConfigError(f"No mode {mode!r}.{did_you_mean(mode, MODES)}")
    return mode


@final
class Moment:
    """What a router sees of a tick. It is the same object at each tick: keep no part.

    Attributes:
        tick: The tick.
        obs: What the environment is observed to be, (obs,).
        left: Seconds until the decision's deadline; infinite without one.
        blind: Whether the observation holds NaN or infinity.
        strategy: The strategy that would act, None where none serves.
        row: Which of its rows is for this tick.
        remaining: Its actions from this tick on, (ticks, …); empty without one.
        age: Ticks since its observation, 0 without one.
        why: Why the source before the one asked about does not act; "" if none.
        held: For how many ticks in a row the last action was held so far.
        mine: What the executor would do, whether or not it takes part.
        actions: What actions look like.
    """

    def __init__(self, spec: Spec) -> None:
        self.actions: ActionSpec = spec.action
        self._form: Form | None = None
        self.begin(0, np.zeros(spec.obs.size, np.float32), None, math.inf, 0)

    def begin(self, tick: int, obs: Floats, form: Form | None, left: float, held: int) -> None:
        """Begin a tick, without any action yet; a `form` has decided on it."""
        self.tick, self.obs, self.left, self.held = tick, obs, left, held
        self.blind, self._form = form is None, form
        self.strategy: Strategy | None = None
        self.row, self.age, self.why = 0, 0, ""
        self.remaining: Sequence[Any] = ()
        self.mine: Any = None
        self._actions: dict[Source, Any] = {}

    def serve(self, strategies: Strategies) -> None:
        """Take note of the strategy that would act."""
        strategy = strategies.current
        assert strategy is not None
        self.strategy, self.row = strategy, strategies.row(strategy, self.tick)
        self.age = max(0, self.tick - strategy.origin)
        # A late answer of a planner that acts alone has its last action left.
        self.remaining = strategy.actions[min(self.row, strategy.horizon - 1) :]

    def action(self, source: Source) -> Any:
        """Return what a source would do, in the environment's units, or None."""
        return self._actions.get(source)

    def apart(self, source: Source, other: Source) -> float:
        """Return how far two sources' actions are apart, 0 to 1; NaN if one has none.

        Choices: the share that differs. Boxes: the mean absolute difference in units of the bounds'
        distance.
        """
        left, right = self._actions.get(source), self._actions.get(other)
        if left is None or right is None:
            return math.nan
        pair = np.asarray([left]), np.asarray([right])
        return 1.0 - float(dists.agreement(*pair, self.actions)[0])

    def executor(self) -> ActionDist:
        """Return the executor's action distribution, one row; ConfigError where it is blind."""
        if self._form is None:
            raise ConfigError("The executor was not asked about a blind observation.")
        return self._form.dist()

    def planner(self) -> ActionDist | None:
        """Return the strategy's action distribution for this tick, one row."""
        if self.strategy is None or self.strategy.rows is None:
            return None
        return dists.rows(self.strategy.rows, slice(self.row, self.row + 1))


class Router(ABC):
    """Refuses sources. It may have a state, which belongs to one agent.

    Attributes:
        ends: Whether a strategy that it refuses is dropped for good, not only passed over at this
            tick.
        judges: Whether it says itself which late rows may act, so that the runtime's own judgement
            (`Trust`) steps back.
    """

    ends: ClassVar[bool] = False
    judges: bool = False

    @abstractmethod
    def veto(self, source: Source, moment: Moment, /) -> str:
        """Say in one word why a source may not act now; "" if it may."""

    def fallback(self, _moment: Moment, /) -> Any:
        """Return an action instead of the default's; None for none."""
        return None

    def reset(self) -> None:  # noqa: B027 (most routers have nothing to forget)
        """Forget the episode."""

    def counts(self) -> Mapping[str, Any]:
        """Return what it counted, by name."""
        return {}


def actor_of(source: Source, strategy: Strategy | None) -> Actor:
    """Name who acts: a source, and which strategy if it is one."""
    return (source, -1, 0) if strategy is None else (source, strategy.origin, strategy.part)


def fading(step: int, blend: int) -> float:
    """Return the old action's weight at a step of a blend: below 1, and 0 from its end on."""
    if step >= blend:
        return 0.0
    c = (blend - step) / (blend + 1)
    return c * math.expm1(c) / math.expm1(1.0)


@final
class HandOver:
    """Blends the actions of the former actor into those of the next one."""

    def __init__(self, seam: Seam, action: ActionSpec) -> None:
        if seam.blend and not isinstance(action, BoxSpec):
            raise ConfigError(
                f"blend={seam.blend} would average {action}. Choices change at a tick; "
                "leave blend out."
            )
        self._blend = seam.blend
        self.reset()

    def reset(self) -> None:
        """Begin an episode: nobody has acted."""
        self._actor: Actor | None = None
        self._from: Source | None = None
        self._since = 0
        self._wanted: tuple[Actor, Any] | None = None
        self._last: Any = None
        self._held: Any = None
        # How far the last action was from what its actor wanted, and what of that is carried on: a
        # blend that is cut short by the next one does not jump.
        self._apart: Any = 0.0
        self._carried: Any = 0.0

    def blended(self, actor: Actor, action: Any, tick: int, outgoing: Any, mine: Any) -> Any:
        """Return the action of the next actor, blended with what was under way.

        `outgoing` is what the strategy before would do now, or None; `mine` is what the executor
        would do now.
        """
        self._wanted = actor, action
        if self._actor is None or not self._blend:
            return action
        if actor == self._actor:
            step, before, old, carried = tick - self._since, self._from, self._held, self._carried
        else:
            step, before, old, carried = 0, self._actor[0], self._last, self._apart
        weight = fading(step, self._blend)
        if not weight or before is None:
            return action
        if before == "executor" and actor[0] == "strategy":
            old = mine + carried
        elif before == "strategy" and actor[0] == "strategy" and outgoing is not None:
            old = outgoing + carried
        return (weight * old + (1.0 - weight) * action).astype(np.float32)

    def acted(self, actor: Actor, action: Any, tick: int) -> None:
        """Note who acted at a tick, and how."""
        if actor[0] == "default":
            # Nobody's wish: there is nothing to go over from.
            self.interrupted()
            return
        if actor != self._actor:
            if self._actor is not None:
                self._from, self._held = self._actor[0], self._last
                self._carried = self._apart
            self._actor, self._since = actor, tick
        self._last, self._apart = action, 0.0
        if self._blend and self._wanted is not None and self._wanted[0] == actor:
            self._apart = action - self._wanted[1]

    def interrupted(self) -> None:
        """Forget what was under way: it was refused, and must not act on."""
        self._actor = self._from = None


@final
class Arbiter:
    """Chooses who acts. It belongs to one thread.

    Where somebody looks (`watched`), `moment` has to begin before a choice.
    """

    def __init__(
        self,
        spec: Spec,
        mode: Mode,
        routers: Sequence[Router],
        seam: Seam | None,
        default: Any,
        metrics: Metrics,
    ) -> None:
        self.routers = tuple(routers)
        self.order = tuple(each for each in ORDER if each != _WITHOUT[mode])
        self.hand_over = HandOver(seam, spec.action) if seam is not None else None
        self.watched = bool(self.routers or self.hand_over)
        self._executor = "executor" in self.order
        self._default, self._metrics = default, metrics
        self.moment = Moment(spec)

    def reset(self) -> None:
        """Begin an episode."""
        for router in self.routers:
            router.reset()
        if self.hand_over is not None:
            self.hand_over.reset()

    def choose(self, strategies: Strategies, theirs: Any, mine: Any, last: Any, why: str) -> Chosen:
        """Take the first source that has an action and that nobody refuses.

        The actions are that of the strategy, of the executor if it was asked, and the last one of
        this episode; each may be None. `why` is why the strategy serves, or why none does.
        """
        wanted = theirs, mine if self._executor else None, last
        if self.watched:
            moment = self.moment
            moment._actions, moment.mine = dict(zip(ORDER, wanted, strict=False)), mine
            if theirs is not None:
                moment.serve(strategies)
        for place, wish in enumerate(wanted):
            if wish is None:
                continue
            if not self.watched:
                return wish, ORDER[place], why
            action, reason = self._asked(ORDER[place], wish, why, strategies)
            if not reason:
                return action, ORDER[place], why
            why = reason
        for router in self.routers:
            action = self._own_default(router)
            if action is not None:
                return action, "default", why
        return self._default, "default", why

    def _asked(
        self, source: Source, action: Any, why: str, strategies: Strategies
    ) -> tuple[Any, str]:
        """Blend an action with what was under way; return it, and why it may not be taken.

        What was under way ends with a refusal.
        """
        moment = self.moment
        if self.hand_over is not None and source != "hold":
            strategy = strategies.current if source == "strategy" else None
            actor, outgoing = actor_of(source, strategy), strategies.outgoing(moment.tick)
            action = self.hand_over.blended(actor, action, moment.tick, outgoing, moment.mine)
        moment.why = why
        moment._actions[source] = action
        for router in self.routers:
            try:
                reason = router.veto(source, moment)
            except Exception as error:
                # Nobody knows whether it may act, so it may not.
                self._fault(router, error)
                reason = "error"
            if reason:
                vetoes = self._metrics.vetoes
                vetoes[source, reason] = vetoes.get((source, reason), 0) + 1
                if source == "strategy":
                    strategies.refuse(reason, drop=router.ends)
                if self.hand_over is not None:
                    self.hand_over.interrupted()
                return action, reason
        return action, ""

    def _own_default(self, router: Router) -> Any:
        """Return a router's action instead of the default's, if it is one."""
        try:
            action = router.fallback(self.moment)
            return None if action is None else _checked(action, self._default)
        except Exception as error:
            self._fault(router, error)
            return None

    def _fault(self, router: Router, error: Exception) -> None:
        """Log the first error, the second, the fourth, the eighth, and so on."""
        self._metrics.router_errors += 1
        count = self._metrics.router_errors
        if count & (count - 1) == 0:
            name = type(router).__name__
            log.warning("%s failed (%d errors so far).", name, count, exc_info=error)


def _checked(action: Any, default: Any) -> Any:
    """Make sure that what stands in for the default is an action as well."""
    array = np.asarray(action)
    if array.shape != np.shape(default) or not np.isfinite(array).all():
        raise SpecError(f"{action!r} is not an action such as {default!r}.")
    return array if array.ndim else int(array)
