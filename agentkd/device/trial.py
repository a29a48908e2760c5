"""A trial: an executor decides beside the one that acts, then acts under a watch."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import monotonic, perf_counter_ns
from typing import Any, Literal, NamedTuple, Self, final

import numpy as np

from agentkd import dists
from agentkd.affinity import unbind
from agentkd.deploy.bundle import Bundle
from agentkd.device.device import Device
from agentkd.device.state import Candidate, State, Tally
from agentkd.errors import AgentkdError, DeviceReason, NumbersError, check_range
from agentkd.executors.executor import Executor
from agentkd.files import reason as told
from agentkd.printable import logger
from agentkd.runtime.agent import Agent
from agentkd.runtime.scores import Rollback, Scores
from agentkd.spec import flatten_one
from agentkd.views import environment

log = logger(__name__)

Phase = Literal["idle", "shadow", "acting"]
_MISSED = 0.01
"""The share of deadlines that may be missed more often than before."""
_VETOED = 0.1
"""The share of actions that routers may refuse more often than before."""
_OVER = 0.01
"""The share of decisions in the shadow that may be over the budget."""
_FAR = 5.0
"""How many periods no decision in the shadow may take."""
_PAUSE = 5.0
"""Seconds before what could not be read or written is tried again."""


@dataclass(frozen=True, slots=True)
class TrialOptions:
    """What an executor has to show before it is confirmed.

    Attributes:
        shadow: Ticks at which it decides on a finite observation and does not act.
        acting: Ticks at which it, and no one else, decides what is done, before it is confirmed.
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
        check_range("shadow", self.shadow, least=2, whole=True)
        check_range("acting", self.acting, least=2, whole=True)
        check_range("budget", self.budget, above=0, below=math.inf)
        check_range("agreement", self.agreement, least=0, most=1)
        check_range("drop", self.drop, above=0, below=math.inf)


@final
class Trial:
    """Carries out, in a robot's loop, the trials of the executors that a device lets in.

    Use it in a `with` block, inside that of the agent: a trial that is under way at its end goes on
    in the next program, and only a program that ends in an error or is killed counts against the
    executor. `tick` and `reset` are for the thread that ticks; reading, compiling and writing
    happen in a thread that ends with each of them.

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
        # What failed in this process is not begun again; the reason stays until it is written.
        self._ended: dict[str, tuple[DeviceReason, str] | None] = {}
        self._again, self._said = 0.0, ""

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
            if self._run is not None:
                # Ticks went by unseen.
                self._run.mark(self._agent)
        run = self._run
        facts, rested = self._look(), monotonic() >= self._again
        if rested and facts != self._seen:
            self._seen = facts
            self._start(self._reconcile)
        elif run is not None:
            try:
                fault = run.note(obs, action, score, self._agent)
            except Exception as error:  # the robot's loop goes on
                fault = "unfit", f"It could not be tried: {told(error)}"
            if fault is not None:
                self._start(lambda: self._fail(run, *fault))
            elif rested and run.done:
                self._start(lambda: self._advance(run))

    def reset(self) -> None:
        """Begin a new episode: what is tried forgets the old one."""
        if self._run is not None:
            self._run.executor.reset()

    def settle(self) -> None:
        """Wait for what happens in the thread."""
        if self._job is not None:
            self._job.join()
            self._job = None

    def close(self) -> None:
        """End cleanly: what is on trial goes on with it in the next program."""
        self.settle()
        run = self._run
        self._leave()
        try:
            for digest, fault in self._ended.items():
                if fault is not None:
                    self.device.fail(digest, *fault)
            if run is not None:
                self.device.pause(run.digest, run.shadow, run.acting)
        except AgentkdError as error:
            log.warning("%s", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, KeyboardInterrupt):
            self.close()
        else:
            self.settle()

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
                # Such as a disk that is full: it is tried again, and told once.
                if str(error) != self._said:
                    log.warning("%s", error)
                self._again, self._seen, self._said = monotonic() + _PAUSE, (-1,), str(error)
            except Exception:
                # Whatever it is, the loop goes on; the next program counts as one more start.
                log.exception("A trial ended in an error.")
                if self._run is not None:
                    self._ended[self._run.digest] = None
                self._leave()

        self._job = threading.Thread(target=work, name="trial", daemon=True)
        self._job.start()

    def _reconcile(self) -> None:
        """Follow the state on disk, which another process may have changed."""
        state = self.device.status()
        waiting, run = state.waiting, self._run
        if run is not None and (waiting is None or waiting.held.digest != run.digest):
            if state.active is None:
                # The folder is gone: nothing is left to confirm or roll back.
                self._return(run)
            self._leave()
        if self._run is not None:
            return
        self._follow(state)
        if waiting is None:
            return
        digest = waiting.held.digest
        if digest not in self._ended:
            bundle = self.device.begin()
            if bundle is not None:
                self._run = _Run(bundle, waiting, self._agent, self.options)
                self.phase = "shadow"
        elif (fault := self._ended[digest]) is not None and waiting.stage == "TRIAL":
            self._write(digest, fault)

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
            self.device.confirm(run.digest)
            self._leave()

    def _fail(self, run: _Run, reason: DeviceReason, text: str) -> None:
        """Let the former executor act again at once; then roll back on disk."""
        self._ended[run.digest] = reason, text
        self._return(run)
        self._leave()
        self._write(run.digest, (reason, text))

    def _write(self, digest: str, fault: tuple[DeviceReason, str]) -> None:
        """Roll back on disk."""
        state = self.device.fail(digest, *fault)
        self._ended[digest] = None
        self._follow(state)

    def _return(self, run: _Run) -> None:
        """Let the executor act again that did before the trial."""
        if run.former is not None and self._agent.executor is not run.former:
            self._agent.swap(run.former)
            self._acts = ""

    def _leave(self) -> None:
        self._run, self.phase, self._said = None, "idle", ""


class _Counts(NamedTuple):
    """Where an agent's counters stand."""

    others: int
    """Decisions of others than the executor."""
    vetoed: int
    """Refusals of the executor's actions."""
    blind: int
    """Decisions that were due to NaN."""
    late: int
    """Deadlines missed."""


