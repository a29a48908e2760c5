"""`agentkd verify`: an executor on every backend of this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.text import Text

from agentkd.cli.inspect import signature
from agentkd.cli.terminal import Console
from agentkd.deploy.bundle import Bundle, read_bundle
from agentkd.deploy.contracts.compare import compare, of_bundle
from agentkd.deploy.contracts.files import read_contract
from agentkd.deploy.verify import verify
from agentkd.errors import check_range

_STYLES = {"agrees": "green", "differs": "bold red", "missing": "yellow", "untold": "yellow"}
_SIZES = ("observation size", "action size")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Run an executor in every form that this machine can, and compare the numbers.

    With --contract, first compare what the numbers mean with what a robot or simulator says.
    """

    file: tyro.conf.Positional[Path]
    """The executor file (.akd)."""

    trust: Path | None = None
    """The root.json of the repository that must have signed it; without it, the file counts as
    unsigned."""

    rows: int = 1000
    """Random observations to compare, after the file's golden vectors."""
    contract: Path | None = None
    """A file that tells what the robot gives and takes: Isaac Lab's IO_descriptors.yaml, Unitree's
    deploy.yaml, rl_sar's config.yaml, a microduck's manifest.json, mjlab's policy.onnx, or an
    executor file."""


def run(options: Options) -> int:
    """Compare the contract and the backends; return 1 if one differs."""
    check_range("--rows", options.rows, least=0)
    bundle = read_bundle(options.file, trust=options.trust)
    console = Console()
    console.print(f"{options.file}: whole, SHA-256 {bundle.digest}", soft_wrap=True)
    console.print(f"signature: {signature(bundle, options.file)}", soft_wrap=True)
    if options.contract is not None:
        apart = _contract(options.contract, bundle, console)
        if apart:
            console.print(Text(f"no: {', '.join(apart)}", "bold red"))
            return 1
    found = []
    for verdict in verify(bundle, rows=options.rows):
        found.append(verdict)
        said = verdict.text or f"within {verdict.worst:.1e}"
        line = Text.assemble(
            f"  {verdict.backend:<14}", (f"{verdict.status:<9}", _STYLES[verdict.status]), said
        )
        console.print(line, soft_wrap=True)
    rows = options.rows + len(bundle.golden["obs"])
    different = [each.backend for each in found if each.status == "differs"]
    if different:
        console.print(Text(f"no: {', '.join(different)}", "bold red"))
        return 1
    ran = sum(each.status == "agrees" for each in found)
    console.print(Text(f"yes: {ran} of {len(found)} backends, {rows:,} observations"))
    return 0


def _contract(path: Path, bundle: Bundle, console: Console) -> list[str]:
    """Compare the executor's contract with that of a file; return the names of what differs."""
    found = list(compare(of_bundle(bundle), read_contract(path)))
    wide = max(len(each.name) for each in found)
    for each in found:
        said = each.here
        if each.status == "differs":
            said = f"{each.here} here, {each.there} in {path}"
        elif each.status == "untold":
            said = f"{path} does not tell" if each.here else f"{each.there} in {path}, untold here"
        line = Text.assemble(
            f"  {each.name:<{wide}}  ", (f"{each.status:<9}", _STYLES[each.status]), said
        )
        console.print(line, soft_wrap=True)
    if not any(each.status != "untold" and each.name not in _SIZES for each in found):
        console.print(
            "Only sizes could be compared. agentkd freeze and agentkd distill take a contract "
            "along, with --contract FILE.",
            soft_wrap=True,
        )
    return [each.name for each in found if each.status == "differs"]
