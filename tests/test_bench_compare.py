"""Runs of suites side by side, from their rows alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agentkd.bench import tables
from agentkd.bench.compare import comparison_of
from agentkd.bench.rows import Ledger, Row
from agentkd.bench.scores import Contender, scores_of
from agentkd.bench.tables import aggregates, comparisons, lead, report_of
from agentkd.cli.main import main
from agentkd.errors import ConfigError, LoadError
from agentkd.fields import parse_json
from agentkd.report.write import read_report, write_report
from tests.cli_reports import report, undocumented

SEEDS = range(4)


def row(arm: str, seed: int, value: float, env: str = "Walk", **more: object) -> Row:
    """A row of two episodes with this mean return."""
    known: dict[str, object] = {
        "executor": "mlp:4" if arm in ("executor", "runtime", "int8") else "",
        "method": "distill" if arm in ("executor", "runtime", "int8") else "",
        "latency": 0,
        "error": "",
    }
    known |= more
    returns = () if known["error"] else (value - 1.0, value + 1.0)
    return Row(
        f"{env}{arm}{seed}{sorted(known.items())}",
        env=env,
        planner="" if arm == "random" else "plan",
        arm=arm,
        seed=seed,
        episodes=2,
        first_seed=2 * seed,
        labels=10,
        parameters=20,
        returns=returns,
        making=0.0,
        seconds=1.0,
        **known,  # type: ignore[arg-type]
    )


def references(env: str = "Walk") -> list[Row]:
    """Random actions at 0 and the planner at 10, on average."""
    floor = [row("random", seed, seed - 1.5, env) for seed in SEEDS]
    return [*floor, *(row("planner", seed, 8.5 + seed, env) for seed in SEEDS)]


def acting(gain: float = 0.0, env: str = "Walk", **more: object) -> list[Row]:
    """An executor at 4, 5, 6, 7, and `gain` more."""
    return [row("executor", seed, 4.0 + seed + gain, env, **more) for seed in SEEDS]


def kept(folder: Path, rows: list[Row]) -> Path:
    """Write rows as a run does."""
    folder.mkdir()
    with Ledger(folder) as ledger:
        for each in rows:
            ledger.append(each)
    return folder


def test_retention_is_against_the_means_over_all_seeds() -> None:
    """0 is random actions, 1 the planner; the interquartile mean leaves out the ends."""
    (found,) = aggregates(scores_of([*references(), *acting()]))
    assert (found.who.name, found.tasks, found.runs) == ("executor mlp:4 distill", 1, 4)
    assert found.retention.mean == pytest.approx(0.55)
    assert found.retention.low < 0.55 < found.retention.high


def test_a_task_without_references_has_returns_and_no_retention() -> None:
    """And nothing of it is in the table over all tasks."""
    scores = scores_of(acting())
    assert aggregates(scores) == []
    made = report_of("s", "About.", acting(), 9)
    assert "go on with --resume" in " ".join(made.sections[0].notes)
    table = made.sections[-1].table
    assert table is not None
    assert table.rows[0][3] == 5.5


def test_pairs_differ_in_one_thing() -> None:
    """Method, size or arm; planner and runtime only at the same latency."""
    rows = [
        *references(),
        *acting(),
        *acting(1.0, method="clone"),
        *acting(1.0, method="clone", executor="mlp:8"),
        *(row("planner", seed, 2.0, latency=4) for seed in SEEDS),
        *(row("runtime", seed, 9.0, latency=4) for seed in SEEDS),
        *(row("runtime", seed, 9.0, latency=8) for seed in SEEDS),
    ]
    found, left_out = comparisons(scores_of(rows))
    assert not left_out
    assert {(each.who.title, each.against.title) for each in found} == {
        ("executor mlp:4 clone", "executor mlp:4 distill"),
        ("executor mlp:8 clone", "executor mlp:4 clone"),
        ("runtime mlp:4 distill, 4 late", "planner, 4 late"),
        ("runtime mlp:4 distill, 4 late", "executor mlp:4 distill"),
        ("runtime mlp:4 distill, 8 late", "executor mlp:4 distill"),
    }
    (methods,) = (e for e in found if e.who.method == "clone" and e.against.method == "distill")
    # Every run gains 1 of 10: 4, 5, 6, 7 become 5, 6, 7, 8.
    assert methods.difference.mean == pytest.approx(0.1)
    assert methods.difference.low == pytest.approx(0.1)
    assert methods.better.mean == pytest.approx((1.5 + 2.5 + 3.5 + 4) / 16)


def test_the_lead_is_the_late_planner_beside_the_runtime() -> None:
    """At the largest latency that has both; else the best executor."""
    late = [
        *(row("planner", seed, -10.0 - seed, latency=8) for seed in SEEDS),
        *(row("runtime", seed, 9.0, latency=8) for seed in SEEDS),
    ]
    said = lead(aggregates(scores_of([*references(), *acting(), *late])))
    assert said.startswith(
        "A planner that is 8 ticks late keeps -1.15 of its return alone, and 0.90"
    )
    assert said.endswith("with agentkd's runtime mlp:4 distill.")
    alone = lead(aggregates(scores_of([*references(), *acting()])))
    assert alone.startswith("executor mlp:4 distill keeps 0.55 (")
    assert lead([]) == ""


def test_cells_that_failed_are_told_and_left_out() -> None:
    """With their errors."""
    bad = row("executor", 9, 0.0, error="ValueError: gone")
    made = report_of("s", "About.", [*references(), *acting(), bad], 13)
    assert "1 of 13 cells failed" in made.sections[0].notes[0]
    assert made.sections[-1].table is not None
    assert made.sections[-1].table.rows[0][1] == "ValueError: gone"
    assert made.data["aggregates"][0]["runs"] == 4


def test_executor_files_of_different_tasks_are_one_contender() -> None:
    """For each task has its own; two of one task are told apart by name."""
    one = acting(env="A", method="file", executor="a.akd")
    other = acting(env="B", method="file", executor="b.akd")
    found = scores_of([*references("A"), *references("B"), *one, *other])
    assert Contender("executor", "", "file", None) in found.returns
    both = scores_of([*one, *acting(env="A", method="file", executor="c.akd")])
    assert {each.executor for each in both.returns} == {"a.akd", "c.akd"}


def test_runs_are_compared_seed_by_seed(tmp_path: Path) -> None:
    """A gain of 1 in each run is seen exactly, and named."""
    first = kept(tmp_path / "before", [*references(), *acting()])
    second = kept(tmp_path / "after", [*references(), *acting(1.0)])
    made = comparison_of([first, second])
    (row_,) = made.data["comparisons"]
    assert (row_["run"], row_["tasks"]) == ("after", 1)
    assert row_["difference"] == pytest.approx(0.1)
    assert "1 of 1 intervals of differences from before leave out 0" in made.lead
    assert "+0.100" in made.lead


def test_rows_of_changed_inputs_are_not_compared(tmp_path: Path) -> None:
    """They stay in cells.csv after --resume; the run's report is of the others."""
    stale = [replace(each, key=f"old {each.key}") for each in acting(-2.0)]
    now = [*references(), *acting()]
    # The newest row is a stale one: its key alone tells that.
    first = kept(tmp_path / "before", [*now, *stale])
    second = kept(tmp_path / "after", [*references(), *acting(1.0)])
    write_report(first, report_of("s", "About.", now, len(now)))
    (row_,) = comparison_of([first, second]).data["comparisons"]
    assert row_["difference"] == pytest.approx(0.1)
    path = first / "report.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    for results in (None, 3, [3], [{"key": 3}]):
        path.write_text(json.dumps(data | {"results": results}), encoding="utf-8")
        with pytest.raises(LoadError, match=r"which rows.*--resume --out"):
            comparison_of([first, second])


