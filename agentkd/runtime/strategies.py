"""Which strategy may serve a tick, and why not.

A strategy is indexed by the ticks that were consumed since its observation, never by an
estimate of latency. Each refusal is counted under one of these reasons:

* late: its last row was for an earlier tick than the one it arrived at,
* stale: it is older than allowed,
* diverged: the precondition does not hold for what is observed now,
* guard: the guard vetoes the action,
* superseded: one for a newer observation is here already,
* epoch: it belongs to an episode that is over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, final, get_args

from agentkd import dists
from agentkd.errors import ConfigError
from agentkd.executors.frozen import one_action
from agentkd.runtime.codec import Answer
from agentkd.spec import Spec
from agentkd.types import Floats, Strategy

Refusal = Literal["late", "stale", "diverged", "superseded", "epoch", "guard"]
Precondition = Callable[[Strategy, Floats, int], bool]
"""Says whether a strategy still holds, given the observation (obs,) and its row."""
Guard = Callable[[Floats, Any], bool]
"""Says whether an action may be taken, given the observation (obs,)."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a strategy has to fulfil.

    Attributes:
        max_age: The most ticks since its observation; None: as many as it has rows.
        precondition: Asked before each row is used.
        guard: Asked about each action.
    """

    max_age: int | None = None
    precondition: Precondition | None = None
    guard: Guard | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.max_age is not None and self.max_age < 0:
            raise ConfigError(f"max_age is {self.max_age}; it has to be at least 0.")


@final
class Strategies:
    """Holds the strategy that serves, and counts those that do not.

    Args:
        spec: The environment.
        rules: What a strategy has to fulfil.
        patient: Take late strategies too, as a planner that acts alone does: one
            serves the tick at which it arrives with its last row.
    """

    def __init__(
        self, spec: Spec, rules: Rules | None = None, *, patient: bool = False
    ) -> None:
        """Begin with none."""
        self.accepted = 0
        self.rejected: dict[str, int] = dict.fromkeys(get_args(Refusal), 0)
        self.current: Strategy | None = None
        self._spec = spec
        self._rules = rules or Rules()
        self._patient = patient
        self._why = ""
        self._newest = -1

    def reset(self) -> None:
        """Forget the strategy: its episode is over."""
        self.current = None

    def _refuse(self, reason: Refusal) -> None:
        self.rejected[reason] += 1
        self._why = reason

    def offer(self, answer: Answer, tick: int, epoch: int) -> None:
        """Take an answer that arrived at `tick`, or refuse it."""
        rows = answer.rows
        horizon = len(dists.pack(rows))
        age = tick - answer.tick
        oldest = self._rules.max_age
        if answer.epoch != epoch:
            self._refuse("epoch")
        elif answer.tick <= self._newest:
            self._refuse("superseded")
        elif age >= horizon and not self._patient:
            self._refuse("late")
        elif oldest is not None and age > oldest:
            self._refuse("stale")
        else:
            self._newest = answer.tick
            self.accepted += 1
            last = horizon - 1 if oldest is None else min(horizon - 1, oldest)
            self.current = Strategy(
                id=answer.id,
                epoch=epoch,
                obs_tick=answer.tick,
                ready_tick=tick,
                valid_until=max(answer.tick + last, tick if self._patient else 0),
                rows=rows,
            )

    def serve(self, tick: int, obs: Floats) -> tuple[Any, str]:
        """Give the action for a tick.

        Args:
            tick: The tick.
            obs: What is observed at it, (obs,).

        Returns:
            The action, None where no strategy serves; and why.
        """
        why, self._why = self._why or "late", ""
        strategy = self.current
        if strategy is None or strategy.rows is None:
            return None, why
        row = tick - strategy.obs_tick
        horizon = len(dists.pack(strategy.rows))
        if tick > strategy.valid_until:
            self.current = None
            if row < horizon:
                self.rejected["stale"] += 1
                why = "stale"
            return None, why
        on_time = row < horizon
        row = min(row, horizon - 1)
        rules = self._rules
        if rules.precondition and not rules.precondition(strategy, obs, row):
            self.current = None
            self.rejected["diverged"] += 1
            return None, "diverged"
        actions = dists.mode(
            dists.rows(strategy.rows, slice(row, row + 1)), self._spec.action
        )
        action = one_action(actions, self._spec)
        if rules.guard and not rules.guard(obs, action):
            self.rejected["guard"] += 1
            return None, "guard"
        return action, ("fresh" if row == 0 else "ahead") if on_time else "late"
