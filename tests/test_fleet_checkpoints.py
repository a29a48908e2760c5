"""Checkpoints: a start reads no further back, and nothing of the trail is lost or forged."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentkd.cli.main import main
from agentkd.errors import LoadError, WriteError
from agentkd.fleet.audit import NAME, AuditLog, Entry, create
from agentkd.fleet.decisions import push_event
from agentkd.fleet.known import Plan
from agentkd.fleet.office import Office
from agentkd.fleet.rollout import fold
from tests.fleet_world import SITE, World, executor_file, live, office

pytest.importorskip("cryptography")


def device(name: str, **changes: Any) -> dict[str, Any]:
    """Return the event of a report."""
    told = {
        "what": "device", "device": name, "online": True, "boot": "0" * 16, "session": 1,
        "seen": 0, "phase": "IDLE", "digest": "", "active": "", "reason": "", "text": "",
    }  # fmt: skip
    return {**told, **changes}


@pytest.fixture
def place(tmp_path: Path) -> Office:
    """A folder in whose trail a rollout is under way."""
    found = office(tmp_path)
    found.change(lambda _: [device(f"d{each}") for each in range(4)], 1.0)
    found.change(lambda _: [push_event(Plan("1" * 64, "x.akd", 9), "me")], 2.0)
    found.change(lambda _: [{"what": "wave", "rollout": 6, "index": 0}], 3.0)
    return found


def state(place: Office) -> tuple[Any, ...]:
    """Return what a server knows."""
    fleet = place.fleet
    return fleet.checkpoint(), +fleet.counts, fleet.online, fleet.pending, fleet.number, fleet.time


def everything(folder: Path) -> tuple[list[Entry], list[tuple[int, int]]]:
    """Return all lines, and those that are absent."""
    log = AuditLog(folder)
    return list(log.everything()), log.absent


def test_a_start_reads_from_the_checkpoint_on(place: Office) -> None:
    """The state is the same; the lines before it lie in a file of their own, and count on."""
    before = place.log.path.read_bytes()
    assert place.compact(100) == []
    (line,) = place.compact(6)
    assert (line.number, line.event["what"]) == (8, "checkpoint")
    assert (place.folder / "audit-000000001.log").read_bytes() == before
    assert place.compact(6) == []
    place.change(lambda _: [device("d1", phase="TRIAL", digest="1" * 64, seen=8)], 4.0)
    again = Office(place.folder)
    assert state(again) == state(place)
    assert again.log.lines == 1
    assert again.fleet.changed >= place.fleet.changed
    again.change(lambda _: [device("d2", online=False)], 5.0)
    found, absent = everything(place.folder)
    assert [each.number for each in found] == list(range(1, 11))
    assert absent == []
    assert fold(found).checkpoint() == again.fleet.checkpoint()


def test_files_that_were_moved_away_are_named(
    place: Office, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first, or one in the middle; the server needs neither."""
    for each in range(3):
        place.change(lambda _: [device("d0", session=2 + each)])  # noqa: B023
        place.compact(0)
    names = sorted(each.name for each in place.folder.glob("audit-*.log"))
    assert names == ["audit-000000001.log", "audit-000000009.log", "audit-000000011.log"]
    kept = {name: (place.folder / name).read_bytes() for name in names}
    for name, gone in zip(names, [(1, 8), (9, 10), (11, 12)], strict=True):
        (place.folder / name).unlink()
        assert everything(place.folder)[1] == [gone]
        assert state(Office(place.folder)) == state(place)
        assert main(["fleet", "audit", str(place.folder)]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert f"lines {gone[0]} to {gone[1]} are not here" in said
        assert f"{13 - (gone[1] - gone[0] + 1)} lines verified, up to line 13" in said
        (place.folder / name).write_bytes(kept[name])
    assert everything(place.folder)[1] == []


def _killed(at: int, work: Callable[[], object]) -> bool:
    """Do something in a process that ends at the call of this number that changes a disk."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = [at]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **named: Any) -> Any:
            left[0] -= 1
            if not left[0]:
                os._exit(9)
            return real(*words, **named)

        return call

    for name in ("open", "fsync", "link", "replace", "unlink", "close"):
        setattr(os, name, counted(getattr(os, name)))
    work()
    os._exit(0)


def test_a_kill_at_any_call_loses_nothing(place: Office) -> None:
    """The trail is as before or has the checkpoint, and the next one goes through."""
    before, seen, calls = state(place)[:-2], set(), 0
    folder = place.folder
    while _killed(calls + 1, lambda: Office(folder).compact(0)):
        calls += 1
        again = Office(place.folder)
        assert state(again)[:-2] == before
        found, absent = everything(place.folder)
        assert absent == []
        assert [each.number for each in found] == list(range(1, again.fleet.number + 1))
        seen.add(again.fleet.number - place.fleet.number)
        place = Office(place.folder)
        place.change(lambda _: [device("d0")])
        before = state(place)[:-2]
    assert calls > 5
    assert seen == {0, 1}


@pytest.mark.parametrize("at", [b'"site":"plant"', b'"name":"d2"', b'"before":"'])
def test_a_checkpoint_that_was_changed_is_named(place: Office, at: bytes) -> None:
    """Whether lines follow it or not."""
    place.compact(0)
    for more in (False, True):
        if more:
            place.change(lambda _: [device("d3", session=9)])
        data = bytearray(place.log.path.read_bytes())
        data[data.index(at) + len(at) - (at[-2:] != b':"') * 2] ^= 1
        good = place.log.path.read_bytes()
        place.log.path.write_bytes(bytes(data))
        with pytest.raises(LoadError, match=f"{NAME}: line 8 does not verify"):
            Office(place.folder)
        with pytest.raises(LoadError, match=f"{NAME}: line 8 does not verify"):
            everything(place.folder)
        place.log.path.write_bytes(good)


def test_a_line_before_a_checkpoint_that_was_changed_is_named(place: Office) -> None:
    """By its file, and by its number; the server does not read it."""
    place.compact(0)
    path = place.folder / "audit-000000001.log"
    good = path.read_bytes()
    path.write_bytes(good.replace(b'"d2"', b'"d9"'))
    with pytest.raises(LoadError, match=r"audit-000000001\.log: line 4 does not verify"):
        everything(place.folder)
    assert state(Office(place.folder)) == state(place)
    # Its last lines cannot be left out either.
    path.write_bytes(b"".join(good.splitlines(keepends=True)[:-2]))
    assert everything(place.folder)[1] == [(6, 7)]
    path.write_bytes(good[:-9])
    with pytest.raises(LoadError, match=r"audit-000000001\.log: line 7 does not verify"):
        everything(place.folder)


def test_a_checkpoint_of_another_state_is_named(
    place: Office, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though it is signed: whoever has the lines before it finds it out."""
    reader = Office(place.folder)
    forged = json.loads(json.dumps(place.fleet.checkpoint()))
    forged["state"]["devices"][0]["outcome"] = "confirmed"
    place.log.checkpoint(lambda _: forged)
    with pytest.raises(LoadError, match="Line 8: the checkpoint is not what the lines"):
        reader.look()
    assert main(["fleet", "audit", str(place.folder)]) == 2
    assert "Line 8: the checkpoint is not what" in " ".join(capsys.readouterr().err.split())


def test_a_checkpoint_that_does_not_tell_who_was_outbid_is_read(place: Office) -> None:
    """It is as older ones are; whether the lines before it were read makes no difference."""
    asked = next(name for name, each in place.fleet.devices.items() if each.asked)
    place.change(lambda _: [device(asked, seen=99)])
    assert place.fleet.devices[asked].outbid
    reader, older = Office(place.folder), json.loads(json.dumps(place.fleet.checkpoint()))
    for each in older["state"]["devices"]:
        each.pop("outbid", None)
    place.log.checkpoint(lambda _: older)
    reader.look()
    assert state(reader) == state(Office(place.folder))
    assert main(["fleet", "audit", str(place.folder)]) == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda told: told.update(plans={"x": {}}), "no number of a rollout"),
        (lambda told: told.update(plans={}), "has no plan"),
        (lambda told: told["rollout"].update(course="lost"), "course"),
        (lambda told: told["rollout"].update(wave=9), "wave"),
        (lambda told: told["devices"][0].update(name="../x"), "name"),
        (lambda told: told["devices"][0].update(end="so"), "end"),
        (lambda told: told["devices"][0].update(clock="noon"), "clock"),
        (lambda told: told["devices"][0].update(target={}), "action"),
        (lambda told: told.update(devices=3), "list"),
    ],
)
def test_a_checkpoint_that_is_none_is_refused(
    change: Callable[[Any], object], said: str, place: Office
) -> None:
    """Each value is checked, though it is signed."""
    event = json.loads(json.dumps(place.fleet.checkpoint()))
    change(event["state"])
    place.log.checkpoint(lambda _: event)
    with pytest.raises(LoadError, match=said):
        Office(place.folder)


