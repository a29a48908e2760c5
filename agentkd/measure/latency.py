"""How long one decision takes, in several forms, measured in turns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from agentkd.errors import check_range
from agentkd.spec import Spec
from agentkd.types import Floats

Decide = Callable[[Floats], Any]
"""Decides for one flat observation, (obs,)."""

_WARM = 20
_MOST_CALLS = 200_000
_OBSERVATIONS = 64
_A_DECADE = 20
"""Bars of the distribution in a power of ten."""


@dataclass(frozen=True, slots=True)
class Form:
    """One way to come to a decision; `decide` is None, and `note` says why, where it is missing."""

    name: str
    decide: Decide | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Latency:
    """How long a form took for one decision: percentiles of `calls`, µs.

    They are NaN where nothing was measured; the note is the form's, or what it raised. `edges`, µs,
    and `counts` are the distribution: how many calls fell between two edges.
    """

    name: str
    p50: float
    p99: float
    p999: float
    calls: int
    note: str = ""
    edges: Sequence[float] = ()
    counts: Sequence[int] = ()

    def summary(self) -> dict[str, float | int]:
        """As reports write it, in µs."""
        return {"p50": self.p50, "p99": self.p99, "p99.9": self.p999, "count": self.calls}


def observations(spec: Spec, mean: Floats | None = None) -> Floats:
    """Make observations to decide on, (64, size); around `mean`, (size,), if given.

    The action that was executed before is not among them.
    """
    random = np.random.default_rng(0)
    out = random.standard_normal((_OBSERVATIONS, spec.obs.size))
    rows = (out if mean is None else out + mean).astype(np.float32)
    return rows[:, : spec.obs.size - spec.obs.taken]


def measure(
    forms: Sequence[Form],
    obs: Floats,
    *,
    seconds: float = 1.0,
    rounds: int = 20,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Latency, ...]:
    """Time forms of a decision in turns, so that a busy moment of the machine hits all.

    Each call is timed by itself, the timer's own time (`timer`) included. A form that raises is
    left out from then on, with a note.

    Args:
        forms: What to time.
        obs: Observations that are decided in turn, (n, size).
        seconds: The time for each form, all rounds together.
        rounds: How many turns each form gets.
        progress: Called with the rounds done and all of them.

    Raises:
        ConfigError: If a number is not positive, or there are no observations.
    """
    check_range("seconds", seconds, above=0)
    check_range("rounds", rounds, least=1, whole=True)
    check_range("The number of observations", len(obs), least=1)
    each = list(obs)
    times: list[list[int]] = [[] for _ in forms]
    notes = [form.note for form in forms]
    ready = [index for index, form in enumerate(forms) if form.decide is not None]

    def try_out(index: int, work: Callable[[Decide], None]) -> None:
        decide = forms[index].decide
        assert decide is not None
        try:
            work(decide)
        except Exception as error:
            notes[index] = f"raised {type(error).__name__}: {error}"
            ready.remove(index)
            times[index].clear()

    for index in list(ready):
        try_out(index, partial(warm_up, obs=each))
    slot = round(1e9 * seconds / rounds)
    most = max(1, _MOST_CALLS // rounds)
    for turn in range(rounds):
        # The first of a round pays for what the round before left behind.
        shift = turn % max(1, len(ready))
        for index in ready[shift:] + ready[:shift]:
            try_out(index, partial(_time, obs=each, slot=slot, most=most, into=times[index]))
        if progress is not None:
            progress(turn + 1, rounds)
    return tuple(
        _summary(form.name, taken, note)
        for form, taken, note in zip(forms, times, notes, strict=True)
    )


def timer() -> float:
    """The median time that timing itself takes, µs."""
    taken: list[int] = []
    _time(lambda _: None, [np.zeros(1, np.float32)], 10_000_000, 20_000, taken)
    return float(np.median(taken)) / 1e3


def warm_up(decide: Decide, obs: Sequence[Floats]) -> None:
    """Let a form decide some times before it is measured."""
    for index in range(_WARM):
        decide(obs[index % len(obs)])


def _time(decide: Decide, obs: list[Floats], slot: int, most: int, into: list[int]) -> None:
    clock, count = time.perf_counter_ns, len(obs)
    end = clock() + slot
    for index in range(most):
        one = obs[index % count]
        start = clock()
        decide(one)
        stop = clock()
        into.append(stop - start)
        if stop > end:
            break


def _summary(name: str, times: list[int], note: str) -> Latency:
    if not times:
        return Latency(name, math.nan, math.nan, math.nan, 0, note)
    p50, p99, p999 = (float(x) / 1e3 for x in np.percentile(times, [50, 99, 99.9]))
    taken = np.maximum(times, 1) / 1e3
    low, high = np.log10(taken.min()), np.log10(taken.max())
    edges = np.logspace(low - 1e-6, high + 1e-6, 2 + int(_A_DECADE * (high - low)))
    counts, _ = np.histogram(taken, edges)
    return Latency(name, p50, p99, p999, len(times), note, edges.tolist(), counts.tolist())
