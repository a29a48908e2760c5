"""Labels on disk: what is written is read, and nothing that was written is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.distillation import open_task, run_distillation
from agentkd.distillation.buffer import LabelBuffer
from agentkd.distillation.dataset import About, Dataset, Rows, read_dataset
from agentkd.distillation.offline import DatasetSource, open_dataset
from agentkd.distillation.recording import DatasetWriter, clear_dataset, record
from agentkd.dists import mode, pack, unpack
from agentkd.errors import ConfigError, LoadError, PlannerError, SpecError, WriteError
from agentkd.executors.architecture import initial
from agentkd.planners import Planner
from agentkd.spec import BoxSpec, DiscreteSpec, ObsSpec, Part, Spec
from agentkd.types import ActionDist, Categorical, Floats, Kind, Labels
from tests.waiting import wait_for

ROOT = Path(__file__).parents[1]
CARTPOLE = Spec(ObsSpec((Part("", "box", (4,), "float32"),)), DiscreteSpec(2))
ARM = Spec(ObsSpec((Part("", "box", (3,), "float32"),)), BoxSpec((-1, -1), (1, 1), (2,)))
ABOUT = About("CartPole-v1", CARTPOLE, planner="rule", digest="d1", parameters=4)


def balance(obs: Floats, /) -> Categorical:
    """Push towards where the pole falls."""
    lean = 4.0 * (obs[:, 2] + 0.3 * obs[:, 3] + 0.05 * obs[:, 0] + 0.1 * obs[:, 1])
    return Categorical(np.stack([-lean, lean], axis=1).astype(np.float32))


RULE = Planner(balance, CARTPOLE, "rule", 4, "d1")
BALANCING = open_task("CartPole-v1", RULE)


def ticks(writer: DatasetWriter, count: int, *, rows: int = 4, length: int = 5) -> None:
    """Write `count` ticks of `rows` environments with episodes of a length."""
    for tick in range(count):
        obs = np.full((rows, 4), tick, np.float32)
        obs += np.arange(rows, dtype=np.float32)[:, None] / 10
        writer.add(
            obs,
            balance(obs),
            np.full(rows, tick, np.float32),
            np.full(rows, tick % length == 0),
            np.full(rows, 1 if tick % length == length - 1 else 0, np.uint8),
        )


def whole(dataset: Dataset) -> list[Rows]:
    """All parts of a dataset."""
    return [dataset.part(index) for index in range(dataset.parts)]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Rows come back in their order, with where they come from."""
    with DatasetWriter(tmp_path, ABOUT, part=16) as writer:
        ticks(writer, 10)
    dataset = read_dataset(tmp_path)
    assert (dataset.labels, dataset.episodes, dataset.parts) == (40, 8, 3)
    assert dataset.complete
    assert dataset.about == ABOUT
    parts = whole(dataset)
    reward = np.concatenate([each.reward for each in parts])
    assert reward.tolist() == [float(tick) for tick in range(10) for _ in range(4)]
    obs = np.concatenate([each.obs for each in parts])
    said = np.concatenate([pack(each.dist) for each in parts])
    assert np.allclose(said, balance(obs).logits, atol=1e-4)
    episodes = np.concatenate([each.episode for each in parts])
    assert np.bincount(episodes).tolist() == [5] * 8
    ended = np.concatenate([each.ended for each in parts])
    assert ended.sum() == 8


@pytest.mark.parametrize(
    ("kind", "spec", "width"),
    [
        ("categorical", CARTPOLE, 2),
        ("qvalues", CARTPOLE, 2),
        ("gaussian", ARM, 4),
        ("squashed", ARM, 4),
        ("point", ARM, 2),
    ],
)
def test_every_kind_of_distribution_comes_back(
    kind: Kind, spec: Spec, width: int, tmp_path: Path
) -> None:
    """A dataset holds the distribution, not only the action."""
    rows = np.random.default_rng(0).standard_normal((6, width)).astype(np.float32)
    obs = np.zeros((6, spec.obs.size), np.float32)
    with DatasetWriter(tmp_path, About("e", spec)) as writer:
        dist = unpack(kind, rows, spec.action)
        none = np.zeros(6, np.uint8)
        writer.add(obs, dist, obs[:, 0], none.astype(bool), none)
    dataset = read_dataset(tmp_path)
    assert dataset.kind == kind
    assert np.array_equal(pack(dataset.part(0).dist), rows)


