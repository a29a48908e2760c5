"""Spaces as an SB3 save tells them, as a spec.

A space's pickle is read inertly, for it is what SB3 takes. Where that fails, the readable items
beside it suffice for most, unless NumPy abbreviated them ("[0 0 0 ... 0]").
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from agentkd.errors import LoadError, SpecError
from agentkd.fields import parse_json
from agentkd.files import loading
from agentkd.planners.sb3 import safe_pickle as inert
from agentkd.spec import Spec, action_spec, obs_spec

_MOST_TEXT = 1 << 20
"""Characters of an array's textual form that are read; NumPy abbreviates earlier."""
_ARRAYS = ("low", "high", "nvec", "start")
_DTYPE = re.compile(r"(?:<class 'numpy\.)?(\w+?)(?:'>)?")


def _named(kind: str, fields: Mapping[str, Any]) -> Any:
    """Make an object whose class has the name of the space's, as a spec wants it."""
    return type(kind, (SimpleNamespace,), {})(**fields)


def _numbers(text: Any) -> Any:
    """Read an array's textual form; give None for one that is abbreviated."""
    if not isinstance(text, str):
        return np.asarray(text)
    if "..." in text or len(text) > _MOST_TEXT:
        return None
    return np.array([float(x) for x in re.sub(r"[\[\],]", " ", text).split()])


def _readable(item: Mapping[str, Any]) -> Any:
    """Build the space from its readable items; None where they do not suffice."""
    kind = re.sub(r".*\.|'>$", "", str(item.get(":type:", "")))
    shape = item.get("shape", item.get("_shape"))
    if isinstance(shape, str):
        text = shape.replace("(", "[").replace(",)", "]").replace(")", "]")
        shape = parse_json(text, "A space's shape")
    if kind == "Discrete":
        start = int(item.get("start", 0))
        return _named(kind, {"n": int(item["n"]), "start": start})
    if kind == "MultiBinary":
        return _named(kind, {"shape": tuple(shape or (int(item["n"]),))})
    if kind == "MultiDiscrete":
        nvec = _numbers(item["nvec"])
        return None if nvec is None else _named(kind, {"nvec": nvec.astype(int)})
    if kind == "Box" and shape is not None:
        low, high = _numbers(item["low"]), _numbers(item["high"])
        match = _DTYPE.fullmatch(str(item["dtype"]))
        if low is None or high is None or match is None:
            return None
        dtype = np.dtype(match[1])
        fields = {"low": low.reshape(shape), "high": high.reshape(shape)}
        return _named(kind, {**fields, "shape": tuple(shape), "dtype": dtype})
    return None


def _settled(record: Any, *, inner: bool = False) -> Any:
    """Build the space from its inert record; spaces in inner spaces stay records."""
    if not isinstance(record, inert.Record):
        raise LoadError(f"A space was expected, not a {type(record).__name__}.")
    fields = dict(record.state)
    kind = type(record).__name__
    fields["shape"] = fields.get("_shape", fields.get("shape"))
    for each in _ARRAYS:
        if not isinstance(fields.get(each, 0), (np.ndarray, np.number, int, float)):
            raise LoadError(f"A space's {each} is not an array.")
    dtype = fields.get("dtype")
    name = type(dtype).__name__ if isinstance(dtype, inert.Record) else dtype
    if isinstance(dtype, type):
        name = dtype.__name__
    if kind == "Box":
        if not isinstance(name, (str, np.dtype)):
            raise LoadError("A space's dtype is none.")
        fields["dtype"] = np.dtype(name)
    if kind == "MultiBinary" and fields["shape"] is None:
        fields["shape"] = (int(fields["n"]),)
    if kind == "Dict" and not inner:
        inside = fields["spaces"].items()
        fields["spaces"] = {str(k): _settled(v, inner=True) for k, v in inside}
    elif kind == "Tuple" and not inner:
        fields["spaces"] = [_settled(each, inner=True) for each in fields["spaces"]]
    return _named(kind, fields)


def space(item: Any, what: str) -> Any:
    """Read a space of a save's JSON: an object that `agentkd.spec` understands.

    Raises:
        LoadError: If it is missing or damaged.
        UnsafeError: If only running its pickle's code would tell.
    """
    if not isinstance(item, dict):
        raise LoadError(f"The save has no readable {what!r}.")
    try:
        with loading(f"The save's {what!r}"):
            raw = base64.b64decode(item[":serialized:"], validate=False)
            return _settled(inert.read(raw))
    except LoadError as error:
        failed = type(error)(f"{what!r}: {error}")
    try:
        with loading(what):
            found = _readable(item)
    except LoadError:
        found = None
    if found is None:
        raise failed
    return found


def image_parts(found: Any) -> frozenset[str]:
    """Name the images of an observation space, which SB3 divides by 255.

    An image has three dimensions, bytes as dtype, and goes from 0 to 255
    (`stable_baselines3.common.preprocessing.is_image_space`). "" stands for the whole.
    """
    named = getattr(found, "spaces", None)
    parts = dict(named) if isinstance(named, Mapping) else {"": found}
    return frozenset(
        name
        for name, part in parts.items()
        if type(part).__name__ == "Box"
        and len(part.shape) == 3
        and np.dtype(part.dtype) == np.uint8
        and bool(np.all(part.low == 0) and np.all(part.high == 255))
    )


def spaces_spec(obs: Any, action: Any) -> Spec:
    """Describe the spaces of an SB3 policy; refuse those that SB3 reads otherwise."""
    if np.any(getattr(action, "start", 0)):
        raise SpecError(
            f"The policy's actions start at {action.start}, but SB3's predict counts "
            "them from 0. Let them start at 0 and add the start in the environment."
        )
    return Spec(obs_spec(obs), action_spec(action))


def read_spaces(data: Mapping[str, Any]) -> tuple[Spec, frozenset[str]]:
    """Read both spaces of a save, and the names of the images."""
    obs = space(data.get("observation_space"), "observation_space")
    action = space(data.get("action_space"), "action_space")
    with loading("The save's spaces", keep=(SpecError,)):
        return spaces_spec(obs, action), image_parts(obs)
