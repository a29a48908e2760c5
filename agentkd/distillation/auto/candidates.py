"""Executors to choose from: what each costs, what it keeps, and which one is taken."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import numpy as np

from agentkd import dists
from agentkd.deploy.int8.emit import constants
from agentkd.deploy.int8.quantise import quantise
from agentkd.distillation.buffer import LabelBuffer
from agentkd.distillation.distiller import Distiller
from agentkd.distillation.int8 import FineTuning, fit_int8
from agentkd.distillation.prune import prune
from agentkd.errors import ConfigError, SpecError, check_range
from agentkd.executors.acting import form
from agentkd.executors.executor import Executor, one_action
from agentkd.measure.intervals import Interval
from agentkd.measure.latency import Form, measure
from agentkd.types import Floats, Policy

_HIDDEN = "8", "16", "16,16", "32,32", "64,64", "128,128", "256,256"
DEFAULT = ("linear", *(f"mlp:{each}" for each in _HIDDEN))
_TIMED = 0.03
_AT_ONCE = 8
_TRIED = 50
"""Steps of fitting that are timed."""
_PRUNING = 20_000
"""The most observations by which units are judged."""


_COSTS = ("parameters", "bytes", "microseconds")


@dataclass(frozen=True, slots=True)
class Cost:
    """What an executor costs, as in `Limits`; NaN microseconds are unknown."""

    parameters: int
    bytes: int
    microseconds: float


@dataclass(frozen=True, slots=True)
class Limits:
    """What an executor may cost; None sets no limit.

    Attributes:
        parameters: Trained numbers that act.
        bytes: Of its numbers as they are stored, normaliser included.
        microseconds: Of one decision on this machine, the median.
    """

    parameters: int | None = None
    bytes: int | None = None
    microseconds: float | None = None

    def __post_init__(self) -> None:
        for name in _COSTS:
            check_range(name, getattr(self, name), above=0, whole=name in ("parameters", "bytes"))

    def beyond(self, cost: Cost) -> str:
        """Say which limit a cost is beyond, "" where it is within all."""
        for name in _COSTS:
            limit, value = getattr(self, name), getattr(cost, name)
            if limit is None or value <= limit:
                continue
            if math.isnan(value):
                return f"{name} unknown, and at most {limit:,.4g} are asked for"
            return f"{value:,.4g} {name}, more than {limit:,.4g}"
        return ""


def cost_of(executor: Executor) -> Cost:
    """Count an executor's numbers and time its decision, native where it can be."""
    acting = form(executor)

    def act(obs: Floats) -> Any:
        acting.obs[:] = obs
        acting.run()
        return acting.take()

    return _cost(executor, act, 4 * len(executor.vector()))


def _cost(executor: Executor, act: Callable[[Floats], Any], size: int) -> Cost:
    spread = np.random.default_rng(0).standard_normal((16, executor.spec.obs.size))
    obs = (executor.mean + spread).astype(np.float32)
    (timed,) = measure([Form("act", act)], obs, seconds=_TIMED, rounds=3)
    return Cost(executor.parameters, size, timed.p50)


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """An executor that a step made of another.

    Attributes:
        name: In tables, such as "mlp:24,24 (pruned by 25 %)".
        executor: It, or what it was made of where `policy` acts.
        policy: What acts, if it is not `executor`, such as one in integers.
        bytes: Of its numbers as they are stored; None for float32.
        steps: Gradient steps that were taken to make it.
        elsewhere: Whether it acts on other machines, so that no time here counts.
    """

    name: str
    executor: Executor
    policy: Policy | None = None
    bytes: int | None = None
    steps: int = 0
    elsewhere: bool = False

    def cost(self) -> Cost:
        """Count and time it."""
        if self.policy is None and self.bytes is None:
            return cost_of(self.executor)
        size = self.bytes or 4 * len(self.executor.vector())
        if self.elsewhere:
            return Cost(self.executor.parameters, size, math.nan)
        spec, policy = self.executor.spec, self.policy or self.executor

        def act(obs: Floats) -> Any:
            return one_action(dists.mode(policy(obs[None]), spec.action), spec)

        return _cost(self.executor, act, size)


class Step(Protocol):
    """Makes smaller executors of one; learns on where that needs it."""

    @property
    def name(self) -> str:
        """Its name in tables, such as "pruned"."""

    def __call__(
        self, executor: Executor, distiller: Callable[[Executor], Distiller], seconds: float
    ) -> Iterator[Made]:
        """Give executors, the mildest change first.

        `distiller` makes a distiller with the labels that there are; `seconds` is for all of it.
        """
        ...


