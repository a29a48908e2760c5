"""The firmware example: an executor on an emulated board, at the end of a bad line."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkd.deploy.akx import to_akx
from agentkd.deploy.bundle import write_bundle
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.spec import BoxSpec, DiscreteSpec, ObsSpec, Part, Spec
from agentkd.types import Floats
from examples.firmware import fly
from examples.firmware.board import MACHINES, Board, Built, build, emulate
from examples.firmware.link import (
    Device,
    DeviceError,
    Line,
    RefusedError,
    frame,
    parse,
    stuff,
    unstuff,
)
from tests.waiting import ENOUGH

EMULATED = pytest.mark.needs("make", "arm-none-eabi-gcc", "qemu-system-arm", "timeout", "cc")
CART = Spec(ObsSpec((Part("", "box", (4,), "float32"),)), DiscreteSpec(2))
PENDULUM = Spec(ObsSpec((Part("", "box", (3,), "float32"),)), BoxSpec((-2.0,), (2.0,), (1,)))
OBS = np.array([0.1, -0.2, 0.03, 0.4], np.float32)
ID = 0x00C0FFEE


def lively(spec: Spec, seed: int = 0) -> Executor:
    """An executor whose answers depend on what it sees."""
    executor = initial("mlp:8,8,tanh", spec, seed=seed)
    random = np.random.default_rng(seed)
    vector = executor.vector()
    vector += 0.5 * random.standard_normal(vector.shape).astype(np.float32)
    return executor.with_vector(vector, 3)


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cart") / "executor.akd"
    # With episodes of its own, by which its integers are calibrated.
    lived = np.random.default_rng(0).normal(0, 0.05, (60, 4)).astype(np.float32)
    write_bundle(path, lively(CART), {"env": "CartPole-v1"}, golden=[lived])
    return path


@pytest.fixture(scope="module")
def built(executor: Path) -> Built:
    return build(executor, "m4f", "float", executor.parent / "float", ID, 3)


@pytest.fixture(scope="module")
def from_data(executor: Path) -> Built:
    return build(executor, "m7", "akx", executor.parent / "akx", ID, 3)


@pytest.fixture
def board(built: Built) -> Iterator[Board]:
    with emulate(built, "m4f", 1200) as running:
        yield running


@given(st.binary(max_size=600))
def test_stuffing_takes_out_every_zero_and_puts_it_back(data: bytes) -> None:
    """What is sent holds no zero, and gives back what it was made of."""
    sent = stuff(data)
    assert 0 not in sent
    assert unstuff(sent) == data
    assert parse(frame("o", 7, data)[1:-1]) == ("o", 7, data)


@given(st.binary(min_size=1, max_size=80), st.data())
def test_a_changed_byte_is_noticed(data: bytes, draw: st.DataObject) -> None:
    """A frame with one other byte is none; a zero in it makes two, and none of them."""
    sent = bytearray(frame("o", 1, data)[1:-1])
    sent[draw.draw(st.integers(0, len(sent) - 1))] ^= draw.draw(st.integers(1, 255))
    pieces = [each for each in bytes(sent).split(b"\0") if each]
    assert [parse(each) for each in pieces] == [None] * len(pieces)


@EMULATED
@pytest.mark.parametrize(("machine", "form"), [("m3", "int8"), ("m7", "akx")])
def test_a_board_decides_as_the_host_does(
    machine: str,
    form: str,
    executor: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Returns are equal on each seed, and so is each action, on a bad line too."""
    words = ["fly", str(executor), "--machine", machine, "--form", form]
    words += ["--episodes", "3", "--damage", "0.002", "--build", str(tmp_path / "b")]
    monkeypatch.setattr("sys.argv", words)
    assert fly.main() == 0
    said = capsys.readouterr().out
    rows = [each.split() for each in said.splitlines() if each[:6].strip().isdigit()]
    assert len(rows) == 3
    for _, device, host, equal, _, steps in rows:
        assert device == host
        assert equal == steps
        assert float(device) == float(steps)
    assert "FLASH" in said


