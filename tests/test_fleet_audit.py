"""The audit trail: what is written can be read, and nothing else is taken for it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from agentkd.errors import ConfigError, LoadError, WriteError
from agentkd.fleet.audit import KEY, NAME, PUBLIC, AuditLog, Entry, Event, create

pytest.importorskip("cryptography")


def _events(event: Event, _: Sequence[Entry], times: int = 1) -> list[Event]:
    return [event] * times


def _trail(folder: Path, events: int = 5) -> AuditLog:
    log = create(folder, {"what": "created", "site": "plant"}, now=1.0)
    list(log.read())
    for index in range(events):
        event = {"what": "pause", "rollout": index, "by": "ünïcode \n"}
        log.append(partial(_events, event), 2.0 + index)
    return log


def _numbers(folder: Path) -> list[int]:
    return [each.number for each in AuditLog(folder).read(signatures=True)]


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    """Events come back in their order, with numbers and times, to whoever opens the folder."""
    _trail(tmp_path)
    found = list(AuditLog(tmp_path).read())
    assert [each.number for each in found] == [1, 2, 3, 4, 5, 6]
    assert [each.event.get("rollout") for each in found[1:]] == [0, 1, 2, 3, 4]
    assert found[-1].event["by"] == "ünïcode \n"


def test_a_kill_at_every_byte_leaves_a_valid_prefix(tmp_path: Path) -> None:
    """Whatever part of the file is there, its whole lines are read and the rest is cut off."""
    _trail(tmp_path, 3)
    data = (tmp_path / NAME).read_bytes()
    ends = [at + 1 for at, byte in enumerate(data) if byte == 10]
    for size in range(ends[0], len(data)):
        (tmp_path / NAME).write_bytes(data[:size])
        whole = sum(end <= size for end in ends)
        log = AuditLog(tmp_path)
        assert [each.number for each in log.read()] == list(range(1, whole + 1))
        assert log.torn == size - max(end for end in ends if end <= size)
        if size % 37 == 0:
            log.append(lambda _: [{"what": "resume"}], 9.0)
            assert _numbers(tmp_path) == list(range(1, whole + 2))


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    """A changed byte, anywhere, is an error that names its line, or the one after it."""
    _trail(tmp_path, 2)
    data = (tmp_path / NAME).read_bytes()
    for at in range(len(data) - 1):
        changed = bytearray(data)
        changed[at] ^= 1
        (tmp_path / NAME).write_bytes(bytes(changed))
        line = data[:at].count(b"\n") + 1
        with pytest.raises(LoadError, match=rf"line ({line}|{line + 1}) does not verify"):
            list(AuditLog(tmp_path).read())


@pytest.mark.parametrize("gone", [0, 1, 2, 3])
def test_a_line_that_is_missing_or_repeated_is_noticed(tmp_path: Path, gone: int) -> None:
    """Lines cannot be taken out, put twice, or change places."""
    _trail(tmp_path, 4)
    lines = (tmp_path / NAME).read_bytes().splitlines(keepends=True)
    swapped = [*lines[:gone], lines[gone + 1], lines[gone], *lines[gone + 2 :]]
    for other in (lines[:gone] + lines[gone + 1 :], lines[: gone + 1] + lines[gone:], swapped):
        (tmp_path / NAME).write_bytes(b"".join(other))
        with pytest.raises(LoadError, match="does not verify"):
            list(AuditLog(tmp_path).read())


def test_a_line_of_another_key_is_noticed(tmp_path: Path) -> None:
    """A trail that was signed by someone else does not verify, even if its hashes fit."""
    mine, other = tmp_path / "mine", tmp_path / "other"
    for folder in (mine, other):
        folder.mkdir()
        _trail(folder, 2)
    (mine / NAME).write_bytes((other / NAME).read_bytes())
    with pytest.raises(LoadError, match="line 3 does not verify: its signature"):
        list(AuditLog(mine).read())
    with pytest.raises(LoadError, match="line 1 does not verify: its signature"):
        list(AuditLog(mine).read(signatures=True))
    # Whoever replaced the key as well is found out by a copy of it.
    kept = tmp_path / "kept.pub"
    kept.write_bytes((mine / PUBLIC).read_bytes())
    (mine / PUBLIC).write_bytes((other / PUBLIC).read_bytes())
    assert len(list(AuditLog(mine).read())) == 3
    with pytest.raises(LoadError, match="its signature"):
        list(AuditLog(mine, kept).read())


def test_lines_that_vanish_under_a_reader_are_noticed(tmp_path: Path) -> None:
    """A trail that is shorter than what was read of it is an error."""
    log = _trail(tmp_path, 3)
    data = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(data[: data.rindex(b"\n", 0, -1) + 1])
    with pytest.raises(LoadError, match="lines were removed"):
        list(log.read())


def test_many_writers_make_one_chain(tmp_path: Path) -> None:
    """Processes append at the same time, and each sees what the others wrote."""
    _trail(tmp_path, 0)

    def write(name: str) -> None:
        log = AuditLog(tmp_path)
        for index in range(25):
            log.append(partial(_events, {"what": name, "index": index}, times=2))

    threads = [threading.Thread(target=write, args=(f"w{each}",)) for each in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert _numbers(tmp_path) == list(range(1, 202))


def test_a_full_disk_leaves_the_trail_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a batch is not kept: what could not be written was not decided."""
    log = _trail(tmp_path, 1)
    before = (tmp_path / NAME).read_bytes()
    real = os.pwrite

    def full(target: int, data: bytes, at: int) -> int:
        if len(data) < 200:
            raise OSError(28, "No space left on device")
        return real(target, data[: len(data) // 2], at)

    monkeypatch.setattr("agentkd.fleet.audit.os.pwrite", full)
    with pytest.raises(WriteError, match="No space left"):
        log.append(lambda _: [{"what": "resume"}])
    assert (tmp_path / NAME).read_bytes() == before
    monkeypatch.undo()
    log.append(lambda _: [{"what": "resume"}])
    assert _numbers(tmp_path) == [1, 2, 3]


def test_a_clock_that_goes_back_does_not(tmp_path: Path) -> None:
    """A line's time is never before that of the line before it."""
    log = _trail(tmp_path, 3)
    log.append(lambda _: [{"what": "resume"}], 0.5)
    times = [each.time for each in AuditLog(tmp_path).read()]
    assert times == sorted(times)


def test_keys_are_private(tmp_path: Path) -> None:
    """The key has mode 0600, and one that others may read is refused with the remedy."""
    _trail(tmp_path, 0)
    assert (tmp_path / KEY).stat().st_mode & 0o777 == 0o600
    (tmp_path / KEY).chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        AuditLog(tmp_path).append(lambda _: [])
    with pytest.raises(ConfigError, match="never begun anew"):
        create(tmp_path, {"what": "created"})
    with pytest.raises(LoadError, match="agentkd fleet setup"):
        AuditLog(tmp_path / "elsewhere")


def test_making_it_goes_on_after_a_kill(tmp_path: Path) -> None:
    """A folder with a key and no trail gets one for that key."""
    _trail(tmp_path, 0)
    key = (tmp_path / KEY).read_bytes()
    (tmp_path / NAME).unlink()
    (tmp_path / PUBLIC).unlink()
    create(tmp_path, {"what": "created"})
    assert (tmp_path / KEY).read_bytes() == key
    assert _numbers(tmp_path) == [1]


@pytest.mark.parametrize(
    "line", [b"{}", b"[]", b"\xff" * 9, b"[" * 99999, b'{"number":2}', b"1" * 999, b'{"a":1,"a":2}']
)
def test_nonsense_is_refused(tmp_path: Path, line: bytes) -> None:
    """A line of anything is an error that names it."""
    _trail(tmp_path, 0)
    with (tmp_path / NAME).open("ab") as stream:
        stream.write(line + b',"signature":"' + b"0" * 128 + b'"}\n')
        stream.write(json.dumps({"number": 3}).encode() + b"\n")
    with pytest.raises(LoadError, match="line 2 does not verify"):
        list(AuditLog(tmp_path).read())


def test_a_log_that_found_a_changed_line_never_takes_it(tmp_path: Path) -> None:
    """Asked again it says so again, and appends nothing."""
    _trail(tmp_path, 2)
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes().replace(b'"rollout":1', b'"rollout":7'))
    log = AuditLog(tmp_path)
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(LoadError, match="line 3 does not verify"):
            list(log.read())
    with pytest.raises(LoadError, match="line 3 does not verify"):
        log.append(lambda _: [{"what": "resume"}], 9.0)
    assert path.read_bytes() == before


def test_an_emptied_trail_does_not_verify(tmp_path: Path) -> None:
    """Nor one of which only a part of the first line is left."""
    _trail(tmp_path, 1)
    data = (tmp_path / NAME).read_bytes()
    for left in (b"", data[:20]):
        (tmp_path / NAME).write_bytes(left)
        with pytest.raises(LoadError, match="holds no whole line"):
            list(AuditLog(tmp_path).read(signatures=True))
