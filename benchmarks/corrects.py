"""Rows that come late into a world of chance: correct them, or remember?

The planner of a cheetah answers d ticks late, with rows for the states to which an exact model says
the executor comes. Actions have noise, so that these are not the states that it comes to. An
executor that sees positions alone may be told the row, its age, what was predicted and how far that
was missed, and correct it; or have a memory, from which it knows its velocities itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from agentkd import dists, load_planner
from agentkd.distillation import Distiller, DistillerOptions
from agentkd.environments import look_at
from agentkd.errors import ConfigError, did_you_mean
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor, distribution
from agentkd.measure.intervals import mean_interval
from agentkd.planners.search.worlds import Doubles
from agentkd.report.model import Section
from agentkd.spec import BoxSpec, ObsSpec, Part, Spec
from agentkd.types import Floats, Point
from benchmarks.runner import Benchmark, Column, Findings, Place, Result, Work, grouped, table
from policies.mpc import half_cheetah_world

_ENV = "HalfCheetah-v5"
_OBS, _POSITIONS, _ACTIONS = 17, 8, 6
_ROW, _AGE, _PREDICTED, _MISSED = slice(17, 23), 23, slice(24, 41), slice(41, 58)
_SIZE = 58
_OLDEST = 16.0
"""The ticks that stand for an age of 1; no row has the age -1."""
_WORLDS, _FIRST, _EPISODE, _BY_PLANNER = 8, 200, 500, 0.1
"""Of each delay while labels are made: worlds, ticks that the planner drives, ticks of an episode,
and the share of episodes that the planner drives after."""
_EVERY = 10
_EXECUTOR = "mlp:64,64"


@dataclass(frozen=True, slots=True)
class Arm:
    """Who acts.

    Attributes:
        sees: What of a whole row, as `agentkd.views` reads it; "" for who does not learn.
        architecture: Of the executor.
        residual: Whether what it gives is added to the planner's row.
        own: Whether the model lets it act after the answer has come; the planner, if not.
    """

    sees: str = ""
    architecture: str = _EXECUTOR
    residual: bool = False
    own: bool = True

    @property
    def told(self) -> bool:
        """Whether it sees more than positions."""
        return "," in self.sees.replace(",stack", "")


ARMS: Mapping[str, Arm] = {
    "planner, never late": Arm(),
    "rows alone": Arm(residual=True),
    "positions": Arm("0:8"),
    "positions, stack:3": Arm("0:8,stack:3"),
    "positions, gru:32": Arm("0:8", "gru:32"),
    "+ row, age": Arm("0:8,17:24"),
    "+ row, age, missed": Arm("0:8,17:24,41:49"),
    "+ row, age, predicted, missed": Arm("0:8,17:24,24:41,41:49"),
    "row, age, predicted": Arm("0:8,17:24,24:41"),
    "row, age, predicted, planner's": Arm("0:8,17:24,24:41", own=False),
    "row, age, predicted, planner's, stack:3": Arm("0:8,17:24,24:41,stack:3", own=False),
    "the same, residual": Arm("0:8,17:24,24:41,41:49", residual=True),
    "the same, stack:3": Arm("0:8,17:24,24:41,41:49,stack:3"),
    "the same, gru:32": Arm("0:8,17:24,24:41,41:49", "gru:32"),
}
_NEVER, _ALONE, _PLAIN = list(ARMS)[:3]


@dataclass(frozen=True, kw_only=True)
class Options(Place):
    """Compare executors that correct late rows with those that remember, velocities hidden.

    HalfCheetah-v5 with noise on every action. The planner sees all and is d ticks late, is asked
    every d + 1 ticks, and its rows are for the states to which an exact model says that the
    executor itself comes. Each executor learns from labels of states that it came to (DAgger),
    half of them at each delay; all from equally many labels and gradient steps.

    Example: python -m benchmarks corrects --planners PLANNERS --seeds 0 1
    """

    planners: Path
    """The folder of saved planners, with sac-HalfCheetah-v5 and tqc-HalfCheetah-v5 in it."""
    only: tuple[str, ...] = ("sac-HalfCheetah-v5", "tqc-HalfCheetah-v5")
    """Which planners."""
    arms: tuple[str, ...] = tuple(ARMS)
    """Who acts."""
    delays: tuple[int, ...] = (2, 4)
    """Ticks until an answer."""
    noise: float = 0.1
    """The standard deviation of what is added to each action, in its units of ±1."""
    labels: int = 64_000
    """Labels from which each executor learns."""
    steps: int = 12_000
    """Gradient steps."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of training."""
    episodes: int = 10
    """Episodes of 1,000 ticks at each delay."""


