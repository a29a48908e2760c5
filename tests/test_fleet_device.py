"""A device brings itself to what is desired, whatever the line does, and says how far it came."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentkd.device import Device
from agentkd.errors import ConfigError, LoadError
from agentkd.executors.architecture import initial
from agentkd.fleet.device import Follower
from agentkd.fleet.errand import Pace
from agentkd.fleet.incoming import Incoming
from agentkd.fleet.messages import Desired, Report, blob, read_need, read_report
from agentkd.transport import Message
from agentkd.transport.memory import Faults, Hub
from tests.fleet_server import SITE, TOPICS, SmallServer, following
from tests.runtime_children import BOX, constant
from tests.test_device import acts, written
from tests.virtual_loop import run_virtually
from tests.waiting import wait_for

NAME = "arm-7"


class World:
    """A hub, a server, a device with its first executor, and a follower."""

    def __init__(self, folder: Path, faults: Faults | None = None, **options: Any) -> None:
        self.hub = Hub(faults, seed=options.pop("seed", 0))
        self.folder = folder
        trust = options.pop("trust", None)
        self.device = Device(folder / "device", trust=trust)
        if trust is None:
            self.device.apply(self.written("first", 1))
        self.server = SmallServer(self.hub.line, **options)
        self.lines: list[Any] = []
        self.follower = self.follow()

    def follow(self, **options: Any) -> Follower:
        """Make a follower, as a program that starts does."""

        def connect(*filters: str, **more: Any) -> Any:
            self.lines.append(self.hub.line(*filters, **more))
            return self.lines[-1]

        return Follower(self.device, connect, SITE, NAME, seed=1, **options)

    def written(self, name: str, choice: int) -> Path:
        """Write an executor file."""
        return written(self.folder, name, constant(choice))

    def __call__(self, body: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a test's body beside the server."""

        async def main() -> None:
            async with self.server.running():
                await body()

        run_virtually(main())

    async def phase(self, *phases: str) -> Report:
        """Wait until the device reports a phase."""
        return await self.server.until(NAME, lambda each: each.online and each.phase in phases)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Without faults."""
    return World(tmp_path)


def _left(world: World) -> list[str]:
    folder = world.device.folder / "incoming"
    return sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []


def test_what_is_desired_is_fetched_staged_tried_and_confirmed(world: World) -> None:
    """Each step is reported, with the revision; nothing is left of what was fetched."""
    second = world.written("second", 2)

    async def body() -> None:
        async with following(world.follower):
            report = await world.phase("IDLE")
            assert report.active == world.device.status().active.digest  # type: ignore[union-attr]
            desired = world.server.desire(NAME, "apply", second)
            report = await world.phase("STAGED")
            assert (report.seen, report.digest) == (desired.revision, desired.digest)
            assert report.text == "unsigned"
            assert acts(world.device) == 1
            world.device.begin()
            await world.phase("TRIAL")
            world.device.confirm(desired.digest)
            report = await world.phase("CONFIRMED")
            assert report.active == desired.digest
            assert acts(world.device) == 2
            assert _left(world) == []
            state = world.device.status().active
            assert state is not None
            assert state.name == "second.akd"
        last = world.server.history[NAME][-1]
        assert (last.online, last.phase) == (False, "CONFIRMED")

    world(body)


def test_each_desired_is_acknowledged_and_old_ones_are_not_taken(world: World) -> None:
    """Also one that changes nothing; an older one gets the newest revision for an answer."""
    topic = TOPICS.of(NAME, "desired")

    async def body() -> None:
        async with following(world.follower):
            await world.phase("IDLE")
            world.hub.publish(Message(topic, Desired(7).to_bytes(), retain=True))
            await world.server.until(NAME, lambda each: each.seen == 7)
            old = Desired(6, "rollback", "ab" * 32)
            for payload in (Desired(7).to_bytes(), old.to_bytes()):
                world.server.reports.clear()
                world.hub.publish(Message(topic, payload))
                await world.server.until(NAME, lambda _: True)
                report = world.server.reports[NAME]
                assert (report.seen, report.phase) == (7, "IDLE")

    world(body)


def test_a_refusal_is_reported_with_its_reason(world: World) -> None:
    """And the executor that acted acts on; signing nothing, the device takes a good one later."""
    other = written(world.folder, "other", initial("mlp:4", BOX))
    damaged = world.folder / "damaged.akd"
    damaged.write_bytes(world.written("third", 3).read_bytes()[:-3])

    async def body() -> None:
        async with following(world.follower):
            for file, reason in ((other, "unfit"), (damaged, "damaged")):
                desired = world.server.desire(NAME, "apply", file)
                report = await world.server.until(NAME, lambda e: e.phase == "REFUSED")
                assert (report.digest, report.reason) == (desired.digest, reason)
                assert report.text
                assert acts(world.device) == 1
                world.server.desire(NAME, "hold")
                await world.phase("IDLE")
            world.server.desire(NAME, "apply", world.written("second", 2))
            await world.phase("STAGED")

    world(body)


def test_a_rollback_is_of_what_is_named(world: World) -> None:
    """What neither acts nor waits is left alone, and that counts as done."""
    second = world.written("second", 2)

    async def body() -> None:
        async with following(world.follower):
            desired = world.server.desire(NAME, "apply", second)
            await world.phase("STAGED")
            world.server.desire(NAME, "rollback", digest="ab" * 32)
            await world.server.until(NAME, lambda e: e.digest == "ab" * 32 and e.phase != "IDLE")
            assert world.device.status().waiting is not None
            world.server.desire(NAME, "rollback", digest=desired.digest)
            report = await world.server.until(NAME, lambda e: e.digest == desired.digest)
            assert (report.phase, report.reason) == ("ROLLED_BACK", "asked")
            assert world.device.status().waiting is None
            # It is on the blacklist from here on.
            world.server.desire(NAME, "apply", second)
            report = await world.server.until(NAME, lambda e: e.seen == 4)
            assert (report.phase, report.reason) == ("ROLLED_BACK", "asked")
            first = world.device.status().active
            assert first is not None
            world.server.desire(NAME, "rollback", digest=first.digest)
            report = await world.phase("REFUSED")
            assert report.reason == "empty"
            assert acts(world.device) == 1

    world(body)


def test_an_end_of_the_trial_is_reported(world: World) -> None:
    """A rollback by the robot's own program, with its reason; and it holds after a restart."""
    second = world.written("second", 2)

    async def body() -> None:
        async with following(world.follower):
            desired = world.server.desire(NAME, "apply", second)
            await world.phase("STAGED")
            world.device.begin()
            world.device.fail(desired.digest, "slow", "It took too long.")
            report = await world.phase("ROLLED_BACK")
            assert (report.reason, report.text) == ("slow", "It took too long.")
        world.server.reports.clear()
        async with following(world.follow()):
            report = await world.phase("ROLLED_BACK")
            assert report.reason == "slow"

    world(body)


