"""What a device trusts: an anchor, and what it has seen signed so far.

The anchor is a `root.json` that was copied to the device by hand. From it python-tuf's client
follows the chain of roots, and checks timestamp, snapshot and targets: thresholds, versions that
only grow, expiry. What it has seen is kept in one file, so that nothing older is accepted later.

Time on a device without a clock: the timestamp says when it was signed. A device takes the later of
its own clock and the newest signed time that it has seen. A device whose clock stands still thus
refuses what had expired by then; it cannot notice that newer metadata are kept from it.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final, get_args

from agentkd.errors import (
    AgentkdError,
    ConfigError,
    LoadError,
    SignatureError,
    SignatureReason,
    WriteError,
)
from agentkd.extras import needing
from agentkd.fields import Fields, parse_json
from agentkd.files import read_file, reason, write_atomic
from agentkd.printable import printable
from agentkd.signing.apart import ask, sent, unkept
from agentkd.signing.fetching import Read, reader
from agentkd.signing.proof import LARGEST, METADATA, Proof

SIGNED_AT = "x-agentkd-signed"
"""The field of a timestamp that tells when it was signed."""
SERIAL = "serial"
"""The field of a target that tells with which version of the targets it was signed."""
WORK = ".proof-"
"""What the temporary folders in a device's folder begin with."""
_FORMAT, _SCHEMA = "agentkd.trust", 1
_ROLES = ("timestamp", "snapshot", "targets")
_CACHED = {f"{role}.json" for role in _ROLES}
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Signed:
    """What a valid signature says of a file."""

    name: str
    """What it was signed as."""
    serial: int
    """Grows with each signing in a repository; 0 if unknown."""
    root: int
    """The version of the root that was reached."""
    expires: datetime
    """Until when the metadata are valid, UTC; the earliest of them."""

    def __str__(self) -> str:
        return (
            f"signed as {self.name}, serial {self.serial}, root {self.root}, "
            f"until {self.expires:%Y-%m-%d %H:%M} UTC"
        )


