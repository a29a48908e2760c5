"""examples/godot, unity and ros2: they build, and act through their interfaces as NumPy does."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.deploy.bundle import write_bundle
from agentkd.deploy.export import export_file
from agentkd.deploy.vectors import answers, probes
from agentkd.dists import action_width
from agentkd.executors.difference import actions_of
from agentkd.executors.executor import Executor
from agentkd.spec import BoxSpec, DiscreteSpec, MultiDiscreteSpec
from tests.deploy_executors import lively
from tests.deploy_programs import WARNINGS

ROOT = Path(__file__).parents[1]
EXAMPLES, TESTS = ROOT / "examples", ROOT / "tests"
EXECUTORS = {
    "numbers": lively("gru:8,5,tanh", BoxSpec((-1.0, -2.0), (1.0, 3.0), (2,))),
    "choices": lively("mlp:100,silu", MultiDiscreteSpec((2, 3))),
    "choice": lively("mlp:5", DiscreteSpec(3, -1)),
}
CASES = pytest.mark.parametrize("executor", EXECUTORS.values(), ids=list(EXECUTORS))
ROWS, RESET = 20, 9
"""Observations, and the one before which an episode begins."""
SHARED = ("-std=c99", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", *WARNINGS)


def run(*words: object, folder: Path, given: bytes = b"") -> bytes:
    """What a command prints that has to succeed and say nothing on stderr."""
    done = subprocess.run(
        [str(each) for each in words],
        cwd=folder,
        input=given,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
    return done.stdout


def lived(executor: Executor) -> tuple[bytes, Any]:
    """Observations, and the actions of two episodes in them."""
    obs = probes(executor, ROWS)
    starts = np.zeros(ROWS, np.float32)
    starts[[0, RESET]] = 1.0
    return obs.tobytes(), actions_of(executor, answers(executor, obs, starts))


def check(executor: Executor, data: bytes, wanted: Any) -> None:
    """Compare actions that came as floats."""
    got = np.frombuffer(data, np.float32).reshape(-1, action_width(executor.spec.action))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.needs("cc")
@CASES
def test_the_godot_extension_acts(executor: Executor, tmp_path: Path) -> None:
    """A stand-in for Godot loads it, calls it both ways, and gets back all that it lent."""
    export_file(executor, tmp_path / "executor.c")
    stubs = ("-I", TESTS / "godot", "-I", tmp_path)
    source = EXAMPLES / "godot" / "agentkd.c"
    run("cc", *SHARED, *stubs, source, "executor.c", "-o", "lib.so", "-lm", folder=tmp_path)
    host = TESTS / "godot" / "host.c"
    # POSIX, for dlopen.
    flags = ("-std=c99", "-D_POSIX_C_SOURCE=200809L", "-O1", *WARNINGS)
    run("cc", *flags, *stubs, host, "-o", "host", "-ldl", folder=tmp_path)
    obs, wanted = lived(executor)
    size = executor.spec.obs.size
    said = run("./host", tmp_path / "lib.so", size, RESET, folder=tmp_path, given=obs)
    check(executor, said, wanted)


@pytest.mark.needs("cc")
@pytest.mark.parametrize(
    ("size", "value", "text"), [(8, 0.0, "another number"), (7, np.nan, "NaN or infinite")]
)
def test_the_godot_extension_says_why_it_does_not_act(
    size: int, value: float, text: str, tmp_path: Path
) -> None:
    """An observation of another size, or with NaN: an empty action and a word on the console."""
    executor = EXECUTORS["numbers"]
    export_file(executor, tmp_path / "executor.c")
    stubs = ("-I", TESTS / "godot", "-I", tmp_path)
    source, host = EXAMPLES / "godot" / "agentkd.c", TESTS / "godot" / "host.c"
    run("cc", *SHARED, *stubs, source, "executor.c", "-o", "lib.so", "-lm", folder=tmp_path)
    flags = ("-std=c99", "-D_POSIX_C_SOURCE=200809L", *WARNINGS)
    run("cc", *flags, *stubs, host, "-o", "host", "-ldl", folder=tmp_path)
    obs = np.full((2, size), value, np.float32)
    done = subprocess.run(
        ["./host", tmp_path / "lib.so", str(size), "9"],
        cwd=tmp_path,
        input=obs.tobytes(),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.decode().count(text) == 2


@pytest.mark.needs("make", "cc")
@pytest.mark.parametrize("engine", ["godot", "unity"])
def test_the_makefiles_build_a_folder_to_copy(engine: str, tmp_path: Path) -> None:
    """From an executor file to what goes into a project."""
    write_bundle(tmp_path / "executor.akd", EXECUTORS["numbers"])
    words = [f"HEADERS={TESTS / 'godot'}"] if engine == "godot" else []
    makefile = EXAMPLES / engine / "Makefile"
    command = ["make", "-f", str(makefile), f"PYTHON={sys.executable}", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, env=environment)
    built = {each.name for each in (tmp_path / "build").rglob("*") if each.is_file()}
    wanted = {"godot": "agentkd.gdextension", "unity": "AgentkdExecutor.cs"}[engine]
    assert {wanted, "libagentkd.so", "executor.c", "executor.h"} <= built


def plugin(executor: Executor, folder: Path) -> Path:
    """Build Unity's plugin."""
    export_file(executor, folder / "executor.c")
    source = EXAMPLES / "unity" / "plugin.c"
    library = "libagentkd.so"
    run("cc", *SHARED, "-I.", source, "executor.c", "-o", library, "-lm", folder=folder)
    return folder / library