def test_another_trial_goes_first(world: World) -> None:
    """What is desired waits for it, and says so."""
    second, third = world.written("second", 2), world.written("third", 3)
    world.device.apply(second)

    async def body() -> None:
        async with following(world.follower):
            world.server.desire(NAME, "apply", third)
            report = await world.server.until(NAME, lambda each: each.reason == "busy")
            assert report.phase == "FETCHING"
            world.device.confirm()
            await world.phase("STAGED")
            assert acts(world.device) == 2

    world(body)


def test_a_lost_device_leaves_its_will(world: World) -> None:
    """It carries the boot and the session; the next connection reports that it is there again."""

    async def body() -> None:
        said: list[Report] = []
        async with following(world.follow(seen=said.append)):
            before = await world.phase("IDLE")
            world.lines[0].cut()
            lost = await world.server.until(NAME, lambda each: not each.online)
            assert (lost.boot, lost.session) == (before.boot, 1)
            world.lines[0].restore()
            back = await world.server.until(NAME, lambda each: each.online)
            assert (back.boot, back.session) == (before.boot, 2)
            assert [each.session for each in said] == [1, 2]

    world(body)


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
            assert _left(world) == []

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


def test_the_first_executor_comes_over_the_line_too(tmp_path: Path) -> None:
    """A device without one is no reason to wait for a trial."""
    world = World(tmp_path)
    world.device = Device(tmp_path / "new")
    follower = world.follow()

    async def body() -> None:
        async with following(follower):
            assert (await world.phase("IDLE")).active == ""
            world.server.desire(NAME, "apply", world.written("second", 2))
            assert (await world.phase("CONFIRMED")).active
            assert acts(world.device) == 2

    world(body)


def test_names_are_words() -> None:
    """A name with a slash would be another topic."""
    with pytest.raises(LoadError, match="device's name"):
        Follower(Device("d"), Hub().line, "site", "a/b")
    with pytest.raises(ConfigError, match="need"):
        Pace(need=0)


class TestSigned:
    """A device that trusts a repository."""

    @pytest.fixture(autouse=True)
    def trusted(self, tmp_path: Path) -> None:
        """Its first executor comes over the line."""
        pytest.importorskip("tuf", reason="needs tuf, of the extra fleet")
        from tests.signing import Signer

        self.signer = Signer(tmp_path)
        self.world = World(tmp_path, trust=self.signer.root)

    def test_what_is_signed_comes_in_and_the_rest_does_not(self) -> None:
        """The proof travels in chunks too."""
        one, two = self.world.written("one", 1), self.world.written("two", 2)
        self.signer.sign(one)
        world = self.world

        async def body() -> None:
            async with following(world.follower):
                world.server.desire(NAME, "apply", one)
                report = await world.phase("CONFIRMED")
                assert report.text.startswith("signed as one.akd")
                world.server.desire(NAME, "apply", two)
                report = await world.phase("REFUSED")
                assert (report.reason, "unsigned" in report.text) == ("unsigned", True)
                other = two.with_name("two.akd.proof")
                other.write_bytes(one.with_name("one.akd.proof").read_bytes())
                world.server.desire(NAME, "apply", two)
                report = await world.server.until(NAME, lambda each: "SHA-256" in each.text)
                assert report.reason == "unsigned"
                self.signer.sign(two)
                world.server.desire(NAME, "apply", two)
                await world.phase("STAGED")
                assert acts(world.device) == 1

        world(body)


def test_beside_a_robots_loop_it_works_in_a_thread(tmp_path: Path) -> None:
    """In a `with` block; at its end the device reports that it left."""
    lines: list[Any] = []
    threads: list[str] = []
    device = Device(tmp_path / "device")

    def connect(*filters: str, **more: Any) -> Any:
        lines.append(Hub().line(*filters, **more))
        return lines[-1]

    def seen(report: Report) -> None:
        threads.append(threading.current_thread().name)

    with Follower(device, connect, SITE, NAME, seen=seen) as follower:
        wait_for(lambda: threads, lambda: "nothing was reported")
    assert threads == ["fleet"]
    hub = lines[0]._hub
    report = read_report(hub.retained[TOPICS.of(NAME, "state")])
    assert (report.online, report.boot) == (False, follower.report.boot)


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
