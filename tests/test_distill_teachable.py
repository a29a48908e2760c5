"""What the first labels tell about a planner: whether the state explains its answers."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd import dists
from agentkd.cli.main import main
from agentkd.distillation import run_distillation
from agentkd.distillation.offline import open_dataset
from agentkd.distillation.sources import CollectionOptions
from agentkd.distillation.teachable import (
    FEWEST,
    LABELS,
    LEAST,
    FirstLabels,
    explained,
    held_out,
    targets,
    warning,
)
from agentkd.executors.architecture import initial
from agentkd.spec import BoxSpec, DiscreteSpec, ObsSpec, Part, Spec
from agentkd.types import Categorical, Floats, Labels, Point
from tests.cli_reports import report, undocumented

OBS = ObsSpec((Part("", "box", (4,), "float32"),))
BOX = Spec(OBS, BoxSpec((-2.0,), (2.0,), (1,)))
CHOICE = Spec(OBS, DiscreteSpec(2))
RANDOM = np.random.default_rng(0)


def seen(count: int, seed: int = 0) -> Floats:
    """Observations with numbers of very different size."""
    drawn = np.random.default_rng(seed).standard_normal((count, 4))
    return (drawn * [1, 100, 1e-3, 1] + [0, 5, 0, 0]).astype(np.float32)


def wave(obs: Floats) -> Floats:
    """A planner that can be taught."""
    return 2 * np.sin(obs[:, :1] + 0.01 * obs[:, 1:2])


def whim(obs: Floats) -> Floats:
    """A planner that answers whatever comes to its mind."""
    return RANDOM.uniform(-2, 2, (len(obs), 1)).astype(np.float32)


def share_of(planner: Any, spec: Spec = BOX, architecture: str = "linear") -> float:
    """Judge a planner by its answers, 16 at a time, linked as sixteen environments link them."""
    first = FirstLabels(initial(architecture, spec))
    for tick in range(LABELS // 16 + 1):
        obs = seen(16, tick)
        answer = planner(obs)
        dist = Point(answer) if isinstance(answer, np.ndarray) else answer
        first.add(Labels(obs, dist, np.full(16, 16 if tick else 0, np.int32)))
    return first.share


def test_what_follows_from_the_state_is_explained() -> None:
    """Of a function nearly all, of whims nothing, of half and half about a half."""
    assert share_of(wave) > 0.9
    assert share_of(whim) < 0.1
    half = share_of(lambda obs: wave(obs) + 0.8 * whim(obs))
    assert 0.3 < half < 0.8


def test_choices_are_explained_by_their_probabilities() -> None:
    """A choice that hangs on the state can be taught, one that is drawn cannot."""

    def told(logits: Floats) -> Categorical:
        return Categorical(np.concatenate([logits, -logits], axis=1))

    assert share_of(lambda obs: told(wave(obs)), CHOICE) > 0.8
    assert share_of(lambda obs: told(3 * np.sign(whim(obs))), CHOICE) < 0.1


def test_what_cannot_be_told_is_not_told() -> None:
    """A planner that answers always alike, an executor with a memory, a few labels, an image."""
    assert math.isnan(share_of(lambda obs: np.ones((len(obs), 1), np.float32)))
    assert math.isnan(share_of(whim, architecture="gru:4"))
    first = FirstLabels(initial("linear", BOX))
    obs = seen(FEWEST - 1)
    first.add(Labels(obs, Point(whim(obs)), None))
    first.judge()
    assert math.isnan(first.share)
    large = RANDOM.standard_normal((300, 100)).astype(np.float32)
    answers = RANDOM.standard_normal((300, 1))
    assert math.isnan(explained(large, answers, large, answers))
    assert warning(math.nan) == warning(LEAST) == ""
    assert "12%" in warning(0.12)
    assert "0%" in warning(-0.2)


def test_labels_that_are_not_finite_do_not_count() -> None:
    """A planner that fails at times is judged by the rest."""
    obs = seen(300)
    wanted = wave(obs).astype(float)
    wanted[::7] = np.nan
    assert explained(obs[:200], wanted[:200], obs[200:], wanted[200:]) > 0.8


def test_whole_sequences_are_held_out() -> None:
    """Neighbours in time are on one side; without sequences it is the last third."""
    links = np.full(96, 8, np.int32)
    links[:8] = 0
    held = held_out(links)
    assert held.sum() in range(20, 40)
    assert all(held[index] == held[index % 8] for index in range(96))
    alone = held_out(np.zeros(90, np.int32))
    assert alone.tolist() == [False] * 60 + [True] * 30


def test_actions_count_in_halves_of_the_box() -> None:
    """Units do not matter."""
    assert targets(Point(np.array([[2.0]], np.float32)), BOX.action) == pytest.approx(1.0)
    both = targets(Categorical(np.zeros((1, 2), np.float32)), CHOICE.action)
    assert both == pytest.approx(0.5)


class Whims:
    """A pendulum's planner that answers at random."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)

    def __call__(self, obs: Floats) -> Floats:
        return self._random.uniform(-2, 2, (len(obs), 1)).astype(np.float32)


def whims(spec: Spec) -> Whims:
    """Make it, by reference."""
    del spec
    return Whims()


HOW: dict[str, Any] = {"labels": 800, "episodes": 0, "progress": False}


def test_a_distillation_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """Its result has the share, and a planner that cannot be taught is warned of."""
    with caplog.at_level(logging.WARNING, "agentkd"):
        found = run_distillation("Pendulum-v1", Whims(), "mlp:4", **HOW)
    assert found.explained < 0.1
    assert "explains" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "agentkd"):
        found = run_distillation("Pendulum-v1", lambda obs: 2 * obs[:, 1:2], "mlp:4", **HOW)
    assert found.explained > 0.9
    assert "explains" not in caplog.text


def test_judging_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the same executor comes of the same seed."""
    way = CollectionOptions(environments=4)
    found = run_distillation("Pendulum-v1", Whims(), "mlp:4", collection=way, **HOW)
    monkeypatch.setattr(FirstLabels, "add", lambda *_: None)
    again = run_distillation("Pendulum-v1", Whims(), "mlp:4", collection=way, **HOW)
    assert math.isnan(again.explained)
    assert dists.mode(found.executor(seen(3)[:, :3]), found.executor.spec.action) == pytest.approx(
        dists.mode(again.executor(seen(3)[:, :3]), again.executor.spec.action), abs=0
    )


def test_the_command_warns_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the terminal as soon as it is known, and in the report."""
    out = tmp_path / "out"
    words = ["distill", "Pendulum-v1", "--planner", "tests.test_distill_teachable:whims"]
    more = ["--executor", "mlp:4", "--labels", "800", "--episodes", "1", "--out", str(out)]
    assert main([*words, *more]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("What the executor sees explains") == 2
    data = report(out)
    assert data["planner_explained"] < 0.1
    assert undocumented(data) == []


def test_labels_of_a_dataset_are_judged_too(tmp_path: Path) -> None:
    """By those that are held out."""
    out = tmp_path / "labels"
    words = ["record", "Pendulum-v1", "--planner", "tests.test_distill_teachable:whims"]
    more = ["--labels", "8000", "--environments", "40", "--episodes", "0", "--out", str(out)]
    assert main([*words, *more]) == 0
    found = run_distillation(data=open_dataset(out), executor="mlp:4", steps=1, progress=False)
    assert found.explained < 0.1
