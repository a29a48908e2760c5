"""The contract's test that users run on their policies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agentkd.errors import AgentkdError, SpecError
from agentkd.executors.architecture import initial
from agentkd.spec import BoxSpec, DiscreteSpec, MultiDiscreteSpec, ObsSpec, Part, Spec
from agentkd.testing import ContractError, check_policy, example_observations
from agentkd.types import (
    Categorical,
    Floats,
    Gaussian,
    MultiCategorical,
    Point,
    SquashedGaussian,
    State,
)

SPEC = Spec(ObsSpec((Part("", "box", (3,), "float32"),)), DiscreteSpec(2))
WEIGHT = np.array([[1, -1], [2, 0], [0, 3]], np.float32)


def good(obs: Floats, /) -> Categorical:
    """Keep the contract."""
    return Categorical(obs @ WEIGHT)


class Recurrent:
    """Keeps the contract, with a sum of what it saw as memory."""

    def initial_state(self, batch: int) -> State:
        return (np.zeros((batch, 3), np.float32),)

    def __call__(self, obs: Floats, state: State, /) -> tuple[Categorical, State]:
        total: Floats = state[0] + obs
        return Categorical(total @ WEIGHT), (total,)


def test_policies_that_keep_it_pass() -> None:
    """With and without memory, executors and spaces of many parts."""
    check_policy(good, SPEC)
    check_policy(Recurrent(), SPEC)
    parts = (
        Part("image", "box", (2, 2), "uint8"),
        Part("mode", "discrete", (), "int64", (3,)),
        Part("keys", "multibinary", (2,), "int8"),
    )
    for action in (MultiDiscreteSpec((2, 3)), BoxSpec((-1.0,), (1.0,), (1,))):
        spec = Spec(ObsSpec(parts, "dict"), action)
        check_policy(initial("mlp:8", spec, seed=1), spec)


def test_examples_could_occur() -> None:
    """One of each choice is 1, whole numbers are whole, and the seed decides."""
    obs = ObsSpec(
        (
            Part("a", "multidiscrete", (2,), "int64", (3, 2)),
            Part("b", "box", (4,), "uint8"),
            Part("c", "box", (1,), "float32"),
        ),
        "dict",
    )
    rows = example_observations(obs, 50)
    assert rows.shape == (50, 10)
    assert rows.dtype == np.float32
    assert (rows[:, :3].sum(axis=1) == 1).all()
    assert (rows[:, 3:5].sum(axis=1) == 1).all()
    assert (rows[:, 5:9] % 1 == 0).all()
    assert rows[:, 5:9].max() > 100
    assert np.array_equal(rows, example_observations(obs, 50))
    assert not np.array_equal(rows, example_observations(obs, 50, seed=1))


class Counter:
    """Answers something else each time."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, obs: Floats, /) -> Categorical:
        self.calls += 1
        more = np.array([self.calls, 0], np.float32)
        return Categorical(obs @ WEIGHT + more)


class Reuses:
    """Writes each answer over the one before."""

    def __init__(self) -> None:
        self.out = np.zeros((5, 2), np.float32)

    def __call__(self, obs: Floats, /) -> Categorical:
        if len(obs) == 5:
            self.out[:] = obs @ WEIGHT
            return Categorical(self.out)
        return good(obs)


def centred(obs: Floats, /) -> Categorical:
    """Normalise within the batch."""
    return good(obs - obs.mean(axis=0))


def by_place(obs: Floats, /) -> Categorical:
    """Treat the first row in a way of its own."""
    logits = obs @ WEIGHT
    logits[0] += np.array([5, 0], np.float32)
    return Categorical(logits)


def writes(obs: Floats, /) -> Categorical:
    """Normalise what it was given, in place."""
    obs *= 0.5
    return good(obs)


def raises(obs: Floats, /) -> Categorical:
    """Raise."""
    raise KeyError("weights")


CASES: list[tuple[Any, str]] = [
    (Counter(), "Asked again, it answers something else"),
    (Reuses(), "A later call changes its earlier answer"),
    (centred, "Row 0 alone is answered differently"),
    (by_place, "depends on its row's place"),
    (writes, "It changes the observations"),
    (raises, "it raises KeyError"),
    (lambda obs: obs @ WEIGHT, "answers with a ndarray"),
    (lambda obs: Categorical((obs @ WEIGHT).astype(np.float64)), "float64; float32"),
    (lambda obs: Categorical([[0.0, 1.0]]), "is list; float32"),  # type: ignore[arg-type]
    (Categorical, "has shape (5, 3); (5, 2) was expected"),
    (lambda obs: good(obs[:1]), "has shape (1, 2); (5, 2)"),
    (lambda obs: Categorical(obs @ WEIGHT * np.float32(np.nan)), "NaN or infinity"),
    (Point, "point distribution"),
]


