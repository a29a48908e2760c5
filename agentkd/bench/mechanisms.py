"""With and without: what a mechanism of distillation changes, all else being equal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np

from agentkd.bench.suite import Case
from agentkd.distillation.asking import Ask
from agentkd.distillation.source import CollectionOptions
from agentkd.environments import look_at
from agentkd.errors import ConfigError, did_you_mean
from agentkd.executors.executor import Executor
from agentkd.measure.agreement import Sample
from agentkd.measure.evaluate import evaluate, evaluate_random
from agentkd.measure.intervals import Interval, paired
from agentkd.planners import load_planner
from agentkd.report.rows import Rows
from agentkd.types import Floats, Kind

if TYPE_CHECKING:
    from agentkd.measure.attack import Attack

_ENVIRONMENTS = 4
"""Few, so that an executor drives early: the first does after 32 ticks."""
_CHOICES: tuple[Kind, ...] = ("categorical", "qvalues", "multicategorical", "bernoulli")
_BOXES: tuple[Kind, ...] = ("gaussian", "squashed", "point")
_ANY = _CHOICES + _BOXES


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to distil.

    Attributes:
        terms: What is minimised.
        ask: Which states the planner is asked about.
        ask_share: The share of them.
        votes: How often a black box is asked about each; None to see it all.
        vote_noise: How far off, in units of the states' spread.
        fewer: What the labels are divided by, where each is dearer.
        reuse: Gradient steps for each label, in units of what they are by default.
        together: Whether all planners for the environment are one ensemble.
        boxes: How their actions in a box become one.
    """

    terms: str = "match"
    ask: Ask = "all"
    ask_share: float = 0.25
    votes: int | None = None
    vote_noise: float = 0.0
    fewer: int = 1
    reuse: float = 1.0
    together: bool = False
    boxes: Literal["moments", "mixture"] = "moments"


@dataclass(frozen=True, slots=True)
class Mechanism:
    """Two ways to distil that differ in one thing.

    Attributes:
        name: What it is called.
        about: What differs.
        without: Without it.
        within: With it.
        kinds: Of planners' answers that it is for.
        attacked: Whether it is for observations that are off, and measured so too.
    """

    name: str
    about: str
    without: Arm
    within: Arm
    kinds: tuple[Kind, ...] = _ANY
    attacked: bool = False


_HARD = Arm("hard")
_MATCH = Arm()
MECHANISMS: tuple[Mechanism, ...] = (
    Mechanism("soft", "probabilities, not the best choice", _HARD, _MATCH, _CHOICES),
    Mechanism("auto", "tau by entropy", _MATCH, Arm("soft:tau=auto"), _CHOICES),
    Mechanism(
        "gaps",
        "tau in gaps, not absolute",
        Arm("soft:tau=1,unit=absolute"),
        Arm("soft:tau=0.3,unit=gap"),
        ("qvalues",),
    ),
    Mechanism(
        "sides",
        "tau on both sides, not the planner's",
        Arm("soft:tau=2,sides=planner"),
        Arm("soft:tau=2,sides=both"),
        _CHOICES,
    ),
    Mechanism("mixture", "hard labels mixed in", _MATCH, Arm("0.7 soft + 0.3 hard"), _CHOICES),
    Mechanism("smoothing", "smoothed hard labels", _HARD, Arm("hard:smoothing=0.1"), _CHOICES),
    Mechanism("votes", "8 votes near by, same labels", Arm(votes=1), Arm(votes=8, vote_noise=0.1)),
    Mechanism(
        "votes-dear",
        "8 votes near by, same queries",
        Arm(votes=1),
        Arm(votes=8, vote_noise=0.1, fewer=8),
    ),
    Mechanism("ensemble", "all planners of the place", _MATCH, Arm(together=True)),
    Mechanism(
        "modes",
        "their mixture's mode, not its mean",
        Arm(together=True),
        Arm(together=True, boxes="mixture"),
        _BOXES,
    ),
    Mechanism("huber", "large errors on a line", _MATCH, Arm("action:huber=0.5"), _BOXES),
    Mechanism(
        "precision",
        "errors in the planner's spread",
        _MATCH,
        Arm("action:compare=precision"),
        ("gaussian",),
    ),
    Mechanism(
        "pre-tanh", "errors before tanh", _MATCH, Arm("action:compare=pre-tanh"), ("squashed",)
    ),
    Mechanism("adversarial", "a discriminator beside", _MATCH, Arm("match + 0.1 adversarial")),
    Mechanism("ask-random", "a quarter asked, by chance", _MATCH, Arm(ask="random")),
    Mechanism("ask-uncertain", "a quarter, unsure", _MATCH, Arm(ask="uncertain"), _CHOICES),
    Mechanism("ask-novel", "a quarter, far from asked", _MATCH, Arm(ask="novel")),
    Mechanism("ask-disagreement", "a quarter, in dispute", _MATCH, Arm(ask="disagreement")),
    Mechanism("reuse", "labels used 4 times as often", _MATCH, Arm(reuse=4.0)),
    Mechanism(
        "augment",
        "labels hold for noisy states, too",
        _MATCH,
        Arm("0.5 match + 0.5 robust:by=noise,eps=0.05"),
        attacked=True,
    ),
    Mechanism(
        "robust",
        "labels hold for the worst near by",
        _MATCH,
        Arm("0.5 match + 0.5 robust:by=pgd,eps=0.1"),
        attacked=True,
    ),
    Mechanism("smooth", "a small Jacobian", _MATCH, Arm("match + 0.01 smooth"), attacked=True),
)


