"""The gate of the firmware example: cut at each operation of simulated flash, and on a board."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.deploy.akx import RUNTIME
from agentkd.deploy.bundle import Bundle, read_bundle, write_bundle
from agentkd.deploy.contract import Contract
from agentkd.deploy.programs import STRICT, build
from agentkd.deploy.vectors import answers
from agentkd.errors import ConfigError
from agentkd.executors.architecture import initial
from agentkd.executors.difference import actions_of
from agentkd.executors.executor import Executor
from agentkd.spec import BoxSpec, DiscreteSpec, ObsSpec, Part, Spec
from examples.firmware import board as boards
from examples.firmware import package, update
from examples.firmware.board import HERE, Built, emulate
from examples.firmware.link import Device, DeviceError, Line
from examples.firmware.package import contract_id, public_bytes, read_key, to_package
from examples.firmware.update import Robot, model_id, pieces, send, status
from tests.test_deploy_akx import SANITISED
from tests.test_firmware import EMULATED

GATE = HERE / "gate"
SMALL = Spec(ObsSpec((Part("", "box", (3,), "float32"),)), DiscreteSpec(2))
PENDULUM = Spec(ObsSpec((Part("", "box", (3,), "float32"),)), BoxSpec((-2.0,), (2.0,), (1,)))


def made(folder: Path, executor: Executor, name: str = "executor") -> Bundle:
    path = folder / f"{name}.akd"
    write_bundle(path, executor, {"env": "Some-v0"})
    return read_bundle(path)


def golden(executor: Executor, obs: Any) -> dict[str, Any]:
    outputs = answers(executor, obs)
    return {"obs": obs, "outputs": outputs, "actions": actions_of(executor, outputs)} | {
        "starts": np.array([1.0, *np.zeros(len(obs) - 1)], np.float32)
    }


def stirred(architecture: str, spec: Spec, seed: int) -> Executor:
    """An executor whose answers depend on what it sees."""
    executor = initial(architecture, spec, seed=seed)
    vector = executor.vector()
    vector += 0.5 * np.random.default_rng(seed).standard_normal(vector.shape).astype(np.float32)
    return executor.with_vector(vector, 3)


def overflowing(spec: Spec) -> Executor:
    """An executor that gives numbers for zeros, and infinity for ones."""
    executor = initial("mlp:3,relu", spec)
    first, last = np.ones(9), np.full(3 * executor.out, 3e38)
    normaliser = np.zeros(3), np.ones(3)
    vector = np.concatenate([*normaliser, first, np.zeros(3), last, np.zeros(executor.out)])
    return executor.with_vector(vector.astype(np.float32), 3)


@pytest.mark.needs("gcc")
@pytest.mark.parametrize(
    ("architecture", "spec"), [("mlp:3", SMALL), ("gru:2", PENDULUM)], ids=["mlp", "gru"]
)
def test_power_is_lost_at_every_operation(architecture: str, spec: Spec, tmp_path: Path) -> None:
    """The old or the new executor acts, an update ends, and nothing hostile is let in.

    Under the address and undefined-behaviour sanitisers; cells that a cut left unreadable are
    poisoned, and what is programmed twice or without an erase ends the program.
    """
    random = np.random.default_rng(0)
    obs = random.standard_normal((3, 3)).astype(np.float32)
    executors = [stirred(architecture, spec, seed) for seed in (0, 1)]
    tried = zip((*executors, overflowing(spec)), (obs, obs, np.zeros_like(obs)), strict=True)
    some = made(tmp_path, executors[0])
    for index, (each, seen) in enumerate(tried):
        # A file of agentkd's would not take the third one.
        found = replace(some, executor=each, golden=golden(each, seen))
        (tmp_path / f"{index}.akp").write_bytes(to_package(found, index + 1))
    for source in (*RUNTIME, *GATE.iterdir(), HERE.parents[1] / "tests" / "gate_cuts.c"):
        shutil.copy(source, tmp_path)
    sources = ["gate_cuts.c", "gate.c", "package.c", "akx.c"]
    program = build(tmp_path, sources, cc="gcc", flags=SANITISED)
    done = subprocess.run(
        [program, *(tmp_path / f"{index}.akp" for index in range(3))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    counts = {name: int(value) for name, value in map(str.split, done.stdout.splitlines())}
    assert min(counts[name] for name in ("first", "good", "bad", "third", "failures")) > 50
    assert counts["cuts"] > 1000
    assert counts["refused"] > 100


@pytest.mark.needs("clang")
@pytest.mark.parametrize("source", ["gate.c", "store.c", "package.c"])
def test_it_has_no_warning_under_clang(source: str, tmp_path: Path) -> None:
    """As strict as the runtime."""
    for each in (*RUNTIME, *GATE.iterdir()):
        shutil.copy(each, tmp_path)
    flags = (*STRICT, "-Wconversion", "-Wshadow", "-c", source)
    subprocess.run(["clang", *flags], cwd=tmp_path, check=True)


@pytest.mark.needs("arm-none-eabi-gcc", "arm-none-eabi-size")
def test_it_is_small_on_a_cortex_m4(tmp_path: Path) -> None:
    """Its code, and no RAM but the caller's."""
    for each in (*RUNTIME, *GATE.iterdir()):
        shutil.copy(each, tmp_path)
    cpu = ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")
    text = 0
    for name in ("gate", "store", "package"):
        command = ["arm-none-eabi-gcc", *STRICT, *cpu, "-Os", "-c", f"{name}.c"]
        subprocess.run(command, cwd=tmp_path, check=True)
        size = ["arm-none-eabi-size", f"{name}.o"]
        said = subprocess.run(size, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        code, data, zeros = map(int, said.splitlines()[1].split()[:3])
        assert (data, zeros) == (0, 0)
        text += code
    assert 0 < text <= 4608


@pytest.fixture(scope="module")
def key() -> Any:
    made = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    return made.Ed25519PrivateKey.generate()


@pytest.fixture(scope="module")
def genuine(key: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The firmware's own check of a signature, as a function of Python."""
    folder = tmp_path_factory.mktemp("signature")
    sources = [HERE / "signature.c", HERE / "monocypher" / "monocypher.c"]
    flags = ["-std=c99", "-O1", "-fPIC", "-shared", f"-DGATE_KEY={public_bytes(key)}"]
    flags += ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]
    include = f"-I{HERE / 'monocypher'}"
    command: list[str | Path] = ["gcc", *flags, include, *sources, "-o", folder / "s.so"]
    subprocess.run(command, check=True)
    check = ctypes.CDLL(str(folder / "s.so")).signature_is_genuine
    check.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p]
    return lambda data, signature: check(data, len(data), signature) == 0