def _counts(agent: Agent) -> _Counts:
    counters = agent.counters
    # Copies: the thread that ticks may add a kind.
    decisions, vetoes = list(counters.decisions.items()), list(counters.vetoes.items())
    return _Counts(
        sum(count for (source, _), count in decisions if source != "executor"),
        sum(count for (source, _), count in vetoes if source == "executor"),
        sum(count for (_, why), count in decisions if why == "nan"),
        counters.deadline_misses,
    )


@final
class _Run:
    """What is counted of an executor on trial, from where the last program ended."""

    def __init__(
        self, bundle: Bundle, candidate: Candidate, agent: Agent, options: TrialOptions
    ) -> None:
        self.digest, self.executor = bundle.digest, bundle.executor.compile()
        self.former: Executor | None = None
        """The one that acted before, once this one acts."""
        self.shadow, self.acting = replace(candidate.shadow), replace(candidate.acting)
        self._options, self._period = options, agent.period
        self._budget = options.budget
        if self._budget is None and agent.period is not None:
            self._budget = agent.period / 2
        self._window = min(150, options.shadow, options.acting)
        self._scores = Scores(Rollback(self._window, options.drop))
        # In this program, in this half.
        self._ticks = self._scored = 0
        self.mark(agent)

    def mark(self, agent: Agent) -> None:
        """Note where the agent's counters stand, as a tick begins."""
        self._counts = _counts(agent)

    @property
    def _tally(self) -> Tally:
        return self.shadow if self.former is None else self.acting

    @property
    def done(self) -> bool:
        """Whether it was seen at as many ticks as are asked for, with enough scores to judge by."""
        options = self._options
        if self.former is None:
            seen, asked = self.shadow.compared, options.shadow
        else:
            seen, asked = self.acting.acted, options.acting
        scored = not self._scored or self._scored >= self._window
        return seen >= asked and (scored or self._ticks >= asked)

    def acts(self, agent: Agent, former: Executor) -> None:
        """Begin the other half: it acts from the next tick on, in the place of another."""
        self.former = former
        self._scores.swapped(former)
        self._ticks = self._scored = 0
        self.mark(agent)

    def note(
        self, obs: Any, action: Any, score: float | None, agent: Agent
    ) -> tuple[DeviceReason, str] | None:
        """Take note of a tick; return why the trial has to end at once, if it has to."""
        if environment(self.executor.spec) != agent.spec:
            # It follows a goal: what acts saw it beside the observation.
            obs = agent.observed
        before, now, tally = self._counts, _counts(agent), self._tally
        self._counts = now
        self._ticks += 1
        tally.ticks += 1
        tally.late += now.late - before.late
        tally.vetoed += now.vetoed > before.vetoed
        tally.acted += now.others == before.others
        if score is not None and math.isfinite(score):
            self._scored += 1
            self._scores.add(score)
        if self.former is None:
            return self._beside(obs, action)
        if (fault := self._replaced(agent)) is not None:
            return fault
        if now.blind > before.blind and self._finite(obs):
            return "numbers", "It answered a finite observation with NaN or infinity."
        if tally.acted + tally.vetoed >= self._options.acting:
            share, usual = _share(tally), _share(self.shadow)
            if share > usual + _VETOED:
                return "vetoed", f"{share:.0%} of its actions were refused, {usual:.0%} before."
        if self._scores.fallen() is not None:
            return "score", "The scores fell when it acted."
        return None

    def _beside(self, obs: Any, action: Any) -> tuple[DeviceReason, str] | None:
        """Let it decide in the shadow, and compare."""
        started = perf_counter_ns()
        try:
            mine = self.executor.act(obs)
        except NumbersError:
            if self._finite(obs):
                return "numbers", "It answered a finite observation with NaN or infinity."
            return None
        taken = (perf_counter_ns() - started) * 1e-9
        self.executor.executed(action)
        tally, budget, asked = self.shadow, self._budget, self._options.shadow
        tally.compared += 1
        pair = np.asarray([mine]), np.asarray([action])
        tally.agreed += float(dists.agreement(*pair, self.executor.spec.action)[0])
        if self._period is not None and taken > _FAR * self._period:
            return "slow", f"A decision took {taken:.2g} s; a period has {self._period:.2g} s."
        if budget is not None and taken > budget:
            tally.over += 1
            if tally.over > _OVER * max(asked, tally.compared):
                seen = f"{tally.over} of {tally.compared} decisions"
                return "slow", f"{seen} took over {budget:.2g} s; {_OVER:.0%} of {asked} may."
        return None

    def judge(self, agent: Agent) -> tuple[DeviceReason, str] | None:
        """Return why it does not go on, after as many ticks as are asked for."""
        shadow, acting = self.shadow, self.acting
        if self.former is not None:
            share, usual = (each.late / max(1, each.ticks) for each in (acting, shadow))
            if share > usual + _MISSED:
                return "slow", f"{share:.1%} of its deadlines were missed, {usual:.1%} before."
            return self._replaced(agent)
        mean = shadow.agreed / shadow.compared
        if mean < self._options.agreement:
            asked = f"{self._options.agreement:.0%} are asked for"
            return "disagrees", f"It agreed with what was done in {mean:.0%}; {asked}."
        return None

    def _replaced(self, agent: Agent) -> tuple[DeviceReason, str] | None:
        if agent.executor is self.executor:
            return None
        return "replaced", "The agent let another executor act in its place."

    def _finite(self, obs: Any) -> bool:
        """Return whether what it sees of an observation is finite."""
        with np.errstate(over="ignore"):
            spec = self.executor.spec.obs
            flat = isinstance(obs, np.ndarray) and obs.shape == (spec.size - spec.taken,)
            row = obs if flat else flatten_one(spec, obs)
            return bool(np.isfinite(np.asarray(row, np.float32)).all())


def _share(tally: Tally) -> float:
    """Return the share of an executor's actions that routers refused."""
    return tally.vetoed / max(1, tally.vetoed + tally.acted)
