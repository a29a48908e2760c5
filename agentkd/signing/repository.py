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
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, get_args

from agentkd.errors import ConfigError, LoadError, WriteError, check_choice, check_range
from agentkd.extras import needing
from agentkd.files import Content, loading, read_file, write_atomic, write_files
from agentkd.printable import logger
from agentkd.signing import keys as private_keys
from agentkd.signing.proof import LARGEST, MOST_ROOTS, Proof, proof_path
from agentkd.signing.store import SERIAL, SIGNED_AT

log = logger(__name__)

Role = Literal["root", "targets", "snapshot", "timestamp"]
ROLES: tuple[Role, ...] = get_args(Role)
DAYS = 30
"""For how long a proof is valid: the expiry of snapshot and timestamp."""
LONG = 365
"""The same of root and targets."""
_PUBLISHED = "published"
"""The file beside the roots that says with which of them the published metadata were signed."""
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
    check_range("threshold", threshold, least=1, whole=True)
    check_range("keys", keys, least=threshold, hint="Fewer keys than have to sign.", whole=True)
    _check_days(days)
    for place in (folder, secret):
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise ConfigError(f"{place} is not empty. Name another folder; nothing is replaced.")
    made = {each: private_keys.generate(_count(each, keys)) for each in ROLES}
    with needing("Signing"):
        from tuf.api.metadata import Root, Targets
    # Keys that were written are in the way of a second try.
    _check_writable(folder, 0o777)
    _check_writable(secret, 0o700)
    root = Root(consistent_snapshot=True)
    for role, signers in made.items():
        for signer in signers:
            root.add_key(signer.public_key, role)
        root.roles[role].threshold = min(threshold, len(signers))
    time = now or datetime.now(UTC)
    root.expires = time + timedelta(days=LONG)
    written = [
        path
        for role, signers in made.items()
        for path in private_keys.write_keys(secret, role, signers)
    ]
    first = _write_root(folder, secret, root, made["root"])
    (folder / "targets").mkdir(exist_ok=True)
    state = _State([first], dict.fromkeys(("snapshot", "timestamp"), 0), {}, Targets(version=1))
    _publish(folder, secret, state, made, {}, days, time)
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

    Without files, what is in the repository is valid for another time; that takes the keys of
    snapshot and timestamp alone. A warning says when the root, or what it takes to renew without
    files, comes to its end.

    Args:
        repository: The repository.
        files: What to sign, each under its name; a file of the same name is replaced.
        private: The folders of the private keys; by default one in the user's configuration.
        days: For how long the proofs are valid.
        now: The time to sign at; by default the clock's.

    Returns:
        By file, its proof.

    Raises:
        ConfigError: If a key is missing or readable by others, a name cannot be signed, or the root
            has expired.
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
    time = now or datetime.now(UTC)
    keys = private_keys.read_keys(secrets)
    with private_keys.locked(secrets[0]):
        state = _open(folder, secrets[0])
        root, targets = state.roots[-1].signed, state.targets
        _check_lasting("root", root, time, days, f"agentkd keys renew {folder}")
        if not signed:
            _check_lasting("targets", targets, time, days, f"agentkd keys sign {folder} FILE")
        signers = _signers(root, keys, ROLES[1:] if signed or state.due else ROLES[2:])
        from tuf.api.metadata import TargetFile

        targets.version += 1
        placed: dict[Path, Content] = {}
        for path, data in signed.items():
            target = TargetFile.from_data(path.name, data, ["sha256"])
            target.unrecognized_fields["custom"] = {SERIAL: targets.version}
            targets.targets[path.name] = target
            placed[folder / "targets" / f"{hashlib.sha256(data).hexdigest()}.{path.name}"] = data
        held = _publish(folder, secrets[0], state, signers, placed, days, time)
    newest = state.roots[-MOST_ROOTS:]
    if newest != state.roots:
        text = "%s has %d roots; a device follows %d: give devices metadata/%d.root.json or later."
        log.warning(text, folder, len(state.roots), MOST_ROOTS, newest[0].signed.version)
    roots = {f"{each.signed.version}.root.json": each.to_bytes() for each in newest}
    proofs = {path: proof_path(path) for path in signed}
    write_files(dict.fromkeys(proofs.values(), Proof(held | roots).to_bytes()))
    return proofs


