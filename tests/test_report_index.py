"""The page that lists runs: up to date, and unharmed by what else lies there."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agentkd.report import index
from agentkd.report.model import Report
from agentkd.report.write import prepare_out, write_report
from tests.waiting import ENOUGH


def wrote(folder: Path, name: str, lead: str = "Late planner -190. More.", **data: object) -> Path:
    """A run that left a report."""
    write_report(folder / name, Report({"command": "run", "env": "Lander-v3", **data}, lead=lead))
    return folder / name


def listed(folder: Path) -> str:
    return (folder / "index.html").read_text(encoding="utf-8")


def test_each_run_brings_the_list_up_to_date(tmp_path: Path) -> None:
    """The newest is first, with its first sentence and a link to its report."""
    runs = tmp_path / "runs"
    wrote(runs, "first", date="2030-01-01T00:00:00+00:00")
    wrote(runs, "a b#c", "Keeps 0.99 of it. The rest.", date="2030-01-02T00:00:00+00:00")
    text = listed(runs)
    assert text.index("Keeps 0.99 of it.") < text.index("Late planner -190.")
    assert "The rest" not in text
    assert "More." not in text
    assert 'href="a%20b%23c/report.html"' in text
    assert text.count("run Lander-v3") == 2
    assert "default-src 'none'" in text


def test_only_folders_for_runs_are_listed(tmp_path: Path) -> None:
    """A folder of another name gets no page, and a page of others is left alone."""
    wrote(tmp_path / "work", "a")
    assert not (tmp_path / "work" / "index.html").exists()
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "index.html").write_text("mine")
    wrote(runs, "a")
    assert listed(runs) == "mine"


def test_a_list_is_kept_where_it_was_made(tmp_path: Path) -> None:
    """A folder that was renamed keeps its page up to date."""
    wrote(tmp_path / "runs", "a")
    (tmp_path / "runs").rename(tmp_path / "older")
    wrote(tmp_path / "older", "b", "Another.")
    assert "Another." in listed(tmp_path / "older")


def test_broken_runs_stop_nothing(tmp_path: Path) -> None:
    """What cannot be read is listed without a result, and files are no runs."""
    runs = tmp_path / "runs"
    prepare_out(runs / "under way")
    for name, text in (("torn", '{"lead": '), ("list", "[1]"), ("odd", '{"lead": 3, "env": []}')):
        (runs / name).mkdir()
        (runs / name / "report.json").write_text(text)
    (runs / "pipe").mkdir()
    (runs / "pipe" / ".agentkd").write_text("1")
    os.mkfifo(runs / "pipe" / "report.json")
    (runs / "loop").symlink_to(runs / "loop")
    (runs / "notes.txt").write_text("")
    wrote(runs, "whole")
    text = listed(runs)
    assert "Late planner -190." in text
    for name in ("under way", "torn", "list", "odd", "pipe"):
        assert f"<code>{name}</code>" in text
    assert text.count("It has no report, or not yet.") == 4
    assert "notes.txt" not in text
    assert "loop" not in text


def test_names_of_runs_are_text(tmp_path: Path) -> None:
    """Markup in a folder's name or a sentence is shown and not obeyed."""
    runs = tmp_path / "runs"
    wrote(runs, '<b>"x"', "<script>y</script>", env="<i>")
    text = listed(runs)
    assert "<script" not in text
    assert "<b>" not in text
    assert "<i>" not in text
    assert "%3Cb%3E%22x%22/report.html" in text


def test_a_name_of_bytes_that_are_no_text_is_listed(tmp_path: Path) -> None:
    """It is shown as far as it is text, and linked by its bytes."""
    runs = tmp_path / "runs"
    wrote(runs, os.fsdecode(b"\xe9t\xe9"), env="Odd-v0")
    wrote(runs, "whole")
    text = listed(runs)
    assert "%E9t%E9/report.html" in text
    assert "<code>\ufffdt\ufffd</code>" in text
    assert "whole/report.html" in text


def test_runs_that_end_together_are_all_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever writes the list last has seen all the others."""
    monkeypatch.setattr(index, "_PATIENCE", ENOUGH)
    runs = tmp_path / "runs"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: wrote(runs, f"run-{number}"), range(24)))
    text = listed(runs)
    assert all(f"<code>run-{number}</code>" in text for number in range(24))


def test_a_list_that_cannot_be_written_harms_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report is there all the same."""
    runs = tmp_path / "runs"
    (runs / "index.html").mkdir(parents=True)
    assert json.loads((wrote(runs, "a") / "report.json").read_text())["lead"]

    def refused(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(index, "write_atomic", refused)
    assert (wrote(tmp_path / "more" / "runs", "b") / "report.html").exists()
