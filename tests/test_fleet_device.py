"""A device brings itself to what is desired, whatever the line does, and says how far it came."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from agentkd.device import Device
from agentkd.errors import ConfigError, LoadError
from agentkd.executors.architecture import initial
from agentkd.fleet.device import Follower
from agentkd.fleet.errand import Pace
from agentkd.fleet.messages import Desired, Report, read_report
from agentkd.transport import Message
from agentkd.transport.memory import Hub
from tests.fleet_one_device import NAME, World, left
from tests.fleet_server import SITE, TOPICS, following
from tests.runtime_children import BOX
from tests.test_device import acts, written
from tests.waiting import wait_for


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Without faults."""
    return World(tmp_path)


def test_a_report_leaves_numbers_above_what_was_seen() -> None:
    """A server goes on above it, and that has to be a number that devices read."""
    report = Report("0" * 16, 1, online=True, seen=2**62 + 1)
    with pytest.raises(LoadError, match="seen"):
        read_report(report.to_bytes())


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
            assert left(world) == []
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


def test_what_is_done_by_hand_is_reported_and_not_undone(world: World) -> None:
    """A rollback on the device itself; and another executor that came in there."""
    second, third = world.written("second", 2), world.written("third", 3)

    async def body() -> None:
        async with following(world.follower):
            world.server.desire(NAME, "apply", second)
            await world.phase("STAGED")
            world.device.confirm()
            await world.phase("CONFIRMED")
            world.device.apply(third)
            world.device.confirm()
            report = await world.phase("REFUSED")
            assert (report.reason, acts(world.device)) == ("replaced", 3)
            world.device.rollback()
            await world.phase("CONFIRMED")

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


def test_it_ends_though_something_comes_at_that_moment(world: World) -> None:
    """A cancellation is not lost in the wait for news."""

    async def body() -> None:
        for _ in range(3):
            task = asyncio.create_task(world.follower.run())
            await asyncio.sleep(1.25)
            world.follower._wake.set()
            task.cancel()
            _, open_still = await asyncio.wait([task], timeout=100)
            assert not open_still

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


def test_each_try_to_connect_is_not_told(world: World) -> None:
    """A broker that is away for long makes no lines; that it is there again makes one."""
    told: list[Report] = []

    async def body() -> None:
        async with following(world.follow(seen=told.append)):
            await world.phase("IDLE")
            await asyncio.sleep(10)
            (line,) = world.lines
            line.cut()
            before = len(told)
            for _ in range(50):
                line._will_of()  # each try asks for a new will
                await asyncio.sleep(10)
            assert len(told) == before
            line.restore()
            await asyncio.sleep(10)
            assert len(told) == before + 1

    world(body)