@final
class TrustStore:
    """Checks signatures against an anchor.

    Args:
        anchor: A `root.json` that is trusted because you put it there.
        memory: The file in which what was seen is kept, against rollbacks; it is made by the first
            check. None to remember nothing: then an old file is accepted until it expires.
        apart: Let `check` run in a process of its own, which takes 0.3 s and as many MB as this one
            saves for good: python-tuf and cryptography are not loaded here.

    Raises:
        SignatureError: If the anchor cannot be read.
    """

    def __init__(
        self, anchor: str | Path, memory: str | Path | None = None, *, apart: bool = False
    ) -> None:
        self.anchor, self._apart = Path(anchor), apart
        self._memory = None if memory is None else Path(memory)
        try:
            self._root = read_file(self.anchor, LARGEST)
        except LoadError as error:
            raise SignatureError(
                f"{error} Give the root.json of the repository that signs for this device, "
                "metadata/1.root.json.",
                "missing",
            ) from error

    def remembering(self, memory: Path) -> TrustStore:
        """Return the same trust, with a memory if it has none."""
        if self._memory is not None:
            return self
        return TrustStore(self.anchor, memory, apart=self._apart)

    def check(self, data: bytes, proof: Proof, what: object = "The file") -> Signed:
        """Check the signature of a file's bytes.

        Raises:
            SignatureError: If it does not hold; `reason` says why.
            WriteError: If what was verified cannot be kept, or no other process can check it.
        """
        if self._apart:
            return self._check_apart(data, proof, what)

        def read(name: str, _: int) -> bytes:
            return proof.files[name.removeprefix("metadata/")]

        digest = hashlib.sha256(data).hexdigest()
        with self._refreshed(read, what) as (targets, signed):
            found = []
            for name, target in targets.items():
                if target.hashes.get("sha256") == digest:
                    target.verify_length_and_hashes(data)
                    found.append(signed(name, target))
            if found:
                # One file may be signed under several names; the newest signature counts.
                return max(found, key=lambda each: each.serial)
        raise SignatureError(
            f"{what} is not the file that was signed: no signed file has the SHA-256 {digest}. "
            "Copy it again together with its proof, or sign it: agentkd keys sign.",
            "digest",
        )

    def _check_apart(self, data: bytes, proof: Proof, what: object) -> Signed:
        """Check a signature in another process, and keep here what it verified."""
        memory, before = self._memory, self._remembered()
        question = {
            "anchor": sent(self.anchor),
            "root": before.anchor,
            "memory": before.to_bytes().decode() if before.files else "",
            "place": "" if memory is None else sent(memory.parent),
            "proof": {name: each.decode("latin-1") for name, each in proof.files.items()},
            "what": printable(str(what)),
        }
        answer = ask(question, data, what)
        try:
            text = answer.text("memory").encode()
            if memory is not None and text and text != before.to_bytes():
                self._write(before, text)
            if "error" not in answer:
                expires = datetime.fromisoformat(answer.text("expires"))
                return Signed(
                    answer.text("name"), answer.whole("serial"), answer.whole("root"), expires
                )
            kind, told = answer.text("error"), answer.text("text")
        except (LoadError, ValueError) as error:
            raise WriteError(f"The signature of {what} could not be checked: {error}") from error
        for each in get_args(SignatureReason):
            if kind == each:
                raise SignatureError(told, each)
        raise (ConfigError if kind == "config" else WriteError)(told)

    def fetch(self, address: str, name: str, most: int) -> tuple[bytes, Signed]:
        """Fetch a signed file, of `most` bytes at most, from a repository.

        Args:
            address: The repository: a folder, or an address that begins with http:// or https://.
            name: What the file was signed as.
            most: Bytes.

        Raises:
            SignatureError: If it is not there, or its signature does not hold.
        """
        read = reader(address)
        with self._refreshed(read, address) as (targets, signed):
            target = targets.get(name)
            if target is None:
                raise SignatureError(
                    f"{address} has no signed {name!r}; it has {', '.join(sorted(targets)[:8])}.",
                    "missing",
                )
            digest = str(target.hashes.get("sha256", ""))
            if not _DIGEST.fullmatch(digest):
                raise SignatureError(f"{name} is signed without its SHA-256.", "digest")
            if target.length > most:
                raise SignatureError(
                    f"{name} has {target.length:,} bytes; at most {most:,} are read.", "large"
                )
            try:
                data = read(f"targets/{digest}.{name}", target.length)
            except FileNotFoundError as error:
                raise SignatureError(
                    f"{address} has no targets/{digest}.{name}, which is signed. Copy the whole "
                    "repository again.",
                    "missing",
                ) from error
            target.verify_length_and_hashes(data)
            return data, signed(name, target)

    @contextmanager
    def _refreshed(
        self, read: Read, what: object
    ) -> Iterator[tuple[Mapping[str, Any], Callable[[str, Any], Signed]]]:
        """Follow the metadata; give the signed targets, and what makes a `Signed` of one."""
        with needing("Checking a signature"):
            import cryptography  # noqa: F401 (python-tuf names it only when it verifies)
            from tuf.ngclient import Updater
        remembered = self._remembered()
        place = None if self._memory is None else self._memory.parent
        try:
            with tempfile.TemporaryDirectory(prefix=WORK, dir=place) as folder:
                work = Path(folder)
                _lay_out(remembered.files, work)
                source: Any = _Source(read)
                with _refused(what, self.anchor):
                    try:
                        updater = Updater(folder, "metadata", fetcher=source, bootstrap=self._root)
                        updater.refresh()
                    finally:
                        # What was verified counts against a rollback, whatever failed after it.
                        earliest = self._keep(remembered, work)
                    yield _judged(work, earliest, what)
        except OSError as error:
            raise unkept(what, place, error) from error

    def _remembered(self) -> _Memory:
        """Return what was seen so far."""
        anchor = hashlib.sha256(self._root).hexdigest()
        if self._memory is None or not self._memory.exists():
            return _Memory(anchor, {}, None)
        try:
            return _read_memory(self._memory, anchor)
        except (LoadError, ValueError) as error:
            raise SignatureError(
                f"{error} It guards against old files. If it is lost for good, remove it: then "
                "what was signed before is accepted until it expires.",
                "damaged",
            ) from error

    def _keep(self, before: _Memory, work: Path) -> datetime | None:
        """Keep what python-tuf has verified; return the newest signed time."""
        files = {f"{role}.json": work / f"{role}.json" for role in _ROLES}
        files |= {each.name: each for each in (work / "root_history").glob("*.root.json")}
        found = {name: path.read_bytes() for name, path in files.items() if path.is_file()}
        after = _Memory(before.anchor, found, _newest_time(before, work))
        if self._memory is not None and after != before:
            data = after.to_bytes()
            if len(data) > LARGEST:
                # What could not be read again would refuse every update for ever.
                raise SignatureError(
                    f"The metadata take {len(data):,} bytes in {self._memory}; at most "
                    f"{LARGEST:,} are kept. Nothing was accepted. If the repository is as its "
                    "signer left it, sign fewer files in it.",
                    "large",
                )
            self._write(before, data)
        return after.earliest

    def _write(self, before: _Memory, data: bytes) -> None:
        """Remember; what another check has kept meanwhile may be newer, and stays."""
        assert self._memory is not None
        now = self._remembered()
        if now.files and now != before and now.to_bytes() != data:
            raise WriteError(
                f"Another check kept what it verified in {self._memory} meanwhile. Nothing was "
                "accepted. Try again."
            )
        write_atomic(self._memory, data, hint="Nothing was accepted.")


