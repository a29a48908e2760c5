"""What is hostile, damaged, too large or in the way changes nothing on a device, and is told."""

from __future__ import annotations

import asyncio
import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentkd.device import Device
from agentkd.fleet.errand import Pace
from agentkd.fleet.incoming import Incoming
from agentkd.fleet.messages import Desired
from agentkd.transport import Message
from agentkd.transport.blobs import blob, read_need
from agentkd.transport.memory import Faults
from tests.fleet_one_device import NAME, World, left
from tests.fleet_server import TOPICS, following
from tests.test_device import acts


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Without faults."""
    return World(tmp_path)


def test_a_program_that_is_killed_goes_on_with_the_chunks_that_came(tmp_path: Path) -> None:
    """Those on the disk are not asked for again; a damaged one is."""
    world = World(tmp_path, chunk=64, retain=False)
    second = world.written("second", 2)
    data = second.read_bytes()
    made, chunks = blob(data, 64)
    asked: list[int] = []
    topic = TOPICS.of(NAME, "desired")

    async def body() -> None:
        line = world.hub.line(TOPICS.of(NAME, "need"))
        desired = Desired(1, "apply", made.digest, "second.akd", made)
        world.hub.publish(Message(topic, desired.to_bytes(), retain=True))
        async with following(world.follower):
            await world.server.until(NAME, lambda each: each.phase == "FETCHING")
            await asyncio.sleep(0.3)
            for index in range(10):
                world.hub.publish(Message(TOPICS.chunk(made.digest, index), chunks[index]))
            await world.server.until(NAME, lambda each: each.fetched == 10)
        path = world.device.folder / "incoming" / f"{made.digest}.akd"
        with path.open("r+b") as file:
            file.seek(64 * 3)
            file.write(b"damaged")
        async with following(world.follow()):
            async for each in line.receive():
                if not each.connected:
                    asked.extend(read_need(each.payload).missing)
                    if asked == [3, *range(10, len(chunks))]:
                        break
                    asked.clear()
            for index in asked:
                world.hub.publish(Message(TOPICS.chunk(made.digest, index), chunks[index]))
            await world.phase("STAGED")

    world(body)


def test_hostile_messages_change_nothing_and_are_counted(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """One line a kind is logged; names from outside are never paths."""
    second = world.written("second", 2)
    made, chunks = blob(second.read_bytes(), 256)
    topic = TOPICS.of(NAME, "desired")
    before = sorted(str(each) for each in world.folder.rglob("*"))

    async def body() -> None:
        async with following(world.follower):
            await world.phase("IDLE")
            told = Desired(1, "apply", made.digest, "second.akd", made).to_bytes()
            for payload in (
                b"",
                b"{}",
                b"\xff",
                told.replace(made.digest.encode(), b"../../" + b"a" * 58),
                told.replace(b"second.akd", b"../second.akd"),
                told.replace(b'"size":', b'"size":1'),
            ):
                world.hub.publish(Message(topic, payload))
            await asyncio.sleep(10)
            assert world.server.reports[NAME].phase == "IDLE"
            assert sorted(str(each) for each in world.folder.rglob("*")) == before
            world.hub.publish(Message(topic, told))
            await world.phase("FETCHING")
            await asyncio.sleep(0.6)
            for index in range(len(chunks)):
                world.hub.publish(Message(TOPICS.chunk(made.digest, index), b"hostile"))
            world.hub.publish(Message(f"{TOPICS.root}/b/{made.digest}/99999", b"hostile"))
            world.hub.publish(Message(f"{TOPICS.root}/b/{made.digest}/x", b"hostile"))
            world.server.file(second.read_bytes())
            await world.phase("STAGED")

    world(body)
    assert world.follower.strange == {"desired": 5, "chunk": len(chunks)}
    assert len([each for each in caplog.records if "ignored" in each.message]) == 2


def test_chunks_that_do_not_make_up_the_file_are_refused(world: World) -> None:
    """Each is what its hash says, and the whole is not what the digest says."""
    data = world.written("second", 2).read_bytes()

    made = replace(blob(data, 256)[0], digest="ab" * 32)

    async def body() -> None:
        async with following(world.follower):
            await world.phase("IDLE")
            desired = Desired(1, "apply", made.digest, "x", made)
            world.hub.publish(Message(TOPICS.of(NAME, "desired"), desired.to_bytes()))
            await world.phase("FETCHING")
            await asyncio.sleep(0.6)
            for index, chunk in enumerate(blob(data, 256)[1]):
                world.hub.publish(Message(TOPICS.chunk(made.digest, index), chunk))
            report = await world.phase("REFUSED")
            assert (report.reason, "do not make up" in report.text) == ("damaged", True)
            assert acts(world.device) == 1

    world(body)


def test_what_is_too_large_is_not_fetched(world: World) -> None:
    """A file that a device would not read is refused before its first chunk."""
    hashes = ("ab" * 32,) * 2048
    made = replace(blob(b"x", 256)[0], size=2048 << 18, chunk=1 << 18, hashes=hashes)

    async def body() -> None:
        async with following(world.follower):
            await world.phase("IDLE")
            desired = Desired(1, "apply", made.digest, "x", made)
            world.hub.publish(Message(TOPICS.of(NAME, "desired"), desired.to_bytes()))
            report = await world.phase("REFUSED")
            assert "536,870,912 bytes" in report.text
            assert left(world) == []

    world(body)


def test_a_full_disk_is_reported_and_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once there is room again, the device goes on by itself."""
    second = world.written("second", 2)

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    async def body() -> None:
        async with following(world.follower):
            with monkeypatch.context() as patched:
                patched.setattr(os, "pwrite", full)
                world.server.desire(NAME, "apply", second)
                report = await world.server.until(NAME, lambda each: each.reason == "unwritten")
                assert (report.phase, "No space" in report.text) == ("FETCHING", True)
            await world.phase("STAGED")

    world(body)


