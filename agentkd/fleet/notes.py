"""What a device may tell of what it sees: hard observations, and telemetry.

A note is a frame (`agentkd/frames.py`): a JSON header and raw float32.

| header | arrays |
|---|---|
| `{"kind": "observations", "executor": DIGEST}` | observations (n, size), their hardness (n,) |
| `{"kind": "telemetry", "values": {NAME: NUMBER}}` | |

**Hard** is an observation by its distance from what the executor was made from: the root mean
square of the normalised observation, in standard deviations. An executor answers well where it was
taught, so what lies far from there is what a planner should label next. Not the hardest alone are
noted, which would all be of one kind, but a draw in which the chances are as the square of that
(`python -m benchmarks hard` compares it with others).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from agentkd.errors import LoadError
from agentkd.files import loading
from agentkd.frames import pack, unpack
from agentkd.types import Floats

LARGEST = 1 << 18
"""Bytes of a note."""
OBSERVATIONS = "observations"
FOLDER = "outgoing"
"""The folder, inside the device's own, of notes that wait to be sent."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,79}")
_MOST_VALUES = 200


@dataclass(frozen=True, slots=True, eq=False)
class Note:
    """What one message tells.

    Raises:
        LoadError: If the values do not go together, or are not finite.
    """

    executor: str = ""
    """For observations, the executor they were hard for: SHA-256 of its file, in hexadecimal."""
    obs: Floats | None = None
    """Observations as the environment gives them, flat, (n, size)."""
    hardness: Floats | None = None
    """(n,)."""
    values: Mapping[str, float] = field(default_factory=dict)
    """For telemetry, numbers by name."""

    def __post_init__(self) -> None:
        """Check the values."""
        obs, hard = self.obs, self.hardness
        if obs is not None:
            if not _DIGEST.fullmatch(self.executor):
                raise LoadError(f"Observations of an executor {self.executor[:80]!r}.")
            if obs.ndim != 2 or 0 in obs.shape or hard is None or hard.shape != obs.shape[:1]:
                raise LoadError(f"Observations of shape {obs.shape} with no hardness of each.")
            if not (np.isfinite(obs).all() and np.isfinite(hard).all()):
                raise LoadError("An observation holds NaN or infinity.")
        if len(self.values) > _MOST_VALUES:
            raise LoadError(f"{len(self.values)} values; at most {_MOST_VALUES} are taken.")
        for name, value in self.values.items():
            if not _NAME.fullmatch(name) or not math.isfinite(value):
                raise LoadError(f"A value {name[:80]!r} of {value}.")

    @property
    def kind(self) -> str:
        """What it tells: observations, or telemetry."""
        return "telemetry" if self.obs is None else OBSERVATIONS

    def to_bytes(self) -> bytes:
        """Return the payload."""
        if self.obs is None or self.hardness is None:
            return pack({"kind": "telemetry", "values": dict(self.values)})
        header = {"kind": OBSERVATIONS, "executor": self.executor}
        return pack(header, [self.obs, self.hardness], LARGEST)


def read_note(payload: bytes) -> Note:
    """Read a note.

    Raises:
        LoadError: If it is not one, or too large.
    """
    if len(payload) > LARGEST:
        raise LoadError(f"A note of {len(payload):,} bytes; at most {LARGEST:,} are read.")
    with loading("A note"):
        frame = unpack(payload)
        kind, header = frame.header.get("kind"), frame.header
        executor, values = header.get("executor"), header.get("values")
        if kind == OBSERVATIONS and len(frame.arrays) == 2 and isinstance(executor, str):
            return Note(executor, *frame.arrays)
        if kind == "telemetry" and isinstance(values, dict) and not frame.arrays:
            return Note(values={name: _number(name, value) for name, value in values.items()})
        raise LoadError(f"it is of kind {kind!r:.80}, without what belongs to that")


def waiting_in(folder: Path) -> list[Path]:
    """Return the notes that wait in a folder, the oldest first."""
    if not folder.is_dir():
        return []
    return sorted(each for each in folder.glob("*.note") if each.stem.isdecimal())


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise LoadError(f"A value {name[:80]!r} that is no number.")
    return float(value)
