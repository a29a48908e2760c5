"""The agent for a loop of the user's own: an action for each observation, in time."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

import numpy as np

from agentkd.errors import AgentkdError, ConfigError, NumbersError
from agentkd.executors.frozen import Frozen
from agentkd.printable import logger
from agentkd.runtime.decider import Decider, Outcome
from agentkd.runtime.form import form
from agentkd.runtime.log import DecisionLog
from agentkd.runtime.metrics import Metrics
from agentkd.runtime.ports import (
    AnyLearner,
    AnyPlanner,
    learner_port,
    planner_port,
)
from agentkd.runtime.router import Mode, Router, check_mode
from agentkd.runtime.strategies import StrategyOptions
from agentkd.runtime.thinking import Demands
from agentkd.spec import to_json
from agentkd.types import Decision, Strategy

log = logger(__name__)

_SUPERVISE = 0.02


@final
class Agent:
    """Acts at once with the executor, and with the planner where it was in time.

    Use it in a `with` block; without planner and learner it also works as it is.
    `act` and `decide` are for one thread.

        with Agent(executor, planner=Remote("mine:make_planner")) as agent:
            while True:
                robot.send(agent.act(robot.observe()))

    Args:
        executor: Acts whenever the planner is late.
        planner: A `Remote` (a process of its own), a port, or a policy together with
            `planner_latency`; None for the executor alone.
        learner: A `Remote` or a port; its weights are swapped in as they come.
        mode: Who takes part: "runtime", "planner" or "executor".
        routers: Who else is asked whether a source may act (`agentkd.runtime.routers`).
        strategies: How strategies are asked for, and how they take over.
        planner_latency: Ticks by which a policy's answers are held back.
        workers: How many planners are asked in turn, where one is too slow.
        period: Seconds from tick to tick: a decision that takes longer is a miss.
        budget: Seconds that a decision may wait for the planner, if it was that fast
            lately.
        default: What is done before anybody decided; by default the first choice, or
            the action nearest to 0.
        log: A file for the decision log, or a `DecisionLog`; the agent then needs its
            block.
        native: Whether executors are compiled.
    """

    def __init__(
        self,
        executor: Frozen,
        *,
        planner: AnyPlanner | None = None,
        learner: AnyLearner | None = None,
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
    ) -> None:
        """Compile the executor; entering the block starts the rest."""
        check_mode(mode)
        if not 0 <= budget < float("inf") or (period is not None and not period > 0):
            raise ConfigError(
                f"budget={budget}, period={period}: seconds, at least 0 and above 0."
            )
        if mode == "planner" and planner is None:
            raise ConfigError('mode="planner" needs a planner.')
        self._native = native
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
        self._learner = learner_port(learner)
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
        self._simple = (
            self._planner is None and self._learner is None and self._log is None
        )
        plain = not self._routers and self._strategies.goals is None
        # Nobody to ask, nothing to note: the shortest way.
        self._short = self._simple and plain
        self._open = self._simple
        self._stop = threading.Event()
        self._closing = threading.Lock()
        self._supervisor: threading.Thread | None = None

    def start(self, *, supervisor: bool = True) -> None:
        """Start planner and learner and wait until they are ready.

        Args:
            supervisor: Look after them from a thread; else somebody calls `supervise`.

        Raises:
            WorkerError: If one of them cannot be started, with what it said.
        """
        if self._stop.is_set() or (self._open and not self._simple):
            raise ConfigError("An agent runs once. Make a new one.")
        if self._simple:
            return
        try:
            if self._log is not None:
                self._log.open(self._header(), self.executor)
            ring = None
            if self._learner is not None:
                ring = self._learner.open(self.executor)
            if self._planner is not None:
                options = self._strategies
                takes_part = "executor" in self._decider.order
                executor = self.executor if takes_part else None
                wants = Demands(options.roll_forward, options.goals, executor)
                self._planner.open(self.spec, ring, wants)
            for port in (self._planner, self._learner):
                if port is not None and not self._stop.is_set():
                    port.await_ready()
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

    def _header(self) -> dict[str, Any]:
        """What a log says of the run, to be replayed."""
        options = self._strategies
        default = self._default
        return {
            "spec": to_json(self.spec),
            "architecture": self.executor.architecture,
            "mode": self._mode,
            "planner": self._planner is not None,
            "period": self._period,
            "default": default if default is None else np.asarray(default).tolist(),
            "routers": [type(router).__name__ for router in self._routers],
            "strategies": {
                "advance": options.advance,
                "goals": asdict(options.goals) if options.goals else None,
                "seam": asdict(options.seam) if options.seam else None,
            },
        }

    def close(self) -> None:
        """End planner and learner; the last weights are swapped in first."""
        if self._stop.is_set():
            return
        self._stop.set()
        if self._supervisor is not None:
            self._supervisor.join()
        opened, self._open = self._open, self._simple
        self._close_ports()
        if opened:
            self._swap_if_new()

    def _close_ports(self) -> None:
        # A start that is cancelled closes from its own thread too.
        with self._closing:
            if self._planner is not None:
                self._planner.close()
            if self._learner is not None:
                self._learner.close()
            if self._log is not None:
                self._log.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _supervise_on(self) -> None:
        while not self._stop.wait(_SUPERVISE):
            try:
                self.supervise()
            except Exception:
                log.exception("Supervision failed; it goes on.")

    def supervise(self) -> None:
        """Restart what died or hangs, and swap new weights in; off the tick's way."""
        if self._planner is not None:
            self._planner.supervise()
        if self._learner is not None:
            self._learner.supervise()
            if not self._learner.inline:
                self._swap_if_new()
        self._metrics.agreement.settle()

    @property
    def executor(self) -> Frozen:
        """The executor that acts now."""
        return self._decider.form.frozen

    def swap(self, executor: Frozen) -> None:
        """Let another executor act from the next tick on.

        It is compiled and tried before it takes over, on the caller's time.

        Raises:
            NumbersError: If it gives NaN or infinity; the present one stays.
        """
        random = np.random.default_rng(0).standard_normal((8, len(executor.mean)))
        spread = 1.0 / np.maximum(np.abs(executor.scale), 1e-8)
        obs = (executor.mean + random * spread).astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            outputs = executor.follow(obs)
        if not np.isfinite(outputs).all():
            raise NumbersError("The executor answers with NaN or infinity.")
        self._decider.form = form(executor, native=self._native)
        if self._planner is not None and self._open:
            self._planner.follow(executor)
        self._metrics.swaps += 1

    def _swap_if_new(self) -> None:
        weights = self._learner.weights() if self._learner is not None else None
        if weights is None:
            return
        present = self._decider.form.frozen
        try:
            self.swap(present.with_vector(weights, present.version + 1))
        except AgentkdError as error:
            self._metrics.weights_rejected += 1
            log.warning("New weights are not swapped in: %s", error)

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
        action, source, reason, tick, version, taken = self._decide(
            obs, round(lateness * 1e9)
        )
        return Decision(action, source, reason, tick, version, taken * 1e-9)

    def _decide(self, obs: Any, lateness: int) -> Outcome:
        if not self._open:
            raise ConfigError(
                "The agent is not running. Use it in a block: with Agent(...) as agent."
            )
        out = self._decider.decide(obs, lateness)
        if self._learner is not None and self._learner.inline:
            self._learner.learn()
            self._swap_if_new()
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
        out["executor_version"] = self.executor.version
        out["executor_parameters"] = self.executor.parameters
        out["strategy_accepted_total"] = self._decider.strategies.accepted
        out["strategy_rejected_total"] = dict(self._decider.strategies.rejected)
        out["lead_ticks"] = self._decider.lead
        for router in self._routers:
            out.update(router.counts())
        if self._log is not None:
            out.update(self._log.counts())
        if self._open or self._stop.is_set():
            self._add_ports(out)
        return out

    def _add_ports(self, out: dict[str, Any]) -> None:
        """Add what planner and learner counted."""
        if self._planner is not None:
            planner = self._planner.counts()
            out["labels_total"] = planner.labels
            out["observations_unlabelled_total"] = planner.unlabelled
            out["planner_errors_total"] = planner.errors
            out["planner_restarts_total"] = dict(planner.restarts)
            out["planner_error"] = planner.error
            out["planner_busy_ratio"] = planner.busy
        if self._learner is not None:
            learner = self._learner.counts()
            out["labels_learnt_total"] = learner.labels
            out["labels_dropped_total"] = learner.dropped
            out["learner_steps_total"] = learner.steps
            out["learner_errors_total"] = learner.errors
            out["learner_restarts_total"] = dict(learner.restarts)
            out["learner_error"] = learner.error
            out["learner_progress"] = dict(learner.progress)
