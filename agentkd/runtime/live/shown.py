"""An agent's part of a live page: what the page is told of it, and when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, final

from agentkd.errors import ConfigError
from agentkd.printable import logger
from agentkd.runtime.chores import Chore
from agentkd.runtime.in_process import InlinePlanner
from agentkd.runtime.live.feed import Feed, facts
from agentkd.runtime.live.page import LivePage

if TYPE_CHECKING:
    from agentkd.runtime.decider import Decider
    from agentkd.runtime.distiller import DistillerPort
    from agentkd.runtime.planner import PlannerPort
    from agentkd.runtime.recorder import Recorder

log = logger(__name__)

_EVERY = 0.1
"""Seconds between two looks at what is to be shown."""


@final
class Shown:
    """Shows an agent on a page that is lent, or on one of its own at a port.

    `inner` is the recorder that also hears of each tick, such as the decision log.

    Attributes:
        feed: Hears of each tick.
        page: The page; one of the agent's own is there while the agent runs.

    Raises:
        ConfigError: If it is neither a page nor a port.
    """

    def __init__(self, live: LivePage | int, inner: Recorder | None) -> None:
        if isinstance(live, bool) or not isinstance(live, LivePage | int):
            raise ConfigError(f"live is {live!r}; give a LivePage, a port or None.")
        self.feed = Feed(inner)
        self.page = live if isinstance(live, LivePage) else None
        self._port = live if isinstance(live, int) else None

    def open(
        self,
        decider: Decider,
        ports: tuple[PlannerPort | None, DistillerPort | None],
        *,
        period: float | None,
        virtual: bool,
        latency: int | None,
    ) -> None:
        """Show the agent from now on; see `LivePage.begin`."""
        if self._port is not None:
            self.page = LivePage(self._port).__enter__()
            log.warning("The live page is at %s", self.page.address)
        assert self.page is not None
        planner, distiller = ports
        self.page.begin(
            self.feed,
            partial(_facts, decider, distiller),
            period=period,
            virtual=virtual,
            latency=latency,
            delay=planner.delay if isinstance(planner, InlinePlanner) else None,
        )

    def chores(self, *, virtual: bool) -> Iterator[Chore]:
        """Give what is done between ticks; a virtual clock is held by the page instead."""
        if not virtual:
            # It waits for as long as it does not fit: no tick is late for it.
            yield Chore("live page", self._showing, _EVERY, patient=True)

    def _showing(self) -> Iterator[str] | None:
        return None if self.page is None else self.page.showing()

    def close(self) -> None:
        """Close a page of the agent's own."""
        if self.page is not None and self._port is not None:
            self.page.__exit__()


def _facts(decider: Decider, distiller: DistillerPort | None) -> dict[str, Any]:
    found = facts(decider)
    if distiller is not None:
        learnt = distiller.counts()
        found["refused"] = dict(Counter(found["refused"]) + Counter(learnt.refused))
        found["labels"], found["steps"] = learnt.labels, learnt.steps
    return found
