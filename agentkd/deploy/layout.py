"""How an executor's numbers lie in memory wherever portable C reads them."""

from __future__ import annotations

from agentkd.executors.frozen import Frozen
from agentkd.spec import BoxSpec, DiscreteSpec, MultiDiscreteSpec

BLOCK = 4
"""Outputs that the portable kernels sum side by side."""


def actions(frozen: Frozen) -> int:
    """How many numbers or choices an action has."""
    match frozen.spec.action:
        case DiscreteSpec():
            return 1
        case MultiDiscreteSpec(sizes):
            return len(sizes)
        case _:
            return frozen.out


def ctype(frozen: Frozen) -> str:
    """The type of an action's numbers in C."""
    return "float" if isinstance(frozen.spec.action, BoxSpec) else "int32_t"