def renew(
    repository: str | Path, private: Sequence[str | Path] = (), *, now: datetime | None = None
) -> datetime:
    """Sign the root with its keys for another year; nothing else changes, and no other key is used.

    Proofs that were written before do not hold the new root: sign their files again.

    Args:
        repository: The repository.
        private: The folders of the private keys; by default one in the user's configuration.
        now: The time to sign at; by default the clock's.

    Returns:
        Until when the root is valid, UTC.

    Raises:
        ConfigError: If a key is missing or readable by others.
        LoadError: If the repository is not as the signer left it.
        WriteError: If something cannot be written.
    """
    folder, secrets = _places(repository, private)
    keys = private_keys.read_keys(secrets)
    with private_keys.locked(secrets[0]):
        root = _open(folder, secrets[0]).roots[-1].signed
        signers = private_keys.signing("root", root.roles["root"], keys)
        _advance(root, now or datetime.now(UTC))
        _write_root(folder, secrets[0], root, signers)
    found: datetime = root.expires
    return found


def rotate(
    repository: str | Path,
    role: Role,
    private: Sequence[str | Path] = (),
    *,
    days: float = DAYS,
    now: datetime | None = None,
) -> list[Path]:
    """Give a role new keys, in place of all that it has, and sign what they sign again.

    The old private keys stay where they are and count for nothing. Devices follow from the root
    that they have, for the new one is signed by the keys of both. It takes the keys of root,
    snapshot and timestamp; without one of them nothing is written.

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
    check_choice("role", role, ROLES)
    folder, secrets = _places(repository, private)
    _check_days(days)
    time = now or datetime.now(UTC)
    keys = private_keys.read_keys(secrets)
    with private_keys.locked(secrets[0]):
        state = _open(folder, secrets[0])
        root = state.roots[-1].signed
        former = private_keys.signing("root", root.roles["root"], keys)
        fresh = private_keys.generate(len(root.roles[role].keyids))
        for keyid in list(root.roles[role].keyids):
            root.revoke_key(keyid, role)
        for signer in fresh:
            root.add_key(signer.public_key, role)
        _advance(root, time)
        # All signers are found before the first write: half a rotation locks devices out.
        keys |= {each.public_key.keyid: each for each in fresh}
        due = role == "targets" or state.due
        signers = _signers(root, keys, ROLES[1:] if due else ROLES[2:])
        written = private_keys.write_keys(secrets[0], role, fresh)
        # What is killed here is made good by the next signing: `_open` publishes the root.
        after = [*former, *(fresh if role == "root" else ())]
        state.roots.append(_write_root(folder, secrets[0], root, after))
        state.targets.version += 1
        _publish(folder, secrets[0], state, signers, {}, days, time)
    return written


def _count(role: Role, keys: int) -> int:
    return keys if role in ("root", "targets") else 1


def _check_days(days: float) -> None:
    check_range("days", days, above=0, most=LONG)


def _check_writable(folder: Path, mode: int) -> None:
    """Make a folder of a mode, and make sure that something can be written in it."""
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder):
            pass
    except OSError as error:
        raise WriteError(
            f"Nothing can be written in {folder}: {error.strerror or error}. Name another folder; "
            "no key was made."
        ) from error


def _check_lasting(role: Role, about: Any, time: datetime, days: float, remedy: str) -> None:
    """Refuse metadata that have expired; warn if they do so before what is signed now, or soon."""
    text = f"{about.expires:%Y-%m-%d %H:%M} UTC"
    if about.expires <= time:
        raise ConfigError(
            f"The metadata of {role} expired on {text}, and devices refuse what is signed under "
            f"them: {remedy}."
        )
    if about.expires < time + timedelta(days=max(days, DAYS)):
        log.warning(
            "The metadata of %s expire on %s, and all proofs with them. Before that: %s.",
            role,
            text,
            remedy,
        )


def _advance(root: Any, time: datetime) -> None:
    """Make a root the next one, of this time."""
    root.version += 1
    root.expires = time.astimezone(UTC).replace(microsecond=0) + timedelta(days=LONG)


def _write_root(folder: Path, secret: Path, root: Any, signers: Iterable[Any]) -> Any:
    """Sign a root; write it beside the keys, then into the repository; return it."""
    from tuf.api.metadata import Metadata

    after = Metadata(root)
    for signer in signers:
        after.sign(signer, append=True)
    name = f"{root.version}.root.json"
    for path in (secret / "roots" / name, folder / "metadata" / name):
        write_atomic(path, after.to_bytes())
    return after


def _signers(root: Any, keys: Mapping[str, Any], roles: Iterable[Role]) -> dict[Role, list[Any]]:
    """Return the signers of roles, as many as the root asks for."""
    return {role: private_keys.signing(role, root.roles[role], keys) for role in roles}


@dataclass(slots=True)
class _State:
    """What a repository publishes, as the signer left it."""

    roots: list[Any]
    versions: dict[str, int]
    """Of snapshot and timestamp."""
    meta: dict[str, Any]
    """What the snapshot says of the targets."""
    targets: Any
    due: bool = False
    """Whether the newest keys have yet to sign the targets: a rotation was interrupted."""


def _places(repository: str | Path, private: Sequence[str | Path]) -> tuple[Path, tuple[Path, ...]]:
    """Return the folders of a repository and of its private keys."""
    folder = Path(repository)
    secrets = tuple(Path(each) for each in private) or (private_keys.default_folder(folder),)
    for secret in secrets:
        private_keys.check_apart(secret, folder)
    return folder, secrets


def _open(repository: Path, secret: Path) -> _State:
    """Return what is published.

    Everything has to be signed by the keys of the root with which it was published, or of a later
    one, where rotations were interrupted.
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

    marker = held / _PUBLISHED
    since = len(roots) - 1
    if marker.exists():
        with loading(marker):
            since = int(read_file(marker, 99))
    accepted = [each for each in roots if each.signed.version >= since]

    def proves(root: Any, role: Role, found: Any) -> bool:
        return bool(root.signed.get_verification_result(role, found.signed_bytes, found.signatures))

    def read(role: Role, version: int | None = None) -> Any:
        path = folder / (f"{role}.json" if version is None else f"{version}.{role}.json")
        with loading(path):
            found = Metadata.from_bytes(read_file(path, LARGEST))
            if not any(proves(each, role, found) for each in accepted):
                raise LoadError("it is not signed by this signer's keys; restore the repository")
            if found.signed.type != role or version not in (None, found.signed.version):
                raise LoadError("it is other metadata than its name says")
            return found

    timestamp = read("timestamp").signed
    snapshot = read("snapshot", timestamp.snapshot_meta.version).signed
    targets = read("targets", snapshot.meta["targets.json"].version)
    versions = {"snapshot": snapshot.version, "timestamp": timestamp.version}
    due = not proves(roots[-1], "targets", targets)
    return _State(roots, versions, snapshot.meta, targets.signed, due)


