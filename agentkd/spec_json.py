"""Specs as JSON values, for files and wires."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, cast

import numpy as np

from agentkd.errors import LoadError, SpecError
from agentkd.fields import Fields
from agentkd.files import loading
from agentkd.sizes import INT32
from agentkd.spec import (
    ActionSpec,
    BoxSpec,
    DiscreteSpec,
    Layout,
    MultiBinarySpec,
    MultiDiscreteSpec,
    ObsSpec,
    Part,
    PartKind,
    Spec,
)

_ACTION_KINDS: dict[str, type[Any]] = {
    "discrete": DiscreteSpec,
    "multidiscrete": MultiDiscreteSpec,
    "multibinary": MultiBinarySpec,
    "box": BoxSpec,
}


def to_json(spec: Spec) -> dict[str, Any]:
    """Write a spec as plain JSON values; infinities become strings."""
    action = {
        key: [str(x) if np.isinf(x) else x for x in value] if key in ("low", "high") else value
        for key, value in asdict(spec.action).items()
    }
    kind = next(k for k, c in _ACTION_KINDS.items() if isinstance(spec.action, c))
    obs = asdict(spec.obs)
    for part in obs["parts"]:
        if part["seen"] is None:
            del part["seen"]
    if not obs["taken"]:
        del obs["taken"]
    return {"obs": obs, "action": {"kind": kind, **action}}


def from_json(data: Any) -> Spec:
    """Read what `to_json` wrote.

    Raises:
        SpecError: If a field is missing, unknown, of another type or no spec.
    """
    try:
        with loading("Not a spec"):
            fields = Fields(data, "Not a spec")
            obs = fields.fields("obs")
            parts = tuple(map(_part_of, obs.objects("parts")))
            layout = cast(Layout, obs.text("layout"))
            taken = 0 if obs.get("taken", None) is None else obs.whole("taken")
            return Spec(ObsSpec(parts, layout, taken), _action_of(fields.fields("action")))
    except LoadError as error:
        raise SpecError(str(error)) from error


def _part_of(fields: Fields) -> Part:
    return Part(
        name=fields.text("name"),
        kind=cast(PartKind, fields.text("kind")),
        shape=fields.wholes("shape"),
        dtype=fields.text("dtype"),
        sizes=fields.wholes("sizes"),
        start=fields.whole("start", least=-INT32),
        seen=None if fields.get("seen", None) is None else fields.wholes("seen"),
    )


def _action_of(fields: Fields) -> ActionSpec:
    match fields.choice("kind", _ACTION_KINDS):
        case "discrete":
            return DiscreteSpec(fields.whole("n"), fields.whole("start", least=-INT32))
        case "multidiscrete":
            return MultiDiscreteSpec(fields.wholes("sizes"))
        case "multibinary":
            return MultiBinarySpec(fields.whole("n"))
        case _:
            low, high = (_bounds_of(fields.items(end)) for end in ("low", "high"))
            return BoxSpec(low, high, fields.wholes("shape"))


def _bounds_of(values: list[Any]) -> tuple[float, ...]:
    """Read bounds: numbers, and infinities as text."""
    if all(type(each) in (int, float) or each in ("inf", "-inf") for each in values):
        return tuple(map(float, values))
    raise LoadError("A bound is not a number")
