"""A planner server and its clients among peers that mean harm, or stall."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.errors import ConfigError, PlannerError, WireError
from agentkd.frames import Frame, answer_of, unpack
from agentkd.planners import Planner
from agentkd.planners.remote import client as remote
from agentkd.planners.remote import server as serving
from agentkd.planners.remote import wire
from agentkd.planners.remote.client import RemotePlanner
from agentkd.planners.remote.line import Line
from agentkd.planners.remote.server import PlannerServer
from agentkd.planners.remote.wire import address_of
from agentkd.runtime import Agent
from agentkd.types import Categorical, Floats
from tests.planner_impostor import impostor, introduce
from tests.runtime_children import SPEC, Echo, constant, one_hot
from tests.test_runtime_processes import act_until, answered
from tests.waiting import ENOUGH, wait_for

SHORT = 0.2
"""Seconds of a limit that has to end a wait; nothing is expected to be faster."""


def planner(policy: Any) -> Planner:
    return Planner(policy, SPEC, "a stub", 7, "")


def batch(*numbers: float) -> Floats:
    return np.array([[each, 0, 0] for each in numbers], np.float32)


@pytest.fixture
def kept() -> Iterator[Callable[..., Any]]:
    """Keep sockets and planners until the test ends."""
    with contextlib.ExitStack() as stack:

        def keep(made: Any) -> Any:
            close = made.interrupt if isinstance(made, RemotePlanner) else made.close
            stack.callback(close)
            return made

        yield keep


def stranger(server: PlannerServer) -> socket.socket:
    at = address_of(server.address)
    connection = socket.create_connection((at.host, at.port))
    connection.settimeout(ENOUGH)
    return connection


def ended(connection: socket.socket) -> bool:
    """Read until the other end closes."""
    with contextlib.suppress(ConnectionError):
        while connection.recv(4096):
            pass
    return True


def drip(connection: socket.socket, start: bytes) -> None:
    """Send what never ends a byte at a time, until the other end has enough of it."""
    with contextlib.suppress(OSError):
        connection.sendall(start)
        while True:
            connection.sendall(b" ")
            time.sleep(SHORT / 20)


def drip_answer(line: Line) -> None:
    """Begin a message of 60,000 bytes, and send it a byte at a time."""
    drip(line._connection.socket, b"\x82\x7e" + struct.pack(">H", 60000))


@contextlib.contextmanager
def raw_impostor(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that does what the test says with each TCP connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)
    stop = threading.Event()

    def accept() -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = listener.accept()
                connection.settimeout(ENOUGH)
                with connection, contextlib.suppress(OSError):
                    talk(connection)

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stop.set()
        thread.join()
        listener.close()


def test_strangers_take_no_places(kept: Callable[..., Any]) -> None:
    """Case attacks/15: a place is counted when the token is proven."""
    with PlannerServer(planner(Echo()), token="t", most_connections=2) as server:
        for _ in range(8):
            kept(stranger(server))
        wait_for(lambda: len(server._strangers) == 8)
        assert server.counts.open == 0
        honest = [kept(RemotePlanner(server.address, token="t")) for _ in range(2)]
        assert [each(batch(3)).logits.argmax() for each in honest] == [3, 3]
        assert server.counts.open == 2


def test_many_strangers_hold_no_threads(
    kept: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest that prove nothing have to go, and honest clients come through."""
    monkeypatch.setattr(serving, "_STRANGERS", 4)
    with PlannerServer(planner(Echo()), token="t") as server:
        strangers = [kept(stranger(server)) for _ in range(20)]
        assert all(ended(each) for each in strangers[:16])

        def threads() -> int:
            return sum(each.name == "serve" for each in threading.enumerate())

        wait_for(lambda: threads() <= 4 + 1)
        honest = kept(RemotePlanner(server.address, token="t"))
        assert honest(batch(3)).logits.argmax() == 3
        wait_for(lambda: server.counts.refused >= 17)


def test_strangers_do_not_fill_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first, second, fourth, eighth … refusal is told."""
    with PlannerServer(planner(Echo()), token="t") as server:
        for _ in range(9):
            with contextlib.closing(stranger(server)) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
                ended(connection)
        wait_for(lambda: server.counts.refused == 9)
    told = [each for each in caplog.records if "refused" in each.message]
    assert len(told) == 4


def test_a_client_that_drips_its_proof_is_ended(
    kept: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handshake has one limit for all its bytes."""
    monkeypatch.setattr(serving, "_HANDSHAKE", SHORT)
    with PlannerServer(planner(Echo())) as server:
        drip(kept(stranger(server)), b"GET /")
        wait_for(lambda: server.counts.refused == 1)


