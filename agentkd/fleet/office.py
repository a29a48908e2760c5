"""A server's folder: the audit trail with its state, and the files that rollouts deliver."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, final

from agentkd.deploy.bundle import from_bytes
from agentkd.errors import BundleError, ConfigError, LoadError, SignatureError
from agentkd.files import read_file, write_atomic
from agentkd.fleet.audit import CHECKPOINT, AuditLog, Entry, Event
from agentkd.fleet.decisions import command, push_event
from agentkd.fleet.known import Plan
from agentkd.fleet.messages import Desired
from agentkd.fleet.rollout import Fleet
from agentkd.signing.proof import LARGEST, proof_from_bytes, proof_path
from agentkd.signing.store import TrustStore
from agentkd.transport.blobs import CHUNK, Blob, blob

ROOT, MEMORY, FILES = "root.json", "trust.json", "files"
SEGMENT = 20_000
"""Lines of the trail after which a checkpoint begins a new file."""
_LARGEST_FILE = 1 << 26


@final
class Office:
    """A fleet's folder.

        FOLDER/audit.log      the trail, with audit.pem, its private key, and audit.pub
        FOLDER/audit-*.log    its lines before checkpoints, for audit alone
        FOLDER/root.json      the repository that is trusted, if you put it there
        FOLDER/files/SHA-256  executor files and proofs

    Several processes may use it.

    Args:
        folder: The folder, as `agentkd fleet setup` made it.
        clock: Seconds since 1970, for the trail.

    Raises:
        LoadError: If there is none, or its trail does not verify.
    """

    def __init__(self, folder: str | Path, clock: Callable[[], float] = time.time) -> None:
        self.folder, self.clock = Path(folder), clock
        self.log = AuditLog(folder)
        self.fleet = Fleet()
        for entry in self.log.read():
            self.fleet.apply(entry)

    def look(self) -> list[Entry]:
        """Fold in what is new in the trail, and return it.

        Raises:
            LoadError: If a line does not verify.
        """
        found = list(self.log.read())
        for entry in found:
            self.fleet.apply(entry)
        return found

    def change(
        self, make: Callable[[Fleet], Sequence[Event]], now: float | None = None
    ) -> list[Entry]:
        """Append the events that `make` returns for the newest state, and fold them in.

        Args:
            make: Is given the newest state.
            now: Their time, in seconds since 1970; by default the clock's.

        Returns:
            All lines that are new since the last look.

        Raises:
            ConfigError: If `make` does.
            LoadError: If a line does not verify.
            WriteError: If they cannot be written.
        """
        folded = 0

        def make_all(entries: Sequence[Entry]) -> Sequence[Event]:
            nonlocal folded
            for entry in entries:
                self.fleet.apply(entry)
            folded = len(entries)
            return make(self.fleet)

        found = self.log.append(make_all, self.clock() if now is None else now)
        for entry in found[folded:]:
            self.fleet.apply(entry)
        return found

    def compact(self, least: int | None = None) -> list[Entry]:
        """Begin a new file of the trail with a checkpoint, if there are many lines since the last.

        Args:
            least: So many lines; by default 20,000, or eight for each device if that is more.

        Returns:
            All lines that are new since the last look.

        Raises:
            LoadError: If a line does not verify.
            WriteError: If it cannot be written; the trail is as before.
        """
        if least is None:
            least = max(SEGMENT, 8 * len(self.fleet.devices))
        if self.log.lines < least:
            return []
        folded = 0

        def make(entries: Sequence[Entry]) -> Event:
            nonlocal folded
            for entry in entries:
                self.fleet.apply(entry)
            folded = len(entries)
            return self.fleet.checkpoint()

        found = self.log.checkpoint(make, self.clock())
        for entry in found[folded:]:
            self.fleet.apply(entry)
        return found

    def push(self, file: str | Path, by: str | None = None, **options: Any) -> Plan:
        """Check an executor file, copy it into the folder, and begin a rollout.

        Where the folder has a root.json, the file's proof has to hold.

        Args:
            file: The executor file; its proof lies beside it.
            by: Who asks; by default the user at this machine.
            options: Further fields of `Plan`: waves, sample, abort, limit, back.

        Raises:
            BundleError: If it is not an executor file, or gives something else here than where it
                was made.
            ConfigError: If another rollout is running, or an option is invalid.
            SignatureError: If its proof does not hold.
        """
        path = Path(file)
        data = read_file(path, _LARGEST_FILE)
        digest = hashlib.sha256(data).hexdigest()
        # What could not be said to a device is not pushed.
        Desired(1, "apply", digest, path.name, blob(data)[0])
        try:
            from_bytes(data)
        except BundleError as error:
            raise BundleError(f"{path}: {error}", error.reason) from error
        proof, signed = self._proof(path, data)
        plan = Plan(
            digest=digest,
            name=path.name,
            size=len(data),
            proof=hashlib.sha256(proof).hexdigest() if proof else "",
            signed=signed,
            **options,
        )
        self._keep(data)
        if proof:
            self._keep(proof)

        def begin(fleet: Fleet) -> Sequence[Event]:
            rollout = fleet.rollout
            if rollout is not None and rollout.course == "running":
                raise ConfigError(
                    f"The rollout of {rollout.plan.name} {rollout.plan.digest[:12]} is running. "
                    f"Wait for its end, or give it up: agentkd fleet pause {self.folder}."
                )
            return [push_event(plan, by or whoami())]

        self.change(begin)
        return plan

    def command(self, what: Literal["pause", "resume", "rollback"], by: str | None = None) -> None:
        """Pause, resume or roll back the newest rollout.

        Raises:
            ConfigError: If it does not fit the state.
        """
        self.change(lambda fleet: [command(fleet, what, by or whoami())])

    def blob(self, digest: str, chunk: int = CHUNK) -> tuple[Blob, list[bytes]]:
        """Return a kept file in chunks.

        Raises:
            LoadError: If it is missing or was changed.
        """
        path = self.folder / FILES / digest
        data = read_file(path, _LARGEST_FILE)
        if hashlib.sha256(data).hexdigest() != digest:
            raise LoadError(f"{path} is not what was pushed. Push the executor file again.")
        return blob(data, chunk)

    def _proof(self, path: Path, data: bytes) -> tuple[bytes, str]:
        """Return the bytes of a file's proof, and what it says if the folder has a root.json."""
        root, beside = self.folder / ROOT, proof_path(path)
        proof = read_file(beside, LARGEST) if beside.exists() else b""
        if not root.exists():
            if proof:
                proof_from_bytes(proof, beside)
            return proof, ""
        if not proof:
            raise SignatureError(
                f"{path} is unsigned: there is no {beside.name} beside it. Sign it: agentkd keys "
                f"sign REPOSITORY {path}.",
                "unsigned",
            )
        trust = TrustStore(root, self.folder / MEMORY)
        return proof, str(trust.check(data, proof_from_bytes(proof, beside), path))

    def _keep(self, data: bytes) -> None:
        write_atomic(self.folder / FILES / hashlib.sha256(data).hexdigest(), data)


