"""A planner of one row as one of several: it rolls itself out in the environment's simulation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np

from agentkd import dists
from agentkd.errors import ConfigError, PlannerError, SpecError
from agentkd.planners.load import load_planner
from agentkd.planners.planner import Planner
from agentkd.planners.search.twin import Twin, twin
from agentkd.sizes import is_whole
from agentkd.spec import ActionSpec
from agentkd.spec_json import from_json
from agentkd.types import Floats, Guidance, Policy, RecurrentPolicy


@final
@dataclass(frozen=True, slots=True, eq=False)
class RolledOut:
    """A policy that answers with the rows of its own rollout, and what it expects to be observed.

    So a row acts only as long as what comes is what was expected: float32 observations and contacts
    let even an exact simulation drift within some 40 ticks.

    Attributes:
        policy: Answers one row for each observation.
        model: Where it is rolled out.
        action: What is acted with.
        horizon: How many rows it answers each observation with.
    """

    policy: Policy
    model: Twin
    action: ActionSpec
    horizon: int

    def at(self, rows: int) -> Policy | RolledOut:
        """Return the same with so many rows."""
        return self.policy if rows == 1 else replace(self, horizon=rows)

    def __call__(self, obs: Floats, /) -> Guidance:
        """Answer observations (batch, size) with (batch · horizon) rows, and what is expected then.

        Raises:
            PlannerError: If the simulation diverges.
        """
        states = [self.model.placed(each) for each in obs]
        seen, found, expected = obs, [], []
        for row in range(self.horizon):
            answer = dists.check(self.policy(seen), self.action, len(obs))
            found.append(answer.rows)
            expected.append(seen)
            if row + 1 < self.horizon:
                actions = dists.mode(dists.opened(answer, self.action), self.action)
                moved = [self.model.moved(*each) for each in zip(states, actions, strict=True)]
                states = [state for state, _ in moved]
                seen = np.stack([each for _, each in moved])
                if not np.isfinite(seen).all():
                    raise PlannerError(f"The simulation diverged: it gave NaN after row {row}.")
        rows = np.stack(found, 1).reshape(len(obs) * self.horizon, -1)
        answers = dists.unpack(answer.kind, rows, self.action)
        return Guidance(answers, expected=np.stack(expected, 1).reshape(len(rows), -1))


def rolled_out(planner: Planner, env: str, rows: int) -> Planner:
    """Let a planner answer with the rows of its own rollout.

    Args:
        planner: Answers one row for each observation.
        env: The name of the MuJoCo environment that it is for.
        rows: How many rows.

    Raises:
        ConfigError: If there is less than one row.
        PlannerError: If the planner has a memory, or several rows already.
        SpecError: If it is for another environment, or the environment's simulation does not
            reproduce it.
    """
    if not is_whole(rows, 1):
        raise ConfigError(f"rows is {rows!r:.80}; it has to be a whole number, at least 1.")
    policy: Any = planner.policy
    if hasattr(policy, "initial_state") or getattr(policy, "horizon", 1) != 1:
        raise PlannerError(
            f"{planner.name} has a memory or several rows; only a planner of one row is rolled out."
        )
    model = twin(env)
    if (planner.spec.obs.size, planner.spec.action) != (model.spec.obs.size, model.spec.action):
        raise SpecError(f"{planner.name} is for {planner.spec}; {env} has {model.spec}.")
    made: Any = RolledOut(policy, model, planner.spec.action, rows)
    return replace(planner, policy=made, name=f"{planner.name}, rolled out for {rows} rows")


def build(
    ref: Any, spec: Mapping[str, Any], env: str, rows: int, access: Mapping[str, Any] | None = None
) -> Policy | RecurrentPolicy:
    """Load a policy of JSON values as `agentkd.planners.load.build` does, and roll it out."""
    known = load_planner(ref, from_json(spec), **(access or {}))
    return rolled_out(known, env, rows).policy