def works(options: Options) -> Iterator[Work]:
    """List the arms of each planner and seed."""
    for name in options.arms:
        if name not in ARMS:
            raise ConfigError(f"No arm {name!r}.{did_you_mean(name, ARMS)}")
    if min((options.labels, options.steps, options.episodes, *options.delays)) < 1:
        raise ConfigError("--labels, --steps, --episodes and --delays: at least 1.")
    for planner in options.only:
        for seed in options.seeds:
            for arm in options.arms:
                if seed != options.seeds[0] and not ARMS[arm].sees:
                    continue  # nothing is learnt
                key = {"planner": planner, "seed": seed, "arm": arm}
                measure = partial(_measure, options, planner, ARMS[arm], seed)
                yield Work(f"{planner}, seed {seed}: {arm}", key, measure)


@dataclass(slots=True)
class _Rows:
    """Rows for many worlds, (n, rows, …), from one tick on; `valid` (n,) where there are any."""

    origin: int
    rows: Floats
    seen: Floats
    valid: NDArray[np.bool_]


@final
class Crowd:
    """Cheetahs in lock-step, whose planner is `late` ticks late, 0 for nobody who asks.

    Attributes:
        obs: What the planner sees, (n, 17).
        driven: Whom the planner drives, (n,).
    """

    def __init__(self, actor: Actor, count: int, late: int, noise: float, seed: int) -> None:
        self.actor, self.late, self._noise = actor, late, noise
        self._world = half_cheetah_world()
        self._random = np.random.default_rng(seed)
        self.states: Doubles = np.stack([self._begin() for _ in range(count)])
        self.obs = self._world.observe(self.states)
        self.driven = np.zeros(count, bool)
        self._memory = actor.memory(count)
        self._next = self._memory
        self._tick = 0
        self._now: _Rows | None = None
        self._coming: _Rows | None = None

    def _begin(self) -> Doubles:
        """Draw a state as the environment does."""
        draw = self._random
        obs = np.concatenate([draw.uniform(-0.1, 0.1, 8), 0.1 * draw.standard_normal(9)])
        return self._world.restore(obs.astype(np.float32))

    def look(self) -> Floats:
        """Return what executors are told at this tick, (n, 58), after asking the planner."""
        late = self.late
        if late and self._tick % (late + 1) == 0:
            self._coming = self._foreseen()
        if self._coming is not None and self._tick == self._coming.origin + late:
            self._now, self._coming = self._coming, None
        return _told(self.obs, self._now, self._tick)

    def _foreseen(self) -> _Rows:
        """Return the planner's rows for the states to which the model comes."""
        late, count = self.late, len(self.obs)
        rows = np.zeros((count, 2 * late + 1, _ACTIONS), np.float32)
        seen = np.zeros((count, 2 * late + 1, _OBS), np.float32)
        coming = _Rows(self._tick, rows, seen, np.ones(count, bool))
        states, memory = self.states, self._memory
        for step in range(2 * late + 1):
            seen[:, step] = obs = self._world.observe(states)
            rows[:, step] = self.actor.planner(obs)
            if step < 2 * late:
                serving = self._now if step < late else coming
                told = _told(obs, serving, self._tick + step)
                actions, memory = self.actor.act(told, memory)
                if step >= late and not self.actor.arm.own:
                    actions = rows[:, step].copy()
                actions[self.driven] = rows[self.driven, step]
                states = self._world.step(states, actions.astype(float))[1]
        return coming

    def act(self, told: Floats) -> Floats:
        """Return the actions, (n, 6)."""
        actions, self._next = self.actor.act(told, self._memory)
        if self.driven.any():
            actions[self.driven] = self.actor.planner(self.obs[self.driven])
        return actions

    def step(self, actions: Floats) -> Doubles:
        """Act, and return the rewards, (n,)."""
        noise = self._noise * self._random.standard_normal(actions.shape)
        rewards, self.states, _ = self._world.step(self.states, np.clip(actions + noise, -1, 1))
        self.obs = self._world.observe(self.states)
        self._memory = self._next
        self._tick += 1
        return rewards

    def reset(self, index: int) -> None:
        """Begin an episode in one world."""
        self.states[index] = self._begin()
        self.obs = self._world.observe(self.states)
        self._memory[index] = 0.0
        for rows in (self._now, self._coming):
            if rows is not None:
                rows.valid[index] = False


