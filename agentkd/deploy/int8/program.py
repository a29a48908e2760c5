"""An executor in integers as a program that cores are measured with."""

from __future__ import annotations

from agentkd.deploy.emulators import Program
from agentkd.deploy.int8.emit import emit_c_int8, memory, probes
from agentkd.deploy.int8.reference import Quantised


def whole_program(quantised: Quantised, rows: int, name: str = "executor") -> Program:
    """Write the C and what it has to give for `rows` observations, bit by bit.

    With a memory they are one sequence.
    """
    obs = probes(quantised, rows)
    return Program(
        emit_c_int8(quantised, name),
        name,
        obs,
        quantised.integers(obs),
        quantised.actions(obs),
        memory=memory(quantised),
        state="int16_t",
    )
