"""`agentkd pull`: a planner of the Hugging Face Hub."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import tyro

from agentkd.cli.terminal import Console


@dataclass(frozen=True, kw_only=True)
class Options:
    """Copy the files of a planner from the Hugging Face Hub into a folder.

    The files are those of one commit, which is printed and written into pulled.json beside them,
    with the SHA-256 of each. To get the same again, name the commit: OWNER/NAME@COMMIT. Nothing in
    the files is run or unpickled.
    """

    repo: tyro.conf.Positional[str]
    """The repository: OWNER/NAME, or OWNER/NAME@REVISION for a commit, tag or branch."""
    file: tuple[str, ...] = ()
    """The files to take; by default those that a planner needs: weights, statistics, settings."""
    to: Path | None = None
    """The folder to write into; by default one in runs/ with the name of the repository."""


def run(options: Options) -> int:
    """Copy the files; print what they are, and what to do with them."""
    from agentkd.planners.hub import RECORD, pull

    repo, at, revision = options.repo.partition("@")
    folder = options.to or Path("runs") / f"pull-{repo.replace('/', '-')}"
    found = pull(repo, revision if at else None, folder, names=options.file)
    console = Console()
    console.print(f"{found.repo}@{found.commit}", highlight=False, soft_wrap=True)
    for name, digest in found.files.items():
        console.print(f"  {digest}  {name}", highlight=False, markup=False, soft_wrap=True)
    command = shlex.join(["agentkd", "distill", "ENV", "--planner", str(folder)])
    for name, words in (("written", str(folder / RECORD)), ("next:", command)):
        console.print(f"{name:<10}{words}", highlight=False, markup=False, soft_wrap=True)
    return 0
