"""The runner of all benchmarks: progress, results on disk, tables and reports.

A benchmark is a module with a dataclass of options, a function that lists what to measure, and
columns that show the results:

    BENCHMARK = Benchmark("faults", works, findings)
    run = BENCHMARK.run
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Generic, TypeVar

from rich.text import Text

from agentkd.cli.terminal import Console
from agentkd.errors import ConfigError
from agentkd.report import model
from agentkd.report.console import show_table
from agentkd.report.model import Report, Section, Table
from agentkd.report.write import prepare_out, write_report
from benchmarks.rows import Rows

Result = Mapping[str, Any]
"""What was measured, beside its key; JSON values."""
_INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the results go."""

    out: Path | None = None
    """Where to write report.json and report.html; nothing is written without it."""
    overwrite: bool = False
    """Replace the earlier run in this folder."""
    resume: bool = False
    """Continue the earlier run with the same options in this folder."""


_PLACE = ("out", "overwrite", "resume", "jobs")
Options = TypeVar("Options", bound=Place)


@dataclass(frozen=True, slots=True)
class Work:
    """One thing to measure.

    Attributes:
        name: What it is called in the terminal.
        key: What it is, as JSON values. With the options it decides the result.
        measure: Measures it, and returns JSON values.
    """

    name: str
    key: Mapping[str, Any]
    measure: Callable[[], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table of results.

    Attributes:
        name: The heading.
        value: Takes the cell's value from a row: a key, or a function.
        form: How numbers are formatted, such as ",.1f".
    """

    name: str
    value: str | Callable[[Any], Any]
    form: str = ""

    def cell(self, row: Any) -> Any:
        """Return the value of a row's cell."""
        return row[self.value] if isinstance(self.value, str) else self.value(row)


@dataclass(frozen=True, slots=True)
class Findings:
    """What the results say.

    Attributes:
        sections: Tables and plots.
        verdict: The answer in a few sentences.
        passed: Whether what had to hold did.
        data: More values for report.json.
    """

    sections: Sequence[Section]
    verdict: str = ""
    passed: bool = True
    data: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Benchmark(Generic[Options]):
    """A benchmark, ready to run.

    Attributes:
        name: Its name on the command line.
        works: Validates the options and lists what to measure.
        findings: Makes tables of the results, also where some are missing.
        brief: Describes one result in a few words.
        choosing: Options that choose works, and change no result of the others.
        prepare: Makes what all works need, once the output folder is there.
    """

    name: str
    works: Callable[[Options], Iterable[Work]]
    findings: Callable[[Options, Sequence[Result]], Findings]
    brief: Callable[[Result], str] = lambda _: ""
    choosing: Sequence[str] = ()
    prepare: Callable[[Options], None] = lambda _: None

    def run(self, options: Options) -> int:
        """Measure, print the tables and write the report.

        Returns:
            0; 1 if something that had to hold did not; 130 after Ctrl-C.

        Raises:
            AgentkdError: If an option is wrong, or something cannot be measured.
        """
        import torch

        torch.set_num_threads(1)
        own = self._own(options)
        works = {_text({**own, **each.key}): each for each in self.works(options)}
        if not works:
            raise ConfigError("Nothing to measure.")
        if options.out is not None:
            prepare_out(options.out, overwrite=options.overwrite, resume=options.resume)
        rows = Rows(options.out, resume=options.resume)
        console = Console()
        with console.status("preparing"):
            self.prepare(options)
        found: dict[str, Result] = {}
        interrupted = False
        try:
            with console.status("") as status:
                jobs = getattr(options, "jobs", 1)
                for key, result in _measured(works, rows, jobs, status.update):
                    found[key] = {**works[key].key, **result}
                    said = f"{works[key].name}  {self.brief(found[key])}"
                    console.print(Text(said.strip()), soft_wrap=True)
        except KeyboardInterrupt:
            interrupted = True
        # In the order of the works, however they were measured.
        results = [found[key] for key in works if key in found]
        told = self.findings(options, results)
        _show(console, told)
        if options.out is not None:
            data = {
                "command": f"benchmarks {self.name}",
                "argv": ["python", "-m", "benchmarks", *sys.argv[1:]],
                "options": json.loads(_text(asdict(options))),
                "results": results,
                "tables": [_plain(each) for each in told.sections if each.table],
                "verdict": told.verdict,
                "interrupted": interrupted,
                **(told.data or {}),
            }
            sections = list(told.sections)
            if told.verdict:
                sections.insert(0, Section("Result", told.verdict))
            write_report(options.out, Report(data, sections))
            console.print(Text(f"report    {options.out / 'report.html'}"))
        if interrupted:
            return _INTERRUPTED
        return 0 if told.passed else 1

    def _own(self, options: Options) -> dict[str, Any]:
        """Return what every result depends on."""
        apart = {*_PLACE, *self.choosing}
        given = {k: v for k, v in asdict(options).items() if k not in apart}
        return {"benchmark": self.name, "options": given}


def table(columns: Sequence[Column], rows: Iterable[Any], caption: str = "") -> Table:
    """Make a table of rows, each column's values from its function."""
    cells = [[each.cell(row) for each in columns] for row in rows]
    return Table([model.Column(each.name, form=each.form) for each in columns], cells, caption)


def pivot(
    name: str,
    cells: Mapping[tuple[Any, Any], Any],
    heads: Mapping[Any, str],
    form: str,
    caption: str = "",
) -> Table:
    """Make a table of values by row and column.

    Args:
        name: The heading of the rows' names.
        cells: The values by (row, column); missing ones are left open.
        heads: The columns' headings.
        form: How values are formatted.
        caption: A sentence under the table.
    """
    rows = [
        [str(row), *(cells.get((row, each)) for each in heads)]
        for row in dict.fromkeys(row for row, _ in cells)
    ]
    return Table([name, *(model.Column(each, form=form) for each in heads.values())], rows, caption)


def grouped(results: Iterable[Result], *keys: str) -> dict[tuple[Any, ...], list[Any]]:
    """Group results by the values of some keys, in the order in which they came."""
    found: dict[tuple[Any, ...], list[Any]] = {}
    for each in results:
        found.setdefault(tuple(each[key] for key in keys), []).append(each)
    return found


def _measured(
    works: Mapping[str, Work], rows: Rows, jobs: int, show: Callable[[str], None]
) -> Iterator[tuple[str, Result]]:
    """Give each result, those that are kept first where there are several jobs."""
    known = {key: rows.find(key) for key in works}
    if jobs > 1:
        missing = [key for key in works if known[key] is None]
        yield from ((key, kept) for key, kept in known.items() if kept is not None)
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            going = {pool.submit(works[key].measure): key for key in missing}
            try:
                for number, done in enumerate(as_completed(going), 1):
                    show(f"{number} of {len(missing)}")
                    yield going[done], rows.keep(going[done], done.result())
            except BaseException:
                # What is under way ends; what is pending does not begin.
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return
    for number, (key, work) in enumerate(works.items(), 1):
        kept = known[key]
        if kept is None:
            show(f"{work.name} ({number} of {len(works)})")
            kept = rows.keep(key, work.measure())
        yield key, kept


def _show(console: Console, told: Findings) -> None:
    for section in told.sections:
        if section.table is None or not section.table.rows:
            continue
        console.print(Text(section.title, "bold"))
        show_table(console, section.table)
    if told.verdict:
        console.print(told.verdict, highlight=False)


def _plain(section: Section) -> dict[str, Any]:
    assert section.table is not None
    columns = [head.title for head in section.table.heads()]
    return {"title": section.title, "columns": columns, "rows": section.table.texts()}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
