"""The decision of a tick, on the tick's own thread: nothing here waits."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from time import monotonic_ns, perf_counter_ns
from typing import TYPE_CHECKING, Any, final

import numpy as np

from agentkd import dists
from agentkd.executors.acting import Form, default_action
from agentkd.executors.executor import one_action
from agentkd.executors.past import carried
from agentkd.runtime.arbiter import Actor, Arbiter, Chosen, Mode, Router, actor_of
from agentkd.runtime.codec import Answer, Seen, flat_actions
from agentkd.runtime.goals import unconditioned, write_goal
from agentkd.runtime.metrics import Metrics
from agentkd.runtime.recorder import Recorder
from agentkd.runtime.rollforward import Lead
from agentkd.runtime.scores import Worth
from agentkd.runtime.sight import sight_of
from agentkd.runtime.strategies import Strategies, StrategyOptions, Trust
from agentkd.runtime.trust import IDLE, History, Judge
from agentkd.spec import BoxSpec, DiscreteSpec, flatten_one
from agentkd.types import Floats, Source
from agentkd.views import environment

if TYPE_CHECKING:
    from agentkd.runtime.planner import PlannerPort

_RESERVE = 50_000
"""What is left for acting after a wait for the planner, in ns."""
_SLICE = 50e-6
_NEVER = 1 << 62
_DECIDERS = ("strategy", "executor")

Outcome = tuple[Any, Source, str, int, int, int]
"""Action, source, reason, tick, the executor's version, nanoseconds taken."""


