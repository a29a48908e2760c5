"""RAPTOR's foundation policy: its golden example as a planner, an executor, C99 and integers."""

from __future__ import annotations

import ctypes
import subprocess
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from agentkd.deploy.c99 import emit_c
from agentkd.deploy.int8.emit import emit_c_int8
from agentkd.deploy.int8.quantise import quantise
from agentkd.errors import ConfigError, LoadError
from agentkd.executors.executor import Executor
from agentkd.planners import Planner, load_planner
from agentkd.planners.files.freeze import difference, from_checkpoint

FILE = Path(__file__).parent / "data" / "policies" / "raptor.h5"


def load(path: Path = FILE) -> Planner:
    """Load it; its actions are those of the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return load_planner(str(path))


@pytest.fixture(scope="module")
def example() -> tuple[Any, Any]:
    """The example in the file: 500 ticks of 2 episodes, and what is answered."""
    with h5py.File(FILE) as file:
        return file["example/input"][()], file["example/output"][()]


@pytest.fixture(scope="module")
def executor() -> Executor:
    """The policy frozen."""
    return from_checkpoint(load())


def test_the_planner_passes_the_golden_example(example: tuple[Any, Any]) -> None:
    """All 2,084 parameters, tick by tick, both episodes as rows."""
    planner: Any = load()
    assert planner.parameters == 2084
    state = planner.policy.initial_state(2)
    for obs, wanted in zip(*example, strict=True):
        answer, state = planner.policy(obs, state)
        np.testing.assert_allclose(answer.action, wanted, atol=1e-5)


def test_the_executor_passes_it(example: tuple[Any, Any], executor: Executor) -> None:
    """Its memory begins with zeros, as the policy's does."""
    assert executor.architecture == "gru:16,16"
    for row in range(2):
        np.testing.assert_allclose(
            executor.follow(example[0][:, row]), example[1][:, row], atol=1e-5
        )
    assert difference(executor, load(), example[0][:, 0]) < 1e-5


def library(text: str, folder: Path) -> Any:
    """Compile C."""
    (folder / "executor.c").write_text(text)
    command = ["gcc", "-std=c99", "-O2", "-fPIC", "-shared", "executor.c", "-lm", "-o", "x.so"]
    subprocess.run(command, cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "x.so"))


@pytest.mark.needs("gcc")
def test_c99_passes_it(example: tuple[Any, Any], executor: Executor, tmp_path: Path) -> None:
    """Within the tolerance of floats."""
    built, pointer = library(emit_c(executor), tmp_path), ctypes.c_void_p
    for row in range(2):
        state, out = np.zeros(16, np.float32), np.zeros(4, np.float32)
        for obs, wanted in zip(example[0][:, row], example[1][:, row], strict=True):
            at = np.ascontiguousarray(obs)
            where = [pointer(each.ctypes.data) for each in (at, state, out)]
            assert built.executor_outputs(*where) == 0
            np.testing.assert_allclose(out, wanted, atol=1e-5)


@pytest.mark.needs("gcc")
def test_integers_pass_it_within_a_percent(
    example: tuple[Any, Any], executor: Executor, tmp_path: Path
) -> None:
    """Calibrated with one episode; C and the reference agree to the bit, on both."""
    quantised = quantise(executor, example[0][:, 0])
    built, pointer = library(emit_c_int8(quantised), tmp_path), ctypes.c_void_p
    span = np.ptp(example[1])
    for row in range(2):
        state, out = np.zeros(16, np.int16), np.zeros(4, np.int32)
        integers = quantised.integers(example[0][:, row])
        for tick, obs in enumerate(example[0][:, row]):
            at = np.ascontiguousarray(obs)
            where = [pointer(each.ctypes.data) for each in (at, state, out)]
            assert built.executor_outputs(*where) == 0
            np.testing.assert_array_equal(out, integers[tick])
        apart = np.abs(integers * quantised.step - example[1][:, row])
        assert apart.max() < 0.01 * span


def changed(tmp_path: Path, **values: Any) -> Path:
    """The file with another value at a path, which is written with _ for /."""
    path = tmp_path / "raptor.h5"
    path.write_bytes(FILE.read_bytes())
    with h5py.File(path, "r+") as file:
        for name, value in values.items():
            where = f"actor/layers/1/{name}/parameters"
            del file[where]
            if value is not None:
                file[where] = value
    return path