def _told(obs: Floats, rows: _Rows | None, tick: int) -> Floats:
    """Lay out what executors are told, (n, 58)."""
    told = np.zeros((len(obs), _SIZE), np.float32)
    told[:, :_OBS] = obs
    told[:, _AGE] = -1.0
    if rows is not None:
        age, valid = tick - rows.origin, rows.valid
        told[valid, _ROW] = rows.rows[valid, age]
        told[valid, _AGE] = age / _OLDEST
        told[valid, _PREDICTED] = rows.seen[valid, age]
        told[valid, _MISSED] = obs[valid] - rows.seen[valid, age]
    return told


@final
class Actor:
    """A planner, and who acts by its rows or without them."""

    def __init__(self, arm: Arm, ref: str, seed: int) -> None:
        spec, _ = look_at(_ENV)
        self._planner, self.arm = load_planner(ref, spec), arm
        obs = ObsSpec((Part("", "box", (_SIZE,), "float32"),))
        far = 2.0 if arm.residual else 1.0
        box = spec.action
        assert isinstance(box, BoxSpec)
        box = replace(box, low=(-far,) * _ACTIONS, high=(far,) * _ACTIONS)
        self._spec = Spec(obs, box)
        self.executor: Executor | None = None
        self._seed = seed

    def distiller(self, options: DistillerOptions) -> Distiller:
        """Make the distiller of the arm's executor."""
        arm = self.arm
        first = initial(arm.architecture, self._spec, seed=self._seed, sees=arm.sees)
        self.executor = first
        return Distiller(first, options)

    def planner(self, obs: Floats) -> Floats:
        """Return the planner's actions at observations (n, 17): (n, 6)."""
        policy: Any = self._planner.policy
        actions: Floats = dists.mode(policy(obs), self._planner.spec.action)
        return actions

    def memory(self, count: int) -> Floats:
        """Return what is remembered at the beginning, (n, memory)."""
        return np.zeros((count, self.executor.memory if self.executor else 0), np.float32)

    def label(self, told: Floats, wanted: Floats) -> Point:
        """Return what the executor has to give for the planner's actions."""
        return Point(wanted - told[:, _ROW] if self.arm.residual else wanted)

    def act(self, told: Floats, memory: Floats) -> tuple[Floats, Floats]:
        """Return the actions, (n, 6), and what is remembered then."""
        if self.executor is None:
            if self.arm.residual:
                return told[:, _ROW].copy(), memory
            return self.planner(told[:, :_OBS]), memory
        outputs, memory = self.executor.advance(told, memory)
        answer = distribution(self.executor.head, outputs, self.executor.spec)
        actions: Floats = dists.mode(answer, self.executor.spec.action)
        if self.arm.residual:
            actions = actions + told[:, _ROW]
        return np.clip(actions, -1.0, 1.0), memory


def _measure(options: Options, planner: str, arm: Arm, seed: int) -> Mapping[str, Any]:
    """Let an arm learn, if it does, and live with each delay."""
    actor = Actor(arm, str(options.planners / planner), seed)
    if arm.sees:
        _learn(actor, options, seed)
    asks = arm.told or arm.residual
    returns: dict[str, list[float]] = {}
    for late in options.delays:
        if asks or not returns:
            crowd = Crowd(actor, options.episodes, late if asks else 0, options.noise, 40_000)
            returns[str(late)] = _lived(crowd)
        else:
            returns[str(late)] = next(iter(returns.values()))
    count = 0 if actor.executor is None else actor.executor.parameters
    return {"returns": returns, "parameters": count}


