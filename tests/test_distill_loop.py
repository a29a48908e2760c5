"""A distillation from end to end, on small environments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agentkd.distillation import CollectionOptions, Progress, run_distillation
from agentkd.distillation.run import Budget
from agentkd.errors import AgentkdError, ConfigError, PlannerError
from agentkd.planners import Planner
from agentkd.spec import DiscreteSpec, ObsSpec, Part, Spec
from agentkd.types import Categorical, Floats, QValues

CARTPOLE = Spec(ObsSpec((Part("", "box", (4,), "float32"),)), DiscreteSpec(2))


def balance(obs: Floats, /) -> Categorical:
    """Push towards where the pole falls."""
    lean = 4.0 * (obs[:, 2] + 0.3 * obs[:, 3] + 0.05 * obs[:, 0] + 0.1 * obs[:, 1])
    return Categorical(np.stack([-lean, lean], axis=1).astype(np.float32))


def broken(obs: Floats, /) -> QValues:
    """Answer with nothing but NaN."""
    return QValues(np.full((len(obs), 2), np.nan, np.float32))


BALANCE = Planner(balance, CARTPOLE, "rule", 4, "")


def play(policy: Any, episodes: int) -> float:
    """Mean return over the first seeds."""
    env = gym.make("CartPole-v1")
    total = 0.0
    for seed in range(episodes):
        obs, _ = env.reset(seed=seed)
        done = False
        while not done:
            obs, reward, ended, cut, _ = env.step(policy.act(obs))
            total += float(reward)
            done = ended or cut
    return total / episodes


def test_the_executor_does_what_the_planner_does() -> None:
    """4,000 labels of a balancing rule make an executor that balances."""
    result = run_distillation("CartPole-v1", BALANCE, "mlp:16", labels=4000, episodes=0)
    assert result.labels >= 4000
    assert not result.interrupted
    assert play(result.executor, 5) == 500.0


def test_a_budget_of_labels_repeats_itself_exactly() -> None:
    """The same seed gives the same executor; another seed another one."""
    vectors = [
        run_distillation(
            "CartPole-v1", BALANCE, "mlp:8", labels=320, episodes=0, seed=seed
        ).executor.vector()
        for seed in (3, 3, 4)
    ]
    assert np.array_equal(vectors[0], vectors[1])
    assert not np.array_equal(vectors[0], vectors[2])


def test_an_interruption_keeps_what_was_learnt(tmp_path: Path) -> None:
    """Ctrl-C ends with an executor, and the next run goes on where it ended."""

    def interrupt(look: Progress) -> None:
        if look.steps > 100:
            raise KeyboardInterrupt

    first = run_distillation(
        "CartPole-v1",
        BALANCE,
        "mlp:8",
        labels=4000,
        episodes=0,
        watch=interrupt,
        every=0.0,
        checkpoint=tmp_path,
    )
    assert first.interrupted
    assert 100 < first.steps < 3000
    second = run_distillation(
        "CartPole-v1", BALANCE, "mlp:8", labels=4000, episodes=0, checkpoint=tmp_path, resume=True
    )
    assert second.labels == 4000
    assert not second.interrupted
    assert second.steps > first.steps


def test_a_disk_that_refuses_costs_no_executor(tmp_path: Path) -> None:
    """Learning goes on without a checkpoint, and says so."""
    (tmp_path / "file").touch()
    result = run_distillation(
        "CartPole-v1",
        BALANCE,
        "mlp:8",
        labels=640,
        episodes=0,
        checkpoint=tmp_path / "file" / "checkpoint",
    )
    assert result.steps > 0
    assert not result.interrupted
    assert "file" in result.unsaved


def test_a_planner_that_raises_later_leaves_what_was_learnt() -> None:
    """Also where labels and learning take turns in one process."""
    asked = 0

    def mortal(obs: Floats, /) -> Categorical:
        nonlocal asked
        asked += 1
        if asked > 40:
            raise ValueError("worn out")
        return balance(obs)

    planner = Planner(mortal, CARTPOLE, "mortal", 0, "")
    result = run_distillation("CartPole-v1", planner, "mlp:8", labels=4000, episodes=0)
    assert "worn out" in result.fault
    assert result.steps > 0


def test_resuming_with_other_environments_still_lets_the_executor_drive(tmp_path: Path) -> None:
    """What is published does not hang on how labels divide."""
    published: list[bool] = []
    for count, labels in ((16, 1008), (12, 4000)):
        result = run_distillation(
            "CartPole-v1",
            BALANCE,
            "mlp:8",
            labels=labels,
            episodes=0,
            collection=CollectionOptions(environments=count),
            checkpoint=tmp_path,
            resume=count == 12,
            every=0.0,
        )
        # There is an agreement only once an executor was published.
        published.append(any(np.isfinite(look.agreement) for look in result.history))
    assert published == [True, True]


def test_few_labels_are_learnt_from_too() -> None:
    """A budget below the usual beginning is no reason to learn nothing."""
    result = run_distillation("CartPole-v1", BALANCE, "mlp:8", labels=32, episodes=0)
    assert result.steps > 0


@pytest.mark.parametrize("collectors", [1, 2])
def test_labels_come_from_processes_of_their_own(tmp_path: Path, collectors: int) -> None:
    """With a time budget and a reference, children collect and the executor learns."""
    (tmp_path / "rules.py").write_text(RULES)
    looks: list[Progress] = []

    def enough() -> bool:
        return bool(looks) and looks[-1].labels > 2000 and looks[-1].steps > 200

    with working_in(tmp_path):
        result = run_distillation(
            "CartPole-v1",
            "rules:balance",
            "mlp:16",
            seconds=10_000.0,
            collection=CollectionOptions(collectors=collectors),
            episodes=0,
            watch=looks.append,
            every=0.1,
            stop=enough,
        )
    assert result.labels > 2000
    assert result.executor.version > 1


def test_a_child_that_fails_says_why(tmp_path: Path) -> None:
    """The planner's own words reach the caller."""
    (tmp_path / "faulty.py").write_text(FAULTY)
    with working_in(tmp_path), pytest.raises(PlannerError, match="no luck today"):
        run_distillation("CartPole-v1", "faulty:planner", seconds=10_000.0, episodes=0)


