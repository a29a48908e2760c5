"""The gate of a device: what comes in, what is refused and why, and what is always whole."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd import files
from agentkd.cli.main import main
from agentkd.deploy import bundle as bundles
from agentkd.deploy.bundle import read_bundle, write_bundle
from agentkd.deploy.contract import Contract
from agentkd.deploy.vectors import answers
from agentkd.device import Candidate, Device, State
from agentkd.device.state import read_state, write_state
from agentkd.errors import AgentkdError, DeviceError, WriteError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from tests.runtime_children import BOX, SPEC, constant
from tests.test_runtime_swaps import observing

ROOT = Path(__file__).parents[1]


def written(folder: Path, name: str, executor: Executor, **options: Any) -> Path:
    """Write an executor file."""
    path = folder / f"{name}.akd"
    write_bundle(path, executor, **options)
    return path


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """A device whose executor always chooses 1."""
    found = Device(tmp_path / "device")
    found.apply(written(tmp_path, "first", constant(1)))
    return found


def acts(device: Device) -> int:
    """What the executor chooses with which a program starts."""
    return int(device.executor().act(np.zeros(3, np.float32)))


def test_the_first_executor_is_confirmed_and_others_wait_for_their_trial(
    device: Device, tmp_path: Path
) -> None:
    """Programs start with the confirmed one until another one is."""
    assert acts(device) == 1
    second = written(tmp_path, "second", constant(2))
    state = device.apply(second)
    assert state.waiting is not None
    assert state.waiting.stage == "STAGED"
    assert (acts(device), device.apply(second)) == (1, state)
    bundle = device.begin()
    assert bundle is not None
    assert bundle.digest == read_bundle(second).digest
    assert acts(device) == 1
    state = device.confirm()
    assert (acts(device), state.waiting) == (2, None)
    assert state.former is not None
    assert state.last is not None
    assert state.last.stage == "CONFIRMED"
    # And back, by hand.
    state = device.rollback()
    assert acts(device) == 1
    assert read_bundle(second).digest in state.blacklist
    with pytest.raises(DeviceError, match="nothing to return to"):
        device.rollback()


def test_an_empty_device_says_so(tmp_path: Path) -> None:
    """With the command that helps."""
    with pytest.raises(DeviceError, match="device apply FILE") as caught:
        Device(tmp_path / "nothing").executor()
    assert caught.value.reason == "empty"
    with pytest.raises(DeviceError, match="nothing to confirm"):
        Device(tmp_path / "nothing").confirm()


UNFIT: dict[str, tuple[Executor, Contract | None, str]] = {
    "of another robot": (initial("mlp:4", BOX), None, "acts in"),
    "of other observations": (
        initial("mlp:4", observing(replace(SPEC.obs.parts[0], shape=(2,)))),
        None,
        "observes 2 numbers",
    ),
    "with a memory": (initial("gru:4", SPEC), None, "remembers"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_another_robot_s_executor_is_refused(name: str, device: Device, tmp_path: Path) -> None:
    """The difference is named, and the one that acts stays."""
    executor, contract, said = UNFIT[name]
    with pytest.raises(DeviceError, match=said) as caught:
        device.apply(written(tmp_path, "other", executor, contract=contract))
    assert (caught.value.reason, caught.value.state) == ("unfit", "FETCHED")
    state = device.status()
    assert state.last is not None
    assert (state.last.stage, state.last.reason) == ("REFUSED", "unfit")
    assert (acts(device), state.blacklist) == (1, {})


def test_other_names_or_units_are_refused(tmp_path: Path) -> None:
    """A contract is compared where both have one."""
    device = Device(tmp_path / "device")
    device.apply(
        written(tmp_path, "a", constant(1), contract=Contract(obs_units=("m", "m/s", "rad")))
    )
    with pytest.raises(DeviceError, match="obs_units"):
        device.apply(
            written(tmp_path, "b", constant(2), contract=Contract(obs_units=("m", "m/s", "deg")))
        )


def test_the_first_executor_is_checked_against_the_environment(tmp_path: Path) -> None:
    """Where the program tells which it is."""
    device = Device(tmp_path / "device", spec=SPEC)
    with pytest.raises(DeviceError, match="not for"):
        device.apply(written(tmp_path, "other", initial("mlp:4", BOX)))
    device.apply(written(tmp_path, "mine", constant(1)))


def truncated(data: bytes) -> bytes:
    """Cut the end off."""
    return data[:-20]


def flipped(data: bytes) -> bytes:
    """Flip a bit in the weights."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("damage", [truncated, flipped, lambda data: b""])
