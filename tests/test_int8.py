"""Executors in integers: the specification, and C against NumPy bit by bit."""

from __future__ import annotations

import ctypes
import subprocess
from dataclasses import replace
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd import dists
from agentkd.deploy.int8.emit import emit_c_int8, packed, probes
from agentkd.deploy.int8.quantise import calibration, quantise
from agentkd.deploy.int8.reference import Quantised, dense_parts, lookup, requantise
from agentkd.errors import ConfigError, NumbersError, SpecError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Dense
from agentkd.spec import (
    ActionSpec,
    BoxSpec,
    DiscreteSpec,
    MultiBinarySpec,
    MultiDiscreteSpec,
    ObsSpec,
    Part,
    Spec,
)
from agentkd.types import Floats

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror")
BOX = BoxSpec((-2.0, 0.0, -1.0), (2.0, 5.0, -0.25), (3,))
CASES: dict[str, tuple[str, ActionSpec, bool]] = {
    "choice": ("mlp:17,10", DiscreteSpec(5, -1), True),
    "choices": ("mlp:12,tanh", MultiDiscreteSpec((3, 2, 4)), True),
    "yes or no": ("mlp:9,7,elu", MultiBinarySpec(6), True),
    "squashed": ("mlp:16,16,silu", BOX, True),
    "clipped": ("mlp:8,relu", BoxSpec((-1.0, 0.0), (np.inf, 1.0), (2,)), False),
    "linear": ("linear", DiscreteSpec(3), True),
}


def executor(
    architecture: str = "mlp:17,10",
    action: ActionSpec = CASES["choice"][1],
    squashed: bool = True,
    obs: int = 7,
) -> Executor:
    """An executor with a normaliser and biases, whose outputs differ well."""
    spec = Spec(ObsSpec((Part("", "box", (obs,), "float32"),)), action)
    executor = initial(architecture, spec, seed=3, squashed=squashed)
    random = np.random.default_rng(4)
    vector = executor.vector()
    vector += random.normal(0, 0.1, vector.shape).astype(np.float32)
    executor = executor.with_vector(vector, 1)
    last = executor.layers[-1]
    assert isinstance(last, Dense)
    last = replace(last, weight=(last.weight * 20).astype(np.float32))
    return replace(executor, layers=(*executor.layers[:-1], last))


def observations(executor: Executor, rows: int) -> Floats:
    """Near the normaliser's mean, far from it, and absurd."""
    random = np.random.default_rng(5)
    z = random.standard_normal((rows, len(executor.mean)))
    z *= np.exp(random.normal(0.0, 1.5, (rows, 1)))
    obs = (executor.mean + z / executor.scale).astype(np.float32)
    obs[0], obs[1], obs[2], obs[3] = 3e38, -3e38, 1e-42, 0.0
    return obs


def library(quantised: Quantised, folder: Path, *command: str) -> ctypes.CDLL:
    """The generated C, compiled and loaded."""
    source, built = folder / "executor.c", folder / "executor.so"
    source.write_text(emit_c_int8(quantised))
    words = [*command, *STRICT, "-fPIC", "-shared", str(source), "-o", str(built)]
    subprocess.run(words, check=True)
    return ctypes.CDLL(str(built))


def ask(loaded: Any, obs: Floats, out: int, actions: Any) -> tuple[Any, Any]:
    """What both functions give for each row."""
    integers = np.zeros((len(obs), out), np.int32)
    taken = np.zeros_like(np.ascontiguousarray(actions).reshape(len(obs), -1))
    pointer = ctypes.c_void_p
    for row, into, act in zip(obs, integers, taken, strict=True):
        at = pointer(row.ctypes.data)
        assert loaded.executor_outputs(at, pointer(into.ctypes.data)) == 0
        assert loaded.executor_act(at, pointer(act.ctypes.data)) == 0
    return integers, taken


def rows_of(quantised: Quantised, obs: Floats) -> Any:
    actions = np.asarray(dists.mode(quantised(obs), quantised.spec.action))
    kind = np.float32 if isinstance(quantised.spec.action, BoxSpec) else np.int32
    return actions.reshape(len(obs), -1).astype(kind)


