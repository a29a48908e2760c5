"""`agentkd push`: files to the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from agentkd.cli.terminal import Console
from agentkd.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Options:
    """Upload a planner's or executor's files to the Hugging Face Hub, in one commit.

    Every file is listed first, with its SHA-256 and what the repository has of it. Of a folder,
    weights, statistics, settings, executor files with their proofs, README.md, LICENSE and a report
    go; of an executor file, it, its proof and README.md. Nothing is deleted there. The commit is
    printed: agentkd pull OWNER/NAME@COMMIT gets the same files again.
    """

    source: tyro.conf.Positional[Path]
    """A folder, or an executor file (.akd)."""
    repo: tyro.conf.Positional[str]
    """The repository: OWNER/NAME. It is made if it is not there."""
    file: tuple[str, ...] = ()
    """The files to take instead, as paths in the folder."""
    message: str = "Upload with agentkd"
    """The commit's message."""
    branch: str = "main"
    """The branch to commit to."""
    private: bool = False
    """Make a new repository private."""
    dry_run: bool = False
    """List what would be uploaded, and upload nothing."""


def run(options: Options) -> int:
    """List the files, then upload those that differ."""
    from agentkd.planners.push import CARD, plan, push, uploads

    if not options.source.exists():
        raise ConfigError(f"{options.source} is not there; name a folder or an executor file.")
    found = plan(options.repo, uploads(options.source, options.file), options.branch)
    console = Console()

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    on = f"on {found.parent}" if found.parent else "a new repository"
    say(f"{found.repo}: {on}")
    for each, state in found.files:
        say(f"  {state:<8}{each.digest}  {each.size:>12,}  {each.name}")
    if all(each.name != CARD for each, _ in found.files):
        say(f"No {CARD}: agentkd card {options.source} writes one.")
    if options.dry_run:
        say("nothing was uploaded (--dry-run)")
        return 0
    if all(state == "same" for _, state in found.files):
        say("nothing to upload: the repository has these files")
        return 0
    commit = push(found, options.message, private=options.private, revision=options.branch)
    say(f"{found.repo}@{commit}")
    return 0