@final
class Decider:
    """Decides tick by tick. It belongs to one thread; `form` may be set from another.

    `period` is what a decision may take and `budget` what it may wait for the planner, in
    nanoseconds. The rest is as in `Agent`; `record` gets the decisions.
    """

    def __init__(
        self,
        form: Form,
        planner: PlannerPort | None,
        mode: Mode,
        routers: Sequence[Router] | None,
        default: Any,
        period: int | None,
        budget: int,
        options: StrategyOptions | None = None,
        record: Recorder | None = None,
        *,
        learns: bool = False,
    ) -> None:
        # With 30 attributes or more, Python would find each of them more slowly.
        wanted = options or StrategyOptions()
        self.form = self._used = self._acting = form
        goals = self._goals = wanted.goals
        known = form.executor.spec
        if goals is not None:
            known = unconditioned(known, goals)
        spec = self.spec = environment(known)
        # An executor that sees a part of the observation is handed that part.
        self._view = sight_of(form.executor, known, spec, learns=learns)
        self._planner = planner
        metrics = self.metrics = Metrics(spec.action)
        self._latency = metrics.latency["executor"]
        default = default_action(spec.action, default)
        arbiter = self.arbiter = Arbiter(spec, mode, routers or (), wanted.seam, default, metrics)
        patient = "executor" not in arbiter.order
        self._lead = Lead(wanted.roll_forward) if wanted.roll_forward else None
        self._history = History()
        self.worth = Worth()
        self._judge: Judge | None = None
        judged = any(router.judges for router in arbiter.routers)
        trust = None if patient else wanted.trusted(judged=judged)
        stand_in = wanted.stand_in(trust, spec.action)
        self.strategies = Strategies(spec, wanted, patient=patient, stand_in=stand_in)
        if trust is not None:
            history, vetoes = self._history, metrics.vetoes
            self._judge = Judge(trust, spec.action, history, self._foretell, vetoes)
        self._record = record
        self._deadline = period or _NEVER
        # Where no strategy can act, there is nothing to wait for.
        self._acts = "strategy" in arbiter.order
        self._budget = budget if self._acts or goals is not None else 0
        self._tick = self._episode = self._held = 0
        self.alone = 0  # decisions of `act_alone`
        self._last: Any = None
        self._actor: Actor | None = None
        self._thinking = 0.0
        self._asked: Floats | None = None
        self._arrays = not isinstance(spec.action, DiscreteSpec)
        parts = spec.obs.parts
        plain = spec.obs.layout == "single" and not parts[0].sizes
        # Observations of this shape need not be laid out.
        self._shape = parts[0].shape if plain and len(parts[0].shape) == 1 else None

    @property
    def trust(self) -> Trust | None:
        """The limits within which late rows act; None where no row is judged."""
        return None if self._judge is None else self._judge.trust

    @property
    def lead(self) -> int:
        """Ticks by which observations are rolled forward now."""
        return self._lead.value if self._lead is not None else 0

    def reset(self) -> None:
        """Begin a new episode: strategies of the old one no longer count."""
        self._episode += 1
        self.metrics.episodes += 1
        self._last = self._actor = None
        self._held = 0
        self._acting.memory[:] = 0.0
        if self._view is not None:
            self._view.begin(self._acting)
        self.strategies.reset()
        self.arbiter.reset()
        self.worth.reset()
        if self._record is not None:
            self._record.reset(self._episode)

    def snapshot(self) -> dict[str, Any]:
        """Return what was counted so far as plain values, by name."""
        out = self.metrics.snapshot()
        decisions, executor = out["decisions_total"], self.form.executor
        if self.alone:
            counted = decisions.setdefault("executor", {})
            counted["alone"] = counted.get("alone", 0) + self.alone
            out["ticks_total"] += self.alone
        ticks = max(1, out["ticks_total"])
        out["strategy_coverage"] = sum(decisions.get("strategy", {}).values()) / ticks
        out["untrusted_share"] = 1.0 - out["starved_ticks_total"] / ticks
        out["executor_version"] = executor.version
        out["executor_parameters"] = executor.parameters
        out["strategy_accepted_total"] = self.strategies.accepted
        out["strategy_rejected_total"] = dict(self.strategies.rejected)
        out["lead_ticks"] = self.lead
        out |= self.worth.summary()
        for router in self.arbiter.routers:
            out |= router.counts()
        return out

    def _take_over(self, form: Form) -> None:
        """Let a form that was swapped in go on with what the one before remembers."""
        before = self._acting.memory
        window = self._view.window if self._view is not None and self._planner is not None else None
        if form.memory.shape == before.shape:
            form.memory[:] = (
                carried(before, self._acting.executor, form.executor)
                if window is None
                else window.remembered(form.executor)
            )
        if self._view is not None and self._view.taken:
            form.obs[-self._view.taken :] = self._acting.obs[-self._view.taken :]
        if self.strategies.stand_in is not None:
            self.strategies.stand_in.swapped()
        self._acting = form

    def resume(self, tick: int | None, episode: int) -> None:
        """Go on from a tick of an episode, as a replay does."""
        self._tick = self._tick if tick is None else tick
        self._episode = episode

    def take_flat(self) -> None:
        """Take observations flat, (obs,), from now on."""
        self._shape = (self.spec.obs.size,)

    def act_alone(self, obs: Any) -> Any:
        """Return the executor's action, where there is nobody else."""
        started = perf_counter_ns()
        form = self.form
        if form is not self._acting:
            self._take_over(form)
        if self._view is None:
            self._write(obs, form.obs)
        else:
            taken = self._view.taken
            self._view.write(obs, self._shape, form.obs[:-taken] if taken else form.obs)
        if form.run():
            return self._finish(*self._blind(form.obs), form, started, 0)[0]
        action = form.take()
        # A copy: what the caller does to the action must not change what is held.
        self._last = action.copy() if self._arrays else action
        if self._view is not None:
            self.executed(action)
        self._tick += 1
        self.alone += 1
        taken = perf_counter_ns() - started
        if taken > self._deadline:
            self.metrics.deadline_misses += 1
        self._latency.record(taken)
        return action

    def decide(self, obs: Any, lateness: int = 0) -> Outcome:
        """Decide for an observation, `lateness` ns after the tick was due.

        Raises:
            SpecError: If the observation has another shape.
        """
        started = perf_counter_ns()
        form, tick = self.form, self._tick
        goals, record = self._goals, self._record
        if form is not self._acting:
            self._take_over(form)
        if self._view is None:
            seen = own = form.obs if goals is None else form.obs[: self.spec.obs.size]
            self._write(obs, seen)
        else:
            seen = self._view.row
            self._write(obs, seen)
            extra = self._view.taken if goals is None else goals.width
            own = form.obs[:-extra] if extra else form.obs
            own[:] = seen[self._view.columns]
        self.strategies.tick(tick)
        if record is not None:
            self._used = record.executor(form, self._used)
            record.observe(tick, self._episode, lateness, seen)
        # The planner is never shown what is not finite.
        if form.run() if goals is None else not np.isfinite(own).all():
            return self._finish(*self._blind(seen), form, started, lateness)
        mine = form.take() if goals is None else None
        if self._planner is not None:
            self._history.own(tick, mine)
            view, shown = self._view, None
            if view is not None and view.window is not None:
                shown = view.window.tick(form.obs)
            if view is None or np.isfinite(seen).all():
                self._ask(tick, seen, started - lateness, shown)
            else:
                # What the executor sees is whole; the planner sees more.
                self.metrics.nan_observations += 1
                self._hear(tick)
        if goals is not None:
            # Let the executor decide with the goal that is there by now, if the planner takes part.
            goal = self.strategies.goal(tick) if self._acts else (None, 0)
            write_goal(form.obs[-goals.width :], goals, *goal)
            form.run()
            mine = form.take()
            self._history.own(tick, mine)
        theirs, why = None, "alone"
        if self._planner is not None and self._acts:
            theirs, why = self._served(tick, seen, mine)
        arbiter = self.arbiter
        if arbiter.watched or record is not None:
            left = self._deadline - (perf_counter_ns() - started) - lateness
            left = left if record is None else record.left(left)
            if arbiter.watched:
                arbiter.moment.begin(tick, seen, form, left * 1e-9, self._held)
        chosen = arbiter.choose(self.strategies, theirs, mine, self._last, why)
        return self._finish(*chosen, form, started, lateness)

    def executed(self, action: Any) -> None:
        """Let an executor that sees past actions know what was done by any source."""
        if self._view is not None and (taken := self._view.taken):
            self._acting.obs[-taken:] = dists.coded(np.asarray(action)[None], self.spec.action)[0]

    def _write(self, obs: Any, out: Floats) -> None:
        try:
            if obs.__class__ is np.ndarray and obs.shape == self._shape:
                out[:] = obs
            else:
                out[:] = flatten_one(self.spec.obs, obs)
        except RuntimeWarning:
            # Too large for float32, where warnings are errors.
            out[:] = np.inf

    def _ask(self, tick: int, seen: Floats, due: int, shown: Floats | None) -> None:
        """Hand the observation over, and hear what came."""
        assert self._planner is not None
        if self._lead is not None:
            # What came tells how far ahead is to be asked.
            self._hear(tick)
        if self.lead:
            # What is decided at this tick goes with it: `_finish` sends it.
            self._asked = seen
        else:
            now = monotonic_ns()
            self._planner.submit(Seen(tick, self._episode, now, seen, window=shown))
        self._hear(tick)
        if self._budget:
            self._wait(tick, due + self._budget - _RESERVE)

    def _served(self, tick: int, obs: Floats, mine: Any) -> tuple[Any, str]:
        """Return the action of the strategy that serves, None for none; and why."""
        strategies = self.strategies
        theirs, why = strategies.serve(tick)
        if theirs is None and self._goals is not None:
            goal, age = strategies.goal(tick)
            if goal is not None and age <= self._goals.max_age:
                return None, "guided"
        if why == "fresh" and self._lead is not None:
            self._compare(mine)
        if theirs is not None and self._judge is not None and not strategies.stands:
            return self._judge.choose(strategies, (theirs, why), tick, (obs, mine))
        return theirs, why

    def _compare(self, mine: Any) -> None:
        """Note how far a row that came before its tick, when nothing was decided, is apart."""
        strategy = self.strategies.current
        assert strategy is not None
        if strategy.ready_tick < strategy.obs_tick and strategy.rows is not None:
            self.metrics.agreement.note(mine, dists.rows(strategy.rows, slice(0, 1)))

    def score(self, score: float) -> None:
        """Take a score of the last decision, such as its reward; larger is better."""
        if self._actor is not None:
            self.worth.note(self._actor[0], score)

    def _foretell(self, obs: Floats) -> Any:
        """Return the executor's action at another observation, (obs,)."""
        # That of this tick: a swap may come meanwhile.
        executor = self._acting.executor
        if executor.memory or self._goals is not None:
            return None
        return one_action(dists.mode(executor(obs[None]), self.spec.action), executor.spec)

    def _blind(self, obs: Floats) -> Chosen:
        self.metrics.nan_observations += 1
        if self._planner is not None:
            self._hear(self._tick)
        if self.arbiter.watched:
            self.arbiter.moment.begin(self._tick, obs, None, math.inf, self._held)
        return self.arbiter.choose(self.strategies, None, None, self._last, "nan")

    def _finish(
        self, action: Any, source: Source, reason: str, form: Form, started: int, lateness: int
    ) -> Outcome:
        metrics, tick, planner = self.metrics, self._tick, self._planner
        self._tick += 1
        if self._view is not None:
            self.executed(action)
        decided = source in _DECIDERS
        kept = action.copy() if self._arrays else action  # the caller cannot change it
        if planner is not None:
            self._follow_up(kept, source, tick, decided=decided)
        if decided:
            self._last, self._held = kept, 0
        else:
            self._held = self._held + 1 if source == "hold" else 0
            if self._arrays:
                action = np.array(action)
        key, version = (source, reason), form.executor.version
        metrics.decisions[key] = metrics.decisions.get(key, 0) + 1
        taken = perf_counter_ns() - started
        if taken + lateness > self._deadline:
            metrics.deadline_misses += 1
        attached = planner is not None and planner.ready
        latency = metrics.latency_attached if attached else metrics.latency
        latency[source].record(taken)
        if self._record is not None:
            self._record.decide(action, source, reason, version, taken)
        return action, source, reason, tick, version, taken

    def _follow_up(self, action: Any, source: Source, tick: int, *, decided: bool) -> None:
        """Note who acted, and ask the planner about what comes of it."""
        strategies, arbiter = self.strategies, self.arbiter
        idle = strategies.standing and not decided
        self._history.executed(tick, IDLE if idle else action)
        track = strategies.current if source == "strategy" else None
        if track is not None:
            self.metrics.ages.record(max(0, tick - track.origin))
            strategies.acted()
        actor = actor_of(source, track)
        if not decided:
            strategies.idled()
        moved = self._last is not None and source != "hold"
        if moved and isinstance(self.spec.action, BoxSpec):
            self.metrics.jumped(action, self._last, actor, self._actor)
        if arbiter.hand_over is not None:
            arbiter.hand_over.acted(actor, action, tick)
        self._actor = actor
        if self._asked is not None and self._planner is not None:
            actions = [action, *strategies.upcoming(tick + 1, self.lead - 1)]
            committed = flat_actions(actions, self.spec.action)
            obs, now, self._asked = self._asked, monotonic_ns(), None
            self._planner.submit(Seen(tick, self._episode, now, obs, self.lead, committed))

    def _hear(self, tick: int) -> None:
        assert self._planner is not None
        for answer in self._planner.poll(tick):
            if self._record is not None:
                self._record.hear(answer)
            self._take(answer, tick)

    def _take(self, answer: Answer, tick: int) -> None:
        metrics, (did, _) = self.metrics, self._history.at(answer.tick)
        if self._lead is not None and answer.part == 0:
            consumed = self.strategies.consumed(answer.origin, tick)
            self._lead.note(consumed, answer.id)
        if answer.partial:
            metrics.partial_answers += 1
        else:
            metrics.answers += 1
            metrics.planner_latency.record(round(answer.latency * 1e9))
            metrics.planner_ticks.record(tick - answer.origin)
            share = 0.2 if metrics.answers > 1 else 1.0
            self._thinking += share * (answer.latency - self._thinking)
            here = answer.episode == self._episode or answer.tick == answer.origin
            if did is not None and answer.rows is not None and here:
                metrics.agreement.note(did, dists.rows(answer.rows, slice(0, 1)))
        if self._acts or self._goals is not None:
            self.strategies.offer(answer, tick, self._episode, did)

    def _wait(self, tick: int, limit: int) -> None:
        """Wait for this tick's answer until `limit`, if the planner is fast lately."""
        assert self._planner is not None
        slow = self._thinking * 1e9 > self._budget or not self.metrics.answers
        if slow or not self._planner.ready:
            return
        while True:
            strategy = self.strategies.current
            if strategy is not None and strategy.obs_tick == tick:
                return
            left = limit - perf_counter_ns()
            if left <= 0:
                # In vain: after a few of these, ticks no longer wait.
                self._thinking += 0.2 * (2e-9 * self._budget - self._thinking)
                return
            if left > 2 * _RESERVE:
                time.sleep(_SLICE)
            self._hear(tick)
