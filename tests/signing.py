"""A repository in a test's folder, and what an attacker can make of its metadata."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from agentkd.signing import keys as private_keys
from agentkd.signing import repository as repositories
from agentkd.signing.proof import Proof, read_proof
from agentkd.signing.store import TrustStore

DATA = b"the executor"
Files = dict[str, bytes]


class Signer:
    """A repository, its private keys, and a file that it has signed."""

    def __init__(self, folder: Path, keys: int = 1, threshold: int = 1) -> None:
        self.folder, self.secret = folder / "repository", folder / "secret"
        self.file = folder / "executor.akd"
        self.file.write_bytes(DATA)
        repositories.create(self.folder, self.secret, keys=keys, threshold=threshold)

    @property
    def root(self) -> Path:
        """What devices trust."""
        return self.folder / "metadata" / "1.root.json"

    def sign(self, file: Path | None = None, **options: Any) -> Files:
        """Sign a file, by default that with `DATA`; return its proof's metadata."""
        path = file or self.file
        repositories.sign(self.folder, [path], [self.secret], **options)
        return dict(read_proof(path).files)

    def rotate(self, *roles: Any) -> None:
        """Replace the keys of roles."""
        for role in roles:
            repositories.rotate(self.folder, role, [self.secret])

    def keys(self, role: str) -> list[Any]:
        """Return the signers whose private keys were made for a role."""
        found = private_keys.read_keys([self.secret])
        return [
            found[signer.public_key.keyid]
            for signer in found.values()
            if (self.secret / f"{role}-{signer.public_key.keyid[:16]}.pem").exists()
        ]

    def trust(self, memory: Path | None = None) -> TrustStore:
        """Return what trusts this repository."""
        return TrustStore(self.root, memory)


def named(files: Files, role: str) -> str:
    """Return the name of a role's newest metadata."""
    found = [name for name in files if role in name]
    return max(found, key=lambda name: int(name.partition(".")[0]) if name[0].isdigit() else 0)


def edit(files: Files, role: str, change: Callable[[Any], object], signers: list[Any]) -> Files:
    """Return metadata in which a role's are changed, and signed by these signers alone."""
    from tuf.api.metadata import Metadata

    name = named(files, role)
    metadata: Any = Metadata.from_bytes(files[name])
    change(metadata.signed)
    metadata.signatures.clear()
    for signer in signers:
        metadata.sign(signer, append=True)
    after = {each: data for each, data in files.items() if each != name}
    version = metadata.signed.version
    after["timestamp.json" if role == "timestamp" else f"{version}.{role}.json"] = (
        metadata.to_bytes()
    )
    return after


def follow(files: Files, signer: Signer) -> Files:
    """Let snapshot and timestamp be about the targets that are there, each a version newer."""
    from tuf.api.metadata import Metadata, MetaFile

    def about(role: str) -> Any:
        data = files[named(files, role)]
        return MetaFile.from_data(Metadata.from_bytes(data).signed.version, data, ["sha256"])

    def snapshot(signed: Any) -> None:
        signed.version += 1
        signed.meta["targets.json"] = about("targets")

    def timestamp(signed: Any) -> None:
        signed.version += 1
        signed.snapshot_meta = about("snapshot")

    files = edit(files, "snapshot", snapshot, signer.keys("snapshot"))
    return edit(files, "timestamp", timestamp, signer.keys("timestamp"))


def later(days: float) -> datetime:
    """Return a time that is so many days from now."""
    return datetime.now(UTC) + timedelta(days=days)


def check(trust: TrustStore, files: Files) -> Any:
    """Check the signature of `DATA`."""
    return trust.check(DATA, Proof(files))
