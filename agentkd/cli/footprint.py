"""`agentkd footprint`: what an executor takes of a microcontroller."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from agentkd.errors import ConfigError

if TYPE_CHECKING:
    from agentkd.cli.terminal import Console
    from agentkd.deploy.bundle import Bundle
    from agentkd.deploy.cores import Core
    from agentkd.deploy.emulators import Measured, Program

_ROWS = 16


@dataclass(frozen=True, kw_only=True)
class Options:
    """Build an executor for several cores, run it there, and say what it takes.

    Example: agentkd footprint runs/demo/executor.akd --int8
    """

    file: tyro.conf.Positional[Path]
    """The executor file (.akd)."""
    int8: bool = False
    """In integers, besides in floats."""
    cores: tuple[str, ...] = ()
    """Which: m0, m3, m4f, m7, m33, rv32, rv64, aarch64, host; by default all."""
    nanojoules: float | None = None
    """Energy of an instruction, nJ, on every core alike; by default each core's, from a part's data
    sheet and assumed cycles, which the table names."""
    json: bool = False
    """Print JSON instead of a table."""
    record: bool = False
    """Write what was measured into the file, where inspect shows it."""


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of a form on a core."""

    core: Core
    form: str
    measured: Measured

    def nanojoules(self, given: float | None) -> float | None:
        """Energy of an instruction there; None where nothing is known."""
        from agentkd.deploy.power import POWER

        if given is not None:
            return given
        known = POWER.get(self.core.name)
        return None if known is None else known.nanojoules

    def facts(self, given: float | None) -> dict[str, Any]:
        """All of it by name; energy in µJ."""
        each, cost = self.measured, self.nanojoules(given)
        energy = None
        if each.instructions is not None and cost is not None:
            energy = each.instructions * cost / 1000
        return {
            "core": self.core.name,
            "label": self.core.label,
            "form": self.form,
            "wrong": each.wrong,
            "instructions": each.instructions,
            "energy_uj": energy,
            "flash": each.flash,
            "code": each.code,
            "library": each.library,
            "constants": each.constants,
            "ram": each.ram,
            "stack": each.stack,
        }


def run(options: Options) -> int:
    """Measure every core whose tools are here, and print a table."""
    from rich.text import Text

    from agentkd.cli.terminal import Console
    from agentkd.deploy.bundle import read_bundle
    from agentkd.deploy.cores import CORES, core

    if options.nanojoules is not None and not options.nanojoules > 0:
        raise ConfigError(f"--nanojoules {options.nanojoules}: it has to be above 0.")
    wanted = [core(name) for name in options.cores or CORES]
    bundle = read_bundle(options.file)
    programs = programs_of(bundle, int8=options.int8)
    # What is read by a program stays alone on stdout.
    console = Console(stderr=options.json)
    rows, absent = _measure(console, wanted, programs)
    facts = [row.facts(options.nanojoules) for row in rows]
    if options.json:
        json.dump({"cores": facts, "missing": absent}, sys.stdout, indent=1)
        sys.stdout.write("\n")
    elif rows:
        _show(console, rows, options)
    for line in absent:
        console.print(line, style="yellow", soft_wrap=True, highlight=False)
    wrong = [f"{row.core.label}, {row.form}" for row in rows if row.measured.wrong]
    if wrong:
        text = Text.assemble(("wrong answers", "red"), f": {'; '.join(wrong)}")
        console.print(text, soft_wrap=True)
    elif options.record and rows:
        _record(console, options, bundle, rows, facts)
    return 1 if wrong or not rows else 0


def _measure(
    console: Console, wanted: Sequence[Core], programs: dict[str, Program]
) -> tuple[list[Row], list[str]]:
    """Run each form on each core; give what was measured, and what is missing."""
    from agentkd.deploy.emulators import measure

    rows: list[Row] = []
    absent: list[str] = []
    with console.status("") as status:
        for each in wanted:
            missing = each.missing()
            if missing:
                absent.append(
                    f"{each.label}: {', '.join(missing)} missing; apt install "
                    + " ".join(each.packages)
                )
                continue
            for form, program in programs.items():
                status.update(f"{each.label}, {form}")
                rows.append(Row(each, form, measure(program, each)))
    return rows, absent


def programs_of(bundle: Bundle, *, int8: bool) -> dict[str, Program]:
    """The forms of an executor, each with vectors that it has to meet."""
    from agentkd.deploy.c99 import emit_c
    from agentkd.deploy.emulators import Program
    from agentkd.deploy.golden import golden
    from agentkd.deploy.int8.calibrate import integer_form
    from agentkd.deploy.int8.program import whole_program
    from agentkd.executors.difference import TOLERANCE

    name, executor = "executor", bundle.executor
    programs = {
        "float": Program(
            emit_c(executor, name),
            name,
            *golden(executor, _ROWS),
            tolerance=TOLERANCE,
            memory=executor.memory,
        )
    }
    if int8:
        programs["int8"] = whole_program(integer_form(bundle), _ROWS, name)
    return programs


def _show(console: Console, rows: Sequence[Row], options: Options) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("core", "form"):
        table.add_column(title, no_wrap=True)
    for title in ("", "instructions", "energy", "flash", "code", "RAM", "stack"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        each, facts = row.measured, row.facts(options.nanojoules)
        count = "–" if each.instructions is None else f"{each.instructions:,}"
        energy = facts["energy_uj"]
        table.add_row(
            *(row.core.label, row.form),
            "right" if not each.wrong else f"{each.wrong} WRONG",
            *(count, "–" if energy is None else f"{energy:,.1f} µJ"),
            *(f"{each.flash:,}", f"{each.code:,}", f"{each.ram:,}", f"{each.stack:,}"),
        )
    console.print(table)
    console.print(
        "Instructions are those of one decision, counted by the emulator; they are not "
        "cycles. Bytes: flash is code, constants and what comes of libraries; RAM is "
        "buffers; stack is painted and measured.\n" + _energy(rows, options.nanojoules),
        style="dim",
        highlight=False,
    )


def _energy(rows: Sequence[Row], given: float | None) -> str:
    """By what model energy was estimated, core by core."""
    from agentkd.deploy.power import POWER

    if given is not None:
        return f"Energy is an estimate: instructions × {given:g} nJ on every core."
    lines = ["Energy is an estimate: instructions × assumed cycles × current × voltage."]
    for name in dict.fromkeys(row.core.name for row in rows):
        if name in POWER:
            power = POWER[name]
            lines.append(
                f"  {name:<5}{power.nanojoules:.2f} nJ: {power.part}, "
                f"{power.cycles:g} cycles, {power.volts:g} V; {power.source}"
            )
    return "\n".join(lines)


def _record(
    console: Console,
    options: Options,
    bundle: Bundle,
    rows: Sequence[Row],
    facts: Sequence[dict[str, Any]],
) -> None:
    """Write what was measured into the file; what is estimated stays out."""
    from rich.text import Text

    from agentkd.deploy.bundle import replace_bundle, with_footprint
    from agentkd.deploy.emulators import compiler_version

    kept = ("core", "label", "form", "instructions", "flash", "ram", "stack")
    compilers = {row.core.name: compiler_version(row.core) for row in rows}
    data = with_footprint(
        bundle,
        {"cores": [{name: each[name] for name in kept} for each in facts], "compilers": compilers},
    )
    after = replace_bundle(options.file, data)
    console.print(Text(f"{options.file}: recorded, SHA-256 {after.digest}"), soft_wrap=True)