def test_what_many_cells_leave_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report of many rows has their keys alone, by which it is compared all the same."""
    rows = [*references(), *acting()]
    keys = [{"key": each.key} for each in rows]
    first = kept(tmp_path / "before", rows)
    second = kept(tmp_path / "after", [*references(), *acting(1.0)])
    monkeypatch.setattr(tables, "_MOST_TOLD", 50)
    write_report(first, report_of("s", "About.", rows, len(rows)))
    monkeypatch.undo()
    assert read_report(first / "report.json")["results"] == keys
    (row_,) = comparison_of([first, second]).data["comparisons"]
    assert row_["difference"] == pytest.approx(0.1)
    # As many as are told in full, and as many as a suite may have.
    most = tables._MOST_TOLD // (len(rows[-1].values()) + len(rows[-1].returns))
    for count in (most, 100_000):
        told = json.dumps(tables._results([rows[-1]] * count), indent=1)
        assert len(parse_json(told, "a report")) == count


def test_one_seed_is_told_without_intervals(tmp_path: Path) -> None:
    """Neither sentence, table nor plot claims that it is certain."""
    few = [each for each in [*references(), *acting()] if each.seed == 0]
    made = report_of("s", "About.", few, 3)
    assert made.lead == "executor mlp:4 distill keeps 0.55 of its planner's return, over one task."
    table = made.sections[0].table
    assert table is not None
    assert table.texts()[0][5] == "–"
    assert "One run of a task has no interval." in table.caption
    write_report(tmp_path / "out", made)
    assert "nan" not in (tmp_path / "out" / "table.csv").read_text(encoding="utf-8")
    assert "NaN" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    more = [each for each in [*references(), *acting(1.0)] if each.seed == 0]
    both = comparison_of([kept(tmp_path / "before", few), kept(tmp_path / "after", more)])
    assert both.lead.startswith("No difference from before is sure: one seed has no interval.")


def test_what_cannot_be_compared_is_told(tmp_path: Path) -> None:
    """One run, the same one twice, nothing in common, a folder of something else."""
    first = kept(tmp_path / "a", [*references(), *acting()])
    other = kept(tmp_path / "b", [*references("Other"), *acting(env="Other")])
    with pytest.raises(ConfigError, match="two or more"):
        comparison_of([first])
    with pytest.raises(ConfigError, match="once"):
        comparison_of([first, first])
    with pytest.raises(ConfigError, match="share no contender"):
        comparison_of([first, other])
    with pytest.raises(ConfigError, match=r"cells\.csv"):
        comparison_of([first, tmp_path])
    (tmp_path / "cells.csv").write_text("what\n")
    with pytest.raises(LoadError, match="other columns"):
        comparison_of([first, tmp_path])


def test_agentkd_report_writes_the_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As every report; of what is no run of a suite it says which command compares it."""
    first = kept(tmp_path / "before", [*references(), *acting()])
    second = kept(tmp_path / "after", [*references(), *acting(1.0)])
    out = tmp_path / "out"
    assert main(["report", str(first), str(second), "--out", str(out)]) == 0
    assert "+0.100" in capsys.readouterr().out
    data = report(out)
    assert data["command"] == "report"
    assert undocumented(data, *data["comparisons"]) == []
    assert main(["report", str(first), str(out)]) == 2
    assert "agentkd eval ENV" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("into", ["before", "third", "link"])
def test_a_comparison_overwrites_no_run(
    into: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither one that is compared nor another, by whatever path."""
    first = kept(tmp_path / "before", [*references(), *acting()])
    second = kept(tmp_path / "after", [*references(), *acting(1.0)])
    kept(tmp_path / "third", references())
    (tmp_path / "link").symlink_to(first)
    out = tmp_path / into
    (out / ".agentkd").write_text("1\n")
    before = (out / "cells.csv").read_bytes()
    words = ["report", str(first), str(second), "--out", str(out), "--overwrite"]
    assert main(words) == 2
    assert "a folder of its own" in " ".join(capsys.readouterr().err.split())
    assert (out / "cells.csv").read_bytes() == before
