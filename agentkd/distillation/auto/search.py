"""The smallest executor that keeps enough: successive halving over one set of labels.

All candidates learn from the same labels, which are collected once; those still in the race take
turns at driving. After each rung the less promising half goes, and the rest has the time (Jamieson
and Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter optimization"). What
is promising is not the largest return: once some executor keeps the target, larger ones are not
needed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

from agentkd.distillation.auto.candidates import (
    DEFAULT,
    Candidate,
    Cost,
    Limits,
    Made,
    Step,
    cost_of,
    learn,
    pick,
)
from agentkd.distillation.buffer import LabelBuffer
from agentkd.distillation.collector import Collector
from agentkd.distillation.distiller import Distiller, DistillerOptions
from agentkd.distillation.offline import DatasetSource
from agentkd.distillation.run import Budget
from agentkd.distillation.sources import CollectionOptions
from agentkd.distillation.task import Returns, Task
from agentkd.errors import ConfigError, PlannerError, check_range
from agentkd.executors.executor import Executor
from agentkd.executors.native import compile_native
from agentkd.interrupt import ctrl_c
from agentkd.types import Policy, RecurrentPolicy

_SLICES = 4
"""Turns of collecting and learning in a rung."""
_COLLECTING = 0.3
"""The share of a rung's time that goes into labels."""
_STEPPING = 0.25
"""The share of the whole time that goes into the steps after the race."""
_FEWEST = 5
_TURN = 32
"""Ticks for which a candidate drives."""
_PATIENCE = 100_000
"""Answers with NaN or infinity after which a planner without another is given up."""
_APART = 100_000
"""How far the seeds by which is chosen are from those that are reported."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The result of a search.

    Attributes:
        candidates: All that were measured, the smallest first.
        left_out: Names of those beyond the limits, with what they are beyond.
        interrupted: Whether it was ended before its time.
    """

    chosen: Candidate
    why: str
    candidates: tuple[Candidate, ...]
    left_out: Mapping[str, str]
    labels: int
    seconds: float
    interrupted: bool


Watch = Callable[[str, Sequence[Candidate]], None]
"""Told what is done next, and of candidates that were measured just now."""


def choosing_seed(seed: int) -> int:
    """The first of the seeds by which is chosen, given that of those reported."""
    return seed + _APART


def search(
    task: Task,
    references: Returns,
    candidates: Sequence[str] = DEFAULT,
    *,
    target: float = 0.97,
    limits: Limits | None = None,
    seconds: float | None = None,
    labels: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    options: DistillerOptions | None = None,
    collection: CollectionOptions | None = None,
    further: Sequence[Step] = (),
    watch: Watch | None = None,
) -> Found:
    """Find the smallest executor that keeps the target, a retention, within the limits.

    With a dataset the environment only measures. With labels and steps instead of seconds the same
    seed gives the same executor; a dataset has its own labels.

    Args:
        task: Environment and planner.
        references: Returns of planner and random actions on the seeds by which is chosen. The
            caller measures the result on others.
        candidates: Architectures.
        target: The retention to keep.
        limits: What an executor may cost.
        seconds: How long to collect and learn, 120 if nothing else is given; measuring comes on
            top.
        labels: How many labels.
        steps: Gradient steps of all candidates together.
        seed: For weights, resets and draws.
        options: How to learn.
        collection: Who drives.
        further: What is tried on the smallest that keeps the target, such as `Pruning`.
        watch: Told how it goes.

    Raises:
        ConfigError: If an option is invalid, or no candidate is within the limits.
        AgentkdError: If planner or environment fail.
    """
    check_range("target", target, above=0, most=2, hint="It is a retention, such as 0.97.")
    begin = time.monotonic()
    if (seconds, labels, steps) == (None, None, None):
        seconds = 120.0
    budget = Budget(seconds, labels, steps=steps)
    if (seconds is None) == (steps is None):
        raise ConfigError("A search needs an end: seconds, or labels and steps.")
    if steps is not None and (labels is None) != (task.data is not None):
        raise ConfigError("Steps go with labels; a dataset has its own.")
    learning = options or DistillerOptions(seed=seed)
    bounds = limits or Limits()
    within, left_out = _within([task.executor(c, seed) for c in candidates], bounds)
    race = _Race(
        task=task,
        references=references,
        budget=budget,
        target=target,
        limits=bounds,
        options=learning,
        way=collection or CollectionOptions(),
        watch=watch or (lambda _text, _measured: None),
        buffer=LabelBuffer(learning.capacity),
        within=within,
    )
    if task.data is None:
        race.collector = task.collector(race.way, seed)
    try:
        with ctrl_c() as asked:
            if task.data is not None:
                for each in DatasetSource(task.data, learning.capacity, seed).fill():
                    race.buffer.add(*each)
            race.run(asked, further)
    finally:
        if race.collector is not None:
            race.collector.close()
    measured = sorted(race.measured.values(), key=lambda c: c.cost.bytes)
    if not measured:
        raise KeyboardInterrupt
    chosen, why = pick(measured, target)
    return Found(
        chosen=chosen,
        why=why,
        candidates=tuple(measured),
        left_out=left_out,
        labels=race.buffer.seen,
        seconds=time.monotonic() - begin,
        interrupted=race.interrupted,
    )