def whoami() -> str:
    """Return the user and the machine, for the trail."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"[:120]


def told(event: Event) -> str:
    """Say an event in a line."""
    found = defaultdict(str, event)
    what = str(found["what"])
    if what == "device":
        state = "on line" if found["online"] else "off line"
        why = f", {found['reason']}: {found['text']}" if found["reason"] else ""
        digest = str(found["digest"])[:12]
        return " ".join(f"{found['device']} {found['phase']} {digest} {state}{why}".split())
    if what == "push":
        waves = json.dumps(found["waves"])
        signed = found["signed"] or "signature not checked"
        return (
            f"push {found['name']} {str(found['digest'])[:12]}, {found['size']} bytes, {signed}, "
            f"waves {waves}, by {found['by']}"
        )
    if what == CHECKPOINT:
        return f"checkpoint of {len(found['state']['devices']):,} devices"
    if what == "clock":
        return f"the server's clock was set on by {found['by']:,.0f} s; limits go on as before"
    if what == "timed-out":
        return f"took too long: {json.dumps(found['devices'])[1:-1]}"
    rest = {"abort": "text", "created": "site"}.get(what, "by")
    which = f" {found['index'] + 1}" if isinstance(found["index"], int) else ""
    return f"{what}{which} {found[rest]}".rstrip()
