"""The contract that a command takes along from the files of its planner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agentkd.cli.options import Access
from agentkd.cli.terminal import Console
from agentkd.deploy.contract import Contract
from agentkd.deploy.contracts.files import beside, fitted, read_contract
from agentkd.environments import read_arguments
from agentkd.errors import ConfigError, LoadError
from agentkd.planners.sb3.locate import kind_of
from agentkd.spec import BoxSpec, Spec

NONE = "off"
"""Instead of a file: no contract is taken along."""


def take_along(option: str | None, planner: Sequence[str], saves: Access, spec: Spec) -> Contract:
    """Return the contract for an executor's file, and print where it comes from.

    It is that of the file that `--contract` names, or else of the one beside the planner's policy
    file; an empty one where there is none.

    Raises:
        LoadError: If the file cannot be read.
        ConfigError: If the file that was named is of another robot.
    """
    if option == NONE:
        return Contract()
    path = _beside(planner) if option is None else Path(option)
    if path is None:
        return Contract()
    try:
        told = read_contract(path)
    except LoadError as error:
        more = "" if option else f" Give --contract FILE, or --contract {NONE}."
        raise LoadError(f"{error}{more}") from error
    contract, left = fitted(told, spec)
    if left and option is not None:
        raise ConfigError(f"--contract {path} is about something else: {'; '.join(left)}.")
    args = read_arguments(saves.planner_args, "--planner-args")
    if {"action_scale", "action_offset"} & args.keys() and isinstance(spec.action, BoxSpec):
        size = len(spec.action.low)
        ones, zeros = (1.0,) * size, (0.0,) * size
        contract = replace(contract, action_scale=ones, action_offset=zeros)
        left.append("the action's scale and offset: --planner-args puts them into the executor")
    console = Console()
    console.print(f"contract  {path}", soft_wrap=True)
    for each in left:
        console.print(f"          without {each}", soft_wrap=True)
    return contract


def _beside(planner: Sequence[str]) -> Path | None:
    """Find the contract of the one policy file that is the planner."""
    path = Path(planner[0]) if len(planner) == 1 else None
    if path is None or not path.exists() or kind_of(path) is not None:
        return None
    return beside(path)
