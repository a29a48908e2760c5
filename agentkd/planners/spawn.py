"""A planner made from JSON values, for a process of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentkd import spec as specs
from agentkd.planners.load import load_policy
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