def find_mechanisms(names: Sequence[str]) -> tuple[Mechanism, ...]:
    """Give mechanisms by their names, all if there is none.

    Raises:
        ConfigError: If a name is unknown.
    """
    known = {each.name: each for each in MECHANISMS}
    for name in names:
        if name not in known:
            raise ConfigError(f"No mechanism {name!r}.{did_you_mean(name, known)}")
    return tuple(known[name] for name in names) if names else MECHANISMS


@dataclass(frozen=True, slots=True)
class Difference:
    """What a mechanism changed on a planner.

    Attributes:
        mechanism: Which.
        case: The planner.
        labels: The budget.
        under: The attack, "" for none.
        without: Retention of each seed without it.
        within: The same with it.
        change: The mean of their differences, seed by seed, with its interval.
        counts: Labels and gradient steps without it, and with it.
    """

    mechanism: Mechanism
    case: Case
    labels: int
    under: str
    without: tuple[float, ...]
    within: tuple[float, ...]
    change: Interval
    counts: tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Setting:
    """What all arms have in common.

    Attributes:
        executor: The architecture.
        seeds: Of the distillations.
        episodes: Of each measurement.
        eval_seed: The first episode's seed.
        attack: What observations are attacked with, where a mechanism is for that.
    """

    executor: str
    seeds: tuple[int, ...]
    episodes: int
    eval_seed: int
    attack: Attack


@dataclass(frozen=True, slots=True)
class _Made:
    executor: Executor
    labels: int
    steps: int


