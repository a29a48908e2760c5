"""A device follows its server over mosquitto, whatever is done to the line and the broker."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentkd.device import Device
from agentkd.errors import ConfigError
from agentkd.fleet.device import Follower
from agentkd.fleet.errand import Pace
from agentkd.fleet.messages import Report
from agentkd.transport.mqtt import MqttTransport
from agentkd.transport.names import Topics
from agentkd.transport.options import MqttOptions
from tests.brokers import ChaosProxy, Mosquitto, until
from tests.fleet_server import SITE, TOPICS, SmallServer, following
from tests.runtime_children import constant
from tests.test_device import acts, written
from tests.waiting import ENOUGH, wait_for

pytest.importorskip("aiomqtt", reason="needs aiomqtt, of the extra mqtt")
pytestmark = pytest.mark.needs("mosquitto")
NAME = "arm-7"
QUICK = Pace(look=0.05, need=0.1, most=1.0, report=2.0)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that lets all in."""
    with Mosquitto(tmp_path) as found:
        yield found


class Field:
    """A device with its first executor, and what a server has for it."""

    def __init__(self, folder: Path, broker: Mosquitto) -> None:
        self.device = Device(folder / "device")
        self.device.apply(written(folder, "first", constant(1)))
        self.second = written(folder, "second", constant(2))
        self.connect = partial(MqttTransport, MqttOptions(broker.address, keepalive=1))
        self.server = SmallServer(self.connect)
        self.started: set[str] = set()

    def follower(self, address: str, **options: Any) -> Follower:
        """Make a device's program."""
        found = MqttOptions(address, keepalive=1, **options)
        connect = partial(MqttTransport, found)
        return Follower(self.device, connect, SITE, NAME, pace=QUICK, seen=self._seen)

    async def staged(self) -> Report:
        """Let the second executor be desired; wait until it is staged, and check it."""
        desired = self.server.desire(NAME, "apply", self.second)
        report = await self.server.until(NAME, lambda each: each.phase == "STAGED")
        waiting = self.device.status().waiting
        assert waiting is not None
        assert (waiting.held.digest, report.digest) == (desired.digest, desired.digest)
        self.device.confirm()
        await self.server.until(NAME, lambda each: each.phase == "CONFIRMED" and each.online)
        assert acts(self.device) == 2
        # It never started with anything else than these two.
        assert len(self.started) == 2
        return report

    def _seen(self, report: Report) -> None:
        self.started.add(report.active)


@pytest.mark.parametrize("kind", ["cut", "delay", "duplicate", "truncate", "corrupt"])
async def test_it_arrives_over_a_line_that_spoils(
    broker: Mosquitto, tmp_path: Path, kind: str
) -> None:
    """Bytes are lost, late, twice or others; nothing but what was meant is ever active."""
    field = Field(tmp_path, broker)
    proxy = ChaosProxy(broker.port, (kind,), faults=4, every=3, seed=1)
    async with proxy.running(), field.server.running(), following(field.follower(proxy.address)):
        await field.staged()
        await until(lambda: not proxy.left, lambda: proxy.left)
        # And back, once the line is good.
        field.server.desire(NAME, "rollback", digest=field.device.status().active.digest)  # type: ignore[union-attr]
        await field.server.until(NAME, lambda each: each.phase == "ROLLED_BACK")
        assert acts(field.device) == 1


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_it_arrives_though_the_broker_dies(
    broker: Mosquitto, tmp_path: Path, how: str
) -> None:
    """What the broker had retained is gone with it, and is sent again."""
    field = Field(tmp_path, broker)
    follower = field.follower(broker.address)
    async with field.server.running(), following(follower):
        await field.server.until(NAME, lambda each: each.phase == "IDLE")
        field.server.desire(NAME, "apply", field.second)
        if how == "killed":
            broker.kill()
            await until(lambda: follower.report.session)
            broker.start()
        else:
            broker.freeze()
            sessions = follower.report.session
            await until(lambda: follower._session > sessions)
            broker.thaw()
        await field.staged()


