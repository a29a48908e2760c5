"""Distillation that knows of the integers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from agentkd.deploy.int8.quantise import quantise
from agentkd.deploy.int8.reference import dense_parts
from agentkd.distillation.buffer import LabelBuffer
from agentkd.distillation.int8 import FineTuning, divergence_of, fit_int8, nearest
from agentkd.errors import ConfigError, SpecError
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Dense
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec
from agentkd.types import Categorical, Floats, Point
from tests.deploy_executors import lively

BOX = BoxSpec((-1.0, -2.0), (1.0, 3.0), (2,))
SHORT = FineTuning(steps=600)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def uneven(architecture: str, action: ActionSpec) -> Executor:
    """An executor with one huge weight an output: int8 leaves few steps for the rest.

    The huge ones belong to a number that hardly moves.
    """
    executor = lively(architecture, action)
    first = executor.layers[0]
    assert isinstance(first, Dense)
    weight = first.weight.copy()
    weight[:, 0] = 60.0 * np.sign(weight[:, 0])
    return replace(executor, layers=(replace(first, weight=weight), *executor.layers[1:]))


def observations(executor: Executor, rows: int, seed: int = 0) -> Floats:
    random = np.random.default_rng(seed)
    z = random.standard_normal((rows, 7))
    z[:, 0] *= 0.02
    return (executor.mean + z / executor.scale).astype(np.float32)


def divergence(executor: Executor, calibration: Floats, obs: Floats, told: Floats) -> float:
    """How far the integer form is from the planner, over other observations."""
    if executor.head == "squashed":
        given = quantise(executor, calibration).outputs(obs)
        return float(np.mean((given - told) ** 2))
    far = divergence_of(executor, "categorical")
    outputs = torch.from_numpy(quantise(executor, calibration).outputs(obs))
    return float(far(outputs, torch.from_numpy(told)).mean())


@pytest.mark.parametrize(
    ("executor", "share"),
    [
        (lively("mlp:8,8", DiscreteSpec(4)), 0.8),
        (lively("mlp:8,8", BOX), 0.7),
        (uneven("mlp:6,6", DiscreteSpec(4)), 0.95),
        (uneven("mlp:6,6", BOX), 0.95),
    ],
    ids=["choice", "numbers", "uneven choice", "uneven numbers"],
)
def test_it_lowers_what_rounding_after_training_loses(executor: Executor, share: float) -> None:
    """The planner is the float executor: all there is to lose is lost by rounding.

    Over observations that were no labels, the integer form of a narrow executor comes nearer to the
    planner; least so where one huge weight an output leaves few steps.
    """
    obs, other = observations(executor, 4000), observations(executor, 4000, 1)
    answers = executor(obs)
    dist = answers if isinstance(answers, Point) else Categorical(executor.outputs(obs))
    told = executor(other)
    wanted = told.action if isinstance(told, Point) else executor.outputs(other)
    fitted = fit_int8(executor, (obs, dist), SHORT)
    assert fitted.after < share * fitted.before
    before = divergence(executor, fitted.obs, other, wanted)
    after = divergence(fitted.executor, fitted.obs, other, wanted)
    assert after < share * before


def test_the_integer_form_has_the_weights_as_they_are() -> None:
    """What was fitted lies on steps, and quantising it rounds nothing."""
    executor = uneven("mlp:6,6", DiscreteSpec(4))
    obs = observations(executor, 1000)
    fitted = fit_int8(executor, (obs, executor(obs)), replace(SHORT, steps=50))
    assert fitted.executor is not executor
    parts = dense_parts(quantise(fitted.executor, fitted.obs).layers)
    for layer, part in zip(fitted.executor.layers, parts, strict=True):
        assert isinstance(layer, Dense)
        most = np.abs(part.weight.astype(int)).max(axis=1)
        step = np.abs(layer.weight).max(axis=1) / most
        np.testing.assert_allclose(layer.weight / step[:, None], part.weight, atol=1e-3)


def test_what_is_not_better_is_not_taken() -> None:
    """A single, absurd step leaves the executor as it was."""
    executor = lively("mlp:5", DiscreteSpec(3))
    obs = observations(executor, 500)
    options = FineTuning(steps=1, learning_rate=1e3)
    fitted = fit_int8(executor, (obs, executor(obs)), options)
    assert fitted.executor is executor
    assert fitted.after == fitted.before


def test_it_repeats_itself() -> None:
    """The same labels and seed give the same weights, from a buffer too."""
    executor = uneven("mlp:6", DiscreteSpec(4))
    obs = observations(executor, 300)
    buffer = LabelBuffer()
    buffer.add(obs, executor(obs))
    options = replace(SHORT, steps=20)
    one = fit_int8(executor, buffer, options).executor
    two = fit_int8(executor, (obs, executor(obs)), options).executor
    np.testing.assert_array_equal(one.vector(), two.vector())


def test_rounding_is_to_the_nearest_and_gradients_pass() -> None:
    """The gradient is the identity's, but nothing for what int8 does not hold."""
    whole = torch.tensor([0.4, -3.6, 126.8, 130.0, -500.0], requires_grad=True)
    rounded = nearest(whole)
    assert rounded.tolist() == [0, -4, 127, 127, -127]
    rounded.sum().backward()
    assert whole.grad is not None
    assert whole.grad.tolist() == [1, 1, 1, 0, 0]


def test_convolutions_are_fitted_too() -> None:
    """Each filter has a step of its own."""
    executor = lively("cnn:4x3/2,5x2,9", DiscreteSpec(3))
    random = np.random.default_rng(0)
    obs = random.normal(executor.mean, 1.0, (200, 144)).astype(np.float32)
    fitted = fit_int8(executor, (obs, executor(obs)), replace(SHORT, steps=30, batch=64))
    assert fitted.after <= fitted.before


def test_what_cannot_be_fitted_is_refused() -> None:
    """A memory, no labels, labels of other actions, or numbers that is invalid."""
    obs = np.zeros((4, 7), np.float32)
    unit = lively("gru:4", DiscreteSpec(3))
    dist = Categorical(np.zeros((4, 3), np.float32))
    with pytest.raises(SpecError, match="memory"):
        fit_int8(unit, (obs, dist))
    executor = lively("mlp:5", DiscreteSpec(3))
    with pytest.raises(ConfigError, match="no labels"):
        fit_int8(executor, LabelBuffer())
    with pytest.raises(ConfigError, match="boxes"):
        fit_int8(executor, (obs, Point(np.zeros((4, 3), np.float32))))
    with pytest.raises(ConfigError, match="steps"):
        FineTuning(steps=0)
    with pytest.raises(ConfigError, match="learning_rate"):
        FineTuning(learning_rate=float("nan"))
