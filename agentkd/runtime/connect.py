"""From an agent's arguments to its ports, and from the ports to its metrics."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, final

from agentkd.errors import ConfigError, check_range
from agentkd.executors.executor import Executor
from agentkd.executors.past import past_layer, unrolled
from agentkd.runtime.arbiter import Mode, Router, check_mode
from agentkd.runtime.chores import Chore
from agentkd.runtime.log import DecisionLog
from agentkd.runtime.query import Demands
from agentkd.runtime.recorder import Recorder
from agentkd.runtime.scores import Rollback
from agentkd.runtime.strategies import StrategyOptions
from agentkd.spec import Spec

if TYPE_CHECKING:
    from agentkd.runtime.decider import Decider
    from agentkd.runtime.distiller import DistillerCounts, DistillerPort
    from agentkd.runtime.live.page import LivePage
    from agentkd.runtime.live.shown import Shown
    from agentkd.runtime.planner import PlannerCounts, PlannerPort
    from agentkd.runtime.ports import AnyDistiller, AnyPlanner, Named
    from agentkd.signing.store import Trusting


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
    check_range("planner_latency", given["planner_latency"], least=0, whole=True)
    check_range("workers", given["workers"], least=1, whole=True)
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
        self.planner: PlannerPort | None = None
        self.distiller: DistillerPort | None = None
        self._unfit = ""
        if planner is not None or distiller is not None:
            # An executor alone needs no ports, a quarter of what an agent loads.
            from agentkd.runtime import ports

            self._unfit = "" if virtual else ports.unfit(planner, latency_ticks, distiller)
            self.planner = ports.planner_port(
                planner,
                latency_ticks,
                virtual=virtual,
                period=period,
                workers=workers,
                spec=spec,
                access=access,
            )
            self.distiller = ports.distiller_port(distiller, virtual=virtual)
        self.log, self._remove = log, remove
        self._shown: Shown | None = None
        self._show: Callable[[], None] = lambda: None
        self.record: Recorder | None = log
        if live is not None:
            from agentkd.runtime.live.shown import Shown

            self._shown = Shown(live, log)
            self.record = self._shown.feed
        self._clock: dict[str, Any] = {"virtual": virtual, "period": period or None}
        self._clock["latency"] = latency_ticks
        self._ports = tuple(port for port in (self.planner, self.distiller) if port is not None)
        self.none = not self._ports and self.record is None
        self.running = False
        self._closing = threading.Lock()

    @property
    def live(self) -> LivePage | None:
        """The page that shows the agent, if one does."""
        return None if self._shown is None else self._shown.page

    @property
    def inline(self) -> DistillerPort | None:
        """The distiller, if it learns on the tick."""
        learning = self.distiller
        return learning if learning is not None and learning.inline else None

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
        self._show()
        ring = self.distiller.open(executor) if self.distiller is not None else None
        if self.planner is not None:
            if ring is not None and past_layer(executor) is not None:
                demands = replace(demands, shown=unrolled(executor).spec.obs.size)
            self.planner.open(spec, ring, demands)
        self.running = True

    def await_ready(self, timeout: float | None, stopped: Callable[[], bool]) -> None:
        """Wait until both are ready; see `Agent.await_ready`."""
        end = time.monotonic() + (timeout or 0.0)
        for port in self._ports:
            if not stopped():
                left = max(0.0, end - time.monotonic())
                port.await_ready(None if timeout is None else left)

    def chores(self, decider: Decider) -> Iterator[Chore]:
        """Give what is done between ticks: restart what died or hangs, write the log, be shown."""
        for name, port in (("planner", self.planner), ("distiller", self.distiller)):
            if port is not None:
                yield Chore(name, port.supervise)
        if self.log is not None:
            yield Chore("log", self.log.writing)
        if self._shown is not None:
            ports = self.planner, self.distiller
            self._show = partial(self._shown.open, decider, ports, **self._clock)
            yield from self._shown.chores(virtual=self._clock["virtual"])

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
            for each in (self._shown, self.log, self.distiller, self.planner):
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
