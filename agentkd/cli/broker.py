"""Options of commands that talk to a fleet's MQTT broker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agentkd.transport.options import MqttOptions, Protocol, read_password


@dataclass(frozen=True)
class Broker:
    """How to connect to an MQTT broker."""

    tls_ca: Path | None = None
    """A file with the certificates that vouch for the broker; by default those of the system."""
    tls_cert: Path | None = None
    """A file with this client's own certificate, for brokers that ask for one."""
    tls_key: Path | None = None
    """A file with the certificate's private key, if not in the same file."""
    user: str = ""
    """The user's name at the broker."""
    password_file: Path | None = None
    """A file that holds the password; else it is in AGENTKD_MQTT_PASSWORD."""
    protocol: Protocol = "5"
    """The version of MQTT."""


UNGUARDED = Broker()


def mqtt_options(address: str, broker: Broker) -> MqttOptions:
    """Return how to reach a broker.

    Args:
        address: mqtt://HOST:PORT or mqtts://HOST:PORT.
        broker: What the command line says.

    Raises:
        ConfigError: If something cannot be used.
    """
    return MqttOptions(
        address,
        ca=broker.tls_ca,
        cert=broker.tls_cert,
        key=broker.tls_key,
        user=broker.user,
        password=read_password(broker.password_file) if broker.user else "",
        protocol=broker.protocol,
    )
