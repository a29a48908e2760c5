"""How a planner on another machine is reached: its address, and the token that clients know.

A message is one binary WebSocket message that holds a frame (`agentkd/frames.py`).
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from agentkd.errors import ConfigError, LoadError
from agentkd.files import read_file

PROTOCOL = "agentkd.2"
"""The WebSocket subprotocol."""
SCHEMES = ("ws://", "wss://")
TOKEN, TOKEN_FILE = "AGENTKD_TOKEN", "AGENTKD_TOKEN_FILE"
CA_FILE = "AGENTKD_CA_FILE"
DEFAULT_PORT = 4750
_MOST_TOKEN = 1 << 12


@dataclass(frozen=True, slots=True)
class Address:
    """Where a planner is served; `secure` means TLS."""

    secure: bool
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{SCHEMES[self.secure]}{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether it is reached from this machine only."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def address_of(text: str) -> Address:
    """Read "ws://host:port" or "wss://host:port"; the port may be left out.

    Raises:
        ConfigError: If it is not an address.
    """
    with suppress(ValueError):
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
        known = f"{parts.scheme}://" in SCHEMES and text.count("/") == 2 and "@" not in text
        if host and known:
            return Address(parts.scheme == "wss", host, DEFAULT_PORT if port is None else port)
    raise ConfigError(
        f"{text!r} is not an address. Write ws://HOST:PORT, such as "
        f"ws://127.0.0.1:{DEFAULT_PORT}, or wss://HOST:PORT for TLS."
    )


def token_of_environment() -> str:
    """Read the token of AGENTKD_TOKEN or the file AGENTKD_TOKEN_FILE; "" for none.

    Raises:
        ConfigError: If the file cannot be read.
    """
    path = os.environ.get(TOKEN_FILE)
    return read_token(Path(path)) if path else os.environ.get(TOKEN, "")


def read_token(path: Path) -> str:
    """Read a token from a file.

    Raises:
        ConfigError: If it cannot be read, or is empty.
    """
    try:
        token = read_file(path, _MOST_TOKEN).decode().strip()
    except LoadError as error:
        raise ConfigError(f"The token {error}") from error
    except ValueError as error:
        raise ConfigError(f"The token in {path} is not UTF-8 text.") from error
    if not token:
        raise ConfigError(f"The token in {path} is empty.")
    return token


def bearer(token: str) -> str:
    """Give the Authorization header for a token: its SHA-256, so any text will do."""
    secret = token.encode(errors="surrogateescape")
    return f"Bearer {hashlib.sha256(secret).hexdigest()}"
