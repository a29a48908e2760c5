"""Snake: a tree search, alone or guided by an executor that learnt from it.

    agentkd distill envs.snake:agentkd/Snake-v0 --planner policies.snake:planner
    agentkd eval envs.snake:agentkd/Snake-v0 policies.snake:guided --planner-args walks=8

Everything works from an observation alone. Where food will appear is not observed, and the model
lets none appear.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agentkd.deploy.bundle import read_bundle
from agentkd.errors import SpecError
from agentkd.executors.executor import Executor
from agentkd.executors.native import compile_native
from agentkd.planners import Planner
from agentkd.planners.search.tree import TreeOptions, TreeSearch
from agentkd.planners.search.worlds import prior_of, roll
from agentkd.spec import Spec
from agentkd.types import Categorical, Floats
from agentkd.views import whole
from envs import snake_rules as rules
from envs.snake_rules import Position

HORIZON = 8
_A_TURN, _A_MEAL = 0.07, 0.5
"""What a turn to live is worth, and what food is that can be reached at once."""
_NEARER = 0.9
_SURE = 8.0


class World:
    """Snake as a `Model`, in which no food appears."""

    actions = rules.ACTIONS

    def restore(self, obs: Floats, /) -> Position:
        """Read the position from an observation, (obs,)."""
        return rules.restore(obs)

    def step(self, state: Position, action: int, /) -> tuple[Position, float, bool]:
        """Take a turn."""
        return rules.move(state, action)


def worth(state: Position) -> float:
    """What is to be expected from a position on.

    The turns that are left, by the room there is for the body, and the food that can be reached
    before it is gone, by how far it is.
    """
    layers, area = rules.flood(state)
    room = min(1.0, area / len(state.body))
    meals = sum(_NEARER**distance for distance in _distances(state, layers))
    return _A_TURN * (rules.TURNS - state.turn) * room + _A_MEAL * meals


def _distances(state: Position, layers: list[int]) -> list[int]:
    """How far the food is that can be reached in time, in turns."""
    found = []
    for cell, life in state.food:
        for distance, layer in enumerate(layers[:life], 1):
            if layer >> cell & 1:
                found.append(distance)
                break
    return found


def search(walks: int, executor: Executor | None = None) -> TreeSearch[Position]:
    """Make a tree search, whose prior is an executor if there is one."""
    options = TreeOptions(simulations=walks, horizon=HORIZON, exploration=0.5, discount=0.98)
    prior = None
    if executor is not None:
        prior = prior_of(compile_native(executor) or executor, rules.observe)
    return TreeSearch(World(), options, value=worth, prior=prior)


def planner(spec: Spec, walks: int = 256) -> Planner:
    """Make the tree search; with 256 walks a few milliseconds for an answer."""
    return Planner(search(walks), spec, f"tree search, {walks} walks", 0, "")


def quick(spec: Spec) -> Planner:
    """Make the tree search with 64 walks."""
    return planner(spec, walks=64)


def guided(spec: Spec, walks: int = 16, executor: str | None = None) -> Planner:
    """Make the tree search whose prior is an executor, so that it needs fewer walks.

    Args:
        spec: The environment.
        walks: Walks for an answer.
        executor: The executor's file; the one beside this if left out.

    Raises:
        BundleError: If the file cannot be read.
        SpecError: If it is for another environment.
    """
    path = Path(executor or Path(__file__).with_name("executor.akd"))
    bundle = read_bundle(path)
    if whole(bundle.executor.spec.obs).size != spec.obs.size or (
        bundle.executor.spec.action != spec.action or bundle.executor.memory
    ):
        raise SpecError(
            f"{path} is for {bundle.executor.spec}; a prior has {spec.obs.size} numbers, "
            f"{spec.action} and no memory."
        )
    policy = search(walks, bundle.executor)
    return Planner(policy, spec, f"guided tree search, {walks} walks", 0, bundle.digest)


def reactive(obs: Floats) -> Categorical:
    """Go where food is nearest, never into death or where there is no room.

    The rule that looks one turn ahead, for observations (batch, obs).
    """
    logits = np.zeros((len(obs), rules.ACTIONS), np.float32)
    for row, each in zip(logits, obs, strict=True):
        position = rules.restore(each)
        row[int(np.argmax([_appeal(position, action) for action in range(3)]))] = _SURE
    return Categorical(logits)


def _appeal(position: Position, action: int) -> float:
    after, reward, over = rules.move(position, action)
    if over:
        return 100.0 * reward
    layers, area = rules.flood(after)
    nearest = max((_NEARER**d for d in _distances(after, layers)), default=0.0)
    return max(3.0 * reward, nearest) - 10.0 * (area < len(after.body))


def safe(obs: Floats, action: int) -> bool:
    """Whether an action, given the observation (obs,), is not death this turn.

    It is a guard: `agentkd.runtime.routers.Guard(safe)`.
    """
    return rules.move(rules.restore(obs), int(action))[1] >= 0


def ahead(obs: Floats, actions: Sequence[int]) -> Floats:
    """What will be observed after some actions, (obs,), if no food appears."""
    return roll(World(), rules.observe, obs, actions)
