"""Functions on action distributions."""

from __future__ import annotations

import numpy as np
import pytest

from agentkd import dists
from agentkd.errors import NumbersError, SpecError
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec, MultiBinarySpec, MultiDiscreteSpec
from agentkd.types import (
    ActionDist,
    Bernoulli,
    Categorical,
    Floats,
    Gaussian,
    MultiCategorical,
    Point,
    QValues,
    SquashedGaussian,
)

BOX = BoxSpec((-2.0, 0.0), (2.0, 10.0), (2,))


def numbers(*rows: tuple[float, ...]) -> Floats:
    """Make a batch."""
    return np.array(rows, np.float32)


EACH: list[tuple[ActionDist, ActionSpec]] = [
    (Categorical(numbers((0, 2, 1), (3, 0, 0))), DiscreteSpec(3, 5)),
    (QValues(numbers((0, 2, 1), (3, 0, 0))), DiscreteSpec(3)),
    (MultiCategorical(numbers((0, 1, 2, 1, 0)), (2, 3)), MultiDiscreteSpec((2, 3))),
    (Bernoulli(numbers((-1, 1, 0.5))), MultiBinarySpec(3)),
    (Gaussian(numbers((0.5, 20.0)), numbers((0.0, 0.1))), BOX),
    (SquashedGaussian(numbers((0.0, 9.0)), numbers((0.0, 0.1))), BOX),
    (Point(numbers((1.0, 2.0))), BOX),
]
MODES = [[6, 5], [1, 0], [[1, 0]], [[0, 1, 1]], [[0.5, 10.0]], [[0.0, 10.0]], [[1.0, 2.0]]]
NAMES = [dists.kind_of(dist) for dist, _ in EACH]


@pytest.mark.parametrize(("pair", "expected"), list(zip(EACH, MODES, strict=True)), ids=NAMES)
def test_the_mode_is_in_the_environments_units(
    pair: tuple[ActionDist, ActionSpec], expected: list[float]
) -> None:
    """Starts are added, tanh is scaled, bounds are kept, ties go to the lowest."""
    assert np.allclose(dists.mode(*pair), expected, atol=1e-4)


@pytest.mark.parametrize("pair", EACH, ids=NAMES)
def test_packed_and_back_is_the_same(pair: tuple[ActionDist, ActionSpec]) -> None:
    """unpack(pack(x)) is x, and as wide as was said."""
    dist, action = pair
    kind, packed = dists.kind_of(dist), dists.pack(dist)
    assert packed.shape[1] == dists.width(kind, action)
    again = dists.unpack(kind, packed, action)
    assert dists.kind_of(again) == kind
    assert np.array_equal(dists.pack(again), packed)
    dists.check(dist, action, len(packed))


@pytest.mark.parametrize("pair", EACH, ids=NAMES)
def test_rows_and_stack_undo_each_other(pair: tuple[ActionDist, ActionSpec]) -> None:
    """A batch taken apart and joined is the batch."""
    dist, action = pair
    pieces = [dists.rows(dist, slice(i, i + 1)) for i in range(len(dists.pack(dist)))]
    assert np.array_equal(dists.pack(dists.stack(pieces, action)), dists.pack(dist))


def test_samples_follow_the_probabilities() -> None:
    """Of (3/4, 1/4) three quarters are drawn, within four standard deviations."""
    logits = np.tile(numbers((np.log(3.0), 0.0)), (4000, 1))
    drawn = dists.sample(Categorical(logits), DiscreteSpec(2), np.random.default_rng(0))
    assert abs(drawn.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000)


def test_samples_stay_in_the_box() -> None:
    """However wide the spread, an action is one that the environment knows."""
    wide = np.full((500, 2), 3.0, np.float32)
    for kind in (Gaussian, SquashedGaussian):
        drawn = dists.sample(kind(wide * 0, wide), BOX, np.random.default_rng(0))
        assert (drawn >= BOX.low).all()
        assert (drawn <= BOX.high).all()
        assert drawn.std() > 0.5