def test_a_client_that_drips_its_question_is_ended(
    kept: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it sends one it gives no sign of life; without one it may be silent."""
    monkeypatch.setattr(serving, "_SILENCE", SHORT)
    with PlannerServer(planner(Echo())) as server:
        mine = kept(RemotePlanner(server.address, token="", patience=0))
        time.sleep(3 * SHORT)
        assert server.counts.open == 1
        start = b"\x82\xfe" + struct.pack(">H", 60000) + b"mask"
        drip(mine._line._connection.socket, start)
        wait_for(lambda: server.counts.open == 0)


def test_a_server_that_drips_its_greeting_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Case attacks/17: the handshake has one limit for all its bytes."""
    monkeypatch.setattr(remote, "_HANDSHAKE", SHORT)
    with (
        raw_impostor(lambda connection: drip(connection, b"HTTP/1.1 ")) as address,
        pytest.raises(PlannerError, match="took too long"),
    ):
        RemotePlanner(address, token="", patience=SHORT)


def test_a_server_that_drips_its_answer_is_given_up() -> None:
    """`answer_seconds` is for the whole answer."""

    def talk(line: Line) -> None:
        introduce(line)
        line.receive()
        drip_answer(line)

    with impostor(talk) as address:
        mine = RemotePlanner(address, token="", patience=0, answer_seconds=SHORT)
        with pytest.raises(PlannerError, match="took too long"):
            mine(batch(1))
        mine.interrupt()


def test_a_planner_that_is_given_up_waits_for_no_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that closes does not wait for a server that says nothing."""
    monkeypatch.setattr(remote, "_HANDSHAKE", 10 * ENOUGH)
    silent = threading.Event()

    def hold(connection: socket.socket) -> None:
        silent.set()
        ended(connection)

    with impostor(introduce) as address, raw_impostor(hold) as elsewhere:
        mine = RemotePlanner(address, token="", patience=10 * ENOUGH)
        mine._where = address_of(elsewhere)
        mine._hang_up()
        failed: list[Exception] = []

        def ask() -> None:
            try:
                mine(batch(1))
            except PlannerError as error:
                failed.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        assert silent.wait(ENOUGH)
        mine.interrupt()
        thread.join(ENOUGH)
        assert failed


def test_a_full_server_is_asked_again(kept: Callable[..., Any]) -> None:
    """A client has patience until a place is free."""
    with PlannerServer(planner(Echo()), most_connections=1) as server:
        first = kept(RemotePlanner(server.address, token=""))
        found: list[RemotePlanner] = []

        def second() -> None:
            mine = RemotePlanner(server.address, token="", patience=ENOUGH)
            found.append(kept(mine))

        thread = threading.Thread(target=second)
        thread.start()
        wait_for(lambda: server.counts.refused >= 2)
        first.interrupt()
        thread.join()
        assert found[0](batch(2)).logits.argmax() == 2


def test_the_executor_acts_while_a_server_is_full(kept: Callable[..., Any]) -> None:
    """A planner that has lost its place is late and nothing else."""
    server = PlannerServer(planner(Echo()))
    server.__enter__()
    at = address_of(server.address)
    mine = kept(RemotePlanner(server.address, token="", patience=ENOUGH))
    with Agent(constant(2), planner=mine) as agent:
        act_until(agent, answered(2))
        server.__exit__(None, None, None)
        again = PlannerServer(planner(Echo()), port=at.port, most_connections=1)
        again._served[socket.socket()] = threading.Thread()
        with again:
            act_until(agent, lambda _: again.counts.refused >= 1)
            answers = agent.metrics()["planner_answers_total"]
            again._served.popitem()[0].close()
            act_until(agent, answered(answers + 2))
        assert agent.metrics()["planner_errors_total"] == 0


def test_who_takes_no_answers_keeps_nobody_waiting(
    kept: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planner answers others meanwhile; the last answer comes whole at last."""
    monkeypatch.setattr(serving, "_SENDING", ENOUGH)
    asked = threading.Event()

    class Better:
        def __call__(self, obs: Floats, /) -> Categorical:
            return one_hot(obs[:, 0])

        def improve(self, obs: Floats, /) -> Iterator[Categorical]:
            asked.set()
            for quality in range(20):
                yield one_hot(obs[:, 0] + quality)

    many = np.zeros((200_000, 3), np.float32)
    with PlannerServer(planner(Better())) as server:
        slow: Any = kept(RemotePlanner(server.address, token="", answer_seconds=ENOUGH))
        slow._put("improve", [many])
        assert asked.wait(ENOUGH)
        quick = kept(RemotePlanner(server.address, token="", answer_seconds=ENOUGH))
        assert quick(batch(3)).logits.argmax() == 3
        frames: list[Frame] = []
        while not frames or not frames[-1].header["last"]:
            frames.append(slow._hear(time.monotonic() + ENOUGH))
        # Better answers take the place of those that were not taken.
        assert 2 <= len(frames) < 21
        last = answer_of(frames[-2], SPEC)
        assert isinstance(last, Categorical)
        assert (last.logits.argmax(axis=1) == 19 % 4).all()


def test_memory_is_taken_for_bytes_that_arrived() -> None:
    """A message that only announces its size costs nothing."""

    def talk(line: Line) -> None:
        introduce(line)
        line.receive()
        wire = line._connection.socket
        wire.sendall(b"\x82\x7f" + struct.pack(">Q", 16_000_000) + bytes(1000))
        line.cut()

    with impostor(talk) as address:
        mine = RemotePlanner(address, token="", patience=0)
        tracemalloc.start()
        try:
            with pytest.raises(PlannerError):
                mine(batch(1))
            assert tracemalloc.get_traced_memory()[1] < 4_000_000
        finally:
            tracemalloc.stop()
        mine.interrupt()


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"names": None},
        {"names": ["rows"]},
        {"names": [["rows"]], "kind": "categorical"},
        {"names": ["rows", "rows"], "kind": "categorical"},
        {"names": ["other"]},
        {"names": ["rows"], "kind": ["categorical"]},
        {"names": ["rows"], "kind": "gaussian"},
    ],
)
def test_an_answer_that_is_none_is_refused(header: dict[str, Any]) -> None:
    """Its names and kinds are the known ones, each once."""
    rows = np.zeros((1, 9), np.float32)
    with pytest.raises(PlannerError):
        answer_of(Frame(header, (rows, rows)), SPEC)


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 60000,
        b"null",
        b"{}",
        b'{"shapes": {}}',
        b'{"shapes": [[true]]}',
        b'{"shapes": [[1e3]]}',
        b'{"shapes": [[0, 99999999999999999999]]}',
        b'{"shapes": [' + b"[0]," * 300 + b"[0]]}",
        b'{"shapes": [], "x": ' + b"9" * 50000 + b"}",
        b"\xff\xfe",
    ],
)
def test_a_header_that_is_none_is_refused(header: bytes) -> None:
    """Whatever the bytes are, the error is a `WireError`."""
    with pytest.raises(WireError):
        unpack(struct.pack("<I", len(header)) + header)


def test_a_disagreement_of_another_shape_is_refused() -> None:
    """One number for each observation, or an error."""

    def talk(line: Line) -> None:
        introduce(line)
        asked = line.receive().header
        same = {"id": asked["id"], "episode": asked["episode"]}
        line.send({"type": "answer", **same}, [np.zeros(7, np.float32)], ENOUGH)

    with impostor(talk) as address:
        mine: Any = RemotePlanner(address, token="", patience=0)
        with pytest.raises(WireError, match="disagreement"):
            mine.disagreement(batch(1, 2))
        mine.interrupt()


def test_what_looks_like_an_address_is_checked(tmp_path: Path) -> None:
    """Digits of other scripts, names that look like loopback, hosts that are none."""
    for text in ("ws://a:\u00b2", "ws://a:" + "9" * 5000, "ws://a:-1", "a:1"):
        with pytest.raises(ConfigError, match="not an address"):
            address_of(text)
    with pytest.raises(ConfigError, match="Give a token"):
        PlannerServer(planner(Echo()), host="127.0.0.1.example.com")
    with pytest.raises(ConfigError, match="not a host"):
        RemotePlanner(f"ws://{'a' * 70}:1", token="", patience=0)
    token = tmp_path / "token"
    token.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        wire.read_token(token)
