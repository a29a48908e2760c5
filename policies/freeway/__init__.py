"""Freeway: an exact planner, and what a runtime asks about an action or a plan.

    agentkd distill envs.freeway:agentkd/Freeway-v0 --planner policies.freeway:planner

Everything works from an observation alone, with the forecast or without it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agentkd.planners import Planner
from agentkd.planners.search.exact import ExactOptions, ExactSearch
from agentkd.spec import Spec
from agentkd.types import Categorical, Floats
from envs import freeway_rules as rules
from envs.freeway_rules import Position

CRASH = -50.0
"""What a collision costs the planner, in turns. A player who prefers to be run over does the same
again once he is back at the start, and so never arrives."""
HORIZON = 32
_SURE = 8.0


class World:
    """Freeway as a `Model`: each turn costs 1."""

    actions = rules.ACTIONS

    def restore(self, obs: Floats, /) -> Position:
        """Read the position from an observation, (obs,)."""
        return rules.restore(obs)[0]

    def step(self, state: Position, action: int, /) -> tuple[Position, float, bool]:
        """Take a turn."""
        after, crashed = rules.move(state, action)
        return after, -1.0 + CRASH * crashed, after.row == 0


def turns_left(state: Position) -> float:
    """The return from a position if there were no cars."""
    return -float(state.row)


def planner(spec: Spec) -> Planner:
    """Make the planner that knows the shortest way across, 32 turns ahead."""
    search = ExactSearch(World(), ExactOptions(horizon=HORIZON), bound=turns_left)
    return Planner(search, spec, "exact search", 0, "")


def reactive(obs: Floats) -> Categorical:
    """Go up where that is free a turn from now, else stay, else go down, (batch, obs).

    The rule that looks one turn ahead; on boards that are not easy it never arrives.
    """
    logits = np.zeros((len(obs), rules.ACTIONS), np.float32)
    for row, each in zip(logits, obs, strict=True):
        position, _ = rules.restore(each)
        free = [action for action in (0, 1, 2) if not rules.move(position, action)[1]]
        row[free[0] if free else rules.STAY] = _SURE
    return Categorical(logits)


def safe(obs: Floats, action: int) -> bool:
    """Whether an action, given the observation (obs,), leads into no car this turn.

    It is a guard: `agentkd.runtime.routers.Guard(safe)`.
    """
    return not rules.move(rules.restore(obs)[0], int(action))[1]


def holds(obs: Floats, actions: Sequence[int]) -> bool:
    """Whether actions one after another lead from an observation (obs,) to the goal.

    Without a collision, that is: a plan that was made for another position may still be one for
    this.
    """
    position, _ = rules.restore(obs)
    for action in actions:
        position, crashed = rules.move(position, int(action))
        if crashed or position.row == 0:
            return not crashed
    return False


def ahead(obs: Floats, actions: Sequence[int]) -> Floats:
    """What will be observed after some actions, (obs,), by the rules.

    So a planner that answers some turns late can be asked about where it will be heard. Where the
    goal is reached before, the observation of the goal.
    """
    position, turn = rules.restore(obs)
    for action in actions:
        if position.row == 0:
            break
        position, _ = rules.move(position, int(action))
        turn += 1
    return rules.observe(position, turn, forecast=len(obs) == rules.FULL)
