"""The priority of worker processes: below the tick's, and high enough to get on.

A worker in SCHED_IDLE gives a processor up as soon as a tick wants it. Where other programs keep
every processor busy, it also hardly runs at all. So a worker that is silent although it could run
is raised step by step, and lowered again once it has been quick for a while. On a loaded machine a
worker may be silent only because other programs have the processors: `Silence` does not count that
time.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple, final

from agentkd.runtime.workers.guardian import offspring

MOST_NICE, NEVER = 19, 20
_SHARING = 10
"""At this niceness a worker gets a tenth of a processor beside one busy program."""
_RUNS = 0.5
"""A worker with less than this share of one processor hardly runs."""
_PAUSE, _MOST_PAUSE = 10.0, 300.0
"""Seconds without silence before a worker is lowered; they double after each raise."""


class Level(NamedTuple):
    """A priority: the niceness, 0 to 19, and whether it is SCHED_IDLE.

    In SCHED_IDLE a process runs only where nothing else wants to.
    """

    nice: int
    idle: bool = False


class Usage(NamedTuple):
    """The processor time of processes, and whether a thread of theirs runs or waits to run."""

    seconds: float
    runnable: bool


def niceness() -> int:
    """Return this process's niceness, at least 0."""
    return max(0, os.getpriority(os.PRIO_PROCESS, 0))


def lowest_reachable() -> int:
    """Return the lowest niceness that this process may give back to its workers.

    Without CAP_SYS_NICE and a limit on niceness (RLIMIT_NICE, `ulimit -e`) a process never comes
    back from SCHED_IDLE or from a higher niceness: then it is `NEVER`.
    """
    own = niceness()
    if sys.platform != "linux":
        return NEVER
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NICE)
    capabilities = 0
    with contextlib.suppress(OSError):
        found = re.search(r"^CapEff:\s*(\w+)", Path("/proc/self/status").read_text(), re.MULTILINE)
        capabilities = int(found[1], 16) if found else 0
    may_nice = capabilities & (1 << 23)  # CAP_SYS_NICE
    return own if limit == resource.RLIM_INFINITY or may_nice else max(own, 20 - limit)


def levels(nice: int, own: int, reachable: int) -> tuple[Level, ...]:
    """Return the priorities of a worker, lowest first.

    `nice` is what was asked for: 19 begins in SCHED_IDLE. A worker never goes below `own`. If
    `reachable` is above 10, a worker could not be raised far enough to get on: then it has one
    level, of niceness 10 at most.
    """
    if reachable > _SHARING:
        return (Level(max(own, min(nice, _SHARING))),)
    nice = max(own, nice)
    steps = sorted({nice, _SHARING, max(own, reachable)}, reverse=True)
    found = [Level(step) for step in steps if step <= nice]
    if nice == MOST_NICE:
        found.insert(0, Level(nice, idle=True))
    return tuple(found)


@final
class Ladder:
    """Chooses a worker's level from its heartbeats and its use of the processors.

    After `bound` seconds of silence it looks for as long at a worker that could run, and then
    raises it.
    """

    def __init__(self, steps: Sequence[Level], bound: float) -> None:
        self.raised = self._at = 0
        self.changed = self._quick_since = 0.0
        self._steps, self._bound = steps, bound
        self._pause, self._lowered = _PAUSE, False
        self._looking: tuple[float, float] | None = None

    @property
    def level(self) -> Level:
        """The level that the worker should have."""
        return self._steps[self._at]

    def begin(self, now: float) -> None:
        """Note that a worker became ready; it keeps the level of the one before."""
        self.changed = self._quick_since = now
        self._looking = None

    def keep_to(self, steps: Sequence[Level]) -> None:
        """Take other levels."""
        self._steps, self._at = steps, 0

    def look(self, now: float, heard: float, measure: Callable[[], Usage]) -> bool:
        """Return whether the level changed; `measure` is called only in silence."""
        if now - heard < self._bound:
            self._looking = None
            if not self._at or now - self._quick_since < self._pause:
                return False
            self._at -= 1
            self._lowered = True
            self.changed = self._quick_since = now
            return True
        self._quick_since = now
        if self._looking is None:
            self._looking = now, measure().seconds
            return False
        began, before = self._looking
        if now - began < self._bound:
            return False
        usage = measure()
        self._looking = now, usage.seconds
        runs = usage.seconds - before >= _RUNS * (now - began)
        if runs or not usage.runnable or self._at + 1 == len(self._steps):
            return False
        self._at += 1
        self.raised += 1
        if self._lowered:
            self._pause, self._lowered = min(2 * self._pause, _MOST_PAUSE), False
        self.changed = now
        return True


