"""Frames: JSON and raw float32 in one message, as planners elsewhere and devices send them.

A frame is the length of a JSON header, the header, and the numbers of the arrays that it names, one
after another, in little endian. Lengths are compared with the bytes that are there. Nothing is ever
unpickled.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agentkd import dists
from agentkd.dists import KINDS
from agentkd.errors import SpecError, WireError
from agentkd.spec import Spec
from agentkd.types import ActionDist, Floats, Guidance

MOST_BYTES = 64 << 20
MOST_HEADER = 1 << 16
_LENGTH = struct.Struct("<I")
_MOST_ARRAYS, _MOST_DIMENSIONS = 256, 4
_NAMES = ("rows", "goal", "expected")
"""What an answer may hold, in this order."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One message: what is said, and its arrays in order."""

    header: Mapping[str, Any]
    arrays: tuple[Floats, ...]


def pack(header: Mapping[str, Any], arrays: Sequence[Floats] = (), most: int = MOST_BYTES) -> bytes:
    """Write a message whose arrays have at most `most` bytes, or raise a `WireError`."""
    flat = [np.ascontiguousarray(array, "<f4") for array in arrays]
    head = json.dumps({**header, "shapes": [array.shape for array in flat]}).encode()
    size = sum(array.nbytes for array in flat)
    if size > most or len(head) > MOST_HEADER:
        raise WireError(
            f"A message of {len(head)} + {size} bytes; at most {MOST_HEADER} + {most} "
            "are sent. Ask about fewer observations, or raise the cap at both ends."
        )
    pieces = [_LENGTH.pack(len(head)), head, *(array.tobytes() for array in flat)]
    return b"".join(pieces)


def unpack(data: str | bytes) -> Frame:
    """Read a message, or raise a `WireError`."""
    if isinstance(data, str) or len(data) < _LENGTH.size:
        raise WireError("A message without a header.")
    (length,) = _LENGTH.unpack_from(data)
    begin = _LENGTH.size + length
    if length > MOST_HEADER or begin > len(data):
        raise WireError(f"A header of {length} bytes in a message of {len(data)}.")
    try:
        header = json.loads(data[_LENGTH.size : begin])
    except (ValueError, RecursionError) as error:
        raise WireError(f"A header that is not JSON: {error!r:.200}") from error
    shapes = header.pop("shapes", None) if isinstance(header, dict) else None
    if not isinstance(shapes, list) or len(shapes) > _MOST_ARRAYS:
        raise WireError(f"A header without at most {_MOST_ARRAYS} shapes.")
    counts = [_count(shape) for shape in shapes]
    if 4 * sum(counts) != len(data) - begin:
        raise WireError(f"{len(data) - begin} bytes for arrays of shapes {shapes}.")
    numbers = np.frombuffer(data, "<f4", offset=begin).astype(np.float32)
    arrays, end = [], 0
    try:
        for count, shape in zip(counts, shapes, strict=True):
            arrays.append(numbers[end : end + count].reshape(shape))
            end += count
    except (ValueError, OverflowError) as error:
        raise WireError(f"Arrays of shapes that cannot be: {error}") from error
    return Frame(header, tuple(arrays))


def _count(shape: Any) -> int:
    """Count the numbers of an array of a shape."""
    sizes = shape if isinstance(shape, list) else [None]
    whole = all(type(size) is int and 0 <= size <= MOST_BYTES for size in sizes)
    if not whole or len(sizes) > _MOST_DIMENSIONS:
        raise WireError(f"{shape!r:.100} is not a shape.")
    return math.prod(sizes)


def answer_frame(answer: ActionDist | Guidance) -> tuple[dict[str, Any], list[Floats]]:
    """Lay an answer out: what its arrays are, and the arrays."""
    guidance = answer if isinstance(answer, Guidance) else Guidance(rows=answer)
    rows = guidance.rows
    found = {
        "rows": None if rows is None else dists.pack(rows),
        "goal": guidance.goal,
        "expected": guidance.expected,
    }
    held = {name: array for name, array in found.items() if array is not None}
    header = {
        "kind": None if rows is None else dists.kind_of(rows),
        "names": list(held),
        "guidance": isinstance(answer, Guidance),
    }
    return header, list(held.values())


def names_of(frame: Frame) -> list[str]:
    """Say what the first arrays of an answer are; refuse one that does not tell.

    Raises:
        WireError: If it does not tell, or they are not there.
    """
    names = frame.header.get("names")
    known = [name for name in _NAMES if isinstance(names, list) and name in names]
    if names != known or len(known) > len(frame.arrays):
        raise WireError(f"An answer without its arrays: {names!r:.100}.")
    return known


def answer_of(frame: Frame, spec: Spec) -> ActionDist | Guidance:
    """Read what `answer_frame` laid out.

    Raises:
        WireError: If the message holds something else.
    """
    header = frame.header
    names, kind = names_of(frame), header.get("kind")
    found = dict(zip(names, frame.arrays, strict=False))
    rows = None
    if "rows" in found:
        packed = found["rows"]
        if not isinstance(kind, str) or kind not in KINDS or packed.ndim != 2:
            raise WireError(f"Rows of kind {kind!r:.100} and shape {packed.shape}.")
        try:
            dists.check_kind(kind, spec.action)
        except SpecError as error:
            raise WireError(str(error)) from error
        if packed.shape[1] != dists.width(kind, spec.action):
            raise WireError(f"Rows of shape {packed.shape} for {spec.action}.")
        rows = dists.unpack(kind, packed, spec.action)
    guidance = Guidance(rows, found.get("goal"), found.get("expected"))
    if header.get("guidance") or rows is None:
        return guidance
    return rows
