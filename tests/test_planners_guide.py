"""The executor that acts guides a search, beside the one that practised or alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Dense
from agentkd.planners.search.guide import Guide
from agentkd.planners.search.mpc import MpcOptions, SamplingControl
from agentkd.planners.search.worlds import Doubles
from agentkd.runtime import Goals
from agentkd.runtime.goals import conditioned
from agentkd.spec import BoxSpec, ObsSpec, Part, Spec
from agentkd.types import Floats, Point

BOX = BoxSpec((-1.0,), (1.0,), (1,))
SPEC = Spec(ObsSpec((Part("", "box", (1,), "float32"),)), BOX)
ONE = MpcOptions("cem", ticks=3, knots=3, samples=2, iterations=1, remembered=0, spread=0.01)
HERE = np.array([[0.3]], np.float32)


class Aim:
    """Pays for doing 0.7, wherever one is."""

    low, high = np.array([-1.0]), np.array([1.0])

    def restore(self, obs: Floats, /) -> Doubles:
        return np.asarray(obs, float)

    def observe(self, states: Doubles, /) -> Floats:
        return states.astype(np.float32)

    def step(self, states: Doubles, actions: Doubles, /) -> tuple[Doubles, Doubles, Any]:
        return -np.square(actions[:, 0] - 0.7), states, np.zeros(len(states), bool)

    def roll(self, state: Doubles, actions: Doubles, /) -> tuple[Doubles, Doubles]:
        raise AssertionError("A guided search lives tick by tick.")

    def features(self, states: Doubles, /) -> Doubles:
        return states


def doing(number: float, spec: Spec = SPEC) -> Executor:
    """An executor that always does the same."""
    made = initial("linear", spec, squashed=False)
    layer = made.layers[0]
    assert isinstance(layer, Dense)
    bias = np.full_like(layer.bias, number)
    return replace(made, layers=(replace(layer, weight=0 * layer.weight, bias=bias),))


def control(practised: float | None = None) -> SamplingControl:
    """A search that somebody guides who practised, or nobody."""
    own = None if practised is None else doing(practised)
    return SamplingControl(Aim(), ONE, Guide(own, BOX))


def answer(search: SamplingControl) -> float:
    return float(search(HERE).mean[0, 0])


def test_the_executor_that_acts_proposes_from_the_next_answer_on() -> None:
    """Its plan is taken where it is better; what it was before is forgotten."""
    search = control()
    assert abs(answer(search)) < 0.1
    search.follow(doing(0.7))
    assert answer(search) == pytest.approx(0.7, abs=1e-4)
    search.follow(doing(0.4))
    assert answer(search) == pytest.approx(0.4, abs=0.1)
    search.follow(None)
    assert abs(answer(search)) < 0.1


def test_a_worse_executor_takes_nothing_from_the_one_that_practised() -> None:
    """Both propose, and so does rest: the answer is that without it."""
    alone, beside = control(0.6), control(0.6)
    beside.follow(doing(-0.9))
    np.testing.assert_array_equal(beside(HERE).mean, alone(HERE).mean)


def test_an_executor_that_gives_nan_proposes_nothing() -> None:
    """The search is the one without it."""
    alone, beside = control(0.6), control(0.6)
    beside.follow(doing(np.nan))
    np.testing.assert_array_equal(beside(HERE).mean, alone(HERE).mean)


@pytest.mark.parametrize(
    "other",
    [
        doing(0.7, replace(SPEC, action=BoxSpec((-2.0,), (2.0,), (1,)))),
        doing(0.7, conditioned(SPEC, Goals(1, max_age=4))),
        initial("gru:4", SPEC),
    ],
    ids=["another box", "a goal", "a memory"],
)
def test_one_that_cannot_propose_does_not(other: Executor) -> None:
    """The search goes on without it."""
    alone, beside = control(0.6), control(0.6)
    beside.follow(doing(0.7))
    beside.follow(other)
    np.testing.assert_array_equal(beside(HERE).mean, alone(HERE).mean)


def test_any_architecture_that_fits_may_follow() -> None:
    """In one process a swap to another architecture changes who proposes."""
    search = control()
    search.follow(initial("mlp:4", SPEC, seed=1))
    search.follow(doing(0.7))
    assert answer(search) == pytest.approx(0.7, abs=1e-4)
    assert isinstance(search(HERE).mean, np.ndarray)


def test_a_search_without_a_guide_follows_nobody() -> None:
    """Its world need not live on tick by tick."""

    class Rolled(Aim):
        def roll(self, state: Doubles, actions: Doubles, /) -> tuple[Doubles, Doubles]:
            states = np.broadcast_to(state, (*actions.shape[:2], 1))
            return -np.square(actions[..., 0] - 0.7), states

    search = SamplingControl(Rolled(), ONE)
    search.follow(doing(0.7))
    assert abs(answer(search)) < 0.1


def test_the_practised_policy_needs_no_spec() -> None:
    """A guide's own policy may be any function."""
    search = SamplingControl(Aim(), ONE, Guide(lambda obs: Point(0 * obs + 0.7), BOX))
    search.follow(doing(0.1))
    assert answer(search) == pytest.approx(0.7, abs=1e-4)
