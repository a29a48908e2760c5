"""From a Python object to a planner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentkd.errors import ConfigError, RefError
from agentkd.executors.executor import Executor
from agentkd.planners.blackbox import BlackBox
from agentkd.planners.function import FunctionPolicy, is_factory
from agentkd.planners.module import from_module, is_module
from agentkd.planners.planner import Planner
from agentkd.planners.sb3.live import from_model, is_model
from agentkd.spec import Spec

if TYPE_CHECKING:
    from agentkd.planners.sb3.vecnormalize import Statistics


def from_object(
    found: Any, ref: str, spec: Spec | None = None, *, statistics: Statistics | None = None
) -> Planner:
    """Make a planner of an object.

    Args:
        found: A `Planner`, an SB3 model or policy, a torch module, a policy with or without memory,
            a callable, an object with `predict`; or a function or class whose first parameter is
            named `spec`, which is called with it and gives one of these.
        ref: Where it comes from, for messages and the planner's name.
        spec: The environment; only SB3 models and planners do without.
        statistics: VecNormalize statistics, for SB3 models.

    Raises:
        RefError: If it is nothing that can act.
        ConfigError: If there is no `spec` where one is needed, or statistics where none can be
            used.
        SpecError: If the planner is for another environment.
    """
    if isinstance(found, Planner):
        return found
    # A policy that torch.compile wrapped is a policy still.
    model = getattr(found, "_orig_mod", found) if is_module(found) else found
    if is_model(model):
        return from_model(model, spec, statistics)
    if statistics is not None:
        raise ConfigError(
            f"{ref} is not an SB3 model: VecNormalize statistics cannot be used with "
            "it. Normalise inside it."
        )
    if isinstance(found, Executor):
        name = f"executor {found.architecture}"
        return Planner(found, found.spec, name, found.parameters, "")
    if spec is None:
        raise ConfigError(f"{ref} does not tell its environment; give a spec.")
    if callable(found) and is_factory(found):
        return from_object(found(spec), ref, spec)
    if is_module(found):
        module = from_module(found, spec)
        return Planner(module, spec, f"module {ref}", module.parameters, "")
    if isinstance(found, type):
        raise RefError(
            f"{ref} is the class {found.__name__}. Name an instance, or let its first "
            "parameter be `spec`, with which it is called."
        )
    if hasattr(found, "initial_state") and callable(found):
        return Planner(found, spec, f"policy {ref}", 0, "")
    if callable(found):
        return Planner(FunctionPolicy(found, spec), spec, f"callable {ref}", 0, "")
    if callable(getattr(found, "predict", None)):
        box = BlackBox(found.predict, spec)
        return Planner(box, spec, f"black box {ref}", 0, "")
    raise RefError(
        f"{ref} is a {type(found).__name__}, which cannot act. Give an SB3 model, a "
        "torch module, a callable, an object with `predict`, or a function whose first "
        "parameter is named `spec` and which gives one of these."
    )
