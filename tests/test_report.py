"""Reports: for programs, for people, and never half written."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, final

import numpy as np
import pytest

from agentkd.cli.terminal import Console
from agentkd.errors import ConfigError, LoadError, WriteError
from agentkd.report.console import show_table
from agentkd.report.html import page
from agentkd.report.model import Column, Plot, Report, Section, Series, Table
from agentkd.report.plots import svg
from agentkd.report.scales import Scale, short
from agentkd.report.write import prepare_out, read_report, write_report

NASTY = "<script>alert('x')</script> & \"$a_1$\""
LINES = Plot(
    "Return",
    "labels",
    "return",
    (
        Series("executor", [0, 1, 2], [1.0, math.nan, 3.0], [0, 1, 2], [2, 3, 4]),
        Series("planner", [0, 2], [5.0, 5.0]),
    ),
    "A note.",
)
ROWS = Plot(
    "Latency",
    "µs",
    "",
    (Series("native", [1.0, 2.0], [1.5], [1.0], [2.0]), Series("SB3 predict", [100.0], [100.0])),
    kind="rows",
    log=True,
)


def report(data: dict[str, Any] | None = None, *sections: Section) -> str:
    full = {
        "argv": ["agentkd", "eval"],
        "date": "today",
        "platform": "here",
        "schema": 1,
        "versions": {"python": "3.11"},
        **(data or {}),
    }
    return page(full, Report(full, sections))


@final
class Elements(HTMLParser):
    """Collects tags, attributes and text, and sees that all are closed in turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_json_holds_the_data_and_its_origin(tmp_path: Path) -> None:
    """What was measured, with schema, command, versions, platform and date."""
    data = {"command": "eval", "env": "CartPole-v1", "planner_return": 500.0}
    write_report(tmp_path / "new", Report(data, []))
    got = read_report(tmp_path / "new" / "report.json")
    assert data.items() <= got.items()
    assert {"argv", "date", "platform", "schema", "versions"} <= set(got)
    assert got["versions"]["numpy"] == np.__version__
    assert got["argv"][0] == "agentkd"


def test_json_has_no_nan_and_takes_numpy(tmp_path: Path) -> None:
    """NaN and infinity become null, arrays lists, paths text; keys are sorted."""
    data = {
        "nan": math.nan,
        "pair": (np.float32(0.5), math.inf),
        "array": np.arange(3),
        "path": Path("runs"),
        "flag": np.bool_(True),
        "inside": {"b": [math.nan], "a": None},
    }
    write_report(tmp_path, Report(data, []))
    text = (tmp_path / "report.json").read_text()
    got = json.loads(text, parse_constant=pytest.fail)
    assert got["nan"] is None
    assert got["pair"] == [0.5, None]
    assert got["array"] == [0, 1, 2]
    assert got["path"] == "runs"
    assert got["flag"] is True
    assert got["inside"] == {"a": None, "b": [None]}
    assert list(got) == sorted(got)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1}', "\x00\xff"])
def test_what_is_no_report_is_refused(text: str, tmp_path: Path) -> None:
    """Neither an empty file nor another program's JSON is taken for a report."""
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(LoadError, match=r"report\.json"):
        read_report(path)


def test_a_report_of_another_schema_is_refused(tmp_path: Path) -> None:
    """It says which schema it is and which are read."""
    write_report(tmp_path, Report({"schema": 99}, []))
    with pytest.raises(LoadError, match="schema 99"):
        read_report(tmp_path / "report.json")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A file in the way is named."""
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="file"):
        write_report(tmp_path / "file" / "inside", Report({}, []))
    with pytest.raises(WriteError, match="--out"):
        prepare_out(tmp_path / "file" / "inside")


def test_a_new_or_empty_folder_is_taken(tmp_path: Path) -> None:
    """It is made with its parents, and known again even after a kill."""
    out = tmp_path / "a" / "b"
    prepare_out(out)
    with pytest.raises(ConfigError, match=r"earlier run.*--overwrite.*--resume"):
        prepare_out(out)
    (tmp_path / "empty").mkdir()
    prepare_out(tmp_path / "empty")


def test_a_folder_of_others_is_never_touched(tmp_path: Path) -> None:
    """Not even with --overwrite, and also if it holds a report.json of theirs."""
    (tmp_path / "thesis.tex").write_text("mine")
    (tmp_path / "report.json").write_text('{"schema": 1}')
    for flags in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(ConfigError, match=r"did not write.*report\.json"):
            prepare_out(tmp_path, **flags)
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_overwriting_removes_what_runs_left_and_nothing_else(tmp_path: Path) -> None:
    """Report, logs and checkpoint go; the executor stays until there is a new one."""
    write_report(tmp_path, Report({}, []))
    for name in ("executor.akd", "notes.txt"):
        (tmp_path / name).write_text("kept")
    for name in ("tensorboard", "checkpoint"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").write_text("")
    prepare_out(tmp_path, overwrite=True)
    left = {each.name for each in tmp_path.iterdir()}
    assert left == {".agentkd", "executor.akd", "notes.txt"}


def test_resuming_removes_nothing(tmp_path: Path) -> None:
    """And needs something to go on from."""
    with pytest.raises(ConfigError, match="nothing to go on from"):
        prepare_out(tmp_path, resume=True)
    write_report(tmp_path, Report({}, []))
    prepare_out(tmp_path, resume=True)
    assert (tmp_path / "report.json").exists()


def test_out_cannot_be_a_file_nor_both_flags_be_given(tmp_path: Path) -> None:
    """Both are said."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        prepare_out(tmp_path / "file")
    with pytest.raises(ConfigError, match="exclude"):
        prepare_out(tmp_path, overwrite=True, resume=True)


