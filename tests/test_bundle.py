"""The executor file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkd.deploy.bundle import from_bytes, read_bundle, to_bytes, write_bundle
from agentkd.errors import BundleError, NumbersError
from agentkd.executors.architecture import initial
from agentkd.executors.frozen import Frozen
from agentkd.executors.layers import tensors
from agentkd.spec import (
    ActionSpec,
    BoxSpec,
    DiscreteSpec,
    MultiBinarySpec,
    MultiDiscreteSpec,
    ObsSpec,
    Part,
    Spec,
)

OBS = ObsSpec((Part("", "box", (3,), "float32"),))
ACTIONS: list[ActionSpec] = [
    DiscreteSpec(4, 1),
    MultiDiscreteSpec((2, 3)),
    MultiBinarySpec(5),
    BoxSpec((-1.0, -2.0), (1.0, 2.0), (2,)),
    BoxSpec((-np.inf,), (np.inf,), (1,)),
]


def small() -> Frozen:
    """Make the smallest executor that has everything."""
    return initial("mlp:2", Spec(OBS, DiscreteSpec(2)), seed=3)


@pytest.mark.parametrize("action", ACTIONS, ids=lambda a: type(a).__name__)
def test_a_bundle_gives_back_the_executor(action: ActionSpec, tmp_path: Path) -> None:
    """What is read decides exactly as what was written, for each kind of action."""
    frozen = initial("mlp:8,8,tanh", Spec(OBS, action), seed=1)
    write_bundle(tmp_path / "e.akd", frozen, {"planner": "none"})
    bundle = read_bundle(tmp_path / "e.akd")
    obs = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    assert np.array_equal(bundle.frozen.outputs(obs), frozen.outputs(obs))
    assert bundle.frozen.spec == frozen.spec
    assert bundle.manifest["provenance"] == {"planner": "none"}


def test_the_same_executor_gives_the_same_bytes() -> None:
    """A bundle is reproducible: no date, no order, no machine in it."""
    assert to_bytes(small(), {"a": 1}) == to_bytes(small(), {"a": 1})


def test_every_flipped_byte_is_refused() -> None:
    """No byte of a bundle can change without being noticed."""
    data = to_bytes(small(), {})
    for offset in range(len(data)):
        damaged = bytearray(data)
        damaged[offset] ^= 0x41
        with pytest.raises(BundleError):
            from_bytes(bytes(damaged))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000))
def test_every_truncation_is_refused(cut: int) -> None:
    """A bundle that ends early is refused wherever it ends."""
    data = to_bytes(small(), {})
    with pytest.raises(BundleError):
        from_bytes(data[: cut % len(data)])


def test_weights_that_are_no_numbers_are_not_written(tmp_path: Path) -> None:
    """NaN never reaches a file."""
    frozen = small()
    tensors(frozen.layers[0])["weight"][0, 0] = np.nan
    with pytest.raises(NumbersError):
        write_bundle(tmp_path / "e.akd", frozen)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk costs nothing that was there before."""
    path = tmp_path / "e.akd"
    write_bundle(path, small(), {"n": 1})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BundleError, match="No space left"):
        write_bundle(path, small(), {"n": 2})
    assert read_bundle(path).manifest["provenance"] == {"n": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["e.akd"]


def test_a_missing_and_an_empty_file_say_so(tmp_path: Path) -> None:
    """The message names the file and what is wrong with it."""
    with pytest.raises(BundleError, match="No such file"):
        read_bundle(tmp_path / "nothing.akd")
    (tmp_path / "empty.akd").touch()
    with pytest.raises(BundleError, match="empty"):
        read_bundle(tmp_path / "empty.akd")
