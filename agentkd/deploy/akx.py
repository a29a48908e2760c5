"""An executor as data, `model.akx`, for the fixed runtime in C: deploy/c/akx.h.

A header of sixteen 32-bit words, then words and float32 in one fixed order, all little
endian and multiples of four bytes; docs/export.md has the table. No place in the file
is given as an offset, so that there is none to be wrong.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from agentkd.deploy.layout import actions, padded
from agentkd.dists import bounds
from agentkd.errors import NumbersError, SpecError
from agentkd.executors.frozen import Frozen
from agentkd.executors.native import ACTIVATIONS, HEADS, KERNELS
from agentkd.spec import BoxSpec, DiscreteSpec, MultiDiscreteSpec

MAGIC = b"AKX1"
FORMAT = 1
FLOAT32 = 0
"""The kind of weights; the runtime refuses those that it does not know."""
RUNTIME = (
    Path(__file__).with_name("c") / "akx.h",
    Path(__file__).with_name("c") / "akx.c",
    KERNELS,
)
"""The runtime's sources; they are built together."""
_LAYERS = 64
_WIDEST = 65536


def to_akx(frozen: Frozen) -> bytes:
    """Write an executor as the bytes of a `model.akx`.

    Raises:
        NumbersError: If a weight is NaN or infinite.
        SpecError: If it is larger than the runtime reads.
    """
    if not np.isfinite(frozen.vector()).all():
        raise NumbersError("An executor with NaN or infinite weights is not written.")
    widths = [frozen.spec.obs.size, *(len(layer.bias) for layer in frozen.layers)]
    if max(widths) > _WIDEST or len(frozen.layers) > _LAYERS:
        raise SpecError(
            f"model.akx holds up to {_LAYERS} layers of up to {_WIDEST}; this executor "
            f"has {len(frozen.layers)} of up to {max(widths)}."
        )
    action = frozen.spec.action
    body = [
        struct.pack("<2I", len(layer.bias), ACTIVATIONS[layer.activation])
        for layer in frozen.layers
    ]
    if isinstance(action, MultiDiscreteSpec):
        body.append(np.asarray(action.sizes, "<u4").tobytes())
    body += [_floats(frozen.mean), _floats(frozen.scale)]
    if isinstance(action, BoxSpec):
        body += [_floats(each) for each in bounds(action)]
    for layer in frozen.layers:
        weight, bias = padded(layer.weight, layer.bias)
        body += [_floats(bias), _floats(weight)]
    tail = struct.pack(
        "<6IifI3I",
        FLOAT32,
        frozen.spec.obs.size,
        widths[-1],
        len(frozen.layers),
        HEADS[frozen.head],
        actions(frozen),
        action.start if isinstance(action, DiscreteSpec) else 0,
        frozen.clip,
        frozen.version & 0x7FFFFFFF,
        0,
        0,
        0,
    ) + b"".join(body)
    front = struct.pack("<4s3I", MAGIC, FORMAT, 16 + len(tail), zlib.crc32(tail))
    return front + tail


def _floats(values: object) -> bytes:
    return np.asarray(values, "<f4").tobytes()