def test_a_page_is_well_formed_and_fetches_nothing() -> None:
    """Each tag is closed, each id is there once, and no address leads outside."""
    table = Table(["policy", "return"], [["planner", 1.5], ["executor", None]], "Two.")
    text = report({}, Section("A", "One.\n\nTwo.", table, (LINES, ROWS)))
    elements = Elements(text)
    ids = [attrs["id"] for _, attrs in elements.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in elements.found:
        assert "src" not in attrs
        for name in ("href", "xlink:href"):
            assert (attrs.get(name) or "#").startswith("#")
            assert name not in attrs or (attrs[name] or "")[1:] in ids
    styles = re.findall(r"url\(([^)]*)\)", text)
    assert all(style[1:] in ids for style in styles)
    assert "@import" not in text
    policy = next(a["content"] for _, a in elements.found if "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_all_text_is_escaped() -> None:
    """A name with markup in it is shown and not obeyed, wherever it stands."""
    series = (Series(NASTY, [0, 1, 2], [0, 1, 2]), Series("b", [0, 1, 2], [0, 1, 2]))
    plot = Plot(NASTY, NASTY, NASTY, series, NASTY)
    section = Section(NASTY, NASTY, Table([NASTY], [[NASTY]], NASTY), (plot,))
    data = {
        "command": NASTY,
        "env": NASTY,
        "planner_name": NASTY,
        "architecture": NASTY,
        "argv": [NASTY],
        "platform": NASTY,
        "versions": {NASTY: NASTY},
    }
    elements = Elements(report(data, section))
    assert "script" not in {tag for tag, _ in elements.found}
    shown = elements.text.replace("\n", " ")
    # Title and heading twice each (command, env), subtitle twice, section twice, table three times,
    # plot with both axes, its key and its note five times, twice at each of three places that are
    # pointed at, and the footer thrice.
    assert shown.count(NASTY) == 25


def test_headline_figures_come_first() -> None:
    """Known keys become cards with their intervals; what is missing leaves no gap."""
    text = report(
        {
            "retention": 0.9876,
            "retention_interval": [0.95, 1.02],
            "planner_return": None,
            "executor_return": -1234.5,
            "decision_latency_us": {"p50": 1.234, "p99": 5.0},
        },
        Section("Later"),
    )
    shown = Elements(text).text
    for figure in ("0.988", "0.950 … 1.020", "-1,234.5", "1.2 µs", "p99 5.0 µs"):
        assert shown.index(figure) < shown.index("Later")
    assert "planner's return" not in shown


def test_how_to_get_it_again_comes_last() -> None:
    """The command is quoted as a shell takes it, with seed and versions."""
    argv = ["agentkd", "eval", "My Env-v0", "--seed", "0"]
    shown = Elements(report({"argv": argv, "seed": 0})).text
    assert "agentkd eval 'My Env-v0' --seed 0" in shown
    assert re.search(r"seed\s*0", shown)
    assert "python 3.11" in shown


def test_a_table_is_one_value_in_every_form(tmp_path: Path) -> None:
    """Text is formatted, CSV unrounded, Markdown aligned; all name the columns."""
    columns = ("policy", Column("p50", "µs", ",.1f"), Column("95 %", form=".1f"))
    rows: list[list[Any]] = [["a|b", 1234.56, [1.0, 2.25]], [NASTY, None, [math.nan, 1.0]]]
    table = Table(columns, rows, "Two.")
    assert table.texts()[0] == ["a|b", "1,234.6", "1.0 … 2.2"]
    assert table.texts()[1][1:] == ["–", "–"]
    write_report(tmp_path, Report({}, [Section("T", "One.\n\nTwo.", table, notes=("Mind.",))]))
    words = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert words.startswith("## T\n\nOne.\n\nTwo.\n\nMind.\n\n| policy | p50, µs | 95 % |\n")
    assert "| :-- | --: | --: |\n| a\\|b | 1,234.6 | 1.0 … 2.2 |\n" in words
    assert "<script" not in words
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.reader(file))
    assert found[0] == ["policy", "p50, µs", "95 %"]
    assert found[1] == ["a|b", "1234.56", "1.0 … 2.25"]
    assert found[2][:2] == [NASTY, ""]


def test_a_column_s_help_is_on_the_page() -> None:
    """It is shown where the heading is pointed at."""
    table = Table([Column("x", help=NASTY)], [[1]])
    found = Elements(report({}, Section("T", "", table))).found
    assert [a["title"] for tag, a in found if tag == "th"] == [NASTY]


@pytest.mark.parametrize("width", [1, 20, 60, 200])
def test_a_terminal_of_any_width_shows_a_table(width: int) -> None:
    """Where it is narrow, spare columns go and long names stand above, numbered."""
    console = Console()
    console.file, console.width = io.StringIO(), width
    name = "a planner with a long name " * 2
    figures = [Column(f"figure {i}", form=".1f") for i in range(4)]
    table = Table(("policy", *figures, Column("spare", spare=True)), [[name, *range(4), 7]])
    show_table(console, table)
    said = console.file.getvalue()
    assert ("spare" in said) == (width == 200)
    assert (f" 1  {name}" in said) == (width < 200)
    assert "3.0" in said or width < 60


def test_names_in_two_columns_stand_above_a_table_that_is_too_wide() -> None:
    """Short ones too: figures would leave them no room. A figure that is cut off shows it."""
    figures = [Column(f"figure {i}", form=",.1f") for i in range(4)]
    table = Table(("who", "against", *figures), [["planner", "executor", *[12345678.0] * 4]])
    said = {}
    for width in (60, 35, 200):
        console = Console()
        console.file, console.width = io.StringIO(), width
        show_table(console, table)
        said[width] = console.file.getvalue()
    assert " 1  planner, against executor\n" in said[60]
    assert "12,345,678.0" in said[60]
    assert "12,34…" in said[35]
    assert "against executor" not in said[200]


def test_columns_of_numbers_stand_to_the_right() -> None:
    """A column is one of numbers if every cell that is not empty is."""
    rows = [["a", "1.5", "[1.0, 2.0]", "2 ticks late"], ["b", "–", "", "3"]]
    text = report({}, Section("T", "", Table(["w", "x", "y", "z"], rows)))
    cells = [a.get("class") for tag, a in Elements(text).found if tag == "td"]
    assert cells == [None, "number", "number", None] * 2


STRIPS = Plot(
    *("Who acted", "tick", ""),
    (Series("s", [0, 4, 9], [1, 0], notes=["b (late)", "a (fresh)"]),),
    kind="strips",
    levels=("a", "b", "c"),
)
SHARES = Plot(
    *("Why", "", ""),
    (Series("s", [0, 1, 1], [60, 30, 10], notes=["fresh", "late", "nan"]),),
    kind="shares",
    levels=("a", "b"),
)
TIMES = Plot(
    *("Times", "µs", ""),
    (Series("s", [1.0, 2.0, 4.0], [999, 1]),),
    kind="distributions",
    marks=(("deadline", 20_000.0),),
)
PLOTS = {plot.kind: plot for plot in (LINES, ROWS, STRIPS, SHARES, TIMES)}


def tips(plot: Plot) -> list[str]:
    """What is shown where marks are pointed at."""
    return [
        html.unescape(each) for each in re.findall(r"<title>(.*?)</title>", svg(plot), re.DOTALL)
    ]


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
def test_the_same_values_give_the_same_plot(plot: Plot) -> None:
    """Nothing in a plot is left to chance or the date, and its words are text."""
    first, second = svg(plot), svg(plot)
    assert first == second
    found = Elements(first)
    assert plot.kind == "shares" or f">{plot.x_label}</text>" in first
    assert [a["aria-label"] for tag, a in found.found if a.get("role") == "img"] == [plot.title]
    assert "px" not in first


@pytest.mark.parametrize(
    "series",
    [
        (),
        (Series("a", [], []),),
        (Series("a", [1.0], [math.nan]),),
        (Series("a", [None, 2.0], [None, None]),),  # type: ignore[list-item]
    ],
)
def test_a_plot_of_nothing_is_left_out(series: tuple[Series, ...]) -> None:
    """Where no value is finite there is no figure."""
    plot = Plot("Empty", "x", "y", series)
    assert svg(plot) == ""
    assert "<figure" not in report({}, Section("S", plots=(plot,)))


def test_a_key_names_the_levels_that_occur() -> None:
    """A colour that is not there needs no name."""
    keys = re.findall(r"<li[^>]*>(.*?)</li>", svg(STRIPS))
    assert keys == ["a", "b"]
    assert "<ul" not in svg(ROWS)


def test_marks_tell_their_values() -> None:
    """Where one points there are names, values, intervals and reasons."""
    assert tips(ROWS)[0] == "native: 1.50 (1.00 … 2.00)\n2 values, 1.00 to 2.00"
    assert tips(LINES)[1] == "labels 1.00\nexecutor: –\nplanner: 5.00"
    assert tips(STRIPS) == ["tick 0 to 4: b (late)", "tick 4 to 9: a (fresh)"]
    assert tips(SHARES) == [
        "s: a, fresh, 60 % (60)",
        "s: b, late, 30 % (30)",
        "s: b, nan, 10 % (10)",
    ]
    assert tips(TIMES)[1] == "s, 2.00 to 4.00 µs: 1 of 1,000 (0.1 %)"
    assert "deadline 20,000" in svg(TIMES)


def test_long_series_are_drawn_thin_and_whole() -> None:
    """A hundred thousand values take little, and no extreme is lost."""
    values = np.sin(np.arange(100_000) / 999)
    values[77_777] = 50.0
    ticks = list(range(100_000))
    line = svg(Plot("L", "tick", "y", (Series("a", ticks, values.tolist()),)))
    assert len(line) < 40_000
    assert " 37.0" in line  # the peak, four hundredths below the top
    strip = Series("a", [*ticks, 100_000], [each % 2 for each in ticks])
    assert len(svg(Plot("S", "tick", "", (strip,), kind="strips", levels=("a", "b")))) < 90_000
    row = Series("a", values.tolist(), [0.0])
    assert svg(Plot("R", "y", "", (row,), kind="rows")).count("<circle") == 200


def test_two_series_never_share_a_colour() -> None:
    """A thing has its own colour, but two of its kind have two."""
    names = ("planner", "planner, never late", "executor", "random actions", "with agentkd")
    lines = tuple(Series(name, [0, 1, 2], [1, 2, 3]) for name in names)
    drawn = re.findall(r'class="c-(\w+) line"', svg(Plot("C", "x", "y", lines)))
    assert drawn == ["planner", "a", "executor", "random", "runtime"]


def test_axes_have_round_numbers() -> None:
    """They lie on the axis, are few, and are written short."""
    for low, high in ((0, 1), (-190, 275), (1e-9, 2e-9), (5, 5), (-3e6, 8e6)):
        scale = Scale.over([low, high])
        marks = scale.marks()
        assert 1 <= len(marks) <= 7
        assert all(scale.low <= mark <= scale.high for mark in marks)
    assert [short(each) for each in Scale.over([-190, 275]).marks()] == ["−200", "0", "200"]
    logarithmic = Scale.over([1, 20_000, math.nan, 0, -1], log=True)
    assert [short(each) for each in logarithmic.marks()] == ["1", "10", "100", "1,000", "10k"]
    assert Scale.over([math.nan], log=True).marks()
    assert [short(each) for each in (0.25, 1500, 25_000, 3e6, 1e13)] == [
        *("0.25", "1,500", "25k", "3M"),
        "1e+13",
    ]


def test_points_carry_their_names() -> None:
    """Each has its own name and interval, levels theirs; the axis below is told."""
    points = Plot(
        "Retention over size",
        "parameters",
        "retention",
        (
            Series("target", [10, 5000], [0.97, 0.97]),
            Series("front", [10, 5000], [0.4, 0.99]),
            Series("linear", [10], [0.4], [0.3], [0.5]),
            Series("mlp:64,64", [5000], [0.99], [math.nan], [math.nan]),
        ),
        kind="points",
        log=True,
    )
    drawn = svg(points)
    for name in ("target", "linear", "mlp:64,64", "parameters", "1,000"):
        assert f">{name}</text>" in drawn
    assert ">front</text>" not in drawn
    assert drawn == svg(points)
