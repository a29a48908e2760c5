"""The metadata that mjlab writes into its policy.onnx: texts of numbers with commas between them.

Numbers are rounded to three decimals, lists in lists have semicolons. The sizes of terms and the
control period are not among them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from agentkd.deploy.contract import Contract, ObsTerm
from agentkd.deploy.contracts.told import (
    FURTHEST,
    UNCLIPPED,
    Told,
    bounds,
    past,
    straight,
    told,
    translated,
)
from agentkd.errors import ConfigError, LoadError

_WORDS = {
    "actions": "last_action",
    "command": "velocity_commands",
    "joint_pos": "joint_pos_rel",
    "joint_vel": "joint_vel_rel",
}
_THEIRS = {ours: theirs for theirs, ours in _WORDS.items()}
_KEYS = ("observation_names", "joint_names", "action_scale", "default_joint_pos")
_MOST = 1 << 16


def is_it(value: Mapping[str, Any]) -> bool:
    """Whether this is mjlab's metadata."""
    return any(name in value for name in _KEYS)


def read(texts: Mapping[str, str]) -> Told:
    """Read the metadata of a policy."""
    names = _words(texts, "observation_names")
    told_of = {name: _rows(texts, f"observation_terms_{name}", len(names)) for name in _TOLD}
    terms = [
        ObsTerm(
            translated(name, _WORDS),
            None,
            past(_length(name, told_of["history_length"], told_of["flatten_history_dim"], index)),
            tuple(told_of["scale"][index]) if told_of["scale"] else (),
            _clip(told_of["clip"], index),
        )
        for index, name in enumerate(names)
    ]
    joints = tuple(_words(texts, "joint_names"))
    scale = _numbers(texts, "action_scale")
    pose = _numbers(texts, "default_joint_pos")
    # Joints without a motor have a pose and no action; which they are is not told.
    all_act = len(scale) in (1, len(joints))
    gains: dict[str, Any] = {}
    for gain in ("stiffness", "damping"):
        values = _numbers(texts, f"joint_{gain}")
        gains[gain] = values if all_act and len(values) == len(joints) else ()
    contract = Contract(
        action_names=joints if all_act else (),
        terms=tuple(terms),
        action_scale=scale * (len(joints) if len(scale) == 1 and joints else 1),
        action_offset=pose if all_act and len(pose) == len(joints) else (),
        **gains,
    )
    return told(contract, None, len(contract.action_scale) or None)


_TOLD = ("scale", "clip", "history_length", "flatten_history_dim")


def _words(texts: Mapping[str, str], name: str) -> list[str]:
    words = [each.strip() for each in texts.get(name, "").split(",")]
    if len(words) > _MOST:
        raise LoadError(f"{name} has {len(words):,} entries; at most {_MOST:,} are read")
    return [each for each in words if each]


def _number(text: str, name: str) -> float:
    try:
        value = float({"True": "1", "False": "0"}.get(text.strip(), text))
    except ValueError as error:
        raise LoadError(f"{name} holds {text[:40]!r}, not a number") from error
    if math.isnan(value):
        raise LoadError(f"{name} holds NaN")
    return value


def _numbers(texts: Mapping[str, str], name: str) -> tuple[float, ...]:
    values = tuple(_number(each, name) for each in _words(texts, name))
    if not all(map(math.isfinite, values)):
        raise LoadError(f"{name} holds an infinite number")
    return values


def _rows(texts: Mapping[str, str], name: str, count: int) -> list[list[float]]:
    """Read one row of numbers for each term; [] where they are not told."""
    rows = [[_number(x, name) for x in each.split(";")] for each in _words(texts, name)]
    if rows and len(rows) != count:
        raise LoadError(f"{name} has {len(rows)} entries for {count} terms")
    return rows


def _length(name: str, lengths: list[list[float]], flat: list[list[float]], index: int) -> int:
    length = lengths[index][0] if lengths else 0.0
    if not (0 <= length <= 1024 and length == int(length)):
        raise LoadError(f"a history of {length} observations for {name}")
    if length > 1 and flat and not flat[index][0]:
        raise LoadError(f"the history of {name} is not flat; observations of one row are read")
    return int(length)


def _clip(rows: list[list[float]], index: int) -> tuple[float, float] | None:
    if not rows:
        return None
    if len(rows[index]) != 2:
        raise LoadError(f"a clip of {len(rows[index])} numbers")
    return bounds(*rows[index]) or UNCLIPPED


def write(contract: Contract) -> dict[str, str]:
    """Write the metadata, as far as a contract tells it; numbers are not rounded.

    Raises:
        ConfigError: If nothing is told, or histories lie otherwise than mjlab's.
    """
    if not contract.terms and not contract.action_scale:
        raise ConfigError(
            "mjlab needs the observation's terms or the action's scale, and the executor's file "
            "tells neither. Make it with --contract FILE (agentkd freeze, agentkd distill)."
        )
    straight("mjlab", contract)
    terms = contract.terms
    found = {
        "joint_names": contract.action_names,
        "joint_stiffness": _texts(contract.stiffness),
        "joint_damping": _texts(contract.damping),
        "default_joint_pos": _texts(contract.action_offset),
        "observation_names": [translated(each.name, _THEIRS) for each in terms],
        "observation_terms_scale": [";".join(_texts(each.scale or (1.0,))) for each in terms],
        "observation_terms_flatten_history_dim": ["1" for _ in terms],
        "observation_terms_history_length": [
            str(len(each.history) if len(each.history) > 1 else 0) for each in terms
        ],
        "observation_terms_clip": [
            ";".join(map(_bound, each.clip or (-math.inf, math.inf))) for each in terms
        ],
        "action_scale": _texts(contract.action_scale),
    }
    return {name: ",".join(values) for name, values in found.items() if values}


def _texts(values: Iterable[float]) -> list[str]:
    return [repr(float(each)) for each in values]


def _bound(value: float) -> str:
    return f"{math.copysign(math.inf, value)}" if abs(value) >= FURTHEST else repr(value)
