"""`agentkd bench ticks`: whether a clock is kept while planner and distiller work."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table as Grid

from agentkd.bench.ticks import Ticks, measure
from agentkd.cli.terminal import Console
from agentkd.errors import ConfigError
from agentkd.report.model import Report, Section, Table
from agentkd.report.write import prepare_out, write_report

_NAMES = (
    "ticks",
    "missed cycles",
    "their share",
    "lateness µs, p50",
    "p99",
    "p99.9",
    "max",
    "deadlines missed",
    "planner's answers",
    "gradient steps",
)
_ALLOWED = 0.005
"""More missed cycles than idle, as a share of the ticks, that are put up with."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Keep a clock with planner and distiller idle and busy in turns.

    Each of the three is a process of its own when busy: ticks, a planner that thinks without a
    pause, a distiller that learns without one. On two cores they share.

    Example: agentkd bench ticks --hz 1000 --seconds 30
    """

    hz: float = 1000.0
    """Ticks per second."""
    seconds: float = 30.0
    """How long the clock is kept idle, and as long busy."""
    rounds: int = 3
    """In how many turns."""
    out: Path | None = None
    """Where to write report.json and report.html; nothing is written without it."""
    overwrite: bool = False
    """Replace the report that is there."""


def run(options: Options) -> int:
    """Keep the clock, and print the table."""
    if not options.hz > 0 or not options.seconds > 0:
        raise ConfigError(f"--hz {options.hz:g} --seconds {options.seconds:g}: both above 0.")
    if options.out is not None:
        prepare_out(options.out, overwrite=options.overwrite)
    console = Console()
    with console.status("") as status:

        def show(name: str, number: int) -> None:
            status.update(f"{name}, round {number + 1} of {options.rounds}")

        idle, busy = measure(options.hz, options.seconds, options.rounds, show)
    columns = ["", "idle", "busy"]
    rows = [[name, *cells] for name, *cells in zip(_NAMES, _cells(idle), _cells(busy), strict=True)]
    grid = Grid(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        grid.add_column(column, justify="right" if column else "left")
    for row in rows:
        grid.add_row(*row)
    console.print(grid)
    more = busy.share - idle.share
    lost = sum(each.ticks - each.decisions for each in (idle, busy))
    verdict = (
        f"Busy missed {100 * more:+.3f} % of the cycles more than idle; {lost} decisions were lost."
    )
    console.print(verdict, highlight=False)
    if options.out is not None:
        data = {
            "command": "bench ticks",
            "hz": options.hz,
            "seconds": options.seconds,
            "idle": {**asdict(idle), "share": idle.share},
            "busy": {**asdict(busy), "share": busy.share},
            "missed_share_more": more,
            "within": more <= _ALLOWED,
        }
        section = Section("The clock, idle and busy", verdict, Table(columns, rows))
        write_report(options.out, Report(data, [section]))
        console.print(f"report    {options.out / 'report.html'}")
    return 0


def _cells(ticks: Ticks) -> list[str]:
    late = ticks.late_us
    return [
        f"{ticks.ticks:,}",
        f"{ticks.missed:,}",
        f"{ticks.share:.3%}",
        *(f"{late[key]:,.0f}" for key in ("p50", "p99", "p99.9", "max")),
        f"{ticks.deadline_misses:,}",
        f"{ticks.answers:,}",
        f"{ticks.steps:,}",
    ]
