"""Convolutions and gated units in integers: the specification, and C bit by bit."""

from __future__ import annotations

import ctypes
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd import dists
from agentkd.deploy.int8.emit import emit_c_int8, memory, probes
from agentkd.deploy.int8.grids import fixed_grid
from agentkd.deploy.int8.quantise import calibration, quantise
from agentkd.deploy.int8.reference import (
    GATE,
    IntConv,
    IntGru,
    IntLayer,
    Quantised,
    convolve,
    dense_parts,
    places,
    remember,
)
from agentkd.deploy.vectors import answers
from agentkd.errors import NumbersError, SpecError
from agentkd.executors.arithmetic import patches
from agentkd.executors.executor import Executor, distribution
from agentkd.executors.layers import Conv
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec, MultiDiscreteSpec
from tests.deploy_executors import lively

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow")
BOX = BoxSpec((-1.0, -2.0), (1.0, 3.0), (2,))
CASES: list[tuple[str, ActionSpec]] = [
    ("gru:6", DiscreteSpec(3)),
    ("gru:5", MultiDiscreteSpec((2, 3))),
    ("gru:8,5,tanh", BOX),
    ("cnn:4x3/2,5x2,9", DiscreteSpec(3)),
    ("cnn:6x2/2,tanh", BOX),
    ("mlp:8 stack:3", DiscreteSpec(3)),
    ("mlp:7,tanh 0:2,4,stack:2", BOX),
    ("mlp:7,tanh 0:2,4,stack:2,delay:3", BOX),
    ("mlp:8 delay:1", DiscreteSpec(3)),
    ("mlp:8 actions:2", MultiDiscreteSpec((2, 3))),
]
NAMES = [architecture for architecture, _ in CASES]


def sequence(executor: Executor, rows: int) -> Any:
    """Observations near the normaliser's mean and far from it."""
    random = np.random.default_rng(5)
    z = random.standard_normal((rows, len(executor.mean)))
    z *= np.exp(random.normal(0.0, 1.0, (rows, 1)))
    return (executor.mean + z / executor.scale).astype(np.float32)


def run(quantised: Quantised, obs: Any, folder: Path, compiler: str) -> Any:
    """What the compiled C gives for a sequence: integers, actions and memories."""
    source, built = folder / "executor.c", folder / "executor.so"
    source.write_text(emit_c_int8(quantised))
    flags = (*STRICT, "-Werror", "-O3", "-march=native", "-fPIC", "-shared")
    subprocess.run([compiler, *flags, str(source), "-o", str(built)], check=True)
    loaded = ctypes.CDLL(str(built))
    wanted = np.asarray(quantised.actions(obs)).reshape(len(obs), -1)
    kind = np.float32 if wanted.dtype.kind == "f" else np.int32
    integers = np.zeros((len(obs), quantised.last.out), np.int32)
    taken = np.zeros(wanted.shape, kind)
    one, two = np.zeros((2, memory(quantised)), np.int16)
    states = [ctypes.c_void_p(each.ctypes.data) for each in (one, two)]
    if not quantised.memory:
        states = []
    for row, into, act in zip(obs, integers, taken, strict=True):
        at, to, do = (ctypes.c_void_p(e.ctypes.data) for e in (row, into, act))
        assert loaded.executor_outputs(at, *states[:1], to) == 0
        assert loaded.executor_act(at, *states[1:], do) == 0
        np.testing.assert_array_equal(one, two)
    return integers, taken, wanted


@pytest.mark.needs("gcc", "clang")
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize(("architecture", "action"), CASES, ids=NAMES)
def test_c_equals_numpy_bit_by_bit(
    architecture: str, action: ActionSpec, compiler: str, tmp_path: Path
) -> None:
    """Over 2,000 steps of one episode, or as many images, not one bit differs."""
    executor = lively(architecture, action)
    quantised = quantise(executor)
    obs = sequence(executor, 2000)
    integers, taken, wanted = run(quantised, obs, tmp_path, compiler)
    np.testing.assert_array_equal(integers, quantised.integers(obs))
    np.testing.assert_array_equal(taken, wanted)
    assert len(np.unique(wanted, axis=0)) > 1


