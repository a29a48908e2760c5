"""Certificates and rules: who may say and hear what, at a real broker."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from blockbuster import BlockBuster

from agentkd.errors import ConfigError, LoadError, WriteError
from agentkd.fleet.desk import filters as questions
from agentkd.fleet.keys import write_private
from agentkd.fleet.office import Office
from agentkd.fleet.server import Server, alone, filters
from agentkd.fleet.setup import begin, local, read_broker, secure
from agentkd.transport.names import Topics
from agentkd.transport.transport import Message
from benchmarks.fleet_devices import SimulatedDevice
from tests.fleet_world import executor_file

pytest.importorskip("cryptography")
SITE = "plant"
ROOT = Path(__file__).parents[1]


def _fleet(folder: Path, devices: tuple[str, ...] = ("a", "b"), port: int = 8883) -> Path:
    begin(folder, SITE)
    secure(folder, "127.0.0.1", port, devices)
    return folder


def _free() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_every_private_key_is_private(tmp_path: Path) -> None:
    """Keys have mode 0600, each device has its own, and the authority's stays with the broker."""
    folder = _fleet(tmp_path / "fleet")
    keys = [*folder.rglob("*.key"), folder / "audit.pem"]
    assert sorted(each.name for each in keys) == [
        "audit.pem", "broker.key", "ca.key", "device.key", "device.key", "server.key",
    ]  # fmt: skip
    assert {each.stat().st_mode & 0o777 for each in keys} == {0o600}
    assert len({each.read_bytes() for each in keys}) == len(keys)
    assert sorted(each.name for each in (folder / "devices" / "a").iterdir()) == [
        "ca.pem", "device.key", "device.pem",
    ]  # fmt: skip


def test_setting_up_again_adds_devices_and_replaces_nothing(tmp_path: Path) -> None:
    """A second call makes what is missing."""
    folder = _fleet(tmp_path / "fleet")
    before = {
        each: each.read_bytes() for each in folder.rglob("*") if each.suffix in (".pem", ".key")
    }
    assert not begin(folder, SITE)
    made = secure(folder, "127.0.0.1", 8883, ["a", "c"])
    assert [each.name for each in made] == ["c"]
    assert {each: each.read_bytes() for each in before} == before


def test_certificates_are_for_what_they_say(tmp_path: Path) -> None:
    """They chain to the authority, name their user, and a device's is none for a broker."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID as Usage

    folder = _fleet(tmp_path / "fleet")
    authority = x509.load_pem_x509_certificate((folder / "broker" / "ca.pem").read_bytes())
    wanted = {
        "broker/broker": ("127.0.0.1", Usage.SERVER_AUTH),
        "server": ("server", Usage.CLIENT_AUTH),
        "devices/a/device": ("a", Usage.CLIENT_AUTH),
    }
    for stem, (name, usage) in wanted.items():
        found = x509.load_pem_x509_certificate((folder / f"{stem}.pem").read_bytes())
        found.verify_directly_issued_by(authority)
        assert found.subject.rfc4514_string() == f"CN={name}"
        assert list(found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
            usage
        ]
        context = ssl.create_default_context(cafile=str(folder / "broker" / "ca.pem"))
        context.load_cert_chain(folder / f"{stem}.pem", folder / f"{stem}.key")


@pytest.mark.parametrize("name", ["server", "a/b", "..", "+", "#", "", "a b"])
def test_names_that_cannot_be_are_refused(tmp_path: Path, name: str) -> None:
    """A device cannot take the server's name, nor one that means something in a topic or path."""
    begin(tmp_path / "fleet", SITE)
    with pytest.raises((ConfigError, LoadError)):
        secure(tmp_path / "fleet", "127.0.0.1", 8883, [name])
    assert not (tmp_path / "fleet" / "devices").exists()


def test_mistakes_name_the_remedy(tmp_path: Path) -> None:
    """Another site, another broker, a bad host, a folder that was not set up."""
    folder = _fleet(tmp_path / "fleet")
    with pytest.raises(ConfigError, match="--site plant"):
        begin(folder, "other")
    with pytest.raises(ConfigError, match="has certificates for 127"):
        secure(folder, "elsewhere", 8883, [])
    with pytest.raises(ConfigError, match="has a broker with certificates"):
        local(folder, 1883)
    with pytest.raises(ConfigError, match="neither a host"):
        secure(folder, "a b", 8883, [])
    begin(tmp_path / "bare", SITE)
    with pytest.raises(LoadError, match="names no broker"):
        read_broker(tmp_path / "bare")
    with pytest.raises(LoadError, match="The site's name"):
        begin(tmp_path / "new", "a/b")


def test_one_server_at_a_time(tmp_path: Path) -> None:
    """A second server of a folder is refused."""
    with (
        alone(tmp_path),
        pytest.raises(ConfigError, match="Another process serves"),
        alone(tmp_path),
    ):
        pass
    with alone(tmp_path):
        pass


def _course(folder: Path) -> str:
    rollout = Office(folder).fleet.rollout
    return "" if rollout is None else rollout.course


