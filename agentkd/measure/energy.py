"""What a decision costs in energy on this machine: measured by RAPL, or estimated.

RAPL counts what a processor package takes, all of it, whoever uses it, some thousand times a second
in steps of tens of microjoules. One decision is far below that; so each form decides for a second
or more without a pause, and what the machine takes when it is idle is subtracted. Where nobody may
read the counters, the processor time that the form took is multiplied by a stated power.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

from agentkd.errors import check_range
from agentkd.measure.latency import Decide, Form
from agentkd.types import Floats

SHORTEST = 1.0
"""Seconds: shorter batches say more of the counters' steps than of the form."""
WATTS = 5.0
"""Of a busy core, where nothing is measured: server parts give 3 to 5 W for each core (360 W over
96 of an EPYC 9654), desktops about 10 (65 W over 6), a laptop or a Raspberry Pi 5 from 1 to 4."""
_ROOT = Path("/sys/class/powercap")
_WARM = 20


class Meter(Protocol):
    """Counts energy."""

    def joules(self) -> float:
        """What was taken since some moment, J; grows."""
        ...


@dataclass(frozen=True, slots=True)
class Clocks:
    """How time passes; replaced in tests.

    Attributes:
        wall: Seconds.
        cpu: Seconds that this process was on a core, all threads together.
        sleep: Waits for seconds.
    """

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class Energy:
    """What a form took for one decision.

    Attributes:
        name: The form's.
        microjoules: NaN where it could not be told.
        calls: How many decisions the batch had.
        seconds: How long it took.
        cpu_seconds: Processor time of it.
    """

    name: str
    microjoules: float
    calls: int = 0
    seconds: float = math.nan
    cpu_seconds: float = math.nan


@dataclass(frozen=True, slots=True)
class Bill:
    """What all forms took, and how that is known.

    Attributes:
        rows: The forms, in their order.
        source: "RAPL", or "estimate".
        text: How, in a sentence.
        idle_watts: What the machine takes idle; NaN for an estimate.
    """

    rows: tuple[Energy, ...]
    source: str
    text: str
    idle_watts: float


@final
class Rapl:
    """The energy counters of all processor packages."""

    def __init__(self, packages: Sequence[Path]) -> None:
        """Read folders such as /sys/class/powercap/intel-rapl:0.

        Raises:
            OSError: If one cannot be read.
            ValueError: If one holds no number.
        """
        self._counters = [each / "energy_uj" for each in packages]
        self._ranges = [_number(each / "max_energy_range_uj") for each in packages]
        self._before = [_number(each) for each in self._counters]
        self._total = 0

    def joules(self) -> float:
        """What all packages took since the beginning. Read it within minutes again."""
        for index, counter in enumerate(self._counters):
            now = _number(counter)
            taken = now - self._before[index]
            # It begins anew behind its range.
            self._total += taken if taken >= 0 else taken + self._ranges[index]
            self._before[index] = now
        return self._total / 1e6


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))


def find_rapl(root: Path = _ROOT) -> tuple[Rapl | None, str]:
    """Find the packages' counters; None and the reason where they cannot be read."""
    if not root.is_dir():
        return None, f"no {root} here"
    # Packages alone: cores and memory are parts of them, "psys" holds them all.
    packages = [
        each
        for each in sorted(root.glob("intel-rapl:*"))
        if each.name.count(":") == 1 and _named(each).startswith("package")
    ]
    if not packages:
        return None, f"no package counts in {root}"
    try:
        return Rapl(packages), ""
    except PermissionError:
        return None, f"{packages[0]}/energy_uj is not readable (root may)"
    except (OSError, ValueError) as error:
        return None, f"{packages[0]}: {error}"


def _named(folder: Path) -> str:
    try:
        return (folder / "name").read_text(encoding="ascii")
    except OSError:
        return ""


def measure(
    forms: Sequence[Form],
    obs: Floats,
    *,
    seconds: float = SHORTEST,
    watts: float = WATTS,
    meter: Meter | None = None,
    missing: str = "",
    clocks: Clocks | None = None,
) -> Bill:
    """Let each form decide for some seconds, and divide what that took.

    Args:
        forms: What to measure.
        obs: Observations that are decided in turn, (n, size).
        seconds: For each form; at least 1.
        watts: Of a busy core, for the estimate.
        meter: Counts energy; None for an estimate.
        missing: Why there is no meter.
        clocks: How time passes.

    Raises:
        ConfigError: If a number is invalid.
    """
    check_range("seconds", seconds, least=SHORTEST)
    check_range("watts", watts, above=0)
    passing = clocks or Clocks()
    idle = math.nan if meter is None else _idle(meter, seconds, passing)
    each = list(obs)
    rows = []
    for form in forms:
        if form.decide is None:
            rows.append(Energy(form.name, math.nan))
            continue
        try:
            rows.append(_batch(form, form.decide, each, seconds, meter, idle, watts, passing))
        except Exception:
            # Why it raises stands in the table of its latency.
            rows.append(Energy(form.name, math.nan))
    if meter is None:
        text = (
            f"Energy is an estimate: processor time × {watts:g} W a busy core. It is "
            f"not measured: {missing or 'there is no meter'}."
        )
        return Bill(tuple(rows), "estimate", text, idle)
    text = (
        f"Energy is measured: RAPL's package counters over {seconds:g} s of decisions, "
        f"less the {idle:.1f} W that the machine took idle just before."
    )
    return Bill(tuple(rows), "RAPL", text, idle)


def _idle(meter: Meter, seconds: float, clocks: Clocks) -> float:
    """What the machine takes while this process sleeps, W."""
    begun, before = clocks.wall(), meter.joules()
    clocks.sleep(seconds)
    return (meter.joules() - before) / (clocks.wall() - begun)


def _batch(
    form: Form,
    decide: Decide,
    obs: list[Floats],
    seconds: float,
    meter: Meter | None,
    idle: float,
    watts: float,
    clocks: Clocks,
) -> Energy:
    for index in range(_WARM):
        decide(obs[index % len(obs)])
    calls = 0
    joules = 0.0 if meter is None else meter.joules()
    cpu, begun = clocks.cpu(), clocks.wall()
    # The clock is asked once a round of observations, so that it takes no part.
    while clocks.wall() - begun < seconds:
        for one in obs:
            decide(one)
        calls += len(obs)
    lasted, busy = clocks.wall() - begun, clocks.cpu() - cpu
    taken = busy * watts
    if meter is not None:
        taken = max(0.0, meter.joules() - joules - idle * lasted)
    return Energy(form.name, 1e6 * taken / calls, calls, lasted, busy)
