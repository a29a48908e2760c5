"""A planner with what is known about it."""

from __future__ import annotations

from dataclasses import dataclass

from agentkd.spec import Spec
from agentkd.types import Policy, RecurrentPolicy


@dataclass(frozen=True, slots=True)
class Planner:
    """A planner with what is known about it.

    Attributes:
        policy: What answers.
        spec: The environment that it is for.
        name: What it is, such as "TQC" or "callable policies.mine:planner".
        parameters: How many trained numbers act, critics left out; 0 when unknown.
        digest: The SHA-256 of the file or files, "" when there is none.
    """

    policy: Policy | RecurrentPolicy
    spec: Spec
    name: str
    parameters: int
    digest: str
