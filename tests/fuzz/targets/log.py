"""Decision logs, and the messages between processes that they hold."""

from __future__ import annotations

import functools
import json
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from agentkd.dists import action_width
from agentkd.executors.architecture import initial
from agentkd.runtime.codec import Answer, decode_answer, encode_answer
from agentkd.runtime.log import EXECUTOR, FRAME, HEADER, MAGIC, DecisionLog
from agentkd.runtime.logfile import Event, LogFile
from agentkd.runtime.workers.channels import Mailbox
from agentkd.spec import BoxSpec, DiscreteSpec, Spec
from agentkd.spec_json import to_json
from agentkd.types import Packed
from tests.deploy_executors import OBS
from tests.fuzz import mutate
from tests.fuzz.draw import Draw
from tests.fuzz.target import Files, Target
from tests.fuzz.targets import bundle

_CHOICE = Spec(OBS, DiscreteSpec(3))
_ROOM = 64
_BOX = Spec(OBS, BoxSpec((-1.0, -2.0), (1.0, 2.0), (2,)))


def _answers(spec: Spec) -> list[Answer]:
    rows = Packed("categorical", np.eye(3, dtype=np.float32))
    if isinstance(spec.action, BoxSpec):
        rows = Packed("gaussian", np.ones((3, 4), np.float32))
    goal = np.ones((1, 4), np.float32)
    expected = np.ones((3, 7), np.float32)
    assumed = np.ones((3, action_width(spec.action)), np.float32)
    return [
        Answer(1, 0, 0, 2, 0.01, 0.02, rows),
        Answer(2, 0, 1, 1, 0.01, 0.02, rows, 1, 1, True, goal, expected, 0.5),
        Answer(3, 0, 2, 0, 0.01, 0.02, None, goal=goal),
        Answer(4, 0, 4, 0, 0.01, 0.02, rows, 2, assumed=assumed, predicted=expected[0]),
    ]


@functools.cache
def seeds() -> tuple[tuple[tuple[int, bytes], ...], ...]:
    """The records of two small logs."""
    return tuple(_records(spec) for spec in (_CHOICE, _BOX))


def _records(spec: Spec) -> tuple[tuple[int, bytes], ...]:
    executor = initial("mlp:4", spec)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        log = DecisionLog(Path(name) / "x.akdlog")
        log.open({"spec": to_json(spec), "period": 0.02, "env": "X-v0"}, executor)
        log.reset(0)
        for tick, answer in enumerate(_answers(spec)):
            log.observe(tick, 0, 5, np.zeros(7, np.float32))
            log.hear(answer)
            log.left(1000)
            action = np.zeros(2) if spec is _BOX else 1
            log.decide(action, "executor", "late", 0, 5)
        swapped = executor.with_vector(executor.vector() + 1, 1)
        log.executor(swapped, executor)  # type: ignore[arg-type]
        log.close()
        data = (Path(name) / "x.akdlog").read_bytes()
    found, at = [], len(MAGIC)
    while at < len(data):
        length, _ = FRAME.unpack_from(data, at)
        at += FRAME.size + length
        found.append((data[at - length], data[at - length + 1 : at]))
    return tuple(found)


def build(draw: Draw) -> Files:
    """Change records; lengths and sums are right, but for now and then."""
    records = list(draw.choice(seeds()))
    for _ in range(1 + draw.below(3)):
        at = draw.below(len(records))
        kind, body = records[at]
        match draw.below(8):
            case 0:
                del records[at]
            case 1:
                records.insert(draw.below(len(records)), records[at])
            case 2:
                records[at] = draw.below(256), body
            case _:
                records[at] = kind, _body(draw, kind, body)
        records = records or [(HEADER, b"{}")]
    data = MAGIC + b"".join(_framed(kind, body) for kind, body in records)
    if draw.chance(16):
        data = mutate.octets(draw, data)
    return {"x.akdlog": data}


def _header(body: bytes) -> Any:
    """What a header says; an earlier change may have made it something else."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return {"spec": {}}


def _body(draw: Draw, kind: int, body: bytes) -> bytes:
    if kind == HEADER:
        return mutate.document(draw, _header(body))
    if kind == EXECUTOR and draw.chance(2):
        return body[:8] + bundle.hostile(draw)
    at = 8 * draw.below(max(1, min(len(body) // 8, 12)))
    number = struct.pack("<i", mutate.integer(draw) % (1 << 31))
    return draw.choice(
        (
            mutate.octets(draw, body),
            body[:at] + number + body[at + 4 :],
            body[: at + 4] + number + body[at + 8 :],
        )
    )


def _framed(kind: int, body: bytes) -> bytes:
    whole = bytes((kind,)) + body
    return FRAME.pack(len(whole), zlib.crc32(whole)) + whole


def read(folder: Path) -> tuple[LogFile, list[Event]]:
    """Read all events."""
    log = LogFile(folder / "x.akdlog")
    return log, list(log.events())


def work(found: tuple[LogFile, list[Event]]) -> None:
    """Show every event, as `agentkd log` does."""
    log, events = found
    assert log.spec.obs.size > 0
    for event in events:
        str(event).encode("utf-8", "surrogatepass")


def build_messages(draw: Draw) -> Files:
    """Change an answer as the planner's process sends it, or a whole mailbox."""
    spec = draw.below(2)
    answer = encode_answer(draw.choice(_answers((_CHOICE, _BOX)[spec])))
    box = Mailbox(_ROOM, 2)
    for size in (8, 40):
        box.write(draw.raw(size))
    held = bytes(box.segment.buffer)
    box.segment.close()
    word = 8 * draw.below(len(held) // 8)
    number = struct.pack("<Q", mutate.integer(draw) % (1 << 64))
    held = held[:word] + number + held[word + 8 :]
    return {"answer": bytes((spec,)) + _body(draw, 0, answer), "mailbox": held}


def read_messages(folder: Path) -> tuple[Answer, list[bytes]]:
    """Take what the mailbox holds, and decode the answer."""
    box = Mailbox(_ROOM, 2)
    held = (folder / "mailbox").read_bytes()
    box.segment.buffer[: len(held)] = held
    found = [each for each in (*box.take(), box.last()) if each is not None]
    box.segment.close()
    data = (folder / "answer").read_bytes()
    return decode_answer(data[1:], (_CHOICE, _BOX)[data[0]]), found


def work_messages(found: tuple[Answer, list[bytes]]) -> None:
    """Messages are no longer than the mailbox's; the answer is written again."""
    answer, messages = found
    assert all(len(each) <= _ROOM for each in messages)
    encode_answer(answer)


LOG = Target("log", build, read, work)
MESSAGES = Target("messages", build_messages, read_messages, work_messages)
