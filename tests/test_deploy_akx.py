"""model.akx and its fixed runtime: the same numbers, and nothing damaged is read."""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agentkd.deploy.akx import RUNTIME, to_akx
from agentkd.deploy.programs import STRICT, build, run_akx
from agentkd.deploy.vectors import probes
from agentkd.deploy.verify import compare, reference
from agentkd.errors import LoadError, NumbersError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.spec import ActionSpec, DiscreteSpec, ObsSpec, Part, Spec
from tests.deploy_executors import CASES, NAMES, lively

SANITISED = ("-std=c99", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover")
HERE = Path(__file__).parent
MANY = 10_000


@pytest.mark.needs("cc")
@pytest.mark.parametrize(("architecture", "action"), CASES, ids=NAMES)
def test_ten_thousand_observations(architecture: str, action: ActionSpec) -> None:
    """Numbers within 1e-5 of NumPy, and the same choice wherever there is no tie."""
    executor = lively(architecture, action)
    obs = 2 * probes(executor, MANY, seed=3)
    verdict = compare("akx", executor, run_akx(executor, obs), reference(executor, obs))
    assert verdict.status == "agrees", verdict.text


@pytest.mark.needs("cc")
@pytest.mark.parametrize(("architecture", "action"), CASES, ids=NAMES)
def test_the_dense_runtime_runs_what_is_dense(architecture: str, action: ActionSpec) -> None:
    """The same numbers; what has other layers is refused as of an unknown kind."""
    executor = lively(architecture, action)
    obs = probes(executor, 200, seed=3)
    flags = (*STRICT, "-DAKX_DENSE_ONLY")
    if architecture.startswith(("mlp", "linear")) and " " not in architecture:
        answer = run_akx(executor, obs, flags=flags)
        verdict = compare("akx", executor, answer, reference(executor, obs))
        assert verdict.status == "agrees", verdict.text
        return
    with pytest.raises(LoadError, match="status 7"):
        run_akx(executor, obs, flags=flags)


@pytest.mark.needs("clang")
def test_the_runtime_has_no_warning_under_clang() -> None:
    """As strict as the generated file."""
    executor = lively(*CASES[0])
    flags = (*STRICT, "-Wconversion", "-Wshadow")
    run_akx(executor, probes(executor, 5), cc="clang", flags=flags)


@pytest.mark.needs("cc", "valgrind")
def test_valgrind_has_nothing_to_say() -> None:
    """No byte is read that was not written."""
    executor = lively(*CASES[3])
    under = ("valgrind", "-q", "--error-exitcode=99")
    run_akx(executor, probes(executor, 20), under=under)


def small(case: int) -> Executor:
    """An executor with the actions of a case, as small as its kind can be."""
    architecture, action = CASES[case]
    kind = architecture.partition(":")[0]
    tiny = {"gru": "gru:2", "lstm": "lstm:2", "attention": "attention:2/1/1"}
    if " " in architecture:
        past = "delay:2" if "delay" in architecture else "stack:2"
        return lively(f"mlp:3 0:2,{past}", action)
    return lively(tiny.get(kind, "cnn:2x3/3" if kind == "cnn" else "mlp:3"), action)


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("case", [1, 4, 6, 8, 10, 11, 12, 14, 18], ids=lambda i: NAMES[i])
def test_whatever_is_wrong_with_a_file_is_named(case: int, tmp_path: Path) -> None:
    """Each truncation, flipped bit and hostile header is refused, or runs safely.

    Under the address and undefined-behaviour sanitisers: nothing outside the file and the buffers
    is touched.
    """
    (tmp_path / "model.akx").write_bytes(to_akx(small(case)))
    for source in (*RUNTIME, HERE / "akx_refuses.c"):
        shutil.copy(source, tmp_path)
    program = build(tmp_path, ["akx_refuses.c"], cc="gcc", flags=SANITISED)
    done = subprocess.run(
        [program, tmp_path / "model.akx"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    counts = dict(line.split() for line in done.stdout.splitlines())
    for reason in ("magic", "version", "size", "crc", "kind", "shape", "numbers"):
        assert int(counts[reason]) > 0, reason
    # Most words are weights, and other weights are as good.
    assert int(counts["opened"]) == int(counts["ok"]) > 0


@pytest.mark.needs("cc")
def test_an_observation_that_is_no_number_decides_nothing() -> None:
    """The status says so."""
    executor = lively(*CASES[0])
    obs = probes(executor, 1)
    obs[0, 0] = np.nan
    with pytest.raises(LoadError, match="status 12"):
        run_akx(executor, obs)


def test_the_header_is_as_documented() -> None:
    """Little endian, its own length, the checksum of all after it."""
    executor = lively(*CASES[1])
    data = to_akx(executor)
    assert data[:4] == b"AKX1"
    version, size, crc = struct.unpack("<3I", data[4:16])
    assert (version, size, crc) == (2, len(data), zlib.crc32(data[16:]))
    words = struct.unpack("<6IifI", data[16:52])
    assert words == (0, 7, 5, 2, 0, 1, 2, executor.clip, executor.version)
    assert to_akx(executor) == data


def test_an_update_of_weights_has_the_same_length() -> None:
    """Only numbers differ between two versions of one architecture."""
    one, two = (to_akx(lively(*CASES[0], seed=seed)) for seed in (2, 3))
    assert len(one) == len(two)
    assert one != two


def test_weights_that_are_no_numbers_are_not_written() -> None:
    """NaN stops the export."""
    executor = lively(*CASES[0])
    with pytest.raises(NumbersError):
        to_akx(replace(executor, scale=np.full(7, np.inf, np.float32)))


@pytest.mark.needs("arm-none-eabi-gcc", "arm-none-eabi-size")
@pytest.mark.parametrize(
    ("flags", "most"), [((), 6144), (("-DAKX_DENSE_ONLY",), 2560)], ids=["all", "dense"]
)
def test_the_runtime_is_small_on_a_cortex_m4(
    flags: tuple[str, ...], most: int, tmp_path: Path
) -> None:
    """Code with every head, activation and kind of layer, and no RAM of its own."""
    for source in RUNTIME:
        shutil.copy(source, tmp_path)
    cpu = ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")
    command = ["arm-none-eabi-gcc", *STRICT, *cpu, *flags, "-Os", "-c", "akx.c"]
    subprocess.run(command, cwd=tmp_path, check=True)
    sizes = subprocess.run(
        ["arm-none-eabi-size", "akx.o"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    text, data, bss = map(int, sizes.splitlines()[1].split()[:3])
    assert 0 < text <= most
    assert (data, bss) == (0, 0)


def test_a_lander_fits_a_flash_page_or_five() -> None:
    """8-64-64-4 in float takes 20 KB."""
    spec = Spec(ObsSpec((Part("", "box", (8,), "float32"),)), DiscreteSpec(4))
    assert len(to_akx(initial("mlp:64,64", spec))) == 20256
