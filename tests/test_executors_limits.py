"""Limits of executors: how large they may be, and that their arrays fit."""

from __future__ import annotations

import numpy as np
import pytest

from agentkd.errors import ConfigError, SpecError
from agentkd.executors.architecture import initial
from agentkd.executors.layers import Conv, Dense, Norm, Pool, sizes
from agentkd.executors.native import compile_native
from agentkd.spec import BoxSpec, ObsSpec, Part, Spec

SPEC = Spec(ObsSpec((Part("", "box", (6,), "float32"),)), BoxSpec((-1.0, -1.0), (1.0, 1.0), (2,)))


@pytest.mark.parametrize(
    "name", ["mlp:65536,65536", "mlp:" + ",".join(["8192"] * 40), "mlp:" + "8," * 70 + "8"]
)
def test_an_executor_that_is_too_large_is_refused_unmade(name: str) -> None:
    """A word of a few characters cannot ask for gigabytes."""
    with pytest.raises(ConfigError):
        initial(name, SPEC)


def test_layers_are_float32_of_fitting_shapes() -> None:
    """Arrays that are empty, of another dtype, or too large are refused."""
    ones = np.ones(4, np.float32)
    for layer in (
        Dense(np.zeros((2, 3)), np.zeros(2, np.float32)),  # type: ignore[arg-type]
        Dense(np.zeros((0, 3), np.float32), np.zeros(0, np.float32)),
        Dense(np.zeros(3, np.float32), np.zeros(3, np.float32)),
        Pool(2, Norm(np.ones((4, 0), np.float32), ones)),
        Pool(2**30, Norm(ones, ones)),
        Pool(0, Norm(ones, ones)),
        Conv(
            weight=np.zeros((60_000, 1, 1, 1), np.float32),
            bias=np.zeros(60_000, np.float32),
            activation="none",
            stride=1,
            shape=(4000, 4000, 1),
        ),
    ):
        with pytest.raises(SpecError):
            sizes(layer)


def test_the_native_form_takes_memories_of_its_own_shape() -> None:
    """Native code cannot read past a memory that is too short."""
    native = compile_native(initial("gru:4", SPEC))
    if native is None:
        pytest.skip("no C compiler")
    with pytest.raises(SpecError, match="memory"):
        native.advance(np.zeros((3, 6), np.float32), np.zeros((2, 4), np.float32))
