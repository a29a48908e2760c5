"""A trial: an executor decides beside the one that acts, then acts under a watch."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns
from types import TracebackType
from typing import Any, Literal, Self, final

import numpy as np

from agentkd import dists
from agentkd.deploy.bundle import Bundle
from agentkd.device.device import Device
from agentkd.device.state import State
from agentkd.errors import AgentkdError, DeviceReason, NumbersError, check_range
from agentkd.executors.executor import Executor
from agentkd.printable import logger
from agentkd.runtime.agent import Agent
from agentkd.runtime.metrics import Histogram
from agentkd.runtime.scores import Rollback, Scores
from agentkd.runtime.workers.priority import unbind
from agentkd.spec import flatten_one

log = logger(__name__)

Phase = Literal["idle", "shadow", "acting"]
_MISSED = 0.01
"""The share of deadlines that may be missed more often than before."""


@dataclass(frozen=True, slots=True)
class TrialOptions:
    """What an executor has to show before it is confirmed.

    Attributes:
        shadow: Ticks at which it decides and does not act.
        acting: Ticks at which it acts before it is confirmed.
        budget: Seconds that 99 of 100 of its decisions may take at most; None for half of the
            agent's period, or any time without one.
        agreement: The least mean agreement with what was done, 0 to 1; 0 for any.
        drop: By how many standard deviations of the single scores their mean may fall, where the
            program gives scores.
    """

    shadow: int = 500
    acting: int = 500
    budget: float | None = None
    agreement: float = 0.5
    drop: float = 1.0

    def __post_init__(self) -> None:
        check_range("shadow", self.shadow, least=2)
        check_range("acting", self.acting, least=2)
        check_range("budget", self.budget, above=0, below=math.inf)
        check_range("agreement", self.agreement, least=0, most=1)
        check_range("drop", self.drop, above=0, below=math.inf)


@final
class Trial:
    """Carries out, in a robot's loop, the trials of the executors that a device lets in.

    Use it in a `with` block, inside that of the agent. `tick` and `reset` are for the thread that
    ticks; reading, compiling and writing happen in a thread that ends with each of them.

    Args:
        device: The device.
        agent: Acts with the device's executor.
        options: What an executor has to show.
    """

    def __init__(self, device: Device, agent: Agent, options: TrialOptions | None = None) -> None:
        self.device, self.options = device, options or TrialOptions()
        self.phase: Phase = "idle"
        """Whether an executor is tried now, and how."""
        self._agent = agent
        self._acts = device.started
        self._seen: tuple[int, ...] = ()
        self._job: threading.Thread | None = None
        self._run: _Run | None = None
        # What failed in this process is not begun again, even if that could not be written.
        self._ended: set[str] = set()

    def tick(self, obs: Any, action: Any, score: float | None = None) -> None:
        """Take note of a tick, after its action was sent.

        Args:
            obs: The observation, as `Agent.act` took it.
            action: What `Agent.act` returned.
            score: A score of the action, such as its reward; larger is better.
        """
        if self._job is not None:
            if self._job.is_alive():
                return
            self._job = None
        run = self._run
        facts = self._look()
        if facts != self._seen:
            self._seen = facts
            self._start(self._reconcile)
        elif run is not None:
            fault = run.note(obs, action, score, self._agent)
            if fault is not None:
                self._start(lambda: self._fail(run, *fault))
            elif run.done:
                self._start(lambda: self._advance(run))

    def reset(self) -> None:
        """Begin a new episode: what is tried forgets the old one."""
        if self._run is not None:
            self._run.executor.reset()

    def settle(self) -> None:
        """Wait for what happens in the thread."""
        if self._job is not None:
            self._job.join()

    def close(self) -> None:
        """End: what is on trial begins it again with the next program."""
        self.settle()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def _look(self) -> tuple[int, ...]:
        """Return what tells one state on disk from another."""
        try:
            found = self.device.path.stat()
        except OSError:
            return ()
        return (found.st_ino, found.st_mtime_ns, found.st_size)

    def _start(self, job: Callable[[], None]) -> None:
        """Do what may take long in a thread; ticks are not noted meanwhile."""

        def work() -> None:
            unbind()
            try:
                job()
            except AgentkdError as error:
                log.warning("%s", error)
            except Exception:
                # Whatever it is, the loop goes on; the next program counts as one more start.
                log.exception("A trial ended in an error.")
                if self._run is not None:
                    self._ended.add(self._run.digest)
                self._leave()

        self._job = threading.Thread(target=work, name="trial", daemon=True)
        self._job.start()

    def _reconcile(self) -> None:
        """Follow the state on disk, which another process may have changed."""
        state = self.device.status()
        waiting, run = state.waiting, self._run
        if run is not None and (waiting is None or waiting.held.digest != run.digest):
            self._leave()
        if self._run is None:
            self._follow(state)
            if waiting is not None and waiting.held.digest not in self._ended:
                bundle = self.device.begin()
                if bundle is not None:
                    self._run = _Run(bundle, self._agent, self.options)
                    self.phase = "shadow"

    def _follow(self, state: State) -> None:
        """Let the confirmed executor act, if another one does."""
        if state.active is not None and state.active.digest != self._acts:
            self._agent.swap(self.device.executor())
            self._acts = state.active.digest

    def _advance(self, run: _Run) -> None:
        """Let an executor act that did well in the shadow, or confirm one that did well acting."""
        fault = run.judge(self._agent)
        if fault is not None:
            self._fail(run, *fault)
        elif self.phase == "shadow":
            try:
                former = self._agent.executor
                self._agent.swap(run.executor)
            except AgentkdError as error:
                self._fail(run, "unfit", str(error))
                return
            self._acts = run.digest
            run.acts(self._agent, former)
            self.phase = "acting"
        else:
            run.again(self._agent)
            self.device.confirm(run.digest)
            self._leave()

    def _fail(self, run: _Run, reason: DeviceReason, text: str) -> None:
        """Let the former executor act again at once; then roll back on disk."""
        self._ended.add(run.digest)
        if run.former is not None:
            self._agent.swap(run.former)
            self._acts = ""
        self._leave()
        self._follow(self.device.fail(run.digest, reason, text))

    def _leave(self) -> None:
        self._run, self.phase = None, "idle"


@final
class _Run:
    """What is counted of an executor on trial."""

    def __init__(self, bundle: Bundle, agent: Agent, options: TrialOptions) -> None:
        self.digest, self.executor = bundle.digest, bundle.executor.compile()
        self.former: Executor | None = None
        """The one that acted before, once this one acts."""
        self._options = options
        self._period = agent.period
        self._times = Histogram()
        self._ticks = 0
        self._compared, self._agreed = 0, 0.0
        window = min(150, options.shadow, options.acting)
        self._scores = Scores(Rollback(window, options.drop))
        self._mark(agent)
        self._missed = 0.0

    def _mark(self, agent: Agent) -> None:
        """Note where the agent's counters stand, as a tick begins."""
        counters = agent.counters
        self._blind, self._late = counters.nan_observations, counters.deadline_misses

    @property
    def done(self) -> bool:
        """Whether it was seen at as many ticks as are asked for."""
        options = self._options
        return self._ticks >= (options.shadow if self.former is None else options.acting)

    def acts(self, agent: Agent, former: Executor) -> None:
        """Begin to count anew: it acts from the next tick on, in the place of another."""
        self._missed = self._share(agent)
        self.former = former
        self._scores.swapped(former)
        self.again(agent)

    def again(self, agent: Agent) -> None:
        """Count ticks anew."""
        self._ticks = 0
        self._mark(agent)

    def note(
        self, obs: Any, action: Any, score: float | None, agent: Agent
    ) -> tuple[DeviceReason, str] | None:
        """Take note of a tick; return why the trial has to end at once, if it has to."""
        self._ticks += 1
        if score is not None and math.isfinite(score):
            self._scores.add(score)
        if self.former is None:
            return self._shadow(obs, action)
        if agent.counters.nan_observations > self._blind:
            self._blind = agent.counters.nan_observations
            if self._finite(obs):
                return "numbers", "It answered a finite observation with NaN or infinity."
        if self._scores.fallen() is not None:
            return "score", "The scores fell when it acted."
        return None

    def _shadow(self, obs: Any, action: Any) -> tuple[DeviceReason, str] | None:
        started = perf_counter_ns()
        try:
            mine = self.executor.act(obs)
        except NumbersError:
            if self._finite(obs):
                return "numbers", "It answered a finite observation with NaN or infinity."
            return None
        self._times.record(perf_counter_ns() - started)
        pair = np.asarray([mine]), np.asarray([action])
        self._agreed += float(dists.agreement(*pair, self.executor.spec.action)[0])
        self._compared += 1
        return None

    def judge(self, agent: Agent) -> tuple[DeviceReason, str] | None:
        """Return why it does not go on, after as many ticks as are asked for."""
        if self.former is not None:
            share = self._share(agent)
            if share > self._missed + _MISSED:
                return (
                    "slow",
                    f"{share:.1%} of its deadlines were missed, {self._missed:.1%} before.",
                )
            return None
        options, budget = self._options, self._options.budget
        if budget is None and self._period is not None:
            budget = self._period / 2
        if not self._compared:
            return "numbers", "No observation was finite: it was never seen to decide."
        p99 = self._times.summary(1e9)["p99"]
        if budget is not None and p99 > budget:
            return (
                "slow",
                f"99 of 100 decisions took up to {p99:.2g} s; {budget:.2g} s are allowed.",
            )
        mean = self._agreed / self._compared
        if mean < options.agreement:
            asked = f"{options.agreement:.0%} are asked for"
            return "disagrees", f"It agreed with what was done in {mean:.0%}; {asked}."
        return None

    def _share(self, agent: Agent) -> float:
        """Return the share of deadlines missed since the mark."""
        return (agent.counters.deadline_misses - self._late) / max(1, self._ticks)

    def _finite(self, obs: Any) -> bool:
        with np.errstate(over="ignore"):
            flat = isinstance(obs, np.ndarray) and obs.ndim == 1
            row = obs if flat else flatten_one(self.executor.spec.obs, obs)
            return bool(np.isfinite(np.asarray(row, np.float32)).all())
