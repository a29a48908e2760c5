"""Generated executors on emulated cores: the same bits, and what they take."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agentkd.deploy.c99 import emit_c
from agentkd.deploy.cores import CORES, Core, core
from agentkd.deploy.emulators import EmulatorError, Program, measure, whole_program
from agentkd.deploy.int8.quantise import quantise
from agentkd.deploy.int8.reference import dense_parts
from agentkd.deploy.vectors import golden
from agentkd.errors import ConfigError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Dense
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec, ObsSpec, Part, Spec
from tests.deploy_executors import lively

ALL = [
    pytest.param(
        each, marks=pytest.mark.needs(f"{each.prefix}gcc", *each.emulator[:1]), id=each.name
    )
    for each in CORES.values()
]
M4F = pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")


def executor(architecture: str, obs: int, action: ActionSpec) -> Executor:
    """An executor of trained size, untrained."""
    spec = Spec(ObsSpec((Part("", "box", (obs,), "float32"),)), action)
    executor = initial(architecture, spec, seed=1)
    last = executor.layers[-1]
    assert isinstance(last, Dense)
    last = replace(last, weight=(last.weight * 100).astype(np.float32))
    return replace(executor, layers=(*executor.layers[:-1], last))


LANDER = executor("mlp:64,64", 8, DiscreteSpec(4))
ARM = executor("mlp:13,13,silu", 5, BoxSpec((-1.0, 0.0), (1.0, 3.0), (2,)))


UNIT = executor("gru:32", 8, DiscreteSpec(4))
EYE = lively("cnn:4x3/2,5x2,9", DiscreteSpec(3))


def int8(executor: Executor, rows: int = 48) -> Program:
    return whole_program(quantise(executor), rows)


def floats(executor: Executor) -> Program:
    return Program(
        emit_c(executor), "executor", *golden(executor, 16), tolerance=1e-5, memory=executor.memory
    )


@pytest.mark.parametrize("on", ALL)
@pytest.mark.parametrize(
    "executor", [LANDER, ARM, UNIT, EYE], ids=["choice", "numbers", "memory", "image"]
)
def test_integers_are_the_same_bits_on_every_core(executor: Executor, on: Core) -> None:
    """Choices, numbers by tables, a sequence and images equal NumPy's on each."""
    measured = measure(int8(executor), on)
    assert measured.wrong == 0
    assert (measured.instructions is not None) == bool(on.round)


@pytest.mark.parametrize("on", ALL)
@pytest.mark.parametrize("executor", [ARM, UNIT], ids=["numbers", "memory"])
def test_floats_are_within_a_hundred_thousandth_on_every_core(executor: Executor, on: Core) -> None:
    """The generated float C agrees with NumPy, with tanh and without an FPU too."""
    assert measure(floats(executor), on).wrong == 0


@M4F
def test_the_simd_path_and_the_portable_one_give_the_same_bits() -> None:
    """On a core with SIMD both pass, and SIMD takes fewer instructions."""
    program = int8(LANDER)
    quick = measure(program, core("m4f"))
    plain = measure(program, core("m4f"), flags=("-DAKD_PORTABLE",))
    assert quick.wrong == plain.wrong == 0
    assert (quick.instructions or 0) < (plain.instructions or 0)


@M4F
def test_a_lander_keeps_to_its_budget_on_a_cortex_m4f() -> None:
    """8-64-64-4: 25,000 instructions float, 20,000 int8, 1 KB of code, 5 KB weights."""
    whole, real = (measure(int8(LANDER), core("m4f")), measure(floats(LANDER), core("m4f")))
    assert (whole.instructions or 0) <= 20_000
    assert (real.instructions or 0) <= 25_000
    assert max(whole.code, real.code) <= 1024
    assert sum(each.weight.size for each in dense_parts(quantise(LANDER).layers)) <= 5 * 1024
    assert whole.stack <= 512


@M4F
def test_a_unit_of_32_keeps_to_its_budget_on_a_cortex_m4f() -> None:
    """GRU-32 with 8 inputs and 4 outputs: a step of 23,000 instructions at most."""
    whole = measure(int8(UNIT), core("m4f"))
    assert 0 < (whole.instructions or 0) <= 23_000
    assert whole.code <= 1024
    assert whole.stack <= 512


@M4F
def test_counts_are_the_same_on_each_run() -> None:
    """Instructions are counted, not timed."""
    program = int8(ARM)
    assert measure(program, core("m4f")) == measure(program, core("m4f"))


@pytest.mark.needs("gcc")
def test_a_wrong_expectation_is_counted() -> None:
    """One integer that should be another makes one vector wrong."""
    program = int8(LANDER)
    outputs = program.outputs.copy()
    outputs[7, 2] += 1
    assert measure(replace(program, outputs=outputs), core("host")).wrong == 1


@pytest.mark.needs("gcc")
def test_source_that_does_not_compile_is_an_error_that_says_why() -> None:
    """The compiler's own words are in the message."""
    program = replace(int8(ARM), source="#error nonsense\n")
    with pytest.raises(EmulatorError, match="nonsense"):
        measure(program, core("host"))


def test_missing_tools_are_named_with_their_packages() -> None:
    """A core whose compiler is not there says which packages bring it."""
    absent = replace(core("m4f"), prefix="no-such-prefix-")
    with pytest.raises(EmulatorError, match=r"no-such-prefix-gcc.*gcc-arm-none-eabi"):
        measure(int8(ARM), absent)


def test_an_unknown_core_suggests_the_nearest() -> None:
    """`m4` was probably meant to be `m4f`."""
    with pytest.raises(ConfigError, match="m4f"):
        core("m4")
