"""A planner made from JSON values, for a process of its own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentkd import spec as specs
from agentkd.planners.adapt import from_object, is_factory
from agentkd.planners.load import load_policy
from agentkd.refs import is_reference, resolve
from agentkd.types import Policy, RecurrentPolicy


def build(
    ref: str | Sequence[str], spec: Mapping[str, Any], access: Mapping[str, Any] | None = None
) -> Policy | RecurrentPolicy:
    """Load a planner's policy.

    Args:
        ref: A reference, or several for an ensemble.
        spec: The environment, as `agentkd.spec.to_json` writes it.
        access: How it is read: `load_planner`'s own options, by name.
    """
    return load_policy(ref, specs.from_json(spec), **(access or {}))


_OWN = ("initial_state", "episode", "improve", "disagreement", "interrupt", "resume")
"""What a callable has that speaks to the runtime by itself; it is not wrapped."""


def open_planner(ref: str | Sequence[str], spec: Mapping[str, Any] | None = None) -> Any:
    """Load the planner that `Agent(planner="…")` names.

    Args:
        ref: What `load_planner` takes. "module:attribute" may also name a class or a function
            without parameters, which makes the planner.
        spec: The environment, as `agentkd.spec.to_json` writes it.
    """
    known = None if spec is None else specs.from_json(spec)
    if not isinstance(ref, str) or not is_reference(ref) or Path(ref).exists():
        return load_policy(ref, known)
    found = resolve(ref)
    if callable(found) and is_factory(found) and known is not None:
        found = found(known)
    elif isinstance(found, type) or _makes(found):
        found = found()
    if callable(found) and any(hasattr(found, name) for name in _OWN):
        return found
    return from_object(found, ref, known).policy


def _makes(found: Any) -> bool:
    """Whether a function has no parameters, so that it makes a planner and is none."""
    try:
        return inspect.isfunction(found) and not inspect.signature(found).parameters
    except (TypeError, ValueError):
        return False
