"""`agentkd report`: runs of suites side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from agentkd.bench.compare import comparison_of, is_run
from agentkd.cli.terminal import View
from agentkd.errors import ConfigError
from agentkd.report.console import publish
from agentkd.report.write import prepare_out


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare runs of agentkd bench, seed by seed: each with the first.

    Nothing is measured: it is read from the rows of the folders. Reports of distill, run and eval
    are compared by agentkd eval ENV FOLDER FOLDER.

    Example: agentkd report runs/bench-quick runs/mine
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of two or more runs."""
    out: Path | None = None
    """Where to write report.json and report.html; nothing is written without it."""
    overwrite: bool = False
    """Replace the report that is there."""


def run(options: Options) -> int:
    """Read the rows, and show what differs."""
    for each in options.runs:
        if not is_run(each) and (each / "report.json").is_file():
            raise ConfigError(
                f"{each} is no run of agentkd bench. Reports of distill, run and eval are compared "
                f"by: agentkd eval ENV {' '.join(map(str, options.runs))}"
            )
    if options.out is not None and is_run(options.out):
        # --overwrite would delete the rows and executors of the run.
        raise ConfigError(
            f"--out {options.out} is the folder of a run of agentkd bench. Give the comparison a "
            "folder of its own."
        )
    report = comparison_of(options.runs)
    if options.out is not None:
        prepare_out(options.out, overwrite=options.overwrite)
    view = View((f"{len(options.runs)} runs", "bold"))
    publish(view.console, report, options.out)
    return 0
