"""Where chunks of actions meet: LeRobot's issue 4223 again, under several rules.

An arm is told positions at 30 Hz and stands still while it is told nothing. Its planner answers
with the next 30 positions of a path, seen from where the arm is. The first answer takes 0.7 s, for
the model has to warm up, all others 0.3 s. In LeRobot's real-time chunking queue as it was before
its pull request 4454, the first chunk was cut by the largest latency seen so far, of which nothing
had been acted on: 21 of 30 positions were skipped, and the arm jumped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agentkd.errors import ConfigError
from agentkd.executors.architecture import initial
from agentkd.report.model import Section
from agentkd.runtime.agent import Agent
from agentkd.runtime.in_process import InlinePlanner
from agentkd.runtime.strategies import Seam, StrategyOptions
from agentkd.spec import BoxSpec, ObsSpec, Part, Spec
from agentkd.types import Floats, Point
from benchmarks.runner import Benchmark, Column, Findings, Place, Result, Work, grouped, table

HZ, CHUNK = 30, 30
WARM_UP, LATENCY = 0.7, 0.3
JOINTS = 6
SPEC = Spec(
    ObsSpec((Part("", "box", (1 + JOINTS,), "float32"),)),
    BoxSpec((-4.0,) * JOINTS, (4.0,) * JOINTS, (JOINTS,)),
)
_SAME = 1e-4
_SCENES = {"continue one another": 0.0, "drift from one another": 0.3}
"""Chunks, and how far they drift from the path by their ends."""
Doubles = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Options(Place):
    """Live LeRobot's issue 4223 again under the virtual clock, with several rules.

    An arm is told positions at 30 Hz; its planner answers with the next 30, after 0.7 s the first
    time and 0.3 s later. Which of them is commanded first? By the largest latency so far, as
    LeRobot's queue had it, the arm jumps over 21. By commands, which is
    StrategyOptions(advance="commands"), none is skipped: what nobody acted on is not used up. By
    ticks is for worlds that do not wait, and skips what is over.

    In the second table chunks drift from one another, as those of generative policies do, and a
    blend (Seam(blend=…)) keeps seams within a chunk's own largest step.

    Example: python -m benchmarks seams
    """

    seconds: float = 20.0
    """How long the arm moves."""
    blend: int = 16
    """Ticks of the blend."""
    seed: int = 0
    """For the drift."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What is lived through.

    Attributes:
        seconds: For how long.
        hz: Ticks per second.
        chunk: Positions in an answer.
        warm_up: Seconds of the first answer.
        latency: Seconds of the others.
        wander: How far chunks drift apart from one another by their ends, in the joints' unit:
            chunks of a generative policy do not continue one another.
        seed: For the drift.
    """

    seconds: float = 20.0
    hz: int = HZ
    chunk: int = CHUNK
    warm_up: float = WARM_UP
    latency: float = LATENCY
    wander: float = 0.0
    seed: int = 0

    def ticks(self, seconds: float) -> int:
        """How many ticks some seconds are, rounded up."""
        return math.ceil(seconds * self.hz - 1e-9)

    def late(self, request: int) -> int:
        """The latency of an answer in ticks, requests counted from 1."""
        return self.ticks(self.warm_up if request == 1 else self.latency)


@dataclass(frozen=True, slots=True)
class Seamed:
    """What came of a rule.

    Attributes:
        rule: Its name.
        ticks: All of them.
        starved: Ticks at which nothing was commanded but to hold.
        first: Which position of the path was commanded first; −1 where chunks leave it.
        skipped: Positions of the path that were never commanded.
        step: The largest step within a chunk.
        jump: The largest step from one chunk to the next.
    """

    rule: str
    ticks: int
    starved: int
    first: int
    skipped: int
    step: float
    jump: float

    @property
    def within(self) -> bool:
        """Whether no seam is a larger step than a chunk's own largest."""
        return self.jump <= self.step * (1 + 1e-6)


def path(at: ArrayLike) -> Doubles:
    """Positions of the path, (n, joints), at the ticks `at`, (n,)."""
    joint = np.arange(JOINTS)
    angle = np.asarray(at, float)[..., None] * (0.05 + 0.011 * joint) + joint
    found: Doubles = 0.8 * np.sin(angle) + 0.4 * np.sin(2.3 * angle)
    return found


