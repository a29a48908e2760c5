"""Isaac Lab's IO_descriptors.yaml, which its trainers write with --export_io_descriptors.

Terms have the names of the functions that compute them. A term without a descriptor, such as a
height scan, is missing from the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agentkd.deploy.contract import Contract, ObsTerm
from agentkd.deploy.contracts.told import (
    Told,
    clip_of,
    distinct,
    need,
    numbers,
    pair,
    past,
    straight,
    targets,
    told,
    translated,
)
from agentkd.errors import LoadError
from agentkd.fields import Fields
from agentkd.sizes import MOST

_WORDS = {"generated_commands": "velocity_commands"}
_POSITIONS = ("joint_position_action", "JointPositionAction")
_THEIRS = {ours: theirs for theirs, ours in _WORDS.items()}


def is_it(value: Mapping[str, Any]) -> bool:
    """Whether these are IO descriptors."""
    return isinstance(value.get("actions"), list) and isinstance(value.get("observations"), dict)


def read(fields: Fields) -> Told:
    """Read IO descriptors."""
    groups = fields.fields("observations")
    names = [name for name in fields.get("observations") if name == "policy"]
    names = names or list(fields.get("observations"))
    if len(names) != 1:
        raise LoadError(f"its observations are {sorted(names)}; one group is read, policy first")
    terms = [_term(each) for each in groups.objects(names[0])]
    unique = distinct(each.name for each in terms)
    terms = [_renamed(each, name) for each, name in zip(terms, unique, strict=True)]
    actions = [_action(each) for each in fields.objects("actions")]
    size = sum(each["size"] for each in actions)
    scene = fields.fields("scene", {})
    joints = tuple(name for each in actions for name in each["names"])
    vectors: dict[str, Any] = {
        field: _joined([each[field] for each in actions])
        for field in ("action_scale", "action_offset", "target_low", "target_high")
    }
    contract = Contract(
        action_names=joints if len(joints) == size else (),
        period=scene.number("dt") if "dt" in scene else None,
        terms=tuple(terms),
        **vectors,
        **_gains(fields, joints),
    )
    return replace(told(contract, contract.described, size), more=True)


def _renamed(term: ObsTerm, name: str) -> ObsTerm:
    return ObsTerm(name, *(getattr(term, each) for each in ObsTerm.__slots__[1:]))


def _term(fields: Fields) -> ObsTerm:
    over, extras = fields.fields("overloads", {}), fields.fields("extras", {})
    shape = fields.wholes("shape", (), least=1, most=MOST)
    if any(each.get("modifiers", None) for each in (fields, over, extras)):
        raise LoadError(f"the observation {fields.get('name')!r:.60} has modifiers, not read here")
    length = over.get("history_length", 0)
    length = 0 if length is None else over.whole("history_length", 0, most=1024)
    name = fields.text("name")
    if length > 1 and not over.get("flatten_history_dim", True):
        raise LoadError(f"the history of {name} is not flat; observations of one row are read")
    size = shape[-1] if shape else None
    units = extras.get("units", None)
    parts = fields.texts("joint_names", ()) or _axes(extras)
    return ObsTerm(
        translated(name, _WORDS),
        size,
        past(length),
        numbers(over, "scale") or (1.0,),
        pair(over, "clip"),
        "" if units is None else extras.text("units"),
        parts if len(parts) == size else (),
    )


def _axes(extras: Fields) -> tuple[str, ...]:
    found = extras.get("axes", None)
    return extras.texts("axes") if isinstance(found, list) else ()


def _check_kind(fields: Fields) -> None:
    """Refuse actions that are not targets of joint positions."""
    told = [fields.get("name", ""), str(fields.get("full_path", "")).rpartition(".")[2]]
    for kind in filter(None, told):
        if kind not in _POSITIONS:
            raise LoadError(f"an action is {kind!r:.60}; joint positions are read, {_POSITIONS[0]}")


def _action(fields: Fields) -> dict[str, Any]:
    _check_kind(fields)
    names = fields.texts("joint_names", ())
    shape = fields.wholes("shape", (), least=1, most=MOST)
    size = shape[-1] if shape else len(names)
    low, high = targets(fields)
    if low and len(low) != size:
        raise LoadError(f"the clip of an action has {len(low)} bounds for {size} numbers")
    return {
        "names": names,
        "size": size,
        "action_scale": numbers(fields, "scale", size),
        "action_offset": numbers(fields, "offset", size),
        "target_low": low,
        "target_high": high,
    }


def _joined(vectors: list[tuple[float, ...]]) -> tuple[float, ...]:
    """Put the actions' vectors after each other, if each has one."""
    return tuple(x for each in vectors for x in each) if all(vectors) else ()


def _gains(fields: Fields, joints: tuple[str, ...]) -> dict[str, Any]:
    """Find the gains of the action's joints; zeros stand for those that an actuator hides."""
    robots = fields.get("articulations", None) or {}
    if not joints or not isinstance(robots, dict) or len(robots) != 1:
        return {}
    robot = fields.fields("articulations").fields(next(iter(robots)))
    names = robot.texts("joint_names", ())
    found: dict[str, Any] = {}
    for gain in ("stiffness", "damping"):
        values = numbers(robot, f"default_joint_{gain}")
        if any(values) and len(values) == len(names) and set(joints) <= set(names):
            by_name = dict(zip(names, values, strict=True))
            found[gain] = tuple(by_name[name] for name in joints)
    return found


def write(contract: Contract) -> dict[str, Any]:
    """Write IO descriptors, as far as a contract tells them.

    Raises:
        ConfigError: If something that they cannot do without is untold.
    """
    needed = ("terms", "action_names", "action_scale", "action_offset", "period")
    need("isaaclab", contract, *needed)
    straight("isaaclab", contract)
    joints = list(contract.action_names)
    robot: dict[str, Any] = {
        "joint_names": joints,
        "default_joint_pos": list(contract.action_offset),
    }
    for gain in ("stiffness", "damping"):
        if values := getattr(contract, gain):
            robot[f"default_joint_{gain}"] = list(values)
    ends = [list(each) for each in zip(contract.target_low, contract.target_high, strict=True)]
    action = {
        "action_type": "JointAction",
        "clip": ends or None,
        "dtype": "torch.float32",
        "joint_names": joints,
        "mdp_type": "Action",
        "name": "joint_position_action",
        "offset": list(contract.action_offset),
        "scale": list(contract.action_scale),
        "shape": [len(joints)],
    }
    return {
        "actions": [action],
        "articulations": {"robot": robot},
        "observations": {"policy": [_described(each) for each in contract.terms]},
        "scene": {"dt": contract.period},
    }


def _described(term: ObsTerm) -> dict[str, Any]:
    """Describe a term; parts that are its joints and axes are told by their number."""
    axes = list(term.parts) if term.size is not None and term.size <= 4 else []
    length = len(term.history)
    return {
        "dtype": "torch.float32",
        "extras": {
            **({"axes": axes} if axes else {}),
            **({"units": term.units} if term.units else {}),
        },
        **({"joint_names": list(term.parts)} if term.parts and not axes else {}),
        "mdp_type": "Observation",
        "name": translated(term.name, _THEIRS),
        "overloads": {
            "clip": clip_of(term),
            "flatten_history_dim": True,
            "history_length": 0 if length == 1 else length,
            "scale": term.scale[0] if len(term.scale) == 1 else list(term.scale) or None,
        },
        "shape": [term.size],
    }
