"""The agent for a loop of the user's own: an action for each observation, in time."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

import numpy as np

from agentkd.errors import ConfigError, NumbersError
from agentkd.executors.acting import form
from agentkd.executors.executor import Executor
from agentkd.printable import logger
from agentkd.runtime.arbiter import Mode, Router
from agentkd.runtime.connect import (
    AnyDistiller,
    AnyPlanner,
    check_arguments,
    distiller_port,
    planner_port,
    port_metrics,
)
from agentkd.runtime.decider import Decider, Outcome
from agentkd.runtime.log import DecisionLog
from agentkd.runtime.metrics import Metrics
from agentkd.runtime.query import Demands
from agentkd.runtime.scores import Rollback
from agentkd.runtime.strategies import StrategyOptions
from agentkd.runtime.swaps import Swaps, open_executor
from agentkd.spec import to_json
from agentkd.types import Decision, Strategy

log = logger(__name__)

_SUPERVISE = 0.02


@final
class Agent:
    """Acts at once with the executor, and with the planner where it was on time.

    Use it in a `with` block; without planner and distiller it also works as it is. The block waits
    for neither of them: they join when they are ready (see `start`). `act` and `decide` are for one
    thread.

        with Agent(executor, planner=Process("mine:make_planner")) as agent:
            while True:
                robot.send(agent.act(robot.observe()))

    Args:
        executor: Acts whenever the planner is late; or the path of an executor file.
        planner: A `Process` (a process of its own), a port, or a policy together with
            `planner_latency`; None for the executor alone.
        distiller: A `Process` or a port; its weights are swapped in as they come.
        mode: Who takes part: "runtime", "planner" or "executor".
        routers: Who else is asked whether a source may act (`agentkd.runtime.routers`).
        strategies: How strategies are asked for, and how they take over.
        planner_latency: Ticks by which a policy's answers are held back.
        workers: How many planners are asked in turn, where one is too slow.
        period: Seconds from tick to tick: a decision that takes longer is a miss.
        budget: Seconds that a decision may wait for the planner, if it was that fast lately.
        default: What is done before the first decision; by default the first choice, or the action
            nearest to 0.
        log: A file for the decision log, or a `DecisionLog`; the agent then needs its block.
        native: Whether executors are compiled.
        watch: Follow the executor's file: when it is replaced, its new executor is swapped in. The
            agent then needs its block.
        rollback: Return to the former executor if scores fall after a swap; give each score to
            `score`. The agent then needs its block.

    Raises:
        BundleError: If the executor's file cannot be read.
    """

    def __init__(
        self,
        executor: Executor | str | Path,
        *,
        planner: AnyPlanner | None = None,
        distiller: AnyDistiller | None = None,
        mode: Mode = "runtime",
        routers: Sequence[Router] = (),
        strategies: StrategyOptions | None = None,
        planner_latency: int | None = None,
        workers: int = 1,
        period: float | None = None,
        budget: float = 0.0,
        default: Any = None,
        log: DecisionLog | str | Path | None = None,
        native: bool = True,
        watch: bool = False,
        rollback: Rollback | None = None,
    ) -> None:
        """Compile the executor; entering the block starts the rest."""
        check_arguments(locals())
        executor, contract, watched = open_executor(executor, watch=watch)
        self._strategies = strategies or StrategyOptions()
        if executor.memory and self._strategies.roll_forward is not None:
            raise ConfigError(
                f"{executor.architecture} has a memory, which cannot be rolled forward "
                "with the observation. Take one without, or leave roll_forward out."
            )
        self._routers = tuple(routers)
        self._mode, self._default, self._period = mode, default, period
        self._log = log if isinstance(log, DecisionLog | None) else DecisionLog(log)
        self._planner = planner_port(planner, planner_latency, workers=workers)
        self._distiller = distiller_port(distiller)
        self._decider = Decider(
            form(executor, native=native),
            self._planner,
            mode,
            self._routers,
            default,
            round(period * 1e9) if period else None,
            round(budget * 1e9),
            self._strategies,
            self._log,
        )
        self.spec = self._decider.spec
        self._metrics = self._decider.metrics
        others = self._planner, self._distiller, self._log, watched, rollback
        self._simple = all(other is None for other in others)
        plain = not self._routers and self._strategies.goals is None
        # Nobody to ask, nothing to note: the shortest way.
        self._short = self._simple and plain
        self._open, self._started = self._simple, False
        self._stop = threading.Event()
        self._closing = threading.Lock()
        self._supervisor: threading.Thread | None = None
        self._trouble = ""
        self._swaps = Swaps(
            self._decider,
            self._planner,
            self._distiller,
            lambda: self._open,
            native=native,
            rollback=rollback,
            watched=watched,
            contract=contract,
        )

    def start(
        self, *, wait: bool = False, timeout: float | None = None, supervisor: bool = True
    ) -> None:
        """Start planner and distiller; the executor acts from the first tick.

        They join when they are ready. A start that fails is logged, counted in `metrics` and tried
        again, unless it can never succeed.

        Args:
            wait: Return only when both are ready.
            timeout: Seconds to wait at most; None for as long as a start may take.
            supervisor: Look after them from a thread; else call `supervise`.

        Raises:
            ConfigError: If the agent was started before.
            WorkerError: If shared memory cannot be allocated; with `wait`, if a start fails or
                takes longer than `timeout`. The agent is closed then.
        """
        if self._stop.is_set() or self._started:
            raise ConfigError("An agent runs once. Make a new one.")
        self._started = True
        if self._simple:
            return
        try:
            if self._log is not None:
                self._log.open(self._header(), self.executor)
            ring = None
            if self._distiller is not None:
                ring = self._distiller.open(self.executor)
            if self._planner is not None:
                options = self._strategies
                takes_part = "executor" in self._decider.order
                executor = self.executor if takes_part else None
                wants = Demands(options.roll_forward, options.goals, executor)
                self._planner.open(self.spec, ring, wants)
            if wait:
                self.await_ready(timeout)
        except BaseException:
            self._stop.set()
            self._close_ports()
            raise
        if self._stop.is_set():
            self._close_ports()
            raise ConfigError("The agent was closed while it started.")
        self._open = True
        if supervisor:
            self._supervisor = threading.Thread(
                target=self._supervise_on, name="supervisor", daemon=True
            )
            self._supervisor.start()

    def await_ready(self, timeout: float | None = None) -> None:
        """Wait until planner and distiller are ready.

        Args:
            timeout: Seconds to wait at most; None for as long as a start may take.

        Raises:
            WorkerError: If a start fails or takes longer, with what the process said.
        """
        end = time.monotonic() + (timeout or 0.0)
        for port in (self._planner, self._distiller):
            if port is not None and not self._stop.is_set():
                left = max(0.0, end - time.monotonic())
                port.await_ready(None if timeout is None else left)

    async def astart(
        self,
        *,
        wait: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109 (as in `start`)
        supervisor: bool = True,
    ) -> None:
        """Start as `start` does, without blocking the event loop.

        A start that is cancelled closes the agent.

        Raises:
            ConfigError: If the agent was started before.
            WorkerError: As `start`.
        """
        import asyncio

        start = asyncio.to_thread(self.start, wait=wait, timeout=timeout, supervisor=supervisor)
        starting = asyncio.ensure_future(start)
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            # Close first: it makes the start, which runs in a thread, give up.
            await self.aclose()
            with contextlib.suppress(Exception):
                await starting
            raise

    async def aclose(self) -> None:
        """Close as `close` does, without blocking the event loop."""
        import asyncio

        await asyncio.to_thread(self.close)

    def _header(self) -> dict[str, Any]:
        """What a log says of the run, to be replayed."""
        default = self._default
        return {
            "spec": to_json(self.spec),
            "architecture": self.executor.architecture,
            "mode": self._mode,
            "planner": self._planner is not None,
            "period": self._period,
            "default": default if default is None else np.asarray(default).tolist(),
            "routers": [type(router).__name__ for router in self._routers],
            "strategies": self._strategies.to_json(self._decider.trust),
        }

    def close(self) -> None:
        """End planner and distiller; the last weights are swapped in first."""
        if self._stop.is_set():
            return
        self._stop.set()
        if self._supervisor is not None:
            self._supervisor.join()
        opened, self._open = self._open, self._simple
        self._close_ports()
        if opened:
            self._swaps.take_learnt()

    def _close_ports(self) -> None:
        # A start that is cancelled closes from its own thread too.
        with self._closing:
            if self._planner is not None:
                self._planner.close()
            if self._distiller is not None:
                self._distiller.close()
            if self._log is not None:
                self._log.close()

    def __enter__(self) -> Self:
        if not self._started or self._stop.is_set():
            self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        if not self._started or self._stop.is_set():
            await self.astart()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _supervise_on(self) -> None:
        while not self._stop.wait(_SUPERVISE):
            self.supervise()

    def supervise(self) -> None:
        """Restart what died or hangs, and swap new weights in; off the tick's way.

        An error is logged, once until it goes away, and ends nothing.
        """
        try:
            self._supervise()
            self._trouble = ""
        except Exception as error:
            trouble, self._trouble = self._trouble, f"{type(error).__name__}: {error}"
            if self._trouble != trouble:
                log.exception("Supervision failed; it goes on.")

    def _supervise(self) -> None:
        if self._planner is not None:
            self._planner.supervise()
        if self._distiller is not None:
            self._distiller.supervise()
        if self._distiller is None or not self._distiller.inline:
            self._swaps.take_learnt()
            self._swaps.heed_scores()
        self._swaps.follow_file()
        self._metrics.agreement.settle()

    @property
    def executor(self) -> Executor:
        """The executor that acts now."""
        return self._decider.form.executor

    def swap(self, executor: Executor | str | Path) -> None:
        """Let another executor act from the next tick on.

        It is compiled and tried before it takes over, on the caller's time. A distiller goes on
        from it, if its architecture is the one that the distiller learns.

        Args:
            executor: The executor, or the path of its file.

        Raises:
            SpecError: If its observation, action or memory differ from those of the present one,
                which acts on; if both come from files that tell other names or units; or if a
                planner that rolls forward holds an executor of another architecture.
            NumbersError: If it gives NaN or infinity; the present one acts on.
            BundleError: If the file cannot be read; the present one acts on.
        """
        self._swaps.swap(executor)

    def rollback(self) -> Executor:
        """Let the executor that acted before the last swap act again.

        The distiller, if there is one, goes on from it.

        Returns:
            The executor that acts now.

        Raises:
            ConfigError: If there was no swap.
        """
        return self._swaps.rollback()

    def score(self, score: float) -> None:
        """Take a score of the last action, such as its reward; larger is better.

        `rollback` needs them, and `strategies_worse` in the metrics.

        Raises:
            NumbersError: If it is NaN or infinite.
        """
        if not math.isfinite(score):
            raise NumbersError(f"A score of {score}; it has to be finite.")
        self._decider.score(score)
        if self._swaps.scores is not None:
            self._swaps.scores.add(score)

    def reset(self) -> None:
        """Begin a new episode: strategies of the old one no longer count."""
        self._decider.reset()

    def act(self, obs: Any) -> Any:
        """Give the action for an observation.

        Args:
            obs: As the environment gives it.

        Returns:
            In the environment's units: an int for one choice, else an array.

        Raises:
            SpecError: If the observation has another shape.
        """
        if self._short:
            return self._decider.act_alone(obs)
        return self._decide(obs, 0)[0]

    def decide(self, obs: Any, *, lateness: float = 0.0) -> Decision:
        """Give the action for an observation, with who decided and why.

        Args:
            obs: As the environment gives it.
            lateness: Seconds since the tick was due: its deadline is so much nearer.

        Raises:
            SpecError: If the observation has another shape.
        """
        action, source, reason, tick, version, taken = self._decide(obs, round(lateness * 1e9))
        return Decision(action, source, reason, tick, version, taken * 1e-9)

    def _decide(self, obs: Any, lateness: int) -> Outcome:
        if not self._open:
            raise ConfigError(
                "The agent is not running. Use it in a block: with Agent(...) as agent."
            )
        out = self._decider.decide(obs, lateness)
        if self._distiller is not None and self._distiller.inline:
            self._distiller.learn()
            self._swaps.take_learnt()
            self._swaps.heed_scores()
        return out

    @property
    def strategy(self) -> Strategy | None:
        """The strategy that serves, or served last; None where there is none left."""
        return self._decider.strategies.current

    @property
    def counters(self) -> Metrics:
        """The counters themselves, for a loop that adds to them."""
        return self._metrics

    def metrics(self) -> dict[str, Any]:
        """Give all that was counted so far as plain values, by name."""
        out = self._metrics.snapshot()
        if self._decider.alone:
            counted = out["decisions_total"].setdefault("executor", {})
            counted["alone"] = counted.get("alone", 0) + self._decider.alone
            out["ticks_total"] += self._decider.alone
        ticks = max(1, out["ticks_total"])
        acted = out["decisions_total"].get("strategy", {})
        out["strategy_coverage"] = sum(acted.values()) / ticks
        out["untrusted_share"] = 1.0 - out["starved_ticks_total"] / ticks
        if self._period is None:
            # Without a deadline none is missed, and none is met.
            out["deadline_miss_total"] = None
        out["executor_version"] = self.executor.version
        out["executor_parameters"] = self.executor.parameters
        out["strategy_accepted_total"] = self._decider.strategies.accepted
        out["strategy_rejected_total"] = dict(self._decider.strategies.rejected)
        out["lead_ticks"] = self._decider.lead
        out |= self._decider.worth.summary()
        for router in self._routers:
            out.update(router.counts())
        if self._log is not None:
            out.update(self._log.counts())
        if self._open or self._stop.is_set():
            planner, distiller = self._planner, self._distiller
            out |= port_metrics(
                planner.counts() if planner is not None else None,
                distiller.counts() if distiller is not None else None,
                out["swaps_refused_total"],
            )
        return out