@final
class Chunks:
    """The planner: the next positions of the path, from where the arm is."""

    def __init__(self, scene: Scene) -> None:
        """Begin."""
        self.horizon = scene.chunk
        self._scene = scene
        self._random = np.random.default_rng(scene.seed)

    def __call__(self, obs: Floats) -> Point:
        """Answer for observations, (batch, 1 + joints): how far it is, and where."""
        return Point(np.concatenate([self.chunk(round(float(o[0]))) for o in obs]))

    def chunk(self, at: int) -> Floats:
        """The positions that follow the one at which the arm is."""
        steps = np.arange(1, self.horizon + 1)
        drift = self._random.standard_normal(JOINTS) * self._scene.wander
        # It begins where the arm is and drifts from the path by its end.
        share = (steps / self.horizon)[:, None]
        return np.asarray(path(at + steps) + share * drift, np.float32)


@final
class Arm:
    """Stands where it was told, and knows how far along the path that is."""

    def __init__(self) -> None:
        """Stand before the path's first position."""
        self.at = 0
        self.position = path(0.0)

    def obs(self) -> Floats:
        """How far it is, and where, (1 + joints,)."""
        return np.concatenate([[self.at], self.position]).astype(np.float32)

    def move(self, position: Any) -> None:
        """Go where it is told."""
        self.position = np.asarray(position, float)
        self.at += 1


def by_commands(scene: Scene, *, blend: int = 0, freeze: int = 0) -> Seamed:
    """Ours: rows are used up by commands, and seams blended as told."""
    seam = Seam(freeze, blend) if blend or freeze else None
    options = StrategyOptions(seam=seam, advance="commands")
    name = "by commands" + (f", blend {blend}" if blend else "")
    return _ours(scene, options, name)


def by_ticks(scene: Scene) -> Seamed:
    """Ours, for a world that does not wait: rows are used up by ticks."""
    return _ours(scene, StrategyOptions(), "by ticks")


def _ours(scene: Scene, options: StrategyOptions, name: str) -> Seamed:
    arm, tracker = Arm(), _Tracker()
    port = InlinePlanner(Chunks(scene), latency_ticks=scene.late)
    executor = initial("linear", SPEC)
    with Agent(executor, planner=port, mode="planner", strategies=options) as agent:
        for _ in range(scene.ticks(scene.seconds)):
            decision = agent.decide(arm.obs())
            if decision.source != "strategy":
                tracker.starve()
                continue
            assert agent.strategy is not None
            tracker.command(agent.strategy.obs_tick, decision.action)
            arm.move(decision.action)
    return tracker.result(name)


def by_estimate(scene: Scene) -> Seamed:
    """The rule that LeRobot's queue had: cut a chunk by the largest latency so far.

    The largest of all latencies, the warm-up's among them, for ever; the rest of the old chunk is
    thrown away, and where the new one is over the arm holds.
    """
    arm, tracker, chunks = Arm(), _Tracker(), Chunks(scene)
    queue: list[tuple[int, int, Any]] = []
    asked, due, request, most = -1, -1, 0, 0
    flight: tuple[int, Floats] | None = None
    for tick in range(scene.ticks(scene.seconds)):
        if flight is not None and tick >= due:
            at, rows = flight
            most = max(most, tick - asked)
            cut = min(most, len(rows) - 1)
            queue = [(request, at + k + 1, rows[k]) for k in range(cut, len(rows))]
            flight = None
        if flight is None:
            request += 1
            asked, due = tick, tick + scene.late(request)
            flight = arm.at, chunks.chunk(arm.at)
        if not queue:
            tracker.starve()
            continue
        chunk, at, position = queue.pop(0)
        tracker.command(chunk, position)
        arm.move(position)
        # It is where it was told to be, however far it had to jump.
        arm.at = at
    return tracker.result("by the largest latency")


