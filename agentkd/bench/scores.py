"""The rows of a run as scores: what each contender keeps of its planner, task by task."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple, final

from agentkd.bench.rows import Row
from agentkd.bench.suite import FILE

_UNTOLD = 1e-12


class Task(NamedTuple):
    """An environment with a planner, and how many episodes a run lives."""

    env: str
    planner: str
    episodes: int

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{self.env} {self.planner}".strip()


class Contender(NamedTuple):
    """Who acts, however the tasks differ; `late` is None where no planner takes part."""

    arm: str
    executor: str
    method: str
    late: int | None

    @property
    def name(self) -> str:
        """What tables call it, without the latency."""
        return " ".join(filter(None, (self.arm, self.executor, self.method)))

    @property
    def title(self) -> str:
        """The same with the latency."""
        return self.name if not self.late else f"{self.name}, {self.late} late"


@final
@dataclass(slots=True)
class Scores:
    """Returns and retentions of each contender on each task, seed by seed.

    A run's return is the mean over its episodes. Its retention is (return − random) / (planner −
    random), with the means over all seeds of random actions and of the planner that is never late;
    it is NaN where these two are equal or missing.

    Attributes:
        returns: By contender, task and seed.
        floor, best: The mean returns of random actions and of the planner, by task.
        parameters: Of a contender's executor.
    """

    returns: dict[Contender, dict[Task, dict[int, float]]] = field(default_factory=dict)
    floor: dict[Task, float] = field(default_factory=dict)
    best: dict[Task, float] = field(default_factory=dict)
    parameters: dict[Contender, int] = field(default_factory=dict)

    @property
    def tasks(self) -> list[Task]:
        """All tasks, in the order of the suite."""
        return list(dict.fromkeys(task for each in self.returns.values() for task in each))

    def retention(self, task: Task, value: float) -> float:
        """Return what a return on a task keeps of its planner."""
        floor, best = self.floor.get(task, math.nan), self.best.get(task, math.nan)
        span = best - floor
        if not abs(span) > _UNTOLD * max(abs(floor), abs(best)):
            return math.nan
        return (value - floor) / span

    def kept(self, contender: Contender) -> dict[Task, dict[int, float]]:
        """Return the retentions of a contender, without tasks where they are not defined."""
        found = {}
        for task, runs in self.returns[contender].items():
            kept = {seed: self.retention(task, value) for seed, value in runs.items()}
            if all(map(math.isfinite, kept.values())):
                found[task] = kept
        return found

    def strata(self, contender: Contender) -> list[list[float]]:
        """Return the retentions of a contender's runs on each task."""
        return [list(runs.values()) for runs in self.kept(contender).values()]

    def pairs(self) -> Iterator[tuple[Contender, Contender]]:
        """Give the contenders that differ in one thing: arm, executor or method.

        A planner or runtime is compared with another of the same latency.
        """
        for one, other in combinations(self.returns, 2):
            known = {one.late, other.late} - {None}
            if len(known) > 1 or (known == {0} and None in (one.late, other.late)):
                continue
            if _apart(one, other) == 1:
                # The later one in the suite is the one that is judged.
                yield other, one


def paired(
    mine: Mapping[Task, Mapping[int, float]], theirs: Mapping[Task, Mapping[int, float]]
) -> tuple[list[list[float]], list[list[float]]]:
    """Return the scores of two contenders on the tasks and seeds that both have."""
    both: tuple[list[list[float]], list[list[float]]] = ([], [])
    for task, runs in mine.items():
        seeds = [each for each in runs if each in theirs.get(task, {})]
        if seeds:
            both[0].append([runs[each] for each in seeds])
            both[1].append([theirs[task][each] for each in seeds])
    return both


def _apart(one: Contender, other: Contender) -> int:
    """Count in how many things two contenders differ."""
    if "planner" in (one.arm, other.arm):
        # A planner has no executor: it is compared with who has both.
        return int({one.arm, other.arm} == {"planner", "runtime"}) or 9
    return sum(x != y for x, y in zip(one[:3], other[:3], strict=True))


def scores_of(rows: Iterable[Row]) -> Scores:
    """Make scores of the rows without an error."""
    good = [row for row in rows if row.returns]
    files = _several_files(good)
    found = Scores()
    floors: dict[tuple[str, int], list[float]] = {}
    bests: dict[Task, list[float]] = {}
    for row in good:
        task = Task(row.env, row.planner, row.episodes)
        if row.arm == "random":
            floors.setdefault((row.env, row.episodes), []).append(row.score)
            continue
        if row.arm == "planner" and not row.latency:
            bests.setdefault(task, []).append(row.score)
        contender = _contender(row, files)
        found.returns.setdefault(contender, {}).setdefault(task, {})[row.seed] = row.score
        found.parameters[contender] = max(found.parameters.get(contender, 0), row.parameters)
    for task in found.tasks:
        floor = floors.get((task.env, task.episodes), ())
        found.floor[task] = _mean(floor)
        found.best[task] = _mean(bests.get(task, ()))
    return found


def _several_files(rows: Sequence[Row]) -> bool:
    """Whether a task has several executor files, so that their names tell them apart."""
    files: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        if row.method == FILE:
            files.setdefault((row.env, row.planner), set()).add(row.executor)
    return any(len(each) > 1 for each in files.values())


def _contender(row: Row, files: bool) -> Contender:
    late = row.latency if row.arm in ("planner", "runtime") else None
    executor = "" if row.method == FILE and not files else row.executor
    return Contender(row.arm, executor, row.method, late)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
