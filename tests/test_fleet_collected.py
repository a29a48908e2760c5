"""What a server keeps of what devices tell, and what is drawn from it to be labelled."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from agentkd.errors import ConfigError, LoadError
from agentkd.fleet.knowledge import Knowledge, gather
from agentkd.fleet.known import Known
from agentkd.fleet.notes import LARGEST, Note
from agentkd.fleet.server import Server
from agentkd.fleet.sharing import LEDGER, Sharing
from agentkd.transport.memory import Hub
from agentkd.transport.names import Topics
from agentkd.transport.transport import Received
from agentkd.types import Floats
from tests.fleet_one_device import World as OneDevice
from tests.fleet_server import following
from tests.fleet_world import SITE, World, executor_file, live, office
from tests.test_fleet_knowledge import note, put, rows
from tests.virtual_loop import run_virtually


class Pushed:
    """A server's folder in which an executor lies that was pushed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "fleet"
        place = office(folder)
        self.digest = place.push(executor_file(folder)).digest
        self.knowledge = Knowledge(self.folder)

    def take(self, device: str, obs: Floats) -> int:
        """Let a device tell."""
        hard = np.ones(len(obs), np.float32)
        return self.knowledge.take(device, Note(self.digest, obs, hard).to_bytes())


@pytest.fixture
def pushed(tmp_path: Path) -> Pushed:
    """Such a folder."""
    return Pushed(tmp_path)


def test_the_newest_observations_of_a_device_are_kept(pushed: Pushed) -> None:
    """So many, and no more; a server that starts anew goes on."""
    for each in range(5):
        assert pushed.take("a", rows(1000, value=float(each))) == 1000
    pushed.knowledge = Knowledge(pushed.folder)
    pushed.take("a", rows(1, value=7.0))
    found = gather(pushed.folder, 3)
    assert found.devices == {"a": 2048}
    assert sorted(set(found.obs[:, 0].tolist())) == [2.0, 3.0, 4.0, 7.0]