@dataclass(frozen=True, slots=True)
class Pruning:
    """Removes hidden units, some more each time, and learns on after each. A `Step`.

    Attributes:
        shares: Of the units of the executor it begins with.
        steps: Gradient steps after each; None for as many as there is time for.
    """

    name: ClassVar[str] = "pruned"
    shares: tuple[float, ...] = (0.25, 0.5, 0.75)
    steps: int | None = None

    def __post_init__(self) -> None:
        check_range("steps", self.steps, least=1, whole=True)

    def __call__(
        self, executor: Executor, distiller: Callable[[Executor], Distiller], seconds: float
    ) -> Iterator[Made]:
        """Prune, learn on, give it; then more of the same."""
        before, now, taken = 0.0, executor, 0
        for share in self.shares:
            obs = distiller(now).buffer.all()[0]
            some = obs[:: max(1, len(obs) // _PRUNING)]
            try:
                # The share of what is left that makes it so much of what there was.
                smaller = prune(now, some, (share - before) / (1 - before))
            except ConfigError:
                return
            if smaller.parameters == now.parameters:
                continue
            fresh = distiller(smaller)
            learn([fresh], seconds / len(self.shares), self.steps, low=0.5)
            before, now, taken = share, fresh.freeze(), taken + fresh.steps
            yield Made(f"{now.architecture} (pruned)", now, steps=taken)


@dataclass(frozen=True, slots=True)
class Integers:
    """Fits the weights to int8 and lets the integer form act. A `Step`.

    The result is in floats whose weights lie on the integers' steps. An executor with a layer that
    has no integer form is left as it is, and `told` why. With `timed` it takes as many steps as
    there is time for, instead of those of `tuning`.
    """

    name: ClassVar[str] = "in integers"
    tuning: FineTuning = field(default_factory=FineTuning)
    timed: bool = True
    told: Callable[[str], object] | None = None

    def __call__(
        self, executor: Executor, distiller: Callable[[Executor], Distiller], seconds: float
    ) -> Iterator[Made]:
        """Yield the one executor."""
        labels = distiller(executor).buffer
        try:
            tuning = self.tuning
            if self.timed:
                tuning = _timely(executor, labels, tuning, seconds)
            fitted = fit_int8(executor, labels, tuning)
        except SpecError as error:
            if self.told is not None:
                self.told(str(error))
            return
        whole = quantise(fitted.executor, fitted.obs)
        name, size = f"{executor.architecture} (int8)", constants(whole)
        yield Made(name, fitted.executor, whole, size, tuning.steps, elsewhere=True)


def _timely(
    executor: Executor, labels: LabelBuffer, tuning: FineTuning, seconds: float
) -> FineTuning:
    """As many steps of fitting as there is time for, a few at least."""
    took = []
    for steps in (_TRIED, 3 * _TRIED):
        begin = time.monotonic()
        fit_int8(executor, labels, replace(tuning, steps=steps))
        took.append(time.monotonic() - begin)
    # What does not depend on the steps is paid once more.
    each = max((took[1] - took[0]) / (2 * _TRIED), 1e-6)
    left = seconds - sum(took) - max(0.0, took[0] - _TRIED * each)
    return replace(tuning, steps=max(_TRIED, round(left / each)))


def learn(
    distillers: Sequence[Distiller],
    seconds: float,
    steps: int | None,
    *,
    low: float = 0.0,
    high: float = 1.0,
) -> None:
    """Let distillers take gradient steps in turns, as many each.

    `seconds` is for all together; with `steps`, so many each instead. Their schedule goes from
    `low` to `high`, 0 to 1.
    """
    begin, taken, done = time.monotonic(), 0, 0.0
    while done < 1.0:
        for distiller in distillers:
            distiller.schedule(low + (high - low) * done)
            for _ in range(_AT_ONCE if steps is None else min(_AT_ONCE, steps - taken)):
                distiller.step()
        taken += _AT_ONCE
        passed = (time.monotonic() - begin) / max(seconds, 1e-9)
        done = passed if steps is None else taken / max(steps, 1)


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """An executor, what it costs and what it keeps.

    Attributes:
        name: In tables; its architecture, or that with what was done to it.
        kept: Its retention on the seeds by which is chosen.
        labels: How many labels there were when it last learnt.
        steps: How many gradient steps it has taken.
        note: Why it went no further, "" if it went to the end.
    """

    name: str
    made: Made
    cost: Cost
    kept: Interval
    labels: int
    steps: int
    note: str = ""


def front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those of which no other keeps as much and costs less, the smallest first."""
    ordered = sorted(candidates, key=lambda c: (c.cost.bytes, -c.kept.mean))
    best, found = -np.inf, []
    for candidate in ordered:
        if candidate.kept.mean > best:
            best = candidate.kept.mean
            found.append(candidate)
    return found


def pick(candidates: Sequence[Candidate], target: float) -> tuple[Candidate, str]:
    """Take the smallest that keeps the target, else the one that keeps most; say why.

    Raises:
        ConfigError: If no candidate was measured against the planner.
    """
    measured = [each for each in candidates if np.isfinite(each.kept.mean)]
    if not measured:
        raise ConfigError("No candidate could be measured against the planner.")
    good = [each for each in measured if each.kept.mean >= target]
    if not good:
        best = max(measured, key=lambda each: each.kept.mean)
        return best, (
            f"None kept {target:g} within the limits; {best.name} kept most, {best.kept.mean:.3f}."
        )
    chosen = min(good, key=lambda each: each.cost.bytes)
    smaller = [each for each in measured if each.cost.bytes < chosen.cost.bytes]
    why = f"{chosen.name} is the smallest that kept {target:g}: {chosen.kept.mean:.3f}."
    if smaller:
        next_best = max(smaller, key=lambda each: each.kept.mean)
        why += (
            f" Of the {len(smaller)} smaller ones {next_best.name} kept most, "
            f"{next_best.kept.mean:.3f}."
        )
    larger = max(measured, key=lambda each: each.cost.bytes)
    if larger is not chosen:
        why += (
            f" The largest, {larger.name}, kept {larger.kept.mean:.3f} with "
            f"{larger.cost.bytes / chosen.cost.bytes:.1f} times the bytes."
        )
    return chosen, why
