"""An executor that proposes plans to a search, and a value of where plans end.

Both come from practice in the model (`agentkd practise`). So a search needs to look a few ticks
ahead only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from agentkd import dists
from agentkd.deploy.bundle import read_bundle
from agentkd.errors import LoadError, SpecError
from agentkd.executors.executor import Executor
from agentkd.fields import Fields
from agentkd.files import loading
from agentkd.planners.search.worlds import Doubles, Steps
from agentkd.spec import BoxSpec, Spec
from agentkd.types import Policy
from agentkd.views import whole

EXECUTOR, VALUE = "executor.akd", "value.akd"
"""The files of a practice, in its folder."""
NEEDED = 0.2
"""The least share of the variance of returns that a value has to explain to be used."""
VALUE_BOX = BoxSpec((-math.inf,), (math.inf,), (1,))
"""What a value answers with: one number without bounds."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Guide:
    """What a search is told by an executor that practised in its model.

    Attributes:
        policy: Answers observations with the actions that it proposes.
        action: The box that they are in.
        value: Gives the discounted return that follows, (n, 1), for observations (n, obs); None if
            nothing is known about it.
        discount: The value's, for each tick.
    """

    policy: Policy
    action: BoxSpec
    value: Executor | None = None
    discount: float = 1.0

    def propose(self, world: Steps, state: Doubles, ticks: int) -> Doubles:
        """Give what the executor does in the model from a state on, (ticks, d)."""
        states, done = state[None], []
        for _ in range(ticks):
            action = np.asarray(dists.mode(self.policy(world.observe(states)), self.action), float)
            done.append(action[0])
            _, states, _ = world.step(states, action)
        return np.stack(done)

    def live(self, world: Steps, state: Doubles, actions: Doubles) -> tuple[Doubles, Doubles]:
        """Live on with sequences of actions, (n, ticks, d), as `Rollouts.roll` does.

        The last reward has the value of what follows in it, where not all is over.
        """
        count, ticks, _ = actions.shape
        now, alive = state[None].repeat(count, 0), np.ones(count, bool)
        rewards, states = np.zeros((count, ticks)), np.empty((count, ticks, len(state)))
        for tick in range(ticks):
            paid, now, over = world.step(now, actions[:, tick])
            rewards[:, tick] = np.where(alive, paid, 0.0)
            states[:, tick] = now
            alive &= ~over
        if self.value is not None:
            follows = self.value.outputs(world.observe(now))[:, 0]
            rewards[:, -1] += self.discount * np.where(alive, follows, 0.0)
        return rewards, states


def read_guide(folder: str | Path, spec: Spec, executor: str | Path | None = None) -> Guide:
    """Read a practice's executor and value.

    The value is left out where it explains less than a fifth of the variance of returns: it then
    misleads a search.

    Args:
        folder: Where `agentkd practise` wrote.
        spec: The environment.
        executor: Another executor's file that proposes, such as one distilled since.

    Raises:
        BundleError: If a file is missing or damaged.
        LoadError: If the value does not say what it is.
        SpecError: If a file is for another environment.
    """
    place = Path(folder)
    first = Path(executor) if executor is not None else place / EXECUTOR
    proposes, worth = read_bundle(first), read_bundle(place / VALUE)
    box = spec.action
    if not isinstance(box, BoxSpec):
        raise SpecError(f"A guide is for a box of actions, not for {box}.")
    for path, found, wanted in (
        (first, proposes.executor, box),
        (place / VALUE, worth.executor, VALUE_BOX),
    ):
        if whole(found.spec.obs).size != spec.obs.size or found.spec.action != wanted:
            raise SpecError(
                f"{path} is for {found.spec}; {spec.obs.size} numbers and {wanted} fit."
            )
        if found.memory:
            raise SpecError(f"{path} has a memory; a guide answers for many states at once.")
    with loading(place / VALUE):
        facts = Fields(worth.provenance, "What it says about the value").fields("value")
        discount, explained = facts.number("discount"), facts.number("explained")
        if not 0 < discount <= 1:
            raise LoadError(f"its discount is {discount}, and has to be above 0, at most 1")
    value = worth.executor if explained >= NEEDED else None
    return Guide(proposes.executor, box, value, discount)
