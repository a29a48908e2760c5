"""From an agent's arguments to its ports, and from the ports to its metrics."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, final

from agentkd.errors import ConfigError, check_range
from agentkd.executors.executor import Executor
from agentkd.printable import logger
from agentkd.runtime.arbiter import Mode, Router, check_mode
from agentkd.runtime.chores import Chore
from agentkd.runtime.distiller import (
    DistillerCounts,
    DistillerPort,
    InlineDistiller,
    ProcessDistiller,
)
from agentkd.runtime.in_process import InlinePlanner, ThreadPlanner
from agentkd.runtime.live.feed import Feed, facts
from agentkd.runtime.live.page import LivePage
from agentkd.runtime.log import DecisionLog
from agentkd.runtime.planner import AnyPolicy, PlannerCounts, PlannerPort, ProcessPlanner
from agentkd.runtime.query import Demands
from agentkd.runtime.recorder import Recorder
from agentkd.runtime.round_robin import Staggered
from agentkd.runtime.scores import Rollback
from agentkd.runtime.strategies import StrategyOptions
from agentkd.runtime.workers.host import Process
from agentkd.spec import Spec
from agentkd.spec_json import to_json
from agentkd.types import DistillerLike

if TYPE_CHECKING:
    from agentkd.runtime.decider import Decider
    from agentkd.signing.store import Trusting

log = logger(__name__)

_SHOW = 0.1
"""Seconds between two looks at what a live page is to show."""

AnyPlanner = AnyPolicy | Process | PlannerPort
Named = str | Path | Sequence[str | Path]
"""What a planner is loaded from: one reference, path or address, or several for an ensemble."""
AnyDistiller = DistillerLike | Process | DistillerPort


class AgentOptions(TypedDict, total=False):
    """The arguments that `Agent` and `Runtime` have in common; see `Agent`."""

    planner: AnyPlanner | Named | None
    distiller: AnyDistiller | None
    learn: bool
    mode: Mode
    routers: Sequence[Router]
    strategies: StrategyOptions | None
    planner_latency: int | None
    workers: int
    budget: float
    default: Any
    log: DecisionLog | str | Path | None
    native: bool
    watch: bool
    rollback: Rollback | None
    planner_sees: str | Sequence[str | int] | None
    planner_args: Mapping[str, Any] | None
    executor_sees: str | Sequence[str | int] | None
    trust: Trusting | None
    live: LivePage | int | None


_KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "strategies": ((StrategyOptions, type(None)), "StrategyOptions(…) or None"),
    "rollback": ((Rollback, type(None)), "Rollback(…) or None"),
    "log": ((DecisionLog, str, Path, type(None)), "a path, a DecisionLog or None"),
    "planner_latency": ((Integral, type(None)), "a number of ticks or None"),
    "workers": ((Integral,), "a number of planners"),
    "live": ((LivePage, Integral, type(None)), "a LivePage, a port or None"),
    "period": ((Real, type(None)), "seconds or None"),
    "budget": ((Real,), "seconds"),
    "native": ((bool,), "True or False"),
    "watch": ((bool,), "True or False"),
    "learn": ((bool,), "True or False"),
    "planner_args": ((Mapping, type(None)), 'a dictionary such as {"activation": "elu"}, or None'),
}


def check_arguments(given: Mapping[str, Any]) -> None:
    """Check the arguments of an agent, by name; raise ConfigError if one is wrong."""
    check_mode(given["mode"])
    for name, (kinds, words) in _KINDS.items():
        value = given[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) != (kinds == (bool,))):
            raise ConfigError(f"{name} is {value!r}; give {words}.")
    routers = given["routers"]
    if not isinstance(routers, Sequence) or not all(isinstance(each, Router) for each in routers):
        raise ConfigError(f"routers is {routers!r}; give a list of routers.")
    check_range("budget", given["budget"], least=0, below=math.inf)
    seconds = "It counts seconds, such as 0.02 for 50 Hz."
    check_range("period", given["period"], above=0, below=math.inf, hint=seconds)
    if given["mode"] == "planner" and given["planner"] is None:
        raise ConfigError('mode="planner" needs a planner.')
    if given["learn"] and given["distiller"] is not None:
        raise ConfigError("learn=True starts a distiller; leave it or distiller out.")
    named = isinstance(given["planner"], str | Path | list | tuple)
    for name in ("sees", "args"):
        if given[f"planner_{name}"] is not None and not named:
            raise ConfigError(
                f"planner_{name} is for a planner that is named; load another one with "
                f"load_planner(…, {name}=…)."
            )
    if given["learn"] and given["planner"] is None:
        raise ConfigError("learn=True learns from a planner's answers: give a planner.")


@final
class Companions:
    """Planner, distiller and decision log of an agent; each may be None.

    `remove` takes away what the distiller was given, after all are closed. `access` says how a
    named planner is loaded: its view ("sees") and what its file does not tell ("args").
    What does not suit the wall clock gets a port all the same, so that the agent can be made;
    `check` raises the error.
    """

    def __init__(
        self,
        planner: AnyPlanner | Named | None,
        latency_ticks: int | None,
        workers: int,
        distiller: AnyDistiller | None,
        log: DecisionLog | None,
        live: LivePage | int | None,
        remove: Callable[[], object] | None,
        access: Mapping[str, Any],
        spec: Spec,
        *,
        virtual: bool,
        period: float,
    ) -> None:
        self._unfit = "" if virtual else _unfit(planner, latency_ticks, distiller)
        self.planner = planner_port(
            planner,
            latency_ticks,
            virtual=virtual,
            period=period,
            workers=workers,
            spec=spec,
            access=access,
        )
        self.distiller = _distiller_port(distiller, virtual=virtual)
        self.log, self._remove = log, remove
        self._latency, self._period = latency_ticks, period
        self.live = live if isinstance(live, LivePage) else None
        self._port = live if isinstance(live, int) else None
        self._shown: tuple[Decider, bool] | None = None
        self._feed = None if live is None else Feed(log)
        self.record: Recorder | None = log if self._feed is None else self._feed
        self._ports = tuple(port for port in (self.planner, self.distiller) if port is not None)
        self.none = not self._ports and self.record is None
        self.running = False
        self._closing = threading.Lock()

    def check(self) -> None:
        """Raise ConfigError if planner or distiller do not suit the clock."""
        if self._unfit:
            raise ConfigError(self._unfit)

    def open(
        self, executor: Executor, spec: Spec, header: Mapping[str, Any], demands: Demands
    ) -> None:
        """Open log and live page, and start planner and distiller without waiting."""
        if self.log is not None:
            self.log.open(header, executor)
        if self._port is not None:
            self.live = LivePage(self._port).__enter__()
            log.warning("The live page is at %s", self.live.address)
        if self.live is not None:
            self._show_on(self.live)
        ring = self.distiller.open(executor) if self.distiller is not None else None
        if self.planner is not None:
            self.planner.open(spec, ring, demands)
        self.running = True

    def await_ready(self, timeout: float | None, stopped: Callable[[], bool]) -> None:
        """Wait until both are ready; see `Agent.await_ready`."""
        end = time.monotonic() + (timeout or 0.0)
        for port in self._ports:
            if not stopped():
                left = max(0.0, end - time.monotonic())
                port.await_ready(None if timeout is None else left)

    def chores(self, decider: Decider, *, virtual: bool) -> Iterator[Chore]:
        """Give what is done between ticks: restart what died or hangs, write the log, be shown."""
        for name, port in (("planner", self.planner), ("distiller", self.distiller)):
            if port is not None:
                yield Chore(name, port.supervise)
        if self.log is not None:
            yield Chore("log", self.log.writing)
        if self._feed is not None:
            self._shown = decider, virtual
            # A virtual clock is held by the page, before each tick.
            if not virtual:
                yield Chore("live page", self._show, _SHOW)

    def _show_on(self, page: LivePage) -> None:
        """Let a page show the agent from now on."""
        assert self._feed is not None
        assert self._shown is not None
        decider, virtual = self._shown
        page.begin(
            self._feed,
            partial(self._facts, decider),
            period=self._period or None,
            virtual=virtual,
            latency=self._latency,
            delay=self.planner.delay if isinstance(self.planner, InlinePlanner) else None,
        )

    def _show(self) -> Iterator[str]:
        assert self.live is not None
        return self.live.showing()

    def _facts(self, decider: Decider) -> dict[str, Any]:
        """Return what the page tells of the agent."""
        found = facts(decider)
        if self.distiller is not None:
            learnt = self.distiller.counts()
            found["refused"] = dict(Counter(found["refused"]) + Counter(learnt.refused))
            found["labels"], found["steps"] = learnt.labels, learnt.steps
        return found

    def counts(self, refused: Mapping[str, int]) -> dict[str, Any]:
        """Return what was counted, by name; `refused` are the agent's refused swaps, by reason."""
        out: dict[str, Any] = {}
        if self.planner is not None:
            asked = self.planner.counts()
            out["labels_total"] = asked.labels
            out["observations_unlabelled_total"] = asked.unlabelled
            out["planner_busy_ratio"] = asked.busy
            _add_health(out, "planner", asked)
        if self.distiller is not None:
            learnt = self.distiller.counts()
            out["swaps_refused_total"] = dict(Counter(refused) + Counter(learnt.refused))
            out["changes_total"] = dict(learnt.changes)
            out["labels_learnt_total"] = learnt.labels
            out["labels_dropped_total"] = learnt.dropped
            out["distiller_steps_total"] = learnt.steps
            out["distiller_progress"] = dict(learnt.progress)
            _add_health(out, "distiller", learnt)
        return out

    def close(self) -> None:
        """End and close them all; a start that is cancelled does so from its own thread too."""
        self.running = False
        with self._closing, contextlib.ExitStack() as stack:
            if self._remove is not None:
                stack.callback(self._remove)
            # One that fails to close keeps none of the others open.
            if self.live is not None and self._port is not None:
                stack.callback(self.live.__exit__)
            for each in (self.log, self.distiller, self.planner):
                if each is not None:
                    stack.callback(each.close)


