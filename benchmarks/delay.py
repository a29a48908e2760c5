"""What a planner's delay costs: one planner, several ways to live with it.

A delay of d ticks means that a decision about the observation of tick t is there at tick t + d. As
in Riemer et al. (2025, arXiv 2412.14355) and Ramstedt and Pal (2019):

* async: a decision every tick, each about what was observed d ticks before, as d + 1 staggered
  planners would give them; the default action until the first one.
* sequential: the next question is put when the answer is there, so that there is one decision in d
  + 1 ticks. Meanwhile the last action goes on (repeat), or the default (noop).
* runtime: the planner is d ticks late and the executor acts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal, final

import numpy as np

from agentkd import dists
from agentkd.distillation.run import Budget
from agentkd.errors import ConfigError, EpisodeError
from agentkd.executors.acting import default_action
from agentkd.executors.executor import Executor
from agentkd.measure.evaluate import Lockstep
from agentkd.measure.live import Setting, live
from agentkd.report.model import Plot, Section, Series
from agentkd.spec import Spec
from agentkd.types import Actions, Floats, Policy
from benchmarks.planners import CHOOSING, Case, Planners, kept_executor, random_returns
from benchmarks.runner import Benchmark, Findings, Result, Work, grouped, pivot

Way = Literal["async", "repeat", "noop", "runtime"]
_MAX_STEPS = 100_000
_COPIES = 32
_FLAT = 0.95


@dataclass(frozen=True, kw_only=True)
class Options(Planners):
    """Delay planners by 0 to 8 ticks and see what their returns become.

    An executor is distilled from each planner first. Then each way to live with a delay lives the
    same episodes: a decision every tick about what was observed d ticks before (async); one
    decision in d + 1 ticks, with the last action or the default meanwhile (repeat, noop); and the
    runtime, in which the executor acts while the planner is late. Time is counted in ticks, so the
    table is the same on every machine; what is distilled in a number of seconds is not.

    Example: python -m benchmarks delay --planners DIR --out runs/delay
    """

    delays: tuple[int, ...] = (0, 1, 2, 3, 5, 8)
    """Delays in ticks."""
    episodes: int = 20
    """Episodes of each way and delay."""
    seed: int = 1000
    """Episode i is reset with seed + i."""
    executor: str = "mlp:64,64"
    """The architecture to distil."""
    distil_seconds: float = 60.0
    """How long each executor is distilled."""
    ways: tuple[Way, ...] = ("async", "repeat", "noop", "runtime")
    """Which ways."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A planner, where it acts, and the executor distilled from it.

    Attributes:
        env: The environment's name.
        policy: The planner.
        executor: The executor; None where nobody needs it.
        spec: The environment's.
    """

    env: str
    policy: Any
    executor: Executor | None
    spec: Spec


@final
class _Delayed:
    """Chooses as a planner does whose decisions come late."""

    def __init__(self, policy: Policy, lockstep: Lockstep, delay: int, way: Way) -> None:
        self._policy, self._lockstep = policy, lockstep
        self._delay, self._way = delay, way
        action = lockstep.spec.action
        self._default = np.asarray(default_action(action))
        rows = len(lockstep.rows)
        size = lockstep.spec.obs.size
        self._past = np.zeros((rows, delay + 1, size), np.float32)
        self._tick = [0] * rows
        self._last: list[Any] = [self._default] * rows

    def begin(self, row: int) -> None:
        """Forget, where an episode begins."""
        self._tick[row] = 0
        self._last[row] = self._default

    def __call__(self, obs: Floats, live: list[int]) -> Actions | Sequence[Any]:
        """Give the actions of the rows that are alive."""
        due, about = [], []
        for place, row in enumerate(live):
            tick = self._tick[row]
            self._past[row, tick % (self._delay + 1)] = obs[place]
            self._tick[row] = tick + 1
            seen = self._about(tick)
            if seen is not None:
                due.append(row)
                about.append(self._past[row, seen % (self._delay + 1)])
        decided: dict[int, Any] = {}
        if due:
            answer = self._policy(np.stack(about))
            dists.check(answer, self._lockstep.spec.action, len(due))
            actions = dists.mode(answer, self._lockstep.spec.action)
            decided = dict(zip(due, actions, strict=True))
        return [self._action(row, decided) for row in live]

    def _about(self, tick: int) -> int | None:
        """The tick whose observation is decided on now, None for none."""
        if tick < self._delay:
            return None
        if self._way == "async" or (tick + 1) % (self._delay + 1) == 0:
            return tick - self._delay
        return None

    def _action(self, row: int, decided: dict[int, Any]) -> Any:
        if row in decided:
            self._last[row] = decided[row]
            return decided[row]
        return self._default if self._way == "noop" else self._last[row]


def delayed(
    subject: Subject, way: Way, delay: int, *, episodes: int, seed: int
) -> tuple[float, ...]:
    """Live some episodes with a delay, and return their returns.

    Args:
        subject: Who acts where.
        way: How the delay is lived with.
        delay: In ticks.
        episodes: How many.
        seed: Episode i is reset with seed + i.

    Raises:
        ConfigError: If a planner with a memory is to be asked about part of what it sees.
        EpisodeError: If the environment raises.
    """
    if hasattr(subject.policy, "initial_state"):
        raise ConfigError("The planner has a memory; the delay table needs one without.")
    if way == "runtime":
        return _lived(subject, delay, episodes=episodes, seed=seed)
    copies = min(_COPIES, episodes)
    lockstep = Lockstep(subject.env, episodes, seed, subject.spec, _MAX_STEPS, copies)
    with lockstep:
        chooser = _Delayed(subject.policy, lockstep, delay, way)
        return lockstep.run(chooser, None, None).returns


def _lived(subject: Subject, delay: int, *, episodes: int, seed: int) -> tuple[float, ...]:
    setting = Setting(
        env=subject.env,
        hz=50.0,
        clock="virtual",
        latency=delay,
        budget=0.0,
        ticks=None,
        seconds=None,
        episodes=episodes,
        seed=seed,
    )
    assert subject.executor is not None
    found = asyncio.run(live(setting, "runtime", subject.executor, subject.policy))
    if found.fault:
        raise EpisodeError(found.fault)
    if found.interrupted:
        raise KeyboardInterrupt
    return found.result.returns


def works(options: Options) -> Iterator[Work]:
    """List random actions, and each way and delay, of each planner."""
    if options.episodes < 1 or options.seed < 0 or not options.distil_seconds > 0:
        raise ConfigError("--episodes at least 1, --seed at least 0, --distil-seconds above 0.")
    if min(options.delays, default=-1) < 0:
        raise ConfigError("--delays: at least one, none below 0.")
    measure = {"episodes": options.episodes, "seed": options.seed}

    # Distilled when it is first needed: all else may be known from an earlier run.
    @cache
    def executor(case: Case) -> Executor:
        budget = Budget(seconds=options.distil_seconds)
        return kept_executor(case, options.executor, budget, options.out)

    def lived(case: Case, way: Way, delay: int) -> dict[str, Any]:
        known, spec = case.load()
        acts = executor(case) if way == "runtime" else None
        subject = Subject(case.env, known.policy, acts, spec)
        return {"returns": delayed(subject, way, delay, **measure)}

    for case in options.chosen():
        key = case.key()
        random = partial(random_returns, case.env, **measure)
        place: dict[str, Any] = {"way": "random", "delay": None}
        yield Work(f"{case.name}: random actions", {**key, **place}, random)
        for way in options.ways:
            for delay in options.delays:
                yield Work(
                    f"{case.name}: {way}, delay {delay}",
                    {**key, "way": way, "delay": delay},
                    partial(lived, case, way, delay),
                )


def findings(options: Options, results: Sequence[Result]) -> Findings:
    """Show a table and a plot for each planner, and whether the runtime is flat."""
    sections, verdicts = [], []
    for (planner,), each in grouped(results, "planner").items():
        means = {(r["way"], r["delay"]): float(np.mean(r["returns"])) for r in each}
        random = means.pop(("random", None))
        delays = [d for d in options.delays if any((w, d) in means for w, _ in means)]
        ways = list(dict.fromkeys(way for way, _ in means))
        heads = {d: f"d={d}" for d in delays}
        series = tuple(
            Series(way, delays, [means.get((way, d), np.nan) for d in delays]) for way in ways
        )
        note = "Each point is the mean over the same episodes."
        plot = Plot(planner, "delay in ticks", "return", series, note)
        caption = f"Random actions: {random:.1f}."
        shown = pivot("way", means, heads, ".1f", caption)
        sections.append(Section(planner, "", shown, (plot,)))
        verdicts += _verdict(planner, means, random)
    return Findings(sections, "\n".join(verdicts))


def _verdict(planner: str, means: Mapping[tuple[str, int], float], random: float) -> list[str]:
    """Say what the runtime keeps of the best without delay, above random actions."""
    found = {d: mean for (way, d), mean in means.items() if way == "runtime"}
    best = max((mean for (_, d), mean in means.items() if d == 0), default=random)
    if not found or best == random:
        return []
    least = min((mean - random) / (best - random) for mean in found.values())
    flat = "flat" if least >= _FLAT else f"below {_FLAT:g}"
    kept = f"the runtime keeps at least {least:.3f} of d=0 up to d={max(found)}"
    return [f"{planner}: {kept} ({flat})."]


def brief(result: Result) -> str:
    """Give the mean return."""
    return f"return {np.mean(result['returns']):,.1f}"


BENCHMARK = Benchmark("delay", works, findings, brief, (*CHOOSING, "delays", "ways"))
run = BENCHMARK.run