def test_others_follow_it(place: Office) -> None:
    """A reader goes on, also one that missed several; a writer appends to the new file."""
    reader, late = Office(place.folder), Office(place.folder)
    for each in range(3):
        place.change(lambda _: [device("d0", session=each + 2)])  # noqa: B023
        place.compact(0)
        reader.look()
        assert state(reader) == state(place)
    late.change(lambda fleet: [device("d1", session=fleet.devices["d0"].session)])
    place.look()
    assert place.fleet.devices["d1"].session == 4
    assert state(late) == state(place) == state(Office(place.folder))
    assert everything(place.folder)[1] == []


def test_many_writers_and_checkpoints_make_one_chain(tmp_path: Path) -> None:
    """A writer that waited for the former file writes into the new one."""
    create(tmp_path, {"what": "created", "site": SITE}, now=1.0)

    def write(name: str) -> None:
        place = Office(tmp_path)
        for index in range(12):
            place.change(lambda _: [device(name, session=index)])  # noqa: B023
            place.compact(5)

    threads = [threading.Thread(target=write, args=(f"w{each}",)) for each in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    found, absent = everything(tmp_path)
    assert absent == []
    told = [each for each in found if each.event["what"] == "device"]
    assert len(told) == 48
    assert [each.number for each in found] == list(range(1, len(found) + 1))
    assert fold(found).checkpoint() == Office(tmp_path).fleet.checkpoint()


def test_a_full_disk_leaves_the_trail_as_it_was(
    place: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint is tried again; nothing else waits for it."""
    before = place.log.path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("fsync", "link"):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, full)
            with pytest.raises(WriteError, match="No space left"):
                place.compact(0)
        assert place.log.path.read_bytes() == before
        assert not list(place.folder.glob(".*.tmp"))
    place.change(lambda _: [device("d0", session=7)])
    assert len(place.compact(0)) == 1


def test_a_server_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While devices are updated, and starts from the last one."""
    compact, file = Office.compact, executor_file(tmp_path)
    monkeypatch.setattr(Office, "compact", lambda self: compact(self, 5))
    place = office(tmp_path)

    async def story(world: World) -> None:
        world.serve()
        for each in range(3):
            world.add(f"d{each}")
        await world.until(lambda: len(world.fleet.devices) == 3)
        world.push(file)
        await world.until(lambda: world.fleet.counts["confirmed"] > 0)
        await world.stop("server")
        world.serve()
        assert await world.over() == "finished"
        await world.until(lambda: world.fleet.counts["confirmed"] == 3)

    live(place, story)
    found, absent = everything(place.folder)
    assert absent == []
    assert sum(each.event["what"] == "checkpoint" for each in found) >= 1
    assert fold(found).checkpoint() == Office(place.folder).fleet.checkpoint()