@pytest.mark.needs("gcc")
@pytest.mark.parametrize(("architecture", "action"), CASES, ids=NAMES)
def test_generated_c_has_no_undefined_behaviour(
    architecture: str, action: ActionSpec, tmp_path: Path
) -> None:
    """Its own test passes under the sanitisers: nothing is read outside its arrays."""
    quantised = quantise(lively(architecture, action))
    source, built = tmp_path / "executor.c", tmp_path / "executor"
    source.write_text(emit_c_int8(quantised, golden=probes(quantised, 64)))
    checks = ("-fsanitize=undefined,address", "-fno-sanitize-recover=all")
    words = ["gcc", *STRICT, "-Werror", *checks, "-DEXECUTOR_TEST", source, "-o", built]
    subprocess.run([str(each) for each in words], check=True)
    done = subprocess.run([str(built)], capture_output=True, text=True, check=True)
    assert done.stdout == "executor: 64 golden vectors, bit by bit\n"


@pytest.mark.parametrize(("architecture", "action"), CASES, ids=NAMES)
def test_integers_stay_near_the_floats(architecture: str, action: ActionSpec) -> None:
    """Where calibration was, outputs are within a few hundredths of their spread."""
    executor = lively(architecture, action)
    quantised = quantise(executor)
    obs = calibration(executor)[:1000]
    starts = np.zeros(len(obs), np.float32)
    given = answers(executor, obs, starts)
    left = dists.pack(distribution(executor.head, given, executor.spec))
    right = dists.pack(quantised.distribution(quantised.integers(obs)))
    assert np.sqrt(np.mean((left - right) ** 2)) < 0.03 * left.std()


def test_a_unit_never_leaves_its_range() -> None:
    """The memory stays within ±32767, however large and sudden its input."""
    quantised = quantise(lively("gru:8,5,tanh", BOX))
    unit = quantised.layers[1]
    assert isinstance(unit, IntGru)
    random = np.random.default_rng(0)
    h = random.choice([-32767, 0, 32767], (4000, 5)).astype(np.int32)
    x = random.choice([-32767, 0, 32767], (4000, 8)).astype(np.int32)
    after = remember(unit, x, h)
    assert np.abs(after).max() <= 32767
    assert unit.sigmoid.min() >= 0
    assert (np.diff(unit.sigmoid.astype(int)) >= 0).all()
    assert (unit.inputs.low, unit.hidden.high) == (-GATE, GATE)


def test_a_closed_gate_keeps_the_memory_and_an_open_one_takes_the_new() -> None:
    """With z at 0 the memory becomes n; with z at its most it all but stays."""
    zeros = IntLayer(
        weight=np.zeros((3, 1), np.int8),
        bias=np.zeros(3, np.int32),
        multiplier=np.zeros(3, np.int32),
        shift=32,
        low=-GATE,
        high=GATE,
        table=None,
        activation="none",
    )
    tanh = np.full(257, 1000, np.int16)
    h = np.array([[-32767], [5000]], np.int32)
    x = np.zeros((2, 1), np.int32)
    opened = IntGru(zeros, zeros, np.zeros(257, np.int16), tanh)
    assert remember(opened, x, h).ravel().tolist() == [1000, 1000]
    closed = replace(opened, sigmoid=np.full(257, 32767, np.int16))
    assert remember(closed, x, h).ravel().tolist() == [-32766, 5000]


@pytest.mark.parametrize("architecture", [*NAMES, "gru:9,6,silu"])
def test_no_sum_can_overflow(architecture: str) -> None:
    """Weights and inputs at their largest stay within int32."""
    quantised = quantise(lively(architecture, DiscreteSpec(3)))
    most = quantised.limit
    for layer in quantised.layers:
        for part in dense_parts((layer,)):
            given = 32767 if part is getattr(layer, "hidden", None) else most
            sums = np.abs(part.weight.astype(np.int64)).sum(axis=1) * given
            assert (sums + np.abs(part.bias.astype(np.int64)) < 2**31).all()
            assert part.multiplier.min() >= 0
            assert 32 <= part.shift <= 62
            assert part.weight.min() >= -127
        if not dense_parts((layer,)):
            continue
        last = dense_parts((layer,))[-1]
        table = last.high if last.table is None else int(np.abs(last.table).max())
        most = 32767 if isinstance(layer, IntGru) else table