def test_a_row_that_is_no_number_breaks_its_episode(tmp_path: Path) -> None:
    """It is left out and counted; what follows it is no longer its next tick."""
    with DatasetWriter(tmp_path, ABOUT) as writer:
        for tick in range(3):
            obs = np.zeros((2, 4), np.float32)
            obs[0] = np.nan if tick == 1 else 0.0
            begins, ended = np.full(2, tick == 0), np.zeros(2, np.uint8)
            writer.add(obs, balance(np.zeros_like(obs)), obs[:, 1], begins, ended)
    dataset = read_dataset(tmp_path)
    assert (dataset.labels, dataset.refused) == (5, 1)
    assert dataset.part(0).episode.tolist() == [0, 1, 1, 2, 1]


def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Widths and kinds are the environment's and the first label's."""
    with DatasetWriter(tmp_path, ABOUT) as writer:
        ticks(writer, 1)
        obs = np.zeros((4, 5), np.float32)
        begins, ended = np.zeros(4, bool), np.zeros(4, np.uint8)
        with pytest.raises(SpecError, match="do not fit"):
            writer.add(obs, balance(obs), obs[:, 0], begins, ended)


def test_a_dataset_is_not_written_over(tmp_path: Path) -> None:
    """Neither by accident; and what is cleared leaves other files alone."""
    with DatasetWriter(tmp_path, ABOUT) as writer:
        ticks(writer, 1)
    with pytest.raises(ConfigError, match="already"):
        DatasetWriter(tmp_path, ABOUT)
    (tmp_path / "notes.txt").touch()
    clear_dataset(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]


def test_a_killed_writer_leaves_what_it_had_written(tmp_path: Path) -> None:
    """SIGKILL in the middle costs at most the part that was not yet full."""
    out = tmp_path / "labels"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", ENDLESS, str(out)], env=environment):
        wait_for((out / "part-00003.safetensors").exists)
        pid = int((tmp_path / "pid").read_text())
        os.kill(pid, signal.SIGKILL)
    dataset = read_dataset(out)
    assert not dataset.complete
    assert dataset.labels == sum(len(rows) for rows in whole(dataset)) >= 3 * 1000
    result = run_distillation(data=dataset, executor="mlp:4", steps=5)
    assert result.steps == 5


ENDLESS = """
import os, sys
from pathlib import Path
import numpy as np
from agentkd.distillation.dataset import About
from agentkd.distillation.recording import DatasetWriter
from agentkd.spec import DiscreteSpec, ObsSpec, Part, Spec
from agentkd.types import Categorical
out = Path(sys.argv[1])
(out.parent / "pid").write_text(str(os.getpid()))
spec = Spec(ObsSpec((Part("", "box", (4,), "float32"),)), DiscreteSpec(2))
rows, none = np.zeros((100, 4), np.float32), np.zeros(100, np.uint8)
with DatasetWriter(out, About("CartPole-v1", spec), part=1000) as writer:
    while True:
        begins = none.astype(bool)
        writer.add(rows, Categorical(rows[:, :2]), rows[:, 0], begins, none)
"""


def test_a_full_disk_costs_no_earlier_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal is told once, and what was written can be distilled from."""
    real = os.fsync
    left = [8]  # two parts and their manifests, each a file and its folder

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with (
        pytest.raises(WriteError, match="No space left"),
        DatasetWriter(tmp_path, ABOUT, part=20) as writer,
    ):
        ticks(writer, 50)
    dataset = read_dataset(tmp_path)
    assert (dataset.labels, dataset.parts) == (40, 2)
    assert not list(tmp_path.glob("*.tmp"))


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    """One changed bit is found; once that file is gone the others are read."""
    with DatasetWriter(tmp_path, ABOUT, part=16) as writer:
        ticks(writer, 10)
    path = tmp_path / "part-00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    dataset = read_dataset(tmp_path)
    with pytest.raises(LoadError, match=r"part-00001.*SHA-256"):
        dataset.part(1)
    path.unlink()
    assert read_dataset(tmp_path).labels == 24


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"schema": 2},
        {"kind": "nonsense"},
        {"parts": []},
        {"parts": [{"file": "../x", "labels": 1, "bytes": 1, "sha256": ""}]},
        {"spec": {}},
        {"planner": None},
    ],
)
def test_a_manifest_that_is_none_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    """Whatever is wrong with it, the error names the folder."""
    with DatasetWriter(tmp_path, ABOUT) as writer:
        ticks(writer, 1)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(LoadError, match=str(tmp_path)):
        read_dataset(tmp_path)
    with pytest.raises(LoadError, match="record"):
        open_dataset(tmp_path / "nowhere")


