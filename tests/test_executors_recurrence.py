"""The compiled GRU agrees with torch's, there and back."""

from __future__ import annotations

import pytest
import torch

from agentkd.executors import recurrence


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
    x, start, *weights = _given(*sizes)
    asked = [start.requires_grad_(), *(each.requires_grad_() for each in weights)]
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


def test_torch_does_it_where_gradients_of_observations_are_asked_for() -> None:
    """They may be derived once more, which the compiled one cannot."""
    x, start, *weights = _given(3, 2, 3, 16)
    assert recurrence.gru(x.requires_grad_(), start, weights) is None


def test_torch_does_it_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where AGENTKD_NATIVE is 0."""
    monkeypatch.setattr(recurrence, "_library", lambda: None)
    x, start, *weights = _given(3, 2, 3, 16)
    assert recurrence.gru(x, start, weights) is None
