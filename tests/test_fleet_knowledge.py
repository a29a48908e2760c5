"""What devices tell: nothing unasked, little at once, written down."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agentkd.device import Device
from agentkd.errors import ConfigError, LoadError
from agentkd.executors.architecture import initial
from agentkd.fleet.notebook import Notebook, hardness
from agentkd.fleet.notes import FOLDER, Note, read_note, waiting_in
from agentkd.fleet.sharing import LEDGER, Outbox, Sharing
from agentkd.frames import pack
from agentkd.runtime.agent import Agent
from agentkd.types import Floats
from tests.runtime_children import SPEC, constant
from tests.test_device import written

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


def test_the_thread_that_ticks_does_not_count(
    device: Device, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the agent counted is put together where files are written: it takes milliseconds."""
    threads: list[str] = []
    metrics = agent.metrics

    def counted() -> dict[str, object]:
        threads.append(threading.current_thread().name)
        return metrics()

    monkeypatch.setattr(agent, "metrics", counted)
    with Notebook(device, agent, every=1) as notebook:
        notebook.tick(np.zeros(3, np.float32))
    assert threads == ["notebook"]


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
