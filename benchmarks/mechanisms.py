"""What each mechanism of distillation changes: with and without, all else equal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import product
from typing import Any, Literal, final

import numpy as np
from scipy import stats

from agentkd.distillation.attack import Attack, Attacked, units
from agentkd.distillation.distiller import DistillerOptions
from agentkd.distillation.loop import run_distillation
from agentkd.distillation.run import Budget
from agentkd.distillation.sources import CollectionOptions
from agentkd.distillation.task import kind_of_planner
from agentkd.distillation.terms import parse_terms
from agentkd.environments import look_at
from agentkd.errors import ConfigError, check_range
from agentkd.executors.executor import Executor
from agentkd.measure.agreement import Sample
from agentkd.measure.evaluate import evaluate
from agentkd.measure.intervals import Interval
from agentkd.planners import load_planner
from agentkd.report.model import Plot, Section, Series
from agentkd.types import Floats
from benchmarks.pairs import Arm, Mechanism, find_mechanisms
from benchmarks.planners import CHOOSING, Case, Planners, random_returns
from benchmarks.runner import Benchmark, Column, Findings, Result, Work, grouped, table

_ENVIRONMENTS = 4
"""Few, so that an executor drives early: the first does after 32 ticks."""


@dataclass(frozen=True, kw_only=True)
class Options(Planners):
    """Distil with and without each mechanism: same labels, same seeds, same episodes.

    Example: python -m benchmarks mechanisms --planners planners --mechanisms soft auto
    """

    mechanisms: tuple[str, ...] = ()
    """Some of those that docs/reference/terms.md lists; all that fit, if none is given."""
    compare: tuple[str, ...] = ()
    """Two or more sums of terms instead: the first without, each other one with."""
    labels: tuple[int, ...] = (1000,)
    """How many times the planner is asked; several budgets are gone through."""
    executor: str = "mlp:32,32"
    """The executor's architecture."""
    seeds: int = 3
    """How many distillations of each arm; seeds FIRST_SEED, FIRST_SEED + 1, …."""
    first_seed: int = 0
    """The first of them: choose settings on some seeds, measure on others."""
    reuse: float = 1.0
    """With --compare: gradient steps for each label, in units of the default."""
    episodes: int = 20
    """Episodes to measure each executor over, on the same seeds."""
    eval_seed: int = 1000
    """The first of the seeds to measure on."""
    attack: Literal["noise", "fgsm", "pgd"] = "pgd"
    """What observations are attacked with, where a mechanism is for that."""
    epsilon: float = 0.1
    """How far, in units of the observations' spread."""


