"""Text of unknown origin reaches terminals, logs and reports without its controls."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from agentkd.cli.main import main
from agentkd.cli.terminal import Console
from agentkd.deploy.bundle import write_bundle
from agentkd.errors import AgentkdError, BundleError, LoadError, PlannerError
from agentkd.planners import Planner
from agentkd.planners.remote.client import RemotePlanner
from agentkd.planners.remote.server import PlannerServer
from agentkd.printable import logger, printable
from agentkd.report.model import Plot, Report, Section, Series
from agentkd.report.model import Table as Rows
from agentkd.report.write import write_report
from agentkd.runtime.exposition import _registry
from agentkd.types import Floats
from tests.runtime_children import SPEC, Echo, constant

ROOT = Path(__file__).parents[1]
HOSTILE = "a\x1b[2J\x1b]0;t\x07b\rc\x9b1m\u202ed\u2066\u200be\u2028f\x00g\x7f"
SHOWN = r"a\x1b[2J\x1b]0;t\x07b\rc\x9b1m\u202ed\u2066\u200be\u2028f\x00g\x7f"
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")


def clean(text: str) -> bool:
    return _CONTROLS.search(text) is None


def test_controls_are_escaped_and_the_rest_stays() -> None:
    """Escapes are Python's; letters, marks, symbols and wide spaces are kept."""
    assert printable(HOSTILE) == SHOWN
    for text in ("Größe … × µs 🤖 \u00a0 日本", "", "\\x1b", "[red]"):
        assert printable(text) == text
    assert printable("a\nb\tc\r\n") == r"a\nb\tc\r\n"
    assert printable("a\nb\tc\r\n", lines=True) == "a\nb\tc\\r\n"
    assert printable(printable(HOSTILE)) == printable(HOSTILE)
    assert printable("\udc80").encode() == rb"\udc80"


@pytest.mark.parametrize("kind", [AgentkdError, LoadError, BundleError, PlannerError])
def test_an_error_s_text_holds_no_controls(kind: type[AgentkdError]) -> None:
    """Whatever it quotes, `str` of it can be printed; its lines stay."""
    assert str(kind(HOSTILE)) == SHOWN
    assert str(kind("one\ntwo")) == "one\ntwo"


def test_a_log_record_holds_no_controls(caplog: pytest.LogCaptureFixture) -> None:
    """Neither its message nor its traceback, whatever the arguments are."""
    log = logger("agentkd.test")
    log.error("%s and %s", HOSTILE, 7, exc_info=ValueError(HOSTILE))
    log.warning("as it is: %d", 7)
    assert SHOWN in caplog.text
    assert "ValueError" in caplog.text
    assert clean(caplog.text)
    assert caplog.records[-1].args == (7,)


def printed(show: Callable[[Console], None]) -> str:
    console = Console()
    console.file = io.StringIO()
    console.width = 400
    show(console)
    return console.file.getvalue()


def in_a_table(console: Console) -> None:
    grid = Table(title=HOSTILE, caption=HOSTILE)
    grid.add_column(HOSTILE)
    grid.add_row(HOSTILE)
    grid.add_row(Text(HOSTILE, "red"))
    console.print(grid)


def in_a_status(console: Console) -> None:
    with console.status(HOSTILE) as status:
        status.update(HOSTILE)
        console.print(status.renderable)


@pytest.mark.parametrize(
    "show",
    [
        lambda console: console.print(HOSTILE),
        lambda console: console.print(HOSTILE, style="dim", soft_wrap=True),
        lambda console: console.print(Text.assemble((HOSTILE, "bold"), HOSTILE)),
        lambda console: console.print(Panel(HOSTILE, title=Text(HOSTILE))),
        in_a_table,
        in_a_status,
    ],
)
def test_a_console_prints_no_controls(show: Callable[[Console], None]) -> None:
    """In no way of printing that commands use."""
    text = printed(show)
    assert r"\x1b[2J" in text
    assert clean(text)