def test_what_was_learnt_outlives_its_planner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planner that dies is tried again, and in the end the executor is kept."""
    monkeypatch.setattr("agentkd.distillation.process_source._RESTARTS", 1)
    (tmp_path / "mortal.py").write_text(MORTAL)
    with working_in(tmp_path):
        one = CollectionOptions(collectors=1)
        result = run_distillation(
            "CartPole-v1", "mortal:planner", seconds=10_000.0, episodes=0, collection=one
        )
    assert "worn out" in result.fault
    assert result.interrupted
    assert result.restarts == 1
    assert result.steps > 0
    assert np.isfinite(result.executor.vector()).all()


RULES = """
import numpy as np
from agentkd.types import Categorical
def balance(obs):
    lean = 4 * (obs[:, 2] + 0.3 * obs[:, 3] + 0.05 * obs[:, 0] + 0.1 * obs[:, 1])
    return Categorical(np.stack([-lean, lean], 1).astype(np.float32))
"""
FAULTY = """
from agentkd.types import Categorical
import numpy as np
def planner(obs):
    if len(obs) > 1:
        raise ValueError("no luck today")
    return Categorical(np.zeros((1, 2), np.float32))
"""


MORTAL = """
from agentkd.types import Categorical
import numpy as np
answers = 0
def planner(obs):
    global answers
    answers += 1
    if answers > 64:
        raise ValueError("worn out")
    return Categorical(np.zeros((len(obs), 2), np.float32))
"""


class working_in:  # noqa: N801
    """Run in a folder, with it on the import path, and leave no trace of it."""

    def __init__(self, folder: Path) -> None:
        """Remember the folder."""
        self._patch = pytest.MonkeyPatch()
        self._folder = folder

    def __enter__(self) -> None:
        """Go there."""
        self._patch.chdir(self._folder)
        self._patch.syspath_prepend(str(self._folder))

    def __exit__(self, *_: object) -> None:
        """Go back."""
        self._patch.undo()


def test_a_planner_that_says_nan_is_named_at_once() -> None:
    """Nobody waits a minute to learn that there was nothing to learn."""
    planner = Planner(broken, CARTPOLE, "broken", 0, "")
    with pytest.raises(AgentkdError, match="NaN or infinity"):
        run_distillation("CartPole-v1", planner, labels=100, episodes=0)


def test_a_distillation_needs_an_end() -> None:
    """A budget of nothing, or of no time, is refused."""
    for wrong in ({}, {"seconds": 0.0}, {"labels": 0}):
        with pytest.raises(ConfigError):
            Budget(**wrong)