@EMULATED
def test_numbers_come_back_as_numbers(tmp_path: Path) -> None:
    """An action that is a force is within a hundred-thousandth of the host's."""
    file = tmp_path / "executor.akd"
    executor = lively(PENDULUM)
    write_bundle(file, executor)
    made = build(file, "m4f", "float", tmp_path / "b", ID, 3)
    with emulate(made, "m4f", 1200) as running:
        device = Device(Line(running.line), floats=True)
        assert device.hello().actions == 1
        for obs in np.random.default_rng(0).standard_normal((20, 3)).astype("f4"):
            assert fly.same(device.act(obs).action, executor.act(obs))


@EMULATED
def test_a_device_says_who_it_is(board: Board) -> None:
    """Sizes, version, which executor, and the rate of its clock."""
    said = Device(Line(board.line), floats=False).hello()
    assert (said.obs, said.actions, said.version, said.id) == (4, 1, 3, ID)
    assert said.hz == 25_000_000


@EMULATED
def test_nan_is_named_and_answered_with_the_safe_action(board: Board) -> None:
    """Nothing is decided on NaN or infinity, and the next observation is as good."""
    device = Device(Line(board.line), floats=False)
    good = device.act(OBS)
    for bad in (np.nan, np.inf):
        answer = device.act(np.array([0, bad, 0, 0], np.float32))
        assert (answer.status, answer.action.tolist()) == ("observation", [0])
    assert device.act(OBS).action == good.action
    assert good.status == "decided"
    assert good.ticks > 0


@EMULATED
def test_lost_and_damaged_frames_are_asked_for_again(board: Board) -> None:
    """Half a frame, noise and far too much of it cost one frame, and no decision."""
    line = Line(board.line)
    device = Device(line, floats=False)
    good = device.act(OBS).action
    whole = frame("o", 9, OBS.tobytes())
    for rubbish in (whole[:-9], b"\x07" * 50 + b"\0", b"\xff" * 9000 + b"\0", b"\0\0\0"):
        line.send(rubbish)
        assert device.act(OBS).action == good
    assert device.again > 0


@EMULATED
def test_an_observation_that_comes_twice_is_decided_once(board: Board) -> None:
    """The same number gets the same answer, to the tick that it took."""
    line = Line(board.line)
    answers = []
    for _ in range(2):
        line.send(frame("o", 5, OBS.tobytes()))
        answers.append(parse(next(line.frames(ENOUGH))))
    assert answers[0] == answers[1]
    # The same number with other contents is still the frame that was answered.
    line.send(frame("o", 5, (5 * OBS).tobytes()))
    assert parse(next(line.frames(ENOUGH))) == answers[0]


@EMULATED
def test_what_cannot_be_meant_is_refused_by_name(board: Board) -> None:
    """A short observation and an unknown letter are the host's mistakes."""
    device = Device(Line(board.line), floats=False)
    with pytest.raises(RefusedError, match="length"):
        device.act(OBS[:3])
    with pytest.raises(RefusedError, match="type"):
        device.ask("?", b"")


@EMULATED
def test_a_hung_device_is_said_to_hang(board: Board) -> None:
    """A clock that stands still ends in an error that says how long was waited."""
    board.freeze()
    device = Device(Line(board.line), floats=False, patience=0.05, tries=3)
    with pytest.raises(DeviceError, match=r"hangs: no answer to 3 frames in 0\.15 s"):
        device.act(OBS)


@EMULATED
def test_an_emulator_that_ends_is_said_to_have_ended(board: Board) -> None:
    """The line's other end hangs up."""
    board.kill()
    device = Device(Line(board.line), floats=False)
    with pytest.raises(DeviceError, match=r"hung up|dead"):
        device.act(OBS)


