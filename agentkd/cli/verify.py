"""`agentkd verify`: an executor on every backend of this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.text import Text

from agentkd.cli.inspect import signature
from agentkd.cli.terminal import Console
from agentkd.deploy.bundle import read_bundle
from agentkd.deploy.verify import verify
from agentkd.errors import ConfigError

_STYLES = {"agrees": "green", "differs": "bold red", "missing": "yellow"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Run an executor in every form that this machine can, and compare the numbers."""

    file: tyro.conf.Positional[Path]
    """The executor file (.akd)."""

    trust: Path | None = None
    """The root.json of the repository that must have signed it; without it, the file counts as
    unsigned."""

    rows: int = 1000
    """Random observations to compare, after the file's golden vectors."""


def run(options: Options) -> int:
    """Compare the backends; return 1 if one differs."""
    if options.rows < 0:
        raise ConfigError(f"--rows {options.rows}: at least 0.")
    bundle = read_bundle(options.file, trust=options.trust)
    console = Console()
    console.print(f"{options.file}: whole, SHA-256 {bundle.digest}", soft_wrap=True)
    console.print(f"signature: {signature(bundle, options.file)}", soft_wrap=True)
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
