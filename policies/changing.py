"""Planners that are told how the world changed.

`compensated` lets a planner for HalfCheetah-v5 act in `agentkd/ChangingHalfCheetah-v0`: it is told
what each motor's force is multiplied with, and divides its action by that. Where the motors became
weaker, the action that is needed may be out of reach.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from agentkd import dists
from agentkd.planners import Planner, load_planner
from agentkd.spec import Spec
from agentkd.types import Floats, Point
from agentkd.views import alone, see

JOINTS = 6


@final
@dataclass(frozen=True, slots=True, eq=False)
class Compensating:
    """A policy whose actions are divided by gains, which are observed last.

    Attributes:
        planner: Answers the observation without them.
    """

    planner: Planner

    def __call__(self, obs: Floats, /) -> Point:
        """Answer for observations with gains behind them, (batch, size + joints)."""
        policy: Any = self.planner.policy
        action = self.planner.spec.action
        wanted = dists.mode(policy(obs[:, :-JOINTS]), action)
        return Point(np.clip(wanted / obs[:, -JOINTS:], -1, 1).astype(np.float32))


def compensated(ref: str, spec: Spec) -> Planner:
    """Load a planner for HalfCheetah-v5 as one for the robot that changes.

    Args:
        ref: As `load_planner` takes it.
        spec: Of `agentkd/ChangingHalfCheetah-v0`.
    """
    own = Spec(alone(see(spec, f":{-JOINTS}").obs), spec.action)
    known = load_planner(ref, own)
    return Planner(Compensating(known), spec, f"{known.name}, told the gains", known.parameters, "")
