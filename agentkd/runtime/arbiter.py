"""The arbiter: the first source in the fallback order that no router refuses acts.

The order is strategy, executor, hold (the last action again), default. A router is asked about each
source that has an action, and says why it may not act; the default needs no leave. Routers compose
by being several: the first refusal counts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, final, get_args

import numpy as np

from agentkd import dists
from agentkd.errors import ConfigError, SpecError, did_you_mean
from agentkd.executors.acting import Form
from agentkd.printable import logger
from agentkd.runtime.blending import Actor, HandOver, Seam
from agentkd.runtime.metrics import Metrics
from agentkd.runtime.strategies import Strategies
from agentkd.spec import ActionSpec, Spec
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


def check_mode(mode: str) -> Mode:
    """Return a mode, or raise ConfigError if it is none."""
    for known in MODES:
        if mode == known:
            return known
    raise ConfigError(f"No mode {mode!r}.{did_you_mean(mode, MODES)}")


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
    """

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._form: Form | None = None
        self.begin(0, np.zeros(spec.obs.size, np.float32), None, float("inf"), 0)

    def begin(self, tick: int, obs: Floats, form: Form | None, left: float, held: int) -> None:
        """Begin a tick, without any action yet; a `form` has decided on it."""
        self.tick, self.obs, self.left, self.held = tick, obs, left, held
        self.blind, self._form = form is None, form
        self.strategy: Strategy | None = None
        self.row, self.age, self.why = 0, 0, ""
        self.remaining: Sequence[Any] = ()
        self.mine: Any = None
        self._actions: dict[Source, Any] = {}

    def offer(self, actions: dict[Source, Any], mine: Any) -> None:
        """Take what each source would do; the mapping is kept."""
        self._actions, self.mine = actions, mine

    def propose(self, source: Source, action: Any) -> None:
        """Take what a source would do instead."""
        self._actions[source] = action

    def serve(self, strategies: Strategies) -> None:
        """Take note of the strategy that would act."""
        strategy = strategies.current
        assert strategy is not None
        self.strategy, self.row = strategy, strategies.row(strategy, self.tick)
        self.age = max(0, self.tick - strategy.origin)
        # A late answer of a planner that acts alone has its last action left.
        self.remaining = strategy.actions[min(self.row, strategy.horizon - 1) :]

    @property
    def actions(self) -> ActionSpec:
        """What actions look like."""
        return self._spec.action

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
            return float("nan")
        pair = np.asarray([left]), np.asarray([right])
        return 1.0 - float(dists.agreement(*pair, self._spec.action)[0])

    def executor(self) -> ActionDist:
        """The executor's action distribution, one row.

        Raises:
            ConfigError: If it was not asked: the observation is blind.
        """
        if self._form is None:
            raise ConfigError("The executor was not asked about a blind observation.")
        return self._form.dist()

    def planner(self) -> ActionDist | None:
        """The strategy's action distribution for this tick, one row."""
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
    if strategy is None:
        return source, -1, 0
    return source, strategy.origin, strategy.part


@final
class Arbiter:
    """Chooses who acts. It belongs to one thread."""

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
        self._moment = Moment(spec)

    def reset(self) -> None:
        """Begin an episode."""
        for router in self.routers:
            router.reset()
        if self.hand_over is not None:
            self.hand_over.reset()

    def show(self, tick: int, obs: Floats, form: Form | None, left: float, held: int) -> None:
        """Show a tick to the routers; needed only where there is one (`watched`).

        `form` is None where the observation is blind; `left` is in seconds.
        """
        self._moment.begin(tick, obs, form, left, held)

    def choose(self, strategies: Strategies, theirs: Any, mine: Any, last: Any, why: str) -> Chosen:
        """Take the first source that has an action and that nobody refuses.

        Args:
            strategies: The strategies, the one that serves among them.
            theirs: Its action, or None.
            mine: The executor's action; None if it was not asked.
            last: The last action of this episode, or None.
            why: Why the strategy serves, or why none does.
        """
        wanted = theirs, mine if self._executor else None, last
        if self.watched:
            self._moment.offer(dict(zip(ORDER, wanted, strict=False)), mine)
            if theirs is not None:
                self._moment.serve(strategies)
        for place, action in enumerate(wanted):
            if action is None:
                continue
            if not self.watched:
                return action, ORDER[place], why
            blended, reason = self._asked(ORDER[place], action, why, strategies)
            if not reason:
                return blended, ORDER[place], why
            why = reason
        for router in self.routers:
            action = self._own_default(router)
            if action is not None:
                return action, "default", why
        return self._default, "default", why

    def _asked(
        self, source: Source, action: Any, why: str, strategies: Strategies
    ) -> tuple[Any, str]:
        """Blend an action with what was under way, and ask whether it may be taken."""
        moment = self._moment
        if self.hand_over is not None and source != "hold":
            strategy = strategies.current if source == "strategy" else None
            actor, outgoing = (actor_of(source, strategy), strategies.outgoing(moment.tick))
            action = self.hand_over.blended(actor, action, moment.tick, outgoing, moment.mine)
        moment.why = why
        moment.propose(source, action)
        return action, self._refusal(source, strategies)

    def _refusal(self, source: Source, strategies: Strategies) -> str:
        """Return why a source may not act; what was under way then ends."""
        for router in self.routers:
            try:
                reason = router.veto(source, self._moment)
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
                return reason
        return ""

    def _own_default(self, router: Router) -> Any:
        """Return a router's action instead of the default's, if it is one."""
        try:
            action = router.fallback(self._moment)
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
        raise SpecError(f"{action!r} is no action such as {default!r}.")
    return array if array.ndim else int(array)
