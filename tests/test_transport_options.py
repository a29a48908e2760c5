"""Where a broker is and how one shows who one is: what is wrong is said before connecting."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from agentkd.errors import ConfigError
from agentkd.transport.mqtt import MqttTransport
from agentkd.transport.options import MqttOptions, read_password


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"address": "broker"}, "mqtt://HOST:PORT"),
        ({"address": "http://broker"}, "mqtt://HOST:PORT"),
        ({"address": "mqtt://broker:x"}, "mqtt://HOST:PORT"),
        ({"address": "mqtt://broker/topic"}, "mqtt://HOST:PORT"),
        ({"address": "mqtt://:1883"}, "mqtt://HOST:PORT"),
        ({"address": "mqtt://user:secret@broker"}, "do not belong"),
        ({"address": "mqtt://broker", "ca": Path("ca.pem")}, "mqtts://"),
        ({"address": "mqtt://broker", "key": Path("x")}, "needs the certificate"),
        ({"address": "mqtt://broker", "password": "x"}, "no user"),
        ({"address": "mqtt://broker", "keepalive": 0}, "keepalive"),
        ({"address": "mqtt://broker", "queue": 0}, "queue"),
        ({"address": "mqtt://broker", "protocol": "4"}, "protocol"),
    ],
)
def test_options_are_checked(options: dict[str, Any], said: str) -> None:
    """Before anything is connected; no password is repeated."""
    with pytest.raises(ConfigError, match=said) as caught:
        MqttOptions(**options)
    assert "secret" not in str(caught.value)


def test_an_address_has_a_port_by_its_scheme() -> None:
    """As brokers have; and a password does not show."""
    options = MqttOptions("mqtts://[::1]", user="arm", password="secret")
    assert (options.host, options.port) == ("::1", 8883)
    assert MqttOptions("mqtt://broker").port == 1883
    assert "secret" not in repr(options)


def test_a_password_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never from the command line."""
    path = tmp_path / "password"
    path.write_text("secret word\n")
    assert read_password(path) == "secret word"
    monkeypatch.setenv("AGENTKD_MQTT_PASSWORD", "other")
    assert read_password() == "other"
    monkeypatch.delenv("AGENTKD_MQTT_PASSWORD")
    assert not read_password()
    for data in (b"\n", b"\xff"):
        path.write_bytes(data)
        with pytest.raises(ConfigError, match="password"):
            read_password(path)
    path.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        read_password(path)


def test_a_password_without_tls_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """It could be read on the way."""
    pytest.importorskip("aiomqtt", reason="needs aiomqtt, of the extra mqtt")
    MqttTransport(MqttOptions("mqtts://broker", user="arm", password="secret"))
    assert not caplog.records
    MqttTransport(MqttOptions("mqtt://broker", user="arm", password="secret"))
    (record,) = caplog.records
    assert "unencrypted" in record.getMessage()
    assert "secret" not in record.getMessage()


def test_without_aiomqtt_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line over MQTT is optional."""
    monkeypatch.setitem(sys.modules, "aiomqtt", None)
    with pytest.raises(ConfigError, match=r"agentkd\[mqtt\]"):
        MqttTransport(MqttOptions("mqtt://broker"))
