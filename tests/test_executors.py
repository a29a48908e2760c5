"""Executors: their words, their NumPy, native and trainable forms."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from agentkd import dists
from agentkd.errors import ConfigError, NumbersError, SpecError
from agentkd.executors import native as native_module
from agentkd.executors.architecture import initial, parse
from agentkd.executors.executor import Executor
from agentkd.executors.native import compile_native
from agentkd.executors.network import Network
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

OBS = ObsSpec((Part("", "box", (7,), "float32"),))
ACTIONS: list[ActionSpec] = [
    DiscreteSpec(4, 2),
    MultiDiscreteSpec((2, 3)),
    MultiBinarySpec(5),
    BoxSpec((-1.0, -2.0), (1.0, 3.0), (2,)),
    BoxSpec((-1.0,) * 4, (1.0,) * 4, (2, 2)),
    BoxSpec((-np.inf,), (0.5,), (1,)),
]
ARCHITECTURES = ["mlp:64,64", "mlp:17,tanh", "mlp:100,silu", "mlp:3,5,elu", "linear"]


def lively(architecture: str, action: ActionSpec) -> Executor:
    """Make an executor whose outputs are not all near zero."""
    executor = initial(architecture, Spec(OBS, action), seed=1)
    random = np.random.default_rng(2)
    vector = executor.vector()
    vector += 0.3 * random.standard_normal(vector.shape).astype(np.float32)
    return executor.with_vector(vector, 1)


def observations(count: int) -> np.ndarray:
    """Make observations of several scales."""
    return 3 * np.random.default_rng(0).standard_normal((count, 7)).astype(np.float32)


@pytest.mark.parametrize("action", ACTIONS, ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_native_and_numpy_decide_alike(architecture: str, action: ActionSpec) -> None:
    """The native form gives NumPy's numbers within 1e-5, and the same choices."""
    executor = lively(architecture, action)
    native = compile_native(executor)
    if native is None:
        pytest.skip("no C compiler (cc)")
    obs = observations(300)
    expected = executor.outputs(obs)
    assert np.allclose(native.outputs(obs), expected, rtol=1e-5, atol=1e-5)
    wanted = dists.mode(executor(obs), action)
    got = np.stack([native.act(each) for each in obs])
    if isinstance(action, BoxSpec):
        assert np.allclose(got, wanted, atol=1e-5)
        assert got[0].shape == action.shape
    else:
        # Off ties: rounding may decide between scores that are equal to 1e-5.
        assert (got == wanted).mean() > 0.99


def test_nan_and_infinity_are_refused_by_both_forms() -> None:
    """An observation that is no number decides nothing."""
    executor = lively("mlp:8", DiscreteSpec(3))
    native = compile_native(executor)
    for value in (np.nan, np.inf, -np.inf):
        obs = np.zeros(7, np.float32)
        obs[3] = value
        with pytest.raises(NumbersError):
            executor.act(obs)
        if native is not None:
            with pytest.raises(NumbersError):
                native.act(obs)


def test_each_action_is_an_array_of_its_own() -> None:
    """A later decision does not change an earlier action."""
    executor = lively("mlp:8", BoxSpec((-1.0,), (1.0,), (1,)))
    native = compile_native(executor)
    if native is None:
        pytest.skip("no C compiler (cc)")
    first = native.act(np.ones(7))
    before = first.copy()
    native.act(-np.ones(7))
    assert np.array_equal(first, before)


def test_without_a_compiler_there_is_no_native_form(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The loss of speed is said once, with the remedy."""
    monkeypatch.setenv("CC", "no-such-compiler")
    native_module._library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert compile_native(lively("mlp:8", DiscreteSpec(3))) is None
            assert compile_native(lively("mlp:8", DiscreteSpec(3))) is None
    finally:
        native_module._library.cache_clear()
    assert [r.message.split(":")[0] for r in caplog.records] == ["No C compiler (cc, gcc, clang)"]


def test_a_broken_compiler_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """What the compiler said is in the log, and NumPy runs."""
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho out of luck >&2\n[ $1 = --version ]\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native_module._library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert compile_native(lively("mlp:8", DiscreteSpec(3))) is None
    finally:
        native_module._library.cache_clear()
    assert "out of luck" in caplog.text


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_trainable_form_is_the_frozen_one(architecture: str) -> None:
    """Torch computes what NumPy computes, and freezing gives the same numbers back."""
    executor = lively(architecture, DiscreteSpec(4))
    network = Network(executor)
    obs = observations(50)
    with torch.no_grad():
        outputs = network(torch.from_numpy(obs)).numpy()
    assert np.allclose(outputs, executor.outputs(obs), rtol=1e-4, atol=1e-4)
    assert np.array_equal(network.freeze(1).vector(), executor.vector())


def test_a_new_normaliser_changes_nothing_that_the_executor_does() -> None:
    """renormalise() changes the first layer against the normaliser."""
    executor = lively("mlp:16", DiscreteSpec(4))
    network = Network(executor)
    obs = (observations(50) * 0.1).astype(np.float32)
    mean = np.linspace(-1, 1, 7, dtype=np.float32)
    scale = np.linspace(0.5, 2, 7, dtype=np.float32)
    network.renormalise(mean, scale)
    after = network.freeze(2)
    assert np.array_equal(after.mean, mean)
    assert np.allclose(after.outputs(obs), executor.outputs(obs), atol=1e-3)


def test_a_vector_is_all_there_is_to_an_executor() -> None:
    """with_vector(vector()) is the same executor; other lengths and NaN are refused."""
    executor = lively("mlp:5,6", MultiDiscreteSpec((2, 3)))
    copy = initial("mlp:5,6", executor.spec, seed=9).with_vector(executor.vector(), 7)
    assert np.array_equal(copy.outputs(observations(9)), executor.outputs(observations(9)))
    assert copy.version == 7
    with pytest.raises(SpecError):
        executor.with_vector(executor.vector()[:-1], 8)
    with pytest.raises(NumbersError):
        executor.with_vector(executor.vector() * np.float32(np.nan), 8)


def test_parameters_counts_weights_and_biases() -> None:
    """17-64-64-6 has 17·64+64 + 64·64+64 + 64·6+6 parameters."""
    spec = Spec(
        ObsSpec((Part("", "box", (17,), "float32"),)), BoxSpec((-1.0,) * 6, (1.0,) * 6, (6,))
    )
    assert initial("mlp:64,64", spec).parameters == 5702


def test_architectures_are_written_as_they_are_read() -> None:
    """str(parse(x)) is x, and relu goes without saying."""
    assert str(parse("mlp:64,32,tanh")) == "mlp:64,32,tanh"
    assert str(parse(" MLP:64,32,relu ")) == "mlp:64,32"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("mpl:64", "Did you mean 'mlp'"),
        ("mlp:", "how large"),
        ("mlp:0", "widths"),
        ("mlp:-3", "widths"),
        ("mlp:64,rellu", "Did you mean 'relu'"),
        ("gpu:32", "Did you mean 'gru'"),
    ],
)
def test_a_wrong_architecture_says_what_is_wrong(wrong: str, said: str) -> None:
    """The message holds the word and the remedy."""
    with pytest.raises(ConfigError, match=said):
        parse(wrong)
