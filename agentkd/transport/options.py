"""Where an MQTT broker is, and how one shows who one is."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from agentkd.errors import ConfigError, LoadError, check_range
from agentkd.files import read_file

if TYPE_CHECKING:
    import ssl

PASSWORD = "AGENTKD_MQTT_PASSWORD"  # noqa: S105 (the variable's name)
"""The environment variable that holds a password."""
Protocol = Literal["5", "3.1.1"]
_PORTS = {"mqtt": 1883, "mqtts": 8883}
_MOST_PASSWORD = 1 << 16


@dataclass(frozen=True, slots=True)
class MqttOptions:
    """How to reach a broker.

    Attributes:
        address: mqtt://HOST:PORT, or mqtts://HOST:PORT with TLS; without a port 1883 or 8883.
        ca: A file with the certificates of those who may vouch for the broker; by default those of
            the system.
        cert: A file with one's own certificate, where the broker asks for it.
        key: A file with its private key, if not in the same file.
        user: The user's name.
        password: The user's password; see `read_password`.
        protocol: The version of MQTT.
        identifier: How the broker tells one client from another. Who knows it, and is let in by the
            broker, can take the client's place; so one is drawn by default.
        keepalive: Seconds of silence after which a sign of life is asked for; a frozen broker is
            noticed after about twice that.
        queue: Messages that wait at each end at most; more are dropped and counted.

    Raises:
        ConfigError: If the address is another one, a file cannot be used, or a value does not fit.
    """

    address: str
    ca: str | Path | None = None
    cert: str | Path | None = None
    key: str | Path | None = None
    user: str = ""
    password: str = field(default="", repr=False)
    protocol: Protocol = "5"
    identifier: str = ""
    keepalive: int = 10
    queue: int = 10_000

    def __post_init__(self) -> None:
        """Check the values, and that the files can be used."""
        _place(self.address)
        check_range("keepalive", self.keepalive, least=1, most=65535, whole=True)
        check_range("queue", self.queue, least=1, whole=True)
        if self.protocol not in ("5", "3.1.1"):
            raise ConfigError(f"protocol is {self.protocol!r}; it has to be '5' or '3.1.1'.")
        if self.password and not self.user:
            raise ConfigError("There is a password, and no user whose it is.")
        if self.key is not None and self.cert is None:
            raise ConfigError(f"The key {self.key} needs the certificate that it belongs to.")
        self.tls()

    @property
    def host(self) -> str:
        """The broker's host."""
        return _place(self.address)[1]

    @property
    def port(self) -> int:
        """The broker's port."""
        return _place(self.address)[2]

    def tls(self) -> ssl.SSLContext | None:
        """Return what a TLS connection is made with, None without TLS.

        Raises:
            ConfigError: If a file cannot be used.
        """
        if _place(self.address)[0] == "mqtt":
            if self.ca is not None or self.cert is not None:
                raise ConfigError(
                    f"{self.address} is without TLS, and certificates are for TLS: mqtts://."
                )
            return None
        import ssl

        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise ConfigError(
                f"The certificates in {self.ca} cannot be used: {error.strerror or error}."
            ) from error
        if self.cert is not None:
            try:
                context.load_cert_chain(self.cert, self.key, password=_no_password)
            except OSError as error:
                both = f"{self.cert}" if self.key is None else f"{self.cert} with {self.key}"
                raise ConfigError(
                    f"The certificate {both} cannot be used: {error.strerror or error}."
                ) from error
        return context


def read_password(path: Path | None = None) -> str:
    """Return the password in a file, or else in AGENTKD_MQTT_PASSWORD; "" without either.

    Raises:
        ConfigError: If the file cannot be read, or holds none.
    """
    if path is None:
        return os.environ.get(PASSWORD, "")
    try:
        found = read_file(path, _MOST_PASSWORD).decode().strip("\r\n")
    except LoadError as error:
        raise ConfigError(f"The password {error}") from error
    except ValueError as error:
        raise ConfigError(f"The password in {path} is not UTF-8 text.") from error
    if not found:
        raise ConfigError(f"The password in {path} is empty.")
    return found


def _no_password() -> str:
    """Keep OpenSSL from asking at the terminal."""
    raise ConfigError("The private key is encrypted. Give one that is not, of mode 0600.")


def _place(address: str) -> tuple[str, str, int]:
    """Return scheme, host and port of an address."""
    form = "mqtt://HOST:PORT, or mqtts://HOST:PORT with TLS"
    try:
        found = urlsplit(address)
        host, port = found.hostname, found.port
    except ValueError as error:
        raise ConfigError(
            f"{address!r} is not the address of a broker ({error}): {form}."
        ) from error
    if found.username is not None or found.password is not None:
        shown = f"{found.scheme}://…@{host}"
        raise ConfigError(f"{shown}: user and password do not belong into the address: {form}.")
    rest = found.path.strip("/") or found.query or found.fragment
    if found.scheme not in _PORTS or not host or rest or port == 0:
        raise ConfigError(f"{address!r} is not the address of a broker: {form}.")
    return found.scheme, host, _PORTS[found.scheme] if port is None else port
