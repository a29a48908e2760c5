"""The clocks: absolute schedules, missed periods."""

from __future__ import annotations

import gc
import os
import resource
import sys
from typing import Any

import pytest

from agentkd.errors import ConfigError
from agentkd.runtime import Realtime, Tick, VirtualClock, WallClock, realtime
from agentkd.runtime import clock as clocks

MS = 1_000_000


class FakeTime:
    """Time that passes only when somebody sleeps, looks, or works."""

    def __init__(self) -> None:
        self.now = 5_000 * MS
        self.slept: list[float] = []

    def __call__(self) -> int:
        self.now += 1000
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += round(seconds * 1e9)


def wall(period: float) -> tuple[WallClock, FakeTime]:
    time = FakeTime()
    return WallClock(period, time_ns=time, sleep=time.sleep), time


def test_ticks_stand_at_multiples_of_the_period() -> None:
    """However long the work takes within a period, no tick drifts."""
    clock, time = wall(0.010)
    clock.start()
    scheduled = []
    for work in (3 * MS, 9 * MS, 1 * MS, 0):
        tick = clock.wait()
        scheduled.append(tick.scheduled)
        assert tick.missed == 0
        assert 0 <= tick.lateness < 1e-5
        time.now += work
    assert scheduled == pytest.approx([0, 0.010, 0.020, 0.030])


def test_sleep_ends_before_the_tick_and_the_rest_is_spun() -> None:
    """The clock never sleeps into the last 0.2 ms."""
    clock, time = wall(0.010)
    clock.start()
    clock.wait()
    clock.wait()
    assert time.slept == [pytest.approx(0.0098, abs=2e-5)]


def test_late_within_a_period_is_late_and_not_missed() -> None:
    """Work of one and a half periods delays the next tick, and the one after is due."""
    clock, time = wall(0.010)
    clock.start()
    clock.wait()
    time.now += 15 * MS
    late = clock.wait()
    assert (late.index, late.missed) == (1, 0)
    assert late.scheduled == pytest.approx(0.010)
    assert late.lateness == pytest.approx(0.005, abs=1e-4)
    assert clock.wait().scheduled == pytest.approx(0.020)


def test_whole_periods_are_skipped_and_counted_without_a_burst() -> None:
    """After 3.5 periods of work, two were missed; the index counts real ticks only."""
    clock, time = wall(0.010)
    clock.start()
    clock.wait()
    time.now += 35 * MS
    ticks = [clock.wait() for _ in range(3)]
    assert [tick.index for tick in ticks] == [1, 2, 3]
    assert [tick.missed for tick in ticks] == [2, 0, 0]
    assert [tick.scheduled for tick in ticks] == pytest.approx([0.030, 0.040, 0.050])


def test_missed_and_taken_ticks_account_for_all_time() -> None:
    """Ticks and missed cycles together are the periods that went by."""
    clock, time = wall(0.010)
    clock.start()
    missed = 0
    for work in (2, 47, 10, 11, 99, 1, 20, 0, 0):
        tick = clock.wait()
        missed += tick.missed
        time.now += work * MS
    assert round(tick.scheduled / 0.010) == tick.index + missed


def test_virtual_clock_is_exact() -> None:
    """Virtual ticks are never late, and time is their number."""
    clock = VirtualClock(0.5)
    clock.start()
    assert [clock.wait() for _ in range(3)] == [
        Tick(0, 0.0, 0.0, 0),
        Tick(1, 0.5, 0.0, 0),
        Tick(2, 1.0, 0.0, 0),
    ]
    assert clock.now() == 1.5


@pytest.mark.parametrize("period", [0, -1, float("inf"), float("nan")])
def test_a_period_is_positive_and_finite(period: float) -> None:
    """A period that cannot be is refused by both clocks."""
    for clock in (WallClock, VirtualClock):
        with pytest.raises(ConfigError, match="period"):
            clock(period)


def test_realtime_undoes_what_it_does() -> None:
    """Collection and switching are as they were before the block, after it."""
    switch = sys.getswitchinterval()
    with realtime():
        assert not gc.isenabled()
        assert sys.getswitchinterval() < switch
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    assert sys.getswitchinterval() == switch


def test_what_is_granted_is_told_and_undone() -> None:
    """Cores are bound for the block alone; what was asked for is reported by name."""
    before = os.sched_getaffinity(0)
    core = min(before)
    with realtime(Realtime(cores=[core])) as told:
        assert told == {"cores": "granted"}
        assert os.sched_getaffinity(0) == {core}
    assert os.sched_getaffinity(0) == before


def test_what_is_not_granted_is_told_and_not_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without privileges the block runs all the same and says what it lacks."""

    def refuse(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    monkeypatch.setattr(clocks, "_privileged", lambda: False)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (8 << 20, 8 << 20))
    wanted = Realtime(priority=50, cores=[0], lock_memory=True)
    with realtime(wanted) as told:
        assert set(told) == {"priority", "cores", "lock_memory"}
    assert all(text.startswith("not granted: ") for text in told.values())
    assert "ulimit -l" in told["lock_memory"]
    monkeypatch.delattr(os, "sched_setaffinity")
    with realtime(Realtime(cores=[0])) as told:
        assert "no such thing" in told["cores"]


def test_scheduling_is_asked_for_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread gets its priority inside the block and its own again after it."""
    asked: list[tuple[int, int]] = []

    def note(_: int, policy: int, parameter: os.sched_param) -> None:
        asked.append((policy, parameter.sched_priority))

    monkeypatch.setattr(os, "sched_setscheduler", note)
    with realtime(Realtime(priority=50)) as told:
        assert told == {"priority": "granted"}
        assert asked == [(os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, 50)]
    assert asked[1][0] == os.sched_getscheduler(0)


def test_garbage_can_be_left_to_python() -> None:
    """Without `freeze` collection stays as it was."""
    with realtime(Realtime(freeze=False)):
        assert gc.isenabled()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"priority": 0}, "at least 1 and at most 99"),
        ({"cores": []}, "cores"),
        ({"cores": [-1]}, "cores"),
    ],
)
def test_scheduling_that_cannot_be_is_refused(options: dict[str, Any], words: str) -> None:
    """Priorities and cores that is invalid are refused."""
    with pytest.raises(ConfigError, match=words):
        Realtime(**options)


@pytest.mark.parametrize("period", [1e-12, 1e300])
def test_a_wall_clock_counts_nanoseconds(period: float) -> None:
    """A period of none would divide by zero, and one of too many is no whole number."""
    with pytest.raises(ConfigError, match="at least 1e-06 and at most 1000000"):
        WallClock(period)
