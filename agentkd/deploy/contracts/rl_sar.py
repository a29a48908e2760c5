"""The config.yaml of rl_sar, and the base.yaml of its robot in the folder above.

The one mapping in each has the folder's name, such as go2/robot_lab. Scales belong to kinds of
terms, whose names are fixed. `observations_history` has ages, 0 is the newest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentkd.deploy.contract import HIGHEST_SLOT, Contract, ObsTerm
from agentkd.deploy.contracts.told import (
    UNCLIPPED,
    Told,
    clip_of,
    need,
    numbers,
    scales,
    told,
    translated,
)
from agentkd.errors import ConfigError, LoadError
from agentkd.fields import Fields

BASE = "base.yaml"
_WORDS = {
    "ang_vel": "base_ang_vel",
    "actions": "last_action",
    "commands": "velocity_commands",
    "dof_pos": "joint_pos_rel",
    "dof_vel": "joint_vel_rel",
    "gravity_vec": "projected_gravity",
    "lin_vel": "base_lin_vel",
}
_THEIRS = {ours: theirs for theirs, ours in _WORDS.items()}
_SCALES = {
    **{name: f"{name}_scale" for name in ("lin_vel", "ang_vel", "dof_pos", "dof_vel")},
    "commands": "commands_scale",
}
_JOINTS = ("dof_pos", "dof_vel", "actions")
_FAR = 1e6


def settings(value: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the settings in the one mapping of a config.yaml; None if it is none."""
    inner = next(iter(value.values()), None) if len(value) == 1 else value
    known = isinstance(inner, Mapping) and {"num_observations", "observations"} <= inner.keys()
    return inner if known and isinstance(inner, Mapping) else None


def read(fields: Fields, name: str) -> Told:
    """Read a config.yaml, with what base.yaml says; `name` is that of the mapping in it."""
    words = fields.texts("observations")
    joints = fields.whole("num_of_dofs", least=1, most=4096)
    ages = fields.wholes("observations_history", (), most=1023) or (0,)
    if len(ages) > 1 and "observations_history_priority" not in fields:
        raise LoadError(
            f"observations_history has {len(ages)} ages, and observations_history_priority is "
            "missing: add it, term or time, as the policy was trained"
        )
    order = fields.get("observations_history_priority", "term")
    if order not in ("term", "time"):
        raise LoadError(f"observations_history_priority is {order!r:.40}, not term or time")
    terms = tuple(
        ObsTerm(
            translated(word, _WORDS),
            joints if word in _JOINTS else 3 if word in _WORDS else None,
            ages,
            (numbers(fields, _SCALES[word]) if word in _SCALES else ()) or (1.0,),
            UNCLIPPED,
        )
        for word in words
    )
    scale, pose = numbers(fields, "action_scale", joints), numbers(fields, "default_dof_pos")
    low, high = (numbers(fields, f"clip_actions_{end}", joints) for end in ("lower", "upper"))
    period = None
    if "dt" in fields and "decimation" in fields:
        period = fields.number("dt") * fields.whole("decimation", least=1)
    limited = low and len(low) == len(high) == len(scale) == len(pose) and min(scale) > 0
    clip = numbers(fields, "clip_obs")
    contract = Contract(
        action_names=fields.texts("joint_names", ()),
        period=period,
        terms=terms,
        history="term" if order == "term" else "time",
        obs_clip=clip[0] if clip and clip[0] < _FAR else None,
        action_scale=scale,
        action_offset=pose,
        target_low=_targets(low, scale, pose) if limited else (),
        target_high=_targets(high, scale, pose) if limited else (),
        stiffness=numbers(fields, "rl_kp"),
        damping=numbers(fields, "rl_kd"),
        slots=fields.wholes("joint_mapping", (), most=HIGHEST_SLOT),
        robot=name.partition("/")[0],
    )
    size = fields.whole("num_observations", least=1) * len(ages)
    return told(contract, size, joints)


def _targets(
    actions: Sequence[float], scale: Sequence[float], pose: Sequence[float]
) -> tuple[float, ...]:
    """rl_sar cuts off actions; what is cut off is told of targets."""
    return tuple(a * s + p for a, s, p in zip(actions, scale, pose, strict=True))


def write(contract: Contract) -> dict[str, Any]:
    """Write a config.yaml; dt, decimation and torque limits belong into the robot's base.yaml.

    Raises:
        ConfigError: If something that it cannot do without is untold, or rl_sar has no such term.
    """
    needed = ("terms", "action_scale", "action_offset", "stiffness", "damping", "slots")
    need("rl_sar", contract, *needed)
    terms, scale, pose = contract.terms, contract.action_scale, contract.action_offset
    ages = terms[0].history
    if any(each.history != ages for each in terms):
        raise ConfigError("rl_sar has one history for all terms; this contract has several.")
    found: dict[str, Any] = {
        "model_name": "policy.onnx",
        "num_observations": sum(each.size or 0 for each in terms),
        "observations": [_word(each) for each in terms],
        "observations_history": list(ages) if len(ages) > 1 else [],
        "observations_history_priority": contract.history,
        "clip_obs": _FAR if contract.obs_clip is None else contract.obs_clip,
    }
    if contract.target_low and min(scale) > 0:
        for end, values in (("lower", contract.target_low), ("upper", contract.target_high)):
            found[f"clip_actions_{end}"] = [
                (v - p) / s for v, s, p in zip(values, scale, pose, strict=True)
            ]
    found |= {
        "rl_kp": list(contract.stiffness),
        "rl_kd": list(contract.damping),
        "num_of_dofs": len(scale),
        "action_scale": list(scale),
        "wheel_indices": [],
        **{name: 1.0 for name in _SCALES.values() if name != "commands_scale"},
        "commands_scale": [1.0] * 3,
        "default_dof_pos": list(pose),
        "joint_mapping": list(contract.slots),
    }
    for each in terms:
        word, factors = _word(each), scales(each)
        if word == "commands":
            found["commands_scale"] = factors
        elif len(set(factors)) > 1 or (word not in _SCALES and factors[0] != 1.0):
            raise ConfigError(f"rl_sar has no scales {factors!r:.60} for {word}.")
        elif word in _SCALES:
            found[_SCALES[word]] = factors[0]
    if contract.action_names:
        found["joint_names"] = list(contract.action_names)
    return {contract.robot or "robot": found}


def _word(term: ObsTerm) -> str:
    if term.name not in _THEIRS:
        raise ConfigError(
            f"rl_sar has no term {term.name!r}; it has those of {', '.join(sorted(_THEIRS))}."
        )
    if clip_of(term) is not None:
        raise ConfigError(f"rl_sar cuts off all terms alike, and {term.name} has its own clip.")
    return _THEIRS[term.name]
