"""Shared memory: mailboxes, bells, label rings, bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkd import dists
from agentkd.dists import action_width
from agentkd.errors import ConfigError, PlannerError
from agentkd.runtime.codec import (
    Answer,
    Seen,
    SeenCodec,
    answer_size,
    decode_answer,
    decode_weights,
    encode_answer,
    encode_weights,
    flat_actions,
    shaped_action,
)
from agentkd.runtime.workers.channels import Bell, LabelRing, Mailbox
from agentkd.spec import BoxSpec, DiscreteSpec, MultiBinarySpec, MultiDiscreteSpec, Spec
from agentkd.types import Categorical, Gaussian, Packed, Point, QValues
from tests.runtime_children import SPEC, one_hot

BOX = Spec(SPEC.obs, BoxSpec((-1.0, -1.0), (1.0, 1.0), (2,)))


def test_single_slot_keeps_the_newest() -> None:
    """With one slot the latest message wins, and the others are counted as missed."""
    box = Mailbox(8)
    for text in (b"a", b"bb", b"ccc"):
        box.write(text)
    assert box.take() == [b"ccc"]
    assert box.missed == 2
    assert box.take() == []
    assert box.last() == b"ccc"


@given(slots=st.integers(1, 5), bursts=st.lists(st.integers(0, 12), max_size=8))
@settings(deadline=None)
def test_mailbox_gives_the_newest_in_order(slots: int, bursts: list[int]) -> None:
    """A burst comes out as its newest messages; taken and missed make up all."""
    box, sent, got = Mailbox(8, slots), 0, 0
    for burst in bursts:
        messages = [str(sent + i).encode() for i in range(burst)]
        for message in messages:
            box.write(message)
        sent += burst
        taken = box.take()
        assert taken == messages[-slots:]
        got += len(taken)
        assert got + box.missed == sent
        assert box.torn == 0


def test_message_that_is_not_whole_is_refused() -> None:
    """A flipped bit in a message, its length or its sum makes it unreadable."""
    for byte in range(8 * 8, 8 * 8 + 24):
        box = Mailbox(8)
        box.write(b"12345678")
        box.segment.buffer[byte] ^= 1
        assert box.take() == []
        assert box.missed + box.torn == 1


def test_half_written_message_is_not_read() -> None:
    """What a writer that died was writing is not there; the next message is."""
    box = Mailbox(8)
    box.write(b"whole")
    words = box.segment.buffer.cast("Q")
    words[8] = 2 * 1 + 1  # message 1 has begun over message 0
    assert box.last() is None
    assert box.take() == []
    box.write(b"after")
    assert box.take() == [b"after"]


def test_mailbox_outlives_its_reader() -> None:
    """A reader that replaces a dead one goes on after what that one took."""
    box = Mailbox(8, 4)
    box.write(b"a")
    assert box.take() == [b"a"]
    box.write(b"b")
    assert Mailbox(8, 4, box.segment).take() == [b"b"]


def test_message_too_long_is_refused() -> None:
    """A message longer than a slot, and a mailbox without slots, cannot be."""
    with pytest.raises(ConfigError, match="9 bytes"):
        Mailbox(8).write(b"123456789")
    with pytest.raises(ConfigError, match="0 slots"):
        Mailbox(8, 0)


def test_bell_never_blocks() -> None:
    """Ringing a bell that nobody hears goes on for ever; one wait takes it all."""
    bell = Bell()
    for _ in range(100_000):
        bell.ring()
    bell.wait(10)
    bell.close()
    bell.close()


def test_labels_come_out_as_they_went_in() -> None:
    """Over many turns of the ring, labels keep their order and their numbers."""
    ring = LabelRing(SPEC, rows=7)
    sent, got = [], []
    for turn in range(20):
        obs = np.full((turn % 4, 3), turn, np.float32)
        assert ring.push(obs, one_hot(obs[:, 0])) == len(obs)
        sent += [turn] * len(obs)
        for back, dist, _ in ring.take():
            assert dists.mode(dist, SPEC.action).tolist() == (back[:, 0] % 4).tolist()
            got += back[:, 0].tolist()
    assert got == sent
    assert ring.dropped == 0


def test_full_ring_drops_and_counts() -> None:
    """What does not fit is dropped and counted; what fits is whole."""
    ring = LabelRing(SPEC, rows=4)
    obs = np.arange(18, dtype=np.float32).reshape(6, 3)
    assert ring.push(obs, one_hot(obs[:, 0])) == 4
    assert ring.push(obs, one_hot(obs[:, 0])) == 0
    assert (len(ring), ring.dropped) == (4, 8)
    [(back, *_)] = ring.take()
    assert np.array_equal(back, obs[:4])
    assert ring.take() == []


def test_labels_of_different_kinds_are_kept_apart() -> None:
    """A planner that changes its kind of distribution is read back batch by batch."""
    ring = LabelRing(BOX)
    obs = np.ones((2, 3), np.float32)
    two = np.full((2, 2), 0.5, np.float32)
    ring.push(obs, Point(two))
    ring.push(obs, Gaussian(two, -two))
    first, second = (each.dist for each in ring.take())
    assert dists.kind_of(first) == "point"
    assert np.array_equal(dists.pack(first), two)
    opened = dists.opened(second, BOX.action)
    assert isinstance(opened, Gaussian)
    assert np.array_equal(opened.log_std, -two)


def test_observations_survive_the_wire() -> None:
    """An observation is read back with its tick, episode and time."""
    codec = SeenCodec(SPEC)
    obs = np.array([1.5, -2, np.float32(1e-30)], np.float32)
    seen = codec.decode(bytes(codec.encode(Seen(7, 2, 123, obs))))
    assert (seen.tick, seen.episode, seen.time) == (7, 2, 123)
    assert np.array_equal(seen.obs, obs)


@pytest.mark.parametrize(
    ("spec", "dist"),
    [
        (SPEC, Categorical(np.eye(4, dtype=np.float32)[:3])),
        (SPEC, QValues(np.ones((1, 4), np.float32))),
        (BOX, Gaussian(np.ones((2, 2), np.float32), np.zeros((2, 2), np.float32))),
    ],
)
def test_answers_survive_the_wire(spec: Spec, dist: Categorical) -> None:
    """An answer is read back with its kind, its rows and its numbers."""
    answer = Answer(3, 1, 40, 9, 0.25, 0.5, dists.packed(dist))
    back = decode_answer(encode_answer(answer), spec)
    assert (back.id, back.episode, back.tick, back.labels) == (3, 1, 40, 9)
    assert (back.thinking, back.latency) == (0.25, 0.5)
    assert back.rows is not None
    assert type(dists.opened(back.rows, spec.action)) is type(dist)
    assert np.array_equal(back.rows.rows, dists.pack(dist))


def test_what_an_answer_counted_on_survives_the_wire() -> None:
    """Assumed actions and the predicted observation are read back, in their place."""
    rows = dists.packed(Categorical(np.eye(4, dtype=np.float32)[:3]))
    assumed, predicted = (np.array([[1], [3]], np.float32), np.arange(3, dtype=np.float32))
    expected = np.ones((3, 3), np.float32)
    answer = Answer(3, 1, 42, 9, 0.25, 0.5, rows, 40, expected=expected)
    rolled = replace(answer, assumed=assumed, predicted=predicted)
    back = decode_answer(encode_answer(rolled), SPEC)
    assert (back.origin, back.tick) == (40, 42)
    assert back.assumed is not None
    assert back.predicted is not None
    assert np.array_equal(back.assumed, assumed)
    assert np.array_equal(back.predicted, predicted)
    back = decode_answer(encode_answer(answer), SPEC)
    assert back.assumed is None
    assert back.predicted is None


def test_answer_of_another_environment_is_refused() -> None:
    """Bytes that do not fit the actions are a planner's error, not a crash."""
    rows = dists.packed(Categorical(np.ones((1, 5), np.float32)))
    answer = Answer(3, 1, 40, 9, 0.25, 0.5, rows)
    for message in (encode_answer(answer), b"short"):
        with pytest.raises(PlannerError, match="bytes"):
            decode_answer(message, SPEC)


