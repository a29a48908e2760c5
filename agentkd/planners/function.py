"""Any callable as a planner: a function, a search, a remote model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

from agentkd.dists import check
from agentkd.errors import NumbersError, PlannerError, SpecError
from agentkd.planners.blackbox import from_actions
from agentkd.spec import Spec
from agentkd.types import ActionDist, Floats

_DISTS = get_args(ActionDist)


@dataclass(frozen=True, slots=True, eq=False)
class FunctionPolicy:
    """A callable that takes flat observations (batch, size). It is a `Policy`.

    It answers with an `ActionDist`, or with an array of actions in the environment's
    units, of which choices are smoothed.
    """

    function: Callable[[Floats], Any]
    spec: Spec

    def __call__(self, obs: Floats, /) -> ActionDist:
        """Give the action distribution for flat observations (batch, size).

        Raises:
            PlannerError: If the answer does not fit the actions or is not finite.
        """
        answer = self.function(obs)
        try:
            if not isinstance(answer, _DISTS):
                answer = from_actions(answer, len(obs), self.spec.action)
            check(answer, self.spec.action, len(obs))
        except (SpecError, NumbersError, TypeError, ValueError) as error:
            raise PlannerError(f"The callable answered garbage: {error}") from error
        return answer  # type: ignore[no-any-return]


def is_factory(found: Any) -> bool:
    """Whether a callable makes a planner: its first parameter is named `spec`."""
    try:
        parameters = list(inspect.signature(found).parameters)
    except (TypeError, ValueError):
        return False
    return parameters[:1] == ["spec"]
