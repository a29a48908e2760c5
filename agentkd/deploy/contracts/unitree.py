"""The deploy.yaml of Unitree's rl_lab, which lies in params/ of a run.

Gains are in the order of the robot's own joints, everything else in the policy's;
`joint_ids_map` has the robot's number of each joint of the policy. Histories lie term after term,
or tick after tick with `use_gym_history`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentkd.deploy.contract import HIGHEST_SLOT, Contract, History, ObsTerm
from agentkd.deploy.contracts.told import (
    Told,
    clip_of,
    need,
    numbers,
    pair,
    past,
    scales,
    straight,
    targets,
    told,
)
from agentkd.errors import LoadError
from agentkd.fields import Fields

_POSITIONS = "JointPositionAction"
_SWITCHES = ("use_gym_history", "scale_first")


def is_it(value: Mapping[str, Any]) -> bool:
    """Whether this is a deploy.yaml."""
    return {"step_dt", "joint_ids_map", "actions"} <= value.keys()


def read(fields: Fields) -> Told:
    """Read a deploy.yaml."""
    observations = fields.fields("observations")
    if observations.get("scale_first", False):
        raise LoadError("scale_first: observations that are scaled before they are cut off")
    names = [name for name in fields.get("observations") if name not in _SWITCHES]
    terms = tuple(_term(name, observations.fields(name)) for name in names)
    order: History = "time" if observations.get("use_gym_history", False) else "term"
    kinds = list(fields.get("actions") or ())
    if len(kinds) != 1:
        raise LoadError(f"its actions are {kinds}; one is read")
    if kinds[0] != _POSITIONS:
        raise LoadError(f"its action is {kinds[0]!r:.60}; {_POSITIONS} is read")
    action = fields.fields("actions").fields(_POSITIONS)
    size = len(numbers(action, "scale"))
    slots = fields.wholes("joint_ids_map", most=HIGHEST_SLOT)
    if action.get("joint_ids", None) is not None:
        ids = action.wholes("joint_ids", most=HIGHEST_SLOT)
        if not all(each < len(slots) for each in ids):
            raise LoadError(f"joint_ids are {list(ids)!r:.60}, of {len(slots)} joints")
        slots = tuple(slots[each] for each in ids)
    slots = slots if len(slots) == size else ()
    low, high = targets(action)
    gains: dict[str, Any] = {}
    for gain in ("stiffness", "damping"):
        values = numbers(fields, gain)
        if values and slots and max(slots) < len(values):
            gains[gain] = tuple(values[each] for each in slots)
    contract = Contract(
        period=fields.number("step_dt"),
        terms=terms,
        history=order,
        action_scale=numbers(action, "scale"),
        action_offset=numbers(action, "offset"),
        target_low=low,
        target_high=high,
        slots=slots,
        **gains,
    )
    return told(contract, contract.described, size)


def _term(name: str, fields: Fields) -> ObsTerm:
    if fields.get("modifiers", None):
        raise LoadError(f"the observation {name!r} has modifiers, not read here")
    scale = numbers(fields, "scale")
    if not scale:
        raise LoadError(f"the observation {name!r} has no scale, which tells its size")
    length = fields.whole("history_length", 1, most=1024)
    return ObsTerm(name, len(scale), past(length), scale, pair(fields, "clip"))


def write(contract: Contract) -> dict[str, Any]:
    """Write a deploy.yaml, without the ranges of commands.

    Raises:
        ConfigError: If something that it cannot do without is untold.
    """
    needed = ("terms", "action_scale", "action_offset", "stiffness", "damping", "slots", "period")
    need("unitree", contract, *needed)
    straight("unitree", contract, contract.history)
    known = max(contract.slots) + 1
    gains = {name: [0.0] * known for name in ("stiffness", "damping")}
    for index, slot in enumerate(contract.slots):
        for name, values in gains.items():
            values[slot] = getattr(contract, name)[index]
    ends = [list(each) for each in zip(contract.target_low, contract.target_high, strict=True)]
    observations: dict[str, Any] = {}
    if contract.history == "time":
        observations["use_gym_history"] = True
    for term in contract.terms:
        observations[term.name] = {
            "params": {},
            "clip": clip_of(term),
            "scale": scales(term),
            "history_length": len(term.history),
        }
    return {
        "joint_ids_map": list(contract.slots),
        "step_dt": contract.period,
        **gains,
        "default_joint_pos": list(contract.action_offset),
        "commands": {},
        "actions": {
            _POSITIONS: {
                "clip": ends or None,
                "joint_names": list(contract.action_names) or [".*"],
                "scale": list(contract.action_scale),
                "offset": list(contract.action_offset),
                "joint_ids": None,
            }
        },
        "observations": observations,
    }
