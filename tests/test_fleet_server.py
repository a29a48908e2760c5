"""A fleet's server over a hub in memory, on a virtual clock, with simulated devices."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agentkd.fleet.audit import AuditLog
from agentkd.fleet.messages import Report
from agentkd.fleet.office import Office, told
from agentkd.fleet.server import Server, filters
from agentkd.transport.blobs import need
from agentkd.transport.memory import Faults
from agentkd.transport.names import Topics
from agentkd.transport.transport import Message
from tests.fleet_world import SITE, World, executor_file, live, office


def test_an_executor_reaches_every_device(tmp_path: Path) -> None:
    """All confirm it, wave by wave, and the chunks are taken back."""

    async def main(world: World) -> None:
        world.serve()
        for index in range(40):
            world.add(f"d{index}", trial=1.0)
        await world.until(lambda: len(world.fleet.devices) == 40)
        plan = world.push(executor_file(tmp_path))
        assert await world.over() == "finished"
        assert world.fleet.counts["confirmed"] == 40
        assert {each.active for each in world.devices.values()} == {plan.digest}
        await asyncio.sleep(1)
        assert [each for each in world.hub.retained if "/b/" in each] == []

    live(office(tmp_path), main)


@pytest.mark.parametrize("seed", range(3))
def test_a_bad_line_delays_and_loses_nothing(tmp_path: Path, seed: int) -> None:
    """With loss, repetition, damage and delay all devices get the whole file."""

    async def main(world: World) -> None:
        world.serve()
        for index in range(12):
            world.add(f"d{index}")
        await world.until(lambda: len(world.fleet.devices) == 12, 600)
        world.push(executor_file(tmp_path), waves=(50.0, 100.0))
        assert await world.over(36000) == "finished"
        assert world.fleet.counts["confirmed"] == 12

    faults = Faults(loss=0.2, repeat=0.2, delay=2.0)
    live(office(tmp_path), main, faults=faults, seed=seed)


def test_1000_devices_with_5_per_cent_faulty_abort(tmp_path: Path) -> None:
    """The first wave stops it, and no device is without an executor."""

    async def main(world: World) -> None:
        world.serve()
        for index in range(1000):
            world.add(f"d{index}", trial=5.0, end="CONFIRMED" if index % 20 else "ROLLED_BACK")
        await world.until(lambda: len(world.fleet.devices) == 1000)
        world.push(executor_file(tmp_path), abort={"rolled-back": 0.02}, sample=20)
        assert await world.over() == "aborted"
        rollout = world.fleet.rollout
        assert rollout is not None
        assert "rolled it back" in rollout.text
        await asyncio.sleep(30)
        took = [each for each in world.devices.values() if len(each.had) > 1]
        assert 0 < len(took) < 300
        assert all(each.active for each in world.devices.values())

    live(office(tmp_path), main)


def test_a_device_that_comes_back_gets_it(tmp_path: Path) -> None:
    """One that was off line during the whole rollout, and one that is new, are asked later."""

    async def main(world: World) -> None:
        world.serve()
        for index in range(6):
            world.add(f"d{index}")
        await world.until(lambda: len(world.fleet.devices) == 6)
        await world.stop("d3")
        await world.until(lambda: world.fleet.online == 5)
        plan = world.push(executor_file(tmp_path), waves=(50.0, 100.0), sample=2)
        assert await world.over() == "finished"
        assert world.fleet.counts["absent"] == 1
        back, fresh = world.add("d3"), world.add("new")
        await world.until(lambda: world.fleet.counts["confirmed"] == 7, 60)
        assert back.active == fresh.active == plan.digest

    live(office(tmp_path), main)


def test_the_abort_takes_it_back_if_asked(tmp_path: Path) -> None:
    """With `back`, devices that took it return to the former one."""

    async def main(world: World) -> None:
        world.serve()
        for index in range(10):
            world.add(f"d{index}", trial=1.0 + index, end="CONFIRMED" if index else "ROLLED_BACK")
        await world.until(lambda: len(world.fleet.devices) == 10)
        world.push(executor_file(tmp_path), waves=(100.0,), back=True, sample=8)
        assert await world.over() == "rolled-back"
        await asyncio.sleep(60)
        assert {each.active for each in world.devices.values()} == {"0" * 64}

    live(office(tmp_path), main)


def test_a_server_goes_on_where_another_was_killed(tmp_path: Path) -> None:
    """A server is ended again and again; nothing is asked twice and all confirm."""

    async def main(world: World) -> None:
        world.serve()
        for index in range(20):
            world.add(f"d{index}", trial=0.5)
        await world.until(lambda: len(world.fleet.devices) == 20)
        world.push(executor_file(tmp_path))
        while world.fleet.rollout is None or world.fleet.rollout.course == "running":
            await asyncio.sleep(0.13)
            await world.stop("server")
            world.serve()
        assert await world.over() == "finished"
        await world.until(lambda: world.fleet.counts["confirmed"] == 20, 60)
        assert all(len(each.had) == 2 for each in world.devices.values())

    live(office(tmp_path), main)


def test_a_broker_that_forgot_everything_is_told_again(tmp_path: Path) -> None:
    """After a connection is lost with all that was retained, the rollout goes on."""

    async def main(world: World) -> None:
        world.serve()
        for index in range(8):
            world.add(f"d{index}", trial=20.0)
        await world.until(lambda: len(world.fleet.devices) == 8)
        world.push(executor_file(tmp_path), waves=(50.0, 100.0))
        await asyncio.sleep(1)
        lines = [each.line for each in world.devices.values()]
        assert world.server is not None
        lines.append(world.server._transport)
        for line in lines:
            line.cut()  # type: ignore[union-attr]
        world.hub.retained.clear()
        for line in lines:
            line.restore()  # type: ignore[union-attr]
        assert await world.over() == "finished"
        assert world.fleet.counts["confirmed"] == 8

    live(office(tmp_path), main)


def test_nonsense_is_counted_and_changes_nothing(tmp_path: Path) -> None:
    """What is not a message of a device's leaves no line in the trail."""

    async def main(world: World) -> None:
        world.serve()
        world.add("d0")
        await world.until(lambda: len(world.fleet.devices) == 1)
        before = world.fleet.number
        topics = Topics(SITE)
        for payload in (b"", b"{}", b"\xff", b"[" * 100_000, b'{"boot": 1}'):
            world.hub.publish(Message(topics.of("d0", "state"), payload))
            world.hub.publish(Message(topics.of("x", "need"), payload))
            world.hub.publish(Message(f"{topics.root}/d/../state", payload))
        await asyncio.sleep(1)
        assert world.fleet.number == before
        assert world.server is not None
        assert world.server.counters["messages_refused"] > 5

    live(office(tmp_path), main)