def test_weights_survive_the_wire() -> None:
    """Weights are read back bit by bit, into memory of their own."""
    weights = np.array([1, np.nan, -0.0], np.float32)
    back = decode_weights(encode_weights(weights))
    assert back.tobytes() == weights.tobytes()
    back[0] = 2


@given(
    rows=st.integers(0, 5),
    goal=st.integers(0, 4),
    expects=st.booleans(),
    partial=st.booleans(),
    seen=st.integers(0, 2**40),
)
@settings(deadline=None)
def test_answers_with_goals_and_expectations_come_through(
    rows: int, goal: int, expects: bool, partial: bool, seen: int
) -> None:
    """Rows or none, a goal or none, expectations or none: what is written is read."""
    random = np.random.default_rng(seen % 1000)

    def numbers(*shape: int) -> Any:
        return random.standard_normal(shape).astype(np.float32)

    answer = Answer(
        id=7,
        episode=2,
        tick=seen + 3,
        labels=4,
        thinking=0.5,
        latency=0.75,
        rows=Packed("gaussian", numbers(rows, 4)) if rows else None,
        seen=seen,
        part=3,
        partial=partial,
        goal=numbers(1, goal) if goal else None,
        expected=numbers(rows, 3) if expects and rows else None,
        doubt=0.25,
    )
    message = encode_answer(answer)
    assert len(message) <= answer_size(BOX, 5, 4)
    read = decode_answer(message, BOX)
    for name in ("id", "episode", "tick", "labels", "thinking", "latency", "seen"):
        assert getattr(read, name) == getattr(answer, name)
    assert (read.part, read.partial, read.doubt) == (3, partial, 0.25)
    for name in ("goal", "expected"):
        wrote, got = getattr(answer, name), getattr(read, name)
        assert (wrote is None) == (got is None)
        assert wrote is None or np.array_equal(wrote, got)
    assert (read.rows is None) == (not rows)
    if read.rows is not None and answer.rows is not None:
        assert np.array_equal(read.rows.rows, answer.rows.rows)
    if len(message) > answer_size(BOX, 0):
        with pytest.raises(PlannerError):
            decode_answer(message[:-4], BOX)


