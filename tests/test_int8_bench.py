"""`agentkd bench int8`: an executor in floats and in integers, on the same episodes."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from agentkd.bench.integers import Pair, compare
from agentkd.bench.suite import Case
from agentkd.cli.bench_int8 import episodes_of
from agentkd.cli.main import main
from agentkd.distillation.run import Budget
from agentkd.errors import ConfigError
from agentkd.measure.lockstep import Evaluation

CASE = Case("some-CartPole-v1", "CartPole-v1", "tests.cli_planners:balance")
PLANNER = Path(__file__).parents[1] / "policies" / "lunarlander" / "planner.zip"


def pair(real: tuple[float, ...], whole: tuple[float, ...]) -> Pair:
    lengths = (1,) * len(real)
    return Pair(CASE, Evaluation(real, lengths), Evaluation(whole, lengths), 1, "")


def test_what_is_kept_is_paired() -> None:
    """A constant loss has no spread, however much episodes differ; signs go along."""
    kept = pair((100.0, 50.0, 150.0), (99.0, 49.0, 149.0)).kept
    assert (kept.mean, kept.low, kept.high) == pytest.approx((0.99, 0.99, 0.99))
    worse = pair((-100.0, -100.0), (-110.0, -110.0)).kept
    assert worse.mean == pytest.approx(0.9)
    nothing = pair((0.0, 0.0), (1.0, 2.0)).kept
    assert math.isnan(nothing.mean)
    assert nothing.reason


def test_both_forms_live_the_same_episodes() -> None:
    """One executor is measured twice; the file's own episodes calibrate."""
    said: list[str] = []
    found = compare(
        CASE,
        "mlp:8",
        budget=Budget(labels=600),
        seed=0,
        episodes=3,
        eval_seed=70,
        watch=said.append,
    )
    assert len(found.float32.returns) == len(found.int8.returns) == 3
    assert found.labels >= 600
    assert found.calibration == "256 observations of the file's own"
    assert said == ["distilling", "measuring"]


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
    """A table in Markdown on the screen, all returns in the file."""
    folder = tmp_path / "ppo-LunarLander-v3"
    folder.mkdir()
    shutil.copy(PLANNER, folder)
    out = tmp_path / "out.json"
    words = ["bench", "int8", "--planners", str(tmp_path), "--labels", "200"]
    words += ["--executor", "mlp:4", "--episodes", "9", "Lander=2", "--out", str(out)]
    assert main(words) == 0
    assert "| ppo-LunarLander-v3 | 2 |" in capsys.readouterr().out
    (entry,) = json.loads(out.read_text())["entries"]
    assert len(entry["float"]) == len(entry["int8"]) == 2
    assert main([*words, "--only", "nobody"]) == 2


def test_an_executor_with_a_memory_is_measured_too() -> None:
    """Its integers are those of its file, calibrated episode by episode."""
    found = compare(
        CASE,
        "gru:4",
        budget=Budget(labels=600),
        seed=0,
        episodes=2,
        eval_seed=70,
        watch=lambda _: None,
    )
    assert len(found.int8.returns) == 2
