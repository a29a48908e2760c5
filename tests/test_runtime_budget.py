"""A decision waits for a planner only where that can make it better."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, final

import numpy as np
import pytest

from agentkd.dists import packed
from agentkd.executors.acting import NumpyForm
from agentkd.runtime import Agent, InlinePlanner, Mode, PlannerPort, Runtime
from agentkd.runtime import decider as decider_module
from agentkd.runtime.codec import Answer, Seen
from agentkd.runtime.decider import Decider
from agentkd.runtime.strategies import StrategyOptions, Trust
from agentkd.spec import Spec
from tests.runtime_children import SPEC, Echo, Steps, constant, one_hot

BUDGET = 1_000_000


@final
class Clock:
    """Nanoseconds that pass when somebody looks or sleeps."""

    def __init__(self) -> None:
        self.ns = 0
        self.slept = 0

    def perf_counter_ns(self) -> int:
        self.ns += 100
        return self.ns

    def sleep(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)
        self.slept += round(seconds * 1e9)


@final
class Late(PlannerPort):
    """A planner whose answers take so many nanoseconds of a clock."""

    def __init__(self, clock: Clock, takes: int) -> None:
        self.clock, self.takes, self.up = clock, takes, True
        self.flight: deque[tuple[int, Answer]] = deque()

    @property
    def ready(self) -> bool:
        return self.up

    def open(self, spec: Spec, ring: Any, demands: Any = None) -> None: ...

    def submit(self, seen: Seen, before: Sequence[Seen] = ()) -> None:
        answer = Answer(
            id=seen.tick,
            episode=seen.episode,
            tick=seen.tick,
            labels=1,
            thinking=self.takes * 1e-9,
            latency=self.takes * 1e-9,
            rows=packed(one_hot([3])),
            seen=seen.tick,
        )
        if self.up:
            self.flight.append((self.clock.ns + self.takes, answer))

    def poll(self, tick: int, /) -> Sequence[Answer]:
        found = []
        while self.flight and self.flight[0][0] <= self.clock.ns:
            found.append(self.flight.popleft()[1])
        return found


def build(
    monkeypatch: pytest.MonkeyPatch, takes: int, mode: Mode = "runtime"
) -> tuple[Decider, Late, Clock]:
    clock = Clock()
    monkeypatch.setattr(decider_module, "perf_counter_ns", clock.perf_counter_ns)
    monkeypatch.setattr("time.sleep", clock.sleep)
    port = Late(clock, takes)
    options = StrategyOptions(trust=Trust(stand_in=0.0))
    decider = Decider(NumpyForm(constant(2)), port, mode, None, None, None, BUDGET, options)
    return decider, port, clock


def decide(decider: Decider, clock: Clock, times: int) -> list[str]:
    """Decide every 20 ms."""
    sources: list[str] = []
    for _ in range(times):
        sources.append(decider.decide(np.zeros(3, np.float32))[1])
        clock.ns += 20_000_000
    return sources


def test_quick_planner_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planner that keeps the budget acts at each tick after its first answer."""
    decider, _, clock = build(monkeypatch, BUDGET // 2)
    assert decide(decider, clock, 20)[2:] == ["strategy"] * 18
    assert clock.slept > 0


@pytest.mark.parametrize(
    ("takes", "mode"),
    [(BUDGET // 2, "executor"), (BUDGET + 100_000, "runtime"), (10**9, "runtime")],
)
def test_planner_that_cannot_act_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, takes: int, mode: Mode
) -> None:
    """One that takes no part, or is slower than the budget, costs no tick anything."""
    decider, _, clock = build(monkeypatch, takes, mode)
    assert set(decide(decider, clock, 60)) == {"executor"}
    assert clock.slept == 0


def test_planner_that_is_gone_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planner that is lost costs nothing from the next tick on, and then is back."""
    decider, port, clock = build(monkeypatch, BUDGET // 2)
    decide(decider, clock, 20)
    port.up, clock.slept = False, 0
    port.flight.clear()
    assert decide(decider, clock, 20) == ["executor"] * 20
    assert clock.slept == 0
    port.up = True
    assert "strategy" in decide(decider, clock, 20)


def test_planner_that_falls_silent_is_waited_for_a_few_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A planner that seems ready and does not answer is soon no longer waited for."""
    decider, port, clock = build(monkeypatch, BUDGET // 2)
    decide(decider, clock, 20)
    port.takes, clock.slept = 10**15, 0
    decide(decider, clock, 200)
    assert clock.slept <= 5 * BUDGET


def test_latency_is_told_with_and_without_a_planner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decisions are timed apart while a planner is ready and while none is."""
    decider, port, clock = build(monkeypatch, BUDGET // 2)
    decide(decider, clock, 20)
    port.up = False
    decide(decider, clock, 5)
    metrics = decider.metrics.snapshot()
    found = metrics["decision_latency_by_planner_us"]
    assert (found["ready"]["count"], found["absent"]["count"]) == (20, 5)
    assert metrics["decision_latency_us"]["count"] == 25
    assert found["ready"]["mean"] > found["absent"]["mean"]


def test_alone_is_without_a_planner() -> None:
    """An agent without a planner has all its decisions under "absent"."""
    agent = Agent(constant(2))
    agent.act(np.zeros(3, np.float32))
    found = agent.metrics()["decision_latency_by_planner_us"]
    assert (found["ready"]["count"], found["absent"]["count"]) == (0, 1)


async def test_virtual_clock_has_no_deadline() -> None:
    """Under the virtual clock no decision is said to miss, or to keep, a deadline."""
    planner = InlinePlanner(Echo(), latency_ticks=1)
    runtime = Runtime(constant(2), planner=planner, hz=1e9, clock="virtual")
    async with runtime:
        async for _ in runtime.run(Steps(), ticks=30):
            pass
    assert runtime.result.metrics["deadline_miss_total"] is None
    assert runtime.agent.spec == SPEC
