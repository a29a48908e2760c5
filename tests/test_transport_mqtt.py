"""The line over MQTT: against mosquitto, killed, frozen, denying, full, and with certificates."""

from __future__ import annotations

import asyncio
import gc
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentkd.errors import ConfigError
from agentkd.transport import Message, Received
from agentkd.transport.mqtt import MqttTransport, _cancelled
from agentkd.transport.options import MqttOptions, Protocol
from tests.brokers import ChaosProxy, Mosquitto, until

pytest.importorskip("aiomqtt", reason="needs aiomqtt, of the extra mqtt")
pytestmark = pytest.mark.needs("mosquitto")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that lets all in."""
    with Mosquitto(tmp_path) as found:
        yield found


class End:
    """A transport, and what came over it."""

    def __init__(self, options: MqttOptions, *filters: str, will: Any = None) -> None:
        self.line = MqttTransport(options, *filters, will=will)
        self.came: list[Received] = []

    @property
    def payloads(self) -> list[bytes]:
        """What messages held."""
        return [each.payload for each in self.came if not each.connected]

    @asynccontextmanager
    async def read(self) -> AsyncIterator[End]:
        """Receive while the block lasts."""

        async def receive() -> None:
            async for each in self.line.receive():
                self.came.append(each)

        task = asyncio.create_task(receive())
        try:
            yield self
        finally:
            await self.line.aclose()
            await asyncio.wait_for(task, 60)

    async def connected(self, times: int = 1) -> None:
        """Wait until it has connected so often, and has subscribed."""
        await until(lambda: self.line.connections >= times, lambda: self.line.error)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_it_is_what_the_hub_in_memory_is(broker: Mosquitto, protocol: Protocol) -> None:
    """Retained messages, further filters and wills, in both versions of MQTT."""
    options = MqttOptions(broker.address, protocol=protocol)
    proxy = ChaosProxy(broker.port)
    async with proxy.running(), End(options, "a/+", "w").read() as one:
        sessions = iter((b"1", b"2"))
        lost = MqttOptions(proxy.address, protocol=protocol)
        other = End(lost, will=lambda: Message("w", next(sessions), retain=True))
        async with other.read():
            assert other.line.send(Message("a/1", b"x", retain=True))
            assert other.line.send(Message("b/1", b"y", retain=True))
            await until(lambda: one.payloads == [b"x"])
            one.line.subscribe("b/+")
            await until(lambda: one.payloads == [b"x", b"y"])
            one.line.subscribe()
            proxy.cut()
            await until(lambda: one.payloads == [b"x", b"y", b"1"], lambda: one.came)
            await other.connected(2)
            assert [each.connected for each in other.came] == [True, True]
            assert not other.line.error
            other.line.send(Message("b/1", b"unheard"))
            other.line.send(Message("a/1", b"heard"))
            await until(lambda: one.payloads[3:] == [b"heard"])
        # A clean end leaves no will.
        one.line.send(Message("a/2", b"end"))
        await until(lambda: one.payloads[4:] == [b"end"])


async def test_a_killed_broker_is_connected_to_again(
    broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    """The loss is one line, and `connected` comes again; what waits meanwhile is sent."""
    async with End(MqttOptions(broker.address), "a").read() as end:
        await end.connected()
        broker.kill()
        await until(lambda: not end.line.connected)
        await until(lambda: end.line.error)
        end.line.send(Message("a", b"later"))
        broker.start()
        await until(lambda: end.payloads == [b"later"], lambda: end.line.error)
        assert [each.connected for each in end.came] == [True, True, False]
    texts = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert texts
    assert len(texts) == len(set(texts))
    assert texts[0] == f"{broker.address}: the connection was lost. It is tried again."


async def test_a_connection_takes_the_place_of_its_own_former_one_alone(broker: Mosquitto) -> None:
    """Two clients have two identifiers, and each keeps its own."""
    options = MqttOptions(broker.address)
    async with End(options, "a").read() as one, End(options, "a").read() as other:
        await one.connected()
        await other.connected()
        one.line.send(Message("a", b"x"))
        await until(lambda: one.payloads == other.payloads == [b"x"])
        assert (one.line.connections, other.line.connections) == (1, 1)
        named = MqttOptions(broker.address, identifier=one.line._identifier)
        async with End(named).read() as thief:
            await thief.connected()
            await one.connected(2)


async def test_a_frozen_broker_is_noticed(broker: Mosquitto) -> None:
    """By its silence; once it goes on, so does the line."""
    async with End(MqttOptions(broker.address, keepalive=1), "a").read() as end:
        await end.connected()
        broker.freeze()
        await until(lambda: not end.line.connected)
        await until(lambda: end.line.error)
        broker.thaw()
        await until(lambda: end.line.connected)
        end.line.send(Message("a", b"x"))
        await until(lambda: end.payloads == [b"x"])


async def test_who_does_not_read_loses_messages_and_sees_how_many(broker: Mosquitto) -> None:
    """And so does the one whose broker is away; a packet that is too large harms no other."""
    options = MqttOptions(broker.address, queue=10)
    slow, quick = MqttTransport(options, "a"), End(MqttOptions(broker.address), "z")
    stream = slow.receive()
    assert (await anext(stream)).connected
    async with quick.read():
        # Until it is subscribed.
        while not slow._came and not slow.dropped_received:
            quick.line.send(Message("a", b"first"))
            await asyncio.sleep(0.05)
        for _ in range(50):
            quick.line.send(Message("a", b"x"))
        await until(lambda: slow.dropped_received >= 40)
        await slow.aclose()
        assert [each async for each in stream]
        assert not slow.send(Message("a", b"closed"))
    away = MqttTransport(options)
    assert [away.send(Message("a", b"x")) for _ in range(12)] == [True] * 10 + [False] * 2
    assert away.dropped_sent == 2


async def test_a_packet_that_is_too_large_is_lost_alone(tmp_path: Path) -> None:
    """The broker ends the connection over it; the next one lives."""
    with Mosquitto(tmp_path, "allow_anonymous true", "max_packet_size 10000") as broker:
        async with End(MqttOptions(broker.address), "a").read() as end:
            await end.connected()
            end.line.send(Message("a", bytes(50_000)))
            await end.connected(2)
            end.line.send(Message("a", b"small"))
            await until(lambda: end.payloads == [b"small"])


async def test_what_is_denied_is_lost_and_the_line_lives(tmp_path: Path) -> None:
    """A broker says yes to a topic that its rules deny: so nothing is taken for delivered."""
    rules = tmp_path / "rules"
    rules.write_text("topic readwrite mine/#\n")
    with Mosquitto(tmp_path, "allow_anonymous true", f"acl_file {rules}") as broker:
        async with End(MqttOptions(broker.address), "mine/a", "others/a").read() as end:
            end.line.send(Message("others/a", b"denied"))
            end.line.send(Message("mine/a", b"allowed"))
            await until(lambda: end.payloads == [b"allowed"])
            assert end.line.connected


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_a_wrong_password_is_told(tmp_path: Path, protocol: Protocol) -> None:
    """And tried again: the broker may be put right."""
    passwords = tmp_path / "passwords"
    _run("mosquitto_passwd", "-b", "-c", str(passwords), "arm", "secret")
    with Mosquitto(tmp_path, "allow_anonymous false", f"password_file {passwords}") as broker:
        wrong = MqttOptions(broker.address, user="arm", password="guess", protocol=protocol)
        async with End(wrong).read() as end:
            await until(lambda: "uthori" in end.line.error, lambda: end.line.error)
        right = MqttOptions(broker.address, user="arm", password="secret", protocol=protocol)
        async with End(right).read() as end:
            await end.connected()


async def test_a_cancellation_that_was_swallowed_counts() -> None:
    """As `wait_for` of Python 3.11 does it, inside aiomqtt."""

    async def work() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(1000)
        _cancelled()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Make a certificate for this machine that signs itself, and its key."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
    command += ["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj"]
    command += [f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    _run(*command, "-keyout", str(key), "-out", str(cert))
    return cert, key


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.needs("openssl")
# paho-mqtt leaves the socket of a handshake that failed to the collector.
@pytest.mark.filterwarnings("ignore:.*SSLSocket:pytest.PytestUnraisableExceptionWarning")
async def test_tls_proves_both_ends(tmp_path: Path) -> None:
    """A broker that nobody vouches for is not spoken to; one without certificate gets no answer."""
    cert, key = _certificate(tmp_path, "broker")
    own, own_key = _certificate(tmp_path, "arm")
    lines = ["allow_anonymous true", f"certfile {cert}", f"keyfile {key}"]
    with Mosquitto(tmp_path, *lines, f"cafile {own}", "require_certificate true") as broker:
        address = broker.address.replace("mqtt:", "mqtts:")
        options = MqttOptions(address, ca=cert, cert=own, key=own_key)
        async with End(options, "a").read() as end:
            end.line.send(Message("a", b"x"))
            await until(lambda: end.payloads == [b"x"], lambda: end.line.error)
        async with End(MqttOptions(address, cert=own, key=own_key)).read() as end:
            await until(lambda: "certificate" in end.line.error, lambda: end.line.error)
        async with End(MqttOptions(address, ca=cert)).read() as end:
            await until(lambda: end.line.error)
            assert not end.line.connections
    gc.collect()
    with pytest.raises(ConfigError, match="cannot be used"):
        MqttOptions(address, cert=own, key=key)
    with pytest.raises(ConfigError, match=r"no\.pem"):
        MqttOptions(address, ca=tmp_path / "no.pem")


@pytest.mark.parametrize(("told", "window"), [(None, 64), (20, 20), (65535, 64), (0, 1)])
async def test_no_more_is_under_way_than_the_broker_takes(told: int | None, window: int) -> None:
    """It says so as one connects, in MQTT 5."""
    transport = MqttTransport(MqttOptions("mqtt://127.0.0.1:1"))
    properties = SimpleNamespace() if told is None else SimpleNamespace(ReceiveMaximum=told)
    heard: list[Any] = []
    transport._answered(lambda *details: heard.append(details), 1, 2, 3, 4, properties)
    assert (transport._window, len(heard)) == (window, 1)
