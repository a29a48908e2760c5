"""A fleet's server over a hub in memory, on a virtual clock, with simulated devices."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agentkd.fleet.messages import Topics
from agentkd.transport.memory import Faults
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
