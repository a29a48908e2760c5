"""Terms: what each is by hand, how they are read, and how they add up."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from agentkd.distillation.terms import Weighted, parse_terms, to_text
from agentkd.distillation.terms import answers as d
from agentkd.distillation.terms.answers import Action, Hard, Match, Soft
from agentkd.distillation.terms.term import Batch, Divergence, DivergenceTerm, Ground, Objective
from agentkd.errors import ConfigError
from agentkd.executors.executor import Head
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec, MultiBinarySpec, MultiDiscreteSpec
from agentkd.types import Kind

BOX = BoxSpec((-2.0, 0.0), (2.0, 1.0), (2,))


def row(*numbers: float) -> Tensor:
    """Make a batch of one."""
    return torch.tensor([numbers], dtype=torch.float32)


def ground(kind: Kind, head: Head, action: ActionSpec) -> Ground:
    """Make a ground without a planner, on a network that is not asked."""
    return Ground(kind, head, action, 1, nn.Identity())


def box(kind: Kind, head: Head, term: DivergenceTerm | None = None) -> Divergence:
    """Make the divergence of a box."""
    return (term or Match()).build(ground(kind, head, BOX))


def said(divergence: Divergence, outputs: Tensor, planner: Tensor) -> Tensor:
    """Ask a divergence as a distiller does."""
    result: Tensor = divergence(Batch(outputs, outputs, planner, nn.Identity()))
    return result


def test_the_unit_of_values_is_their_own_gap() -> None:
    """Values a hundred times as large give the same soft labels."""
    values = torch.tensor([[1.0, 0.5, 0.0], [2.0, 1.2, 0.1]])
    executor = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    place = ground("qvalues", "categorical", DiscreteSpec(3))
    small, large = Match().build(place), Match().build(place)
    assert torch.allclose(
        said(small, executor, values), said(large, executor, 100 * values), atol=1e-5
    )


def test_values_may_have_an_absolute_temperature() -> None:
    """Then it divides them as they are, whatever their gap."""
    values, executor = row(10.0, 7.0, 3.0), row(0.1, 0.2, 0.0)
    place = ground("qvalues", "categorical", DiscreteSpec(3))
    found = said(Soft(tau=5.0, unit="absolute").build(place), executor, values)
    assert found.item() == pytest.approx(d.sharpened(executor, values, 5.0).item())


def test_both_conventions_of_the_temperature_go_with_both_kinds() -> None:
    """Logits temper both sides unless told otherwise, values the planner's alone."""
    executor, planner = row(0.2, 0.7, 0.0), row(3.0, 0.0, 1.0)
    both = d.soft_labels(executor, planner, 2.0).item()
    one = d.sharpened(executor, planner, 2.0).item()
    for kind, sides, expected in (
        ("categorical", None, both),
        ("categorical", "planner", one),
        ("qvalues", None, one),
        ("qvalues", "both", both),
    ):
        term = Soft(2.0, "absolute", sides)  # type: ignore[arg-type]
        place = ground(kind, "categorical", DiscreteSpec(3))  # type: ignore[arg-type]
        found = said(term.build(place), executor, planner).item()
        assert found == pytest.approx(expected)


def test_a_temperature_is_chosen_of_the_planners_own_answers() -> None:
    """tau=auto leaves the labels the asked entropy, in whatever units they come."""
    scores = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    for kind, size in (("categorical", 0.01), ("qvalues", 300.0)):
        place = ground(kind, "categorical", DiscreteSpec(4))  # type: ignore[arg-type]
        loss = Soft("auto", entropy=0.4).build(place)
        loss.observe(size * scores)
        p = torch.softmax(size * scores / loss.numbers()["tau"], 1)
        share = -(p * p.log()).sum(1).mean().item() / math.log(4)
        assert share == pytest.approx(0.4, abs=1e-3)


def test_hard_and_soft_labels_mix_by_their_factors() -> None:
    """0.7 soft + 0.3 hard is that sum of both."""
    executor, planner = row(0.2, 0.7), row(3.0, 0.0)
    soft = d.soft_labels(executor, planner, 1.0).item()
    hard = d.hard_labels(executor, planner).item()
    mixed = Objective(
        parse_terms("0.7 soft + 0.3 hard"), ground("categorical", "categorical", DiscreteSpec(2))
    )
    found = mixed(Batch(executor, executor, planner, nn.Identity())).item()
    assert found == pytest.approx(0.7 * soft + 0.3 * hard)
    assert mixed.numbers()["divergence"] == pytest.approx(found)


def test_several_choices_add_up() -> None:
    """The divergence of independent choices is the sum of theirs."""
    executor, planner = row(0.1, 0.9, 0.0, 1.0, 2.0), row(1.0, 0.0, 3.0, 0.0, 0.0)
    place = ground("multicategorical", "multicategorical", MultiDiscreteSpec((2, 3)))
    for term, one in ((Soft(1.0), lambda e, p: d.soft_labels(e, p, 1.0)), (Hard(), d.hard_labels)):
        apart = one(executor[:, :2], planner[:, :2])
        apart = apart + one(executor[:, 2:], planner[:, 2:])
        found = said(term.build(place), executor, planner)
        assert found.item() == pytest.approx(apart.item())


