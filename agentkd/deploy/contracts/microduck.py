"""The manifest.json, schema 2, beside a policy of the microduck."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentkd.deploy.bundle import Bundle
from agentkd.deploy.contract import Contract
from agentkd.deploy.contracts.told import Told, told
from agentkd.dists import action_width
from agentkd.errors import ConfigError, LoadError
from agentkd.fields import Fields
from agentkd.sizes import MOST

_SCHEMA = 2
_ROBOT = "microduck"


def is_it(value: Mapping[str, Any]) -> bool:
    """Whether this is a manifest."""
    return "schema_version" in value and ("obs_len" in value or "policies" in value)


def read(fields: Fields) -> Told:
    """Read the manifest of one policy."""
    if "policies" in fields:
        raise LoadError("it is of a set of policies; take the manifest of one")
    robot = fields.fields("robot", {})
    sizes = {
        name: fields.whole(name, least=1, most=MOST) if name in fields else None
        for name in ("obs_len", "action_len")
    }
    count = sizes["action_len"]
    scale: tuple[float, ...] = ()
    if "action_scale" in fields and count is not None and count <= 4096:
        scale = (fields.number("action_scale"),) * count
    contract = Contract(
        period=1 / _rate(robot) if "control_hz" in robot else None,
        action_scale=scale,
        robot=robot.text("model", ""),
    )
    return told(contract, sizes["obs_len"], count)


def _rate(robot: Fields) -> float:
    """Read the control rate, Hz."""
    rate = robot.number("control_hz")
    if not 0.001 <= rate <= 1e6:
        raise LoadError(f"control_hz is {rate}")
    return rate


def write(bundle: Bundle) -> dict[str, Any]:
    """Write a manifest, without what says when the policy ends and what commands it takes.

    Raises:
        ConfigError: If the action has several scales.
    """
    executor, contract = bundle.executor, bundle.contract
    scales = set(contract.action_scale)
    if len(scales) > 1:
        raise ConfigError(
            f"microduck has one action_scale, and this contract has {len(scales)} "
            f"({', '.join(f'{each:g}' for each in sorted(scales)[:6])})."
        )
    rate = {} if contract.period is None else {"control_hz": round(1 / contract.period, 6)}
    return {
        "schema_version": _SCHEMA,
        "model_api": 2 if executor.memory else 1,
        "obs_len": executor.spec.obs.size,
        "action_len": action_width(executor.spec.action),
        "robot": {"model": contract.robot or _ROBOT, **rate},
        **({"action_scale": scales.pop()} if scales else {}),
    }
