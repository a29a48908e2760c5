"""`agentkd bench realtime ticks`: how well a clock is kept under load, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes

from agentkd.bench.realtime.ticks import SYSTEMS, Kept, check_python, chunks, ours, theirs, together
from agentkd.cli.bench_realtime import Place, whole
from agentkd.errors import ConfigError, did_you_mean
from agentkd.report.model import Section, Table
from agentkd.runtime.scheduling import Realtime

_ANYWHERE = Place()
_COLUMNS = ("Hz", "loop", "actions", "missed", "share", "µs p50", "p99", "p99.9", "max")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Keep clocks while a planner and a distiller work without a pause.

    Each loop commands a robot that costs nothing and writes down when it was commanded; lateness is
    by how much the time between two commands exceeded the period, so that loops with and without an
    absolute schedule can be compared. The planner thinks for a period at least and the distiller
    learns all the time, each in a process of its own; loops of others have the same two processes
    beside them. All take turns in rounds, so that a noisy moment meets each of them.

    The second table is openpi-client's own case: a policy of 150 ms at 50 Hz, with chunks of 10, 5
    and 1 actions, and how much of the time its robot has no command.

    Others' loops need a Python of their own: python3 -m venv others && others/bin/pip install
    rtgym==0.16 openpi-client==0.1.2

    Example: agentkd bench realtime ticks --other-python others/bin/python
    """

    hz: str = "50,500,1000"
    """Ticks per second, separated by commas."""
    seconds: float = 60.0
    """How long each loop is timed at each rate, all rounds together."""
    rounds: int = 3
    """In how many turns."""
    other_python: Path | None = None
    """A Python that has rtgym and openpi-client; without it ours alone is timed."""
    systems: str = "rtgym,openpi"
    """Which of them, separated by commas."""
    idle: bool = True
    """Time each loop with nothing beside it as well: what the machine itself loses."""
    chunks: bool = True
    """Time the 150 ms policy as well."""
    priority: int | None = None
    """Give our ticks SCHED_FIFO with this priority, 1 to 99."""
    cores: tuple[int, ...] = ()
    """Bind our ticks to these processors."""
    place: OmitArgPrefixes[Place] = _ANYWHERE
    """Where the results go."""


def run(options: Options) -> int:
    """Keep the clocks, and print the tables."""
    rates = whole(options.hz, "--hz", 1.0)
    systems = _systems(options)
    if not options.seconds > 0 or options.rounds < 1:
        raise ConfigError(
            f"--seconds {options.seconds} --rounds {options.rounds}: above 0, at least 1."
        )
    realtime = Realtime(options.priority, options.cores or None)
    if options.other_python is not None and systems:
        check_python(options.other_python, systems)
    options.place.prepare()
    console = options.place.console()
    kept: list[Kept] = []
    with console.status("") as status:
        for hz in rates:
            loops = _loops(options, hz, systems, realtime)
            kept += _in_turns(loops, options.rounds, status.update, f"{hz:g} Hz")
        slow: list[Kept] = []
        if options.chunks:
            loops = _chunk_loops(options, systems)
            slow = _in_turns(loops, 1, status.update, "150 ms policy")
    sections = [_kept_section(kept)]
    if slow:
        sections.append(_chunk_section(slow))
    data = {
        "command": "bench realtime ticks",
        "seconds": options.seconds,
        "rounds": options.rounds,
        "loops": [_told(each) for each in kept],
        "chunks": [_told(each) for each in slow],
    }
    options.place.deliver(data, sections, _verdict(kept, slow))
    return 0


def _systems(options: Options) -> tuple[str, ...]:
    if options.other_python is None:
        return ()
    systems = tuple(word.strip() for word in options.systems.split(",") if word.strip())
    for system in systems:
        if system not in SYSTEMS:
            raise ConfigError(f"No system {system!r}.{did_you_mean(system, SYSTEMS)}")
    return systems


Loop = tuple[str, Callable[[], Kept]]


def _loops(options: Options, hz: float, systems: Sequence[str], realtime: Realtime) -> list[Loop]:
    seconds = options.seconds / options.rounds
    loops: list[Loop] = []
    if options.idle:
        loops.append(("ours, idle", lambda: ours(hz, seconds, busy=False)))
    loops.append(("ours, busy", lambda: ours(hz, seconds, busy=True, realtime=realtime)))
    python = options.other_python
    for system in systems:
        assert python is not None

        for busy in (False, True) if options.idle else (True,):

            def timed(system: str = system, python: Path = python, busy: bool = busy) -> Kept:
                return theirs(python, system, hz, seconds, busy=busy)

            loops.append((f"{system}, {'busy' if busy else 'idle'}", timed))
    return loops