def test_a_memory_that_does_not_begin_with_zeros_is_the_planners_and_not_an_executors(
    tmp_path: Path,
) -> None:
    """The planner begins each episode with it; no executor can."""
    begin = np.linspace(-1, 1, 16).astype(np.float32)
    planner: Any = load(changed(tmp_path, initial_hidden_state=begin))
    np.testing.assert_array_equal(planner.policy.initial_state(2)[0][1, 0], begin)
    with pytest.raises(LoadError, match="begins with a memory that is not zero"):
        from_checkpoint(planner)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "holds no 'parameters'"),
        (np.zeros(16), "no plain array of float32"),
        (np.zeros(3, np.float32), "begins with 3"),
        (np.full(16, np.nan, np.float32), "NaN"),
        (h5py.ExternalLink("/etc/passwd", "/x"), "holds no 'parameters'"),
        (h5py.SoftLink("/example/input"), "holds no 'parameters'"),
    ],
)
def test_a_damaged_file_is_refused(value: Any, said: str, tmp_path: Path) -> None:
    """So is one that leads into another."""
    with pytest.raises(LoadError, match=said):
        load(changed(tmp_path, initial_hidden_state=value))


def test_an_array_that_is_not_stored_is_not_made(tmp_path: Path) -> None:
    """A few bytes can claim gigabytes, compressed or never written."""
    path = changed(tmp_path, initial_hidden_state=None)
    with h5py.File(path, "r+") as file:
        place = file["actor/layers/1/initial_hidden_state"]
        place.create_dataset("parameters", (1 << 32,), np.float32, chunks=(1 << 16,))
    with pytest.raises(LoadError, match="no plain array"):
        load(path)


def test_without_h5py_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is that of Minari's datasets."""
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ConfigError, match=r"h5py.*agentkd\[minari\]"):
        load()


def test_a_file_on_which_hdf5_loops_is_refused(tmp_path: Path) -> None:
    """One byte of its heap of texts, and HDF5's own code would never return."""
    data = bytearray(FILE.read_bytes())
    assert data[3000] == 6
    data[3000] = 255
    path = tmp_path / "raptor.h5"
    path.write_bytes(data)
    with pytest.raises(LoadError, match="keeps HDF5 busy"):
        load_planner(str(path))


def test_a_group_that_lies_in_itself_is_refused(tmp_path: Path) -> None:
    """Layers are counted, and so are the groups that are looked into for them."""
    path = changed(tmp_path)
    with h5py.File(path, "r+") as file:
        del file["actor/layers/0"]
        file["actor/layers/0"] = file["actor"]
    with pytest.raises(LoadError, match="more than 64 layers"):
        load(path)


def test_layers_are_not_left_out(tmp_path: Path) -> None:
    """A sequence of too many is refused, and a perceptron that says another number than it has."""
    path = changed(tmp_path)
    with h5py.File(path, "r+") as file:
        layers = file["actor/layers"]
        last = layers["0"]
        for index in range(3, 100):
            layers[str(index)] = last
    with pytest.raises(LoadError, match="more than 64 layers"):
        load(path)
    with h5py.File(path, "r+") as file:
        actor = file["actor"]
        actor.attrs["type"], actor.attrs["num_layers"] = "mlp", "2"
        actor["hidden_layer_0"] = actor["layers/0"]
    with pytest.raises(LoadError, match="says that it has 2 layers"):
        load(path)


def test_what_no_reader_needs_takes_no_memory(tmp_path: Path) -> None:
    """An array of texts that was never written claims gigabytes; nothing reads it."""
    path = changed(tmp_path)
    with h5py.File(path, "r+") as file:
        file.create_dataset("zeros", (3000,), "S4000000")
    assert load(path).parameters


def test_what_cannot_be_looked_through_does_not_hide_the_rest(tmp_path: Path) -> None:
    """What comes first in the file keeps nothing that comes after it from being looked at."""
    data = bytearray(FILE.read_bytes())
    data[3000] = 255
    path = tmp_path / "raptor.h5"
    path.write_bytes(data)
    with h5py.File(path, "r+") as file:
        file["a"] = h5py.Empty("f4")
    with pytest.raises(LoadError, match="keeps HDF5 busy"):
        load_planner(str(path))


def test_an_attribute_of_many_texts_is_refused(tmp_path: Path) -> None:
    """Many texts may share the bytes of one, and take their memory many times."""
    path = changed(tmp_path)
    with h5py.File(path, "r+") as file:
        file["actor"].attrs["type"] = ["sequential"] * 2
    with pytest.raises(LoadError, match="'type' is not one text"):
        load(path)