@pytest.mark.needs("gcc")
def test_a_signature_is_checked_as_elsewhere(key: Any, genuine: Any) -> None:
    """Ed25519 of RFC 8032, around each length of a block; no changed bit passes."""
    for length in (0, 1, 46, 47, 48, 63, 64, 65, 127, 128, 129, 1000):
        data = bytes(index % 251 for index in range(length))
        signature = key.sign(data)
        assert genuine(data, signature)
        assert not genuine(data + b"x", signature)
    for bit in range(512):
        changed = bytearray(signature)
        changed[bit // 8] ^= 1 << bit % 8
        assert not genuine(data, bytes(changed))
    # The same signature plus the order of the group is another one that some would take.
    order = 2**252 + 27742317777372353535851937790883648493
    number = int.from_bytes(signature[32:], "little") + order
    assert not genuine(data, signature[:32] + number.to_bytes(32, "little"))


def test_a_contract_tells_robots_apart() -> None:
    """By spec, names and the time between decisions; measured ones may differ a little."""
    one, period = Contract(), Contract(period=0.02)
    assert len({contract_id(each, one) for each in (SMALL, PENDULUM)}) == 2
    assert contract_id(SMALL, period) != contract_id(SMALL, one)
    assert contract_id(SMALL, period) == contract_id(SMALL, Contract(period=0.0200001))
    named = Contract(obs_names=("a", "b", "c"))
    assert contract_id(SMALL, named) != contract_id(SMALL, one)


def test_what_is_no_key_is_named(tmp_path: Path) -> None:
    """With what it is."""
    pytest.importorskip("cryptography")
    (tmp_path / "key.pem").write_text("x")
    with pytest.raises(ConfigError, match=r"key\.pem is not a private key"):
        read_key(tmp_path / "key.pem")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return made(tmp_path_factory.mktemp("first"), stirred("mlp:8", SMALL, 0))


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory, first: Bundle) -> Bundle:
    vector = first.executor.vector()
    vector[-1] += 0.01
    return made(tmp_path_factory.mktemp("second"), first.executor.with_vector(vector, 4))