def _chunk_loops(options: Options, systems: Sequence[str]) -> list[Loop]:
    seconds = min(20.0, options.seconds)
    loops: list[Loop] = [("ours", lambda: chunks(50.0, seconds, policy_ms=150.0, horizon=10))]
    python = options.other_python
    if python is None or "openpi" not in systems:
        return loops
    for horizon in (10, 5, 1):

        def timed(horizon: int = horizon, python: Path = python) -> Kept:
            found = theirs(
                python, "openpi", 50.0, seconds, busy=False, policy_ms=150.0, horizon=horizon
            )
            return Kept(f"openpi, chunks of {horizon}", *_rest(found))

        loops.append((f"openpi, chunks of {horizon}", timed))
    return loops


def _rest(kept: Kept) -> Any:
    return kept.load, kept.hz, kept.rounds, kept.note


def _in_turns(
    loops: Sequence[Loop], rounds: int, show: Callable[[str], None], what: str
) -> list[Kept]:
    """Time loops in turns; who goes first changes."""
    found: dict[int, list[Kept]] = {index: [] for index in range(len(loops))}
    for number in range(rounds):
        shift = number % len(loops)
        order = [*range(shift, len(loops)), *range(shift)]
        for index in order:
            name, timed = loops[index]
            show(f"{what}, round {number + 1} of {rounds}: {name}")
            found[index].append(timed())
    return [together(each) for each in found.values()]


def _kept_section(kept: Sequence[Kept]) -> Section:
    rows = []
    for each in kept:
        found = each.cadence()
        beside = "idle" if each.load == "none" else "busy"
        row: list[Any] = [f"{each.hz:g}", f"{each.system}, {beside}"]
        if found is None:
            row += ["–"] * 7
        else:
            row += [f"{found.ticks:,}", f"{found.missed:,}", f"{found.share:.3%}"]
            row += [f"{found.late_us[k]:,.0f}" for k in ("p50", "p99", "p99.9", "max")]
        rows.append(row)
    table = Table(
        _COLUMNS,
        rows,
        "Missed: periods without an action. µs: by how much the time from one action "
        "to the next exceeded the period. Busy: two processes at niceness 19 beside "
        "others' loops; ours are in SCHED_IDLE, as the runtime has them, and "
        "answer the loop and send it weights, too." + _notes(kept),
    )
    return Section("Ticks, with planner and distiller at work", "", table)


def _notes(kept: Sequence[Kept]) -> str:
    lines = [f"\n{each.hz:g} Hz {each.system}: {each.note}" for each in kept if each.note]
    return "".join(lines)


def _chunk_section(slow: Sequence[Kept]) -> Section:
    rows = []
    for each in slow:
        found = each.cadence()
        if found is None:
            rows.append([each.system, "–", "–", "–"])
            continue
        rows.append(
            [each.system, f"{found.hz:.1f}", f"{found.uncommanded:.1%}", f"{found.longest_ms:.0f}"]
        )
    columns = ("loop", "actions/s", "no command", "longest ms")
    table = Table(columns, rows, _notes(slow).strip())
    return Section("A policy of 150 ms at 50 Hz", "", table)


def _told(kept: Kept) -> dict[str, Any]:
    found = kept.cadence()
    data = {} if found is None else {**asdict(found), "share": found.share}
    return {
        "system": kept.system,
        "load": kept.load,
        "hz_wanted": kept.hz,
        "note": kept.note,
        **data,
    }


def _verdict(kept: Sequence[Kept], slow: Sequence[Kept]) -> str:
    said = []
    for each in kept:
        found = each.cadence()
        if each.system == "agentkd" and each.load != "none" and found is not None:
            said.append(f"{each.hz:g} Hz: {found.share:.3%} missed")
    text = "Ours with both at work: " + ", ".join(said) + "."
    for each in slow:
        found = each.cadence()
        if each.system == "agentkd" and found is not None:
            text += (
                f" With a planner of 150 ms our robot has no command for "
                f"{found.uncommanded:.1%} of the time."
            )
    return text
