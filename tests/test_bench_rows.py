"""Rows: appended whole, read back exactly, and dropped where they are torn or damaged."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import pytest

from agentkd.bench.rows import (
    COLUMNS,
    Ledger,
    Row,
    alone,
    read_line,
    read_rows,
    write_line,
    write_parquet,
)
from agentkd.errors import ConfigError, LoadError, WriteError


def row(
    key: str, returns: tuple[float, ...] = (0.1, -2.5, 1e99), error: str = "", episodes: int = 3
) -> Row:
    """A row whose values are hard to write."""
    return Row(
        key,
        env='Lander{"gravity": -5.0, "wind": true}',
        planner='a, "b"',
        arm="executor",
        executor="mlp:64,64",
        method="",
        latency=0,
        seed=3,
        episodes=episodes,
        first_seed=1030,
        labels=20_000,
        parameters=4_996,
        returns=returns,
        making=0.25,
        seconds=1.5,
        error=error,
    )


def test_a_row_is_read_as_it_was_written() -> None:
    """To the last digit, with commas, quotation marks and an error of several lines."""
    for each in (
        row("a"),
        row("b", (1 / 3, math.pi, 0.0)),
        row("c", (), "ValueError: gone\\nfor good"),
    ):
        line = write_line(each)
        assert line.count("\n") == 1
        assert read_line(line.rstrip("\n")) == each
    assert "\n" not in write_line(row("d", (), "two\nlines"))[:-1]


def test_as_many_episodes_as_a_suite_may_have_fit_a_row() -> None:
    """However many digits their returns have."""
    long = tuple(-math.pi * 10.0 ** -(200 + each % 100) for each in range(5_000))
    each = row("a", long, episodes=len(long))
    assert read_line(write_line(each).rstrip("\n")) == each


def test_the_score_of_a_run_is_its_mean_return() -> None:
    """NaN after an error."""
    assert row("a", (1.0, 2.0, 6.0)).score == 3.0
    assert math.isnan(row("a", ()).score)


def test_pandas_and_others_can_read_the_file(tmp_path: Path) -> None:
    """It is plain CSV with a head."""
    with Ledger(tmp_path) as ledger:
        ledger.append(row("a"))
    with (tmp_path / "cells.csv").open(newline="") as file:
        (found,) = csv.DictReader(file)
    assert tuple(found) == COLUMNS
    assert found["planner"] == 'a, "b"'


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_is_dropped_and_the_rest_kept(tmp_path: Path, cut: int) -> None:
    """Wherever a kill tore it; what is appended after it is whole."""
    with Ledger(tmp_path) as ledger:
        for key in "abc":
            ledger.append(row(key))
    path = tmp_path / "cells.csv"
    os.truncate(path, path.stat().st_size - cut)
    with Ledger(tmp_path) as ledger:
        assert list(ledger.rows) == ["a", "b"]
        ledger.append(row("d"))
    rows, damaged = read_rows(path)
    assert ([each.key for each in rows], damaged) == (["a", "b", "d"], 0)


def test_a_head_that_was_torn_is_written_again(tmp_path: Path) -> None:
    """A kill may come before the first row."""
    (tmp_path / "cells.csv").write_text("key,env")
    with Ledger(tmp_path) as ledger:
        ledger.append(row("a"))
    assert [each.key for each in read_rows(tmp_path / "cells.csv")[0]] == ["a"]


@pytest.mark.parametrize(
    ("old", "new"), [("0.1", "0.2"), ("executor", "planner"), ("1030", "x"), ("[", "{")]
)
def test_a_row_that_was_changed_is_measured_again(tmp_path: Path, old: str, new: str) -> None:
    """Its check differs; the others stay."""
    path = tmp_path / "cells.csv"
    with Ledger(tmp_path) as ledger:
        ledger.append(row("a"))
        ledger.append(row("b"))
    head, first, second = path.read_text().splitlines()
    path.write_text("\n".join([head, first.replace(old, new, 1), second]) + "\n")
    with Ledger(tmp_path) as ledger:
        assert list(ledger.rows) == ["b"]
    assert path.read_text().splitlines() == [head, second]


def test_a_file_of_other_columns_is_refused(tmp_path: Path) -> None:
    """And stays as it is."""
    path = tmp_path / "cells.csv"
    path.write_text("name,value\na,1\n")
    with pytest.raises(LoadError, match="other columns"):
        Ledger(tmp_path)
    assert path.read_text() == "name,value\na,1\n"


def test_a_full_disk_loses_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written of the new row is taken back."""
    with Ledger(tmp_path) as ledger:
        ledger.append(row("a"))
        whole = (tmp_path / "cells.csv").read_bytes()
        write = os.write
        monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:20]))
        with pytest.raises(WriteError, match="--resume"):
            ledger.append(row("b"))
        monkeypatch.undo()
    assert (tmp_path / "cells.csv").read_bytes() == whole


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    """The second is told; when the first has ended, it may go on."""
    out = tmp_path / "out"
    with alone(out, overwrite=False, resume=False):
        for flags in ({"overwrite": True, "resume": False}, {"overwrite": False, "resume": True}):
            with pytest.raises(ConfigError, match="Another run"), alone(out, **flags):
                pass
    with pytest.raises(ConfigError, match="--resume"), alone(out, overwrite=False, resume=False):
        pass
    with alone(out, overwrite=False, resume=True):
        pass


def test_overwrite_removes_the_rows(tmp_path: Path) -> None:
    """And the executors."""
    with alone(tmp_path / "out", overwrite=False, resume=False):
        with Ledger(tmp_path / "out") as ledger:
            ledger.append(row("a"))
        (tmp_path / "out" / "executors").mkdir()
    with alone(tmp_path / "out", overwrite=True, resume=False):
        assert sorted(e.name for e in (tmp_path / "out").iterdir()) == [".agentkd"]


def test_parquet_has_the_same_values(tmp_path: Path) -> None:
    """Where pyarrow is installed; returns are lists of numbers there."""
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [row("a"), row("b", (), "gone")]
    assert write_parquet(tmp_path / "cells.parquet", rows)
    found = parquet.read_table(tmp_path / "cells.parquet").to_pylist()
    assert found == [each.values() for each in rows]
