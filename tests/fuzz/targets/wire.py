"""The protocol of remote planners: a hostile client, and a hostile server."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agentkd import dists
from agentkd.errors import AgentkdError, WireError
from agentkd.planners import Planner
from agentkd.planners.remote.client import RemotePlanner
from agentkd.planners.remote.server import PlannerServer
from agentkd.planners.remote.wire import PROTOCOL, Line, address_of, proof
from agentkd.spec import to_json
from agentkd.types import Floats
from tests.fuzz import mutate
from tests.fuzz.draw import Draw
from tests.fuzz.target import Files, Target
from tests.runtime_children import SPEC, Anytime, Echo

_TOKEN = "fuzz"
_FRAME = struct.Struct("<4sIQ")
_WAIT = 30.0
_SCRIPT, _SIDE = "script.bin", "side"
_OBS = np.zeros((2, 3), np.float32)
_NONCE = "0" * 32


def _odd_side(folder: Path) -> bool:
    """Which of two ways the other end is set up in."""
    return bool((folder / _SIDE).read_bytes()[0] & 1)


def _plainly(_: Draw, header: Any) -> bytes:
    return mutate.written(header)


def _framed(draw: Draw, header: Any, arrays: Sequence[Floats]) -> bytes:
    """A frame whose lengths fit what is in it, but for now and then."""
    payload = b"".join(array.tobytes() for array in arrays)
    if isinstance(header, dict) and "shapes" not in header:
        header = {**header, "shapes": [list(array.shape) for array in arrays]}
    write = mutate.document if draw.chance(3) else _plainly
    head = write(draw, header)
    if draw.chance(6):
        payload = mutate.octets(draw, payload)
    lengths = [len(head), len(payload)]
    if draw.chance(10):
        at = draw.below(2)
        lengths[at] = mutate.integer(draw, lengths[at]) % (1 << (32, 64)[at])
    magic = b"AKD1" if draw.below(20) else draw.raw(4)
    return _FRAME.pack(magic, *lengths) + head + payload


def build_questions(draw: Draw) -> Files:
    """What a client sends: its introduction, true or changed, and questions."""
    nonces = [_NONCE, "1" * 32]
    hello = {
        "type": "auth",
        "protocol": PROTOCOL,
        "nonce": nonces[1],
        "proof": "@proof@",
        "spec": to_json(SPEC) if draw.chance(2) else None,
    }
    first = mutate.written({**hello, "shapes": []})
    if draw.chance(3):
        first = mutate.document(draw, {**hello, "shapes": []})
    questions = b""
    for number in range(1 + draw.below(3)):
        method = draw.choice(("call", "improve", "begin", "disagreement", "none"))
        asked = {"type": "ask", "id": number, "episode": 0, "method": method, "batch": 2}
        arrays = [_OBS] * draw.choice((1, 1, 1, 0, 2, 3))
        questions += _framed(draw, asked, arrays)
    return {"hello.json": first, _SCRIPT: questions, _SIDE: draw.raw(1)}


def read_questions(folder: Path) -> Any:
    """Serve a planner to such a client, then to an honest one."""
    address = _served(_odd_side(folder), os.getpid()).address
    with contextlib.suppress(OSError, WireError):
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
    with socket.create_connection(address_of(address), timeout=_WAIT) as connection:
        line = Line(connection)
        nonce = str(line.receive().header["nonce"])
        head = (folder / "hello.json").read_bytes()
        head = head.replace(b"@proof@", proof(_TOKEN, "client", [nonce, "1" * 32]).encode())
        connection.sendall(_FRAME.pack(b"AKD1", len(head), 0) + head)
        connection.sendall((folder / _SCRIPT).read_bytes())
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass


def build_answers(draw: Draw) -> Files:
    """What a server sends: its welcome and answers, true or changed."""
    welcome: Any = {
        "type": "welcome",
        "proof": "@proof@",
        "spec": to_json(SPEC),
        "name": "a stub",
        "horizon": 1,
        "parameters": 7,
        "recurrent": draw.chance(4),
        "anytime": draw.chance(4),
        "doubts": draw.chance(4),
        "shapes": [],
    }
    first = mutate.written(welcome)
    if draw.chance(4):
        first = mutate.document(draw, welcome)
    answers = b""
    rows = np.zeros((2, 4), np.float32)
    for number in range(1, 5):
        said = {"id": number, "episode": 0, "type": "answer", "last": number % 2 == 0}
        said |= {"kind": "categorical", "names": ["rows"], "guidance": draw.chance(4)}
        if draw.chance(4):
            names: list[Any] = ["rows", "goal", "expected", 1, None, []]
            said["names"] = [draw.choice(names) for _ in range(draw.below(4))]
            said["kind"] = draw.choice(dists.KINDS)
        if draw.chance(8):
            said |= {"type": "failed", "text": "it \x1b[31m failed"}
        arrays = [rows] * draw.choice((1, 1, 1, 2, 3))
        answers += _framed(draw, said, arrays)
    return {"welcome.json": first, _SCRIPT: answers, _SIDE: draw.raw(1)}


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
    """Listen, and say what the files hold to whoever connects first."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(_WAIT)

        def serve() -> None:
            with contextlib.suppress(OSError, WireError, KeyError):
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(_WAIT)
                    line = Line(connection)
                    line.send({"type": "hello", "protocol": PROTOCOL, "nonce": _NONCE})
                    nonce = str(line.receive().header["nonce"])
                    head = (folder / "welcome.json").read_bytes()
                    proven = proof(_TOKEN, "server", [_NONCE, nonce]).encode()
                    head = head.replace(b"@proof@", proven)
                    connection.sendall(_FRAME.pack(b"AKD1", len(head), 0) + head)
                    connection.sendall((folder / _SCRIPT).read_bytes())
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(1 << 16):
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.close()
            thread.join(_WAIT)


def work_answers(found: list[Any]) -> None:
    """Every answer that was taken is a distribution for the environment."""
    for answer in found:
        rows = getattr(answer, "rows", answer)
        if rows is not None:
            dists.check(rows, SPEC.action, len(dists.pack(rows)))


SERVER = Target("wire-server", build_questions, read_questions, work_questions)
CLIENT = Target("wire-client", build_answers, read_answers, work_answers)
