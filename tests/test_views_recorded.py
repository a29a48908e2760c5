"""Datasets that say which actions were executed, for executors that see past actions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agentkd.distillation.dataset import MANIFEST, About
from agentkd.distillation.distiller import Distiller, DistillerOptions
from agentkd.distillation.loop import run_distillation as distill
from agentkd.distillation.offline import DatasetSource, open_dataset
from agentkd.distillation.recording import DatasetWriter, record
from agentkd.distillation.service import build
from agentkd.distillation.sources import CollectionOptions
from agentkd.distillation.task import open_task
from agentkd.errors import ConfigError, LoadError
from agentkd.executors.architecture import initial
from agentkd.executors.past import unrolled
from tests.test_distill_minari import episode, lay_out
from tests.test_views_past_learnt import Noted, wander


def recorded(folder: Path, chance: float = 0.0, env: Any = Noted, labels: int = 300) -> Path:
    """Record an environment whose first number is the action before."""
    task = open_task(env, wander)
    about = About("Noted", task.spec)
    with DatasetWriter(folder, about, part=100) as writer:
        way = CollectionOptions(environments=3)
        record(task, writer, labels=labels, chance=chance, collection=way)
    return folder


def together() -> Any:
    """Make three environments that step together."""
    mode = gym.vector.AutoresetMode.SAME_STEP
    return gym.vector.SyncVectorEnv([Noted] * 3, autoreset_mode=mode)


@pytest.mark.parametrize("env", [Noted, together], ids=["one", "vector"])
@pytest.mark.parametrize("chance", [0.0, 0.4])
def test_a_recording_says_what_was_executed(chance: float, env: Any, tmp_path: Path) -> None:
    """Also where a random action was done in the planner's place; zeros where episodes begin."""
    dataset = open_dataset(recorded(tmp_path / "data", chance, env))
    assert dataset.taken
    begun = 0
    for index in range(dataset.parts):
        rows = dataset.part(index)
        assert rows.taken is not None
        assert np.allclose(rows.taken[:, 0], rows.obs[:, 0])
        begun += int((rows.taken[:, 0] == 0).sum())
    assert begun >= 3


def test_a_delay_is_distilled_from_a_recording(tmp_path: Path) -> None:
    """What is learnt from holds the action that was executed at the tick before."""
    dataset = open_dataset(recorded(tmp_path / "data"))
    source = DatasetSource(dataset, 1000, 0, taken=True)
    found = list(source.fill())
    obs = np.concatenate([each.obs for each in found])
    assert obs.shape[1] == 3
    assert np.allclose(obs[:, 2], obs[:, 0])
    assert source.held_out is None or source.held_out.obs.shape[1] == 3
    result = distill(data=dataset, executor="mlp:8", steps=30, executor_sees="1,delay:1")
    assert result.labels > 200
    assert result.executor.spec.obs.taken == 1
    kept = Distiller(initial("mlp:8", dataset.about.spec, sees="1,delay:1"), DistillerOptions())
    for each in found:
        kept.add(*each)
    labels = kept.sample(10_000)
    assert labels is not None
    assert labels.obs.shape[1] == unrolled(result.executor).spec.obs.size


def test_live_learning_begins_from_a_recording(tmp_path: Path) -> None:
    """Kept labels of a dataset hold the past; one that does not say it is refused."""
    path = recorded(tmp_path / "data")
    spec = open_dataset(path).about.spec
    for sees in ("1,delay:2", "stack:3"):
        file = tmp_path / f"{sees[:2].strip(',')}.akd"
        initial("mlp:8", spec, sees=sees).save(file)
        learner = build(str(file), data=str(path))
        assert learner._anchor is not None
        rows, split = learner._anchor.rows()
        assert len(learner._anchor) > 100
        assert np.isfinite(rows[: len(learner._anchor), :split]).all()
    manifest = json.loads((path / MANIFEST).read_text())
    del manifest["taken"]
    (path / MANIFEST).write_text(json.dumps(manifest))
    assert open_dataset(path).part(0).taken is None
    initial("mlp:8", spec, sees="delay:1").save(tmp_path / "late.akd")
    with pytest.raises(ConfigError, match="which actions were executed"):
        build(str(tmp_path / "late.akd"), data=str(path))
    with pytest.raises(ConfigError, match="which actions were executed"):
        distill(data=open_dataset(path), executor="mlp:4", steps=4, executor_sees="delay:1")


def test_a_part_without_actions_that_were_promised_is_damaged(tmp_path: Path) -> None:
    """The file is named."""
    with DatasetWriter(tmp_path, About("e", open_task(Noted, wander).spec)) as writer:
        obs, none = np.zeros((4, 2), np.float32), np.zeros(4, np.uint8)
        writer.add(obs, wander(obs), obs[:, 0], none.astype(bool), none)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert manifest["taken"] is False
    (tmp_path / MANIFEST).write_text(json.dumps({**manifest, "taken": True}))
    with pytest.raises(LoadError, match="part-00000"):
        open_dataset(tmp_path).part(0)


def test_a_dataset_of_minari_says_what_was_executed(tmp_path: Path) -> None:
    """Its actions are those, as an executor observes them; a new episode begins with none."""
    pytest.importorskip("h5py")
    episodes = [episode(6, seed) for seed in range(4)]
    dataset = open_dataset(lay_out(tmp_path / "one", episodes))
    assert dataset.taken
    rows = dataset.part(0)
    assert rows.taken is not None
    before = np.concatenate([[[0, 0], *np.eye(2)[each["actions"][:-1]]] for each in episodes])
    assert np.array_equal(rows.taken, before)
    result = distill(data=dataset, executor="mlp:8", steps=10, executor_sees="actions:2")
    assert result.executor.spec.obs.taken == 2
