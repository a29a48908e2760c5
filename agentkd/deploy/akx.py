"""An executor as data, `model.akx`, for the fixed runtime in C: deploy/c/akx.h.

A header of sixteen 32-bit words, then words and float32 in one fixed order, all little endian and
multiples of four bytes; docs/reference/export.md has the table. No place in the file is given as an
offset, so that there is none to be wrong.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from agentkd.dists import action_width, bounds
from agentkd.errors import SpecError
from agentkd.executors.executor import Executor
from agentkd.executors.native import KERNELS
from agentkd.executors.plan import BLOCK, HEADS, KINDS, normaliser, steps
from agentkd.spec import BoxSpec, DiscreteSpec, MultiDiscreteSpec

MAGIC = b"AKX1"
FORMAT = 2
FLOAT32 = 0
"""The kind of weights; the runtime refuses those that it does not know."""
RUNTIME = (*(Path(__file__).with_name("c") / name for name in ("akx.h", "akx.c")), KERNELS)
"""The runtime's sources; they are built together."""
_LAYERS = 64
_WIDEST = 1 << 20
_DIMS = 10


def to_akx(executor: Executor) -> bytes:
    """Write an executor as the bytes of a `model.akx`.

    Raises:
        NumbersError: If a weight is NaN or infinite.
        SpecError: If it is larger than the runtime reads.
    """
    executor.check_finite()
    laid = steps(executor, BLOCK)
    widest = max(executor.spec.obs.size, *(max(step.room, step.memory) for step in laid))
    if widest > _WIDEST or len(laid) > _LAYERS:
        raise SpecError(
            f"model.akx holds up to {_LAYERS} layers of up to {_WIDEST} numbers; this "
            f"executor has {len(laid)} of up to {widest}."
        )
    action, norm = executor.spec.action, normaliser(executor)
    body = []
    for step in laid:
        dims = [*step.dims, *[0] * (_DIMS - len(step.dims))]
        body.append(struct.pack(f"<{_DIMS + 2}I", KINDS[step.kind], *dims, 0))
    if isinstance(action, MultiDiscreteSpec):
        body.append(np.asarray(action.sizes, "<u4").tobytes())
    body += [_floats(norm.mean), _floats(norm.scale)]
    if isinstance(action, BoxSpec):
        body += [_floats(each) for each in bounds(action)]
    body += [_floats(each) for step in laid for each in step.arrays]
    tail = struct.pack(
        "<6IifI3I",
        FLOAT32,
        executor.spec.obs.size,
        executor.out,
        len(laid),
        HEADS[executor.head],
        action_width(executor.spec.action),
        action.start if isinstance(action, DiscreteSpec) else 0,
        executor.clip,
        executor.version & 0x7FFFFFFF,
        len(norm.mean),
        norm.apart,
        0,
    ) + b"".join(body)
    front = struct.pack("<4s3I", MAGIC, FORMAT, 16 + len(tail), zlib.crc32(tail))
    return front + tail


def _floats(values: object) -> bytes:
    return np.asarray(values, "<f4").tobytes()
