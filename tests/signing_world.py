"""A repository whose roles anyone may sign, and a device that trusts it: for `tuf-conformance`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentkd.errors import SignatureError
from agentkd.signing import keys as private_keys
from agentkd.signing.proof import Proof
from agentkd.signing.store import TrustStore
from tests.signing import DATA, Files, later

NAME = "executor.akd"
LISTED = ("targets", "snapshot", "timestamp")


class World:
    """A repository whose roles anyone may sign, and a device that trusts its first root."""

    def __init__(self, folder: Path) -> None:
        from tuf.api import metadata as tuf

        self.hashes = False
        self.files: Files = {}
        self.signers: dict[str, list[Any]] = {}
        self.asked: list[str] = []
        expires = later(30).replace(microsecond=0)
        kinds = (tuf.Root, tuf.Targets, tuf.Snapshot, tuf.Timestamp)
        self.about: dict[str, Any] = {each.type: each(expires=expires) for each in kinds}
        for role in self.about:
            self.rotate(role)
        self.target(NAME, DATA)
        for role in (*LISTED, "root"):
            self.about[role].version = 0
        self.publish(*LISTED, "root")
        self.anchor, self.memory = folder / "root.json", folder / "trust.json"
        self.anchor.write_bytes(self.files["1.root.json"])

    def target(self, name: str, data: bytes, *hashes: str) -> Any:
        """List a file in the targets."""
        from tuf.api.metadata import TargetFile

        found = TargetFile.from_data(name, data, list(hashes) or ["sha256"])
        self.about["targets"].targets[name] = found
        self.files[f"targets/{found.hashes.get('sha256', '')}.{name}"] = data
        return found

    def add(self, role: str, *signers: Any) -> None:
        """Let the root name more keys of a role, whose signers sign from now on."""
        for each in signers or private_keys.generate(1):
            self.about["root"].add_key(each.public_key, role)
            self.signers.setdefault(role, []).append(each)

    def rotate(self, role: str) -> None:
        """Replace all keys of a role by a new one."""
        self.about["root"].roles[role].keyids.clear()
        self.signers[role] = []
        self.add(role)

    def publish(self, *roles: str) -> None:
        """Sign roles, each in its next version; what lists them says so once it is signed."""
        from tuf.api.metadata import Metadata, MetaFile

        for role in roles:
            signed = self.about[role]
            signed.version += 1
            data = Metadata(signed)
            for each in self.signers[role]:
                data.sign(each, append=True)
            raw = data.to_bytes()
            name = "timestamp.json" if role == "timestamp" else f"{signed.version}.{role}.json"
            self.files[name] = raw
            found = MetaFile(signed.version)
            if self.hashes:
                found = MetaFile.from_data(signed.version, raw, ["sha256"])
            if role == "targets":
                self.about["snapshot"].meta["targets.json"] = found
            elif role == "snapshot":
                self.about["timestamp"].snapshot_meta = found

    def edit(self, name: str, change: Callable[[Any], object]) -> None:
        """Change what was published, as JSON, and sign nothing anew."""
        told = json.loads(self.files[name])
        change(told)
        self.files[name] = json.dumps(told).encode()

    def refused(self, data: bytes = DATA) -> str:
        """Let the device check a file: "" if it takes it, else why not."""
        proof = Proof({each: text for each, text in self.files.items() if "/" not in each})
        return self._why(lambda trust: trust.check(data, proof))

    def fetched(self, name: str = NAME, *, into: list[bytes] | None = None) -> str:
        """Let the device fetch a file: "" if it takes it, else why not."""
        found = [] if into is None else into
        return self._why(lambda trust: found.append(trust.fetch("here", name, 1000)[0]))

    def _why(self, work: Callable[[TrustStore], object]) -> str:
        self.asked.clear()
        try:
            work(TrustStore(self.anchor, self.memory))
        except SignatureError as error:
            return error.reason
        return ""

    def read(self, name: str, _: int) -> bytes:
        """Serve a file of the repository."""
        self.asked.append(name)
        try:
            return self.files[name.removeprefix("metadata/")]
        except KeyError:
            raise FileNotFoundError(name) from None

    @property
    def kept(self) -> Files:
        """What the device remembers, by the names that python-tuf gives it."""
        if not self.memory.exists():
            return {}
        found = json.loads(self.memory.read_bytes())["files"]
        return {name: text.encode() for name, text in found.items()}

    @property
    def versions(self) -> dict[str, int]:
        """What the device remembers, the newest version of each role."""
        found: dict[str, int] = {}
        for text in self.kept.values():
            signed = json.loads(text)["signed"]
            found[signed["_type"]] = max(found.get(signed["_type"], 0), signed["version"])
        return found
