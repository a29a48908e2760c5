"""`agentkd bench realtime faults`: what befalls a planner, and what ticks do of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tyro.conf import OmitArgPrefixes

from agentkd.bench.realtime.faults import FAULTS, MEANING, Fault, Survived, survive
from agentkd.cli.bench_realtime import Place
from agentkd.errors import ConfigError, did_you_mean
from agentkd.report.model import Section, Table

_ANYWHERE = Place()
_COLUMNS = (
    "planner",
    "ticks",
    "lost",
    "missed",
    "share",
    "p99",
    "p99.9",
    "max",
    "restarts",
    "back",
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Kill, stop, slow down and corrupt a planner in the middle of a run at 1 kHz.

    After a third of the run it is killed (SIGKILL), stopped (SIGSTOP), made to answer ten times
    slower for a third of the run, or made to answer NaN. Decisions that were lost would be the
    runtime's fault: there have to be none, and no more missed cycles than in the run in which
    nothing happens. How soon answers come again depends on how long a start takes, and for a
    planner that hangs on --patience, which is 1 s here and 30 s by default.

    Example: agentkd bench realtime faults
    """

    hz: float = 1000.0
    """Ticks per second."""
    seconds: float = 12.0
    """How long each run is."""
    rounds: int = 1
    """How often each fault happens, in turns."""
    faults: str = ",".join(FAULTS)
    """Which faults, separated by commas."""
    answer_ms: float = 2.0
    """How long an answer of the planner takes."""
    patience: float = 1.0
    """Seconds of silence after which the planner counts as hung."""
    place: OmitArgPrefixes[Place] = _ANYWHERE
    """Where the results go."""


def run(options: Options) -> int:
    """Let each fault happen, and print the table."""
    faults = _faults(options.faults)
    if options.rounds < 1:
        raise ConfigError(f"--rounds {options.rounds}: at least 1.")
    for name in ("hz", "seconds", "answer_ms", "patience"):
        if not 0 < getattr(options, name) < math.inf:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(options, name)}: above 0.")
    options.place.prepare()
    # What befalls the planner is in the table.
    logging.getLogger("agentkd.runtime").setLevel(logging.ERROR)
    console = options.place.console()
    found: list[Survived] = []
    with console.status("") as status:
        for number in range(options.rounds):
            for fault in faults:
                status.update(f"{fault}, round {number + 1} of {options.rounds}")
                found.append(
                    survive(
                        fault,
                        hz=options.hz,
                        seconds=options.seconds,
                        answer_seconds=options.answer_ms / 1e3,
                        patience=options.patience,
                    )
                )
    table = Table(
        _COLUMNS,
        [_row(each) for each in found],
        "Lost: ticks without a decision. Missed: periods without a tick. p99 to max: "
        "by how many µs the time from one action to the next exceeded the period. "
        "Back: seconds until answers came again.",
    )
    data: dict[str, Any] = {
        "command": "bench realtime faults",
        "hz": options.hz,
        "seconds": options.seconds,
        "meaning": {fault: MEANING[fault] for fault in faults},
        "runs": [_told(each) for each in found],
    }
    title = f"What befalls a planner at {options.hz:g} Hz"
    options.place.deliver(data, [Section(title, "", table)], _verdict(found))
    return 0


def _faults(text: str) -> list[Fault]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if word not in FAULTS:
            raise ConfigError(f"No fault {word!r}.{did_you_mean(word, FAULTS)}")
    if not words:
        raise ConfigError("--faults is empty.")
    return [fault for word in words for fault in FAULTS if fault == word]


def _lost(survived: Survived) -> int:
    return survived.cadence.ticks - survived.decisions


def _told(survived: Survived) -> dict[str, Any]:
    data = asdict(survived)
    return {**data, "lost": _lost(survived), "missed_share": survived.cadence.share}


def _row(survived: Survived) -> list[str]:
    found = survived.cadence
    restarts = ", ".join(f"{n} {why}" for why, n in survived.restarts.items() if n)
    back = "–" if math.isnan(survived.recovery) else f"{survived.recovery:.3f}"
    return [
        survived.fault,
        f"{found.ticks:,}",
        f"{_lost(survived)}",
        f"{found.missed}",
        f"{found.share:.3%}",
        *(f"{found.late_us[key]:,.0f}" for key in ("p99", "p99.9", "max")),
        restarts or "–",
        back,
    ]


def _verdict(found: Sequence[Survived]) -> str:
    lost = sum(_lost(each) for each in found)
    back = [f"{each.fault} {each.recovery:.2f} s" for each in found if each.recovery > 0]
    text = f"{lost} decisions were lost."
    return text + (f" Answers were back after: {', '.join(back)}." if back else "")