@final
class Bench:
    """One planner, and every executor that was distilled from it so far.

    Arms that several mechanisms share are distilled once.

    Args:
        case: The planner.
        others: References of other planners for its environment.
        setting: What all arms have in common.
        rows: Where results are kept, and those of an earlier run found.
    """

    def __init__(
        self, case: Case, others: Sequence[str], setting: Setting, rows: Rows | None = None
    ) -> None:
        """Load and measure the planner."""
        from agentkd.distillation.loop import kind_of_planner
        from agentkd.measure.attack import units

        self.case, self.setting = case, setting
        self._others = tuple(others)
        self._spec, probe = look_at(case.env)
        self._planner = load_planner(case.planner, self._spec)
        self.kind = kind_of_planner(self._planner, self._spec, probe)
        sample = Sample()
        measure = self._measure()
        reached = evaluate(
            case.env, self._planner.policy, spec=self._spec, visited=sample, **measure
        )
        self._unit: Floats = units(sample.obs, self._spec.obs)
        self.planner = float(np.mean(reached.returns))
        floor = evaluate_random(case.env, **measure)
        self.random = float(np.mean(floor.returns))
        if self.planner == self.random:
            raise ConfigError(f"{case.name} returns as much as random play.")
        self._made: dict[tuple[Arm, int, int], _Made] = {}
        self._found: dict[tuple[Arm, int, int, str], dict[str, Any]] = {}
        self._rows = rows or Rows(None)
        self._origin = {
            "planner": case.planner,
            "digest": self._planner.digest,
            "others": list(others),
            "env": case.env,
            "executor": setting.executor,
            "attack": asdict(setting.attack),
            **measure,
        }

    def _measure(self) -> Mapping[str, Any]:
        return {"episodes": self.setting.episodes, "seed": self.setting.eval_seed}

    def fits(self, mechanism: Mechanism) -> bool:
        """Whether the mechanism is for such a planner."""
        arms = mechanism.without, mechanism.within
        if any(arm.together for arm in arms) and not self._others:
            return False
        return self.kind in mechanism.kinds

    def compare(
        self, mechanism: Mechanism, labels: int, watch: Callable[[str], None]
    ) -> list[Difference]:
        """Distil with and without, seed by seed, and measure on the same episodes.

        Args:
            mechanism: What differs.
            labels: The budget.
            watch: Told what is done next.
        """
        unders = ["", self.setting.attack.by] if mechanism.attacked else [""]
        found = []
        for under in unders:
            arms = mechanism.without, mechanism.within
            measured = [
                [self._measured(arm, labels, seed, under, watch) for seed in self.setting.seeds]
                for arm in arms
            ]
            kept = [tuple(map(self._retention, each)) for each in measured]
            change = paired([b - a for a, b in zip(*kept, strict=True)])
            counts = [(each[0]["labels"], each[0]["steps"]) for each in measured]
            found.append(
                Difference(
                    mechanism=mechanism,
                    case=self.case,
                    labels=labels,
                    under=under,
                    without=kept[0],
                    within=kept[1],
                    change=change,
                    counts=(counts[0], counts[1]),
                )
            )
        return found

    def _measured(
        self, arm: Arm, labels: int, seed: int, under: str, watch: Callable[[str], None]
    ) -> dict[str, Any]:
        """Give the return of an arm's executor, and its labels and gradient steps."""
        place = arm, labels, seed, under
        if place not in self._found:
            key = {"arm": asdict(arm), "labels": labels, "seed": seed, "under": under}
            self._found[place] = self._rows.once(
                {**key, **self._origin}, lambda: self._lived(*place, watch)
            )
        return self._found[place]

    def _lived(
        self, arm: Arm, labels: int, seed: int, under: str, watch: Callable[[str], None]
    ) -> dict[str, Any]:
        from agentkd.measure.attack import Attacked

        key = arm, labels, seed
        if key not in self._made:
            watch(f"distilling {arm.terms}, {labels} labels, seed {seed}")
            self._made[key] = self._distil(arm, labels, seed)
        made = self._made[key]
        watch(f"measuring {arm.terms}, seed {seed} {under}")
        policy: Any = made.executor.policy
        if under:
            policy = Attacked(policy, self.setting.attack, self._unit, seed)
        got = evaluate(self.case.env, policy, spec=self._spec, **self._measure())
        reached = float(np.mean(got.returns))
        return {"return": reached, "labels": made.labels, "steps": made.steps}

    def _retention(self, measured: Mapping[str, Any]) -> float:
        apart = self.planner - self.random
        return float((measured["return"] - self.random) / apart)

    def _distil(self, arm: Arm, labels: int, seed: int) -> _Made:
        from agentkd.distillation.distiller import DistillerOptions
        from agentkd.distillation.loop import Budget, distill

        refs = self.case.planner, *(self._others if arm.together else ())
        planner = load_planner(
            refs if arm.together else self.case.planner,
            self._spec,
            boxes=arm.boxes,
            votes=arm.votes,
            vote_noise=arm.vote_noise,
        )
        count = max(1, labels // arm.fewer)
        budget = Budget(labels=count)
        if arm.reuse != 1.0:
            again = arm.reuse * budget.ratio
            budget = Budget(labels=count, steps_per_label=again)
        way = CollectionOptions(
            environments=_ENVIRONMENTS,
            halving=max(1, count // 4),
            ask=arm.ask,
            ask_share=arm.ask_share,
        )
        result = distill(
            self.case.env,
            planner,
            self.setting.executor,
            budget=budget,
            seed=seed,
            options=DistillerOptions(seed=seed, terms=arm.terms),
            collection=way,
        )
        if result.interrupted and not result.fault:
            raise KeyboardInterrupt
        return _Made(result.executor, result.labels, result.steps)