def test_yes_and_no_by_hand() -> None:
    """KL between coins of 3/4 and 1/2, twice."""
    divergence = Match().build(ground("bernoulli", "bernoulli", MultiBinarySpec(2)))
    expected = 2 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    planner = row(math.log(3.0), math.log(3.0))
    assert said(divergence, row(0, 0), planner).item() == pytest.approx(expected)


def test_a_box_is_compared_in_its_own_units() -> None:
    """An error of half the box counts as 1, whatever the box's size."""
    divergence = box("point", "clipped")
    for planner in (row(2.0, 0.5), row(0.0, 1.0)):
        assert said(divergence, row(0.0, 0.5), planner).item() == pytest.approx(1.0)


def test_a_dimension_without_room_has_nothing_to_say() -> None:
    """Bounds that are equal leave the rest of the box as it is."""
    flat = BoxSpec((0.0, -1.0), (0.0, 1.0), (2,))
    for head in ("squashed", "clipped"):
        divergence = Match().build(ground("point", head, flat))
        found = said(divergence, row(0.0, 0.0), row(0.0, 0.5)).item()
        assert found == pytest.approx(0.25)


def test_beyond_the_box_there_is_nothing_to_learn() -> None:
    """Where both are clipped to the same bound the divergence is 0."""
    divergence = box("gaussian", "clipped")
    planner = row(9.0, -3.0, 0.0, 0.0)
    assert said(divergence, row(5.0, -1.0), planner).item() == 0.0
    found = said(divergence, row(1.0, 0.5), planner).item()
    assert found == pytest.approx(0.25 + 1.0)


def test_squashed_means_are_compared_after_tanh() -> None:
    """Equal numbers before tanh have no divergence; opposite far ones nearly 2²."""
    divergence = box("squashed", "squashed")
    planner = row(0.3, -0.7, 0.0, 0.0)
    assert said(divergence, row(0.3, -0.7), planner).item() == pytest.approx(0.0)
    far = said(divergence, row(-9.0, 9.0), row(9.0, -9.0, 0.0, 0.0)).item()
    assert far == pytest.approx(8.0, abs=1e-4)


def test_every_divergence_is_zero_at_most_once_and_grows() -> None:
    """Further from the planner is never nearer."""
    planner = row(0.4, 0.2, 0.0, 0.0)
    divergence = box("squashed", "squashed")
    steps = [said(divergence, row(0.4 + x, 0.2), planner).item() for x in (0, 0.1, 0.5)]
    assert all(near < far for near, far in pairwise(steps))


def test_what_does_not_go_together_is_refused() -> None:
    """Each term says which planners it is for, and what to use instead."""
    for term in (Soft(), Hard()):
        with pytest.raises(ConfigError, match="Use 'action'"):
            box("point", "squashed", term)
    with pytest.raises(ConfigError, match="Use 'soft' or 'hard'"):
        Action().build(ground("categorical", "categorical", DiscreteSpec(2)))


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("match", (Weighted(Match()),)),
        ("0.5*soft:tau=2", (Weighted(Soft(2.0), 0.5),)),
        (
            " soft:tau=auto, entropy=.2 +1e+1 hard",
            (Weighted(Soft("auto", entropy=0.2)), Weighted(Hard(), 10.0)),
        ),
        ("soft:tau=2,sides=both + action", (Weighted(Soft(2.0, sides="both")), Weighted(Action()))),
    ],
)
def test_a_line_is_read_as_it_is_written(text: str, terms: tuple[Weighted, ...]) -> None:
    """Factors, names and options are found, and written back they are read alike."""
    assert parse_terms(text) == terms
    assert parse_terms(to_text(terms)) == terms


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "nothing beside"),
        ("soft + ", "nothing beside"),
        ("sft", "Did you mean 'soft'"),
        ("soft:tua=2", "no option 'tua'. Did you mean 'tau'"),
        ("match:tau=2", "no option 'tau'. It has none"),
        ("soft:tau=hot", "soft:tau is 'hot'; it is a number or 'auto'"),
        ("soft:tau=-1", "tau is -1"),
        ("soft:tau=nan", "tau is nan"),
        ("soft:tau=auto,unit=gap", "leave out unit"),
        ("soft:sides=left", "'both' or 'planner'"),
        ("soft:tau", "write tau=VALUE"),
        ("soft:tau=1,tau=2", "tau twice"),
        ("hard:smoothing=1", "smoothing is 1"),
        ("soft:entropy=1", "entropy is 1"),
        ("match + slopes:projections=0", "at most 4096"),
        ("soft:tau=1e99", "at most 1000000"),
        ("match + robust:steps=1001", "at most 1000"),
        ("match + adversarial:width=5000", "at most 4096"),
        ("match + adversarial:rate=inf", "above 0 and at most 1"),
        ("0 soft", "is 0; it is a number above 0"),
        ("-1 soft", "is -1"),
        ("x.y soft", "not a term"),
    ],
)
def test_a_line_that_cannot_be_meant_is_refused(text: str, reason: str) -> None:
    """The message names what was wrong and what was probably meant."""
    with pytest.raises(ConfigError) as caught:
        parse_terms(text)
    assert reason in str(caught.value)
