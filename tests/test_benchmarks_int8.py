"""int8: an executor in floats and in integers, on the same episodes."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest

from agentkd.errors import ConfigError
from benchmarks.__main__ import main
from benchmarks.int8 import Options, compare, episodes_of, kept
from benchmarks.planners import Case
from tests.cli_reports import report, undocumented

CASE = Case("some-CartPole-v1", "CartPole-v1", "tests.cli_planners:balance")
PLANNER = Path(__file__).parents[1] / "policies" / "lunarlander" / "planner.zip"


def test_what_is_kept_is_paired() -> None:
    """A constant loss has no spread, however much episodes differ; signs go along."""
    found = kept((100.0, 50.0, 150.0), (99.0, 49.0, 149.0))
    assert (found.mean, found.low, found.high) == pytest.approx((0.99, 0.99, 0.99))
    worse = kept((-100.0, -100.0), (-110.0, -110.0))
    assert worse.mean == pytest.approx(0.9)
    nothing = kept((0.0, 0.0), (1.0, 2.0))
    assert math.isnan(nothing.mean)
    assert nothing.reason


def test_both_forms_live_the_same_episodes() -> None:
    """One executor is measured twice; the file's own episodes calibrate."""
    options = Options(executor="mlp:8", labels=600, eval_seed=70)
    found = compare(CASE, options, 3)
    assert len(found["float"]) == len(found["int8"]) == 3
    assert found["labels"] >= 600
    assert found["calibration"] == "256 observations of the file's own"


def test_episodes_are_given_for_all_or_by_name() -> None:
    """The last word that fits counts."""
    assert episodes_of(("40", "Lander=7"), "LunarLander-v3") == 7
    assert episodes_of(("40", "Lander=7"), "CartPole-v1") == 40
    for bad in ("0", "x", "Lander=", "=5", "Lander=-1"):
        with pytest.raises(ConfigError, match="NAME=N"):
            episodes_of((bad,), "LunarLander-v3")


def test_the_table_and_every_return_are_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table on the screen, all returns in the report."""
    folder = tmp_path / "ppo-LunarLander-v3"
    folder.mkdir()
    shutil.copy(PLANNER, folder)
    out = tmp_path / "out"
    words = ["int8", "--planners", str(tmp_path), "--labels", "200"]
    words += ["--executor", "mlp:4", "--episodes", "9", "Lander=2", "--out", str(out)]
    assert main(words) == 0
    assert "ppo-LunarLander-v3 2" in " ".join(capsys.readouterr().out.split())
    (entry,) = report(out)["results"]
    assert len(entry["float"]) == len(entry["int8"]) == 2
    assert undocumented(entry) == []
    assert main([*words, "--only", "nobody"]) == 2


def test_an_executor_with_a_memory_is_measured_too() -> None:
    """Its integers are those of its file, calibrated episode by episode."""
    found = compare(CASE, Options(executor="gru:4", labels=600, eval_seed=70), 2)
    assert len(found["int8"]) == 2