@final
class Subject:
    """One planner, and every executor that was distilled from it so far.

    Args:
        case: The planner.
        others: References of other planners for its environment.
        options: What all arms have in common.
    """

    def __init__(self, case: Case, others: Sequence[str], options: Options) -> None:
        self.case, self._options, self._others = case, options, tuple(others)
        self._spec, probe = look_at(case.env)
        self._planner = load_planner(case.planner, self._spec)
        self.kind = kind_of_planner(self._planner, self._spec, probe)
        self._made: dict[tuple[Arm, int, int], tuple[Executor, int, int]] = {}

    def fits(self, mechanism: Mechanism) -> bool:
        """Return whether the mechanism is for such a planner."""
        arms = mechanism.without, mechanism.within
        if any(arm.together for arm in arms) and not self._others:
            return False
        return self.kind in mechanism.kinds

    @property
    def _measure(self) -> Mapping[str, Any]:
        return {"episodes": self._options.episodes, "seed": self._options.eval_seed}

    def planner(self) -> dict[str, Any]:
        """Measure the planner."""
        policy = self._planner.policy
        got = evaluate(self.case.env, policy, spec=self._spec, **self._measure)
        return {"return": float(np.mean(got.returns))}

    def random(self) -> dict[str, Any]:
        """Measure random actions."""
        returns = random_returns(self.case.env, **self._measure)["returns"]
        return {"return": float(np.mean(returns))}

    @cached_property
    def _unit(self) -> Floats:
        """The spread of what the planner observes."""
        sample, policy = Sample(), self._planner.policy
        evaluate(self.case.env, policy, spec=self._spec, visited=sample, **self._measure)
        return units(sample.obs, self._spec.obs)

    def executor(self, arm: Arm, labels: int, seed: int, under: str) -> dict[str, Any]:
        """Distil as an arm does, unless it was done before, and measure."""
        place = arm, labels, seed
        if place not in self._made:
            self._made[place] = self._distil(*place)
        executor, asked, steps = self._made[place]
        policy: Any = executor.policy
        if under:
            attack = Attack(self._options.attack, self._options.epsilon)
            policy = Attacked(policy, attack, self._unit, seed)
        got = evaluate(self.case.env, policy, spec=self._spec, **self._measure)
        return {"return": float(np.mean(got.returns)), "asked": asked, "steps": steps}

    def _distil(self, arm: Arm, labels: int, seed: int) -> tuple[Executor, int, int]:
        refs = self.case.planner, *(self._others if arm.together else ())
        planner = load_planner(refs if arm.together else self.case.planner, self._spec)
        usual = Budget(labels=labels).ratio
        way = CollectionOptions(environments=_ENVIRONMENTS, halving=max(1, labels // 4))
        result = run_distillation(
            self.case.env,
            planner,
            self._options.executor,
            labels=labels,
            steps_per_label=arm.reuse * usual,
            seed=seed,
            episodes=0,
            options=DistillerOptions(seed=seed, terms=arm.terms),
            collection=way,
        )
        if result.interrupted and not result.fault:
            raise KeyboardInterrupt
        return result.executor, result.labels, result.steps


def works(options: Options) -> Iterator[Work]:
    """List planners, random actions and the executors of all arms."""
    if options.seeds < 1 or options.episodes < 1 or min(options.labels, default=0) < 1:
        raise ConfigError(
            f"--seeds {options.seeds} --episodes {options.episodes} --labels "
            f"{' '.join(map(str, options.labels))}: each at least 1."
        )
    if options.first_seed < 0 or not options.reuse > 0:
        raise ConfigError(
            f"--first-seed {options.first_seed} --reuse {options.reuse}: at least 0, and above 0."
        )
    if options.reuse != 1.0 and not options.compare:
        raise ConfigError("--reuse goes with --compare; there is a mechanism 'reuse'.")
    Attack(options.attack, options.epsilon)
    mechanisms = mechanisms_of(options)
    cases = options.cases()
    for case in options.chosen():
        others = [c.planner for c in cases if c.env == case.env and c != case]
        subject = Subject(case, others, options)
        key = {**case.key(), "others": others}
        for what, measure in (("planner", subject.planner), ("random", subject.random)):
            yield Work(f"{case.name}: {what}", {**key, "what": what}, measure)
        for labels in options.labels:
            for mechanism in filter(subject.fits, mechanisms):
                yield from _arms(subject, key, mechanism, labels, options)


def _arms(
    subject: Subject, key: Mapping[str, Any], mechanism: Mechanism, labels: int, options: Options
) -> Iterator[Work]:
    """List what a mechanism compares; arms that several share have the same key."""
    for under in ["", options.attack] if mechanism.attacked else [""]:
        for arm in (mechanism.without, mechanism.within):
            for seed in range(options.first_seed, options.first_seed + options.seeds):
                name = f"{subject.case.name}: {arm.terms}, {labels} labels, seed {seed}"
                place = {"arm": asdict(arm), "labels": labels, "seed": seed}
                yield Work(
                    f"{name} {under}".strip(),
                    {**key, "what": "executor", **place, "under": under},
                    partial(subject.executor, arm, labels, seed, under),
                )


def mechanisms_of(options: Options) -> tuple[Mechanism, ...]:
    """Give the mechanisms asked for, or pairs of the terms to compare.

    Raises:
        ConfigError: If a name is unknown, or terms cannot be read.
    """
    if not options.compare:
        return find_mechanisms(options.mechanisms)
    if options.mechanisms or len(options.compare) < 2:
        raise ConfigError(
            "--compare takes two sums of terms or more, and the place of --mechanisms."
        )
    for terms in options.compare:
        parse_terms(terms)
    first, *rest = options.compare
    return tuple(
        Mechanism(
            terms,
            f"{terms}, not {first}",
            Arm(first, reuse=options.reuse),
            Arm(terms, reuse=options.reuse),
        )
        for terms in rest
    )


def changes(options: Options, results: Sequence[Result]) -> Iterator[dict[str, Any]]:
    """Compare the arms of each mechanism, of those whose seeds are all measured."""
    for (planner,), own in grouped(results, "planner").items():
        by = grouped(own, "what")
        if ("planner",) not in by or ("random",) not in by:
            continue
        best, floor = (by[what,][0]["return"] for what in ("planner", "random"))
        if best == floor:
            raise ConfigError(f"{planner} returns as much as random play.")
        runs = {
            (_place(r["arm"]), r["labels"], r["under"], r["seed"]): r
            for r in by.get(("executor",), [])
        }
        for labels, mechanism, under in product(
            options.labels, mechanisms_of(options), ("", options.attack)
        ):
            pair = _pair(runs, mechanism, labels, under, options)
            if pair is None:
                continue
            without, within = (
                [(r["return"] - floor) / (best - floor) for r in each] for each in pair
            )
            change = paired([b - a for a, b in zip(without, within, strict=True)])
            yield {
                "planner": planner,
                "mechanism": mechanism.name,
                "about": mechanism.about,
                "under": under,
                "labels": [each[0]["asked"] for each in pair],
                "steps": [each[0]["steps"] for each in pair],
                "without": without,
                "with": within,
                "change": change.mean,
                "change_interval": [change.low, change.high],
            }


def paired(differences: Sequence[float], confidence: float = 0.95) -> Interval:
    """Estimate the mean of differences between pairs, with Student's interval.

    Of a few pairs a bootstrap never leaves their range; Student's t does, which supposes that
    differences are about normal. Differences that are all equal give an interval without width.

    Raises:
        ConfigError: If the confidence is not between 0 and 1.
    """
    check_range("confidence", confidence, above=0, below=1)
    if not differences:
        return Interval(math.nan, math.nan, math.nan, "There are no pairs.")
    sample = np.asarray(differences, np.float64)
    mean = float(sample.mean())
    if not math.isfinite(mean):
        return Interval(mean, math.nan, math.nan, "A value is NaN or infinite.")
    if len(sample) == 1:
        return Interval(mean, math.nan, math.nan, "One pair has no interval.")
    error = stats.sem(sample)
    half = float(stats.t.ppf(0.5 + confidence / 2, len(sample) - 1) * error)
    return Interval(mean, mean - half, mean + half)


def _place(arm: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(arm.values())


def _pair(
    runs: Mapping[Any, Result], mechanism: Mechanism, labels: int, under: str, options: Options
) -> list[list[Result]] | None:
    """Find all seeds of both arms; None if one is missing."""
    if under and not mechanism.attacked:
        return None
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    found = [
        [runs.get((_place(asdict(arm)), labels, under, seed)) for seed in seeds]
        for arm in (mechanism.without, mechanism.within)
    ]
    pair = [[each for each in arm if each is not None] for arm in found]
    return pair if all(len(arm) == len(seeds) for arm in pair) else None


def _name(row: Result) -> str:
    return str(row["mechanism"]) + (f" under {row['under']}" if row["under"] else "")


def _asked(row: Result) -> str:
    """Say how often the planner was asked, of both arms where they differ."""
    first, second = row["labels"]
    # A tick of all environments may go beyond the budget by a few.
    same = 0.9 < second / first < 1.1
    return f"{first:,}" + ("" if same else f" / {second:,}")


def _interval(row: Result) -> str:
    low, high = row["change_interval"]
    return "" if np.isnan(low) else f"{low:+.3f} … {high:+.3f}"


COLUMNS = [
    Column("mechanism", _name),
    Column("labels", _asked),
    Column("without", lambda row: float(np.mean(row["without"])), ".3f"),
    Column("with", lambda row: float(np.mean(row["with"])), ".3f"),
    Column("change", "change", "+.3f"),
    Column("95 %", _interval),
]
_CAPTION = "Retention: 0 is random actions, 1 the planner. Paired by seeds."


def findings(options: Options, results: Sequence[Result]) -> Findings:
    """Show each planner's table, and all changes in one plot."""
    found = list(changes(options, results))
    sections = [
        Section(name, "", table(COLUMNS, rows))
        for (name,), rows in grouped(found, "planner").items()
    ]
    series = tuple(
        Series(
            f"{row['planner']} {_name(row)} {row['labels'][0]:,}",
            [b - a for a, b in zip(row["without"], row["with"], strict=True)],
            [row["change"]],
            *([end] for end in row["change_interval"]),
        )
        for row in found
    )
    note = "A dot is a seed; the diamond is the mean, the bar its 95 % interval."
    label = "retention with, minus without"
    plot = Plot("Change of retention", label, "", series, note, kind="rows")
    if found:
        sections.append(Section("All changes", _CAPTION, None, (plot,)))
    verdict = _CAPTION if found else "No mechanism fits these planners."
    return Findings(sections, verdict, data={"changes": found})


def brief(result: Result) -> str:
    """Give the mean return."""
    return f"return {result['return']:,.1f}"


BENCHMARK = Benchmark(
    "mechanisms",
    works,
    findings,
    brief,
    (*CHOOSING, "mechanisms", "compare", "labels", "seeds", "first_seed"),
)
run = BENCHMARK.run
