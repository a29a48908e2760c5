"""The benchmark of a world that changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentkd.errors import ConfigError
from benchmarks import change
from benchmarks.__main__ import main
from tests.cli_reports import report


def test_a_pendulum_reverses_and_an_executor_recovers(tmp_path: Path) -> None:
    """The frozen executor fails in the changed world; the one that learns does not."""
    out = tmp_path / "out"
    words = ["change", "--worlds", "pendulum-reversed", "--arms", "frozen", "learning", "nothing"]
    words += ["--seeds", "1", "--before", "1500", "--changed", "2000", "--after", "500"]
    words += ["--marks", "0", "2000", "--distil-labels", "8000", "--out", str(out)]
    assert main(words) == 0
    found = {row["arm"]: row for row in report(out)["results"]}
    assert found["frozen"]["marks"]["0"] < -1000
    assert found["learning"]["marks"]["2000"] > 0.5 * found["frozen"]["marks"]["0"]
    kinds = [kind for _, kind in found["learning"]["noticed"]]
    assert (kinds[0], kinds[-1]) == ("new", "back")
    assert found["nothing"]["noticed"] == []


def test_recovery_is_counted_in_labels() -> None:
    """The first mark at which a share of the planner, above random, is reached."""
    marks = {"1000": 40.0, "0": 0.0, "2000": 90.0}
    assert change.until(marks, 0.85, 100.0, 0.0) == 2000
    assert change.until(marks, 0.85, 100.0, -200.0) == 2000
    assert change.until(marks, 0.95, 100.0, 0.0) == float("inf")


def test_noticing_what_is_not_there_fails() -> None:
    """A change that is noticed in a world that does not change is no success."""
    options = change.Options(before=500, changed=500, after=500)
    row: dict[str, Any] = {"world": "pendulum-reversed", "seed": 0, "parts": [0.0, 1.0, 2.0]}
    results = [{**row, "arm": "still", "noticed": []}]
    assert change.findings(options, results).passed
    assert not change.findings(options, [{**row, "arm": "still", "noticed": [[3, "new"]]}]).passed


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"worlds": ("pendulum-reversd",)}, "pendulum-reversed"),
        ({"arms": ("frozn",)}, "frozen"),
        ({"before": 0}, "before=0"),
        ({"out": None}, "--out"),
    ],
)
def test_options_are_checked(given: dict[str, Any], match: str) -> None:
    """An option that cannot be is named."""
    with pytest.raises(ConfigError, match=match):
        list(change.works(change.Options(**given)))


def test_a_robot_needs_its_planners(tmp_path: Path) -> None:
    """They are not in this repository."""
    options = change.Options(worlds=("sac-stronger",), out=tmp_path)
    with pytest.raises(ConfigError, match="--planners"):
        change.prepare(options)
