"""Private keys: Ed25519, a file each, readable by their owner alone."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentkd.errors import ConfigError, LoadError, WriteError
from agentkd.extras import needing
from agentkd.files import loading, read_file

_LARGEST = 1 << 16


def default_folder(repository: Path) -> Path:
    """Return where the keys of a repository lie: in the user's configuration, by its name."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "agentkd" / "keys" / repository.resolve().name


def check_apart(folder: Path, repository: Path) -> None:
    """Make sure that no private key lies in what is published.

    Raises:
        ConfigError: If the keys' folder is in the repository.
    """
    if folder.resolve().is_relative_to(repository.resolve()):
        raise ConfigError(
            f"Private keys in {folder} would be published with {repository}. Give --private a "
            "folder outside of it, or leave it out."
        )


def generate(count: int) -> list[Any]:
    """Make so many signers, each with a new key in memory."""
    with needing("Making keys"):
        from securesystemslib.signer import CryptoSigner
    return [CryptoSigner.generate_ed25519() for _ in range(count)]


def write_keys(folder: Path, role: str, signers: Iterable[Any]) -> list[Path]:
    """Write private keys, each in a file of mode 0600 that was not there.

    Raises:
        WriteError: If one cannot be written.
    """
    written = []
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for signer in signers:
            path = folder / f"{role}-{signer.public_key.keyid[:16]}.pem"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with os.fdopen(os.open(path, flags, 0o600), "wb") as stream:
                written.append(path)
                stream.write(signer.private_bytes)
                stream.flush()
                os.fsync(stream.fileno())
    except OSError as error:
        raise WriteError(
            f"No key could be written in {folder}: {error.strerror or error}. A key is never "
            "written over another one."
        ) from error
    return written


def read_keys(folders: Iterable[Path]) -> dict[str, Any]:
    """Read all private keys of folders, by their ids.

    Raises:
        ConfigError: If others than its owner may read a key.
        LoadError: If a folder is missing, or a file is not an Ed25519 key.
    """
    found: dict[str, Any] = {}
    for folder in folders:
        if not folder.is_dir():
            raise LoadError(
                f"No folder {folder} with private keys. agentkd keys new makes one; --private "
                "names another."
            )
        for path in sorted(folder.glob("*.pem")):
            signer = _read_key(path)
            found[signer.public_key.keyid] = signer
    return found


def _read_key(path: Path) -> Any:
    with needing("Signing"):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
        from securesystemslib.signer import CryptoSigner, SSlibKey
    known = path.stat()
    if stat.S_IMODE(known.st_mode) & 0o077:
        raise ConfigError(
            f"{path} may be read by others than its owner (mode {stat.S_IMODE(known.st_mode):o}). "
            f"chmod 600 {path}; if someone may have read it, agentkd keys rotate."
        )
    with loading(path):
        private = load_pem_private_key(read_file(path, _LARGEST), None)
        if not isinstance(private, Ed25519PrivateKey):
            raise LoadError(f"{path} is not an Ed25519 key.")
        public = SSlibKey.from_crypto(private.public_key(), scheme="ed25519")
        return CryptoSigner(private, public)


def signing(role: str, about: Any, keys: Mapping[str, Any]) -> list[Any]:
    """Return the signers of a role that are there, as many as its threshold at least.

    Raises:
        ConfigError: If there are fewer.
    """
    found = [keys[keyid] for keyid in about.keyids if keyid in keys]
    if len(found) < about.threshold:
        raise ConfigError(
            f"The role {role} takes signatures of {about.threshold} of {len(about.keyids)} keys, "
            f"and {len(found)} of them are here. Name the folders of all of them: --private A B."
        )
    return found


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other signers with these keys away."""
    with loading(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