def test_a_console_takes_square_brackets_for_text() -> None:
    """Names are not markup, in strings, tables and spinners."""
    name = "[red]x[/] [bold [/link] :smile:"

    def show(console: Console) -> None:
        console.print(name)
        grid = Table(title=name)
        grid.add_column(name)
        grid.add_row(name)
        console.print(grid)
        with console.status(name) as status:
            status.update(name)
            console.print(status.renderable)

    assert printed(show).count(name) == 5


def test_commands_print_through_that_console_and_log_through_that_logger() -> None:
    """There is one place for each, and no markup that would be printed as it is."""
    for path in (ROOT / "agentkd").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name != "printable.py":
            assert "getLogger(__name__)" not in text, path
        if path.name != "terminal.py":
            assert not re.search(r"rich\.console import .*\bConsole\b", text), path
        assert "[/]" not in text, path
        assert "from_markup" not in text, path
        for column in re.findall(r"TextColumn\([^)]*\{.*", text):
            assert "markup=False" in column, path


def test_a_bundle_s_words_are_shown_on_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing in a file can draw a line of its own into the card of `inspect`."""
    file = tmp_path / "x.akd"
    name = HOSTILE + "\nproof  forged [red]"
    write_bundle(file, constant(1), {"env": name, "planner": {"name": name}})
    assert main(["inspect", str(file)]) == 0
    out = capsys.readouterr().out
    assert clean(out)
    assert "[red]" in out
    assert not re.search(r"^\W*proof\W+forged", out, re.MULTILINE)


def test_a_peer_s_words_are_escaped(caplog: pytest.LogCaptureFixture) -> None:
    """Its name, its refusals, and what its planner raises."""

    class Raises:
        def __call__(self, obs: Floats, /) -> Any:
            raise RuntimeError(HOSTILE)

    for policy in (Echo(), Raises()):
        with PlannerServer(Planner(policy, SPEC, HOSTILE + "\n", 7, "")) as server:
            remote = RemotePlanner(server.address, token="", patience=0)
            assert remote.name == SHOWN + r"\n"
            if isinstance(policy, Raises):
                with pytest.raises(PlannerError) as raised:
                    remote(constant(1).mean[None])
                assert clean(str(raised.value))
            remote.interrupt()


def test_a_report_holds_no_controls(tmp_path: Path) -> None:
    """Neither its texts and tables nor its plots, and markup stays text."""
    name = HOSTILE + "<script>"
    plot = Plot(name, name, name, (Series(name, [1, 2], [3, 4]),), note=name)
    section = Section(name, name, Rows([name], [[name]], name), (plot,))
    write_report(tmp_path, Report({"command": name, "env": name}, [section]))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert clean(page)
    assert "<script>" not in page
    assert json.loads((tmp_path / "report.json").read_text())["env"] == name


def test_a_label_of_a_metric_holds_no_controls() -> None:
    """A surrogate in a robot's name would end the scrape."""
    found = _registry(lambda: {"ticks_total": 1}, {"robot": HOSTILE + "\udc80"})
    assert clean(generate_latest(found).decode())


@pytest.mark.parametrize("words", [["inspect"], ["verify"], ["log"], ["footprint"]])
def test_a_path_s_controls_are_escaped(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The error that names it names it in escapes."""
    assert main([*words, "no\x1b[2Jfile\r\u202e.akd"]) == 2
    err = capsys.readouterr().err
    assert clean(err)
    assert r"\x1b[2J" in err


def test_an_uncaught_error_s_traceback_is_escaped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a program, `agentkd` shows what nobody caught with its escapes."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "argv", ["agentkd", "--version"])
    assert main() == 0
    sys.excepthook(RuntimeError, RuntimeError(HOSTILE), None)
    err = capsys.readouterr().err
    assert SHOWN in err
    assert clean(err)


def test_the_name_of_a_logger_is_the_module_s() -> None:
    """Levels and handlers are set as for any other logger."""
    assert logger("agentkd.test") is logging.getLogger("agentkd.test")
