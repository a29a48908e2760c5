"""What happens at a tick, on the tick's own thread: nothing here waits for anybody."""

from __future__ import annotations

import time
from time import perf_counter_ns
from typing import Any, final

import numpy as np

from agentkd import dists
from agentkd.runtime.codec import Answer
from agentkd.runtime.form import Form, default_action
from agentkd.runtime.metrics import Metrics
from agentkd.runtime.planner_port import PlannerPort
from agentkd.runtime.router import Mode, route
from agentkd.runtime.strategies import Rules, Strategies
from agentkd.spec import DiscreteSpec, flatten_one
from agentkd.types import Floats, Source

_RESERVE = 50_000
"""What is left for acting after a wait for the planner, in ns."""
_SLICE = 50e-6
_REMEMBERED = 1024
_NEVER = 1 << 62

Outcome = tuple[Any, Source, str, int, int, int]
"""Action, source, reason, tick, the executor's version, nanoseconds taken."""


@final
class Decider:
    """Decides tick by tick. It belongs to one thread; `form` may be set from another.

    Args:
        form: The executor that acts.
        planner: Where the planner is asked, None for the executor alone.
        mode: Who takes part.
        rules: What a strategy has to fulfil.
        default: What is done before anybody decided; None: the first choice, or the
            action nearest to 0.
        period: Nanoseconds that a decision may take, None for any.
        budget: Nanoseconds that it may wait for the planner.
    """

    __slots__ = (
        "_alone",
        "_arrays",
        "_budget",
        "_deadline",
        "_default",
        "_did",
        "_epoch",
        "_last",
        "_mode",
        "_planner",
        "_shape",
        "_spec",
        "_thinking",
        "_tick",
        "form",
        "metrics",
        "strategies",
    )

    def __init__(
        self,
        form: Form,
        planner: PlannerPort | None,
        mode: Mode,
        rules: Rules | None,
        default: Any,
        period: int | None,
        budget: int,
    ) -> None:
        """Begin at tick 0."""
        self.form = form
        self._spec = spec = form.frozen.spec
        self._planner, self._mode = planner, mode
        self.metrics = Metrics(spec.action)
        self.strategies = Strategies(spec, rules, patient=mode == "planner")
        if default is None:
            self._default = default_action(spec.action)
        elif isinstance(spec.action, DiscreteSpec):
            self._default = int(default)
        else:
            self._default = np.asarray(default)
        self._deadline = period or _NEVER
        self._budget = budget
        self._tick = self._epoch = self._alone = 0
        self._last: Any = None
        self._thinking = 0.0
        self._did: list[tuple[int, Any]] = [(-1, None)] * _REMEMBERED
        self._arrays = not isinstance(spec.action, DiscreteSpec)
        parts = spec.obs.parts
        plain = spec.obs.layout == "single" and not parts[0].sizes
        # Observations of this shape need not be laid out.
        self._shape = parts[0].shape if plain and len(parts[0].shape) == 1 else None

    @property
    def alone(self) -> int:
        """How many decisions `act_alone` made."""
        return self._alone

    def reset(self) -> None:
        """Begin a new episode: strategies of the old one no longer count."""
        self._epoch += 1
        self.metrics.epochs += 1
        self._last = None
        self.strategies.reset()

    def act_alone(self, obs: Any) -> Any:
        """Give the executor's action, where there is nobody else."""
        started = perf_counter_ns()
        form = self.form
        self._write(obs, form.obs)
        if form.run():
            return self._finish(*self._blind(), form, started, 0)[0]
        action = form.take()
        # A copy: what the caller does to the action must not change what is held.
        self._last = action.copy() if self._arrays else action
        self._tick += 1
        self._alone += 1
        taken = perf_counter_ns() - started
        if taken > self._deadline:
            self.metrics.deadline_misses += 1
        self.metrics.decision_latency.record(taken)
        return action

    def decide(self, obs: Any, lateness: int = 0) -> Outcome:
        """Decide for an observation.

        Args:
            obs: As the environment gives it.
            lateness: Nanoseconds since the tick was due: its deadline is nearer.

        Raises:
            SpecError: If the observation has another shape.
        """
        started = perf_counter_ns()
        form, tick, planner = self.form, self._tick, self._planner
        flat = form.obs
        self._write(obs, flat)
        if form.run():
            return self._finish(*self._blind(), form, started, lateness)
        mine = form.take()
        if planner is None:
            return self._finish(mine, "executor", "alone", form, started, lateness)
        self._did[tick % _REMEMBERED] = (tick, mine)
        planner.submit(tick, self._epoch, flat)
        self._hear(tick)
        if self._budget:
            self._wait(tick, started - lateness + self._budget - _RESERVE)
        return self._finish(*self._choose(tick, flat, mine), form, started, lateness)

    def _write(self, obs: Any, out: Floats) -> None:
        try:
            if obs.__class__ is np.ndarray and obs.shape == self._shape:
                out[:] = obs
            else:
                out[:] = flatten_one(self._spec.obs, obs)
        except RuntimeWarning:
            # Too large for float32, where warnings are errors.
            out[:] = np.inf

    def _choose(self, tick: int, obs: Floats, mine: Any) -> tuple[Any, Source, str]:
        theirs, why = None, ""
        if self._mode != "executor":
            theirs, why = self.strategies.serve(tick, obs)
        held = self._last is not None
        source, reason = route(
            self._mode, blind=False, strategy=theirs is not None, why=why, held=held
        )
        if source == "strategy":
            strategy = self.strategies.current
            assert strategy is not None
            self.metrics.ages.record(tick - strategy.obs_tick)
            return theirs, source, reason
        if source == "executor":
            return mine, source, reason
        return self._fallback(source), source, reason

    def _blind(self) -> tuple[Any, Source, str]:
        self.metrics.nan_observations += 1
        if self._planner is not None:
            self._hear(self._tick)
        held = self._last is not None
        source, why = route(self._mode, blind=True, strategy=False, why="", held=held)
        return self._fallback(source), source, why

    def _fallback(self, source: Source) -> Any:
        action = self._last if source == "hold" else self._default
        return action.copy() if self._arrays else action

    def _finish(
        self,
        action: Any,
        source: Source,
        reason: str,
        form: Form,
        started: int,
        lateness: int,
    ) -> Outcome:
        metrics, tick = self.metrics, self._tick
        if source in ("strategy", "executor"):
            self._last = action.copy() if self._arrays else action
        self._tick += 1
        key = source, reason
        metrics.decisions[key] = metrics.decisions.get(key, 0) + 1
        taken = perf_counter_ns() - started
        if taken + lateness > self._deadline:
            metrics.deadline_misses += 1
        metrics.decision_latency.record(taken)
        return action, source, reason, tick, form.frozen.version, taken

    def _hear(self, tick: int) -> None:
        assert self._planner is not None
        for answer in self._planner.poll(tick):
            self._take(answer, tick)

    def _take(self, answer: Answer, tick: int) -> None:
        metrics = self.metrics
        metrics.answers += 1
        metrics.planner_latency.record(round(answer.latency * 1e9))
        metrics.planner_ticks.record(tick - answer.tick)
        self._thinking += 0.2 * (answer.latency - self._thinking)
        at, did = self._did[answer.tick % _REMEMBERED]
        if at == answer.tick:
            metrics.agreement.note(did, dists.rows(answer.rows, slice(0, 1)))
        if self._mode != "executor":
            self.strategies.offer(answer, tick, self._epoch)

    def _wait(self, tick: int, limit: int) -> None:
        """Wait for this tick's answer until `limit`, if the planner is fast lately."""
        if self._thinking * 1e9 > self._budget or not self.metrics.answers:
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
