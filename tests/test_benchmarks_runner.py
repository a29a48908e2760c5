"""One runner for all benchmarks: options, resuming, tables, reports."""

from __future__ import annotations

import importlib
import inspect
import json
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentkd.errors import ConfigError
from agentkd.report.model import Section
from agentkd.report.write import prepare_out
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.planners import Case, executor_file
from benchmarks.rows import Rows
from benchmarks.runner import (
    Benchmark,
    Column,
    Findings,
    Place,
    Result,
    Work,
    grouped,
    pivot,
    table,
)
from tests.cli_reports import report, undocumented
from tests.programs import killed_at

ROOT = Path(__file__).parents[1]
PLANNER = "tests.cli_planners:balance"


def test_without_a_name_it_lists_the_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    """Each with a sentence and an example; a wrong one is told with the nearest."""
    assert main([]) == 0
    said = capsys.readouterr().out
    for name, (does, _) in BENCHMARKS.items():
        assert does in said
        assert f"python -m benchmarks {name} " in said
    assert main(["seems"]) == 2
    assert "Did you mean 'seams'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_benchmark_explains_each_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` ends with status 0, and no option goes without a sentence."""
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code in (0, None)
    assert f"usage: python -m benchmarks {name}" in capsys.readouterr().out
    module: Any = importlib.import_module(f"benchmarks.{name}")
    assert module.BENCHMARK.name == name
    homes = [each for each in module.Options.__mro__ if each is not object]
    text = "\n".join(inspect.getsource(each) for each in homes)
    for field in module.Options.__dataclass_fields__:
        assert f"\n    {field}: " in text
        at = text.index(f"\n    {field}: ")
        assert text[at + 1 :].split("\n", 1)[1].lstrip(" ").startswith('"""'), field


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["retention", "--secnds", "1"], "--sec"),
        (["libraries", "A", "--planner", "x", "--methods", "pdd"], "pdd"),
        (["mechanisms", "--sed", "1", "--planners", "."], "--sed"),
        (["faults", "--faults", "kiled"], "killed"),
        (["delay", "--ways", "asink"], "async"),
        (["retention", "--planners", "no/folder"], "no/folder"),
        (["seams", "--out", __file__], "is a file"),
        (["seams", "--resume"], "--out"),
        (["ticks", "--hz", "0"], "--hz"),
        (["ticks", "--seconds", "0"], "--seconds"),
        (["ticks", "--pythons", "/nowhere"], "no such folder"),
        (["seams", "--blend", "-1"], "--blend"),
        (["faults", "--seconds", "0"], "--seconds"),
        (["live_learning", "--planners", ".", "--robots", "landr"], "'lander'"),
        (["live_learning", "--planners", ".", "--settle", "99999"], "settle=99999"),
        (["falls", "--planners", ".", "--robot", "swimer"], "'swimmer'"),
        (["falls", "--planners", ".", "--robot", "lander"], "lander"),
        (["falls", "--planners", ".", "--repeats", "0"], "repeats=0"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_measured(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The status is 2, and the value is named."""
    try:
        status: Any = main(words)
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    said = capsys.readouterr()
    assert reason in " ".join((said.out + said.err).split())


@dataclass(frozen=True, kw_only=True)
class Options(Place):
    """Square numbers."""

    numbers: tuple[int, ...] = (1, 2, 3)
    """Which."""
    unit: float = 1.0
    """In what."""
    jobs: int = 1
    """At the same time."""


MADE: list[int] = []


def square(number: int, unit: float) -> dict[str, Any]:
    """Square a number; 13 brings Ctrl-C."""
    if number == 13:
        raise KeyboardInterrupt
    MADE.append(number)
    return {"square": number**2 / unit, "pair": (number, number)}


def works(options: Options) -> Iterator[Work]:
    """List the numbers."""
    if options.unit == 0:
        raise ConfigError("--unit 0")
    for number in options.numbers:
        key = {"number": number}
        yield Work(f"square {number}", key, partial(square, number, options.unit))


COLUMNS = [Column("n", "number", ","), Column("n²", lambda r: r["square"], ".1f")]


def findings(options: Options, results: Sequence[Result]) -> Findings:
    """Show them."""
    few = all(each["square"] < 100 for each in results)
    section = Section("Squares", "", table(COLUMNS, results))
    return Findings([section], f"in {options.unit:g}", few, {"largest": len(results)})


SQUARES = Benchmark("squares", works, findings, choosing=("numbers",))


def test_a_benchmark_is_measured_shown_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table stands in the terminal and in the report, with all results."""
    out = tmp_path / "out"
    assert SQUARES.run(Options(out=out)) == 0
    said = capsys.readouterr().out
    assert "Squares" in said
    assert "9.0" in said
    assert "in 1" in said
    data = report(out)
    assert data["command"] == "benchmarks squares"
    assert data["options"]["numbers"] == [1, 2, 3]
    assert data["results"][2] == {"number": 3, "square": 9.0, "pair": [3, 3]}
    (shown,) = data["tables"]
    assert shown["rows"] == [["1", "1.0"], ["2", "4.0"], ["3", "9.0"]]
    assert (data["verdict"], data["interrupted"]) == ("in 1", False)
    assert data["largest"] == 3
    del data["largest"]
    assert undocumented(data) == []
    assert "Squares" in (out / "report.html").read_text(encoding="utf-8")
    # What had to hold did not.
    assert SQUARES.run(Options(numbers=(99,))) == 1
    with pytest.raises(ConfigError, match="--unit 0"):
        SQUARES.run(Options(unit=0.0, out=tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    with pytest.raises(ConfigError, match="Nothing"):
        SQUARES.run(Options(numbers=()))


def test_a_benchmark_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    """What was measured stays; options that decide results make it anew."""
    out = tmp_path / "out"
    MADE.clear()
    assert SQUARES.run(Options(numbers=(1, 2, 13, 4), out=out)) == 130
    assert report(out)["interrupted"]
    assert [each["number"] for each in report(out)["results"]] == [1, 2]
    again = Options(numbers=(1, 2, 2, 4), out=out, resume=True)
    assert SQUARES.run(again) == 0
    # A number that is chosen twice is measured once.
    assert [each["number"] for each in report(out)["results"]] == [1, 2, 4]
    assert MADE == [1, 2, 4]
    assert SQUARES.run(Options(numbers=(1,), unit=2.0, out=out, resume=True)) == 0
    assert MADE == [1, 2, 4, 1]


def test_several_processes_measure_the_same(tmp_path: Path) -> None:
    """Results stand in the order of the works, and those kept are not made again."""
    out = tmp_path / "out"
    SQUARES.run(Options(numbers=(2,), out=out))
    MADE.clear()
    several = Options(numbers=(3, 2, 1), jobs=2, out=out, resume=True)
    assert SQUARES.run(several) == 0
    assert [each["square"] for each in report(out)["results"]] == [9.0, 4.0, 1.0]
    assert MADE == []


def test_cells_are_texts() -> None:
    """Numbers are formatted, and what is missing is a dash."""
    nan = float("nan")
    found = table([Column("x", "x", ".1f")], [{"x": value} for value in (2, None, nan, "a")])
    assert found.texts() == [["2.0"], ["–"], ["–"], ["a"]]
    shown = pivot("way", {("a", 1): 0.5, ("b", 2): 1.5}, {1: "d=1", 2: "d=2"}, ".1f")
    assert [each.title for each in shown.heads()] == ["way", "d=1", "d=2"]
    assert shown.texts() == [["a", "0.5", "–"], ["b", "–", "1.5"]]
    rows = [{"a": 1, "b": 2}, {"a": 2, "b": 2}, {"a": 1, "b": 3}]
    assert grouped(rows, "a") == {(1,): [rows[0], rows[2]], (2,): [rows[1]]}


def test_a_row_is_kept_and_not_believed_where_it_is_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A row depends on its key; one that does not have its sum is measured again."""
    made = {"value": float("nan"), "returns": (1.5, 2.0)}
    key, other = json.dumps({"seed": 1}), json.dumps({"seed": 2})
    assert Rows(tmp_path).keep(key, made)["returns"] == [1.5, 2.0]
    assert Rows(tmp_path).find(key) is None
    rows = Rows(tmp_path, resume=True)
    found = rows.find(key)
    assert found is not None
    assert found["returns"] == [1.5, 2.0]
    assert rows.find(other) is None
    file = next((tmp_path / "rows").glob("*.json"))
    whole = file.read_text()
    for text in (whole[:40], "", "[]", whole.replace("1.5", "2.5")):
        file.write_text(text)
        assert rows.find(key) is None
    assert "damaged" in caplog.text
    with pytest.raises(ConfigError, match="--out"):
        Rows(None, resume=True)


def test_overwriting_removes_the_rows(tmp_path: Path) -> None:
    """A new run begins anew; a damaged row never comes from another one."""
    prepare_out(tmp_path / "out")
    Rows(tmp_path / "out").keep("{}", {})
    prepare_out(tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "rows").exists()


def test_an_executor_is_distilled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another budget is another executor."""
    from agentkd.distillation.loop import run_distillation
    from agentkd.distillation.run import Budget

    count = []

    def counted(*args: Any, **named: Any) -> Any:
        count.append(1)
        return run_distillation(*args, **named)

    monkeypatch.setattr("benchmarks.planners.run_distillation", counted)
    case = Case("cart", "CartPole-v1", PLANNER)
    files = {
        executor_file(case, "linear", Budget(labels=labels), tmp_path) for labels in (64, 64, 128)
    }
    assert len(files) == len(count) == 2


@pytest.mark.parametrize(
    ("event", "kept"),
    [
        ("benchmarks.planners:evaluate@2", 2),
        ("benchmarks.planners:evaluate@3", 3),
        ("agentkd.report.write:write_files", 4),
    ],
)
def test_a_benchmark_that_was_killed_goes_on(event: str, kept: int, tmp_path: Path) -> None:
    """Planner, random actions and each seed's run are kept as they end."""
    out = tmp_path / "out"
    words = ["retention", "--pairs", f"CartPole-v1={PLANNER}", "--episodes", "2"]
    words += ["--executor", "linear", "--seconds", "0.5", "--seeds", "2"]
    words += ["--out", str(out)]
    killed = killed_at(event, "benchmarks", *words)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    files = sorted((out / "rows").glob("*.json"))
    assert len(files) == kept
    before = {file: file.read_bytes() for file in files}
    assert main([*words, "--resume"]) == 0
    assert all(file.read_bytes() == data for file, data in before.items())
    data = json.loads((out / "report.json").read_text())
    runs = [each for each in data["results"] if each["what"] == "executor"]
    assert [each["seed"] for each in runs] == [0, 1]
    assert len(list((out / "rows").glob("*.json"))) == 4
