"""An update for the gate of a microcontroller: an executor with golden vectors, signed.

    python -m examples.firmware.package executor.akd -o update.akp --key targets.pem
    python -m examples.firmware.package --public targets.pem

The second prints the public key as the firmware's `make GATE_KEY=` takes it. Little endian, 32-bit
words: "AKP1", format 1, bytes before the signature, CRC-32 of those after this word, serial, 64
bits of the SHA-256 of spec and contract, golden vectors, words in each, bytes of model.akx, six
spare ones; then the golden vectors, each an observation, the last layer's numbers and, unless they
are choices, the action's; then model.akx; zeros up to a multiple of 32; then 64 bytes of an Ed25519
signature of all before, or zeros.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import struct
import sys
import time
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from agentkd import read_bundle
from agentkd.deploy.akx import to_akx
from agentkd.deploy.bundle import Bundle
from agentkd.deploy.contract import Contract
from agentkd.errors import AgentkdError, ConfigError
from agentkd.extras import needing
from agentkd.files import write_atomic
from agentkd.spec import BoxSpec, Spec
from agentkd.spec_json import to_json
from agentkd.views import environment

ALIGN, SIGNATURE = 32, 64
_ROWS = 16
"""Golden vectors; of an executor that remembers, the first steps of an episode."""


def contract_id(spec: Spec, contract: Contract) -> bytes:
    """Return the eight bytes by which a device tells what an executor is for."""
    period = "" if contract.period is None else f"{contract.period:.3g}"
    told = {"spec": to_json(environment(spec)), **asdict(contract), "period": period}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).digest()[:8]


def to_package(bundle: Bundle, serial: int, key: Any = None) -> bytes:
    """Write an executor as an update.

    Args:
        bundle: The executor's file.
        serial: Grows with each signing; a device takes nothing older than what acts.
        key: An Ed25519 private key of `cryptography`; None for zeros in place of a signature.

    Raises:
        AgentkdError: If the executor does not fit into a model.akx.
    """
    executor, golden = bundle.executor, bundle.golden
    rows = slice(0, _ROWS)
    if executor.memory:
        begins = np.flatnonzero(golden["starts"])
        rows = slice(0, min([_ROWS, *begins[begins > 0]]))
    parts = [golden["obs"][rows], golden["outputs"][rows]]
    if isinstance(executor.spec.action, BoxSpec):
        parts.append(golden["actions"][rows])
    vectors = np.concatenate([each.reshape(len(parts[0]), -1) for each in parts], axis=1)
    model = to_akx(executor)
    body = vectors.astype("<f4").tobytes() + model
    body += bytes(-len(body) % ALIGN)
    tail = (
        struct.pack(
            "<I8s3I24x",
            serial,
            contract_id(executor.spec, bundle.contract),
            *(*vectors.shape, len(model)),
        )
        + body
    )
    data = struct.pack("<4s3I", b"AKP1", 1, 16 + len(tail), zlib.crc32(tail)) + tail
    return data + (bytes(SIGNATURE) if key is None else bytes(key.sign(data)))


def read_key(path: Path) -> Any:
    """Read an Ed25519 private key in PEM, such as `agentkd keys new` makes.

    Raises:
        ConfigError: If it is not one.
    """
    with needing("Signing updates"):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} is not a private key in PEM: {error}.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} is a {type(key).__name__}, not an Ed25519 key.")
    return key


def public_bytes(key: Any) -> str:
    """Return the public key, as bytes of C."""
    return ",".join(str(each) for each in key.public_key().public_bytes_raw())


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("executor", type=Path, nargs="?", help="the executor file")
    parser.add_argument("-o", "--out", type=Path, default=Path("update.akp"))
    parser.add_argument("--key", type=Path, help="the private key; without one it is unsigned")
    parser.add_argument("--serial", type=int, help="by default the seconds since 1970")
    parser.add_argument("--public", type=Path, metavar="KEY", help="print its public key")
    try:
        print(_told(parser.parse_args()))
    except AgentkdError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _told(options: argparse.Namespace) -> str:
    """Do what the options ask for; return what to print."""
    if options.public is not None:
        return public_bytes(read_key(options.public))
    if options.executor is None:
        raise ConfigError("Which executor? Give its file.")
    serial = int(time.time()) if options.serial is None else options.serial
    if not 0 <= serial < 2**32:
        raise ConfigError(f"--serial is {serial}; it has to be from 0 to 4294967295.")
    key = None if options.key is None else read_key(options.key)
    data = to_package(read_bundle(options.executor), serial, key)
    write_atomic(options.out, data)
    return f"{options.out}: {len(data):,} bytes, {'unsigned' if key is None else 'signed'}"


if __name__ == "__main__":
    sys.exit(main())