@dataclass(frozen=True, slots=True)
class _Memory:
    """Verified metadata by the names that the client gives them."""

    anchor: str
    files: Mapping[str, bytes]
    earliest: datetime | None
    """The newest signed time that was seen."""

    def to_bytes(self) -> bytes:
        told = {
            "format": _FORMAT,
            "schema": _SCHEMA,
            "anchor": self.anchor,
            "earliest": "" if self.earliest is None else self.earliest.isoformat(),
            "files": {name: data.decode() for name, data in sorted(self.files.items())},
        }
        return json.dumps(told, indent=1).encode()


def _read_memory(path: Path, anchor: str) -> _Memory:
    """Read what was kept; what another anchor has seen is not this one's."""
    text = read_file(path, LARGEST)
    fields = Fields(parse_json(text, path, limit=LARGEST), str(path))
    if (fields.text("format"), fields.whole("schema")) != (_FORMAT, _SCHEMA):
        raise LoadError(f"{path} is not a {_FORMAT} of schema {_SCHEMA}.")
    held, time = fields.fields("files"), fields.text("earliest")
    names = list(fields.get("files"))
    if fields.text("anchor") != anchor:
        return _Memory(anchor, {}, None)
    files = {
        each: held.text(each).encode()
        for each in names
        if METADATA.fullmatch(each) or each in _CACHED
    }
    return _Memory(anchor, files, datetime.fromisoformat(time) if time else None)


@final
class _Source:
    """What python-tuf's client fetches with."""

    def __init__(self, read: Read) -> None:
        self._read = read

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """Return a file of metadata; what is no JSON within limits goes no further."""
        from tuf.api.exceptions import DownloadHTTPError, DownloadLengthMismatchError

        name = url.rpartition("/")[2]
        try:
            data = self._read(f"metadata/{name}", max_length)
        except (KeyError, FileNotFoundError) as error:
            raise DownloadHTTPError(f"there is no {name}", 404) from error
        if len(data) > max_length:
            raise DownloadLengthMismatchError(f"{name} is longer than {max_length:,} bytes")
        parse_json(data, name)
        return data


def _lay_out(files: Mapping[str, bytes], work: Path) -> None:
    """Write what was seen where python-tuf's client looks for it."""
    history = work / "root_history"
    history.mkdir()
    for name, data in files.items():
        place = history if METADATA.fullmatch(name) and "root" in name else work
        (place / name).write_bytes(data)


def _metadata(data: bytes) -> Any:
    from tuf.api.metadata import Metadata

    return Metadata.from_bytes(data)


def _newest_root(work: Path) -> Any:
    """Return the newest root that was verified, None before the first."""
    found = (work / "root_history").glob("*.root.json")
    newest = max(found, key=lambda path: int(path.name.partition(".")[0]), default=None)
    return None if newest is None else _metadata(newest.read_bytes()).signed