def _within(
    sketches: Sequence[Executor], limits: Limits
) -> tuple[dict[str, tuple[Executor, Cost]], dict[str, str]]:
    """Time and count candidates, the smallest first, and leave out those beyond the limits."""
    within: dict[str, tuple[Executor, Cost]] = {}
    left_out: dict[str, str] = {}
    for executor in sketches:
        if executor.memory:
            left_out[executor.architecture] = "it has a memory; distil it by its name"
            continue
        cost = cost_of(executor)
        if reason := limits.beyond(cost):
            left_out[executor.architecture] = reason
        else:
            within[executor.architecture] = executor, cost
    if not within:
        told = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise ConfigError(f"No candidate is within the limits. {told or 'None given.'}")
    return dict(sorted(within.items(), key=lambda item: item[1][1].bytes)), left_out


@final
@dataclass(slots=True)
class _Race:
    """Candidates that learn from the same labels, until one is left."""

    task: Task
    references: Returns
    budget: Budget
    target: float
    limits: Limits
    options: DistillerOptions
    way: CollectionOptions
    watch: Watch
    buffer: LabelBuffer
    within: Mapping[str, tuple[Executor, Cost]]
    collector: Collector | None = None
    interrupted: bool = False
    measured: dict[str, Candidate] = field(default_factory=dict)
    _distillers: dict[str, Distiller] = field(default_factory=dict)
    _turn: int = 0

    def run(self, asked: Callable[[], bool], steps: Sequence[Step]) -> None:
        """Race, then try the steps on the smallest that keeps the target."""
        alive = list(self.within)
        rungs = math.ceil(math.log2(len(alive))) + 1 if len(alive) > 1 else 1
        share = (1.0 - (_STEPPING if steps else 0.0)) / rungs
        for rung in range(rungs):
            last = rung == rungs - 1
            self.watch(f"rung {rung + 1} of {rungs}: {', '.join(alive)}", ())
            for part in range(_SLICES):
                self._slice(alive, share / _SLICES, rung, part)
                self.interrupted = asked()
                if self.interrupted:
                    break
            count = len(self.references.random)
            episodes = count if last else max(min(_FEWEST, count), count // 2)
            results = [self._measure(name, episodes) for name in alive]
            self.watch("", results)
            if self.interrupted or last:
                break
            alive = self._halved(results)
        seconds = (self.budget.seconds or 0.0) * _STEPPING / max(1, len(steps))
        for step in steps:
            if not self.interrupted:
                self._try(step, seconds, asked)

    def _slice(self, alive: Sequence[str], share: float, rung: int, part: int) -> None:
        """Collect some labels, then let each candidate learn from all there are."""
        seconds = (self.budget.seconds or 0.0) * share
        labels = None
        if self.budget.labels is not None:
            labels = math.ceil(self.budget.labels * share)
        if self.collector is not None:
            self._fill(self.collector, alive, seconds * _COLLECTING, labels)
        steps = None
        if self.budget.steps is not None:
            steps = max(1, round(self.budget.steps * share / len(alive)))
        # The first rung begins at the full rate; later ones go on from half of it.
        start = 0.0 if rung == 0 else 0.5
        low, high = (start + (1 - start) * (part + i) / _SLICES for i in (0, 1))
        distillers = [self._distiller(name) for name in alive]
        learn(distillers, seconds * (1 - _COLLECTING), steps, low=low, high=high)

    def _fill(
        self, collector: Collector, alive: Sequence[str], seconds: float, most: int | None
    ) -> None:
        """Collect for `seconds`, or `most` labels, while candidates drive in turns.

        The first time the planner drives alone.
        """
        buffer, begin = self.buffer, time.monotonic()
        first, alone = buffer.seen + buffer.refused, not self._turn
        ticks = 0
        while True:
            if ticks % _TURN == 0:
                driver = self._driver(alive[self._turn % len(alive)])
                self._turn += 1
            share = 1.0 if alone else self.way.share(buffer.seen)
            buffer.add(*collector.step(driver, share).labels)
            ticks += 1
            if not buffer.seen and buffer.refused > _PATIENCE:
                raise PlannerError("The planner answers with nothing but NaN.")
            added = buffer.seen + buffer.refused - first
            over = time.monotonic() - begin >= seconds if most is None else added >= most
            if over and buffer.seen:
                return

    def _driver(self, name: str) -> Policy | RecurrentPolicy:
        distiller = self._distillers.get(name)
        executor = self.within[name][0] if distiller is None else distiller.freeze()
        return (compile_native(executor) or executor).policy

    def _distiller(self, name: str) -> Distiller:
        if name not in self._distillers:
            self._distillers[name] = self._joined(self.within[name][0])
        return self._distillers[name]

    def _joined(self, executor: Executor) -> Distiller:
        """Make a distiller that learns from the labels that all learn from."""
        least = max(1, min(self.options.least, len(self.buffer)))
        planner = None if self.task.data is not None else self.task.planner.policy
        distiller = Distiller(executor, replace(self.options, least=least), planner)
        distiller.buffer = self.buffer
        distiller.expect(self.buffer.kind)
        return distiller

    def _measure(self, name: str, episodes: int) -> Candidate:
        """Measure a candidate on the first of the seeds by which is chosen."""
        distiller = self._distiller(name)
        made, cost = Made(name, distiller.freeze()), self.within[name][1]
        self.measured[name] = self._judged(made, cost, episodes, distiller.steps)
        return self.measured[name]

    def _judged(self, made: Made, cost: Cost, episodes: int, steps: int) -> Candidate:
        policy, known = made.policy or made.executor.policy, self.references
        got = self.task.measure(policy, episodes, known.seed).returns
        kept = replace(
            known, planner=known.planner[:episodes], random=known.random[:episodes], executor=got
        ).retention
        return Candidate(made.name, made, cost, kept, self.buffer.seen, steps)

    def _halved(self, results: Sequence[Candidate]) -> list[str]:
        """Choose who goes on, and note why the others do not."""
        stay = halve(results, self.target)
        goal = next(iter(_keeping(results, self.target)), None)
        for each in results:
            if each.name in stay:
                continue
            if goal is not None and each.cost.bytes > goal.cost.bytes:
                note = f"larger than {goal.name}, which kept {goal.kept.mean:.3f}"
            else:
                note = f"among the lower half after {each.steps:,} steps"
            self.measured[each.name] = replace(each, note=note)
        return [each.name for each in results if each.name in stay]

    def _try(self, step: Step, seconds: float, asked: Callable[[], bool]) -> None:
        base, _ = pick(list(self.measured.values()), self.target)
        self.watch(f"{step.name}: {base.name}", ())
        for made in step(base.made.executor, self._joined, seconds):
            cost = made.cost()
            if beyond := self.limits.beyond(cost):
                self.watch(f"{made.name} is left out: {beyond}", ())
                continue
            count = len(self.references.random)
            candidate = self._judged(made, cost, count, base.steps + made.steps)
            self.measured[made.name] = candidate
            self.watch("", [candidate])
            self.interrupted = asked()
            # What keeps too little is not made smaller still.
            if self.interrupted or candidate.kept.mean < self.target:
                return


def _keeping(results: Sequence[Candidate], target: float) -> Iterator[Candidate]:
    """Those that keep the target, the smallest first."""
    ordered = sorted(results, key=lambda each: each.cost.bytes)
    return (each for each in ordered if each.kept.mean >= target)


def halve(results: Sequence[Candidate], target: float) -> set[str]:
    """Choose the better half.

    Where one keeps the target, it goes on, with the next larger one, in case it was luck, and the
    best of the smaller ones, which may still reach it. Where none does, those that keep most.
    """
    count = math.ceil(len(results) / 2)
    goal = next(_keeping(results, target), None)

    def most(each: Candidate) -> float:
        return -math.inf if math.isnan(each.kept.mean) else each.kept.mean

    if goal is None:
        best = sorted(results, key=most, reverse=True)
        return {each.name for each in best[:count]}
    smaller = [each for each in results if each.cost.bytes < goal.cost.bytes]
    larger = [each for each in results if each.cost.bytes > goal.cost.bytes]
    smaller.sort(key=most, reverse=True)
    larger.sort(key=lambda each: each.cost.bytes)
    order = [goal, *smaller[:1], *larger[:1], *smaller[1:], *larger[1:]]
    return {each.name for each in order[:count]}