async def test_it_arrives_through_a_broker_that_drops(tmp_path: Path) -> None:
    """What overflows its queues is asked for again."""
    lines = ("allow_anonymous true", "max_queued_messages 3", "max_inflight_messages 1")
    with Mosquitto(tmp_path, *lines) as broker:
        field = Field(tmp_path, broker)
        field.server = SmallServer(field.connect, 32)
        async with field.server.running(), following(field.follower(broker.address)):
            await field.staged()
        assert field.server.needs


async def test_a_broker_that_denies_is_told_from_one_that_delivers(tmp_path: Path) -> None:
    """A device that may not ask still takes what is retained; one that may not report is unseen."""
    rules = tmp_path / "rules"
    root = Topics(SITE).root
    rules.write_text(
        f"topic read {root}/#\ntopic write {root}/d/{NAME}/state\n"
        f"user server\ntopic readwrite {root}/#\n"
    )
    passwords = tmp_path / "passwords"
    _run("mosquitto_passwd", "-b", "-c", str(passwords), "server", "secret")
    lines = ("allow_anonymous true", f"acl_file {rules}", f"password_file {passwords}")
    with Mosquitto(tmp_path, *lines) as broker:
        field = Field(tmp_path, broker)
        options = MqttOptions(broker.address, user="server", password="secret")
        field.server = SmallServer(partial(MqttTransport, options))
        follower = field.follower(broker.address)
        async with field.server.running(), following(follower):
            await field.staged()
        assert not field.server.needs
        unseen = Follower(field.device, field.connect, SITE, "arm-8", pace=QUICK)
        async with field.server.running(), following(unseen):
            await until(lambda: unseen.report.online)
            assert "arm-8" not in field.server.reports


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


class TestCommand:
    """`agentkd device run`."""

    def test_it_follows_until_it_is_asked_to_end(self, broker: Mosquitto, tmp_path: Path) -> None:
        """Each new phase is a line; at its end the device says that it left."""
        import asyncio

        field = Field(tmp_path, broker)
        command = [sys.executable, "-m", "agentkd", "device", "run", broker.address]
        command += ["--folder", str(field.device.folder), "--site", SITE, "--device", NAME]
        path = tmp_path / "output"
        with path.open("wb") as output:
            child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

        async def serve() -> Report:
            async with field.server.running():
                field.server.desire(NAME, "apply", field.second)
                await field.server.until(NAME, lambda each: each.phase == "STAGED")
                child.send_signal(signal.SIGTERM)
                return await field.server.until(NAME, lambda each: not each.online)

        try:
            report = asyncio.run(serve())
            assert (child.wait(ENOUGH), report.phase) == (0, "STAGED")
        finally:
            child.kill()
            child.wait()
        said = path.read_text()
        assert "unsigned files too, for there is no --trust" in said
        assert "STAGED" in said
        assert TOPICS.root not in said

    def test_options_that_do_not_go_together_are_refused(self, tmp_path: Path) -> None:
        """Each with what is missing."""
        from agentkd.cli.device import Options, run

        folder = tmp_path / "device"
        for options, said in (
            ({"action": "run"}, "a broker"),
            ({"action": "run", "what": "mqtt://b"}, "--site"),
            ({"action": "run", "what": "b", "site": "s", "device": "d"}, "mqtt://HOST:PORT"),
            ({"action": "status", "site": "s"}, "go with run"),
        ):
            with pytest.raises(ConfigError, match=said):
                run(Options(folder=folder, **options))  # type: ignore[arg-type]


def test_the_thread_ends_with_its_block(broker: Mosquitto, tmp_path: Path) -> None:
    """Beside a robot's loop, over a real line."""
    field = Field(tmp_path, broker)
    with field.follower(broker.address) as follower:
        wait_for(lambda: follower.report.online)
    assert not follower.alive
    assert not follower.report.online
