"""Key files of a fleet's server: Ed25519, private ones readable by their owner alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from agentkd.errors import ConfigError, LoadError, WriteError
from agentkd.extras import needing
from agentkd.files import loading, read_file, sync


def write_private(path: Path, data: bytes) -> None:
    """Write a private key, whole or not at all, in a file of mode 0600 that was not there.

    Raises:
        WriteError: If it cannot be written.
    """
    fresh = path.with_name(f".{os.urandom(8).hex()}.tmp")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(fresh, flags, 0o600), "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            # Unlike a rename, a link replaces nothing.
            os.link(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
        sync(path.parent)
    except OSError as error:
        raise WriteError(
            f"{path} could not be written: {error.strerror or error}. A key is never written over "
            "another one."
        ) from error


def read_private(path: Path) -> Any:
    """Read an Ed25519 private key that its owner alone may read.

    Raises:
        ConfigError: If others may read it.
        LoadError: If it is none.
    """
    with needing("A fleet's audit trail"):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    with loading(path, keep=(ConfigError,)):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise ConfigError(
                f"{path} may be read by others than its owner (mode {mode:o}): chmod 600 {path}."
            )
        found = load_pem_private_key(read_file(path, 1 << 16), None)
        if not isinstance(found, Ed25519PrivateKey):
            raise LoadError(f"{path} is not an Ed25519 key.")
        return found


def read_public(path: Path) -> Any:
    """Read an Ed25519 public key.

    Raises:
        LoadError: If it is none.
    """
    with needing("A fleet's audit trail"):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    with loading(path):
        found = load_pem_public_key(read_file(path, 1 << 16))
        if not isinstance(found, Ed25519PublicKey):
            raise LoadError(f"{path} is not an Ed25519 public key.")
        return found
