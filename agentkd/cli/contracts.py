"""The contract that a command takes along from the files of its planner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentkd.cli.options import Access
from agentkd.cli.terminal import Console
from agentkd.deploy.contract import Contract
from agentkd.deploy.contracts.compare import near
from agentkd.deploy.contracts.files import beside, fitted, read_contract
from agentkd.environments import read_arguments
from agentkd.errors import ConfigError, LoadError
from agentkd.planners.files.options import options_of
from agentkd.planners.sb3.locate import kind_of
from agentkd.spec import BoxSpec, Spec

NONE = "off"
"""Instead of a file: no contract is taken along."""


def take_along(option: str | None, planner: Sequence[str], saves: Access, spec: Spec) -> Contract:
    """Return the contract for an executor's file, and print where it comes from.

    It is that of the file that `--contract` names, or else of the one beside the planner's policy
    file; an empty one where there is none.

    Raises:
        LoadError: If the file cannot be read, or several lie there.
        ConfigError: If the file that was named is of another robot, or --planner-args contradict
            the file.
    """
    if option == NONE:
        return Contract()
    try:
        path = _beside(planner) if option is None else Path(option)
        if path is None:
            return Contract()
        told = read_contract(path)
    except LoadError as error:
        more = "" if option else f" Give --contract FILE, or --contract {NONE}."
        raise LoadError(f"{error}{more}") from error
    contract, left = fitted(told, spec)
    # Of terms that a simulator left out, the others are no contradiction.
    fewer = told.more and told.obs_size is not None and told.obs_size < spec.obs.size
    if option is not None and len(left) > fewer:
        raise ConfigError(f"--contract {path} is about something else: {'; '.join(left)}.")
    args = read_arguments(saves.planner_args, "--planner-args")
    if isinstance(spec.action, BoxSpec):
        contract, inside = _inside(contract, args, len(spec.action.low), path)
        left += inside
    console = Console()
    console.print(f"contract  {path}", soft_wrap=True)
    for each in left:
        console.print(f"          without {each}", soft_wrap=True)
    return contract


def _inside(
    contract: Contract, args: Mapping[str, Any], size: int, path: Path
) -> tuple[Contract, list[str]]:
    """Take from a contract what --planner-args puts into the executor; say what it was.

    Raises:
        ConfigError: If the offset is given alone, or a value differs from the file's.
    """
    words = {"action_scale": "scale", "action_offset": "offset"}
    known = options_of({name: args[name] for name in words if args.get(name) is not None})
    given = {n: each for n in words if (each := known.array(n, size)) is not None}
    if not given:
        return contract, []
    told_any = contract.action_scale or contract.action_offset
    if "action_scale" not in given and told_any and set(contract.action_scale) != {1.0}:
        raise ConfigError(
            f"--planner-args action_offset is given alone, and in {path} the action's scale is "
            "not 1. Give action_scale too, or leave both to the robot."
        )
    for name, values in given.items():
        told = getattr(contract, name)
        apart = [
            at
            for at, (mine, its) in enumerate(zip(values, told, strict=False))
            if not near(mine, its)
        ]
        if apart:
            at = apart[0]
            raise ConfigError(
                f"--planner-args {name} is {values[at]:g} for number {at} of the action, and "
                f"{path} tells {told[at]:g}. Correct one of them, or give --contract {NONE}."
            )
    plain: dict[str, Any] = {"action_scale": (1.0,) * size, "action_offset": (0.0,) * size}
    inside = " and ".join(words[name] for name in given)
    said = f"the action's {inside}, which --planner-args puts into the executor"
    change = {name: plain[name] for name in given}
    return replace(contract, **change), [said]


def _beside(planner: Sequence[str]) -> Path | None:
    """Find the contract of the one policy file that is the planner."""
    path = Path(planner[0]) if len(planner) == 1 else None
    if path is None or not path.exists() or kind_of(path) is not None:
        return None
    return beside(path)