@asynccontextmanager
async def _mosquitto(file: Path, port: int) -> AsyncIterator[None]:
    program = shutil.which("mosquitto")
    assert program is not None
    process = await asyncio.create_subprocess_exec(
        program, "-c", str(file), stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(300):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.1)
                continue
            writer.close()
            break
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@pytest.mark.needs("mosquitto")
async def test_a_device_says_and_hears_its_own_alone(tmp_path: Path) -> None:
    """At mosquitto with these files, what is another device's is neither taken nor given."""
    pytest.importorskip("aiomqtt")
    from agentkd.transport.mqtt import MqttTransport
    from agentkd.transport.options import MqttOptions

    port = _free()
    folder = _fleet(tmp_path / "fleet", port=port)
    topics, home = Topics(SITE), folder / "devices" / "a"
    broker = read_broker(folder)
    async with _mosquitto(folder / "broker" / "mosquitto.conf", port):
        server = MqttTransport(
            MqttOptions(broker.address, ca=broker.ca, cert=broker.cert, key=broker.key),
            *filters(SITE, collect=True),
            questions(SITE),
            topics.every("from/+"),
        )
        device = MqttTransport(
            MqttOptions(
                broker.address,
                ca=home / "ca.pem",
                cert=home / "device.pem",
                key=home / "device.key",
            ),
            f"{topics.root}/#",
        )
        stranger = MqttTransport(
            MqttOptions(broker.address, ca=home / "ca.pem"), f"{topics.root}/#"
        )
        said, heard = server.receive(), device.receive()
        assert (await anext(said)).connected
        assert (await anext(heard)).connected
        own = (*(f"d/a/{each}" for each in ("state", "need", "note", "ask")), "f/a/from/offer")
        given = "d/a/desired", "d/a/answer", f"b/{'0' * 64}/0", "f/a/to/offer"
        for line, words in (
            (device, ("d/b/state", "d/a/desired", "d/b/note", "d/b/ask", "d/a/answer", "b/x/0")),
            (device, ("f/b/from/offer", "f/a/to/offer")),
            (device, own),
            (server, ("d/b/desired", "d/a/state", "d/b/answer", "f/b/to/offer", *given)),
            (stranger, ("d/a/state",)),
        ):
            for word in words:
                line.send(Message(f"{topics.root}/{word}", b"x"))
        async with asyncio.timeout(60):
            told = [(await anext(said)).topic for _ in own]
            got = [(await anext(heard)).topic for _ in given]
            assert told == [f"{topics.root}/{each}" for each in own]
            assert got == [f"{topics.root}/{each}" for each in given]
        for each in (server, device, stranger):
            await each.aclose()


@pytest.mark.needs("mosquitto")
async def test_a_rollout_at_a_real_broker(tmp_path: Path, nonblocking: BlockBuster) -> None:
    """Simulated devices confirm an executor over MQTT; the server never blocks its loop."""
    nonblocking.deactivate()
    pytest.importorskip("aiomqtt")
    from functools import partial

    from agentkd.transport.mqtt import MqttTransport
    from agentkd.transport.options import MqttOptions

    folder, port = tmp_path / "fleet", _free()
    begin(folder, SITE)
    async with _mosquitto(local(folder, port), port):
        connect = partial(MqttTransport, MqttOptions(read_broker(folder).address))
        file, office, desk = executor_file(tmp_path), Office(folder), Office(folder)
        line = connect(*filters(SITE))
        server = Server(office, line)
        nonblocking.activate()
        devices = [SimulatedDevice(connect, SITE, f"d{index}") for index in range(8)]
        tasks = [asyncio.create_task(server.run())]
        tasks += [asyncio.create_task(each.run()) for each in devices]
        async with asyncio.timeout(120):
            while office.fleet.online < 8:  # noqa: ASYNC110 (of a file)
                await asyncio.sleep(0.05)
            plan = await asyncio.to_thread(desk.push, file)
            while await asyncio.to_thread(_course, folder) != "finished":  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert {each.active for each in devices} == {plan.digest}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await line.aclose()


@pytest.mark.needs("mosquitto")
async def test_serve_tells_what_is_decided_and_ends_by_a_signal(tmp_path: Path) -> None:
    """The command follows the trail, and SIGTERM ends it in status 0."""
    pytest.importorskip("aiomqtt")
    folder, port = tmp_path / "fleet", _free()
    begin(folder, SITE)
    file = executor_file(tmp_path)
    async with _mosquitto(local(folder, port), port):
        words = ("-m", "agentkd", "fleet", "serve", str(folder))
        environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, *words, stdout=subprocess.PIPE, env=environment
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(120):
                assert b"plant: serving" in await process.stdout.readline()
                desk = await asyncio.to_thread(Office, folder)
                await asyncio.to_thread(desk.push, file)
                assert b"push executor.akd" in await process.stdout.readline()
                process.terminate()
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def test_a_key_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """A kill before it is on the disk leaves no empty file that would be taken for one."""
    path = tmp_path / "keys" / "audit.pem"
    code = (
        "import os, sys; from pathlib import Path; from agentkd.fleet import audit\n"
        "audit.os.fsync = lambda _: os._exit(9)\n"
        "audit.write_private(Path(sys.argv[1]), b'secret')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert (done.returncode, path.exists()) == (9, False)
    write_private(path, b"secret")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"secret", 0o600)
    with pytest.raises(WriteError, match="never written over"):
        write_private(path, b"other")
    assert path.read_bytes() == b"secret"