def _lived(crowd: Crowd) -> list[float]:
    """Return the sums of the rewards of 1,000 ticks."""
    total = np.zeros(len(crowd.obs))
    for _ in range(1000):
        total += crowd.step(crowd.act(crowd.look()))
    return [float(each) for each in total]


def _learn(actor: Actor, options: Options, seed: int) -> None:
    """Let the arm's executor learn from states that it comes to."""
    random = np.random.default_rng([seed, 1])
    distiller = actor.distiller(DistillerOptions(seed=seed))
    late = options.delays if actor.arm.told else [0] * len(options.delays)
    crowds = [
        Crowd(actor, _WORLDS, each, options.noise, 1000 * seed + index)
        for index, each in enumerate(late)
    ]
    count = _WORLDS * len(crowds)
    left = random.integers(100, _EPISODE, count)
    link = np.zeros(count, np.int32)
    ticks = options.labels // count
    steps = options.steps / max(1, ticks - _FIRST)
    for crowd in crowds:
        crowd.driven[:] = True
    for tick in range(ticks):
        told = [crowd.look() for crowd in crowds]
        acts = [crowd.act(each) for crowd, each in zip(crowds, told, strict=True)]
        rows = np.concatenate(told)
        wanted = actor.planner(rows[:, :_OBS])
        distiller.add(rows, actor.label(rows, wanted), link)
        for crowd, actions in zip(crowds, acts, strict=True):
            crowd.step(actions)
        link[:] = count
        left -= 1
        if tick == _FIRST:
            for crowd in crowds:
                crowd.driven[:] = random.random(_WORLDS) < _BY_PLANNER
        for index in np.flatnonzero(left == 0).tolist():
            crowd, own = crowds[index // _WORLDS], index % _WORLDS
            crowd.reset(own)
            crowd.driven[own] = tick < _FIRST or random.random() < _BY_PLANNER
            left[index], link[index] = _EPISODE, 0
        if tick >= _FIRST and tick % _EVERY == 0:
            distiller.schedule(tick / ticks)
            while distiller.steps < steps * (tick - _FIRST):
                distiller.step()
            actor.executor = distiller.freeze()


def _rows(results: Sequence[Result]) -> list[Result]:
    """Give the returns of each arm at each delay, all seeds together, beside two of the arms."""
    found: dict[tuple[str, str, str], list[float]] = {}
    sizes = {}
    for (planner, arm), each in grouped(results, "planner", "arm").items():
        sizes[arm] = each[0]["parameters"]
        for late in each[0]["returns"]:
            found[planner, late, arm] = [one for r in each for one in r["returns"][late]]
    rows: list[Result] = []
    for (planner, late, arm), returns in found.items():
        interval = mean_interval(returns)
        row: dict[str, Any] = {
            "planner": planner,
            "late": late,
            "arm": arm,
            "parameters": sizes[arm],
        }
        row |= {"mean": interval.mean, "median": median(returns)}
        row |= {"low": interval.low, "high": interval.high}
        for name in (_ALONE, _PLAIN):
            other = found.get((planner, late, name))
            row[name] = interval.mean / np.mean(other) if other else np.nan
        rows.append(row)
    return rows


_COLUMNS = [
    Column("late", "late"),
    Column("executor", "arm"),
    Column("parameters", "parameters", ","),
    *(Column(name, name, ",.0f") for name in ("mean", "low", "high", "median")),
    *(Column(f"over {name}", name, ".2f") for name in (_ALONE, _PLAIN)),
]
_CAPTION = (
    "Returns of 1,000 ticks, 95 % intervals; ticks late. All executors but the first two see "
    "positions, and what is named."
)


def findings(_: Options, results: Sequence[Result]) -> Findings:
    """Show each planner's arms, delay by delay."""
    rows = sorted(_rows(results), key=lambda row: int(row["late"]))
    return Findings(
        [
            Section(planner, "", table(_COLUMNS, own, _CAPTION))
            for (planner,), own in grouped(rows, "planner").items()
        ]
    )


def brief(result: Result) -> str:
    """Give the mean returns."""
    said = (f"{np.mean(each):,.0f} at {late}" for late, each in result["returns"].items())
    return ", ".join(said)


BENCHMARK = Benchmark("corrects", works, findings, brief, ("only", "arms", "seeds"))
run = BENCHMARK.run