def _add_health(out: dict[str, Any], name: str, counts: PlannerCounts | DistillerCounts) -> None:
    out[f"{name}_errors_total"] = counts.errors
    out[f"{name}_restarts_total"] = dict(counts.restarts)
    out[f"{name}_error"] = counts.error
    out[f"{name}_state"] = counts.health.state
    out[f"{name}_ready"] = int(counts.health.state == "ready")
    out[f"{name}_starts_failed_total"] = counts.health.starts_failed
    out.setdefault("workers_raised_total", {})[name] = counts.health.raised


def planner_port(
    planner: AnyPlanner | Named | None,
    latency_ticks: int | None = None,
    *,
    virtual: bool = False,
    period: float = 0.0,
    workers: int = 1,
    spec: Spec | None = None,
    access: Mapping[str, Any] | None = None,
) -> PlannerPort | None:
    """Choose how a planner is asked.

    Text that `load_planner` takes is loaded in a process of its own. A `Process` gets one, or is
    built here under a virtual clock. A port stays as it is. A policy is asked in this process: on
    the tick with a latency in ticks, or in a thread if it can be interrupted, as one that waits for
    a network.

    Raises:
        ConfigError: If an argument is invalid.
    """
    check_range("planner_latency", latency_ticks, least=0)
    check_range("workers", workers, least=1)
    if planner is None:
        return None
    if isinstance(planner, str | Path | Sequence):
        known = None if spec is None else to_json(spec)
        ref: Any = str(planner) if isinstance(planner, str | Path) else list(map(str, planner))
        given = {"ref": ref, "spec": known, **(access or {})}
        planner = Process("agentkd.planners.load:open_planner", given)
    if workers > 1:
        if isinstance(planner, PlannerPort):
            raise ConfigError(
                f"{type(planner).__name__} is one port; workers={workers} needs a "
                "Process or a policy, or give Staggered([port, …])."
            )
        if hasattr(planner, "interrupt"):
            raise ConfigError(
                f"{type(planner).__name__} is one connection, which answers one question at a "
                f"time; workers={workers} needs as many. Give Staggered([ThreadPlanner(each), …]) "
                "with a planner for each."
            )
        _no_memory(planner)
    ports = [
        _one(planner, latency_ticks, virtual=virtual, period=period, alone=workers == 1)
        for _ in range(workers)
    ]
    return Staggered(ports) if workers > 1 else ports[0]


