"""`agentkd footprint`: what an executor takes of a microcontroller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from agentkd.errors import ConfigError

if TYPE_CHECKING:
    from agentkd.deploy.emulators import Measured, Program
    from agentkd.executors.frozen import Frozen

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
    nanojoules: float = 0.26
    """Energy of an instruction, for the estimate. The default is the order of a small
    Cortex-M4F: 58 µA/MHz at 3 V, 1.5 cycles an instruction. Give your own part's."""


def run(options: Options) -> int:
    """Measure every core whose tools are here, and print a table."""
    from rich.console import Console

    from agentkd.deploy.bundle import read_bundle
    from agentkd.deploy.cores import CORES, core
    from agentkd.deploy.emulators import measure

    if not options.nanojoules > 0:
        raise ConfigError(f"--nanojoules {options.nanojoules}: it has to be above 0.")
    wanted = [core(name) for name in options.cores or CORES]
    bundle = read_bundle(options.file)
    programs = programs_of(bundle.frozen, int8=options.int8)
    console = Console()
    rows: list[tuple[str, str, Measured]] = []
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
                rows.append((each.label, form, measure(program, each)))
    if rows:
        _show(console, rows, options)
    for line in absent:
        console.print(line, style="yellow", soft_wrap=True, highlight=False)
    wrong = [f"{label}, {form}" for label, form, each in rows if each.wrong]
    if wrong:
        console.print(f"[red]wrong answers[/]: {'; '.join(wrong)}", soft_wrap=True)
    return 1 if wrong or not rows else 0


def programs_of(frozen: Frozen, *, int8: bool) -> dict[str, Program]:
    """The forms of an executor, each with vectors that it has to meet."""
    from agentkd import dists
    from agentkd.deploy.c99 import emit_c
    from agentkd.deploy.emulators import Program
    from agentkd.deploy.golden import TOLERANCE, golden
    from agentkd.deploy.int8.emit import emit_c_int8, probes
    from agentkd.deploy.int8.quantise import quantise

    name = "executor"
    programs = {
        "float": Program(
            emit_c(frozen, name), name, *golden(frozen, _ROWS), tolerance=TOLERANCE
        )
    }
    if int8:
        quantised = quantise(frozen)
        obs = probes(quantised, _ROWS)
        actions = dists.mode(quantised(obs), frozen.spec.action)
        source = emit_c_int8(quantised, name)
        programs["int8"] = Program(source, name, obs, quantised.integers(obs), actions)
    return programs


def _show(
    console: object, rows: Sequence[tuple[str, str, Measured]], options: Options
) -> None:
    from rich.console import Console
    from rich.table import Table

    assert isinstance(console, Console)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("core", "form"):
        table.add_column(title, no_wrap=True)
    for title in ("answers", "instructions", "energy", "flash", "code", "RAM", "stack"):
        table.add_column(title, justify="right", no_wrap=True)
    for label, form, each in rows:
        count, energy = "–", "–"
        if each.instructions is not None:
            count = f"{each.instructions:,}"
            energy = f"{each.instructions * options.nanojoules / 1000:,.1f} µJ"
        table.add_row(
            *(label, form, "right" if not each.wrong else f"{each.wrong} WRONG"),
            *(count, energy, f"{each.flash:,}", f"{each.code:,}"),
            *(f"{each.ram:,}", f"{each.stack:,}"),
        )
    console.print(table)
    console.print(
        "Instructions are those of one decision, counted by the emulator; they are not "
        "cycles. Bytes: flash is code, constants and what comes of libraries; RAM is "
        "buffers; stack is painted and measured. Energy is an estimate: instructions × "
        f"{options.nanojoules:g} nJ on every core alike.",
        style="dim",
        highlight=False,
    )