def test_a_wide_memory_gets_coarser_weights() -> None:
    """Steps of 1/32767 are kept: 700 weights of 127 become smaller, not the memory."""
    whole, scale = np.full((2, 700), 127.0), np.array([0.01, 0.02])
    grid = fixed_grid(whole, scale, np.zeros(2), 1.0)
    assert grid.most == 32767
    assert np.abs(grid.weight.astype(np.int64)).sum(axis=1).max() * 32767 < 2**31
    np.testing.assert_allclose(
        grid.weight * grid.unit[:, None] * 32767, whole * scale[:, None], rtol=0.01
    )
    with pytest.raises(NumbersError, match="too wide"):
        fixed_grid(np.ones((1, 140_000)), np.ones(1), np.zeros(1), 1.0)


def test_patches_lie_where_the_float_layer_takes_them() -> None:
    """Gathered numbers are those of the float executor's own patches."""
    for architecture in ("cnn:4x3/2,5x2,9", "cnn:6x2/2,tanh"):
        executor = lively(architecture, DiscreteSpec(3))
        layer, conv = executor.layers[0], quantise(executor).layers[0]
        assert isinstance(conv, IntConv)
        image = np.arange(2 * executor.spec.obs.size, dtype=np.float32).reshape(2, -1)
        assert isinstance(layer, Conv)
        found = patches(layer, image)
        np.testing.assert_array_equal(
            image[:, places(conv.dims)], found.reshape(2, -1, found.shape[-1])
        )
        whole = convolve(conv, image.astype(np.int32) % 100)
        assert whole.shape == (2, conv.out)


def test_an_image_has_one_mean_and_gain_a_channel() -> None:
    """Where the normaliser is the channels', the integers' is too."""
    executor = lively("cnn:4x3/2,5x2,9", DiscreteSpec(3))
    quantised = quantise(executor)
    assert len(quantised.mean) == 2
    np.testing.assert_array_equal(quantised.per_number(quantised.mean), executor.mean)


def test_a_policy_with_a_memory_answers_as_the_sequence_does() -> None:
    """`policy` keeps each row's memory apart, and `act` without one is refused."""
    executor = lively("gru:6", DiscreteSpec(3))
    quantised = quantise(executor)
    obs = sequence(executor, 30)
    policy: Any = quantised.policy
    state = policy.initial_state(2)
    for tick in range(15):
        pair = np.stack([obs[tick], obs[15 + tick]])
        dist, state = policy(pair, state)
        for row, at in ((0, slice(0, tick + 1)), (1, slice(15, 16 + tick))):
            wanted = quantised.outputs(obs[at])[-1]
            np.testing.assert_array_equal(dists.pack(dist)[row], wanted)
    with pytest.raises(SpecError, match="memory"):
        quantised(obs)


def test_episodes_are_told_apart_in_calibration() -> None:
    """Where an episode begins the memory is zeros again."""
    executor = lively("gru:6", DiscreteSpec(3))
    obs = sequence(executor, 64)
    starts = np.zeros(64, np.float32)
    starts[::8] = 1.0
    texts = {emit_c_int8(quantise(executor, obs, each)) for each in (None, starts)}
    assert len(texts) == 2
    with pytest.raises(SpecError, match="starts"):
        quantise(executor, obs, starts[:5])


def test_what_has_no_integer_form_is_refused_by_name() -> None:
    """An LSTM lacks a wide cell, attention lacks softmax and normalisation."""
    with pytest.raises(SpecError, match=r"lstm.*cell"):
        quantise(lively("lstm:5", DiscreteSpec(3)))
    with pytest.raises(SpecError, match=r"tokens.*softmax and layer normalisation"):
        quantise(lively("attention:8/2/1", DiscreteSpec(4)))
    gru = lively("gru:3", DiscreteSpec(3))
    with pytest.raises(SpecError, match="gru"):
        quantise(replace(gru, layers=gru.layers[:1]))
