"""Observations, answers and weights as raw bytes: a fixed header, then float32."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentkd import dists
from agentkd.dists import KINDS
from agentkd.errors import PlannerError
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec, MultiBinarySpec, MultiDiscreteSpec, Spec
from agentkd.types import ActionDist, Floats

_SEEN = struct.Struct("<qqqqii")
_ANSWER = struct.Struct("<qqqqqqdddiiiiiii")
_NO_ROWS = -1
EXPECTED_BYTES = 1 << 20
"""What expected observations may take of an answer."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """An observation that the planner may think about.

    Attributes:
        tick: When it was made.
        episode: In which episode.
        time: When it was handed over, in ns of `time.monotonic_ns`.
        obs: (obs,).
        lead: Ticks by which it is rolled forward before the planner is asked.
        committed: What is done at the ticks from `tick` on as far as that is known, flat, (ticks,
            width); None for nothing.
        heard: The number of the newest answer that the agent had when it sent this.
    """

    tick: int
    episode: int
    time: int
    obs: Floats
    lead: int = 0
    committed: Floats | None = None
    heard: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a planner made of the newest observation that it had.

    Attributes:
        id: Counts the requests.
        episode: The episode of the observation.
        tick: The tick that row 0 is for: the observation's, or the one that it was rolled forward
            to.
        labels: How many labels came of the request: this one and the backlog's.
        thinking: Seconds the planner took.
        latency: Seconds from the observation's arrival to this answer.
        rows: Action distributions for the ticks `tick + k`, or None.
        seen: The tick of the observation.
        part: Counts the answers to one request.
        partial: Whether a better one follows.
        goal: (1, size), or None.
        expected: What the planner expects to be observed at each row's tick, (rows, obs), or None.
        doubt: How far the planner's members were apart; NaN if it has none.
        assumed: The actions, flat, (ticks, width), that the planner counted on for the ticks from
            `seen` to `tick` - 1, then the executor's own action at `tick`
            if it acts there; None where the observation was not rolled forward.
        predicted: The observation, (obs,), that the planner was asked about then; None where it was
            the one seen.
    """

    id: int
    episode: int
    tick: int
    labels: int
    thinking: float
    latency: float
    rows: ActionDist | None
    seen: int = -1
    part: int = 0
    partial: bool = False
    goal: Floats | None = None
    expected: Floats | None = None
    doubt: float = math.nan
    assumed: Floats | None = None
    predicted: Floats | None = None

    @property
    def origin(self) -> int:
        """The tick of the observation."""
        return self.tick if self.seen < 0 else self.seen


def action_width(action: ActionSpec) -> int:
    """How many numbers an action takes."""
    match action:
        case DiscreteSpec():
            return 1
        case MultiDiscreteSpec(sizes):
            return len(sizes)
        case MultiBinarySpec(n):
            return n
        case BoxSpec(low, _, _):
            return len(low)


def flat_actions(actions: Sequence[Any], action: ActionSpec) -> Floats:
    """Lay actions out flat, (n, width)."""
    out = np.asarray(actions, np.float32)
    return out.reshape(len(actions), action_width(action))


def shaped_action(flat: Floats, action: ActionSpec) -> Any:
    """Give a flat action, (width,), the form that the environment takes."""
    match action:
        case DiscreteSpec():
            return int(flat[0])
        case MultiDiscreteSpec():
            return flat.astype(np.int64)
        case MultiBinarySpec():
            return flat.astype(np.int8)
        case BoxSpec(_, _, shape):
            return np.array(flat, np.float32).reshape(shape)


class SeenCodec:
    """Writes observations of one size into the same bytes again and again.

    Args:
        spec: The environment.
        ahead: For how many ticks what is done may be committed.
    """

    def __init__(self, spec: Spec, ahead: int = 0) -> None:
        """Lay the bytes out."""
        size, self._width = spec.obs.size, action_width(spec.action)
        self.bytes = _SEEN.size + 4 * (size + ahead * self._width)
        self._scratch = bytearray(self.bytes)
        self._size = size
        self._obs: Floats = np.frombuffer(self._scratch, np.float32, size, offset=_SEEN.size)
        self._actions: NDArray[np.float32] = np.frombuffer(
            self._scratch, np.float32, ahead * self._width, _SEEN.size + 4 * size
        ).reshape(ahead, self._width)

    def encode(
        self,
        tick: int,
        episode: int,
        time: int,
        obs: Floats,
        lead: int = 0,
        committed: Floats | None = None,
        heard: int = 0,
    ) -> bytearray:
        """Write; what it gives is valid until the next call."""
        count = 0 if committed is None else min(len(committed), len(self._actions))
        _SEEN.pack_into(self._scratch, 0, tick, episode, time, heard, lead, count)
        self._obs[:] = obs
        if count and committed is not None:
            self._actions[:count] = committed[:count]
        return self._scratch

    def decode(self, message: bytes) -> Seen:
        """Read what `encode` wrote."""
        tick, episode, time, heard, lead, count = _SEEN.unpack_from(message)
        numbers = np.frombuffer(message, np.float32, offset=_SEEN.size)
        obs, rest = numbers[: self._size], numbers[self._size :]
        actions = rest[: count * self._width].reshape(count, self._width)
        return Seen(tick, episode, time, obs, lead, actions, heard)


