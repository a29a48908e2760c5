"""Whether the clock is kept while planner and distiller work: idle against busy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, final

import numpy as np

from agentkd.errors import ConfigError
from agentkd.executors.architecture import initial
from agentkd.runtime.loop import RunResult
from agentkd.runtime.runtime import Runtime
from agentkd.runtime.workers.host import Process
from agentkd.spec import BoxSpec, ObsSpec, Part, Spec, to_json
from agentkd.types import Floats, SquashedGaussian

OBS, ACTIONS = 17, 6
SPEC = Spec(
    ObsSpec((Part("", "box", (OBS,), "float32"),)),
    BoxSpec((-1.0,) * ACTIONS, (1.0,) * ACTIONS, (ACTIONS,)),
)


@final
class Stub:
    """A robot that costs nothing: its observation drifts, and it never falls."""

    def __init__(self) -> None:
        """Draw a stretch of observations in advance."""
        random = np.random.default_rng(0)
        self._obs = random.standard_normal((4096, OBS)).astype(np.float32)
        self._at = 0

    def reset(self, *, seed: int | None = None) -> tuple[Floats, dict[str, Any]]:
        """Begin."""
        del seed
        return self._obs[0], {}

    def step(self, action: Any) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Go on."""
        del action
        self._at = (self._at + 1) % len(self._obs)
        return self._obs[self._at], 0.0, False, False, {}


def busy_planner(width: int = 1024) -> Callable[[Floats], SquashedGaussian]:
    """Make a planner that works without a pause whenever it is asked.

    Args:
        width: Of its two hidden layers; 1024 takes about half a millisecond.
    """
    random = np.random.default_rng(0)
    sizes = [OBS, width, width, ACTIONS]
    layers = [
        random.standard_normal((a, b)).astype(np.float32) / np.float32(np.sqrt(a))
        for a, b in pairwise(sizes)
    ]

    def planner(obs: Floats) -> SquashedGaussian:
        x = obs
        for weight in layers[:-1]:
            x = np.maximum(x @ weight, 0)
        mean = x @ layers[-1]
        return SquashedGaussian(mean, np.zeros_like(mean))

    return planner


@dataclass(frozen=True, slots=True)
class Ticks:
    """How a clock was kept, all rounds together.

    Attributes:
        name: "idle" or "busy".
        ticks: Ticks that were served.
        missed: Periods in which there was no tick.
        late_us: Lateness of the ticks, p50, p99, p99.9 and max, the worst round's.
        deadline_misses: Decisions later than their deadline.
        decisions: All decisions; as many as ticks, or some were lost.
        answers: The planner's answers.
        steps: The distiller's gradient steps.
    """

    name: str
    ticks: int
    missed: int
    late_us: dict[str, float]
    deadline_misses: int
    decisions: int
    answers: int
    steps: int

    @property
    def share(self) -> float:
        """Missed periods as a share of all periods."""
        return self.missed / max(1, self.ticks + self.missed)


def measure(
    hz: float = 1000.0,
    seconds: float = 30.0,
    rounds: int = 3,
    watch: Callable[[str, int], None] | None = None,
) -> tuple[Ticks, Ticks]:
    """Keep a clock idle and busy in turns, `seconds` each in all.

    Args:
        hz: Ticks per second.
        seconds: For each of the two.
        rounds: How often they take turns, so that a noisy machine meets both.
        watch: Called with the name and the round before each.

    Returns:
        What was counted idle, and busy.
    """
    if rounds < 1:
        raise ConfigError(f"rounds is {rounds}; at least 1 is needed.")
    found: dict[str, list[RunResult]] = {"idle": [], "busy": []}
    for number in range(rounds):
        # Who goes first changes, so that a drift of the machine favours neither.
        names = ("idle", "busy") if number % 2 == 0 else ("busy", "idle")
        for name in names:
            if watch is not None:
                watch(name, number)
            found[name].append(asyncio.run(_round(name, hz, seconds / rounds)))
    return _sum("idle", found["idle"]), _sum("busy", found["busy"])


async def _round(name: str, hz: float, seconds: float) -> RunResult:
    executor = initial("mlp:64,64", SPEC)
    planner = distiller = None
    if name == "busy":
        planner = Process("agentkd.bench.ticks:busy_planner")
        distiller = Process(
            "agentkd.distillation.service:build", {"executor": "mlp:64,64", "spec": to_json(SPEC)}
        )
    async with Runtime(executor, planner=planner, distiller=distiller, hz=hz, wait=True) as runtime:
        async for _ in runtime.run(Stub(), seconds=seconds):
            pass
    return runtime.result


def _sum(name: str, results: list[RunResult]) -> Ticks:
    metrics = [result.metrics for result in results]
    late = [each["tick_lateness_us"] for each in metrics]
    return Ticks(
        name=name,
        ticks=sum(result.ticks for result in results),
        missed=sum(each["missed_cycles_total"] for each in metrics),
        late_us={
            key: max(float(each.get(key, 0.0)) for each in late)
            for key in ("p50", "p99", "p99.9", "max")
        },
        deadline_misses=sum(each["deadline_miss_total"] for each in metrics),
        decisions=sum(
            sum(reasons.values())
            for each in metrics
            for reasons in each["decisions_total"].values()
        ),
        answers=sum(each["planner_answers_total"] for each in metrics),
        steps=sum(each.get("distiller_steps_total", 0) for each in metrics),
    )
