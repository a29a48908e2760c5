"""What a fleet begins with: the server's folder, a broker's configuration, and certificates.

    FOLDER/audit.*                 the audit trail and its keys
    FOLDER/broker.json             where the broker is, and what the server shows it
    FOLDER/server.pem, .key        the server's certificate
    FOLDER/broker/                 mosquitto.conf, acl, ca.pem, ca.key, broker.pem, broker.key
    FOLDER/devices/NAME/           ca.pem, device.pem, device.key: copy them to the device

A certificate's common name is the user's name at the broker, and the rules for topics go by it.
Private keys have mode 0600.
"""

from __future__ import annotations

import getpass
import ipaddress
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, final

from agentkd.errors import ConfigError, LoadError
from agentkd.extras import needing
from agentkd.fields import Fields, parse_json
from agentkd.files import loading, read_file, write_atomic
from agentkd.fleet import audit
from agentkd.fleet.keys import write_private
from agentkd.fleet.office import Office
from agentkd.transport.names import Topics, device_name

SERVER = "server"
"""The name of the server's certificate, which no device may have."""
BROKER = "broker.json"
_LARGEST = 1 << 16
_CA_DAYS, _DAYS = 3650, 730
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Broker:
    """Where a fleet's broker is, and what the server shows it.

    Attributes:
        address: mqtt://HOST:PORT, or mqtts://HOST:PORT with TLS.
        ca: The certificate that the broker's is checked with, None without TLS.
        cert: The server's certificate, None without TLS.
        key: Its private key.
    """

    address: str
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


def begin(folder: Path, site: str, now: float | None = None) -> bool:
    """Make a server's folder, unless it is there; return whether it was made.

    Raises:
        ConfigError: If it is there for another site.
        LoadError: If the site's name is not one word.
        WriteError: If it cannot be written.
    """
    Topics(site)
    if (folder / audit.NAME).exists():
        found = Office(folder).fleet.site
        if found != site:
            raise ConfigError(f"{folder} is of the site {found!r}, not {site!r}: --site {found}.")
        return False
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    audit.create(folder, {"what": "created", "site": site}, now)
    return True


def local(folder: Path, port: int) -> Path:
    """Configure a broker for this machine alone, without certificates; return its file."""
    site = Office(folder).fleet.site
    if (folder / "broker" / "broker.pem").exists():
        raise ConfigError(
            f"{folder} has a broker with certificates: name it with --broker-name. For a broker "
            "without, set up another folder."
        )
    lines = [
        f"# The fleet {site}, for this machine alone. Start it: mosquitto -c mosquitto.conf",
        f"listener {port} 127.0.0.1",
        "allow_anonymous true",
        *_COMMON,
    ]
    path = folder / "broker" / "mosquitto.conf"
    write_atomic(path, "\n".join(lines) + "\n")
    _write_broker(folder, f"mqtt://127.0.0.1:{port}")
    return path


def secure(folder: Path, host: str, port: int, devices: Sequence[str]) -> list[Path]:
    """Configure a broker with TLS, and make the certificates that are not there.

    Call it again with more devices; nothing that is there is replaced but the configuration.

    Args:
        folder: The server's folder.
        host: The broker's name or address, as devices call it.
        port: Its port.
        devices: Their names.

    Returns:
        The folders of the devices that are new.

    Raises:
        ConfigError: If a name cannot be used.
        WriteError: If something cannot be written.
    """
    if not _HOST.fullmatch(host):
        raise ConfigError(f"--broker-name {host!r} is neither a host's name nor an address.")
    for name in devices:
        if device_name(name) == SERVER or set(name) == {"."}:
            raise ConfigError(f"A device cannot be called {name!r}. Name it otherwise.")
    known = folder / BROKER
    before = read_broker(folder) if known.exists() else None
    if before is not None and before.cert is not None and _host(before) != host:
        raise ConfigError(
            f"{folder} has certificates for {_host(before)}, not {host}. For another broker, "
            f"remove {folder / 'broker'}/broker.pem and {known}, and set it up again."
        )
    site, place = Office(folder).fleet.site, folder / "broker"
    authority = _Authority.at(place, site)
    authority.issue(place / "broker", host, host=host)
    authority.issue(folder / SERVER, SERVER)
    made = []
    for name in devices:
        home = folder / "devices" / name
        if authority.issue(home / "device", name):
            write_atomic(home / "ca.pem", authority.pem)
            made.append(home)
    write_atomic(place / "acl", _acl(site))
    write_atomic(place / "mosquitto.conf", _configuration(place.resolve(), site, port))
    (place / "data").mkdir(mode=0o700, exist_ok=True)
    _write_broker(
        folder,
        f"mqtts://{host}:{port}",
        ca="broker/ca.pem",
        cert=f"{SERVER}.pem",
        key=f"{SERVER}.key",
    )
    return made


def read_broker(folder: Path) -> Broker:
    """Read where a fleet's broker is; files are returned as paths.

    Raises:
        LoadError: If it was not set up.
    """
    path = folder / BROKER
    if not path.exists():
        raise LoadError(f"{folder} names no broker. agentkd fleet setup {folder}, or --broker.")
    with loading(path):
        fields = Fields(parse_json(read_file(path, _LARGEST), path), str(path))
        ca, cert, key = (
            folder / told if (told := fields.text(each, "")) else None
            for each in ("ca", "cert", "key")
        )
        return Broker(fields.text("address"), ca, cert, key)