@pytest.mark.needs("gcc", "clang")
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("case", CASES)
def test_c_equals_numpy_bit_by_bit(case: str, compiler: str, tmp_path: Path) -> None:
    """Over 10,000 observations, of every head and activation, not one bit differs."""
    floats = executor(*CASES[case])
    quantised = quantise(floats)
    obs = observations(floats, 10_000)
    wanted, actions = quantised.integers(obs), rows_of(quantised, obs)
    loaded = library(quantised, tmp_path, compiler, "-O3", "-march=native")
    integers, taken = ask(loaded, obs, wanted.shape[1], actions)
    np.testing.assert_array_equal(integers, wanted)
    np.testing.assert_array_equal(taken, actions)
    assert len(np.unique(actions, axis=0)) > 1


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("case", CASES)
def test_generated_c_has_no_undefined_behaviour(case: str, tmp_path: Path) -> None:
    """Its own test passes under the sanitisers, with absurd observations in it."""
    floats = executor(*CASES[case])
    quantised = quantise(floats)
    source, built = tmp_path / "executor.c", tmp_path / "executor"
    source.write_text(emit_c_int8(quantised, golden=observations(floats, 64)))
    checks = ("-fsanitize=undefined,address", "-fno-sanitize-recover=all")
    words = ["gcc", *STRICT, *checks, "-DEXECUTOR_TEST", source, "-o", built]
    subprocess.run([str(each) for each in words], check=True)
    done = subprocess.run([str(built)], capture_output=True, text=True, check=True)
    assert done.stdout == "executor: 64 golden vectors, bit by bit\n"


