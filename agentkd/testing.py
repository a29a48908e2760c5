"""The contract of policies as a test: run it on yours.

from agentkd.testing import check_policy

def test_my_planner_keeps_the_contract() -> None:
    check_policy(my_planner, env_spec(gym.make("LunarLander-v3")))
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentkd import dists
from agentkd.errors import AgentkdError, NumbersError, SpecError
from agentkd.spec import MultiDiscreteSpec, ObsSpec, Part, Spec
from agentkd.types import ActionDist, Floats, MultiCategorical, Policy, RecurrentPolicy, State

_KINDS = ActionDist.__args__


class ContractError(AgentkdError, AssertionError):
    """A policy that breaks the contract, with how it does."""


def example_observations(obs: ObsSpec, batch: int, seed: int = 0) -> Floats:
    """Make flat observations that could occur, (batch, size).

    Numbers are drawn from a normal distribution, whole ones from 0 to 255, and of choices one is 1
    and the others 0.
    """
    random = np.random.default_rng(seed)
    pieces = [_example(part, batch, random) for part in obs.parts]
    return np.concatenate(pieces, axis=1)


def _example(part: Part, batch: int, random: np.random.Generator) -> Floats:
    if part.seen is not None:
        return _example(replace(part, seen=None), batch, random)[:, part.seen]
    if part.sizes:
        chosen = [np.eye(n, dtype=np.float32)[random.integers(n, size=batch)] for n in part.sizes]
        return np.concatenate(chosen, axis=1)
    if part.kind == "multibinary":
        return random.integers(2, size=(batch, part.size)).astype(np.float32)
    if np.issubdtype(np.dtype(part.dtype), np.integer):
        most = min(255, int(np.iinfo(part.dtype).max))
        return random.integers(most + 1, size=(batch, part.size)).astype(np.float32)
    return random.standard_normal((batch, part.size)).astype(np.float32)


def check_policy(
    policy: Policy | RecurrentPolicy,
    spec: Spec,
    *,
    obs: Floats | None = None,
    tolerance: float = 1e-4,
) -> None:
    """Check that a policy can be a planner or an executor of an environment.

    Its answers have to fit the actions, be finite and float32, be the same when it is asked again,
    not depend on the other rows of the batch, and stay as they are when it is asked something else.
    It must not change what it is given. A memory, where it has one, has to be a tuple of arrays
    (batch, …), be handled row by row, and not be changed in place.

    Args:
        policy: What is checked; one with `initial_state` is a `RecurrentPolicy`.
        spec: The environment.
        obs: Flat observations to ask about, (at least 2, size); made up if left out.
        tolerance: How far two answers may differ that should be the same, relative to 1 + |x|.
            Arithmetic on another batch rounds differently.

    Raises:
        ContractError: With what is wrong; it is an `AssertionError`.
    """
    rows = example_observations(spec.obs, 5) if obs is None else obs
    size = spec.obs.size - spec.obs.taken
    if rows.ndim != 2 or len(rows) < 2 or rows.shape[1] != size:
        raise SpecError(f"Observations have shape {rows.shape}; (2 or more, {size}) is needed.")
    rows = np.ascontiguousarray(rows, np.float32)
    if hasattr(policy, "initial_state"):
        _check_recurrent(policy, spec, rows, tolerance)
    else:
        _check_feedforward(policy, spec, rows, tolerance)


def _check_feedforward(policy: Any, spec: Spec, rows: Floats, tolerance: float) -> None:
    def ask(obs: Floats) -> ActionDist:
        given = obs.copy()
        answer: ActionDist = _called(policy, given)
        _fits(answer, spec, len(obs))
        _unchanged(given, obs, "the observations that it is given")
        return answer

    first = ask(rows)
    kept = dists.pack(first).copy()
    again = dists.pack(ask(rows)).copy()
    _same(again, kept, tolerance, "Asked again, it answers something else")
    other = ask(rows[::-1])
    _same(dists.pack(first), kept, 0.0, "A later call changes its earlier answer")
    _same(dists.pack(other)[::-1], kept, tolerance, "An answer depends on its row's place")
    for index in range(len(rows)):
        alone = ask(rows[index : index + 1])
        kinds = dists.kind_of(alone), dists.kind_of(first)
        if kinds[0] != kinds[1]:
            raise ContractError(f"Its answers are of different kinds: {kinds[0]} and {kinds[1]}.")
        what = f"Row {index} alone is answered differently than within a batch"
        _same(dists.pack(alone)[0], kept[index], tolerance, what)


def _check_recurrent(policy: Any, spec: Spec, rows: Floats, tolerance: float) -> None:
    def ask(obs: Floats, state: State) -> tuple[ActionDist, State]:
        given = obs.copy()
        before = tuple(memory.copy() for memory in state)
        answer = _called(policy, given, state)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise ContractError(
                f"It has a memory, so it has to give (distribution, state), not {_named(answer)}."
            )
        dist, after = answer
        _fits(dist, spec, len(obs))
        _unchanged(given, obs, "the observations that it is given")
        for memory, copy in zip(state, before, strict=True):
            _unchanged(memory, copy, "the memory that it is given; give a new one")
        _fits_state(after, state, len(obs))
        return dist, after

    batch = len(rows)
    start = _initial(policy, batch)
    first, after = ask(rows, start)
    kept = dists.pack(first).copy()
    memory = tuple(each.copy() for each in after)
    again, _ = ask(rows, _initial(policy, batch))
    _same(dists.pack(again), kept, tolerance, "Asked again, it answers something else")
    # A second step, rows swapped: what it remembers has to go with the row.
    second, _ = ask(rows, memory)
    swapped, _ = ask(rows[::-1], tuple(each[::-1] for each in memory))
    what = "With rows and memory in another order it answers something else"
    _same(dists.pack(swapped)[::-1], dists.pack(second), tolerance, what)
    for index in range(batch):
        one = slice(index, index + 1)
        alone, _ = ask(rows[one], tuple(each[one] for each in memory))
        what = f"Row {index} alone, with its memory, is answered differently"
        _same(dists.pack(alone)[0], dists.pack(second)[index], tolerance, what)
    for fresh, other in zip(_initial(policy, batch), start, strict=True):
        _same(fresh, other, 0.0, "An episode's first memory is not always the same")


def _called(policy: Any, *arguments: Any) -> Any:
    try:
        return policy(*arguments)
    except Exception as error:
        raise ContractError(
            f"For observations {arguments[0].shape} it raises {type(error).__name__}: {error}"
        ) from error


def _named(value: Any) -> str:
    return f"a {type(value).__name__}"


def _fits(answer: Any, spec: Spec, batch: int) -> None:
    if not isinstance(answer, _KINDS):
        names = ", ".join(each.__name__ for each in _KINDS)
        raise ContractError(
            f"It answers with {_named(answer)}; it has to be an action distribution of "
            f"agentkd.types: {names}."
        )
    for name in answer.__slots__:
        value = getattr(answer, name)
        if name != "sizes" and getattr(value, "dtype", None) != np.float32:
            what = getattr(value, "dtype", type(value).__name__)
            raise ContractError(f"Its {name} is {what}; float32 is needed.")
    action = spec.action
    if (
        isinstance(answer, MultiCategorical)
        and isinstance(action, MultiDiscreteSpec)
        and answer.sizes != action.sizes
    ):
        raise ContractError(f"Its sizes are {answer.sizes}; {action.sizes} are needed.")
    try:
        dists.check(answer, spec.action, batch)
        dists.mode(answer, spec.action)
    except (SpecError, NumbersError) as error:
        raise ContractError(str(error)) from error
    except ValueError as error:
        raise ContractError(f"Its answer does not hold together: {error}") from error


def _initial(policy: Any, batch: int) -> State:
    state = policy.initial_state(batch)
    if not isinstance(state, tuple):
        raise ContractError(f"initial_state gives {_named(state)}; it has to be a tuple of arrays.")
    _fits_state(state, state, batch)
    return state


def _fits_state(after: Any, before: State, batch: int) -> None:
    if not isinstance(after, tuple) or len(after) != len(before):
        raise ContractError(
            f"The memory that it gives is {_named(after)}; a tuple of {len(before)} "
            "arrays is needed, as initial_state gives."
        )
    for index, (memory, like) in enumerate(zip(after, before, strict=True)):
        if not isinstance(memory, np.ndarray) or memory.shape[:1] != (batch,):
            shape = getattr(memory, "shape", type(memory).__name__)
            raise ContractError(
                f"Memory {index} is {shape} for {batch} observations; its first "
                "dimension has to be the batch's."
            )
        if memory.shape != like.shape or memory.dtype != like.dtype:
            raise ContractError(
                f"Memory {index} becomes {memory.dtype} {memory.shape}; it was "
                f"{like.dtype} {like.shape}."
            )
        if not np.isfinite(memory).all():
            raise ContractError(f"Memory {index} holds NaN or infinity.")


def _unchanged(now: NDArray[Any], before: NDArray[Any], what: str) -> None:
    if not np.array_equal(now, before):
        raise ContractError(f"It changes {what}.")


def _same(left: Floats, right: Floats, tolerance: float, what: str) -> None:
    apart = float(np.max(np.abs(left - right) / (1.0 + np.abs(right)), initial=0.0))
    if not apart <= tolerance:
        raise ContractError(f"{what} (by {apart:.2g}, relative to 1 + |x|).")