def test_of_large_observations_fewer_are_kept(
    pushed: Pushed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many bytes of a device, as all of them are written with each note."""
    monkeypatch.setattr("agentkd.fleet.knowledge._EACH_BYTES", 10 * 4 * (3 + 1) + 15)
    for each in range(5):
        pushed.take("a", rows(7, value=float(each)))
    found = gather(pushed.folder, 3)
    assert sorted(found.obs[:, 0].tolist()) == [3.0] * 3 + [4.0] * 7


def test_what_does_not_fit_the_executor_is_refused(pushed: Pushed) -> None:
    """Another size, numbers beyond all bounds, or an executor that was never pushed."""
    with pytest.raises(LoadError, match="4 numbers"):
        pushed.take("a", rows(2, size=4))
    with pytest.raises(LoadError, match="too far off"):
        pushed.take("a", rows(2, value=1e20))
    with pytest.raises(LoadError, match="No executor bbbb"):
        pushed.knowledge.take("a", note(2, "b" * 64).to_bytes())
    with pytest.raises(LoadError):
        pushed.knowledge.take("../../a", note(2, pushed.digest).to_bytes())
    with pytest.raises(ConfigError, match="holds no observations"):
        gather(pushed.folder, 3)


def test_no_device_gives_more_than_its_share(pushed: Pushed) -> None:
    """Nor can one that gives little make the others give little."""
    for each in range(20):
        pushed.take(f"d{each}", rows(100, value=0.1 * (each % 5)))
    pushed.take("loud", rows(2000, value=0.2))
    pushed.take("shy", rows(1, value=0.2))
    found = gather(pushed.folder, 3, share=0.1)
    assert found.devices["loud"] == 100
    assert found.devices["d0"] == 100
    assert found.devices["shy"] == 1
    few = gather(pushed.folder, 3, most=220)
    assert len(few.obs) <= 220
    assert max(few.devices.values()) <= 22


def test_of_five_devices_one_gives_a_third_at_most(pushed: Pushed) -> None:
    """As the guide says of few."""
    for each, count in enumerate((500, 400, 300, 1, 1)):
        pushed.take(f"d{each}", rows(count))
    found = gather(pushed.folder, 3)
    assert list(found.devices.values()) == [300, 300, 300, 1, 1]
    assert max(found.devices.values()) <= len(found.obs) / 3


def test_what_others_did_not_meet_is_left_out(pushed: Pushed) -> None:
    """Where some of many devices say that they were elsewhere."""
    drawn = np.random.default_rng(0)
    for each in range(20):
        pushed.take(f"d{each}", drawn.normal(size=(200, 3)).astype(np.float32))
    for each in range(2):
        pushed.take(f"liar{each}", rows(500, value=900.0))
    found = gather(pushed.folder, 3)
    assert found.outside >= 1000
    assert float(np.abs(found.obs).max()) < 10
    assert "liar0" not in found.devices


def test_devices_of_which_nothing_is_left_do_not_count(pushed: Pushed) -> None:
    """They take nothing from the others; where there are no others, that is said."""
    for each, value in enumerate((-90.0, 0.0, 90.0)):
        spread = rows(10, value=value)
        spread[:, each] += 200.0
        pushed.take(f"d{each}", spread)
    with pytest.raises(ConfigError, match="Of 30 observations of 3 devices none"):
        gather(pushed.folder, 3)
    for each in range(3):
        (pushed.folder / "knowledge" / f"d{each}.safetensors").unlink()
    for each, value in enumerate((-90.0, -80.0, 0.0, 80.0, 90.0)):
        pushed.take(f"e{each}", rows(10, value=value))
    found = gather(pushed.folder, 3, share=0.4)
    assert found.devices == {"e2": 10}
    assert found.outside == 40


def test_a_damaged_file_is_named(pushed: Pushed) -> None:
    """What lies in the folder is not trusted."""
    pushed.take("a", rows(2))
    path = pushed.folder / "knowledge" / "a.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(LoadError):
        gather(pushed.folder, 3)


def test_notes_come_to_the_server_and_lies_do_not(tmp_path: Path) -> None:
    """On the way a device's; a stranger, a flood and nonsense are counted and not kept."""

    async def main(world: World) -> None:
        world.serve(collect=True)
        world.add("d0")
        world.add("d1")
        await world.until(lambda: len(world.fleet.devices) == 2)
        plan = world.push(executor_file(tmp_path))
        assert await world.over() == "finished"
        server = world.server
        assert server is not None
        good = note(3, plan.digest).to_bytes()
        world.tell("d0", good)
        await world.until(lambda: server.counters["observations_taken"] == 3)
        world.tell("d1", Note(values={"ticks_total": 5.0}).to_bytes())
        path = world.office.folder / "knowledge" / "telemetry.json"
        await world.until(path.exists, 60)
        assert json.loads(path.read_text()) == {"d1": {"ticks_total": 5.0}}
        refused = server.counters["messages_refused"]
        world.tell("d0", b"nonsense")
        world.tell("d0", note(3, plan.digest, value=1e30).to_bytes())
        world.tell("d0", bytes(LARGEST + 1))
        world.tell("stranger", good)
        await world.until(lambda: server.counters["messages_refused"] == refused + 4)
        for _ in range(200):
            world.tell("d0", good)
        await world.until(lambda: server.counters["messages_refused"] > refused + 100)
        assert server.counters["notes_taken"] < 30
        assert set(gather(world.office.folder, 3).devices) == {"d0"}

    live(office(tmp_path), main)


def test_notes_that_wait_are_few_and_do_not_hold_up_a_rollout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is too large, of a stranger or too much never waits; so many are kept each turn."""
    place = office(tmp_path)
    knowledge = Knowledge(place.folder)
    payload = Note(values={"ticks_total": 1.0}).to_bytes()

    async def main() -> None:
        server = Server(place, Hub().line(), knowledge=knowledge)

        def tell(name: str, payload: bytes = payload) -> int:
            server._take(Received(Topics(SITE).of(name, "note"), payload))
            return len(server._notes)

        for each in range(6):
            place.fleet.devices[f"d{each}"] = Known(f"d{each}")
        assert tell("stranger") == 0
        assert tell("d0", bytes(LARGEST + 1)) == 0
        assert server.counters["messages_refused"] == 2
        for _ in range(15):
            for each in range(5):
                tell(f"d{each}")
        kept = []
        for _ in range(3):
            server._learn(knowledge, 0.0)
            kept.append(server.counters["notes_taken"])
        assert kept == [50, 75, 75]
        monkeypatch.setattr("agentkd.fleet.server._NOTES", 3)
        assert [tell("d5") for _ in range(5)] == [1, 2, 3, 3, 3]
        assert server.counters["notes_dropped"] == 2

    run_virtually(main())


def test_a_server_that_was_not_asked_to_collect_takes_nothing(tmp_path: Path) -> None:
    """It does not even listen."""

    async def main(world: World) -> None:
        world.serve()
        world.add("d0")
        await world.until(lambda: len(world.fleet.devices) == 1)
        world.tell("d0", note(3).to_bytes())
        await world.until(lambda: world.hub.published > 2)
        assert not (world.office.folder / "knowledge").exists()

    live(office(tmp_path), main)


@pytest.mark.parametrize("sharing", [None, Sharing(), Sharing(("observations",), 10**7)])
def test_a_follower_sends_what_may_leave_and_by_default_nothing(
    tmp_path: Path, sharing: Sharing | None
) -> None:
    """What was noted stays where it is, unless it is listed."""
    world = OneDevice(tmp_path)
    put(world.device.folder, note(3))
    came: list[bytes] = []

    async def body() -> None:
        from asyncio import sleep

        line = world.hub.line("akd/v1/site/d/+/note")
        async with following(world.follow(sharing=sharing)):
            await world.phase("IDLE")
            await sleep(60)
        line.close()
        came.extend([each.payload async for each in line.receive() if not each.connected])

    world(body)
    assert len(came) == (sharing is not None and bool(sharing.leave))
    assert (world.device.folder / LEDGER).exists() == bool(came)
