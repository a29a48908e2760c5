"""The arguments that `Agent` and `Runtime` share, and their checks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypedDict

from agentkd.errors import ConfigError
from agentkd.runtime.log import DecisionLog
from agentkd.runtime.ports import AnyDistiller, AnyPlanner
from agentkd.runtime.router import Mode, Router, check_mode
from agentkd.runtime.scores import Rollback
from agentkd.runtime.strategies import StrategyOptions


class AgentOptions(TypedDict, total=False):
    """The arguments that `Agent` and `Runtime` have in common; see `Agent`."""

    planner: AnyPlanner | str | None
    distiller: AnyDistiller | None
    learn: bool
    mode: Mode
    routers: Sequence[Router]
    strategies: StrategyOptions | None
    planner_latency: int | None
    workers: int
    budget: float
    default: Any
    log: DecisionLog | str | Path | None
    native: bool
    watch: bool
    rollback: Rollback | None


_KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "strategies": ((StrategyOptions, type(None)), "StrategyOptions(…) or None"),
    "rollback": ((Rollback, type(None)), "Rollback(…) or None"),
    "log": ((DecisionLog, str, Path, type(None)), "a path, a DecisionLog or None"),
    "planner_latency": ((Integral, type(None)), "a number of ticks or None"),
    "workers": ((Integral,), "a number of planners"),
    "period": ((Real, type(None)), "seconds or None"),
    "budget": ((Real,), "seconds"),
    "native": ((bool,), "True or False"),
    "watch": ((bool,), "True or False"),
    "learn": ((bool,), "True or False"),
}


def check_arguments(given: Mapping[str, Any]) -> None:
    """Check the arguments of an agent, by name.

    Raises:
        ConfigError: If one is of another type, out of range, or lacks another one.
    """
    check_mode(given["mode"])
    for name, (kinds, words) in _KINDS.items():
        value = given[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) != (kinds == (bool,))):
            raise ConfigError(f"{name} is {value!r}; give {words}.")
    routers = given["routers"]
    if not isinstance(routers, Sequence) or not all(isinstance(each, Router) for each in routers):
        raise ConfigError(f"routers is {routers!r}; give a list of routers.")
    period, budget = given["period"], given["budget"]
    if not 0 <= budget < math.inf or (period is not None and not 0 < period < math.inf):
        raise ConfigError(f"budget={budget}, period={period}: seconds, at least 0 and above 0.")
    if given["mode"] == "planner" and given["planner"] is None:
        raise ConfigError('mode="planner" needs a planner.')
    if given["learn"] and given["distiller"] is not None:
        raise ConfigError("learn=True starts a distiller; leave it or distiller out.")
    if given["learn"] and given["planner"] is None:
        raise ConfigError("learn=True learns from a planner's answers: give a planner.")