def test_a_damaged_file_is_refused(
    damage: Callable[[bytes], bytes], device: Device, tmp_path: Path
) -> None:
    """Nothing of it is run, and the same file whole is welcome."""
    second = written(tmp_path, "second", constant(2))
    whole = second.read_bytes()
    second.write_bytes(damage(whole))
    with pytest.raises(DeviceError) as caught:
        device.apply(second)
    assert caught.value.reason == "damaged"
    second.write_bytes(whole)
    assert device.apply(second).waiting is not None


def test_other_answers_on_this_device_blacklist_a_file(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Golden vectors are run here; what fails them is not tried again, unless told so."""
    second = written(tmp_path, "second", constant(2))
    real = answers
    monkeypatch.setattr(
        bundles, "answers", lambda executor, *rest: real(executor, *rest) + np.float32(0.5)
    )
    with pytest.raises(DeviceError, match="golden vectors differ") as caught:
        device.apply(second)
    assert caught.value.reason == "golden"
    monkeypatch.undo()
    with pytest.raises(DeviceError, match="--again") as caught:
        device.apply(second)
    assert caught.value.reason == "blacklisted"
    assert device.apply(second, again=True).waiting is not None


@pytest.mark.parametrize("name", [b"\xff", b"a\x1b[2Jb", "\u202e\u2028".encode()])
def test_any_name_of_a_file_leaves_a_state_that_is_read(
    name: bytes, device: Device, tmp_path: Path
) -> None:
    """Of a folder too, whether the file is taken or refused; what is kept can be printed."""
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
    Path(folder).mkdir()
    whole = written(tmp_path, "second", constant(2)).read_bytes()
    path = Path(folder, os.fsdecode(name))
    path.write_bytes(whole[:-20])
    with pytest.raises(DeviceError, match="ends early"):
        device.apply(path)
    last = device.status().last
    assert last is not None
    assert (last.name + last.text).isprintable()
    path.write_bytes(whole)
    state = device.apply(path)
    assert Device(device.folder).status() == state
    assert state.waiting is not None
    assert state.waiting.held.name.isprintable()


def test_a_state_that_could_not_be_read_again_is_not_written(device: Device) -> None:
    """The former one stays."""
    before = device.status()
    assert before.active is not None
    bad = replace(before, active=replace(before.active, serial=1 << 80))
    with pytest.raises(WriteError, match="serial"):
        write_state(device.path, bad)
    with pytest.raises(WriteError):
        write_state(device.path, replace(before, blacklist={"\udcff": ""}))
    assert device.status() == before


def test_one_update_at_a_time(device: Device, tmp_path: Path) -> None:
    """The one that waits is named, with what ends it."""
    device.apply(written(tmp_path, "second", constant(2)))
    with pytest.raises(DeviceError, match=r"second\.akd is STAGED") as caught:
        device.apply(written(tmp_path, "third", constant(3)))
    assert caught.value.reason == "busy"
    device.rollback()
    assert device.apply(tmp_path / "third.akd").waiting is not None


def test_a_crash_loop_is_rolled_back(tmp_path: Path, device: Device) -> None:
    """Each program is counted before it is handed the executor."""
    device = Device(tmp_path / "device", starts=2)
    device.apply(written(tmp_path, "second", constant(2)))
    for starts in (1, 2):
        assert device.begin() is not None
        waiting = Device(tmp_path / "device").status().waiting
        assert waiting is not None
        assert (waiting.stage, waiting.starts) == ("TRIAL", starts)
    assert device.begin() is None
    state = device.status()
    assert state.last is not None
    assert (state.last.stage, state.last.reason) == ("ROLLED_BACK", "crashes")
    assert acts(device) == 1
    with pytest.raises(DeviceError, match="2 programs began its trial"):
        device.apply(tmp_path / "second.akd")


def test_a_damaged_slot_is_noticed(device: Device, tmp_path: Path) -> None:
    """The former executor acts if there is one; a candidate is rolled back, not blacklisted."""
    device.apply(written(tmp_path, "second", constant(2)))
    (tmp_path / "device" / "slot-b.akd").write_bytes(b"x")
    assert device.begin() is None
    state = device.status()
    assert state.last is not None
    assert (state.last.reason, state.blacklist) == ("damaged", {})
    device.apply(tmp_path / "second.akd")
    device.confirm()
    (tmp_path / "device" / "slot-b.akd").write_bytes(b"x")
    assert acts(device) == 1
    (tmp_path / "device" / "slot-a.akd").unlink()
    with pytest.raises(DeviceError, match="cannot be read"):
        device.executor()


def test_a_device_whose_executor_is_damaged_is_mended_by_the_next(
    device: Device, tmp_path: Path
) -> None:
    """The slot with the damage is written, never the one that still starts."""
    device.apply(written(tmp_path, "second", constant(2)))
    device.confirm()
    (tmp_path / "device" / "slot-b.akd").write_bytes(b"x")
    state = device.apply(written(tmp_path, "third", constant(3)))
    assert (acts(device), state.free) == (1, "b")
    assert state.waiting is not None
    device.rollback()
    (tmp_path / "device" / "slot-a.akd").write_bytes(b"x")
    device.apply(written(tmp_path, "fourth", constant(0)))
    assert acts(device) == 0
    # The same file once more is as good.
    for slot in ("a", "b"):
        (tmp_path / "device" / f"slot-{slot}.akd").write_bytes(b"x")
    device.apply(tmp_path / "fourth.akd")
    assert acts(device) == 0


def test_what_is_confirmed_is_whole(
    device: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A damaged file is rolled back instead, and status says what a program starts with."""
    device.apply(written(tmp_path, "second", constant(2)))
    (device.folder / "slot-b.akd").write_bytes(b"x")
    with pytest.raises(DeviceError, match="SHA-256"):
        device.confirm()
    state = device.status()
    assert state.active is not None
    assert (state.active.name, state.waiting, state.blacklist) == ("first.akd", None, {})
    device.apply(tmp_path / "second.akd")
    device.confirm()
    assert main(["device", "status", "--folder", str(device.folder)]) == 0
    assert "starts with" not in capsys.readouterr().out
    for slot, said in (("b", "first.akd"), ("a", "nothing")):
        (device.folder / f"slot-{slot}.akd").write_bytes(b"x")
        assert main(["device", "status", "--folder", str(device.folder)]) == 0
        assert f"starts with {said}" in capsys.readouterr().out


def test_a_rollback_is_of_what_is_meant(device: Device, tmp_path: Path) -> None:
    """What neither acts nor waits leaves everything as it is."""
    files = [written(tmp_path, f"{n}", constant(n)) for n in (0, 2, 3)]
    other, second, third = (read_bundle(file).digest for file in files)
    device.apply(files[1])
    device.confirm()
    before = device.status()
    assert device.rollback(other) == device.fail(second, "slow", "") == before
    device.apply(files[2])
    assert device.rollback(other).waiting is not None
    assert device.rollback(third).waiting is None
    device.apply(files[2], again=True)
    device.confirm()
    assert acts(device) == 3
    device.rollback(third)
    assert acts(device) == 2


def test_a_damaged_state_is_told(device: Device) -> None:
    """It says which file to remove, and the executors stay where they are."""
    device.path.write_text("{}")
    with pytest.raises(DeviceError, match=r"Remove .*state\.json") as caught:
        device.executor()
    assert caught.value.reason == "damaged"


@pytest.mark.parametrize(("at", "code"), [*((at, 28) for at in range(1, 8)), (1, 30)])
def test_a_disk_that_cannot_be_written_changes_nothing(
    at: int, code: int, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full at any write, or read-only: with room again, the same command goes through."""
    real, count = files._put, 0

    def full(path: Path, content: Any) -> None:
        nonlocal count
        count += 1
        if count == at:
            raise OSError(code, os.strerror(code))
        real(path, content)

    def update() -> None:
        device.apply(second)
        device.begin()
        device.confirm()

    second = written(tmp_path, "second", constant(2))
    monkeypatch.setattr(files, "_put", full)
    if at < 7:
        with pytest.raises(DeviceError, match="Make room") as caught:
            update()
        assert caught.value.reason == "unwritten"
        assert acts(device) == 1
    else:
        # There are six writes: each stage, the slot, the trial and the end.
        update()
        assert count == 6
    monkeypatch.undo()
    if acts(device) == 1:
        update()
    assert acts(device) == 2
    assert not list(device.folder.glob(".*"))


def test_the_state_is_read_as_it_was_written(tmp_path: Path, device: Device) -> None:
    """Whatever it holds."""
    device.apply(written(tmp_path, "second", constant(2)))
    for state in (State(), device.status(), device.rollback()):
        write_state(tmp_path / "state.json", state)
        assert read_state(tmp_path / "state.json") == state
    assert isinstance(state, State)
    assert not isinstance(state.candidate, Candidate)


def test_the_device_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """apply, status, confirm and rollback print what acts, what waits and what failed."""
    first, second = written(tmp_path, "a", constant(1)), written(tmp_path, "b", constant(2))
    where = ["--folder", str(tmp_path / "device")]
    assert main(["device", "apply", str(first), *where]) == 0
    assert "a.akd" in (said := capsys.readouterr().out)
    assert "unsigned" in said
    assert main(["device", "apply", str(second), *where]) == 0
    assert "STAGED" in capsys.readouterr().out
    assert main(["device", "confirm", *where]) == 0
    assert "before it" in capsys.readouterr().out
    assert main(["device", "rollback", *where]) == 0
    assert "blacklisted" in capsys.readouterr().out
    assert main(["device", "apply", str(second), *where]) == 2
    assert "on the blacklist" in capsys.readouterr().err
    assert main(["device", "apply", str(second), *where, "--again"]) == 0
    assert main(["device", "status", *where]) == 0
    assert "STAGED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["apply"], "takes an executor file"),
        (["status", "x"], "takes nothing else"),
        (["status", "--again"], "goes with apply"),
        (["status", "--every", "3"], "with watch"),
        (["status"], "is not a folder"),
    ],
)
def test_what_a_device_cannot_do_is_told(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, before anything is written."""
    assert main(["device", *words, "--folder", "no-device"]) == 2
    assert said in capsys.readouterr().err.replace("\n", " ")
    assert not Path("no-device").exists()


def test_a_process_forked_meanwhile_keeps_nobody_waiting(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the lock's file open, as a copy of the descriptor does here."""
    copies: list[int] = []
    flock = fcntl.flock

    def copied(descriptor: int, how: int) -> None:
        flock(descriptor, how | fcntl.LOCK_NB)
        copies.append(os.dup(descriptor))

    monkeypatch.setattr("agentkd.device.slots.fcntl.flock", copied)
    for name, action in (("b", 2), ("c", 3)):
        device.apply(written(tmp_path, name, constant(action)))
        device.confirm()
    for each in copies:
        os.close(each)


def test_errors_of_a_device_are_ours() -> None:
    """One tree."""
    assert issubclass(DeviceError, AgentkdError)


def test_a_program_that_starts_loads_what_acting_needs(tmp_path: Path) -> None:
    """With trust too: signatures were checked when the executor came in."""
    Device(tmp_path / "device").apply(written(tmp_path, "a", constant(1)))
    code = (
        "import sys; from agentkd.device import Device, Trial\n"
        f"Device({str(tmp_path / 'device')!r}).executor()\n"
        "print(*sorted(set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    slow = {"asyncio", "cryptography", "difflib", "email", "http", "ssl", "torch", "tuf", "zipfile"}
    assert loaded & slow == set()
