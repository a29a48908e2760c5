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
from agentkd.types import ActionDist, Floats, Guidance

_DISTS = get_args(ActionDist)


@dataclass(frozen=True, slots=True, eq=False)
class FunctionPolicy:
    """A callable that takes flat observations (batch, size). It is a `Policy`.

    It answers with an `ActionDist`, or with an array of actions in the environment's units, of
    which choices are smoothed. A callable with a `horizon` answers each observation with as many
    rows.
    """

    function: Callable[[Floats], Any]
    spec: Spec

    @property
    def horizon(self) -> int:
        """How many rows it answers an observation with."""
        return int(getattr(self.function, "horizon", 1))

    def __call__(self, obs: Floats, /) -> ActionDist:
        """Give `horizon` rows for each of the flat observations (batch, size).

        Raises:
            PlannerError: If the answer does not fit the actions or is not finite.
        """
        answer = self.function(obs)
        if isinstance(answer, Guidance):
            # Rows, goals and expectations are checked where they are used.
            return answer  # type: ignore[return-value]
        rows = len(obs) * self.horizon
        try:
            if not isinstance(answer, _DISTS):
                answer = from_actions(answer, rows, self.spec.action)
            check(answer, self.spec.action, rows)
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
