"""What devices tell: nothing unasked, little at once, written down; and no device poisons it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agentkd.device import Device
from agentkd.errors import ConfigError, LoadError
from agentkd.executors.architecture import initial
from agentkd.fleet.knowledge import Knowledge, gather
from agentkd.fleet.messages import Topics
from agentkd.fleet.notebook import Notebook, hardness
from agentkd.fleet.notes import FOLDER, LARGEST, Note, read_note, waiting_in
from agentkd.fleet.rollout import Known
from agentkd.fleet.server import Server
from agentkd.fleet.sharing import LEDGER, Outbox, Sharing
from agentkd.frames import pack
from agentkd.runtime.agent import Agent
from agentkd.transport.memory import Hub
from agentkd.transport.transport import Received
from agentkd.types import Floats
from tests.fleet_one_device import World as OneDevice
from tests.fleet_server import following
from tests.fleet_world import SITE, World, executor_file, live, office
from tests.runtime_children import SPEC, constant
from tests.test_device import written
from tests.virtual_loop import run_virtually

DIGEST = "a" * 64


def rows(count: int, size: int = 3, value: float = 0.5) -> Floats:
    """Return observations."""
    return np.full((count, size), value, np.float32)


def note(count: int, executor: str = DIGEST, value: float = 0.5, size: int = 3) -> Note:
    """Return hard observations."""
    return Note(executor, rows(count, size, value), np.ones(count, np.float32))


def test_a_note_is_read_as_it_was_written() -> None:
    """Observations and telemetry."""
    found = read_note(note(5).to_bytes())
    assert found.obs is not None
    assert found.hardness is not None
    assert (found.executor, found.obs.shape, len(found.hardness)) == (DIGEST, (5, 3), 5)
    assert dict(read_note(Note(values={"ticks_total": 3.0}).to_bytes()).values) == {
        "ticks_total": 3.0
    }


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff" * 100,
        pack({"kind": "observations", "executor": DIGEST}, [rows(2)]),
        pack({"kind": "observations", "executor": "../x"}, [rows(2), np.ones(2, np.float32)]),
        pack({"kind": "observations", "executor": 7}, [rows(2), np.ones(2, np.float32)]),
        pack({"kind": "observations", "executor": DIGEST}, [rows(2), np.ones(3, np.float32)]),
        pack({"kind": "observations", "executor": DIGEST}, [rows(0), np.ones(0, np.float32)]),
        pack(
            {"kind": "observations", "executor": DIGEST}, [rows(2) * np.inf, np.ones(2, np.float32)]
        ),
        pack({"kind": "observations", "executor": DIGEST}, [rows(99999), rows(99999)[:, 0]]),
        pack({"kind": "telemetry", "values": {"ticks_total": "many"}}),
        pack({"kind": "telemetry", "values": {"../x": 1}}),
        pack({"kind": "telemetry", "values": {"x": True}}),
        pack({"kind": "telemetry", "values": {"x": 10**400}}),
        pack({"kind": "telemetry", "values": {f"x{each}": 1 for each in range(300)}}),
        pack({"kind": "telemetry", "values": [1]}),
        pack({"kind": "secret"}),
    ],
)
def test_what_is_no_note_is_refused(payload: bytes) -> None:
    """By an error of ours."""
    with pytest.raises(LoadError):
        read_note(payload)


def test_hard_is_what_lies_far_from_what_was_taught() -> None:
    """In standard deviations of the executor's own normaliser."""
    executor = initial("mlp:4", SPEC)
    near, far = hardness(executor, np.array([[0, 0, 0], [3, 0, 4]], np.float32))
    assert near == 0
    assert far == pytest.approx(5 / np.sqrt(3) * executor.scale[0])


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """A device with an executor."""
    found = Device(tmp_path / "device")
    found.apply(written(tmp_path, "first", constant(1)))
    return found


@pytest.fixture
def agent(device: Device) -> Iterator[Agent]:
    """Acts with it."""
    with Agent(device.executor(), native=False) as found:
        yield found


def test_hard_observations_of_each_stretch_are_noted(device: Device, agent: Agent) -> None:
    """With chances as the square of how hard they were, and whose they were; and what counted."""
    with Notebook(device, agent, every=1000, most=50, seed=1) as notebook:
        for each in range(2000):
            # One in ten is four times as far away as the others.
            obs = np.array([4 if each % 10 == 0 else 1, each, 0], np.float32)
            obs[1:] *= 1e-6
            agent.act(obs)
            notebook.tick(obs)
            notebook.settle()
    found = [read_note(path.read_bytes()) for path in waiting_in(device.folder / FOLDER)]
    rows = [each.obs for each in found if each.obs is not None]
    assert [len(each) for each in rows] == [50, 50]
    assert {each.executor for each in found if each.obs is not None} == {device.started}
    # Of all weights 100 * 16 are theirs, and 900 * 1 the others'.
    share = float(np.mean(np.concatenate(rows)[:, 0] == 4))
    assert 0.5 < share < 0.75
    assert all(len(np.unique(each, axis=0)) == 50 for each in rows)
    counted = [each.values for each in found if each.obs is None]
    assert all("ticks_total" in each for each in counted)


def test_notes_that_nobody_takes_make_room(device: Device, agent: Agent) -> None:
    """A notebook fills no disk, and one that cannot be written stops no robot."""
    with Notebook(device, agent, every=1) as notebook:
        for each in range(40):
            notebook.tick(np.array([each, 0, 0], np.float32))
            notebook.settle()
    kept = waiting_in(device.folder / FOLDER)
    assert len(kept) == 16
    last = read_note(kept[-1].read_bytes()).obs
    assert last is not None
    assert last[0, 0] == 39
    for path in kept:
        path.unlink()
    (device.folder / FOLDER).rmdir()
    (device.folder / FOLDER).write_text("in the way")
    with Notebook(device, agent, every=1) as notebook:
        notebook.tick(np.zeros(3, np.float32))


