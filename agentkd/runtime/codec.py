"""Observations, answers and weights as raw bytes: a fixed header, then float32."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agentkd import dists
from agentkd.dists import KINDS, action_width
from agentkd.errors import PlannerError
from agentkd.executors.executor import Executor, head_for
from agentkd.executors.past import made_again, past_words
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec, MultiBinarySpec, MultiDiscreteSpec, Spec
from agentkd.spec_json import from_json, to_json
from agentkd.types import Floats, Packed

_SEEN = struct.Struct("<qqqqii")
_ANSWER = struct.Struct("<qqqqqqdddiiiiiii")
EXPECTED_BYTES = 1 << 20
"""What expected observations may take of an answer."""


class Seen(NamedTuple):
    """An observation, (obs,), that the planner may think about: what goes out to it.

    Attributes:
        time: When it was handed over, in ns of `time.monotonic_ns`.
        lead: Ticks by which it is rolled forward before the planner is asked.
        committed: What is done at the ticks from `tick` on as far as that is known, flat, (ticks,
            width); None for nothing.
        heard: The number of the newest answer that the agent had when it sent this; the port fills
            it in.
        window: What an executor with a stack or a delay was shown, (shown,), which its label is of
            (`agentkd.executors.past.Window`); None for the observation itself.
    """

    tick: int
    episode: int
    time: int
    obs: Floats
    lead: int = 0
    committed: Floats | None = None
    heard: int = 0
    window: Floats | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a planner answered to the newest observation that it had: what comes back.

    Attributes:
        id: Counts the requests.
        tick: The tick that row 0 is for: the observation's, or the one that it was rolled forward
            to.
        labels: How many labels came of the request: this one and the backlog's.
        thinking: Seconds the planner took.
        latency: Seconds from the observation's arrival to this answer.
        rows: Packed distributions for the ticks `tick + k`, or None.
        seen: The tick of the observation.
        part: Counts the answers to one request.
        partial: Whether a better one follows.
        goal: (1, size), or None.
        expected: What the planner expects to be observed at each row's tick, (rows, obs), or None.
        doubt: How far the planner's members were apart; NaN if it has none.
        assumed: The actions, flat, (ticks, width), that the planner counted on for the ticks from
            `seen` to `tick` - 1, then the executor's own action at `tick` if it acts there; None
            where the observation was not rolled forward.
        predicted: The observation, (obs,), that the planner was asked about then; None where it was
            the one seen.
    """

    id: int
    episode: int
    tick: int
    labels: int
    thinking: float
    latency: float
    rows: Packed | None
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


def flat_actions(actions: Sequence[Any], action: ActionSpec) -> Floats:
    """Lay actions out flat, (n, width)."""
    out = np.asarray(actions, np.float32)
    return out.reshape(len(actions), action_width(action))


def shaped_action(flat: Floats, action: ActionSpec) -> Any:
    """Return a flat action, (width,), in the form that the environment takes."""
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
    """Writes observations, each with at most `ahead` actions, into the same bytes.

    With `shown` numbers each has a window.
    """

    def __init__(self, spec: Spec, ahead: int = 0, shown: int = 0) -> None:
        size, self._width = spec.obs.size, action_width(spec.action)
        self.bytes = _SEEN.size + 4 * (size + ahead * self._width + shown)
        self._scratch = bytearray(self.bytes)
        self._size = size
        self._obs: Floats = np.frombuffer(self._scratch, np.float32, size, offset=_SEEN.size)
        self._actions: NDArray[np.float32] = np.frombuffer(
            self._scratch, np.float32, ahead * self._width, _SEEN.size + 4 * size
        ).reshape(ahead, self._width)
        self._window: Floats = np.frombuffer(
            self._scratch, np.float32, shown, self.bytes - 4 * shown
        )

    def encode(self, seen: Seen, heard: int = 0) -> bytearray:
        """Write an observation, with another `heard`; valid until the next call."""
        tick, episode, time, obs, lead, committed, _, window = seen
        count = 0 if committed is None else min(len(committed), len(self._actions))
        _SEEN.pack_into(self._scratch, 0, tick, episode, time, heard, lead, count)
        self._obs[:] = obs
        if count and committed is not None:
            self._actions[:count] = committed[:count]
        if window is not None:
            self._window[:] = window
        return self._scratch

    def decode(self, message: bytes) -> Seen:
        """Read what `encode` wrote."""
        tick, episode, time, heard, lead, count = _SEEN.unpack_from(message)
        numbers = np.frombuffer(message, np.float32, offset=_SEEN.size)
        obs, rest = numbers[: self._size], numbers[self._size :]
        actions = rest[: count * self._width].reshape(count, self._width)
        shown = len(self._window)
        window = numbers[len(numbers) - shown :] if shown else None
        return Seen(tick, episode, time, obs, lead, actions, heard, window)


