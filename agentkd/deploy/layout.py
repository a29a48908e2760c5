"""How an executor's numbers lie in memory wherever portable C reads them."""

from __future__ import annotations

from agentkd.executors.executor import Executor
from agentkd.spec import BoxSpec, DiscreteSpec, MultiDiscreteSpec

BLOCK = 4
"""Outputs that the portable kernels sum side by side."""


def actions(executor: Executor) -> int:
    """How many numbers or choices an action has."""
    match executor.spec.action:
        case DiscreteSpec():
            return 1
        case MultiDiscreteSpec(sizes):
            return len(sizes)
        case _:
            return executor.out


def ctype(executor: Executor) -> str:
    """The type of an action's numbers in C."""
    return "float" if isinstance(executor.spec.action, BoxSpec) else "int32_t"
