"""The label buffer keeps the newest labels, whole ones, within its bound."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkd.distillation.buffer import LabelBuffer
from agentkd.errors import ConfigError, LoadError, SpecError
from agentkd.types import Categorical, Floats, Gaussian, QValues


def labels(first: int, count: int) -> tuple[Floats, Categorical]:
    """Make labels that carry their own number."""
    numbers = np.arange(first, first + count, dtype=np.float32)
    return numbers[:, None].repeat(3, 1), Categorical(numbers[:, None].repeat(2, 1))


def held(buffer: LabelBuffer) -> set[int]:
    """The numbers of the labels in a buffer, each with its own distribution."""
    obs, packed = buffer.all()
    assert (obs[:, :1] == packed[:, :1]).all()
    return {int(x) for x in obs[:, 0]}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 60))
def test_the_newest_labels_are_kept(batches: list[int], capacity: int) -> None:
    """Whatever the batches, what is held is exactly the last `capacity` labels."""
    buffer = LabelBuffer(capacity)
    seen = 0
    for count in batches:
        buffer.add(*labels(seen, count))
        seen += count
    assert buffer.seen == seen
    assert len(buffer) == min(seen, capacity)
    if seen:
        assert held(buffer) == set(range(max(0, seen - capacity), seen))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 90), st.integers(1, 50), st.integers(0, 30))
def test_a_saved_buffer_goes_on_as_before(
    tmp_path_factory: pytest.TempPathFactory, first: int, capacity: int, more: int
) -> None:
    """Saving and loading changes nothing, also for what is added afterwards."""
    path = tmp_path_factory.mktemp("labels") / "labels.npz"
    buffer = LabelBuffer(capacity)
    buffer.add(*labels(0, first))
    buffer.save(path)
    other = LabelBuffer(capacity)
    other.load(path)
    for each in (buffer, other):
        each.add(*labels(first, more))
    assert held(buffer) == held(other)
    assert (buffer.seen, buffer.kind) == (other.seen, other.kind)


def test_memory_is_bounded_by_the_capacity() -> None:
    """A million labels of 17 + 12 numbers would take 116 MB: 116 bytes each."""
    buffer = LabelBuffer(10_000)
    obs = np.zeros((4096, 17), np.float32)
    wide = np.zeros((4096, 6), np.float32)
    for _ in range(10):
        buffer.add(obs, Gaussian(wide, wide))
    assert buffer.nbytes == 10_000 * 116


def test_memory_is_bounded_by_bytes_too() -> None:
    """Labels of images are fewer: 400 bytes hold ten labels of ten numbers."""
    buffer = LabelBuffer(1_000_000, most_bytes=400)
    buffer.add(np.zeros((50, 8), np.float32), Categorical(np.zeros((50, 2), np.float32)))
    assert len(buffer) == 10
    assert buffer.nbytes == 400


def test_labels_that_are_no_numbers_are_left_out_and_counted() -> None:
    """One NaN spoils its row alone."""
    obs, dist = labels(0, 5)
    obs[1, 2] = np.nan
    dist.logits[3, 0] = np.inf
    buffer = LabelBuffer(100)
    buffer.add(obs, dist)
    assert buffer.refused == 2
    assert held(buffer) == {0, 2, 4}


def test_labels_of_another_kind_or_width_are_refused() -> None:
    """A buffer holds labels of one planner."""
    buffer = LabelBuffer(100)
    buffer.add(*labels(0, 5))
    with pytest.raises(SpecError, match="qvalues"):
        buffer.add(np.zeros((1, 3), np.float32), QValues(np.zeros((1, 2), np.float32)))
    with pytest.raises(SpecError):
        buffer.add(np.zeros((1, 4), np.float32), Categorical(np.zeros((1, 2), np.float32)))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    """What cannot be read says which file it was."""
    path = tmp_path / "labels.npz"
    path.write_bytes(b"not labels")
    with pytest.raises(LoadError, match=r"labels\.npz"):
        LabelBuffer(10).load(path)


def test_no_capacity_is_no_buffer() -> None:
    """At least one label has to fit."""
    with pytest.raises(ConfigError):
        LabelBuffer(0)


@pytest.mark.parametrize("capacity", [3, 8, 20])
def test_labels_are_read_back_into_any_room(capacity: int, tmp_path: Path) -> None:
    """The newest of them, in their order, also where the buffer had gone round."""
    buffer = LabelBuffer(8)
    buffer.add(*labels(0, 13))
    buffer.save(tmp_path / "labels.npz")
    other = LabelBuffer(capacity)
    other.load(tmp_path / "labels.npz")
    assert held(other) == set(range(5, 13)[-capacity:])
    other.add(*labels(13, 1))
    assert held(other) == set(range(5, 14)[-capacity:])
    assert other.seen == 14


def test_a_million_labels_stay_under_500_megabytes(tmp_path: Path) -> None:
    """17 + 6 numbers each; a checkpoint is written and read, torch is counted in."""
    for code in (WRITE, READ):
        done = subprocess.run(
            [sys.executable, "-c", START + code, str(tmp_path)],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=True,
        )
        count, most = map(int, done.stdout.split())
        assert count == 1_000_000
        # On Linux in kilobytes.
        assert most < 500_000


START = """
import resource, sys
from pathlib import Path
import numpy as np
from agentkd.distillation.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from agentkd.distillation.distiller import Distiller
from agentkd.executors.architecture import initial
from agentkd.spec import BoxSpec, ObsSpec, Part, Spec
from agentkd.types import Point
obs = ObsSpec((Part("", "box", (17,), "float32"),))
spec = Spec(obs, BoxSpec((-1,) * 6, (1,) * 6, (6,)))
distiller = Distiller(initial("mlp:64,64", spec))
def most():
    # What getrusage tells may be that of the process that started this one.
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(status.read_text().split("VmHWM:")[1].split()[0])
"""
WRITE = """
rows = np.random.default_rng(0).standard_normal((20_000, 23)).astype(np.float32)
for _ in range(50):
    distiller.add(rows[:, :17], Point(rows[:, 17:]))
    distiller.step()
save_checkpoint(Path(sys.argv[1]), distiller, Checkpoint())
print(len(distiller.buffer), most())
"""
READ = """
load_checkpoint(Path(sys.argv[1]), distiller)
distiller.step()
print(len(distiller.buffer), most())
"""
