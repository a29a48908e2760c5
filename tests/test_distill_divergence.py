"""Divergences of choices have the values that their formulas give by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from agentkd.distillation.terms import answers as d
from agentkd.spec import DiscreteSpec, MultiBinarySpec, MultiDiscreteSpec


def row(*numbers: float) -> Tensor:
    """Make a batch of one."""
    return torch.tensor([numbers], dtype=torch.float32)


def test_equal_logits_have_no_divergence() -> None:
    """KL(p || p) = 0, also where the logits differ by a constant."""
    logits = row(1.0, -2.0, 0.5)
    assert d.soft_labels(logits + 3, logits, 1.0).item() == pytest.approx(0, abs=1e-6)


def test_soft_labels_by_hand() -> None:
    """KL((3/4, 1/4) || (1/2, 1/2)) = 3/4 ln 3/2 + 1/4 ln 1/2."""
    planner = row(math.log(3.0), 0.0)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert d.soft_labels(row(0, 0), planner, 1.0).item() == pytest.approx(expected)


def test_the_square_keeps_gradients_alike_over_temperatures() -> None:
    """For great τ the gradient of τ² KL tends to (z_S - z_T)/n about their means."""
    executor = torch.tensor([[0.3, -0.1, 0.2]], requires_grad=True)
    planner = row(0.5, 0.1, -0.6)
    loss = d.soft_labels(executor, planner, 1000.0).sum()
    (gradient,) = torch.autograd.grad(loss, executor)
    apart = executor.detach() - planner
    expected = (apart - apart.mean()) / 3
    assert torch.allclose(gradient, expected, atol=1e-3)


def test_values_sharpen_to_the_best_choice() -> None:
    """With a small unit the planner's best choice is nearly certain."""
    values = row(10.0, 10.5, 3.0)
    executor = row(0.0, 0.0, 0.0)
    sharp = d.sharpened(executor, values, 0.01).item()
    assert sharp == pytest.approx(math.log(3.0), abs=1e-4)


def test_only_the_planner_is_tempered() -> None:
    """KL(softmax(T/2) || softmax(S)): at T = 2 S there is none, and no τ² either."""
    executor = row(math.log(3.0), 0.0)
    assert d.sharpened(executor, 2 * executor, 2.0).item() == pytest.approx(0, abs=1e-6)
    by_hand = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    said = d.sharpened(row(0, 0), 2 * executor, 2.0).item()
    assert said == pytest.approx(by_hand)


def test_a_smoothed_label_by_hand() -> None:
    """With ε spread over n choices the label is 1 - ε + ε/n and ε/n."""
    answer = torch.log_softmax(row(0.0, 1.0, 2.0), 1)[0]
    label = [0.1 / 3, 0.1 / 3, 0.9 + 0.1 / 3]
    expected = -sum(p * q.item() for p, q in zip(label, answer, strict=True))
    found = d.hard_labels(row(0.0, 1.0, 2.0), row(0.0, 0.0, 5.0), 0.1).item()
    assert found == pytest.approx(expected)


def test_a_yes_is_a_choice_of_two() -> None:
    """softmax(0, z) gives yes the probability 1 / (1 + exp(-z))."""
    odds = row(0.4, -2.0)
    for pair, z in zip(d.blocks("bernoulli", MultiBinarySpec(2), odds), (0.4, -2.0), strict=True):
        expected = 1 / (1 + math.exp(-z))
        assert torch.softmax(pair, 1)[0, 1].item() == pytest.approx(expected)


def test_choices_lie_side_by_side() -> None:
    """Scores of a choice of two and one of three are split between them."""
    first, second = d.blocks("multicategorical", MultiDiscreteSpec((2, 3)), row(1, 2, 3, 4, 5))
    assert first.tolist() == [[1, 2]]
    assert second.tolist() == [[3, 4, 5]]
    (only,) = d.blocks("qvalues", DiscreteSpec(2), row(1, 2))
    assert only.tolist() == [[1, 2]]


def test_the_gap_is_the_median_distance_of_the_best_two() -> None:
    """Of gaps 1, 2 and 10 it is 2."""
    scores = torch.tensor([[0.0, 1.0, -9.0], [5.0, 3.0, 0.0], [10.0, 0.0, -5.0]])
    assert d.gap([scores]).item() == 2.0


@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_a_temperature_is_found_by_the_entropy_it_leaves(share: float) -> None:
    """At that temperature the labels' mean entropy is the asked share of chance's."""
    scores = 7 * torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    tau = d.temperature_for([scores], share)
    p = torch.softmax(scores / tau, 1)
    entropy = -torch.xlogy(p, p).sum(1).mean().item()
    assert entropy / math.log(4) == pytest.approx(share, abs=1e-3)


def test_a_temperature_follows_the_units() -> None:
    """Scores a hundred times as large get a temperature a hundred times as high."""
    scores = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    small, large = (d.temperature_for([k * scores], 0.3) for k in (1, 100))
    assert large.item() == pytest.approx(100 * small.item(), rel=1e-4)