def test_an_executor_is_distilled_from_labels_alone(tmp_path: Path) -> None:
    """It does what the planner does in episodes that it never learnt from."""
    with DatasetWriter(tmp_path, ABOUT) as writer:
        record(BALANCING, writer, labels=6000, chance=0.1)
    dataset = read_dataset(tmp_path)
    result = run_distillation(data=dataset, executor="mlp:16", steps=1500, every=0.0)
    assert result.steps == 1500
    assert result.labels < dataset.labels == 6000
    assert result.history[-1].agreement > 0.97
    again = run_distillation(data=dataset, executor="mlp:16", steps=1500)
    assert np.array_equal(again.executor.vector(), result.executor.vector())
    policy: Any = result.planner.policy
    with pytest.raises(PlannerError, match="cannot be asked"):
        policy(np.zeros((1, 4), np.float32))


def test_held_out_episodes_are_never_given(tmp_path: Path) -> None:
    """Nor in later rounds; all other labels are, in each round once."""
    with DatasetWriter(tmp_path, ABOUT, part=64) as writer:
        ticks(writer, 200)
    dataset = read_dataset(tmp_path)
    source = DatasetSource(dataset, capacity=100, seed=0)
    filled = sum(len(each.obs) for each in source.fill())
    assert source.held_out is not None
    held = {tuple(row) for row in source.held_out[0].tolist()}
    assert len(held) == source.held_back == 40
    assert 100 <= filled < 200
    seen: list[tuple[float, ...]] = []
    while len(seen) < 2 * (800 - 40):
        ((obs, *_),) = source.take()
        seen += [tuple(row) for row in obs.tolist()]
    assert not held & set(seen)
    assert len(set(seen)) == 760
    assert set(map(seen.count, set(seen))) == {2}


def test_a_dataset_larger_than_memory_is_learnt_from(tmp_path: Path) -> None:
    """The buffer keeps to its bound, and labels go through it."""
    from agentkd.distillation import DistillerOptions

    with DatasetWriter(tmp_path, ABOUT, part=256) as writer:
        record(BALANCING, writer, labels=4000, chance=0.1)
    options = DistillerOptions(capacity=1000, batch=64)
    result = run_distillation(
        data=read_dataset(tmp_path), executor="mlp:8", steps=400, options=options
    )
    assert result.history[-1].agreement > 0.9
    # Far more went through than is held.
    assert result.history[-1].labels > 4000


def test_an_interrupted_offline_distillation_goes_on(tmp_path: Path) -> None:
    """Steps count on, and the held-out labels stay the same."""
    with DatasetWriter(tmp_path / "data", ABOUT) as writer:
        ticks(writer, 100)
    dataset = read_dataset(tmp_path / "data")
    folder = tmp_path / "checkpoint"
    first = run_distillation(data=dataset, executor="mlp:4", steps=30, checkpoint=folder)
    second = run_distillation(
        data=dataset, executor="mlp:4", steps=50, checkpoint=folder, resume=True
    )
    assert (first.steps, second.steps) == (30, 50)
    assert second.labels == first.labels


