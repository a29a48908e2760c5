"""A repository: signed metadata and the files that they are about, in a folder.

    REPOSITORY/metadata/   1.root.json, 1.targets.json, 1.snapshot.json, timestamp.json, …
    REPOSITORY/targets/    the files, each with its SHA-256 before its name

The folder is a TUF repository with consistent snapshots. It holds no secret and may be copied to
any file or HTTP server. Files are only added to it, and the timestamp is replaced last, so a reader
sees the former state or the new one. The signer keeps the roots beside the keys, and signs nothing
on top of metadata that these roots do not verify.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, get_args

from agentkd.errors import ConfigError, LoadError, check_range
from agentkd.extras import needing
from agentkd.files import Content, loading, read_file, write_atomic, write_files
from agentkd.signing import keys as private_keys
from agentkd.signing.proof import LARGEST, Proof, proof_path
from agentkd.signing.store import SERIAL, SIGNED_AT

Role = Literal["root", "targets", "snapshot", "timestamp"]
ROLES: tuple[Role, ...] = get_args(Role)
DAYS = 30
"""For how long a proof is valid: the expiry of snapshot and timestamp."""
_LONG = 365
"""The same of root and targets."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LARGEST_FILE = 1 << 28


def create(
    repository: str | Path,
    private: str | Path | None = None,
    *,
    keys: int = 1,
    threshold: int = 1,
    days: float = DAYS,
    now: datetime | None = None,
) -> list[Path]:
    """Make a repository with new keys and nothing in it.

    Args:
        repository: The folder to make.
        private: The folder for the private keys; by default one in the user's configuration.
        keys: How many keys root and targets have each; snapshot and timestamp have one.
        threshold: How many of them have to sign.
        days: For how long a proof is valid.
        now: The time to sign at; by default the clock's.

    Returns:
        The files of the private keys.

    Raises:
        ConfigError: If there is something in the folder, or the keys would be published with it.
        WriteError: If a key was there before, or something cannot be written.
    """
    folder = Path(repository)
    secret = private_keys.default_folder(folder) if private is None else Path(private)
    private_keys.check_apart(secret, folder)
    check_range("threshold", threshold, least=1)
    check_range("keys", keys, least=threshold, hint="Fewer keys than have to sign.")
    _check_days(days)
    for place in (folder, secret):
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise ConfigError(f"{place} is not empty. Name another folder; nothing is replaced.")
    made = {each: private_keys.generate(_count(each, keys)) for each in ROLES}
    with needing("Signing"):
        from tuf.api.metadata import Metadata, Root, Targets
    root = Root(consistent_snapshot=True)
    for role, signers in made.items():
        for signer in signers:
            root.add_key(signer.public_key, role)
        root.roles[role].threshold = min(threshold, len(signers))
    time = now or datetime.now(UTC)
    root.expires = time + timedelta(days=_LONG)
    written = [
        path
        for role, signers in made.items()
        for path in private_keys.write_keys(secret, role, signers)
    ]
    known = {each.public_key.keyid: each for signers in made.values() for each in signers}
    first = Metadata(root)
    for signer in made["root"]:
        first.sign(signer, append=True)
    write_atomic(secret / "roots" / "1.root.json", first.to_bytes())
    write_atomic(folder / "metadata" / "1.root.json", first.to_bytes())
    (folder / "targets").mkdir(exist_ok=True)
    versions = dict.fromkeys(("snapshot", "timestamp"), 0)
    _publish(folder, root, versions, Targets(version=1), known, {}, days, time)
    return written


