"""`agentkd footprint`: what an executor takes of a microcontroller."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.text import Text

from agentkd.cli.terminal import Console
from agentkd.deploy.bundle import Bundle, read_bundle, replace_bundle, with_footprint
from agentkd.deploy.c99 import emit_c
from agentkd.deploy.cores import CORES, POWER, Core, core
from agentkd.deploy.emulators import Program, compiler_version, measure, whole_program
from agentkd.deploy.int8.calibrate import integer_form
from agentkd.deploy.vectors import golden
from agentkd.errors import check_range
from agentkd.executors.difference import TOLERANCE
from agentkd.report.console import show_table
from agentkd.report.model import Column, Table

_ROWS = 16
"""Golden vectors that each form has to meet."""
_MEASURED = (*("wrong", "instructions", "flash", "code", "library", "constants"), *("ram", "stack"))
_RECORDED = ("core", "label", "form", "instructions", "flash", "ram", "stack")
_COLUMNS: tuple[Column | str, ...] = (
    *("core", "form", "", Column("instructions", form=","), Column("energy", "µJ", ",.1f")),
    *(Column(name, form=",") for name in ("flash", "code", "RAM", "stack")),
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Build an executor for several cores, run it there, and say what it takes."""

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


def run(options: Options) -> int:
    """Measure every core whose tools are here, and print a table."""
    check_range("--nanojoules", options.nanojoules, above=0)
    wanted = [core(name) for name in options.cores or CORES]
    bundle = read_bundle(options.file)
    programs = programs_of(bundle, int8=options.int8)
    # What is read by a program stays alone on stdout.
    console = Console(stderr=options.json)
    rows, absent = _measure(console, wanted, programs, options.nanojoules)
    if options.json:
        json.dump({"cores": rows, "missing": absent}, sys.stdout, indent=1)
        sys.stdout.write("\n")
    elif rows:
        _show(console, rows, options.nanojoules)
    for line in absent:
        console.print(line, style="yellow", soft_wrap=True)
    wrong = [f"{row['label']}, {row['form']}" for row in rows if row["wrong"]]
    if wrong:
        text = Text.assemble(("wrong answers", "red"), f": {'; '.join(wrong)}")
        console.print(text, soft_wrap=True)
    elif options.record and rows:
        _record(console, options.file, bundle, rows)
    return 1 if wrong or not rows else 0


def _measure(
    console: Console, wanted: Sequence[Core], programs: dict[str, Program], nanojoules: float | None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return what each form takes on each core, and what is missing, in sentences."""
    rows: list[dict[str, Any]] = []
    absent: list[str] = []
    with console.status("") as status:
        for each in wanted:
            if missing := each.missing():
                needs = " ".join(each.packages)
                absent.append(f"{each.label}: {', '.join(missing)} missing; apt install {needs}")
                continue
            power = POWER.get(each.name)
            cost = nanojoules or (None if power is None else power.nanojoules)
            for form, program in programs.items():
                status.update(f"{each.label}, {form}")
                found = measure(program, each)
                count, energy = found.instructions, None
                if count is not None and cost is not None:
                    energy = count * cost / 1000
                about = {"core": each.name, "label": each.label, "form": form}
                facts = {name: getattr(found, name) for name in _MEASURED}
                rows.append({**about, **facts, "energy_uj": energy})
    return rows, absent


def programs_of(bundle: Bundle, *, int8: bool) -> dict[str, Program]:
    """Return the forms of an executor, each with vectors that it has to meet."""
    name, executor = "executor", bundle.executor
    source, vectors = emit_c(executor, name), golden(executor, _ROWS)
    how: Any = {"tolerance": TOLERANCE, "memory": executor.memory}
    programs = {"float": Program(source, name, *vectors, **how)}
    if int8:
        programs["int8"] = whole_program(integer_form(bundle), _ROWS, name)
    return programs


def _show(console: Console, rows: Sequence[dict[str, Any]], nanojoules: float | None) -> None:
    cells = [
        [
            *(row["label"], row["form"]),
            "right" if not row["wrong"] else f"{row['wrong']} WRONG",
            *(row["instructions"], row["energy_uj"]),
            *(row[name] for name in ("flash", "code", "ram", "stack")),
        ]
        for row in rows
    ]
    show_table(console, Table(_COLUMNS, cells))
    console.print(
        "Instructions are those of one decision, counted by the emulator; they are not "
        "cycles. Bytes: flash is code, constants and what comes of libraries; RAM is "
        "buffers; stack is painted and measured.\n" + _energy(rows, nanojoules),
        style="dim",
    )


def _energy(rows: Sequence[dict[str, Any]], given: float | None) -> str:
    """Return by what model energy was estimated, core by core."""
    if given is not None:
        return f"Energy is an estimate: instructions × {given:g} nJ on every core."
    lines = ["Energy is an estimate: instructions × assumed cycles × current × voltage."]
    known = {row["core"]: POWER[row["core"]] for row in rows if row["core"] in POWER}
    lines += [
        f"  {name:<5}{power.nanojoules:.2f} nJ: {power.part}, {power.cycles:g} cycles, "
        f"{power.volts:g} V; {power.source}"
        for name, power in known.items()
    ]
    return "\n".join(lines)


def _record(console: Console, file: Path, bundle: Bundle, rows: Sequence[dict[str, Any]]) -> None:
    """Write what was measured into the file, and no estimates."""
    names = dict.fromkeys(row["core"] for row in rows)
    footprint = {
        "cores": [{name: row[name] for name in _RECORDED} for row in rows],
        "compilers": {name: compiler_version(core(name)) for name in names},
    }
    after = replace_bundle(file, with_footprint(bundle, footprint))
    console.print(f"{file}: recorded, SHA-256 {after.digest}", soft_wrap=True)
