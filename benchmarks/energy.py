"""What a decision costs in energy on this machine: measured by RAPL, or estimated.

RAPL counts what a processor package takes, all of it, whichever program uses it, some thousand
times a second in steps of tens of microjoules. One decision is far below that; so each form decides
for a second or more without a pause, and what the machine takes when it is idle is subtracted.
Where the counters cannot be read, the processor time that the form took is multiplied by a stated
power.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

from agentkd.errors import check_range
from agentkd.measure.latency import Decide, Form, warm_up
from agentkd.types import Floats

SHORTEST = 1.0
"""Seconds: shorter batches say more of the counters' steps than of the form."""
WATTS = 5.0
"""Of a busy core, where nothing is measured: server parts give 3 to 5 W for each core (360 W over
96 of an EPYC 9654), desktops about 10 (65 W over 6), a laptop or a Raspberry Pi 5 from 1 to 4."""
_ROOT = Path("/sys/class/powercap")


class Meter(Protocol):
    """Counts energy."""

    def joules(self) -> float:
        """What was taken since some moment, J; grows."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """How time passes, in seconds; `cpu` is this process's on all cores. Replaced in tests."""

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class Energy:
    """What the form of a name took for one decision; NaN where it is unknown."""

    name: str
    microjoules: float


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
    """Let each form decide on observations (n, size) for some seconds, and divide what that took.

    Without a meter it is estimated for a core of so many watts; `missing` says why there is none.

    Raises:
        ConfigError: If there is less than a second for each form, or no power.
    """
    check_range("seconds", seconds, least=SHORTEST)
    check_range("watts", watts, above=0)
    clocks, each = clocks or Clocks(), list(obs)
    idle = math.nan
    if meter is not None:
        begun, before = clocks.wall(), meter.joules()
        clocks.sleep(seconds)
        idle = (meter.joules() - before) / (clocks.wall() - begun)

    def batch(decide: Decide) -> tuple[float, int]:
        """Give the joules of a batch, and how many decisions it had."""
        warm_up(decide, each)
        calls = 0
        before = 0.0 if meter is None else meter.joules()
        busy, begun = clocks.cpu(), clocks.wall()
        # The clock is asked once a round of observations, so that it takes no part.
        while clocks.wall() - begun < seconds:
            for one in each:
                decide(one)
            calls += len(each)
        lasted, busy = clocks.wall() - begun, clocks.cpu() - busy
        if meter is None:
            return busy * watts, calls
        return max(0.0, meter.joules() - before - idle * lasted), calls

    rows = []
    for form in forms:
        joules, calls = math.nan, 1
        if form.decide is not None:
            # Why it raises stands in the table of its latency.
            with suppress(Exception):
                joules, calls = batch(form.decide)
        rows.append(Energy(form.name, 1e6 * joules / calls))
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
