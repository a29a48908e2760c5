"""A planner with what is known about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agentkd import dists
from agentkd.errors import PlannerError, SpecError
from agentkd.spec import Spec
from agentkd.types import ActionDist, Floats, Guidance, Policy, RecurrentPolicy, State


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


def probe(policy: Policy | RecurrentPolicy, spec: Spec, obs: Floats, where: str) -> ActionDist:
    """Ask a policy once, (batch, size), so that what does not fit its environment is said now.

    Raises:
        SpecError: If it does not; `where` names the policy.
    """
    if isinstance(policy, RecurrentPolicy):
        answer, _ = policy(obs, policy.initial_state(len(obs)))
    else:
        answer = policy(obs)
    try:
        dists.check(answer, spec.action, len(obs))
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from error
    return answer


@dataclass(frozen=True, slots=True, eq=False)
class FirstRow:
    """The first of the rows that a policy answers each observation with."""

    policy: Policy
    horizon: int

    def __call__(self, obs: Floats, /) -> ActionDist:
        """Give one row for each of the observations (batch, obs)."""
        row: ActionDist = _first(self.policy(obs), self.horizon)
        return row


@dataclass(frozen=True, slots=True, eq=False)
class RecurrentFirstRow:
    """The same of a policy with a memory."""

    policy: RecurrentPolicy
    horizon: int

    def initial_state(self, batch: int) -> State:
        """Give the memory that an episode starts with."""
        return self.policy.initial_state(batch)

    def __call__(self, obs: Floats, state: State, /) -> tuple[ActionDist, State]:
        """Give one row for each of the observations (batch, obs), and the memory."""
        dist, after = self.policy(obs, state)
        return _first(dist, self.horizon), after


def _first(answer: Any, horizon: int) -> Any:
    rows = answer.rows if isinstance(answer, Guidance) else answer
    if rows is None:
        raise PlannerError("The planner gives goals and no rows, so nothing can act by it alone.")
    return dists.rows(rows, slice(None, None, horizon))


def one_row(policy: Any) -> Any:
    """Give a policy that answers each observation with one row.

    Where a policy can say so cheaper than by its `horizon`, by `at(1)`, it is asked to.
    """
    horizon = int(getattr(policy, "horizon", 1))
    if horizon == 1 and getattr(policy, "goals", None) is None:
        return policy
    if callable(getattr(policy, "at", None)):
        return policy.at(1)
    if hasattr(policy, "initial_state"):
        return RecurrentFirstRow(policy, horizon)
    return FirstRow(policy, horizon)
