"""`agentkd keys`: keys, signatures, and the repository that devices trust."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import tyro

from agentkd.cli.terminal import Console
from agentkd.deploy.bundle import read_bundle
from agentkd.errors import ConfigError, check_choice
from agentkd.signing.keys import default_folder
from agentkd.signing.repository import DAYS, LONG, ROLES, Role, create, renew, rotate, sign

Action = Literal["new", "sign", "rotate", "renew"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make keys, sign executor files, and replace keys.

    new makes a repository and its private keys. sign puts executor files into it and writes a proof
    beside each, FILE.proof; without files it renews what is there. rotate gives roles new keys.
    renew signs the root, which is valid for 365 days, for another 365, with the root's keys alone.
    The repository holds no secret: copy it to any file or HTTP server. Devices trust its
    metadata/1.root.json.
    """

    action: tyro.conf.Positional[Action]
    """new, sign, rotate or renew."""
    repository: tyro.conf.Positional[Path]
    """The folder of signed metadata and files."""
    what: tyro.conf.Positional[tuple[str, ...]] = ()
    """For sign, the executor files; for rotate, the roles: root, targets, snapshot, timestamp."""
    private: tuple[Path, ...] = ()
    """The folders of the private keys; new ones go into the first. By default
    ~/.config/agentkd/keys/ and the repository's name."""
    keys: int | None = None
    """For new, how many keys root and targets have each; by default 1."""
    threshold: int | None = None
    """For new, how many of them have to sign; by default all."""
    days: float = DAYS
    """For how long a proof is valid."""


def run(options: Options) -> int:
    """Do what is asked, and say which files were written."""
    console = Console()
    if options.action == "new":
        _new(options, console)
        return 0
    if (options.keys, options.threshold) != (None, None):
        raise ConfigError(f"--keys and --threshold go with new, not {options.action}.")
    if options.action == "sign":
        files = [Path(each) for each in options.what]
        for file in files:
            # What a device would refuse is not signed.
            read_bundle(file)
        proofs = sign(options.repository, files, options.private, days=options.days)
        for file, proof in proofs.items():
            console.print(f"{file}: signed for {options.days:g} days, {proof}", soft_wrap=True)
        if not proofs:
            console.print(f"{options.repository}: renewed for {options.days:g} days")
        return 0
    if options.action == "renew":
        _renew(options, console)
        return 0
    roles = _roles(options.what)
    for role in roles:
        written = rotate(options.repository, role, options.private, days=options.days)
        console.print(f"{role}: {', '.join(map(str, written))}", soft_wrap=True)
    return 0


def _new(options: Options, console: Console) -> None:
    if options.what or len(options.private) > 1:
        raise ConfigError("keys new takes a repository, and at most one folder for --private.")
    keys = 1 if options.keys is None else options.keys
    threshold = keys if options.threshold is None else options.threshold
    private = options.private[0] if options.private else default_folder(options.repository)
    create(options.repository, private, keys=keys, threshold=threshold, days=options.days)
    console.print(f"{options.repository}: {threshold} of {keys} keys sign", soft_wrap=True)
    root = options.repository / "metadata" / "1.root.json"
    console.print(f"private keys: {private}; keep a copy apart", soft_wrap=True)
    console.print(f"devices trust: {root}", soft_wrap=True)


def _renew(options: Options, console: Console) -> None:
    if options.what or options.days != DAYS:
        raise ConfigError(
            f"keys renew takes a repository alone: its root is valid for {LONG} days."
        )
    expires = renew(options.repository, options.private)
    console.print(f"{options.repository}: root valid until {expires:%Y-%m-%d %H:%M} UTC")
    console.print("proofs get the new root when their files are signed again: agentkd keys sign")


def _roles(words: tuple[str, ...]) -> tuple[Role, ...]:
    known = {role: role for role in get_args(Role)}
    if not words:
        raise ConfigError(f"keys rotate needs roles: {', '.join(ROLES)}.")
    for word in words:
        check_choice("role", word, ROLES)
    return tuple(known[word] for word in dict.fromkeys(words))