def sign(
    repository: str | Path,
    files: Iterable[str | Path] = (),
    private: Sequence[str | Path] = (),
    *,
    days: float = DAYS,
    now: datetime | None = None,
) -> dict[Path, Path]:
    """Sign files, put them into a repository, and write a proof beside each.

    Without files, what is in the repository is signed for another time.

    Args:
        repository: The repository.
        files: What to sign, each under its name; a file of the same name is replaced.
        private: The folders of the private keys; by default one in the user's configuration.
        days: For how long the proofs are valid.
        now: The time to sign at; by default the clock's.

    Returns:
        By file, its proof.

    Raises:
        ConfigError: If a key is missing or readable by others, or a name cannot be signed.
        LoadError: If a file cannot be read, or the repository is not as the signer left it.
        WriteError: If something cannot be written; the repository is as before.
    """
    folder, secrets = _places(repository, private)
    _check_days(days)
    signed = {Path(file): read_file(file, _LARGEST_FILE) for file in files}
    names = [path.name for path in signed]
    for name in names:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{name!r} cannot be signed: a name is up to 100 letters, digits, '.', '_' and '-'."
            )
        if names.count(name) > 1:
            raise ConfigError(f"Two of the files are named {name}; each is signed by its name.")
    keys = private_keys.read_keys(secrets)
    with private_keys.locked(secrets[0]):
        roots, versions, targets = _open(folder, secrets[0])
        from tuf.api.metadata import TargetFile

        targets.version += 1
        placed: dict[Path, Content] = {}
        for path, data in signed.items():
            target = TargetFile.from_data(path.name, data, ["sha256"])
            target.unrecognized_fields["custom"] = {SERIAL: targets.version}
            targets.targets[path.name] = target
            placed[folder / "targets" / f"{hashlib.sha256(data).hexdigest()}.{path.name}"] = data
        time = now or datetime.now(UTC)
        held = _publish(folder, roots[-1].signed, versions, targets, keys, placed, days, time)
    proof = Proof(held | {f"{each.signed.version}.root.json": each.to_bytes() for each in roots})
    proofs = {path: proof_path(path) for path in signed}
    write_files(dict.fromkeys(proofs.values(), proof.to_bytes()))
    return proofs


def rotate(
    repository: str | Path,
    role: Role,
    private: Sequence[str | Path] = (),
    *,
    days: float = DAYS,
    now: datetime | None = None,
) -> list[Path]:
    """Give a role new keys, in place of all that it has, and sign everything again.

    The old private keys stay where they are and count for nothing. Devices follow from the root
    that they have, for the new one is signed by the keys of both.

    Args:
        repository: The repository.
        role: Whose keys are replaced.
        private: The folders of the private keys; new ones are written into the first.
        days: For how long the proofs are valid.
        now: The time to sign at; by default the clock's.

    Returns:
        The files of the new keys.

    Raises:
        ConfigError: If a key is missing or readable by others, or there is no such role.
        LoadError: If the repository is not as the signer left it.
        WriteError: If something cannot be written.
    """
    if role not in ROLES:
        raise ConfigError(f"No role {role!r}: {', '.join(ROLES)}.")
    folder, secrets = _places(repository, private)
    _check_days(days)
    keys = private_keys.read_keys(secrets)
    with private_keys.locked(secrets[0]):
        roots, versions, targets = _open(folder, secrets[0])
        root = roots[-1].signed
        signers = private_keys.signing("root", root.roles["root"], keys)
        fresh = private_keys.generate(len(root.roles[role].keyids))
        for keyid in list(root.roles[role].keyids):
            root.revoke_key(keyid, role)
        for signer in fresh:
            root.add_key(signer.public_key, role)
        root.version += 1
        time = now or datetime.now(UTC)
        root.expires = time + timedelta(days=_LONG)
        from tuf.api.metadata import Metadata

        after = Metadata(root)
        for signer in [*signers, *(fresh if role == "root" else ())]:
            after.sign(signer, append=True)
        written = private_keys.write_keys(secrets[0], role, fresh)
        name = f"{root.version}.root.json"
        # What is killed here is made good by the next signing: `_open` publishes the root.
        write_atomic(secrets[0] / "roots" / name, after.to_bytes())
        write_atomic(folder / "metadata" / name, after.to_bytes())
        keys |= {each.public_key.keyid: each for each in fresh}
        targets.version += 1
        _publish(folder, root, versions, targets, keys, {}, days, time)
    return written


def _count(role: Role, keys: int) -> int:
    return keys if role in ("root", "targets") else 1


def _check_days(days: float) -> None:
    check_range("days", days, above=0, most=_LONG)


