"""The benchmark in which planner and executor are worth more together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agentkd.errors import ConfigError
from benchmarks import late_planner, thinking
from benchmarks.runner import Work
from benchmarks.thinking import Options, chosen, findings, works


def lived(world: str, arm: str, late: int, returns: list[float]) -> dict[str, Any]:
    mean = sum(returns) / len(returns)
    return {
        "env": world,
        "arm": arm,
        "latency": late,
        "score": mean,
        "returns": returns,
        "unit": 1.0,
        "fault": "",
    }


RESULTS = [
    lived("maze", "executor", 1, [1.0, 2.0, 3.0]),
    lived("maze", "planner", 0, [9.0, 9.0, 9.0]),
    lived("maze", "planner", 1, [2.0, 2.0, 2.5]),
    lived("maze", "runtime", 1, [5.0, 6.0, 7.0]),
    lived("maze", "planner", 4, [0.0, 0.0, 0.0]),
    lived("maze", "runtime", 4, [0.5, 2.0, 3.0]),
]


def test_the_executor_alone_stands_at_each_latency_and_gains_are_paired() -> None:
    """Its mean is 2; the planner's at one tick is larger, at four smaller."""
    found = findings(Options(), RESULTS)
    shown = found.sections[0].table
    assert shown is not None
    first, second = shown.texts()
    assert first[:6] == ["1", "2.17", "2", "6", "9", "+3.83"]
    assert second[:5] == ["4", "0", "2", "1.83", "9"]
    assert "in 1 worlds: maze" in found.verdict
    assert "maze at 4: 1.833 below executor's 2.000" in found.verdict


def test_each_latency_has_planner_and_runtime_and_the_executor_lives_once() -> None:
    """The planner that is never late is one work too."""
    keys: list[Mapping[str, Any]] = [each.key for each in works(Options(worlds=("maze",)))]
    late = thinking.WORLDS["maze"].latencies
    assert len(keys) == len({tuple(key.values()) for key in keys}) == 2 + 2 * len(late)
    assert [key["latency"] for key in keys if key["arm"] == "executor"] == [late[0]]


def test_robots_need_the_folder_of_planners(tmp_path: Path) -> None:
    """Unasked they are left out; asked for without the folder, they are refused."""
    assert "cheetah-tqc" not in chosen(Options())
    with pytest.raises(ConfigError, match="cheetah-tqc needs --planners"):
        chosen(Options(worlds=("cheetah-tqc",)))
    found = chosen(Options(worlds=("cheetah-tqc",), planners=tmp_path))
    assert found["cheetah-tqc"].planner == str(tmp_path / "tqc-HalfCheetah-v5")


def test_a_world_is_lived_by_all_arms(monkeypatch: pytest.MonkeyPatch) -> None:
    """One game of Freeway, whole; the runtime is not below both."""
    monkeypatch.chdir(Path(__file__).parents[1])
    every = works(Options(worlds=("freeway-hard",), episodes=1))
    some: list[Work] = [each for each in every if each.key["latency"] in (0, 1, 8)]
    results = [{**each.key, **each.measure()} for each in some]
    assert not any(each["fault"] for each in results)
    scores = {(each["arm"], each["latency"]): each["score"] for each in results}
    assert scores["runtime", 8] >= max(scores["planner", 8], scores["executor", 1]) - 1e-9


def test_what_is_wrong_is_said() -> None:
    """With the value, before anything is measured."""
    with pytest.raises(ConfigError, match="No world 'mase'"):
        list(works(Options(worlds=("mase",))))
    with pytest.raises(ConfigError, match="--episodes at least 1"):
        list(works(Options(episodes=0)))


def test_each_world_has_an_executor_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planner's executor for a robot with noise is not the one for the robot without."""
    asked: list[tuple[str, str]] = []

    def note(case: Any, _architecture: str, _budget: Any, out: Path) -> Path:
        asked.append((case.name, case.env))
        return out

    monkeypatch.setattr(thinking, "executor_file", note)
    names = ("cheetah-sac", "cheetah-sac-noisy", "swimmer-sac", "snake")
    thinking.prepare(Options(worlds=names, planners=tmp_path, out=tmp_path))
    assert [name for name, _ in asked] == [
        "sac-HalfCheetah-v5",
        "sac-HalfCheetah-v5-HalfCheetahNoisy-v0",
        "sac-Swimmer-v5",
        "policies.snake-Snake-v0",
    ]


def test_rows_are_rolled_out_in_the_simulation_that_is_named() -> None:
    """A robot with noise has none of its own that is exact."""
    noisy = thinking.WORLDS["cheetah-sac-noisy"]
    assert late_planner._simulated(noisy.env, noisy.strategies) == "HalfCheetah-v5"
    maze = thinking.WORLDS["maze"]
    assert late_planner._simulated(maze.env, maze.strategies) == maze.env