@pytest.mark.needs("cc")
@CASES
def test_the_unity_plugin_acts(executor: Executor, tmp_path: Path) -> None:
    """Through its C interface: sizes, actions, a memory for each, refusals."""
    library = ctypes.CDLL(str(plugin(executor, tmp_path)))
    library.agentkd_open.restype = ctypes.c_void_p
    size, count = library.agentkd_obs(), library.agentkd_actions()
    assert (size, count) == (executor.spec.obs.size, action_width(executor.spec.action))
    states = [ctypes.c_void_p(library.agentkd_open()) for _ in range(2)]
    data, wanted = lived(executor)
    obs = np.frombuffer(data, np.float32).reshape(ROWS, size).copy()
    action = np.zeros(count, np.float32)
    pointer = ctypes.c_void_p(action.ctypes.data)
    for state in states:
        for row in range(ROWS):
            if row == RESET:
                library.agentkd_reset(state)
            given = ctypes.c_void_p(obs[row].ctypes.data)
            assert library.agentkd_act(state, given, size, pointer, count) == 0
            np.testing.assert_allclose(action, wanted[row], rtol=1e-5, atol=1e-5)
    before = action.copy()
    obs[0, 0] = np.inf
    given = ctypes.c_void_p(obs[0].ctypes.data)
    assert library.agentkd_act(states[0], given, size, pointer, count) == 1
    assert library.agentkd_act(states[0], given, size + 1, pointer, count) == 2
    assert library.agentkd_act(None, given, size, pointer, count) == 2
    assert np.array_equal(action, before)
    for state in states:
        library.agentkd_close(state)


@pytest.mark.needs("cc", "mcs", "mono")
@CASES
def test_the_unity_class_acts_in_mono(executor: Executor, tmp_path: Path) -> None:
    """The C# class finds the plugin, acts, and refuses NaN and other sizes."""
    plugin(executor, tmp_path)
    sources = (EXAMPLES / "unity" / "AgentkdExecutor.cs", TESTS / "unity_host.cs")
    subprocess.run(["mcs", "-out:host.exe", *sources], cwd=tmp_path, check=True)
    obs, wanted = lived(executor)
    done = subprocess.run(
        ["mono", "host.exe", str(ROWS), str(RESET)],
        cwd=tmp_path,
        input=obs,
        capture_output=True,
        check=False,
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr.decode()
    check(executor, done.stdout, wanted)


def ros(executor: Executor, folder: Path, *sources: Path) -> Path:
    """Compile sources of the package with the stubs into a program."""
    export_file(executor, folder / "executor.c")
    run("cc", "-std=c99", *WARNINGS, "-c", "executor.c", folder=folder)
    flags = ("-std=c++17", *WARNINGS, "-I", TESTS / "ros2", "-I", folder)
    run("c++", *flags, *sources, "executor.o", "-o", "program", "-lm", folder=folder)
    return folder / "program"


@pytest.mark.needs("cc", "c++")
@CASES
def test_the_ros_node_acts(executor: Executor, tmp_path: Path) -> None:
    """Against stubs: an action for each observation, and a reset between."""
    program = ros(executor, tmp_path, EXAMPLES / "ros2" / "src" / "executor_node.cpp")
    obs, wanted = lived(executor)
    said = run(program, executor.spec.obs.size, RESET, folder=tmp_path, given=obs)
    check(executor, said, wanted)


@pytest.mark.needs("cc", "c++")
@CASES
def test_the_ros_controller_acts(executor: Executor, tmp_path: Path) -> None:
    """Against stubs: it reads states and writes commands, and wants as many as the executor has."""
    sources = (
        EXAMPLES / "ros2" / "src" / "executor_controller.cpp",
        TESTS / "ros2" / "controller_host.cpp",
    )
    program = ros(executor, tmp_path, *sources)
    obs, wanted = lived(executor)
    sizes = (executor.spec.obs.size, action_width(executor.spec.action))
    done = subprocess.run(
        [program, *map(str, sizes), str(RESET)], input=obs, capture_output=True, check=False
    )
    # The names are missing the first time.
    assert done.returncode == 0, done.stderr.decode()
    assert b"names 0 interfaces" in done.stderr
    check(executor, done.stdout, wanted)


def test_each_folder_says_what_was_tested() -> None:
    """What was run only against stand-ins is labelled so."""
    for name in ("godot", "unity", "ros2"):
        text = (EXAMPLES / name / "README.md").read_text()
        assert re.search(r"\*\*What was tested:\*\*.*(not run|not built)", text, re.DOTALL), name