def test_a_device_that_changes_its_mind_for_ever_fills_no_disk(tmp_path: Path) -> None:
    """A device causes a bounded number of lines; the newest report still counts."""

    async def main(world: World) -> None:
        world.serve()
        device = world.add("d0")
        await world.until(lambda: len(world.fleet.devices) == 1)
        for index in range(500):
            device._say(reason=f"mood {index}")
            await asyncio.sleep(0.2)
        assert world.fleet.number < 60
        await asyncio.sleep(10)
        assert world.fleet.devices["d0"].reason == "mood 499"

    live(office(tmp_path), main)


def test_a_fresh_trail_outbids_an_old_one(tmp_path: Path) -> None:
    """Devices that obeyed a server with a longer trail obey the new one."""

    async def main(world: World) -> None:
        device = world.add("d0")
        device.report = device.report.__class__(
            device.report.boot, 1, online=True, seen=5000, active="0" * 64
        )
        world.serve()
        await world.until(lambda: len(world.fleet.devices) == 1)
        plan = world.push(executor_file(tmp_path))
        assert await world.over(60) == "finished"
        assert device.active == plan.digest

    live(office(tmp_path), main)


def test_two_servers_of_one_fleet_do_not_make_devices_change_for_ever(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each outbids the other once; the one that is outbid again logs it and leaves the device."""

    async def main(world: World) -> None:
        world.serve()
        (tmp_path / "other").mkdir()
        place = office(tmp_path / "other")
        other = Office(place.folder, asyncio.get_running_loop().time)
        line = world.hub.line(*filters(SITE))
        serving = asyncio.create_task(Server(other, line).run())
        devices = [world.add(f"d{index}", trial=3.0) for index in range(3)]
        await world.until(lambda: len(world.fleet.devices) == len(other.fleet.devices) == 3)
        world.push(executor_file(tmp_path, 0, "a.akd"))
        assert await world.over(60) == "finished"
        plan = Office(place.folder).push(executor_file(tmp_path, 1, "b.akd"))
        await asyncio.sleep(300)
        changes, lines = [len(each.had) for each in devices], world.fleet.number
        assert max(changes) <= 4
        await asyncio.sleep(3600)
        assert [len(each.had) for each in devices] == changes
        assert (world.fleet.number, {each.active for each in devices}) == (lines, {plan.digest})
        # The server that pushes again wins.
        last = world.push(executor_file(tmp_path, 2, "c.akd"))
        await asyncio.sleep(600)
        assert {each.active for each in devices} == {last.digest}
        Office(place.folder).push(executor_file(tmp_path, 3, "d.akd"))
        await asyncio.sleep(600)
        # This server and the other, and this one again in another rollout.
        assert caplog.text.count("obeys another server of plant") == 3
        serving.cancel()

    live(office(tmp_path), main)


@pytest.mark.parametrize("away", [False, True])
def test_a_start_overwrites_nothing_of_another_server(tmp_path: Path, away: bool) -> None:
    """The other's word stays at the broker for a device that is off line.

    Also if it was said while this server was away, so that only the device's will tells of it.
    """

    async def main(world: World) -> None:
        world.serve()
        (tmp_path / "other").mkdir()
        place = office(tmp_path / "other")
        other = Office(place.folder, asyncio.get_running_loop().time)
        serving = asyncio.create_task(Server(other, world.hub.line(*filters(SITE))).run())
        device = world.add("d0", trial=3.0)
        await world.until(lambda: len(world.fleet.devices) == len(other.fleet.devices) == 1)
        world.push(executor_file(tmp_path, 0, "a.akd"))
        assert await world.over(60) == "finished"
        if away:
            await world.stop("server")
        plan = Office(place.folder).push(executor_file(tmp_path, 1, "b.akd"))
        await asyncio.sleep(300)
        assert device.active == plan.digest
        await world.stop("d0")
        await asyncio.sleep(5)
        if not away:
            await world.stop("server")
        topic = Topics(SITE).of("d0", "desired")
        said = world.hub.retained[topic]
        world.serve()
        await asyncio.sleep(60)
        assert world.hub.retained[topic] == said
        serving.cancel()

    live(office(tmp_path), main)


def test_the_chunks_of_a_paused_rollout_do_not_stay(tmp_path: Path) -> None:
    """Another push takes them back, also if another server had published them."""

    async def main(world: World) -> None:
        world.serve()
        for index in range(4):
            world.add(f"d{index}", trial=30.0)
        await world.until(lambda: len(world.fleet.devices) == 4)
        first = world.push(executor_file(tmp_path, 0, "first.akd"), waves=(50.0, 100.0))
        await world.until(lambda: any(first.digest in each for each in world.hub.retained))
        world.desk().command("pause")
        await asyncio.sleep(1)
        assert any(first.digest in each for each in world.hub.retained)
        await world.stop("server")
        second = world.push(executor_file(tmp_path, 1, "second.akd"))
        world.serve()
        await world.until(lambda: any(second.digest in each for each in world.hub.retained))
        assert not any(first.digest in each for each in world.hub.retained)
        assert await world.over() == "finished"
        await asyncio.sleep(1)
        assert not any("/b/" in each for each in world.hub.retained)

    live(office(tmp_path), main)


def test_a_chunk_that_is_asked_for_late_is_not_retained(tmp_path: Path) -> None:
    """A device with a former rollout's executor in mind leaves nothing at the broker."""

    async def main(world: World) -> None:
        world.serve()
        for index in range(4):
            world.add(f"d{index}", trial=1.0)
        await world.until(lambda: len(world.fleet.devices) == 4)
        first = world.push(executor_file(tmp_path, 0, "first.akd"))
        assert await world.over() == "finished"
        # It is paused at once, so the devices' target is still the first.
        world.push(executor_file(tmp_path, 1, "second.akd"), waves=(25.0, 100.0), sample=1)
        world.desk().command("pause")
        await asyncio.sleep(30)
        waits = [each for each in world.fleet.devices.values() if not each.asked]
        assert waits
        payload = need(first.digest, [0]).to_bytes()
        world.hub.publish(Message(Topics(SITE).of(waits[0].name, "need"), payload))
        assert world.server is not None
        counters = world.server.counters
        await world.until(lambda: counters["needs_answered"] == 1, 60)
        await asyncio.sleep(5)
        assert not any(first.digest in each for each in world.hub.retained)

    live(office(tmp_path), main)


def test_a_clock_that_is_set_back_holds_nothing_up(tmp_path: Path) -> None:
    """Messages go out, and limits end, as if it had not been."""
    place = office(tmp_path)
    shift = 0.0

    async def main(world: World) -> None:
        nonlocal shift
        loop = asyncio.get_running_loop()
        world.clock = lambda: 1e6 + loop.time() - shift
        world.serve()
        for index in range(4):
            world.add(f"d{index}", end="" if index == 3 else "CONFIRMED")
        await world.until(lambda: len(world.fleet.devices) == 4)
        world.push(executor_file(tmp_path), waves=(100.0,), limit=60.0, sample=4)
        await world.until(lambda: world.fleet.counts["confirmed"] == 3, 20)
        shift = 5e5
        await world.until(lambda: world.fleet.counts["timed-out"] == 1, 90)
        # And what is asked for is sent.
        assert world.server is not None
        counters, plan = world.server.counters, world.fleet.plans[world.fleet.rollout.number]  # type: ignore[union-attr]
        before = counters["chunks_sent"]
        payload = need(plan.digest, [0]).to_bytes()
        world.hub.publish(Message(Topics(SITE).of("d0", "need"), payload))
        await world.until(lambda: counters["chunks_sent"] > before, 10)

    live(place, main)


def test_a_clock_that_is_set_on_ends_no_limit(tmp_path: Path) -> None:
    """A day on and back again: no device is late for it, and who is late is late in time."""
    shift = 0.0

    async def main(world: World) -> None:
        nonlocal shift
        loop = asyncio.get_running_loop()
        world.clock = lambda: 1e6 + loop.time() + shift
        world.serve()
        for index in range(4):
            world.add(f"d{index}", end="" if index == 3 else "CONFIRMED", trial=60.0)
        await world.until(lambda: len(world.fleet.devices) == 4)
        world.push(executor_file(tmp_path), waves=(100.0,), limit=600.0, sample=4)
        await asyncio.sleep(20)
        shift = 86400.0
        await asyncio.sleep(10)
        assert world.fleet.counts["pending"] == 4
        shift = 0.0
        await world.until(lambda: world.fleet.counts["confirmed"] == 3, 100)
        await asyncio.sleep(400)
        assert world.fleet.counts["timed-out"] == 0
        await world.until(lambda: world.fleet.counts["timed-out"] == 1, 200)
        events = [told(each.event) for each in AuditLog(world.office.folder).read()]
        assert sum("clock was set on by 86,400 s" in each for each in events) == 1

    live(office(tmp_path), main)


def test_a_clock_that_is_set_on_twice_at_once_ends_no_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time while the server reads its trail."""
    shift, look = 0.0, Office.look

    async def main(world: World) -> None:
        nonlocal shift
        loop = asyncio.get_running_loop()
        world.clock = lambda: 1e6 + loop.time() + shift
        world.serve()
        world.add("d0", trial=60.0)
        await world.until(lambda: len(world.fleet.devices) == 1)
        world.push(executor_file(tmp_path), waves=(100.0,), limit=600.0, sample=1)
        await asyncio.sleep(20)

        def jumps(found: Office) -> Any:
            nonlocal shift
            entries = look(found)
            if found is world.office and shift == 86400.0:
                shift *= 2
                assert world.server is not None
                world.server._clock()
            return entries

        monkeypatch.setattr(Office, "look", jumps)
        shift = 86400.0
        assert await world.over(100) == "finished"
        assert world.fleet.counts["confirmed"] == 1

    live(office(tmp_path), main)


def test_a_file_that_is_missing_pauses_its_rollout(tmp_path: Path) -> None:
    """The server goes on, says why, and resumes once the file is there again."""

    async def main(world: World) -> None:
        world.serve()
        for index in range(4):
            world.add(f"d{index}", trial=1.0)
        await world.until(lambda: len(world.fleet.devices) == 4)
        await world.stop("server")
        plan = world.push(executor_file(tmp_path))
        path = world.office.folder / "files" / plan.digest
        data = path.read_bytes()
        path.write_bytes(data[:-1])
        world.serve()
        await world.until(lambda: world.fleet.rollout.course == "paused")  # type: ignore[union-attr]
        assert world.server is not None
        assert world.server.metrics()["fleet_files_missing"] == 1
        lines = (world.office.folder / "audit.log").read_text()
        assert "the server: " in lines
        assert "is not what was pushed" in lines
        world.desk().command("resume")
        await asyncio.sleep(0.5)
        world.office.look()
        assert world.fleet.rollout is not None
        assert world.fleet.rollout.course == "paused"
        path.write_bytes(data)
        await asyncio.sleep(5)
        world.desk().command("resume")
        assert await world.over() == "finished"
        assert world.server.metrics()["fleet_files_missing"] == 0

    live(office(tmp_path), main)


def test_a_device_that_needs_a_missing_file_waits_for_it(tmp_path: Path) -> None:
    """A finished rollout whose file is gone stops neither the server nor other devices."""

    async def main(world: World) -> None:
        world.serve()
        for index in range(4):
            world.add(f"d{index}", trial=1.0)
        await world.until(lambda: len(world.fleet.devices) == 4)
        plan = world.push(executor_file(tmp_path))
        assert await world.over() == "finished"
        await world.stop("server")
        path = world.office.folder / "files" / plan.digest
        data = path.read_bytes()
        path.unlink()
        world.serve()
        late = world.add("late")
        await asyncio.sleep(30)
        assert late.active != plan.digest
        path.write_bytes(data)
        await world.until(lambda: late.active == plan.digest, 60)

    live(office(tmp_path), main)


def test_an_old_will_hides_no_newer_report(tmp_path: Path) -> None:
    """Whichever comes first within a turn; and a will of its own takes nothing away."""

    async def main(world: World) -> None:
        world.serve()
        topic = Topics(SITE).of("d0", "state")

        def say(session: int, **told: Any) -> None:
            report = Report("0" * 16, session, **told)
            world.hub.publish(Message(topic, report.to_bytes(), retain=True))

        say(1, online=True)
        await world.until(lambda: len(world.fleet.devices) == 1)
        device = world.fleet.devices["d0"]
        say(2, online=True, reason="newer")
        say(1, online=False)
        await asyncio.sleep(1)
        assert (device.online, device.session, device.reason) == (True, 2, "newer")
        say(2, online=True, reason="last")
        say(2, online=False, reason="old")
        await asyncio.sleep(1)
        assert (device.online, device.reason) == (False, "last")

    live(office(tmp_path), main)


@pytest.mark.parametrize("steps", range(4))
def test_a_server_that_is_cancelled_ends(tmp_path: Path, steps: int) -> None:
    """At whatever step of the loop it is cancelled, news or not."""

    async def main(world: World) -> None:
        world.serve()
        await asyncio.sleep(0.05)
        assert world.server is not None
        world.server._news.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        task = world.tasks.pop("server")
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=60)
        assert done == {task}

    live(office(tmp_path), main)
