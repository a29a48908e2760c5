"""The agent for a loop of the user's own: an action for each observation, in time."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from agentkd.errors import ConfigError
from agentkd.executors.acting import form
from agentkd.executors.executor import Executor
from agentkd.executors.staged import finish
from agentkd.runtime.arbiter import Mode, Router
from agentkd.runtime.block import Block
from agentkd.runtime.chores import Chore, Chores
from agentkd.runtime.clock import Clock, Realtime, Ticker, VirtualClock, WallClock, make_clock
from agentkd.runtime.connect import Companions, check_arguments
from agentkd.runtime.decider import Decider, Outcome
from agentkd.runtime.goals import unconditioned
from agentkd.runtime.log import DecisionLog, run_header
from agentkd.runtime.loop import Limits, Loop, RunResult
from agentkd.runtime.metrics import Metrics
from agentkd.runtime.query import Demands
from agentkd.runtime.scores import Rollback, finite
from agentkd.runtime.strategies import StrategyOptions
from agentkd.runtime.swaps import Swaps, distiller_for, open_executor
from agentkd.spec import Spec
from agentkd.types import Decision, Floats, Strategy
from agentkd.views import environment

if TYPE_CHECKING:
    from agentkd.runtime.live.page import LivePage
    from agentkd.runtime.ports import AnyDistiller, AnyPlanner, Named
    from agentkd.signing.store import Trusting


@final
class Agent(Block):
    """Acts at once with the executor, and with the planner where it was on time.

        agent = Agent("mlp:32,32", env_spec(robot), planner="robot:Regulator", learn=True,
                      period=0.04)
        with agent:
            obs, _ = robot.reset()
            while agent.tick():
                obs, *_ = robot.step(agent.act(obs))

    Use it in a `with` block; an executor alone works without one. The block waits for nobody:
    planner and distiller join when they are ready (see `start`). `tick`, `act` and `decide` are
    for one thread.

    Args:
        executor: Acts whenever the planner is late: an `Executor`, the path of an executor file, or
            an architecture such as "mlp:32,32", which begins with random weights.
        spec: The environment (`env_spec`); an architecture needs it, others are checked.
        planner: What a planner is loaded from, in a process of its own: "module:attribute", the
            path of a save, the address of a server. Or a `Process`, a port, or a policy together
            with `planner_latency`. None for the executor alone.
        distiller: A `Process` or a port; its weights are swapped in as they come.
        learn: Start a distiller that learns from the planner's answers, in a process of its own.
        mode: Who takes part: "runtime", "planner" or "executor".
        routers: Who else is asked whether a source may act (`agentkd.runtime.routers`).
        strategies: How strategies are asked for, and how they take over.
        planner_latency: Ticks by which a policy's answers are held back.
        workers: How many planners are asked in turn, where one is too slow.
        period: Seconds from tick to tick: a decision that takes longer is a miss.
        budget: Seconds that a decision may wait for the planner, if it was that fast lately.
        default: Done before the first decision; None for the first choice, or the nearest to 0.
        log: A file for the decision log, or a `DecisionLog`; the agent then needs its block.
        native: Whether executors are compiled.
        watch: Follow the executor's file: when it is replaced, its new executor is swapped in. The
            agent then needs its block.
        rollback: Return to the former executor if scores fall after a swap; give each score to
            `score`. The agent then needs its block.
        planner_sees: What a planner that is named sees of the observation (`agentkd.views`), such
            as "state,terrain".
        planner_args: What a policy file that is named does not tell, such as {"activation": "elu"}:
            the keys of `--planner-args`.
        executor_sees: What an executor that is an architecture sees of it; others have their view
            in them. `act` takes the whole observation.
        trust: A `root.json`, or a `TrustStore`: executor files without a valid signature are
            refused, also those that are swapped in.
        live: A page in the browser that shows the agent, or a port for one, 0 for any that is free;
            its address is logged. The agent then needs its block.

    Raises:
        BundleError: If the executor's file cannot be read, or is not signed as `trust` demands.
    """

    def __init__(
        self,
        executor: Executor | str | Path,
        spec: Spec | None = None,
        *,
        planner: AnyPlanner | Named | None = None,
        distiller: AnyDistiller | None = None,
        learn: bool = False,
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
        planner_sees: str | Sequence[str | int] | None = None,
        planner_args: Mapping[str, Any] | None = None,
        executor_sees: str | Sequence[str | int] | None = None,
        trust: Trusting | None = None,
        live: LivePage | int | None = None,
    ) -> None:
        check_arguments(locals())
        super().__init__()
        # With 30 attributes or more, Python would find each of them more slowly.
        self._strategies = strategies or StrategyOptions()
        goals = self._strategies.goals
        found, self._contract, self._watched = open_executor(
            executor, spec, goals, watch=watch, sees=executor_sees, trust=trust
        )
        if found.memory and self._strategies.roll_forward is not None:
            raise ConfigError(
                f"{found.architecture} has a memory, which cannot be rolled forward "
                "with the observation. Take one without, or leave roll_forward out."
            )
        self._routers = tuple(routers)
        self._how, self._asked = (mode, default, budget), period
        self._native, self._rollback, self._trust = native, rollback, trust
        decisions = log if isinstance(log, DecisionLog | None) else DecisionLog(log)
        remove = None
        if learn:
            # A file that was checked is not read again: it may have been replaced.
            base = executor if trust is None else found
            distiller, remove = distiller_for(found, base, self)
        access = {"sees": planner_sees, "args": dict(planner_args or {}) or None}
        self._wanted = planner, planner_latency, workers, distiller, decisions, live, remove, access
        self._form = form(found, native=native)
        known = found.spec if goals is None else unconditioned(found.spec, goals)
        self.spec = environment(known)
        self._ended = threading.Event()
        self._ticker = Ticker()
        self._clock: WallClock | None = None
        self._connect(period)

    def _connect(self, period: float | None, *, virtual: bool = False) -> None:
        """Choose how planner and distiller are asked, under a clock."""
        companions = self._companions = Companions(
            *self._wanted, self.spec, virtual=virtual, period=period or 0.0
        )
        # A decision takes no virtual time, so it misses no deadline.
        self._period = None if virtual else period
        self._decider = Decider(
            self._form,
            companions.planner,
            self._how[0],
            self._routers,
            self._how[1],
            round(period * 1e9) if period and not virtual else None,
            0 if virtual else round(self._how[2] * 1e9),
            self._strategies,
            companions.record,
            learns=companions.distiller is not None,
        )
        self._inline = companions.inline
        followed = self._watched is not None or self._rollback is not None
        self._open = self._simple = companions.none and not followed
        # Nobody to ask, nothing to note: the shortest way.
        self._short = self._simple and not self._routers and self._strategies.goals is None
        self._swaps = Swaps(
            self._decider,
            companions,
            native=self._native,
            rollback=self._rollback,
            watched=self._watched,
            contract=self._contract,
            trust=self._trust,
        )
        self.chores = Chores(*(() if self._simple else self._background(virtual=virtual)))

    def _background(self, *, virtual: bool) -> Iterator[Chore]:
        """Give what is done between ticks."""
        swaps = self._swaps
        yield from self._companions.chores(self._decider)
        if self._inline is None:
            if self._companions.distiller is not None:
                yield Chore("weights", swaps.learn)
            if self._rollback is not None:
                yield Chore("scores", swaps.heed_scores)
        if self._watched is not None:
            # Under a virtual clock its ticks decide when the file is read.
            yield Chore("file", swaps.follow_file if virtual else swaps.look_at_file)
        yield Chore("agreement", self._decider.metrics.agreement.settling)

    def _begin(self) -> bool:
        self._companions.check()
        if self._simple:
            return False
        takes_part = "executor" in self._decider.arbiter.order
        options, executor = self._strategies, self.executor
        demands = Demands(options.roll_forward, options.goals, executor if takes_part else None)
        self._companions.open(executor, self.spec, self._header(), demands)
        return True

    def _end(self) -> None:
        opened, self._open = self._open, self._simple
        self._swaps.close()
        self._companions.close()
        if opened:
            self._swaps.take_learnt()

    def await_ready(self, timeout: float | None = None) -> None:
        """Wait until planner and distiller are ready.

        Args:
            timeout: Seconds to wait at most; None for as long as a start may take.

        Raises:
            WorkerError: If a start fails or takes longer, with what the process said.
        """
        self._companions.await_ready(timeout, self._stop.is_set)

    def _header(self) -> dict[str, Any]:
        """Return what a log says of the run, to be replayed."""
        told = self._strategies.to_json(self._decider.trust)
        planner = self._companions.planner is not None
        how: Any = {"planner": planner, "period": self._period, "strategies": told}
        return run_header(self.spec, self.executor.architecture, self._how, self._routers, **how)

    @property
    def executor(self) -> Executor:
        """The executor that acts now."""
        return self._decider.form.executor

    @property
    def observed(self) -> Floats:
        """What the executor observed at the last decision, with a goal in it, (obs,)."""
        return self._decider.form.obs.copy()

    @property
    def period(self) -> float | None:
        """Seconds from tick to tick, as it was asked for."""
        return self._asked

    def swap(self, executor: Executor | str | Path) -> None:
        """Let another executor, or that of a file, act from the next tick on.

        It is compiled and tried before it takes over, on the caller's time. A distiller goes on
        from it, if its architecture is the one that the distiller learns. After an error the
        present one acts on.

        Raises:
            SpecError: If its observation, action or memory differ from those of the present one; if
                both come from files that tell other names, units or periods; or if a planner that
                rolls forward holds an executor of another architecture.
            NumbersError: If it gives NaN or infinity.
            BundleError: If the file cannot be read.
        """
        self._swaps.swap(executor)

    def rollback(self) -> Executor:
        """Let the executor that acted before the last swap act again; return it.

        The distiller, if there is one, goes on from it.

        Raises:
            ConfigError: If there was no swap.
        """
        return self._swaps.rollback()

    def score(self, score: float) -> None:
        """Take a score of the last action, such as its reward; larger is better.

        `rollback` needs them, and `strategies_worse` in the metrics.

        Raises:
            ConfigError: If it is not one number; an array may hold it.
            NumbersError: If it is NaN or infinite.
        """
        number = finite(score)
        self._decider.score(number)
        if self._companions.record is not None:
            self._companions.record.score(number)
        if self._swaps.scores is not None:
            self._swaps.scores.add(number)

    def reset(self) -> None:
        """Begin a new episode: strategies of the old one no longer count."""
        self._decider.reset()

    def tick(self, *, ticks: int | None = None, seconds: float | None = None) -> bool:
        """Wait for the next tick of the agent's clock; the first is at once.

        Ticks are due at whole multiples of `period` after the first. A tick that comes late counts
        the periods that it missed and skips them.

        Returns:
            True at a tick; False after `stop` or `close`, or after so many `ticks` or `seconds`.

        Raises:
            ConfigError: If the agent has no period.
        """
        if self._asked is None:
            raise ConfigError("tick needs a period: Agent(…, period=0.02) ticks at 50 Hz.")
        self._companions.check()
        if self._clock is None:
            self._clock = WallClock(self._asked)
        clock, ticker = self._clock, self._ticker
        over = ticks is not None and ticker.ticks >= ticks
        if self._ended.is_set() or over or (seconds is not None and clock.now() >= seconds):
            return False
        ticker.wait(clock, self._decider.metrics, self.chores)
        return self._open or not self._stop.is_set()  # it may have been closed meanwhile

    def stop(self) -> None:
        """End `run`, and let the next `tick` return False; also from another thread."""
        self._ended.set()

    def run(
        self,
        env: Any,
        *,
        hz: float | None = None,
        clock: Literal["wall", "virtual"] | Clock = "wall",
        ticks: int | None = None,
        seconds: float | None = None,
        episodes: int | None = None,
        seed: int | None = None,
        realtime: Realtime | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> RunResult:
        """Run in an environment until an end, and return what was measured.

        `Runtime` does the same beside other tasks of an event loop, decision by decision.

        Args:
            env: Has `reset(seed=…)` and `step(action)` as Gymnasium has them.
            hz: Ticks per second; by default 1 / `period`, or 50.
            clock: "wall", "virtual" (ticks take no time, planner and distiller are asked in this
                process), or a clock of your own.
            ticks: The end, in ticks.
            seconds: The end, in seconds of the clock.
            episodes: The end, in episodes.
            seed: Episode i is reset with seed + i.
            realtime: What is asked of the system for the tick thread on the wall clock.
            wait: Begin only when planner and distiller are ready, within `timeout` seconds.
            timeout: See `wait`.

        Raises:
            ConfigError: If the agent was started before, or there is no end.
            Exception: What the environment raised, with a note that says when.
        """
        limits = Limits(ticks, seconds, episodes)
        if limits == Limits():
            raise ConfigError("A run needs an end: give ticks, seconds or episodes.")
        chosen = self.adopt(clock, hz)
        loop = Loop(self, chosen, env, limits, seed, 0, realtime, self._ended)
        self.start(wait=wait, timeout=timeout, supervisor=not isinstance(chosen, VirtualClock))
        try:
            loop.run()
        finally:
            self.close()
        return loop.result()

    def adopt(self, clock: Literal["wall", "virtual"] | Clock, hz: float | None = None) -> Clock:
        """Prepare for a clock before the start; return the clock.

        Raises:
            ConfigError: If there is no such clock or rate, the agent was started before, or its
                planner or distiller would hold this clock's ticks up.
        """
        if self._started:
            raise ConfigError(
                "The agent was started before. `run` starts it itself, once: call it outside of "
                "the with block, on a new agent."
            )
        chosen = make_clock(clock, 1.0 / (self._asked or 0.02) if hz is None else hz)
        self._form = self._decider.form  # a swap may have come before
        self._connect(chosen.period, virtual=isinstance(chosen, VirtualClock))
        self._companions.check()
        return chosen

    def act(self, obs: Any) -> Any:
        """Return the action for an observation as the environment gives it.

        The action is in the environment's units: an int for one choice, else an array.

        Raises:
            SpecError: If the observation has another shape.
        """
        if self._short:
            return self._decider.act_alone(obs)
        return self._decide(obs, self._ticker.late)[0]

    def decide(self, obs: Any, *, lateness: float | None = None) -> Decision:
        """Return the action as `act` does, with who decided and why.

        `lateness` is in seconds since the tick was due: its deadline is so much nearer. By default
        it is that of the last `tick`.

        Raises:
            SpecError: If the observation has another shape.
        """
        late = self._ticker.late if lateness is None else round(lateness * 1e9)
        action, source, reason, tick, version, taken = self._decide(obs, late)
        return Decision(action, source, reason, tick, version, taken * 1e-9)

    def _decide(self, obs: Any, lateness: int) -> Outcome:
        if not self._open:
            raise ConfigError(
                "The agent is not running. Use it in a block: with Agent(...) as agent."
            )
        out = self._decider.decide(obs, lateness)
        if self._inline is not None:
            self._inline.learn()
            self._swaps.take_learnt()
            finish(self._swaps.heed_scores())
        return out

    @property
    def strategy(self) -> Strategy | None:
        """The strategy that serves, or served last; None where there is none left."""
        return self._decider.strategies.current

    @property
    def live(self) -> LivePage | None:
        """The page that shows it, if there is one."""
        return self._companions.live

    @property
    def counters(self) -> Metrics:
        """The counters themselves, for a loop that adds to them."""
        return self._decider.metrics

    def metrics(self) -> dict[str, Any]:
        """Return all that was counted so far as plain values, by name."""
        out = self._decider.snapshot()
        out["chore_overruns_total"] = self.chores.overruns
        if self._period is None:
            # Without a deadline none is missed, and none is met.
            out["deadline_miss_total"] = None
        if self._companions.log is not None:
            out |= self._companions.log.counts()
        if self._open or self._stop.is_set():
            out |= self._companions.counts(out["swaps_refused_total"])
        return out