@pytest.fixture(scope="module")
def board(key: Any, first: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("gate")
    variables = [f"GATE_KEY={public_bytes(key)}"]
    variables.append("MORE=-DGATE_SHADOW_TICKS=12u -DGATE_ACTING_TICKS=12u")
    file = folder / "executor.akd"
    write_bundle(file, first.executor)
    return boards.build(file, "m4f", "gate", folder / "build", variables=variables)


@pytest.fixture
def robot(board: Built, first: Bundle, key: Any, tmp_path: Path) -> Iterator[Robot]:
    """A board that acts with its first executor."""
    robot = Robot(board, "m4f", tmp_path / "flash", first.golden["obs"])
    try:
        ended = robot.update(to_package(first, 1, key))
        assert (ended.last, ended.id) == ("CONFIRMED", model_id(first))
        yield robot
    finally:
        robot.close()


@EMULATED
def test_a_board_is_updated_while_it_acts(
    robot: Robot, first: Bundle, second: Bundle, key: Any
) -> None:
    """It decides for each observation, with the update at the end; and goes back if asked."""
    phases = set()
    assert send(robot.device, to_package(second, 2, key)) == "ok"
    while status(robot.device).stage != "NONE":
        robot.act()
        phases.add(status(robot.device).phase)
    assert phases == {"shadow", "acting", "idle"}
    assert robot.device.hello().id == model_id(second)
    robot.start()
    assert robot.device.hello().id == model_id(second)
    robot.device.ask("k", b"")
    assert robot.device.hello().id == model_id(first)
    assert send(robot.device, to_package(second, 3, key)) == "blacklisted"


@EMULATED
@pytest.mark.parametrize("moment", ["erase", "piece", "staged", "trial", "confirmed"])
def test_power_is_lost_on_a_board(
    moment: str, robot: Robot, first: Bundle, second: Bundle, key: Any
) -> None:
    """The next start acts with one of the two, and the update ends."""
    data = to_package(second, 2, key)
    # An erase, the words of the package, and three records of 24 words.
    whole = 1 + len(data) // 4
    cut = {"erase": 1, "piece": whole // 2, "staged": whole + 10}
    cut |= {"trial": whole + 24 + 10, "confirmed": whole + 48 + 24}
    robot.cut_after(cut[moment])
    ended = robot.update(data)
    assert (ended.last, ended.id) == ("CONFIRMED", model_id(second))
    assert robot.starts == 2
    assert robot.device.hello().id == model_id(second)


@EMULATED
def test_a_board_is_killed_amid_an_update(
    robot: Robot, first: Bundle, second: Bundle, key: Any
) -> None:
    """At each piece in turn: the first executor acts after it."""
    data = to_package(second, 2, key)
    for count, _ in enumerate(pieces(robot.device, data)):
        assert count < 1000
    robot.device.ask("k", b"")
    for last in range(1, count, 2):
        for index, _ in enumerate(pieces(robot.device, data)):
            if index == last:
                break
        robot.board.kill()
        robot.start()
        assert robot.device.hello().id == model_id(first)
        robot.act()


@EMULATED
def test_a_board_takes_what_its_key_has_signed(
    robot: Robot, first: Bundle, second: Bundle, key: Any
) -> None:
    """And nothing else, nor anything older; what acts goes on."""
    data = to_package(second, 2, key)
    assert send(robot.device, to_package(second, 2)) == "unsigned"
    assert send(robot.device, data[:-1] + bytes([data[-1] ^ 1])) == "unsigned"
    assert send(robot.device, data[:40] + b"\1" + data[41:]) == "damaged"
    assert send(robot.device, to_package(second, 0, key)) == "old"
    assert robot.device.hello().id == model_id(first)
    robot.act()
    assert robot.update(data).last == "CONFIRMED"


@EMULATED
def test_a_board_without_an_executor_decides_nothing(board: Built, tmp_path: Path) -> None:
    """Until it gets the first one."""
    with emulate(board, "m4f", 1200, tmp_path / "flash") as running:
        device = Device(Line(running.line), floats=False)
        with pytest.raises(DeviceError, match="short"):
            device.hello()
        assert device.act(np.zeros(3, np.float32)).status == "no model"


def test_the_command_writes_updates_and_public_keys(
    key: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signed file, its size, the key as bytes of C; what is asked for amiss is an error."""
    executor = made(tmp_path, stirred("mlp:3", SMALL, 0))
    private = written_key(tmp_path, key)

    def told(*words: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["package", *map(str, words)])
        status = package.main()
        said = capsys.readouterr()
        return status, said.out + said.err

    file, out = tmp_path / "executor.akd", tmp_path / "u.akp"
    status, said = told(file, "-o", out, "--key", private, "--serial", 7)
    assert (status, "signed" in said) == (0, True)
    assert out.read_bytes() == to_package(executor, 7, key)
    assert told("--public", private) == (0, public_bytes(key) + "\n")
    assert told()[0] == 2
    status, said = told(file, "--serial", -1)
    assert (status, "--serial is -1" in said) == (2, True)


def written_key(folder: Path, key: Any) -> Path:
    from cryptography.hazmat.primitives import serialization as forms

    path = folder / "key.pem"
    kinds = forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption()
    path.write_bytes(key.private_bytes(*kinds))
    return path


@EMULATED
def test_the_command_updates_a_board(
    first: Bundle,
    second: Bundle,
    key: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through a cut of the power, on a core without an FPU; it says how each update ended."""
    files = [tmp_path / "first.akd", tmp_path / "second.akd"]
    for file, each in zip(files, (first, second), strict=True):
        write_bundle(file, each.executor)
    words = ["update", *map(str, files), "--machine", "m3", "--ticks", "5", "--cut", "30"]
    words += ["--key", str(written_key(tmp_path, key)), "--build", str(tmp_path / "build")]
    monkeypatch.setattr("sys.argv", words)
    assert update.main() == 0
    said = capsys.readouterr().out
    assert said.count("CONFIRMED, ok") == 2
    assert "2 starts" in said
