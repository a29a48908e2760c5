"""The suite finds planners, and its figures are what they are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentkd.bench.evaluate import Evaluation
from agentkd.bench.suite import Case, Row, Run, find_cases, interquartile_mean, kept
from agentkd.errors import ConfigError

CASE = Case("ppo-Nothing-v0", "Nothing-v0", "nowhere")


def row(*runs: tuple[float, ...]) -> Row:
    """A planner of 10 over random actions of 0, and executors that got `runs`."""
    return Row(
        case=CASE,
        planner=Evaluation((10.0, 10.0), (1, 1)),
        random=Evaluation((0.0, 0.0), (1, 1)),
        runs=tuple(Run(i, returns, 1, 1.0) for i, returns in enumerate(runs)),
        planner_parameters=100,
        executor_parameters=10,
    )


def test_retention_is_the_mean_over_seeds() -> None:
    """Executors of 8 and 10 keep 0.9 of a planner of 10."""
    assert kept(row((8.0, 8.0), (10.0, 10.0))).mean == pytest.approx(0.9)


def test_the_interval_holds_the_spread_of_seeds() -> None:
    """Seeds that differ widen it though each one's episodes are all alike."""
    alike = kept(row((9.0, 9.0), (9.0, 9.0), (9.0, 9.0)))
    apart = kept(row((8.0, 8.0), (9.0, 9.0), (10.0, 10.0)))
    assert alike.low == alike.high == pytest.approx(0.9)
    assert apart.low < 0.85
    assert apart.high > 0.95


def test_the_middle_half_decides() -> None:
    """Of eight values the outer four do not count; of four the outer two."""
    assert interquartile_mean([-100, -100, 1, 2, 3, 4, 100, 100]) == pytest.approx(2.5)
    assert interquartile_mean([-9, 1, 2, 9]) == pytest.approx(1.5)
    assert interquartile_mean([5.0]) == 5.0


def test_planners_are_found_by_their_folders(tmp_path: Path) -> None:
    """Folders without a save, and files, are passed over."""
    for name in ("sac-Swimmer-v5", "dqn-CartPole-v1", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "sac-Swimmer-v5" / "planner.zip").touch()
    (tmp_path / "README.md").touch()
    assert find_cases(tmp_path) == (
        Case("sac-Swimmer-v5", "Swimmer-v5", str(tmp_path / "sac-Swimmer-v5")),
    )


def test_a_folder_without_planners_says_what_one_looks_like(tmp_path: Path) -> None:
    """The message shows the name that is expected."""
    with pytest.raises(ConfigError, match="sac-Swimmer-v5"):
        find_cases(tmp_path)
    with pytest.raises(ConfigError, match="no folder"):
        find_cases(tmp_path / "nowhere")