@pytest.mark.needs("gcc")
def test_self_test_notices_one_wrong_weight(tmp_path: Path) -> None:
    """A weight that is off by one makes the file's own test fail."""
    quantised = quantise(executor())
    text = emit_c_int8(quantised)
    head, _, tail = text.partition("executor_weight0[")
    first, _, rest = tail.partition("{\n    ")
    value, _, rest = rest.partition(",")
    changed = f"{head}executor_weight0[{first}{{\n    {int(value) ^ 1},{rest}"
    source, built = tmp_path / "executor.c", tmp_path / "executor"
    source.write_text(changed)
    words = ["gcc", "-std=c99", "-DEXECUTOR_TEST", str(source), "-o", str(built)]
    subprocess.run(words, check=True)
    done = subprocess.run([str(built)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "FAILED" in done.stdout


@pytest.mark.needs("gcc")
def test_nan_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    """C answers 1 and leaves the caller's memory alone; NumPy raises."""
    quantised = quantise(executor())
    loaded = library(quantised, tmp_path, "gcc")
    for bad in (np.nan, np.inf, -np.inf):
        obs = np.zeros(7, np.float32)
        obs[3] = bad
        out = np.full(5, 77, np.int32)
        pointers = ctypes.c_void_p(obs.ctypes.data), ctypes.c_void_p(out.ctypes.data)
        assert loaded.executor_outputs(*pointers) == 1
        assert loaded.executor_act(*pointers) == 1
        assert (out == 77).all()
        with pytest.raises(NumbersError, match="NaN"):
            quantised.act(obs)


@pytest.mark.needs("gcc")
def test_ties_go_to_the_lowest_index(tmp_path: Path) -> None:
    """With equal scores C and NumPy take the first choice."""
    floats = executor()
    last = Dense(np.zeros((5, 10), np.float32), np.ones(5, np.float32), "none")
    quantised = quantise(replace(floats, layers=(*floats.layers[:-1], last)))
    obs = observations(floats, 8)
    loaded = library(quantised, tmp_path, "gcc")
    _, taken = ask(loaded, obs, 5, rows_of(quantised, obs))
    assert (taken == -1).all()
    assert quantised.act(obs[4]) == -1


@pytest.mark.parametrize("case", CASES)
def test_integers_stay_near_the_floats(case: str) -> None:
    """Where calibration was, outputs are within a few hundredths of their spread."""
    floats = executor(*CASES[case])
    quantised = quantise(floats)
    obs = calibration(floats)
    left, right = dists.pack(floats(obs)), dists.pack(quantised(obs))
    assert np.sqrt(np.mean((left - right) ** 2)) < 0.03 * left.std()


def test_requantisation_is_exact_and_rounds_halves_up() -> None:
    """It is floor(acc · multiplier / 2^shift + 1/2) in exact arithmetic."""
    random = np.random.default_rng(0)
    acc = random.integers(-(2**31) + 1, 2**31, (1000, 3))
    acc[0], acc[1] = 2**31 - 1, -(2**31) + 1
    acc[2] = (1 << 20, -(1 << 20), 3 << 20)
    multiplier = np.array([2**30, 2**30, 2**31 - 1], np.int32)
    got = requantise(acc, multiplier, 51, -(2**31), 2**31 - 1)
    for row, results in zip(acc.tolist(), got.tolist(), strict=True):
        for a, m, result in zip(row, multiplier.tolist(), results, strict=True):
            assert result == floor(Fraction(a * m, 1 << 51) + Fraction(1, 2))
    assert got[2].tolist()[:2] == [1, 0]


def test_requantisation_clamps() -> None:
    """What is beyond the ends becomes the ends."""
    acc = np.array([[10**9, -(10**9)]])
    multiplier = np.array([2**30, 2**30], np.int32)
    assert requantise(acc, multiplier, 32, 0, 9).tolist() == [[9, 0]]


def test_lookup_meets_the_entries_and_is_straight_between_them() -> None:
    """A table of a straight line gives the line back, at both ends too."""
    table = (np.arange(257) * 16 - 2048).astype(np.int16)
    x = np.arange(-32768, 32768)
    assert lookup(table, x).tolist() == [(each + 8) >> 4 for each in x.tolist()]


def test_no_sum_can_overflow() -> None:
    """Weights and inputs at their largest stay within int32, also in wide layers."""
    for inputs, bias in ((4, 1e3), (600, 1.0), (5000, 0.0)):
        floats = executor("linear", DiscreteSpec(3), obs=inputs)
        layer = Dense(np.ones((3, inputs), np.float32), np.full(3, bias, np.float32), "none")
        quantised = quantise(replace(floats, layers=(layer,)))
        made = quantised.last
        wide = np.abs(made.weight.astype(np.int64)).sum(axis=1) * quantised.limit
        assert (wide + np.abs(made.bias.astype(np.int64)) < 2**31).all()


def test_multipliers_and_shifts_keep_to_the_specification() -> None:
    """Multipliers are not negative, shifts 32 to 62, weights never -128."""
    for case in CASES.values():
        for layer in dense_parts(quantise(executor(*case)).layers):
            assert layer.multiplier.min() >= 0
            assert 32 <= layer.shift <= 62
            assert layer.weight.min() >= -127


def test_the_same_executor_gives_the_same_file() -> None:
    """Quantising and writing twice gives the same text."""
    texts = {emit_c_int8(quantise(executor())) for _ in range(2)}
    assert len(texts) == 1


def test_weights_are_laid_out_in_blocks_and_pairs() -> None:
    """In a block, each pair of inputs has outputs 0 1 0 1 2 3 2 3."""
    quantised = quantise(executor("linear", DiscreteSpec(5), obs=3))
    weight = (np.arange(5)[:, None] * 10 + np.arange(3)).astype(np.int8)
    layer = replace(quantised.last, weight=weight)
    assert packed(layer).tolist() == [
        *(0, 10, 1, 11, 20, 30, 21, 31, 2, 12, 0, 0, 22, 32, 0, 0),
        *(40, 0, 41, 0, 0, 0, 0, 0, 42, 0, 0, 0, 0, 0, 0, 0),
    ]


def test_calibration_that_fits_beats_none() -> None:
    """Observations far from the normaliser's are met better if they were seen."""
    floats = executor(*CASES["clipped"])
    obs = (floats.mean + 0.02 * observations(floats, 500)[4:]).astype(np.float32)

    def error(quantised: Quantised) -> float:
        return float(np.mean((quantised.outputs(obs) - floats.outputs(obs)) ** 2))

    assert error(quantise(floats, obs)) < error(quantise(floats))


def test_what_cannot_be_quantised_is_refused() -> None:
    """NaN weights, no observations, or ones of another shape: an error that says so."""
    floats = executor()
    with pytest.raises(SpecError, match="shape"):
        quantise(floats, np.zeros((4, 6), np.float32))
    with pytest.raises(SpecError, match="one or more"):
        quantise(floats, np.zeros((0, 7), np.float32))
    with pytest.raises(NumbersError, match="calibrate"):
        quantise(floats, np.full((4, 7), np.nan, np.float32))
    broken = replace(floats, mean=np.full(7, np.nan, np.float32))
    with pytest.raises(NumbersError, match="NaN"):
        quantise(broken)
    linear = floats.layers[-1]
    assert isinstance(linear, Dense)
    last = replace(linear, activation="relu")
    with pytest.raises(SpecError, match="relu"):
        quantise(replace(floats, layers=(*floats.layers[:-1], last)))
    with pytest.raises(ConfigError, match="7th"):
        emit_c_int8(quantise(floats), "7th")
    with pytest.raises(SpecError, match="shape"):
        quantise(floats)(np.zeros((2, 3), np.float32))


def test_an_executor_of_zeros_and_one_with_a_dead_input_are_quantised() -> None:
    """Nothing divides by zero: the zero executor answers zero."""
    floats = executor()
    zeros = floats.with_vector(np.zeros_like(floats.vector()), 1)
    obs = probes(quantise(floats), 9)
    assert not quantise(zeros).integers(obs).any()
    scale = floats.scale.copy()
    scale[2] = 0.0
    dead = quantise(replace(floats, scale=scale))
    assert np.isfinite(dead.outputs(observations(floats, 9))).all()
