"""Tells the files of contracts apart by their contents, reads and writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentkd.deploy.bundle import Bundle, read_bundle
from agentkd.deploy.contract import Contract
from agentkd.deploy.contracts import isaaclab, microduck, mjlab, rl_sar, unitree
from agentkd.deploy.contracts.compare import compare, of_bundle
from agentkd.deploy.contracts.told import Told, named
from agentkd.deploy.contracts.yaml import MOST_BYTES, read_yaml, write_yaml
from agentkd.dists import action_width
from agentkd.errors import ConfigError, LoadError, check_choice
from agentkd.fields import Fields, parse_json
from agentkd.files import loading, read_file, regular
from agentkd.protobuf import is_onnx, metadata
from agentkd.sizes import MOST
from agentkd.spec import BoxSpec, Spec

_GRAPH = 1 << 31
"""Bytes of an ONNX file: protobuf has no more."""
_HEAD = 1 << 16
_BESIDE = (
    "io_descriptors/*IO_descriptors.yaml",
    "params/*IO_descriptors.yaml",
    "*IO_descriptors.yaml",
    "params/deploy.yaml",
    "deploy.yaml",
    "config.yaml",
    "manifest.json",
    "exported/*.onnx",
    "*.onnx",
)
"""Where a contract lies in the folder of a run, or beside a policy; the first counts."""
_FORMS = "IO_descriptors.yaml, deploy.yaml, config.yaml of rl_sar, manifest.json, .onnx, or .akd"


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool whose contracts are written.

    Attributes:
        name: What --contract takes.
        file: The file beside the policy; "" where the contract lies in the policy's metadata.
    """

    name: str
    file: str


TOOLS = {
    each.name: each
    for each in (
        Tool("isaaclab", "IO_descriptors.yaml"),
        Tool("mjlab", ""),
        Tool("microduck", "manifest.json"),
        Tool("rl_sar", "config.yaml"),
        Tool("unitree", "deploy.yaml"),
    )
}


def read_contract(path: str | Path) -> Told:
    """Read the contract in a file of one of the tools, or of agentkd.

    Raises:
        LoadError: If the file is damaged, or tells no contract.
    """
    target = Path(path)
    with regular(target, _GRAPH) as stream, loading(target):
        head = stream.read(_HEAD)
    if head[:2] == b"PK":
        return of_bundle(read_bundle(target))
    with loading(target, keep=(ConfigError,)):
        if is_onnx(head):
            found = metadata(read_file(target, _GRAPH), MOST_BYTES)
            if not mjlab.is_it(found):
                raise LoadError("the graph's metadata tells no contract")
            return mjlab.read(found)
        data = read_file(target, MOST_BYTES)
        if data.lstrip()[:1] == b"{":
            value = parse_json(data, target, limit=MOST_BYTES)
        else:
            value = read_yaml(data, target)
        return _read(value, target)


def _read(value: Any, path: Path) -> Told:
    if isinstance(value, dict):
        where = str(path)
        for tool in (isaaclab, unitree, microduck):
            if tool.is_it(value):
                found: Told = tool.read(Fields(value, where))
                return found
        if (settings := rl_sar.settings(value)) is not None:
            name = next(iter(value)) if len(value) == 1 else ""
            return rl_sar.read(Fields({**_base(path), **settings}, where), name)
    raise LoadError(f"{path} is no contract that is known. Known: {_FORMS}.")


def _base(config: Path) -> Mapping[str, Any]:
    """Read what rl_sar's robot has in common for its policies, where it lies above one."""
    for folder in (config.parent, config.absolute().parent.parent):
        path = folder / rl_sar.BASE
        if path.is_file():
            value = read_yaml(read_file(path, MOST_BYTES), path)
            inner = next(iter(value.values()), None) if isinstance(value, dict) else None
            return inner if isinstance(inner, dict) else {}
    return {}