def test_a_damaged_state_is_reported(world: World) -> None:
    """Until it is repaired; then the device goes on."""
    kept = world.device.path.read_bytes()

    async def body() -> None:
        async with following(world.follower):
            await world.phase("IDLE")
            world.device.path.write_bytes(b"{}")
            world.server.desire(NAME, "apply", world.written("second", 2))
            report = await world.phase("REFUSED")
            assert (report.reason, report.active) == ("damaged", "")
            world.device.path.write_bytes(kept)
            await world.phase("STAGED")

    world(body)


def test_an_error_of_the_gate_ends_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is, it is reported, and the next executor is taken."""

    def fails(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("unheard of")

    async def body() -> None:
        async with following(world.follower):
            with monkeypatch.context() as patched:
                patched.setattr(Device, "apply", fails)
                world.server.desire(NAME, "apply", world.written("second", 2))
                report = await world.phase("REFUSED")
                assert (report.reason, "unheard of" in report.text) == ("error", True)
            world.server.desire(NAME, "apply", world.written("third", 3))
            await world.phase("STAGED")

    world(body)


def test_incoming_chunks_are_known_by_their_hashes(tmp_path: Path) -> None:
    """Whatever lies there: nothing, less, more, or another file."""
    data = os.urandom(1000)
    made, chunks = blob(data, 256)
    path = tmp_path / "incoming" / "x"
    file = Incoming(path, made)
    assert file.missing == {0, 1, 2, 3}
    file.put(2, chunks[2])
    assert (Incoming(path, made).missing, file.here) == ({0, 1, 3}, 1)
    path.write_bytes(data[:600])
    assert Incoming(path, made).missing == {2, 3}
    path.write_bytes(data + b"more")
    assert Incoming(path, made).missing == set()
    assert file.whole()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == made.digest
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="x"):
        Incoming(path, made)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("seed", range(4))
def test_it_arrives_over_a_hub_that_spoils(tmp_path: Path, seed: int) -> None:
    """Messages are lost, repeated, changed, cut short and out of order; the file is as it was."""
    faults = Faults(loss=0.3, repeat=0.2, damage=0.2, delay=2.0)
    world = World(tmp_path, faults, seed=seed, chunk=64)
    second = world.written("second", 2)

    async def body() -> None:
        async with following(world.follow(pace=Pace(need=0.5, most=5.0, report=2.0))):
            desired = world.server.desire(NAME, "apply", second)
            await world.phase("STAGED")
            state = world.device.confirm()
            assert state.active is not None
            assert state.active.digest == desired.digest
            await world.phase("CONFIRMED")
            assert acts(world.device) == 2

    world(body)