def _places(repository: str | Path, private: Sequence[str | Path]) -> tuple[Path, tuple[Path, ...]]:
    """Return the folders of a repository and of its private keys."""
    folder = Path(repository)
    secrets = tuple(Path(each) for each in private) or (private_keys.default_folder(folder),)
    for secret in secrets:
        private_keys.check_apart(secret, folder)
    return folder, secrets


def _open(repository: Path, secret: Path) -> tuple[list[Any], dict[str, int], Any]:
    """Return the roots, the versions of snapshot and timestamp, and the targets.

    Everything has to be signed by the keys of the newest root, or of the one before it, where a
    rotation was interrupted.
    """
    with needing("Signing"):
        from tuf.api.metadata import Metadata
    held = secret / "roots"
    paths = sorted(held.glob("*.root.json"), key=lambda path: int(path.name.partition(".")[0]))
    if not paths:
        raise LoadError(
            f"{held} has no root: these are not the keys of {repository}. Name the folder that "
            "agentkd keys new wrote, as the first of --private."
        )
    roots = [Metadata.from_bytes(read_file(path, LARGEST)) for path in paths]
    folder = repository / "metadata"
    for path, root in zip(paths, roots, strict=True):
        there = folder / path.name
        if not there.exists():
            write_atomic(there, root.to_bytes())
        elif read_file(there, LARGEST) != path.read_bytes():
            raise LoadError(
                f"{there} is not the root that this signer made, {path}. Someone else has written "
                "in the repository: restore it before anything is signed on top of it."
            )

    def read(role: Role, version: int | None = None) -> Any:
        path = folder / (f"{role}.json" if version is None else f"{version}.{role}.json")
        with loading(path):
            found = Metadata.from_bytes(read_file(path, LARGEST))
            signed = (found.signed_bytes, found.signatures)
            if not any(each.signed.get_verification_result(role, *signed) for each in roots[-2:]):
                raise LoadError("it is not signed by this signer's keys; restore the repository")
            if found.signed.type != role or version not in (None, found.signed.version):
                raise LoadError("it is other metadata than its name says")
            return found.signed

    timestamp = read("timestamp")
    snapshot = read("snapshot", timestamp.snapshot_meta.version)
    targets = read("targets", snapshot.meta["targets.json"].version)
    versions = {"snapshot": snapshot.version, "timestamp": timestamp.version}
    return roots, versions, targets


def _publish(
    repository: Path,
    root: Any,
    versions: Mapping[str, int],
    targets: Any,
    keys: Mapping[str, Any],
    files: Mapping[Path, Content],
    days: float,
    now: datetime,
) -> dict[str, bytes]:
    """Sign targets, and a snapshot and a timestamp of them; return these by their names."""
    from tuf.api.metadata import Metadata, MetaFile, Snapshot, Timestamp

    now = now.astimezone(UTC).replace(microsecond=0)
    signing = {role: private_keys.signing(role, root.roles[role], keys) for role in ROLES[1:]}

    def signed(role: Role, about: Any, lasting: float) -> bytes:
        about.expires = now + timedelta(days=lasting)
        metadata = Metadata(about)
        for signer in signing[role]:
            metadata.sign(signer, append=True)
        found: bytes = metadata.to_bytes()
        return found

    first = signed("targets", targets, _LONG)
    meta = {"targets.json": MetaFile.from_data(targets.version, first, ["sha256"])}
    snapshot = Snapshot(version=versions["snapshot"] + 1, meta=meta)
    second = signed("snapshot", snapshot, days)
    timestamp = Timestamp(
        version=versions["timestamp"] + 1,
        snapshot_meta=MetaFile.from_data(snapshot.version, second, ["sha256"]),
        unrecognized_fields={SIGNED_AT: now.isoformat()},
    )
    third = signed("timestamp", timestamp, days)
    folder = repository / "metadata"
    named = {f"{targets.version}.targets.json": first, f"{snapshot.version}.snapshot.json": second}
    write_files({**files, **{folder / name: data for name, data in named.items()}})
    write_atomic(folder / "timestamp.json", third)
    return {**named, "timestamp.json": third}
