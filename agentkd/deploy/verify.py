"""One executor on every backend: the same numbers, or the first difference by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import numpy as np

from agentkd.deploy.bundle import Bundle
from agentkd.deploy.programs import Answer, run_akx, run_c
from agentkd.deploy.vectors import answers, compiled, probes
from agentkd.deploy.wasm.run import no_wasm, run_wasm
from agentkd.errors import AgentkdError, LoadError
from agentkd.executors.difference import actions_of, difference
from agentkd.executors.executor import Executor
from agentkd.executors.native import compile_native, compiler
from agentkd.extras import remedy
from agentkd.types import Floats

RANDOM_ROWS = 1000
"""Observations that are asked about besides the bundle's golden ones."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A form in which an executor runs."""

    name: str
    """Such as "ONNX Runtime"."""
    missing: Callable[[], str]
    """Says what this machine lacks to run it; "" if nothing."""
    run: Callable[[Executor, Floats], Answer]
    """Answers observations (batch, obs)."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of one backend."""

    backend: str
    status: Literal["agrees", "differs", "missing"]
    """It is missing where it could not be tried."""
    worst: float
    """The largest difference seen, relative to 1 + |x|; NaN if missing."""
    text: str = ""
    """The first difference, or what is missing."""


def verify(
    bundle: Bundle, *, rows: int = RANDOM_ROWS, backends: Iterable[Backend] | None = None
) -> Iterator[Verdict]:
    """Run a bundle's golden vectors, then random observations, on backends; by default on all.

    Outputs and actions are compared as `difference` says, within 1e-5.
    """
    executor = bundle.executor
    drawn = probes(executor, rows, seed=1)
    # Half of them far out, where the clips are.
    drawn[::2] = executor.mean + 4 * (drawn[::2] - executor.mean)
    obs = np.concatenate([bundle.golden["obs"], drawn])
    wanted = reference(executor, obs)
    if not executor.memory:
        # What it gave where it was made. With a memory the drawn ones go on from there, and reading
        # the file has compared the golden ones.
        proved = len(bundle.golden["obs"])
        wanted.outputs[:proved] = bundle.golden["outputs"]
        wanted.actions[:proved] = bundle.golden["actions"]
    for backend in BACKENDS if backends is None else backends:
        if missing := backend.missing():
            yield Verdict(backend.name, "missing", float("nan"), missing)
            continue
        try:
            answer = backend.run(executor, obs)
        except AgentkdError as error:
            yield Verdict(backend.name, "differs", float("inf"), str(error))
            continue
        yield compare(backend.name, executor, answer, wanted)


def reference(executor: Executor, obs: Floats) -> Answer:
    """What NumPy gives for observations (batch, obs); with a memory, for a sequence."""
    outputs = answers(executor, obs)
    return Answer(outputs, actions_of(executor, outputs))


def compare(name: str, executor: Executor, answer: Answer, wanted: Answer) -> Verdict:
    """Compare an answer with the reference's."""
    worst, text = difference(executor, *answer, *wanted)
    return Verdict(name, "differs" if text else "agrees", worst, text)


def _no_compiler() -> str:
    return "" if compiler() else "no C compiler (cc, gcc, clang)"


def _no_native() -> str:
    if os.environ.get("AGENTKD_NATIVE", "1") == "0":
        return "switched off by AGENTKD_NATIVE=0"
    return _no_compiler()


def _native(executor: Executor, obs: Floats) -> Answer:
    native = compile_native(executor)
    if native is None:
        raise LoadError("it could not be built; the log says why")
    return Answer(*compiled(executor, native, obs))


def _no_onnx() -> str:
    missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    return f"no {remedy(missing[0]).removeprefix('the ')}" if missing else ""


def _onnx(executor: Executor, obs: Floats) -> Answer:
    from agentkd.deploy.onnx import run_onnx

    return run_onnx(executor, obs)


NATIVE = Backend("native", _no_native, _native)
BACKENDS: tuple[Backend, ...] = (
    Backend("NumPy", lambda: "", reference),
    NATIVE,
    Backend("C99", _no_compiler, run_c),
    Backend("model.akx", _no_compiler, run_akx),
    Backend("ONNX Runtime", _no_onnx, _onnx),
    Backend("wasm in Node", no_wasm, run_wasm),
)
"""Every form that is written in float; int8 has its own proof, bit for bit."""
