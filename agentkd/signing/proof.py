"""The proof of a file: signed metadata in one JSON document that lies beside the file.

`executor.akd.proof` proves `executor.akd`. It holds the TUF metadata of the repository that signed
the file, so that a device checks the file without a network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agentkd.errors import LoadError, SignatureError
from agentkd.fields import Fields, parse_json
from agentkd.files import loading, read_file

FORMAT = "agentkd.proof"
SCHEMA = 1
SUFFIX = ".proof"
LARGEST = 1 << 22
"""Bytes of a proof that are read at most."""
MOST_ROOTS = 257
"""Roots that a device follows with the one it trusts; the limit of python-tuf's client."""
_MOST_FILES = MOST_ROOTS + 3
METADATA = re.compile(r"(?:\d{1,9}\.(?:root|snapshot|targets)|timestamp)\.json")
"""The names of metadata files in a repository with consistent snapshots."""


@dataclass(frozen=True, slots=True)
class Proof:
    """Signed metadata, by the names that it has in a repository."""

    files: Mapping[str, bytes]

    def to_bytes(self) -> bytes:
        """Return the proof as the bytes of a file."""
        texts = {name: data.decode() for name, data in sorted(self.files.items())}
        told = {"format": FORMAT, "schema": SCHEMA, "metadata": texts}
        return json.dumps(told, indent=1).encode()


def proof_path(file: str | Path) -> Path:
    """Return where the proof of a file lies: beside it."""
    path = Path(file)
    return path.with_name(path.name + SUFFIX)


def read_proof(file: str | Path) -> Proof:
    """Read the proof of a file; nothing in it is checked but its form.

    Raises:
        SignatureError: If there is none ("unsigned"), or it is damaged.
    """
    path = proof_path(file)
    if not path.exists():
        raise SignatureError(
            f"{file} is unsigned: there is no {path.name} beside it. Sign it with agentkd keys "
            "sign REPOSITORY FILE, and copy both files.",
            "unsigned",
        )
    try:
        return proof_from_bytes(read_file(path, LARGEST), path)
    except LoadError as error:
        raise SignatureError(str(error), "damaged") from error


def proof_from_bytes(data: bytes, what: object = "The proof") -> Proof:
    """Read the bytes of a proof.

    Raises:
        LoadError: If they are not a proof.
    """
    with loading(what):
        fields = Fields(parse_json(data, what, limit=LARGEST), "The proof")
        if (fields.text("format"), fields.whole("schema")) != (FORMAT, SCHEMA):
            raise LoadError(f"it is not a {FORMAT} of schema {SCHEMA}")
        held = fields.fields("metadata")
        names = list(fields.get("metadata"))
        if len(names) > _MOST_FILES:
            raise LoadError(f"{len(names)} files of metadata; at most {_MOST_FILES} are read")
        strange = [name for name in names if not METADATA.fullmatch(name)]
        if strange:
            raise LoadError(f"{strange[0][:80]!r} is no name of metadata")
        return Proof({name: held.text(name).encode() for name in names})