def _publish(
    repository: Path,
    secret: Path,
    state: _State,
    signers: Mapping[Role, Iterable[Any]],
    files: Mapping[Path, Content],
    days: float,
    now: datetime,
) -> dict[str, bytes]:
    """Sign a snapshot and a timestamp, and the targets if there are signers for them.

    Return what was signed, by its names.
    """
    from tuf.api.metadata import Metadata, MetaFile, Snapshot, Timestamp

    now = now.astimezone(UTC).replace(microsecond=0)

    def signed(role: Role, about: Any, lasting: float) -> bytes:
        about.expires = now + timedelta(days=lasting)
        metadata = Metadata(about)
        for signer in signers[role]:
            metadata.sign(signer, append=True)
        found: bytes = metadata.to_bytes()
        return found

    named: dict[str, bytes] = {}
    meta, targets = state.meta, state.targets
    if "targets" in signers:
        data = signed("targets", targets, LONG)
        named[f"{targets.version}.targets.json"] = data
        meta = {"targets.json": MetaFile.from_data(targets.version, data, ["sha256"])}
    snapshot = Snapshot(version=state.versions["snapshot"] + 1, meta=meta)
    data = named[f"{snapshot.version}.snapshot.json"] = signed("snapshot", snapshot, days)
    timestamp = Timestamp(
        version=state.versions["timestamp"] + 1,
        snapshot_meta=MetaFile.from_data(snapshot.version, data, ["sha256"]),
        unrecognized_fields={SIGNED_AT: now.isoformat()},
    )
    last = signed("timestamp", timestamp, days)
    folder = repository / "metadata"
    write_files({**files, **{folder / name: data for name, data in named.items()}})
    write_atomic(folder / "timestamp.json", last)
    # What only the keys of earlier roots have signed is refused from here on.
    marker, version = secret / "roots" / _PUBLISHED, str(state.roots[-1].signed.version)
    if not marker.exists() or marker.read_bytes() != version.encode():
        write_atomic(marker, version)
    return {**named, "timestamp.json": last}