def test_an_executor_for_something_else_is_refused(tmp_path: Path) -> None:
    """One that fits learns on; another is told what differs."""
    with DatasetWriter(tmp_path, ABOUT) as writer:
        ticks(writer, 20)
    dataset = read_dataset(tmp_path)
    fitting = run_distillation(data=dataset, executor=initial("mlp:3", CARTPOLE), steps=3)
    assert fitting.steps == 3
    for spec in (ARM, Spec(ARM.obs, CARTPOLE.action)):
        with pytest.raises(ConfigError, match="is for"):
            run_distillation(data=dataset, executor=initial("mlp:3", spec), steps=3)


@pytest.mark.parametrize("budget", [{"labels": 5}, {"labels": 5, "seconds": 1.0}])
def test_a_dataset_has_its_labels_already(budget: Any, tmp_path: Path) -> None:
    """Asking for some number of them is invalid."""
    with DatasetWriter(tmp_path, ABOUT) as writer:
        ticks(writer, 2)
    with pytest.raises(ConfigError, match="seconds or steps"):
        run_distillation(data=read_dataset(tmp_path), **budget)


def test_random_actions_are_not_what_is_recorded(tmp_path: Path) -> None:
    """With chance 1 the pole falls soon; the labels are the planner's all the same."""
    with DatasetWriter(tmp_path, ABOUT) as writer:
        record(BALANCING, writer, labels=1600, chance=1.0)
    dataset = read_dataset(tmp_path)
    assert dataset.episodes > 40
    rows = dataset.part(0)
    said = mode(rows.dist, CARTPOLE.action)
    assert np.array_equal(said, mode(balance(rows.obs), CARTPOLE.action))


def test_a_planner_that_fails_leaves_its_labels(tmp_path: Path) -> None:
    """What it said before is kept, and why it ended is told."""
    asked = 0

    def mortal(obs: Floats, /) -> ActionDist:
        nonlocal asked
        asked += 1
        if asked > 6:
            raise ValueError("worn out")
        return balance(obs)

    planner = Planner(mortal, CARTPOLE, "mortal", 0, "")
    with DatasetWriter(tmp_path, ABOUT) as writer:
        result = record(open_task("CartPole-v1", planner), writer, labels=4000)
    assert "worn out" in result.fault
    assert read_dataset(tmp_path).labels == result.labels == 5 * 16


def test_a_planner_of_nothing_but_nan_ends(tmp_path: Path) -> None:
    """What it says is counted, and nobody waits for more."""

    def broken(obs: Floats, /) -> ActionDist:
        # Well at the first look, and never again.
        right = balance(obs).logits
        return Categorical(right if len(obs) == 1 else np.full_like(right, np.nan))

    planner = Planner(broken, CARTPOLE, "broken", 0, "")
    with DatasetWriter(tmp_path, ABOUT) as writer:
        result = record(open_task("CartPole-v1", planner), writer, labels=64)
    assert (result.labels, result.refused) == (0, 64)
    with pytest.raises(LoadError, match="no labels"):
        read_dataset(tmp_path)


def test_episodes_are_linked_across_chunks_and_cut_at_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where an episode begins does it say so."""
    monkeypatch.setattr("agentkd.distillation.offline._CHUNK", 32)
    with DatasetWriter(tmp_path, ABOUT, part=64) as writer:
        ticks(writer, 40, length=20)
    source = DatasetSource(read_dataset(tmp_path), capacity=10_000, seed=0)
    for labels in source.fill():
        assert labels.link is not None
        begins = labels.obs[labels.link == 0, 0]
        assert set(np.floor(begins + 1e-3).tolist()) <= {0.0, 20.0}


def test_what_does_not_fit_by_its_bytes_goes_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As images do: the buffer is full long before its capacity."""
    monkeypatch.setattr(LabelBuffer, "_set_aside", smaller)
    with DatasetWriter(tmp_path, ABOUT, part=64) as writer:
        ticks(writer, 60)
    taken = []
    plain = DatasetSource.take

    def counted(self: DatasetSource) -> list[Labels]:
        found = plain(self)
        taken.extend(found)
        return found

    monkeypatch.setattr(DatasetSource, "take", counted)
    run_distillation(data=read_dataset(tmp_path), executor="mlp:4", steps=40)
    assert taken


def smaller(buffer: LabelBuffer, width: int) -> None:
    buffer._capacity = 50
    buffer._rows = np.empty((50, width), np.float32)