def test_what_is_committed_goes_with_an_observation() -> None:
    """A lead and flat actions come through, as many as there is room for."""
    codec = SeenCodec(BOX, ahead=3)
    actions = np.arange(10, dtype=np.float32).reshape(5, 2)
    obs = np.ones(3, np.float32)
    seen = codec.decode(bytes(codec.encode(Seen(7, 2, 123, obs, 4, actions))))
    assert (seen.tick, seen.lead) == (7, 4)
    assert seen.committed is not None
    assert seen.committed.tolist() == actions[:3].tolist()
    plain = codec.decode(bytes(codec.encode(Seen(8, 2, 124, obs))))
    assert plain.lead == 0
    assert plain.committed is not None
    assert len(plain.committed) == 0


@pytest.mark.parametrize(
    ("spec", "action"),
    [
        (DiscreteSpec(5, 2), 3),
        (MultiDiscreteSpec((2, 3)), [1, 2]),
        (MultiBinarySpec(3), [1, 0, 1]),
        (BoxSpec((-1.0,) * 4, (1.0,) * 4, (2, 2)), [[0.5, 0.25], [0, -1]]),
    ],
)
def test_actions_lie_flat_and_come_back(spec: Any, action: Any) -> None:
    """Every kind of action survives being laid out flat."""
    flat = flat_actions([action, action], spec)
    assert flat.shape == (2, action_width(spec))
    assert np.array_equal(shaped_action(flat[1], spec), action)
