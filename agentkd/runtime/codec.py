"""Observations, answers and weights as raw bytes: a fixed header, then float32."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from agentkd import dists
from agentkd.dists import KINDS
from agentkd.errors import PlannerError
from agentkd.spec import Spec
from agentkd.types import ActionDist, Floats

_SEEN = struct.Struct("<qqq")
_ANSWER = struct.Struct("<qqqqddii")


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """An observation that the planner may think about.

    Attributes:
        tick: When it was made.
        epoch: In which episode.
        time: When it was handed over, in ns of `time.monotonic_ns`.
        obs: (obs,).
    """

    tick: int
    epoch: int
    time: int
    obs: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a planner made of the newest observation that it had.

    Attributes:
        id: Counts the requests.
        epoch: The episode of the observation.
        tick: The tick of the observation.
        labels: How many labels came of the request: this one and the backlog's.
        thinking: Seconds the planner took.
        latency: Seconds from the observation's arrival to this answer.
        rows: Action distributions for the ticks `tick + k`.
    """

    id: int
    epoch: int
    tick: int
    labels: int
    thinking: float
    latency: float
    rows: ActionDist


class SeenCodec:
    """Writes observations of one size into the same bytes again and again."""

    def __init__(self, size: int) -> None:
        """Lay the bytes out for observations of `size` numbers."""
        self.bytes = _SEEN.size + 4 * size
        self._scratch = bytearray(self.bytes)
        self._obs: Floats = np.frombuffer(
            self._scratch, np.float32, size, offset=_SEEN.size
        )

    def encode(self, tick: int, epoch: int, time: int, obs: Floats) -> bytearray:
        """Write; what it gives is valid until the next call."""
        _SEEN.pack_into(self._scratch, 0, tick, epoch, time)
        self._obs[:] = obs
        return self._scratch

    def decode(self, message: bytes) -> Seen:
        """Read what `encode` wrote."""
        obs = np.frombuffer(message, np.float32, offset=_SEEN.size)
        tick, epoch, time = _SEEN.unpack_from(message)
        return Seen(tick, epoch, time, obs)


def answer_size(spec: Spec, horizon: int) -> int:
    """The longest answer with so many rows, in bytes."""
    most = max(dists.width(kind, spec.action) for kind in KINDS)
    return _ANSWER.size + 4 * horizon * most


def encode_answer(answer: Answer) -> bytes:
    """Write an answer."""
    rows = np.ascontiguousarray(dists.pack(answer.rows), np.float32)
    header = _ANSWER.pack(
        answer.id,
        answer.epoch,
        answer.tick,
        answer.labels,
        answer.thinking,
        answer.latency,
        KINDS.index(dists.kind_of(answer.rows)),
        len(rows),
    )
    return header + rows.tobytes()


def decode_answer(message: bytes, spec: Spec) -> Answer:
    """Read what `encode_answer` wrote.

    Raises:
        PlannerError: If it does not fit the environment.
    """
    try:
        id_, epoch, tick, labels, thinking, latency, kind, count = _ANSWER.unpack_from(
            message
        )
        numbers = np.frombuffer(message, np.float32, offset=_ANSWER.size)
        rows = numbers.reshape(count, dists.width(KINDS[kind], spec.action))
        dist = dists.unpack(KINDS[kind], rows, spec.action)
        return Answer(id_, epoch, tick, labels, thinking, latency, dist)
    except (ValueError, IndexError, struct.error) as error:
        raise PlannerError(f"An answer of {len(message)} bytes: {error}") from error


def encode_weights(weights: Floats) -> bytes:
    """Write a vector of weights."""
    return np.ascontiguousarray(weights, np.float32).tobytes()


def decode_weights(message: bytes) -> Floats:
    """Read what `encode_weights` wrote, as a fresh array."""
    return np.frombuffer(message, np.float32).copy()