def test_bounds_are_rounded_inwards() -> None:
    """0.1 has no float32; what is clipped to it must still be within it."""
    low, high = dists.bounds(BoxSpec((-0.1,), (0.1,), (1,)))
    assert float(high[0]) <= 0.1
    assert float(low[0]) >= -0.1
    assert high[0] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("dist", "action", "error"),
    [
        (Categorical(numbers((0, 1))), BOX, SpecError),
        (Point(numbers((0, 1))), DiscreteSpec(2), SpecError),
        (Categorical(numbers((0, 1))), DiscreteSpec(3), SpecError),
        (MultiCategorical(numbers((0, 1, 2, 3, 4)), (3, 2)), MultiDiscreteSpec((2, 3)), SpecError),
        (
            SquashedGaussian(numbers((0,)), numbers((0,))),
            BoxSpec((-np.inf,), (1.0,), (1,)),
            SpecError,
        ),
        (Categorical(numbers((0, np.nan))), DiscreteSpec(2), NumbersError),
    ],
    ids=["kind", "kind2", "width", "sizes", "unbounded", "nan"],
)
def test_an_answer_that_does_not_fit_is_refused(
    dist: ActionDist, action: ActionSpec, error: type[Exception]
) -> None:
    """Kind, width, sizes, bounds and numbers are checked."""
    with pytest.raises(error):
        dists.check(dist, action, 1)


def test_agreement_of_choices_is_their_share() -> None:
    """One of two choices alike is a half."""
    agreed = dists.agreement(
        np.array([[1, 2], [1, 1]]), np.array([[1, 2], [1, 0]]), MultiDiscreteSpec((2, 3))
    )
    assert agreed.tolist() == [1.0, 0.5]


def test_agreement_in_a_box_is_in_units_of_the_box() -> None:
    """Half a box apart in one of two dimensions agrees by three quarters."""
    agreed = dists.agreement(np.array([[0.0, 5.0]]), np.array([[2.0, 5.0]]), BOX)
    assert agreed[0] == pytest.approx(0.75)
    flat = BoxSpec((0.0,), (0.0,), (1,))
    assert dists.agreement(np.zeros((1, 1)), np.zeros((1, 1)), flat)[0] == 1.0


def test_entropy_of_choices_is_in_nats() -> None:
    """Evenly many choices give ln n; a sure one gives 0; several choices add up."""
    even = np.zeros((1, 4), np.float32)
    sure = np.array([[80, 0, 0, 0]], np.float32)
    four = DiscreteSpec(4)
    assert dists.entropy(Categorical(even), four)[0] == pytest.approx(np.log(4))
    assert dists.entropy(Categorical(sure), four)[0] == pytest.approx(0, abs=1e-6)
    # Values count in units of their own spread, whatever the return's unit is.
    values = np.array([[1, 2, 3, 4]], np.float32)
    small, large = (dists.entropy(QValues(values * k), four)[0] for k in (1, 1000))
    assert small == pytest.approx(large, rel=1e-3)
    several = MultiCategorical(np.zeros((2, 5), np.float32), (2, 3))
    found = dists.entropy(several, MultiDiscreteSpec((2, 3)))
    assert found == pytest.approx([np.log(6)] * 2)
    yes = Bernoulli(np.array([[0, 0, 50]], np.float32))
    assert dists.entropy(yes, MultiBinarySpec(3))[0] == pytest.approx(np.log(4))


def test_entropy_of_numbers_is_the_gaussian_s() -> None:
    """½ ln(2πe σ²) for each number; a point has none, and says so."""
    box = BoxSpec((-1.0, -1.0), (1.0, 1.0), (2,))
    log_std = np.array([[0.5, -1.0]], np.float32)
    expected = np.log(2 * np.pi * np.e) + log_std.sum()
    dist = Gaussian(np.zeros((1, 2), np.float32), log_std)
    assert dists.entropy(dist, box)[0] == pytest.approx(expected)
    with pytest.raises(SpecError, match="no entropy"):
        dists.entropy(Point(np.zeros((1, 2), np.float32)), box)


def test_what_is_no_distribution_is_named() -> None:
    """An array, nothing, or a subclass of a kind: refused with its type, or taken."""

    class Mine(Categorical):
        """A kind of its own that changes nothing."""

    assert dists.kind_of(Mine(np.zeros((1, 2), np.float32))) == "categorical"
    for found in (np.zeros((1, 2), np.float32), None, 3):
        with pytest.raises(SpecError, match=f"answered with a {type(found).__name__}"):
            dists.kind_of(found)  # type: ignore[arg-type]
