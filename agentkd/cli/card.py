"""`agentkd card`: a model card of measured figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from agentkd.cli.inspect import describe
from agentkd.cli.terminal import Console
from agentkd.deploy.bundle import read_bundle
from agentkd.errors import ConfigError
from agentkd.files import digest_of, read_file, write_files
from agentkd.planners.hub import LARGEST, needed
from agentkd.report.card import Figures, card, of_provenance, of_report
from agentkd.report.write import read_report

_NAME = "README.md"
_MOST = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write a model card: what an executor or planner is, and what was measured of it.

    The figures are those of a report of eval, run or distill; without one, those in the executor's
    file. The card is a README.md with the front matter that the Hugging Face Hub reads. An
    earlier README keeps its text: the front matter and one block are replaced.
    """

    source: tyro.conf.Positional[Path]
    """An executor file (.akd), a folder with one or with a planner, or a run's folder."""
    report: Path | None = None
    """The report.json to take figures from; by default the one beside the files."""
    out: Path | None = None
    """The file to write; by default README.md beside the files."""
    name: str = ""
    """The model's name; by default that of the folder."""
    licence: str = ""
    """The licence as the Hub names it, such as mit."""


def run(options: Options) -> int:
    """Read what is known, and write the card."""
    source = options.source
    if not source.exists():
        raise ConfigError(f"{source} is not there; name an executor file or a folder.")
    folder = source if source.is_dir() else source.parent
    paths = [source]
    if source.is_dir():
        paths = sorted(each for each in source.iterdir() if each.is_file() and needed(each.name))
    if not paths:
        raise ConfigError(f"{source} has no file of a planner or executor.")
    bundles = {each: read_bundle(each) for each in paths if each.suffix == ".akd"}
    facts = describe(next(iter(bundles.values()))) if bundles else {}
    told = [of_provenance(each.provenance) for each in bundles.values()]
    figures = _figures(options.report or folder / "report.json", options.report is not None, told)
    out = options.out or folder / _NAME
    before = _text(out) if out.exists() else ""
    text = card(
        figures,
        facts,
        name=options.name or folder.resolve().name,
        files={each.name: _sha(each) for each in paths},
        licence=options.licence,
        before=before,
    )
    write_files({out: text})
    Console().print(f"{out}: {len(figures.policies)} policies measured", soft_wrap=True)
    return 0


def _figures(report: Path, asked: bool, told: list[Figures]) -> Figures:
    """Return the figures of a report, or else of the first file that has some."""
    if asked or report.is_file():
        data: Mapping[str, Any] = read_report(report)
        found = of_report(data)
        if not found.policies:
            raise ConfigError(f"{report} holds no returns. Reports of eval, run and distill do.")
        return found
    known = [each for each in told if each.policies]
    return (known or told or [Figures("", ())])[0]


def _text(path: Path) -> str:
    try:
        return read_file(path, _MOST).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8. Give --out another file.") from error


def _sha(path: Path) -> str:
    if path.stat().st_size > LARGEST:
        raise ConfigError(f"{path} is larger than {LARGEST:,} bytes.")
    with path.open("rb") as stream:
        return digest_of(stream)
