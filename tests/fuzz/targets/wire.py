"""The protocol of remote planners: a hostile client, and a hostile server."""

from __future__ import annotations

import contextlib
import functools
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from agentkd import dists
from agentkd.errors import AgentkdError, NumbersError
from agentkd.frames import MOST_BYTES
from agentkd.planners import Planner
from agentkd.planners.remote.client import RemotePlanner
from agentkd.planners.remote.line import cut, settings
from agentkd.planners.remote.server import PlannerServer
from agentkd.planners.remote.wire import bearer
from agentkd.spec_json import to_json
from agentkd.types import Floats
from tests.fuzz import mutate
from tests.fuzz.draw import Draw
from tests.fuzz.target import Files, Target
from tests.runtime_children import SPEC, Anytime, Echo

_TOKEN = "fuzz"
_LENGTH = struct.Struct("<I")
_WAIT = 30.0
_SCRIPT, _SIDE = "script.bin", "side"
_OBS = np.zeros((2, 3), np.float32)


def _odd_side(folder: Path) -> bool:
    """Which of two ways the other end is set up in."""
    return bool((folder / _SIDE).read_bytes()[0] & 1)


def _plainly(_: Draw, header: Any) -> bytes:
    return mutate.written(header)


def _message(draw: Draw, header: Any, arrays: Sequence[Floats]) -> bytes:
    """A message whose lengths fit what is in it, but for now and then."""
    payload = b"".join(array.tobytes() for array in arrays)
    if isinstance(header, dict) and "shapes" not in header:
        header = {**header, "shapes": [list(array.shape) for array in arrays]}
    write = mutate.document if draw.chance(3) else _plainly
    head = write(draw, header)
    if draw.chance(6):
        payload = mutate.octets(draw, payload)
    length = len(head)
    if draw.chance(10):
        length = mutate.integer(draw, length) % (1 << 32)
    return _LENGTH.pack(length) + head + payload


def _script(messages: Sequence[bytes]) -> bytes:
    return b"".join(_LENGTH.pack(len(each)) + each for each in messages)


def _messages(folder: Path) -> Iterator[bytes]:
    script, at = (folder / _SCRIPT).read_bytes(), 0
    while at < len(script):
        (length,) = _LENGTH.unpack_from(script, at)
        at += _LENGTH.size + length
        yield script[at - length : at]


def build_questions(draw: Draw) -> Files:
    """What a client sends: its introduction, true or changed, and questions."""
    token = draw.raw(8).hex() if draw.chance(8) else _TOKEN
    hello = {"id": 0, "episode": 0, "method": "about"}
    told = to_json(SPEC) if draw.chance(2) else None
    messages = [_message(draw, {**hello, "spec": told}, [])]
    for number in range(1 + draw.below(3)):
        method = draw.choice(("call", "improve", "begin", "disagreement", "none"))
        asked = {"id": number, "episode": 0, "method": method, "batch": 2}
        arrays = [_OBS] * draw.choice((1, 1, 1, 0, 2, 3))
        messages.append(_message(draw, asked, arrays))
    return {"token": token.encode(), _SCRIPT: _script(messages), _SIDE: draw.raw(1)}


def read_questions(folder: Path) -> Any:
    """Serve a planner to such a client, then to an honest one."""
    address = _served(_odd_side(folder), os.getpid()).address
    with contextlib.suppress(OSError, WebSocketException):
        _misbehave(address, folder)
    try:
        honest = RemotePlanner(address, SPEC, token=_TOKEN, patience=_WAIT)
        answer = honest(_OBS)
        honest.interrupt()
    except AgentkdError as error:
        return error
    return answer


@functools.cache
def _served(anytime: bool, process: int) -> PlannerServer:
    """The server of this process: what one client spoils, the next ones notice."""
    policy: Any = Anytime(2) if anytime else Echo()
    server = PlannerServer(Planner(policy, SPEC, "a stub", 7, ""), token=_TOKEN)
    return server.__enter__()