@pytest.mark.parametrize(("policy", "reason"), CASES)
def test_each_breach_is_told(policy: Any, reason: str) -> None:
    """What breaks the contract is an assertion error of ours that says how."""
    with pytest.raises(ContractError) as told:
        check_policy(policy, SPEC)
    assert reason in str(told.value)
    assert isinstance(told.value, AssertionError)
    assert isinstance(told.value, AgentkdError)


def test_answers_of_different_kinds_are_told() -> None:
    """A policy gives one kind of distribution."""
    spec = Spec(SPEC.obs, BoxSpec((-1.0,) * 2, (1.0,) * 2, (2,)))

    def mixed(obs: Floats, /) -> Any:
        mean = np.tanh(obs @ WEIGHT)
        kind = Gaussian if len(obs) > 1 else SquashedGaussian
        return kind(mean, np.zeros_like(mean))

    with pytest.raises(ContractError, match="different kinds"):
        check_policy(mixed, spec)


def test_choices_that_do_not_add_up_are_told() -> None:
    """The sizes in an answer have to be those of the actions."""
    spec = Spec(SPEC.obs, MultiDiscreteSpec((1, 1)))

    def odd(obs: Floats, /) -> MultiCategorical:
        return MultiCategorical(obs @ WEIGHT, (2,))

    with pytest.raises(ContractError, match=r"sizes are \(2,\); \(1, 1\)"):
        check_policy(odd, spec)


class NoTuple(Recurrent):
    """Gives an array as memory."""

    def initial_state(self, batch: int) -> Any:
        return np.zeros((batch, 3), np.float32)


class NoBatch(Recurrent):
    """Keeps one memory for all rows."""

    def initial_state(self, batch: int) -> State:
        return (np.zeros((1, 3), np.float32),)


class InPlace(Recurrent):
    """Adds to the memory it was given."""

    def __call__(self, obs: Floats, state: State, /) -> tuple[Categorical, State]:
        memory = state[0]
        memory += obs
        return Categorical(memory @ WEIGHT), (memory,)


class OnlyAnswer(Recurrent):
    """Forgets to give the memory."""

    def __call__(self, obs: Floats, state: State, /) -> Any:
        return good(obs)


class Grows(Recurrent):
    """Gives a memory of another shape."""

    def __call__(self, obs: Floats, state: State, /) -> tuple[Categorical, State]:
        return good(obs), (np.concatenate([state[0], obs], axis=1),)


class Shares(Recurrent):
    """Mixes the rows' memories."""

    def __call__(self, obs: Floats, state: State, /) -> tuple[Categorical, State]:
        mean = np.broadcast_to(state[0].mean(axis=0), state[0].shape)
        return Categorical((obs + mean) @ WEIGHT), (state[0] + obs,)


class Overflows(Recurrent):
    """Lets its memory become infinite."""

    def __call__(self, obs: Floats, state: State, /) -> tuple[Categorical, State]:
        return good(obs), (np.full_like(state[0], np.inf),)


class Hidden(Recurrent):
    """Keeps its memory to itself, so that every episode begins otherwise."""

    def __init__(self) -> None:
        self.begun = 0

    def initial_state(self, batch: int) -> State:
        self.begun += 1
        return (np.full((batch, 3), self.begun, np.float32),)


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (NoTuple(), "initial_state gives a ndarray"),
        (NoBatch(), "first dimension has to be the batch's"),
        (InPlace(), "It changes the memory"),
        (OnlyAnswer(), "has to give (distribution, state)"),
        (Grows(), "Memory 0 becomes"),
        (Shares(), "Row 0 alone, with its memory"),
        (Overflows(), "Memory 0 holds NaN or infinity"),
        (Hidden(), "Asked again, it answers something else"),
    ],
)
def test_each_breach_with_memory_is_told(policy: Any, reason: str) -> None:
    """A memory is the caller's, goes with its row, and is never changed in place."""
    with pytest.raises(ContractError) as told:
        check_policy(policy, SPEC)
    assert reason in str(told.value)


def test_observations_of_ones_own_can_be_given() -> None:
    """They are used, and refused if they cannot be an environment's."""
    seen: list[Floats] = []

    def watched(obs: Floats, /) -> Categorical:
        seen.append(obs.copy())
        return good(obs)

    mine = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    check_policy(watched, SPEC, obs=mine)
    assert np.array_equal(seen[0], mine)
    for wrong in (mine[:1], mine[:, :2], mine[0]):
        with pytest.raises(SpecError, match="2 or more, 3"):
            check_policy(good, SPEC, obs=wrong)
