"""Planners are found, and figures are what they are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import DQN

from agentkd.errors import ConfigError
from agentkd.measure.intervals import Interval
from agentkd.types import Categorical, Floats, State
from benchmarks.__main__ import main
from benchmarks.planners import Case, cases_of, find_cases
from benchmarks.retention import interquartile_mean, labelling_rate, megabytes, retention
from tests.cli_planners import balance
from tests.cli_reports import report, undocumented


def kept(*runs: tuple[float, ...]) -> Interval:
    """What executors that got `runs` keep of a planner of 10 above chance's 0."""
    return retention(runs, (10.0, 10.0), (0.0, 0.0))


def test_retention_is_the_mean_over_seeds() -> None:
    """Executors of 8 and 10 keep 0.9 of a planner of 10."""
    assert kept((8.0, 8.0), (10.0, 10.0)).mean == pytest.approx(0.9)


def test_the_interval_holds_the_spread_of_seeds() -> None:
    """Seeds that differ widen it though each one's episodes are all alike."""
    alike = kept((9.0, 9.0), (9.0, 9.0), (9.0, 9.0))
    apart = kept((8.0, 8.0), (9.0, 9.0), (10.0, 10.0))
    assert alike.low == alike.high == pytest.approx(0.9)
    assert apart.low < 0.85
    assert apart.high > 0.95


def test_the_middle_half_decides() -> None:
    """Of eight values the outer four do not count; of four the outer two."""
    assert interquartile_mean([-100, -100, 1, 2, 3, 4, 100, 100]) == pytest.approx(2.5)
    assert interquartile_mean([-9, 1, 2, 9]) == pytest.approx(1.5)
    assert interquartile_mean([5.0]) == 5.0


def test_pairs_name_an_environment_and_a_planner() -> None:
    """Whatever stands before the first = is the environment; both are needed."""
    snake = "envs.snake:agentkd/Snake-v0"
    own, made, saved = cases_of(
        [f"{snake}=policies/a=b", f"{snake}=policies.snake:search", f"{snake}=runs/old/planner.zip"]
    )
    assert (own.env, own.planner) == (snake, "policies/a=b")
    names = own.name, made.name, saved.name
    assert names == ("a=b-Snake-v0", "search-Snake-v0", "old-Snake-v0")
    for text in ("CartPole-v1", "=planner", "CartPole-v1="):
        with pytest.raises(ConfigError, match="ENV=PLANNER"):
            cases_of([text])


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
    with pytest.raises(ConfigError, match="not a folder"):
        find_cases(tmp_path / "nowhere")


def test_the_rate_of_labelling_counts_what_was_answered() -> None:
    """Whole batches, with its memory handed on where the planner has one."""
    asked: list[float] = []

    class Remembers:
        def initial_state(self, batch: int) -> State:
            return (np.zeros((batch, 1), np.float32),)

        def __call__(self, obs: Floats, state: State, /) -> tuple[Categorical, State]:
            asked.append(float(state[0][0, 0]))
            return Categorical(obs), (state[0] + 1,)

    obs = np.zeros((16, 2), np.float32)
    assert labelling_rate(Remembers(), obs, seconds=0.0) > 0
    assert asked == [0.0]
    asked.clear()
    labelling_rate(Remembers(), obs, seconds=0.01)
    assert asked == [float(n) for n in range(len(asked))]
    assert labelling_rate(balance, np.zeros((16, 4), np.float32), seconds=0.0) > 0
    assert megabytes() > 10


def test_the_command_tells_rates_and_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What distillation makes beside what the planner could make alone."""
    folder = tmp_path / "planners" / "dqn-CartPole-v1"
    folder.mkdir(parents=True)
    kwargs = {"net_arch": [8]}
    model = DQN("MlpPolicy", "CartPole-v1", buffer_size=10, policy_kwargs=kwargs)
    model.save(folder / "planner.zip")
    out = tmp_path / "out"
    words = ["retention", "--planners", str(folder.parent), "--seconds", "1.5"]
    words += ["--seeds", "1", "--episodes", "2", "--executor", "mlp:4"]
    assert main([*words, "--out", str(out)]) == 0
    data = report(out)
    planner, random, executor = data["results"]
    assert [each["what"] for each in data["results"]] == ["planner", "random", "executor"]
    assert undocumented(planner, random, executor, *data["retention"]) == []
    assert planner["labels_per_second"] > 0
    for name in ("labels", "seconds", "steps", "megabytes"):
        assert executor[name] > 0
    (row,) = data["retention"]
    assert data["interquartile_mean"] == {"mlp:4": row["mean"]}
    assert "retention" in capsys.readouterr().out
