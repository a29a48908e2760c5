"""Tick schedules: wall clock and virtual clock; and the system kept out of their way.

What is asked of the system is optional. What it does not grant is reported and never fatal: without
privileges a program ticks a little less evenly, and says so.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, final

from agentkd.affinity import UNBOUND
from agentkd.errors import ConfigError, check_range
from agentkd.runtime.chores import Chores
from agentkd.runtime.metrics import Metrics

_SPIN = 200_000
"""The last 0.2 ms before a tick are spun, in ns: a sleep may end 60 µs late."""
_SWITCH = 1e-4
"""How long another thread may keep the interpreter from the tick, in seconds."""
_CURRENT_AND_FUTURE = 1 | 2
_MAY_LOCK = 1 << 14
"""CAP_IPC_LOCK in a process's capabilities."""
GRANTED = "granted"


@dataclass(frozen=True, slots=True)
class Tick:
    """One tick of a clock.

    Attributes:
        index: Counts the ticks that took place.
        scheduled: When it was due, in seconds since the start.
        lateness: How much later it came, in seconds.
        missed: How many whole periods were skipped right before it.
    """

    index: int
    scheduled: float
    lateness: float
    missed: int


class Clock(Protocol):
    """The clock of a run."""

    @property
    def period(self) -> float:
        """Seconds from one tick to the next."""

    def start(self) -> None:
        """Start; the first tick is due now."""

    def wait(self) -> Tick:
        """Return when the next tick is due."""

    def now(self) -> float:
        """Seconds since the start."""


_SECONDS = "It counts seconds, such as 0.02 for 50 Hz."
_SHORTEST, _LONGEST = 1e-6, 1e6
"""Seconds between the ticks of a wall clock, which counts nanoseconds."""