def set_level(pids: Iterable[int], level: Level) -> None:
    """Set the level of all threads of processes, or raise an OSError."""
    for pid in pids:
        done: set[int] = set()
        # A thread that starts meanwhile has the level of the one that started it.
        while fresh := set(_threads(pid)) - done:
            for thread in fresh:
                with contextlib.suppress(ProcessLookupError):
                    os.setpriority(os.PRIO_PROCESS, thread, level.nice)
                    if sys.platform == "linux":
                        policy = os.SCHED_IDLE if level.idle else os.SCHED_BATCH
                        os.sched_setscheduler(thread, policy, os.sched_param(0))
            done |= fresh


def _threads(pid: int) -> list[int]:
    try:
        return [int(each.name) for each in Path(f"/proc/{pid}/task").iterdir()]
    except FileNotFoundError:
        return [pid] if sys.platform != "linux" else []


def usage(pid: int) -> Usage:
    """Measure a process and its descendants."""
    ticks, runnable = 0, False
    for each in family(pid):
        whole = _stat(Path(f"/proc/{each}/stat"))
        if whole is None:
            continue
        ticks += int(whole[11]) + int(whole[12])  # in user and in system mode
        for thread in _threads(each):
            fields = _stat(Path(f"/proc/{each}/task/{thread}/stat"))
            runnable |= fields is not None and fields[0] == "R"
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), runnable)


def family(pid: int) -> list[int]:
    """Return the ids of a process and its descendants."""
    if not _lists_children():
        # Look at all processes instead, which takes milliseconds.
        return [pid, *offspring(pid)]
    found = [pid]
    for each in found:
        found += _children(each)
    return found


@cache
def _lists_children() -> bool:
    """Return whether the kernel lists a process's children."""
    return Path(f"/proc/self/task/{os.getpid()}/children").exists()


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for thread in _threads(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found


def _stat(path: Path) -> list[str] | None:
    """Return the fields of /proc/PID/stat after the command's name; None if it is gone."""
    try:
        return path.read_text().rpartition(")")[2].split()
    except OSError:
        return None


_TRUSTED = 0.25
"""The share of a limit for which silence counts without a look at the worker."""
_LOOKS, _REST = 16.0, 0.5
"""Looks within a limit, at least, and seconds between two looks, at most."""


@final
class Silence:
    """Measures the silence of one worker.

    Between two looks a worker counts as silent for as long as it computed, if it could have run at
    the second look, and for the whole time if it was waiting for something other than a processor.
    So a hang is found on any machine: one that computes uses up its limit, and one that waits does
    so in real time.
    """

    def __init__(self) -> None:
        self._heard = self._looked = self._counted = 0.0
        self._used: float | None = None

    def beyond(self, limit: float, now: float, heard: float, measure: Callable[[], Usage]) -> bool:
        """Return whether the silence since `heard` has lasted longer than a limit.

        All are in seconds. `measure` is called only if the silence is long.
        """
        if heard != self._heard:
            self._heard, self._used = heard, None
        if now - heard < _TRUSTED * limit:
            return False
        if self._used is None:
            self._looked, self._used = now, measure().seconds
            self._counted = _TRUSTED * limit
            return False
        passed = now - self._looked
        if passed < min(_REST, limit / _LOOKS):
            return False
        usage = measure()
        ran = max(0.0, usage.seconds - self._used)
        self._counted += min(passed, ran) if usage.runnable else passed
        self._looked, self._used = now, usage.seconds
        return self._counted > limit