def test_a_memory_has_no_notebook(tmp_path: Path) -> None:
    """Single observations teach it nothing."""
    device = Device(tmp_path / "device")
    device.apply(written(tmp_path, "first", initial("gru:4", SPEC)))
    with Agent(device.executor(), native=False) as agent, pytest.raises(ConfigError, match="gru:4"):
        Notebook(device, agent)


def test_a_notebook_wants_the_device_s_executor(device: Device) -> None:
    """Or no one would know whose observations were hard."""
    other = Device(device.folder)
    with Agent(constant(1), native=False) as agent, pytest.raises(ConfigError, match="executor"):
        Notebook(other, agent)


def put(folder: Path, *notes: Note) -> None:
    """Let notes wait in a device's folder."""
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    for each in notes:
        number = len(list(place.iterdir())) + 1
        (place / f"{number:08}.note").write_bytes(each.to_bytes())


def ledger(folder: Path) -> list[dict[str, object]]:
    """Return what was written down."""
    return [json.loads(line) for line in (folder / LEDGER).read_text().splitlines() if line]


def test_only_what_is_listed_leaves(tmp_path: Path) -> None:
    """And what may not leave does not wait for a day on which it may."""
    put(tmp_path, note(3), Note(values={"ticks_total": 1.0, "misses_total": 2.0}), note(4))
    outbox = Outbox(tmp_path, Sharing(("misses_total",), 10**9), 0.0)
    payload = outbox.next(3600.0)
    assert payload is not None
    assert dict(read_note(payload).values) == {"misses_total": 2.0}
    assert outbox.next(7200.0) is None
    assert waiting_in(tmp_path / FOLDER) == []
    assert Sharing().leave == ()


def test_a_damaged_note_is_removed(tmp_path: Path) -> None:
    """It holds up no other."""
    put(tmp_path, note(1))
    (tmp_path / FOLDER / "00000000.note").write_bytes(b"damaged")
    assert Outbox(tmp_path, Sharing(("observations",), 10**9), 0.0).next(3600.0) is not None


def test_what_leaves_is_within_the_budget_and_written_down(tmp_path: Path) -> None:
    """Also over programs that are started again and again."""
    for _ in range(40):
        put(tmp_path, note(50))
    sharing = Sharing(("observations",), 5000)
    sent = 0
    for _ in range(6):
        outbox = Outbox(tmp_path, sharing, 0.0)
        for minute in range(0, 61, 5):
            payload = outbox.next(60.0 * minute)
            sent += len(payload or b"")
    # Six programs of an hour each.
    assert 5 * 5000 < sent <= 6 * 5000
    told = ledger(tmp_path)
    assert sum(int(str(each["bytes"])) for each in told) == sent
    assert {each["kind"] for each in told} == {"observations"}


def test_a_note_that_is_too_large_leaves_in_part(tmp_path: Path) -> None:
    """The hardest observations of it; the whole would never fit."""
    put(tmp_path, note(200))
    payload = Outbox(tmp_path, Sharing(("observations",), 1000), 0.0).next(3600.0)
    assert payload is not None
    assert len(payload) <= 1000
    found = read_note(payload).obs
    assert found is not None
    assert 40 < len(found) < 200


@pytest.mark.parametrize(
    ("large", "per_hour"), [(note(2, size=28_224), 100_000), (Note(values={"x" * 60: 1.0}), 80)]
)
def test_a_note_that_never_fits_holds_up_no_other(
    tmp_path: Path, large: Note, per_hour: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It is removed, and the reason is told."""
    small = Note(values={"x": 1.0})
    put(tmp_path, large, small)
    sharing = Sharing(("observations", "x", "x" * 60), per_hour)
    assert Outbox(tmp_path, sharing, 0.0).next(3600.0) == small.to_bytes()
    assert waiting_in(tmp_path / FOLDER) == []
    assert "00000001.note is removed" in caplog.text
    assert "--share-per-hour" in caplog.text


def test_one_observation_that_just_fits_leaves(tmp_path: Path) -> None:
    """Of a note of two: the budget of an hour is its size."""
    put(tmp_path, note(2, size=1000))
    one = note(1, size=1000).to_bytes()
    sharing = Sharing(("observations",), len(one))
    assert Outbox(tmp_path, sharing, 0.0).next(3600.0) == one


def test_a_torn_ledger_is_gone_on_with(tmp_path: Path) -> None:
    """A line that a kill left unfinished hides none, and gives no budget."""
    put(tmp_path, note(1), note(1))
    sharing = Sharing(("observations",), 10_000)
    assert Outbox(tmp_path, sharing, 0.0).next(3600.0)
    before = ledger(tmp_path)[-1]["allowance"]
    with (tmp_path / LEDGER).open("a") as stream:
        stream.write('{"time": 1')
    outbox = Outbox(tmp_path, sharing, 0.0)
    assert outbox._allowance == before
    assert outbox.next(0.0)
    lines = (tmp_path / LEDGER).read_text().splitlines()
    assert [each.endswith("}") for each in lines] == [True, False, True]


@pytest.mark.parametrize("bad", [{"leave": ("../x",)}, {"per_hour": 0}])
def test_a_sharing_that_cannot_be_is_refused(bad: dict[str, object]) -> None:
    """By its value."""
    with pytest.raises(ConfigError):
        Sharing(**bad)  # type: ignore[arg-type]


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