@final
class _Tracker:
    """Counts what was commanded, skipped and starved, and how far the arm jumped."""

    def __init__(self) -> None:
        self._ticks = self._starved = self._skipped = 0
        self._first, self._last = -1, 0
        self._chunk: int | None = None
        self._position: Any = path(0.0)
        self._step = self._jump = 0.0

    def starve(self) -> None:
        """Nothing was commanded at this tick."""
        self._ticks += 1
        self._starved += 1

    def command(self, chunk: int, position: Any) -> None:
        """A position was commanded, by some chunk."""
        self._ticks += 1
        at = self._along(position)
        if at is not None:
            self._first = at if self._first < 0 else self._first
            self._skipped += max(0, at - self._last - 1)
            self._last = max(at, self._last)
        apart = float(np.abs(np.asarray(position) - self._position).max())
        if chunk == self._chunk:
            self._step = max(self._step, apart)
        else:
            self._jump = max(self._jump, apart)
        self._chunk, self._position = chunk, np.asarray(position, float)

    def _along(self, position: Any) -> int | None:
        """Which of the path's positions it is; None where it is none of them."""
        near = self._last + np.arange(4 * CHUNK)
        apart = np.abs(path(near) - np.asarray(position, float)).max(axis=1)
        index = int(apart.argmin())
        return int(near[index]) if apart[index] < _SAME else None

    def result(self, rule: str) -> Seamed:
        """What was counted."""
        return Seamed(
            rule, self._ticks, self._starved, self._first, self._skipped, self._step, self._jump
        )


def works(options: Options) -> Iterator[Work]:
    """List the rules, of chunks that continue one another and of chunks that drift."""
    if not 0 < options.seconds < 3600 or options.blend < 0 or options.seed < 0:
        raise ConfigError(
            f"--seconds {options.seconds} --blend {options.blend} --seed "
            f"{options.seed}: above 0 and below 3600, at least 0, at least 0."
        )
    rules = {
        "by the largest latency": by_estimate,
        "by ticks": by_ticks,
        "by commands": by_commands,
        f"by commands, blend {options.blend}": partial(by_commands, blend=options.blend),
    }
    for name, wander in _SCENES.items():
        scene = Scene(seconds=options.seconds, wander=wander, seed=options.seed)
        for rule, follow in rules.items():
            yield Work(
                f"{name}, {rule}", {"chunks": name, "rule": rule}, partial(_followed, follow, scene)
            )


def _followed(follow: Any, scene: Scene) -> Mapping[str, Any]:
    found: Seamed = follow(scene)
    return {**asdict(found), "within": found.within}


def _position(name: str, result: Result) -> int | None:
    """Return a position of the path; none where chunks leave it."""
    return None if _SCENES[result["chunks"]] else int(result[name])


COLUMNS = [
    Column("rule", "rule"),
    Column("starved", lambda r: f"{r['starved']} of {r['ticks']}"),
    Column("first", partial(_position, "first"), ","),
    Column("skipped", partial(_position, "skipped"), ","),
    Column("step", "step", ".3f"),
    Column("seam", "jump", ".3f"),
    Column("seam/step", lambda r: r["jump"] / r["step"] if r["step"] else None, ".2f"),
]
_CAPTION = (
    "Starved: ticks at which nothing new was commanded. First, skipped: positions of "
    "the path. Step: the largest within a chunk; seam: from chunk to chunk."
)


def findings(_: Options, results: Sequence[Result]) -> Findings:
    """Show both tables, and how we seam."""
    sections = [
        Section(f"Chunks that {name}", "", table(COLUMNS, rows, _CAPTION))
        for (name,), rows in grouped(results, "chunks").items()
    ]
    verdicts = []
    for each in results:
        if each["rule"] == "by commands" and not _SCENES[each["chunks"]]:
            verdicts.append(
                f"By commands {each['skipped']} positions are skipped, and "
                f"{_said(each)}. Starved ticks: {each['starved']}, all of them before "
                "the first answer came."
            )
        elif "blend" in each["rule"] and _SCENES[each["chunks"]]:
            verdicts.append(f"With drift and a blend {_said(each)}.")
    return Findings(sections, "\n".join(verdicts))


def _said(result: Result) -> str:
    said = "within" if result["within"] else "beyond"
    return (
        "the largest seam is a step of "
        f"{result['jump'] / result['step']:.2f} of a chunk's own ({said})"
    )


def brief(result: Result) -> str:
    """Give the largest seam."""
    return f"seam {result['jump']:.3f}, step {result['step']:.3f}"


BENCHMARK = Benchmark("seams", works, findings, brief)
run = BENCHMARK.run