def _newest_time(before: _Memory, work: Path) -> datetime | None:
    """Return the newest signed time of all timestamps that were seen.

    What a timestamp says counts until the root takes its keys away: so a stolen key that signed for
    a far future is made good by a rotation.
    """
    path, root = work / "timestamp.json", _newest_root(work)
    if root is None or not path.is_file():
        return before.earliest
    timestamp = _metadata(path.read_bytes())
    told = timestamp.signed.unrecognized_fields.get(SIGNED_AT)
    now = datetime.fromisoformat(told).astimezone(UTC) if isinstance(told, str) else None
    former = before.files.get("timestamp.json")
    if before.earliest is None or now is None or former is None:
        return now or before.earliest
    known = _metadata(former)
    signed = root.get_verification_result("timestamp", known.signed_bytes, known.signatures)
    return max(now, before.earliest) if signed else now


def _judged(
    work: Path, earliest: datetime | None, what: object
) -> tuple[Mapping[str, Any], Callable[[str, Any], Signed]]:
    """Hold the verified metadata against the newest signed time."""
    held = {"root": _newest_root(work)}
    held |= {role: _metadata((work / f"{role}.json").read_bytes()).signed for role in _ROLES}
    now = datetime.now(UTC)
    least = now if earliest is None else max(now, earliest)
    for role, each in held.items():
        if each.is_expired(least):
            raise SignatureError(
                f"{what}: its {role} expired on {_time(each.expires)}. The clock says {_time(now)}"
                f", and the newest signed time seen here is {_time(least)}. {_EXPIRED}",
                "expired",
            )
    expires = min(each.expires for each in held.values())

    def signed(name: str, target: Any) -> Signed:
        custom = target.custom if isinstance(target.custom, Mapping) else {}
        serial = Fields(custom, "The target's custom fields").whole(SERIAL, 0)
        return Signed(name, serial, held["root"].version, expires)

    return held["targets"].targets, signed


def _time(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"


_RENEW = "Sign again (agentkd keys sign REPOSITORY FILE) and copy the file with its new proof."
_EXPIRED = f"If it is the root, first: agentkd keys renew REPOSITORY. {_RENEW}"


@contextmanager
def _refused(what: object, anchor: Path) -> Iterator[None]:
    """Turn what python-tuf raises into a `SignatureError` that says why."""
    from tuf.api import exceptions as tuf

    try:
        yield
    except (AgentkdError, OSError) as error:
        if isinstance(error, (SignatureError, WriteError, OSError)):
            raise
        raise SignatureError(f"{what}: {error}", "damaged") from error
    except Exception as error:  # hostile metadata raise nearly anything
        text, why = f"{what}: {reason(error)}. ", _why(error, tuf)
        remedy = {
            "signature": f"Only what the keys of {anchor} have signed is accepted.",
            "expired": f"{_EXPIRED} If this device's clock is wrong, set it.",
            "rollback": f"What is older than what this device has seen is refused. {_RENEW}",
            "missing": "Copy the proof again, or the whole repository.",
        }
        raise SignatureError(text + remedy.get(why, _RENEW), why) from error


def _why(error: Exception, tuf: Any) -> SignatureReason:
    """Name the reason of what python-tuf raised."""
    kinds: tuple[tuple[type[Exception], SignatureReason], ...] = (
        (tuf.UnsignedMetadataError, "signature"),
        (tuf.ExpiredMetadataError, "expired"),
        (tuf.BadVersionNumberError, "rollback"),
        (tuf.LengthOrHashMismatchError, "digest"),
        (tuf.DownloadLengthMismatchError, "large"),
        (tuf.DownloadError, "missing"),
    )
    return next((why for kind, why in kinds if isinstance(error, kind)), "damaged")


Trusting = str | Path | TrustStore
"""A `root.json`, or what was made of it."""


def trust_store(trust: Trusting) -> TrustStore:
    """Return a trust as a store; a path is that of a `root.json`."""
    return trust if isinstance(trust, TrustStore) else TrustStore(trust)