def answer_size(spec: Spec, horizon: int, goal: int = 0, ahead: int = 0) -> int:
    """Return the size of the longest answer in bytes.

    It has `horizon` rows, a goal of `goal` numbers, and at most `ahead` ticks of roll-forward.
    """
    most = dists.width("gaussian", spec.action)
    expected = min(4 * horizon * spec.obs.size, EXPECTED_BYTES)
    rolled = (ahead + 1) * action_width(spec.action) + spec.obs.size if ahead else 0
    return _ANSWER.size + 4 * (horizon * most + goal + rolled) + expected


def encode_answer(answer: Answer) -> bytes:
    """Write an answer."""
    rows = None if answer.rows is None else answer.rows.rows
    kind = -1 if answer.rows is None else KINDS.index(answer.rows.kind)
    arrays = rows, answer.goal, answer.expected, answer.assumed, answer.predicted
    counts = answer.id, answer.part, answer.episode, answer.origin, answer.tick, answer.labels
    sizes = [-1 if each is None else each.size for each in arrays]
    times = answer.thinking, answer.latency
    header = _ANSWER.pack(*counts, *times, answer.doubt, kind, *sizes, answer.partial)
    there = (np.asarray(each, np.float32) for each in arrays if each is not None)
    return b"".join([header, *(each.tobytes() for each in there)])


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
    id_, part, episode, seen, tick, labels, *rest = _ANSWER.unpack_from(message)
    thinking, latency, doubt, kind, *sizes, partial = rest
    there, announced = (len(message) - _ANSWER.size) / 4, sum(max(0, size) for size in sizes)
    if announced != there:
        raise ValueError(f"{announced} numbers were announced, {there:g} are there")
    width, observed = dists.width(KINDS[kind], spec.action), spec.obs.size
    acted, at = action_width(spec.action), _ANSWER.size
    shapes = (-1, width), (1, -1), (-1, observed), (-1, acted), (observed,)
    arrays: list[Floats | None] = [None] * len(shapes)
    # Most answers hold rows and nothing else, and each is read on a tick.
    for place, size in enumerate(sizes):
        if size >= 0:
            numbers = np.frombuffer(message[at : at + 4 * size], np.float32)
            arrays[place] = numbers.reshape(shapes[place])
            at += 4 * size
    rows, goal, expected, assumed, predicted = arrays
    packed = None if rows is None else Packed(KINDS[kind], rows)
    about = id_, episode, tick, labels, thinking, latency, packed, seen, part, bool(partial)
    return Answer(*about, goal, expected, doubt, assumed, predicted)


def encode_weights(weights: Floats) -> bytes:
    """Write a vector of weights."""
    return np.ascontiguousarray(weights, np.float32).tobytes()


def decode_weights(message: bytes) -> Floats:
    """Read what `encode_weights` wrote, as a fresh array."""
    return np.frombuffer(message, np.float32).copy()


def encode_executor(executor: Executor) -> dict[str, Any]:
    """Describe an executor as JSON values; its numbers travel as weights."""
    return {
        "architecture": executor.architecture,
        "squashed": executor.head == head_for(executor.spec),
        "clip": executor.clip,
        "version": executor.version,
        "spec": to_json(executor.spec),
        "past": past_words(executor),
    }


def decode_executor(told: Mapping[str, Any], weights: Floats) -> Executor:
    """Make the executor that `encode_executor` described."""
    spec = from_json(told["spec"])
    made = made_again(told["architecture"], spec, told["past"], squashed=told["squashed"])
    return replace(made, clip=told["clip"]).with_vector(weights, told["version"])


_TURN = struct.Struct("<qq")


def encode_turn(turn: int, fits: bool, weights: Floats) -> bytes:
    """Write weights of a distiller, or of the executor that acts.

    `turn` counts the executors swapped in that are not the distiller's; `fits` says whether the
    distiller's numbers fit the one that acts.
    """
    return _TURN.pack(turn, fits) + encode_weights(weights)


def decode_turn(message: bytes) -> tuple[int, bool, Floats]:
    """Read what `encode_turn` wrote."""
    turn, fits = _TURN.unpack_from(message)
    return turn, bool(fits), decode_weights(message[_TURN.size :])
