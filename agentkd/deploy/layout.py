"""How an executor's numbers lie in memory wherever C reads them."""

from __future__ import annotations

import numpy as np

from agentkd.executors.frozen import Frozen
from agentkd.spec import BoxSpec, DiscreteSpec, MultiDiscreteSpec
from agentkd.types import Floats

BLOCK = 4
"""Outputs that the portable kernels sum side by side."""


def stride(outputs: int) -> int:
    """How many sums a dense layer has: its outputs, rounded up to whole blocks."""
    return -(-outputs // BLOCK) * BLOCK


def padded(weight: Floats, bias: Floats) -> tuple[Floats, Floats]:
    """Lay a layer out for the kernels: weights (in, stride), bias (stride,)."""
    out, inputs = weight.shape
    wide = np.zeros((inputs, stride(out)), np.float32)
    wide[:, :out] = weight.T
    long = np.zeros(stride(out), np.float32)
    long[:out] = bias
    return wide, long


def scratch(frozen: Frozen) -> int:
    """How many floats each of the two buffers holds."""
    return max(
        [stride(frozen.spec.obs.size)] + [stride(len(e.bias)) for e in frozen.layers]
    )


def actions(frozen: Frozen) -> int:
    """How many numbers or choices an action has."""
    match frozen.spec.action:
        case DiscreteSpec():
            return 1
        case MultiDiscreteSpec(sizes):
            return len(sizes)
        case _:
            return len(frozen.layers[-1].bias)


def ctype(frozen: Frozen) -> str:
    """The type of an action's numbers in C."""
    return "float" if isinstance(frozen.spec.action, BoxSpec) else "int32_t"