def beside(policy: Path) -> Path | None:
    """Find the contract that lies beside a policy, or in its run's folder; None if none does.

    `policy` is a file, or the folder of a run.

    Raises:
        LoadError: If several of one kind lie there and do not tell the same.
    """
    if policy.is_dir():
        places = [(policy, each) for each in _BESIDE]
    else:
        if policy.suffix == ".onnx" and _tells(policy):
            return policy
        # Of the folder above, which holds that of the checkpoints, what a run's folder has.
        places = [(policy.parent, each) for each in _BESIDE if not each.startswith("*.onnx")]
        places += [(policy.absolute().parent.parent, each) for each in _BESIDE if "/" in each]
    for folder, pattern in places:
        if found := [path for path in sorted(folder.glob(pattern)) if _tells(path)]:
            _check_alike(found)
            return found[0]
    return None


def _check_alike(found: list[Path]) -> None:
    """Raise LoadError if files tell several contracts: which one is meant is not known."""
    if len(found) > 1 and any(read_contract(path) != read_contract(found[0]) for path in found[1:]):
        raise LoadError(
            f"{len(found)} contracts lie in {found[0].parent}: "
            f"{', '.join(path.name for path in found[:4])}. Which one is meant is not known."
        )


def _tells(path: Path) -> bool:
    """Whether a file with the name of a contract is one; other programs use the names, too."""
    if not path.is_file():
        return False
    try:
        read_contract(path)
    except LoadError:
        # What is clearly meant is read again, and its error told.
        return path.name.endswith("IO_descriptors.yaml") or path.name == "deploy.yaml"
    return True


def fitted(told: Told, spec: Spec) -> tuple[Contract, list[str]]:
    """Return what a contract tells that fits a spec, and what was left out, in words."""
    contract: Contract = told.contract
    left: list[str] = []
    width = action_width(spec.action)
    if told.obs_size is not None and told.obs_size != spec.obs.size:
        left.append(
            f"the observation's terms: {told.obs_size} numbers, the executor has {spec.obs.size}"
        )
        contract = replace(contract, terms=(), history="term", obs_clip=None)
    numbers = width if isinstance(spec.action, BoxSpec) else 0
    if told.action_size not in (None, numbers):
        has = f"{width} numbers" if numbers else "choices"
        left.append(f"the action: {told.action_size} numbers, the executor has {has}")
        contract = Contract(
            period=contract.period,
            terms=contract.terms,
            history=contract.history,
            obs_clip=contract.obs_clip,
            robot=contract.robot,
        )
    if spec.obs.size <= MOST // 64:
        names, units = named(contract)
        contract = replace(contract, obs_names=names, obs_units=units)
    return contract, left


def tool(name: str) -> Tool:
    """Find a tool by name.

    Raises:
        ConfigError: If there is none.
    """
    check_choice("contract of", name, TOOLS)
    return TOOLS[name]


def write_contract(name: str, bundle: Bundle, comment: str = "") -> tuple[bytes, list[str]]:
    """Write a tool's file for an executor, and read it again.

    Returns:
        The file, b"" where the policy's metadata holds the contract; and what the executor's file
        tells and this one does not, by name.

    Raises:
        ConfigError: If something that the tool cannot do without is untold, or it has no place for
            what is.
    """
    contract, mine = bundle.contract, of_bundle(bundle)
    if not tool(name).file:
        return b"", _lost(mine, mjlab.read(mjlab.write(contract)))
    if name == "microduck":
        value = microduck.write(bundle)
        data = (json.dumps(value, indent=2) + "\n").encode()
        return data, _lost(mine, microduck.read(Fields(parse_json(data, name), name)))
    module: Any = {"isaaclab": isaaclab, "rl_sar": rl_sar, "unitree": unitree}[name]
    data = write_yaml(module.write(contract), comment)
    return data, _lost(mine, _read(read_yaml(data, name), Path(name)))


def _lost(mine: Told, there: Told) -> list[str]:
    found = list(compare(mine, there))
    wrong = [each for each in found if each.status == "differs"]
    if wrong:
        each = wrong[0]
        raise ConfigError(f"{each.name} is {each.here}, and would be read as {each.there}.")
    return [each.name for each in found if each.status == "untold" and each.here]