def _host(broker: Broker) -> str:
    return broker.address.partition("://")[2].rpartition(":")[0]


def _write_broker(folder: Path, address: str, **files: str) -> None:
    write_atomic(folder / BROKER, json.dumps({"address": address, **files}, indent=1) + "\n")


_COMMON = (
    "set_tcp_nodelay true",
    "# Larger than any message of a fleet.",
    "max_packet_size 1300000",
    "# A burst of a large fleet's messages; the default drops all beyond 1,000 in silence.",
    "max_queued_messages 100000",
    "max_inflight_messages 1000",
)


def _configuration(place: Path, site: str, port: int) -> str:
    lines = [
        f"# The fleet {site}: TLS, a certificate for each client, whose name is its user's.",
        f"# Start it: mosquitto -c {place / 'mosquitto.conf'}",
        f"listener {port}",
        f"cafile {place / 'ca.pem'}",
        f"certfile {place / 'broker.pem'}",
        f"keyfile {place / 'broker.key'}",
        "tls_version tlsv1.2",
        "require_certificate true",
        "use_identity_as_username true",
        "allow_anonymous false",
        f"acl_file {place / 'acl'}",
        "# Started by root it goes on as this user, who may read the key and write the data.",
        f"user {getpass.getuser()}",
        "persistence true",
        f"persistence_location {place / 'data'}/",
        "autosave_interval 60",
        *_COMMON,
    ]
    return "\n".join(lines) + "\n"


def _acl(site: str) -> str:
    """Return what each user may write and read; what is not named is denied."""
    root = Topics(site).root
    lines = [
        "# A device writes its own state, needs, notes and questions to a planner, and its part of",
        "# federated rounds; it reads what is desired of it, answers, chunks, and what rounds ask.",
        f"pattern write {root}/d/%u/state",
        f"pattern write {root}/d/%u/need",
        f"pattern write {root}/d/%u/note",
        f"pattern write {root}/d/%u/ask",
        f"pattern read {root}/d/%u/desired",
        f"pattern read {root}/d/%u/answer",
        f"pattern read {root}/b/#",
        f"pattern write {root}/f/%u/from/+",
        f"pattern read {root}/f/%u/to/+",
        "",
        f"user {SERVER}",
        f"topic read {root}/d/+/state",
        f"topic read {root}/d/+/need",
        f"topic read {root}/d/+/note",
        f"topic read {root}/d/+/ask",
        f"topic write {root}/d/+/desired",
        f"topic write {root}/d/+/answer",
        f"topic write {root}/b/#",
        f"topic read {root}/f/+/from/+",
        f"topic write {root}/f/+/to/+",
    ]
    return "\n".join(lines) + "\n"


@final
class _Authority:
    """Signs the certificates of one fleet."""

    def __init__(self, certificate: Any, key: Any, pem: bytes) -> None:
        self._certificate, self._key, self.pem = certificate, key, pem

    @classmethod
    def at(cls, place: Path, site: str) -> _Authority:
        """Return the authority that is kept in a folder; make it if it is not there."""
        with needing("Making certificates"):
            from cryptography import x509
            from cryptography.hazmat.primitives.serialization import load_pem_private_key
        path = place / "ca.pem"
        if not path.exists():
            key = _key(place / "ca.key")
            name = _name(f"agentkd fleet {site}")
            constraints = x509.BasicConstraints(ca=True, path_length=0)
            built = (
                _builder(name, name, key.public_key(), _CA_DAYS)
                .add_extension(constraints, critical=True)
                .add_extension(_usage(signs=True), critical=True)
            )
            write_atomic(path, _signed(built, key))
        pem = read_file(path, _LARGEST)
        with loading(place / "ca.key"):
            key = load_pem_private_key(read_file(place / "ca.key", _LARGEST), None)
        with loading(path):
            return cls(x509.load_pem_x509_certificate(pem), key, pem)

    def issue(self, stem: Path, name: str, *, host: str = "") -> bool:
        """Make NAME.pem and NAME.key, unless they are there; a host gets a server's."""
        path = stem.with_name(f"{stem.name}.pem")
        if path.exists():
            return False
        from cryptography import x509
        from cryptography.x509.oid import ExtendedKeyUsageOID

        key = _key(stem.with_name(f"{stem.name}.key"))
        usage = ExtendedKeyUsageOID.SERVER_AUTH if host else ExtendedKeyUsageOID.CLIENT_AUTH
        built = (
            _builder(_name(name), self._certificate.subject, key.public_key(), _DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if host:
            built = built.add_extension(_names(host), critical=False)
        write_atomic(path, _signed(built, self._key))
        return True


def _key(path: Path) -> Any:
    """Return the private key in a file, a new one if there is none."""
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )

    if not path.exists():
        key = generate_private_key(SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_private(path, pem)
    with loading(path):
        return load_pem_private_key(read_file(path, _LARGEST), None)


def _name(text: str) -> Any:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, text[:64])])


def _names(host: str) -> Any:
    from cryptography import x509

    names: list[Any] = []
    try:
        names.append(x509.IPAddress(ipaddress.ip_address(host)))
    except ValueError:
        names.append(x509.DNSName(host))
    return x509.SubjectAlternativeName(names)


def _builder(subject: Any, issuer: Any, public: Any, days: int) -> Any:
    from cryptography import x509

    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        # A device's clock may be a little behind.
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(*, signs: bool) -> Any:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(built: Any, key: Any) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding

    pem: bytes = built.sign(key, SHA256()).public_bytes(Encoding.PEM)
    return pem
