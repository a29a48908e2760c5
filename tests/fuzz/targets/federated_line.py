"""What is said on a line of federated distillation, and what a server keeps of its rounds."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from agentkd.distillation.federated.kept import Kept, Round, read_kept, write_kept
from agentkd.distillation.federated.wire import Offer, Receiving, read_offer
from agentkd.errors import LoadError
from agentkd.transport.blobs import blob, packed
from tests.fuzz import mutate
from tests.fuzz.archives import tensors
from tests.fuzz.draw import Draw
from tests.fuzz.target import Files, Target

_CHUNK = 64
_DATA = bytes(range(256))
_OPTIONS = {"mode": "weights", "clients": ["one"]}
_ROUNDS = (Round(1, ("one",), {"two": "late"}, 10, 20),)


def build_offer(draw: Draw) -> Files:
    """Make an offer, and chunks of which most are right."""
    file, chunks = blob(_DATA, _CHUNK)
    made = Offer(file.digest, file) if draw.chance(2) else Offer(file.digest, failed="OSError")
    found: dict[str, Any] = {"x": mutate.document(draw, json.loads(packed(made)))}
    for index, chunk in enumerate(chunks):
        head = bytes.fromhex(file.digest) + index.to_bytes(4, "big")
        raw = head + chunk
        found[f"chunks/{index}"] = mutate.octets(draw, raw) if draw.chance(4) else raw
    return found


def read_told(folder: Path) -> tuple[Path, Offer]:
    """Read it."""
    return folder, read_offer((folder / "x").read_bytes())


def work_offer(found: tuple[Path, Offer]) -> None:
    """Write it again; take chunks, of which nothing but what was offered can come."""
    folder, offer = found
    assert read_offer(packed(offer)) == offer
    if offer.file is None:
        return
    receiving = Receiving(offer)
    for path in sorted((folder / "chunks").glob("*")):
        if receiving.put(path.read_bytes()):
            assert receiving.whole() in (None, _DATA)
    assert receiving.need.digest == offer.file.digest


def build_kept(draw: Draw) -> Files:
    """Change what a server keeps."""
    return {"x": tensors(draw, _kept())}


@cache
def _kept() -> bytes:
    with TemporaryDirectory(prefix="fuzz-") as name:
        path = Path(name) / "kept"
        numbers = np.arange(3, dtype=np.float32)
        write_kept(path, Kept(7, numbers, np.ones(5, np.float32), _ROUNDS), _OPTIONS)
        return path.read_bytes()


def read(folder: Path) -> Kept:
    """Read it as the next start does."""
    found = read_kept(folder / "x", _OPTIONS, (3,), 5)
    if found is None:
        raise LoadError("no file")
    return found


def work_kept(found: Kept) -> None:
    """Its numbers are numbers, of the shapes that were asked for."""
    assert found.numbers.shape == (3,)
    assert np.isfinite(found.vector).all()
    assert [each.number for each in found.rounds] == list(range(1, len(found.rounds) + 1))


OFFER = Target("federated-offer", build_offer, read_told, work_offer)
KEPT = Target("federated-kept", build_kept, read, work_kept)
