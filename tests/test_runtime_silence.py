"""A worker is not blamed for the time in which others had the processors."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentkd.runtime import Agent, Patience, Process, ProcessPlanner
from agentkd.runtime.workers.priority import Silence, Usage
from tests.runtime_children import constant
from tests.test_runtime_processes import act_until, answered


class World:
    """A silent worker under a virtual clock."""

    def __init__(self) -> None:
        self.silence = Silence()
        self.now = self.heard = 100.0
        self.used = 0.0

    def given_up_after(self, limit: float, *, share: float, runnable: bool) -> float:
        """Seconds of silence until the worker is given up, at most 10,000."""
        while self.now < self.heard + 10_000:
            self.now += 0.02
            self.used += 0.02 * share
            if self.silence.beyond(limit, self.now, self.heard, lambda: Usage(self.used, runnable)):
                break
        return self.now - self.heard


@pytest.mark.parametrize("limit", [0.3, 1.0, 30.0, 120.0])
@pytest.mark.parametrize(
    ("share", "runnable", "expected"),
    [
        # It waits for a device, or sleeps.
        (0.0, False, 1.0),
        # It computes alone, or on several processors.
        (1.0, True, 1.0),
        (4.0, True, 1.0),
        # It has a tenth of a processor beside other programs.
        (0.1, True, 0.25 + 0.75 / 0.1),
    ],
)
def test_limit_is_time_of_its_own(
    limit: float, share: float, runnable: bool, expected: float
) -> None:
    """A hang is found at its limit, later by as much as other programs took."""
    found = World().given_up_after(limit, share=share, runnable=runnable)
    assert found == pytest.approx(expected * limit, rel=0.15, abs=0.6)


def test_worker_that_never_gets_a_processor_is_not_given_up() -> None:
    """Without a processor a worker cannot say anything."""
    assert World().given_up_after(1.0, share=0.0, runnable=True) >= 10_000


def test_heartbeat_ends_the_silence() -> None:
    """What was counted before a heartbeat is forgotten."""
    world = World()
    for _ in range(20):
        world.heard = world.now
        for _ in range(45):
            world.now += 0.02
            assert not world.silence.beyond(
                1.0, world.now, world.heard, lambda: Usage(0.0, runnable=False)
            )


def test_silence_is_measured_only_where_it_is_long() -> None:
    """A worker that answers within a quarter of its limit costs no look at it."""
    silence, looks = Silence(), 0

    def measure() -> Usage:
        nonlocal looks
        looks += 1
        return Usage(0.0, runnable=True)

    for number in range(10):
        assert not silence.beyond(10.0, 100.0 + number, 98.0 + number, measure)
    assert looks == 0
    for number in range(1000):
        silence.beyond(10.0, 110.0 + 0.002 * number, 100.0, measure)
    assert looks == 4


def test_start_on_a_loaded_machine_is_no_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planner that gets no processor for many times its limit still joins."""
    gate, looks = tmp_path / "gate", 0

    def starved(pid: int) -> Usage:
        nonlocal looks
        looks += 1
        return Usage(0.0, runnable=True)

    monkeypatch.setattr("agentkd.runtime.workers.priority.usage", starved)
    patience = Patience(start=0.01)
    remote = Process("tests.runtime_children:gated", {"path": str(gate)})
    with Agent(constant(2), planner=ProcessPlanner(remote, patience=patience)) as agent:
        metrics = act_until(agent, lambda _: looks > 30)
        assert metrics["planner_state"] == "starting"
        assert metrics["planner_starts_failed_total"] == 0
        gate.touch()
        act_until(agent, answered())
