"""What a device keeps, and what is signed: metadata by keys that are trusted, and still hostile."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from agentkd.device import Device, State
from agentkd.device.state import Candidate, Held, Outcome, read_state, to_json, write_state
from agentkd.errors import DeviceError
from agentkd.signing.proof import Proof, proof_from_bytes
from agentkd.signing.store import Signed, TrustStore
from tests.fuzz import mutate
from tests.fuzz.draw import Draw
from tests.fuzz.target import Files, Target
from tests.signing import DATA, Signer, named

_HELD = Held("a", "0" * 64, "first.akd", "signed as first.akd", 3)
_STATES = (
    State(),
    State(_HELD, last=Outcome("0" * 64, "first.akd", "CONFIRMED", "", "It was confirmed.")),
    State(
        _HELD,
        Held("b", "1" * 64, "second.akd"),
        Candidate(Held("b", "2" * 64, "third.akd"), "TRIAL", 2),
        blacklist={"3" * 64: "The scores fell."},
    ),
)
_ROLES = ("root", "targets", "snapshot", "timestamp")


def build_state(draw: Draw) -> Files:
    """Make a device's state."""
    told = {"format": "agentkd.device", "schema": 1, **to_json(draw.choice(_STATES))}
    return {"device/state.json": mutate.document(draw, told)}


def read(folder: Path) -> tuple[Device, State]:
    """Read it."""
    device = Device(folder / "device")
    return device, device.status()


def work(found: tuple[Device, State]) -> None:
    """Write it again; nothing lies in the slots, which is said."""
    device, state = found
    write_state(device.path, state)
    assert read_state(device.path) == state
    for act in (device.executor, device.begin, device.confirm, device.rollback):
        try:
            act()
        except DeviceError:
            continue


@cache
def _signed() -> tuple[bytes, Files, dict[str, Any]]:
    """Return an anchor, a valid proof, and the keys by role, made once."""
    with TemporaryDirectory() as folder:
        signer = Signer(Path(folder))
        files = signer.sign()
        return signer.root.read_bytes(), files, {role: signer.keys(role)[0] for role in _ROLES}


def build_proof(draw: Draw) -> Files:
    """Make a proof: its metadata are changed and signed again, or the proof itself is."""
    from securesystemslib.formats import encode_canonical

    anchor, files, keys = _signed()
    found = dict(files)
    role = draw.choice(_ROLES)
    name = named(found, role)
    told = json.loads(found[name])
    try:
        told["signed"] = json.loads(mutate.document(draw, told["signed"]))
        text = encode_canonical(told["signed"])
        assert text is not None
        signature = keys[role].sign(text.encode())
        told["signatures"] = [{"keyid": signature.keyid, "sig": signature.signature}]
        data = json.dumps(told).encode()
    except Exception:  # it cannot be signed
        data = mutate.document(draw, told)
    found["2.root.json" if role == "root" else name] = data
    whole: dict[str, Any] = {"format": "agentkd.proof", "schema": 1}
    whole["metadata"] = {each: text.decode("utf-8", "replace") for each, text in found.items()}
    proof = mutate.document(draw, whole) if draw.chance(8) else json.dumps(whole).encode()
    return {"root.json": anchor, "e.akd.proof": proof}


def read_signed(folder: Path) -> tuple[Path, Proof, Signed]:
    """Check the signature."""
    proof = proof_from_bytes((folder / "e.akd.proof").read_bytes())
    return folder, proof, TrustStore(folder / "root.json", folder / "trust").check(DATA, proof)


def work_signed(found: tuple[Path, Proof, Signed]) -> None:
    """Check it again with what was remembered, and show it."""
    folder, proof, signed = found
    assert TrustStore(folder / "root.json", folder / "trust").check(DATA, proof) == signed
    assert str(signed)


STATE = Target("device", build_state, read, work)
PROOF = Target("proof", build_proof, read_signed, work_signed)