def _no_memory(planner: object) -> None:
    if hasattr(planner, "initial_state"):
        raise ConfigError(
            "A planner with a memory cannot take turns: each would miss what the "
            "others saw. Leave workers out."
        )


def _one(
    planner: AnyPlanner, latency_ticks: int | None, *, virtual: bool, period: float, alone: bool
) -> PlannerPort:
    if isinstance(planner, Process):
        if virtual:
            built = planner.build()
            if not alone:
                _no_memory(built)
            return InlinePlanner(built, latency_ticks=latency_ticks or 0)
        # Half a period early, so that it is there when its tick begins.
        late = max(0.0, (latency_ticks or 0) - 0.5) * period
        return ProcessPlanner(planner, at_least=late, alone=alone)
    if isinstance(planner, PlannerPort):
        if latency_ticks is not None:
            raise ConfigError(
                f"{type(planner).__name__} has a latency of its own; leave planner_latency out."
            )
        return planner
    if hasattr(planner, "interrupt") and not virtual:
        if latency_ticks is not None:
            raise ConfigError(
                "A planner that waits for a network is as late as it is; leave "
                "planner_latency out, or give a Process."
            )
        # It leaves the interpreter to the tick meanwhile.
        return ThreadPlanner(planner)
    return InlinePlanner(planner, latency_ticks=latency_ticks or 0)


def _distiller_port(distiller: AnyDistiller | None, *, virtual: bool) -> DistillerPort | None:
    if distiller is None or isinstance(distiller, DistillerPort):
        return distiller
    if not isinstance(distiller, Process):
        return InlineDistiller(distiller)
    return InlineDistiller(distiller.build()) if virtual else ProcessDistiller(distiller)


def _unfit(
    planner: AnyPlanner | Named | None, latency_ticks: int | None, distiller: AnyDistiller | None
) -> str:
    """Say what would hold up the ticks of a wall clock; "" if nothing does."""
    beside = isinstance(planner, str | Path | Sequence | Process | PlannerPort | None)
    if latency_ticks is None and not (beside or hasattr(planner, "interrupt")):
        return (
            "A policy object would hold the tick up while it thinks. Give a Process, "
            "for a process of its own; ThreadPlanner(policy), for a thread; or "
            "planner_latency, to have it asked on the tick and held back so many ticks."
        )
    if not isinstance(distiller, Process | DistillerPort | None):
        return (
            "A distiller object would hold the tick up while it learns. Give a Process, "
            "for a process of its own, or InlineDistiller(distiller), if it may."
        )
    return ""