def work_questions(answer: Any) -> None:
    """The honest client was answered."""
    if isinstance(answer, Exception):
        raise answer
    dists.check(answer, SPEC.action, len(dists.pack(answer)))


def _misbehave(address: str, folder: Path) -> None:
    """Connect, say what the files hold, and read until the other end is done."""
    token = (folder / "token").read_text()
    with connect(
        address, additional_headers={"Authorization": bearer(token)}, **settings(MOST_BYTES)
    ) as connection:
        for message in _messages(folder):
            connection.send(message)
            # A changed `improve` may have several answers; the rest comes next.
            connection.recv(_WAIT)


def build_answers(draw: Draw) -> Files:
    """What a server sends: its welcome and answers, true or changed."""
    welcome: Any = {
        "id": 1,
        "episode": 0,
        "type": "answer",
        "spec": to_json(SPEC),
        "name": "a stub",
        "horizon": 1,
        "parameters": 7,
        "recurrent": draw.chance(4),
        "anytime": draw.chance(4),
        "doubts": draw.chance(4),
        "shapes": [],
    }
    write = mutate.document if draw.chance(4) else _plainly
    first = write(draw, welcome)
    messages = [_LENGTH.pack(len(first)) + first]
    rows = np.zeros((2, 4), np.float32)
    for number in range(2, 6):
        said = {"id": number, "episode": 0, "type": "answer", "last": number % 2 == 1}
        said |= {"kind": "categorical", "names": ["rows"], "guidance": draw.chance(4)}
        if draw.chance(4):
            names: list[Any] = ["rows", "goal", "expected", 1, None, []]
            said["names"] = [draw.choice(names) for _ in range(draw.below(4))]
            said["kind"] = draw.choice(dists.KINDS)
        if draw.chance(8):
            said |= {"type": "failed", "text": "it \x1b[31m failed"}
        arrays = [rows] * draw.choice((1, 1, 1, 2, 3))
        messages.append(_message(draw, said, arrays))
    return {_SCRIPT: _script(messages), _SIDE: draw.raw(1)}


def read_answers(folder: Path) -> list[Any]:
    """Ask such a server."""
    with _hostile(folder) as address:
        remote = RemotePlanner(
            address,
            SPEC if _odd_side(folder) else None,
            token=_TOKEN,
            patience=0.0,
            answer_seconds=_WAIT,
        )
        try:
            found: list[Any] = []
            if remote.spec != SPEC:
                return found
            if hasattr(remote, "initial_state"):
                state = remote.initial_state(2)
                found.append(remote(_OBS, state)[0])
            found.append(remote(_OBS))
            if hasattr(remote, "improve"):
                found += list(remote.improve(_OBS))
            if hasattr(remote, "disagreement"):
                remote.disagreement(_OBS)
            return found
        finally:
            remote.interrupt()


@contextlib.contextmanager
def _hostile(folder: Path) -> Iterator[str]:
    """Listen, and say what the files hold to whoever connects."""
    held: list[ServerConnection] = []

    def attend(connection: ServerConnection) -> None:
        held.append(connection)
        with contextlib.suppress(OSError, WebSocketException):
            for message in _messages(folder):
                connection.recv(_WAIT)
                connection.send(message)
            connection.recv(_WAIT)

    with serve(attend, "127.0.0.1", 0, **settings(MOST_BYTES)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            for each in held:
                cut(each.socket)


def work_answers(found: list[Any]) -> None:
    """Every answer that was taken has the shape of a distribution for the environment.

    NaN is refused where answers are used, row by row.
    """
    for answer in found:
        rows = getattr(answer, "rows", answer)
        if rows is not None:
            with contextlib.suppress(NumbersError):
                dists.check(rows, SPEC.action, len(dists.pack(rows)))


SERVER = Target("wire-server", build_questions, read_questions, work_questions)
CLIENT = Target("wire-client", build_answers, read_answers, work_answers)
