"""Asks the routers, source by source, and hands over from one to the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np

from agentkd.errors import SpecError
from agentkd.executors.acting import Form
from agentkd.printable import logger
from agentkd.runtime.metrics import Metrics
from agentkd.runtime.router import Mode, Moment, Router, taking_part
from agentkd.runtime.seams import Actor, HandOver, Seam
from agentkd.runtime.strategies import Strategies, Track
from agentkd.spec import Spec
from agentkd.types import Floats, Source

log = logger(__name__)

Chosen = tuple[Any, Source, str]
"""Action, source, reason."""


def actor_of(source: Source, track: Track | None) -> Actor:
    """Name who acts: a source, and which strategy if it is one."""
    return (source, track.origin, track.part) if track is not None else (source, -1, 0)


@final
class Routing:
    """Chooses who acts. It belongs to one thread.

    Args:
        spec: The environment.
        mode: Who takes part.
        routers: Who is asked.
        seam: How one goes over into the next, None for at once.
        metrics: Where refusals are counted.
    """

    def __init__(
        self, spec: Spec, mode: Mode, routers: Sequence[Router], seam: Seam | None, metrics: Metrics
    ) -> None:
        """Begin before the first tick."""
        self.routers = tuple(routers)
        self.order = taking_part(mode, self.routers)
        self.hand_over = HandOver(seam, spec.action) if seam is not None else None
        self._metrics = metrics
        self._moment = Moment(spec)

    def reset(self) -> None:
        """Begin an episode."""
        for router in self.routers:
            router.reset()
        if self.hand_over is not None:
            self.hand_over.reset()

    def handed_over(
        self, strategies: Strategies, track: Track | None, action: Any, tick: int
    ) -> Any:
        """Blend a strategy's action with what was under way."""
        if self.hand_over is None:
            return action
        actor = actor_of("strategy" if track is not None else "executor", track)
        return self.hand_over.blended(
            actor, action, tick, strategies.outgoing(tick), self._moment.mine
        )

    def choose(self, strategies: Strategies, theirs: Any, why: str, default: Any) -> Chosen:
        """Take the first source that nobody refuses; the moment has begun.

        Args:
            strategies: The strategies, the one that serves among them.
            theirs: Its action, None where none serves.
            why: Why it serves, or why none does.
            default: What is done where everybody is refused.
        """
        moment, track = self._moment, strategies.track
        if theirs is not None and track is not None:
            moment.strategy = track.strategy
            moment.row = strategies.row(track, moment.tick)
            moment.age = max(0, moment.tick - track.origin)
            # A late answer of a planner that acts alone has its last action left.
            moment.remaining = track.actions[min(moment.row, track.horizon - 1) :]
            moment.propose("strategy", self.handed_over(strategies, track, theirs, moment.tick))
        for source in self.order[:-1]:
            action = moment.action(source)
            if action is None:
                continue
            if source == "executor":
                action = self.handed_over(strategies, None, action, moment.tick)
                moment.propose(source, action)
            moment.why = why
            reason = self._refusal(source, strategies)
            if not reason:
                return action, source, why
            why = reason
        for router in self.routers:
            action = self._own_default(router, default)
            if action is not None:
                return action, "default", why
        return default, "default", why

    def begin(
        self,
        tick: int,
        obs: Floats,
        form: Form | None,
        left: float,
        mine: Any,
        last: Any,
        held: int,
    ) -> None:
        """Begin a tick.

        Args:
            tick: The tick.
            obs: (obs,).
            form: The executor that decided; None where the observation is blind.
            left: Seconds until the deadline.
            mine: What the executor would do.
            last: The last action of this episode, or None.
            held: For how many ticks it was held.
        """
        moment = self._moment
        moment.begin(tick, obs, form, left, held)
        moment.mine = mine
        if mine is not None and "executor" in self.order:
            moment.propose("executor", mine)
        if last is not None and "hold" in self.order:
            moment.propose("hold", last)

    def _refusal(self, source: Source, strategies: Strategies) -> str:
        """Why a source may not act; nothing is blended in then."""
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

    def _own_default(self, router: Router, default: Any) -> Any:
        """A router's action instead of the default's, if it is one."""
        try:
            action = router.fallback(self._moment)
            return None if action is None else _checked(action, default)
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