def answer_size(spec: Spec, horizon: int, goal: int = 0, ahead: int = 0) -> int:
    """Return the size of the longest answer, in bytes.

    Args:
        spec: The environment.
        horizon: Rows of the answer.
        goal: Numbers of its goal.
        ahead: The most ticks by which an observation is rolled forward.
    """
    most = max(dists.width(kind, spec.action) for kind in KINDS)
    expected = min(4 * horizon * spec.obs.size, EXPECTED_BYTES)
    rolled = (ahead + 1) * action_width(spec.action) + spec.obs.size if ahead else 0
    return _ANSWER.size + 4 * (horizon * most + goal + rolled) + expected


def encode_answer(answer: Answer) -> bytes:
    """Write an answer."""
    kind, count, pieces = _NO_ROWS, 0, []
    if answer.rows is not None:
        rows = np.ascontiguousarray(dists.pack(answer.rows), np.float32)
        kind, count = KINDS.index(dists.kind_of(answer.rows)), len(rows)
        pieces.append(rows.tobytes())
    numbers = answer.goal, answer.expected, answer.assumed, answer.predicted
    pieces += [
        np.ascontiguousarray(each, np.float32).tobytes() for each in numbers if each is not None
    ]
    header = _ANSWER.pack(
        answer.id,
        answer.part,
        answer.episode,
        answer.origin,
        answer.tick,
        answer.labels,
        answer.thinking,
        answer.latency,
        answer.doubt,
        kind,
        count,
        -1 if answer.goal is None else answer.goal.size,
        -1 if answer.expected is None else len(answer.expected),
        -1 if answer.assumed is None else len(answer.assumed),
        answer.predicted is not None,
        answer.partial,
    )
    return b"".join([header, *pieces])


def decode_answer(message: bytes, spec: Spec) -> Answer:
    """Read what `encode_answer` wrote.

    Raises:
        PlannerError: If it does not fit the environment.
    """
    try:
        return _decode_answer(message, spec)
    except (ValueError, IndexError, struct.error) as error:
        raise PlannerError(f"An answer of {len(message)} bytes: {error}") from error


def _decode_answer(message: bytes, spec: Spec) -> Answer:
    (
        id_,
        part,
        episode,
        seen,
        tick,
        labels,
        thinking,
        latency,
        doubt,
        kind,
        count,
        goal_size,
        ahead,
        assumed_count,
        rolled,
        partial,
    ) = _ANSWER.unpack_from(message)
    numbers = np.frombuffer(message, np.float32, offset=_ANSWER.size)
    dist, goal, expected, assumed, predicted, at = None, None, None, None, None, 0
    if kind >= 0:
        width = dists.width(KINDS[kind], spec.action)
        at = count * width
        dist = dists.unpack(KINDS[kind], numbers[:at].reshape(count, width), spec.action)
    if goal_size >= 0:
        goal = numbers[at : at + goal_size].reshape(1, goal_size)
        at += goal_size
    if ahead >= 0:
        expected = numbers[at : at + ahead * spec.obs.size].reshape(ahead, -1)
        at += ahead * spec.obs.size
    if assumed_count >= 0:
        width = action_width(spec.action)
        assumed = numbers[at : at + assumed_count * width].reshape(-1, width)
        at += assumed_count * width
    if rolled:
        predicted = numbers[at : at + spec.obs.size]
        at += spec.obs.size
    if at != len(numbers):
        raise ValueError(f"{at} numbers were announced, {len(numbers)} are there")
    return Answer(
        id=id_,
        episode=episode,
        tick=tick,
        labels=labels,
        thinking=thinking,
        latency=latency,
        rows=dist,
        seen=seen,
        part=part,
        partial=bool(partial),
        goal=goal,
        expected=expected,
        doubt=doubt,
        assumed=assumed,
        predicted=predicted,
    )


def encode_weights(weights: Floats) -> bytes:
    """Write a vector of weights."""
    return np.ascontiguousarray(weights, np.float32).tobytes()


def decode_weights(message: bytes) -> Floats:
    """Read what `encode_weights` wrote, as a fresh array."""
    return np.frombuffer(message, np.float32).copy()
