"""Checks one signature for another process; see `agentkd.signing.apart`.

The first line of the standard input is the question, as JSON; what is signed follows. The answer is
JSON: what the signature says, or the error; and what is to be remembered.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from agentkd.errors import AgentkdError, ConfigError, LoadError, SignatureError, WriteError
from agentkd.fields import Fields, parse_json
from agentkd.files import read_file, write_atomic
from agentkd.signing.apart import received, unkept
from agentkd.signing.proof import LARGEST, Proof
from agentkd.signing.store import WORK, TrustStore


def main() -> None:
    """Answer the question on the standard input."""
    question = Fields(parse_json(sys.stdin.buffer.readline(), "the question"), "the question")
    answer = _answer(question, sys.stdin.buffer.read())
    sys.stdout.write(json.dumps(answer))


def _answer(question: Fields, data: bytes) -> dict[str, Any]:
    files = question.fields("proof")
    proof = Proof({name: files.text(name).encode("latin-1") for name in question.get("proof")})
    what = question.text("what")
    place = received(question.text("place")) if question.text("place") else None
    answer: dict[str, Any] = {"memory": ""}
    try:
        with tempfile.TemporaryDirectory(prefix=WORK, dir=place) as work:
            memory = Path(work) / "trust.json" if place else None
            if memory is not None and question.text("memory"):
                write_atomic(memory, question.text("memory"), hint="Nothing was accepted.")
            try:
                signed = _store(question, memory).check(data, proof, what)
            finally:
                if memory is not None and memory.exists():
                    answer["memory"] = memory.read_text()
    except (LoadError, WriteError, ConfigError) as error:
        return answer | {"error": _kind(error), "text": str(error)}
    except OSError as error:
        return answer | {"error": "unwritten", "text": str(unkept(what, place, error))}
    return answer | {
        "name": signed.name,
        "serial": signed.serial,
        "root": signed.root,
        "expires": signed.expires.isoformat(),
    }


def _store(question: Fields, memory: Path | None) -> TrustStore:
    """Return the same trust as the one that asks."""
    anchor = received(question.text("anchor"))
    if hashlib.sha256(read_file(anchor, LARGEST)).hexdigest() != question.text("root"):
        raise SignatureError(f"{anchor} changed while a program ran. Start it again.", "damaged")
    return TrustStore(anchor, memory)


def _kind(error: AgentkdError) -> str:
    if isinstance(error, LoadError):
        return error.reason if isinstance(error, SignatureError) else "missing"
    return "config" if isinstance(error, ConfigError) else "unwritten"
