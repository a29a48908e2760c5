"""The compiled GRU agrees with torch's, there and back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from agentkd.executors import recurrence
from agentkd.executors.architecture import initial
from agentkd.executors.network import Network
from agentkd.spec import DiscreteSpec, ObsSpec, Part, Spec

SPEC = Spec(ObsSpec((Part("", "box", (3,), "float32"),)), DiscreteSpec(2))


def _given(ticks: int, batch: int, inputs: int, width: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(ticks)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    weights = [draw(3 * width, inputs), draw(3 * width, width), draw(3 * width), draw(3 * width)]
    return draw(ticks, batch, inputs), draw(batch, width), *(each.mul(0.4) for each in weights)


@pytest.mark.needs("cc")
@pytest.mark.parametrize(
    "sizes", [(32, 64, 14, 64), (5, 3, 4, 10), (1, 1, 2, 16), (7, 13, 3, 33)], ids=str
)
def test_states_and_gradients_are_those_of_torch(sizes: tuple[int, int, int, int]) -> None:
    """Widths that are no whole vectors and batches that are no whole tiles, too."""
    asked = [each.requires_grad_() for each in _given(*sizes)]
    x, start, *weights = asked
    wanted, _ = torch.gru(x, start[None], weights, True, 1, 0.0, False, False, False)
    found = recurrence.gru(x, start, weights)
    assert found is not None
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5)
    factors = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad((found * factors).sum(), asked)
    torchs = torch.autograd.grad((wanted * factors).sum(), asked)
    for mine, other in zip(ours, torchs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


@pytest.mark.needs("cc")
def test_states_far_out_stay_finite() -> None:
    """Gates of huge numbers are shut or open, as torch's are."""
    x, start, *weights = _given(6, 2, 3, 16)
    found = recurrence.gru(x * 1e30, start, weights)
    wanted, _ = torch.gru(x * 1e30, start[None], weights, True, 1, 0.0, False, False, False)
    assert found is not None
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5)


def test_torch_does_it_where_gradients_may_be_derived_once_more() -> None:
    """The compiled one cannot; a slope term derives by observations, and then by weights."""
    x, start, *weights = _given(3, 2, 3, 16)
    assert recurrence.gru(x, start, weights, twice=True) is None
    network = Network(initial("gru:8", SPEC))
    obs = torch.randn(4, 2, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(network.follow(obs)[0].sum(), obs, create_graph=True)
    slope.square().sum().backward()
    first = next(network.parameters())
    assert first.grad is not None
    assert first.grad.abs().sum() > 0


@pytest.mark.needs("cc")
def test_dense_layers_before_it_learn_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their gradients go through the compiled unit, and are torch's."""
    gradients, found = [], []

    def spy(*given: Any, **how: Any) -> torch.Tensor | None:
        found.append(recurrence.gru(*given, **how))
        return found[-1]

    monkeypatch.setattr(f"{Network.__module__}.gru", spy)
    for compiled in (True, False):
        if not compiled:
            monkeypatch.setattr(recurrence, "_library", lambda: None)
        network = Network(initial("gru:8,16", SPEC, seed=3))
        obs = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(2))
        numbers, _ = network.follow(obs)
        assert (found.pop() is not None) == compiled
        gradients.append(torch.autograd.grad(numbers.square().sum(), list(network.parameters())))
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


@pytest.mark.needs("cc")
def test_what_is_no_number_stays_none() -> None:
    """A step that diverged is noticed by its loss."""
    x, start, *weights = _given(3, 2, 3, 16)
    weights[0][0, 0] = float("nan")
    found = recurrence.gru(x, start, weights)
    assert found is not None
    assert found.isnan().any()


def test_torch_does_it_in_other_precision() -> None:
    """The compiled one reads float32 only."""
    x, start, *weights = _given(3, 2, 3, 16)
    assert recurrence.gru(x.double(), start.double(), [each.double() for each in weights]) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert recurrence.gru(x, start, weights) is None


def test_torch_does_it_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where AGENTKD_NATIVE is 0."""
    monkeypatch.setattr(recurrence, "_library", lambda: None)
    x, start, *weights = _given(3, 2, 3, 16)
    assert recurrence.gru(x, start, weights) is None