@final
class WallClock:
    """Ticks at start + k · period, whatever happens in between.

    A tick that is due while the one before still works comes late. Whole periods that went by are
    skipped and counted: ticks never come in bursts to catch up.
    """

    def __init__(
        self,
        period: float,
        *,
        time_ns: Callable[[], int] = time.perf_counter_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        check_range("period", period, above=0, below=math.inf, hint=_SECONDS)
        check_range("period", period, least=_SHORTEST, most=_LONGEST, hint=_SECONDS)
        self.period = float(period)
        self._step = round(period * 1e9)
        self._time = time_ns
        self._sleep = sleep
        self.start()

    def start(self) -> None:
        """Start; the first tick is due now."""
        self._origin = self._time()
        self._due = self._origin
        self._index = 0

    def now(self) -> float:
        """Seconds since the start."""
        return (self._time() - self._origin) * 1e-9

    def wait(self) -> Tick:
        """Return when the next tick is due, or at once if it is overdue."""
        due, clock = self._due, self._time
        now = clock()
        missed = 0
        if now >= due + self._step:
            missed = (now - due) // self._step
            due += missed * self._step
        elif now < due:
            ahead = due - now - _SPIN
            if ahead > 0:
                self._sleep(ahead * 1e-9)
            now = clock()
            while now < due:
                now = clock()
        tick = Tick(self._index, (due - self._origin) * 1e-9, (now - due) * 1e-9, missed)
        self._due = due + self._step
        self._index += 1
        return tick


@final
class VirtualClock:
    """Ticks as fast as they are taken, each exactly on time."""

    def __init__(self, period: float) -> None:
        check_range("period", period, above=0, below=math.inf, hint=_SECONDS)
        self.period = float(period)
        self.start()

    def start(self) -> None:
        """Start; the first tick is due now."""
        self._index = 0

    def now(self) -> float:
        """Seconds since the start: those of the ticks that were taken."""
        return self._index * self.period

    def wait(self) -> Tick:
        """Return the next tick."""
        tick = Tick(self._index, self._index * self.period, 0.0, 0)
        self._index += 1
        return tick


@final
class Ticker:
    """Waits for the ticks of a clock and counts them.

    Attributes:
        ticks: How many there were.
        late: How late the last one came, ns.
    """

    def __init__(self) -> None:
        self.late = self.ticks = 0
        self._came = math.nan
        self._due = 0.0  # the first tick is at once

    def wait(self, clock: Clock, counters: Metrics, chores: Chores | None = None) -> Tick:
        """Return when the next tick is due; do chores meanwhile, as far as there is time."""
        if chores is not None:
            chores.between(clock, self._due)
        found = clock.wait()
        self._due = found.scheduled + clock.period
        if clock.__class__ is VirtualClock:
            self._due = math.inf
        self.ticks += 1
        self.late = round(found.lateness * 1e9)
        counters.missed_cycles += found.missed
        counters.lateness.record(self.late)
        before, self._came = self._came, found.scheduled + found.lateness
        if before == before:  # not at the first tick
            counters.periods.record(round((self._came - before) * 1e9))
        return found


def make_clock(clock: Literal["wall", "virtual"] | Clock, hz: float) -> Clock:
    """Return a clock by name, or a clock as it is; raise ConfigError for another name or rate."""
    check_range("hz", hz, above=0, below=math.inf, hint="It is a rate, such as 50.")
    if not isinstance(clock, str):
        return clock
    if clock not in ("wall", "virtual"):
        raise ConfigError(f"No clock {clock!r}. Known: 'virtual', 'wall'.")
    return WallClock(1.0 / hz) if clock == "wall" else VirtualClock(1.0 / hz)


@dataclass(frozen=True, slots=True)
class Realtime:
    """What is asked for the thread that ticks, while it ticks.

    Attributes:
        priority: Its SCHED_FIFO priority, 1 to 99; None for an ordinary thread.
        cores: The processors that it is bound to; None for any. What it starts is not bound.
        lock_memory: Keep all memory from being paged out.
        freeze: Never look for garbage among what lived before, and elsewhere only when there is
            slack.
    """

    priority: int | None = None
    cores: Sequence[int] | None = None
    lock_memory: bool = False
    freeze: bool = True

    def __post_init__(self) -> None:
        check_range(
            "priority", self.priority, least=1, most=99, hint="So SCHED_FIFO has them.", whole=True
        )
        if self.cores is not None and (not self.cores or any(core < 0 for core in self.cores)):
            raise ConfigError(f"cores are {self.cores}; at least one, from 0 on.")


@contextmanager
def realtime(options: Realtime | None = None) -> Iterator[dict[str, str]]:
    """Keep interpreter and system out of a tick's way while the block runs.

    Another thread gives the interpreter up after 0.1 ms instead of 5. With `freeze`, what lives
    already is never scanned for garbage again and automatic collection is off (call `gc.collect`
    when there is slack). All of it is undone at the end.

    Yields:
        What was asked for by name: "granted", or why not.
    """
    wanted = options or Realtime()
    told: dict[str, str] = {}
    with ExitStack() as undo:
        _interpreter(undo, freeze=wanted.freeze)
        if wanted.lock_memory:
            told["lock_memory"] = _tried(_lock_memory, undo)
        if wanted.cores is not None:
            told["cores"] = _tried(_bind, undo, tuple(wanted.cores))
        if wanted.priority is not None:
            told["priority"] = _tried(_raise, undo, wanted.priority)
        yield told


def _interpreter(undo: ExitStack, *, freeze: bool) -> None:
    switch = sys.getswitchinterval()
    sys.setswitchinterval(min(switch, _SWITCH))
    undo.callback(sys.setswitchinterval, switch)
    if freeze and gc.isenabled():
        gc.collect()
        gc.disable()
        undo.callback(gc.enable)
        if not gc.get_freeze_count():
            gc.freeze()
            undo.callback(gc.unfreeze)


def _tried(ask: Callable[..., None], undo: ExitStack, *wanted: object) -> str:
    try:
        ask(undo, *wanted)
    except AttributeError:
        return "not granted: this system has no such thing"
    except (OSError, ValueError) as error:
        return f"not granted: {error}"
    return GRANTED


def _bind(undo: ExitStack, cores: tuple[int, ...]) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    undo.callback(os.sched_setaffinity, 0, before)
    UNBOUND.append(before)
    undo.callback(UNBOUND.pop)


def _raise(undo: ExitStack, priority: int) -> None:
    policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    # Whatever this thread starts is ordinary again.
    fifo = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
    os.sched_setscheduler(0, fifo, os.sched_param(priority))
    undo.callback(os.sched_setscheduler, 0, policy, parameter)


def _lock_memory(undo: ExitStack) -> None:
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit != resource.RLIM_INFINITY and not _privileged():
        # Under a limit, locking succeeds and a later allocation fails.
        raise PermissionError(
            f"only {limit >> 10} KiB may be locked; raise it with ulimit -l unlimited, "
            "or grant CAP_IPC_LOCK"
        )
    library = ctypes.CDLL(None, use_errno=True)
    if library.mlockall(_CURRENT_AND_FUTURE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    undo.callback(library.munlockall)


def _privileged() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value, 16) & _MAY_LOCK)
    return False