@EMULATED
def test_a_program_that_breaks_says_where(built: Built, tmp_path: Path) -> None:
    """An instruction that is none ends in a frame with its place."""
    listed = subprocess.run(
        ["arm-none-eabi-nm", built.elf], capture_output=True, text=True, check=True
    ).stdout
    (place,) = (
        int(line.split()[0], 16) for line in listed.splitlines() if line.endswith(" model_act")
    )
    raw = bytearray(built.elf.read_bytes())
    at = offset(raw, place)
    raw[at : at + 2] = b"\xff\xde"  # udf
    broken = tmp_path / "broken.elf"
    broken.write_bytes(raw)
    with emulate(replace(built, elf=broken), "m4f", 1200) as running:
        device = Device(Line(running.line), floats=False)
        with pytest.raises(DeviceError, match=f"broke at {place:#010x}"):
            device.act(OBS)


def offset(elf: bytearray, address: int) -> int:
    """Where in a 32-bit ELF file the byte for an address lies."""
    (table,) = struct.unpack_from("<I", elf, 28)
    size, count = struct.unpack_from("<2H", elf, 42)
    for index in range(count):
        kind, begin, virtual, _, length = struct.unpack_from("<5I", elf, table + index * size)
        if kind == 1 and virtual <= address < virtual + length:
            return int(begin + address - virtual)
    raise AssertionError(f"{address:#x} is in no segment")


@EMULATED
def test_an_update_ships_data_and_no_code(from_data: Built, tmp_path: Path) -> None:
    """The program is built once; another executor is another file beside it."""
    other = lively(CART, seed=5)
    update = tmp_path / "other.akx"
    update.write_bytes(to_akx(other))
    updated = replace(from_data, model=update)
    wanted = [other.act(obs) for obs in steps()]
    before = [lively(CART).act(obs) for obs in steps()]
    for each, expected in ((from_data, before), (updated, wanted)):
        with emulate(each, "m7", 1200) as running:
            device = Device(Line(running.line), floats=False)
            assert [int(device.act(obs).action[0]) for obs in steps()] == expected
    assert before != wanted


def steps() -> list[Floats]:
    random = np.random.default_rng(1)
    return list(random.standard_normal((30, 4)).astype(np.float32))


@EMULATED
@pytest.mark.parametrize(("damage", "name"), [("flipped", "crc"), ("absent", "magic")])
def test_a_model_that_is_none_is_named_and_nothing_is_decided(
    damage: str, name: str, from_data: Built, tmp_path: Path
) -> None:
    """The board says why it has no executor, and answers with the safe action."""
    model = None
    if damage == "flipped":
        assert from_data.model is not None
        raw = bytearray(from_data.model.read_bytes())
        raw[200] ^= 1
        model = tmp_path / "bad.akx"
        model.write_bytes(raw)
    with emulate(replace(from_data, model=model), "m7", 1200) as running:
        device = Device(Line(running.line), floats=False)
        with pytest.raises(DeviceError, match=name):
            device.hello()
        answer = device.act(OBS)
        assert (answer.status, answer.action.tolist()) == ("no model", [0])


@EMULATED
def test_an_emulator_that_does_not_start_says_why(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A board that it does not know is refused in the emulator's own words."""
    monkeypatch.setitem(MACHINES, "m4f", "abacus")
    with pytest.raises(DeviceError, match="unsupported machine"), emulate(built, "m4f", 1200):
        pass


@EMULATED
def test_a_program_that_does_not_build_says_why(executor: Path, tmp_path: Path) -> None:
    """Make's own words are in the message."""
    with pytest.raises(DeviceError, match="m3, m4f or m7"):
        build(executor, "m9", "float", tmp_path / "b", ID, 0)


def test_without_the_tools_it_says_which(
    executor: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing on the PATH it ends in status 2 and names what is missing."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sys.argv", ["fly", str(executor)])
    assert fly.main() == 2
    assert "arm-none-eabi-gcc" in capsys.readouterr().err
