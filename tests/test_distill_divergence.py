"""Divergences have the values that their formulas give by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from agentkd.distill import divergence as d
from agentkd.distill.divergence import DivergenceOptions, divergence_for
from agentkd.errors import ConfigError
from agentkd.spec import BoxSpec, DiscreteSpec, MultiBinarySpec, MultiDiscreteSpec

BOX = BoxSpec((-2.0, 0.0), (2.0, 1.0), (2,))
PLAIN = DivergenceOptions()


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


def test_the_unit_of_values_is_their_own_gap() -> None:
    """Values a hundred times as large give the same soft labels."""
    values = torch.tensor([[1.0, 0.5, 0.0], [2.0, 1.2, 0.1]])
    executor = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    small = divergence_for("qvalues", "categorical", DiscreteSpec(3), PLAIN)
    large = divergence_for("qvalues", "categorical", DiscreteSpec(3), PLAIN)
    assert torch.allclose(
        small(executor, values), large(executor, 100 * values), atol=1e-5
    )


def test_hard_labels_mix_by_their_share() -> None:
    """hard=1 is the cross-entropy alone, hard=0.5 the mean of both."""
    executor, planner = row(0.2, 0.7), row(3.0, 0.0)
    soft = d.soft_labels(executor, planner, 1.0).item()
    hard = d.hard_labels(executor, planner).item()
    for share in (0.0, 0.5, 1.0):
        mixed = divergence_for(
            "categorical",
            "categorical",
            DiscreteSpec(2),
            DivergenceOptions(hard=share),
        )
        assert mixed(executor, planner).item() == pytest.approx(
            (1 - share) * soft + share * hard
        )


def test_several_choices_add_up() -> None:
    """The divergence of independent choices is the sum of theirs."""
    executor, planner = row(0.1, 0.9, 0.0, 1.0, 2.0), row(1.0, 0.0, 3.0, 0.0, 0.0)
    both = divergence_for(
        "multicategorical", "multicategorical", MultiDiscreteSpec((2, 3)), PLAIN
    )
    apart = d.soft_labels(executor[:, :2], planner[:, :2], 1.0) + d.soft_labels(
        executor[:, 2:], planner[:, 2:], 1.0
    )
    assert both(executor, planner).item() == pytest.approx(apart.item())


def test_yes_and_no_by_hand() -> None:
    """KL between coins of 3/4 and 1/2, twice."""
    divergence = divergence_for("bernoulli", "bernoulli", MultiBinarySpec(2), PLAIN)
    expected = 2 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    planner = row(math.log(3.0), math.log(3.0))
    assert divergence(row(0, 0), planner).item() == pytest.approx(expected)


def test_a_box_is_compared_in_its_own_units() -> None:
    """An error of half the box counts as 1, whatever the box's size."""
    divergence = divergence_for("point", "clipped", BOX, PLAIN)
    assert divergence(row(0.0, 0.5), row(2.0, 0.5)).item() == pytest.approx(1.0)
    assert divergence(row(0.0, 0.5), row(0.0, 1.0)).item() == pytest.approx(1.0)


def test_a_dimension_without_room_has_nothing_to_say() -> None:
    """Bounds that are equal leave the rest of the box as it is."""
    flat = BoxSpec((0.0, -1.0), (0.0, 1.0), (2,))
    for head in ("squashed", "clipped"):
        divergence = divergence_for("point", head, flat, PLAIN)
        assert divergence(row(0.0, 0.0), row(0.0, 0.5)).item() == pytest.approx(0.25)


def test_beyond_the_box_there_is_nothing_to_learn() -> None:
    """Where both are clipped to the same bound the divergence is 0."""
    divergence = divergence_for("gaussian", "clipped", BOX, PLAIN)
    planner = row(9.0, -3.0, 0.0, 0.0)
    assert divergence(row(5.0, -1.0), planner).item() == 0.0
    assert divergence(row(1.0, 0.5), planner).item() == pytest.approx(0.25 + 1.0)


def test_squashed_means_are_compared_after_tanh() -> None:
    """Equal numbers before tanh have no divergence; opposite far ones nearly 2²."""
    divergence = divergence_for("squashed", "squashed", BOX, PLAIN)
    planner = row(0.3, -0.7, 0.0, 0.0)
    assert divergence(row(0.3, -0.7), planner).item() == pytest.approx(0.0)
    far = divergence(row(-9.0, 9.0), row(9.0, -9.0, 0.0, 0.0)).item()
    assert far == pytest.approx(8.0, abs=1e-4)


def test_precision_weighs_by_the_planners_spread() -> None:
    """Half the spread counts four times as much."""
    options = DivergenceOptions(continuous="precision")
    divergence = divergence_for("gaussian", "clipped", BOX, options)
    wide, narrow = math.log(0.8), math.log(0.4)
    executor = row(0.5, 0.5)
    first = divergence(executor, row(0.0, 0.5, wide, 0.0)).item()
    second = divergence(executor, row(0.0, 0.5, narrow, 0.0)).item()
    assert second == pytest.approx(4 * first)


def test_every_divergence_is_zero_at_most_once_and_grows() -> None:
    """Further from the planner is never nearer."""
    planner = row(0.4, 0.2, 0.0, 0.0)
    for way in ("action", "pre-tanh"):
        options = DivergenceOptions(continuous=way)
        divergence = divergence_for("squashed", "squashed", BOX, options)
        steps = [divergence(row(0.4 + x, 0.2), planner).item() for x in (0, 0.1, 0.5)]
        assert all(near < far for near, far in pairwise(steps))


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0.0}, {"temperature": -1.0}, {"hard": 1.5}, {"hard": -0.1}],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, float]) -> None:
    """Temperatures are above 0, shares from 0 to 1."""
    with pytest.raises(ConfigError):
        DivergenceOptions(**options)  # type: ignore[arg-type]


def test_what_does_not_go_together_is_refused() -> None:
    """pre-tanh needs squashed Gaussians, precision needs Gaussians."""
    for way, kind in (("pre-tanh", "point"), ("precision", "squashed")):
        with pytest.raises(ConfigError, match="Use 'action'"):
            divergence_for(
                kind,  # type: ignore[arg-type]
                "squashed",
                BOX,
                DivergenceOptions(continuous=way),  # type: ignore[arg-type]
            )
