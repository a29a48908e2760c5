"""A planner behind a WebSocket: the same answers, late if it breaks, safe to use."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as client

from agentkd.errors import ConfigError, PlannerError, WireError
from agentkd.planners import Planner
from agentkd.planners.remote import server as serving
from agentkd.planners.remote.client import RemotePlanner
from agentkd.planners.remote.line import Line
from agentkd.planners.remote.server import PlannerServer
from agentkd.planners.remote.wire import PROTOCOL, address_of
from agentkd.runtime import Agent, Goals, StrategyOptions, ThreadPlanner
from agentkd.runtime.codec import Seen
from agentkd.runtime.ports import planner_port
from agentkd.spec import BoxSpec, Spec
from agentkd.spec_json import to_json
from agentkd.types import Categorical, Floats, Gaussian, Guidance
from tests.planner_impostor import impostor, introduce
from tests.runtime_children import (
    BOX,
    SPEC,
    Ahead,
    Anytime,
    Counting,
    Echo,
    Faulty,
    constant,
    one_hot,
)
from tests.test_runtime_processes import act_until, answered
from tests.waiting import ENOUGH, wait_for

ROOT = Path(__file__).parents[1]


def see(*numbers: float) -> Any:
    return np.array([*numbers, 0, 0][:3], np.float32)


def batch(*numbers: float) -> Floats:
    return np.array([[each, 0, 0] for each in numbers], np.float32)


def planner(policy: Any, spec: Spec = SPEC) -> Planner:
    return Planner(policy, spec, "a stub", 7, "")


@contextmanager
def served(policy: Any, spec: Spec = SPEC, **options: Any) -> Iterator[PlannerServer]:
    with PlannerServer(planner(policy, spec), **options) as server:
        yield server


_CONNECTED: list[RemotePlanner] = []


@pytest.fixture(autouse=True)
def hung_up() -> Iterator[None]:
    """Every connection of a test ends with it."""
    yield
    while _CONNECTED:
        _CONNECTED.pop().interrupt()


def kept(remote: RemotePlanner) -> RemotePlanner:
    _CONNECTED.append(remote)
    return remote


def connect(server: PlannerServer, **options: Any) -> RemotePlanner:
    return kept(RemotePlanner(server.address, **{"patience": ENOUGH, **options}))


def test_answers_are_those_of_the_planner() -> None:
    """Whatever goes through the wire comes out as the planner gave it."""
    with served(Echo()) as server:
        remote = connect(server, spec=SPEC)
        assert (remote.name, remote.horizon, remote.parameters) == ("a stub", 1, 7)
        for count in (1, 3, 100):
            answer = remote(batch(*range(count)))
            assert isinstance(answer, Categorical)
            assert answer.logits.dtype == np.float32
            assert (answer.logits == one_hot(np.arange(count)).logits).all()
        assert not hasattr(remote, "improve")
        assert not hasattr(remote, "initial_state")
        wait_for(lambda: server.counts.questions == 3)


def test_kinds_and_guidance_cross_the_wire() -> None:
    """Gaussians, several rows, goals and expectations arrive whole."""

    class Rich:
        horizon = 2

        def __call__(self, obs: Floats) -> Guidance:
            mean = np.repeat(obs[:, :2], 2, axis=0)
            rows = Gaussian(mean, np.full_like(mean, -1))
            return Guidance(rows, obs[:, :1], np.repeat(obs, 2, axis=0))

        def disagreement(self, obs: Floats) -> Floats:
            return obs[:, 0] * 2

    with served(Rich(), BOX) as server:
        remote = connect(server)
        assert remote.horizon == 2
        assert remote.spec == BOX
        answer = remote(batch(0.5, 0.25))
        assert isinstance(answer, Guidance)
        assert isinstance(answer.rows, Gaussian)
        assert answer.rows.mean[:, 0].tolist() == [0.5, 0.5, 0.25, 0.25]
        assert answer.rows.log_std.tolist() == [[-1, -1]] * 4
        assert answer.goal is not None
        assert answer.goal.tolist() == [[0.5], [0.25]]
        assert answer.expected is not None
        assert answer.expected.shape == (4, 3)
        assert remote.disagreement(batch(0.5)).tolist() == [1.0]


def test_memory_is_the_caller_s() -> None:
    """A planner with a memory is served without one: its state goes along each time."""
    with served(Counting()) as server:
        remote: Any = connect(server)
        state = remote.initial_state(2)
        for step in range(3):
            dist, state = remote(batch(9, 9), state)
            assert dist.logits.argmax(axis=1).tolist() == [step, step]


def test_better_answers_stream() -> None:
    """An anytime planner's answers come in order; leaving early hurts nobody."""
    with served(Anytime(3)) as server:
        remote: Any = connect(server)
        found = [each.logits.argmax(axis=1)[0] for each in remote.improve(batch(1))]
        # One that is better at once may take the place of one not yet sent.
        assert found in ([0, 1, 2], [0, 2])
        for each in remote.improve(batch(1)):
            assert each.logits.argmax() == 0
            break
        assert remote(batch(1)).logits.argmax(axis=1)[0] == 2


def test_planner_that_raises_keeps_the_connection() -> None:
    """Its words come through as an error, and the next question is answered."""
    with served(Faulty("raise")) as server:
        remote = connect(server)
        bad = np.array([[1, 1, 0]], np.float32)
        with pytest.raises(PlannerError, match="no idea"):
            remote(bad)
        with pytest.raises(PlannerError, match="Observations"):
            remote(np.zeros((1, 5), np.float32))
        assert remote(batch(3)).logits.argmax() == 3
        assert remote.restarts == {"lost": 0}
        wait_for(lambda: server.counts.failed == 2)


@pytest.mark.parametrize(
    ("mine", "theirs"), [("", "secret"), ("guess", "s\u00e9cret"), ("g\nx: y", "secret")]
)
def test_who_does_not_know_the_token_gets_nothing(mine: str, theirs: str) -> None:
    """A wrong token is refused, whatever characters it has."""
    with served(Echo(), token=theirs) as server:
        with pytest.raises(PlannerError, match="token"):
            connect(server, token=mine)
        assert connect(server, token=theirs)(batch(1)).logits.argmax() == 1
        wait_for(lambda: server.counts.refused == 1)


def test_planner_for_something_else_is_refused() -> None:
    """Both ends know the environment; another one ends the connection with words."""
    with served(Echo()) as server, pytest.raises(PlannerError, match="is for"):
        connect(server, spec=BOX)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 1000,
        b"\x16\x03\x01\x00\x05hello",
        b"\0",
    ],
)
def test_garbage_ends_its_own_connection_only(garbage: bytes) -> None:
    """What is no handshake is refused, and others are answered."""
    with served(Echo()) as server:
        good = connect(server)
        at = address_of(server.address)
        with socket.create_connection((at.host, at.port), timeout=ENOUGH) as bad:
            bad.sendall(garbage)
            with contextlib.suppress(OSError):
                # The server may have closed it already.
                bad.shutdown(socket.SHUT_WR)
                while bad.recv(4096):
                    pass
        assert good(batch(2)).logits.argmax() == 2


@pytest.mark.parametrize(
    "message",
    [
        "text",
        b"",
        struct.pack("<I", 2**31),
        struct.pack("<I", 2) + b"{}",
        struct.pack("<I", 3) + b"\xff\xff\xff",
        struct.pack("<I", 18) + b'{"shapes": [[-1]]}' + b"1234",
        struct.pack("<I", 17) + b'{"shapes": [[1]]}' + b"12345678",
        bytes(200_000),
    ],
)
def test_what_is_no_question_ends_its_own_connection_only(message: str | bytes) -> None:
    """Its length is checked before memory is taken for it."""
    with served(Echo(), most_bytes=100_000) as server:
        good = connect(server, most_bytes=100_000)
        with client(server.address, subprotocols=[PROTOCOL]) as bad:  # type: ignore[list-item]
            bad.send(message)
            with pytest.raises(ConnectionClosed):
                bad.recv(ENOUGH)
        assert good(batch(2)).logits.argmax() == 2


def test_a_page_in_a_browser_is_refused() -> None:
    """It says where it is from; a planner without a token is not for it."""
    with served(Echo()) as server:
        options: Any = {"subprotocols": [PROTOCOL], "origin": "http://a.b"}
        with pytest.raises(InvalidStatus, match="403"):
            client(server.address, **options)


@pytest.mark.parametrize("mistake", [{"id": 1}, {"episode": -1}])
def test_reply_to_another_question_is_never_taken(mistake: dict[str, int]) -> None:
    """A reply with a wrong number or episode ends the connection."""

    def talk(line: Line) -> None:
        introduce(line)
        header = dict(line.receive().header)
        for name, more in mistake.items():
            header[name] += more
        line.send(header, [], ENOUGH)

    with impostor(talk) as address:
        remote = kept(RemotePlanner(address, patience=0))
        remote.episode = 4
        with pytest.raises(WireError, match="answered question"):
            remote(batch(1))
        assert remote._line is None


def test_message_beyond_the_cap_is_not_sent() -> None:
    """A batch too large for the cap is refused here, with what to do."""
    with served(Echo(), most_bytes=10_000) as server:
        remote = connect(server, most_bytes=10_000)
        with pytest.raises(WireError, match="fewer observations"):
            remote(np.zeros((1000, 3), np.float32))


def test_only_so_many_may_connect() -> None:
    """One connection too many is told so; another may come when one has gone."""
    with served(Echo(), most_connections=1) as server:
        first = connect(server)
        with pytest.raises(PlannerError, match="connections are open"):
            connect(server, patience=0)
        first.interrupt()
        wait_for(lambda: not server.counts.open)
        assert connect(server)(batch(1)).logits.argmax() == 1


def vanish(remote: RemotePlanner) -> None:
    """Reset the connection, as when a machine at the other end was started anew."""
    assert remote._line is not None
    wire = remote._line._connection.socket
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    remote._hang_up()


@pytest.mark.parametrize("method", ["", "call", "improve"])
def test_peer_that_vanishes_gives_its_place_back(method: str) -> None:
    """Idle, while it is answered, or between better and better answers."""
    asked, go_on = threading.Event(), threading.Event()

    class Slow:
        def __call__(self, obs: Floats, /) -> Categorical:
            asked.set()
            assert go_on.wait(ENOUGH)
            return one_hot(obs[:, 0])

        def improve(self, obs: Floats, /) -> Iterator[Categorical]:
            for _ in range(3):
                yield self(obs)

    with served(Slow(), most_connections=1) as server:
        first = connect(server)
        if method:
            first._put(method, [batch(1)])
            assert asked.wait(ENOUGH)
        vanish(first)
        go_on.set()
        wait_for(lambda: not server.counts.open)
        assert connect(server)(batch(2)).logits.argmax() == 2


def test_silent_peers_are_asked_for_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is cut off without a word loses its place; one that lives keeps it."""
    monkeypatch.setattr(serving, "_SILENCE", 0.2)
    with served(Echo()) as server:
        alive = connect(server)
        at = address_of(server.address)
        with socket.create_connection((at.host, at.port), timeout=ENOUGH) as silent:
            silent.sendall(
                b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                b"Sec-WebSocket-Protocol: agentkd.2\r\n\r\n"
            )
            wait_for(lambda: server.counts.open == 2)
            wait_for(lambda: server.counts.open == 1)
        assert alive(batch(2)).logits.argmax() == 2
        assert alive.restarts == {"lost": 0}


def test_lost_connection_makes_the_planner_late_and_nothing_else() -> None:
    """When the server goes and comes back, the executor acts on and answers return."""
    server = PlannerServer(planner(Echo()))
    server.__enter__()
    at = address_of(server.address)
    remote = connect(server, patience=ENOUGH)
    with Agent(constant(2), planner=remote) as agent:
        assert isinstance(agent._companions.planner, ThreadPlanner)
        act_until(agent, answered(2))
        server.__exit__(None, None, None)
        act_until(agent, lambda m: m["planner_restarts_total"]["lost"] >= 1)
        answers = agent.metrics()["planner_answers_total"]
        for i in range(100):
            assert agent.act(see(i)) in range(4)
        with served(Echo(), host=at.host, port=at.port):
            act_until(agent, answered(answers + 2))
        metrics = agent.metrics()
    assert metrics["planner_errors_total"] == 0


def test_another_planner_at_the_same_address_is_noticed() -> None:
    """What comes back has to be what went away."""
    with served(Echo()) as server:
        at = address_of(server.address)
        remote = connect(server, patience=ENOUGH)
        remote(batch(1))
    with (
        served(Ahead(3), host=at.host, port=at.port),
        pytest.raises(PlannerError, match="Another planner"),
    ):
        remote(batch(1))


def test_closing_ends_the_waiting() -> None:
    """An agent that closes does not wait for a planner that hangs elsewhere."""
    release = threading.Event()

    class Hanging:
        def __call__(self, obs: Floats) -> Categorical:
            release.wait(ENOUGH)
            return one_hot(obs[:, 0])

    with served(Hanging()) as server:
        with Agent(constant(2), planner=connect(server)) as agent:
            agent.act(see(1))
            wait_for(lambda: server.counts.open)
        names = {thread.name for thread in threading.enumerate()}
        assert "planner" not in names
        release.set()


def test_goals_arrive_from_afar() -> None:
    """A remote planner of goals guides the executor here."""
    from tests.runtime_children import Guiding
    from tests.test_runtime_goals import follower

    with served(Guiding()) as server:
        options = StrategyOptions(goals=Goals(2, 10**6))
        with Agent(follower(), planner=connect(server), strategies=options) as agent:
            wait_for(lambda: agent.act(see(1)) == 1)


def test_spec_is_plain_json() -> None:
    """What the ends tell each other of the environment is JSON."""
    box = Spec(SPEC.obs, BoxSpec((-np.inf,), (1.0,), (1,)))
    assert json.loads(json.dumps(to_json(box))) is not None


def test_a_planner_that_was_given_up_can_be_asked_in_another_run() -> None:
    """Each arm of a comparison opens and closes the same planner."""
    with served(Echo()) as server:
        remote = connect(server)
        for _ in range(2):
            port = ThreadPlanner(remote)
            port.open(SPEC, None)
            port.submit(Seen(0, 0, 0, batch(1)[0]))
            answers: list[Any] = []

            def came(port: ThreadPlanner = port, got: list[Any] = answers) -> bool:
                got += port.poll(0)
                return bool(got)

            wait_for(came)
            port.close()
            assert port.counts().errors == 0


def test_what_a_planner_raises_is_told_and_not_asked_for_again() -> None:
    """An OSError of its own is no lost connection."""
    asked = []

    class Missing:
        def __call__(self, obs: Floats) -> Categorical:
            asked.append(len(obs))
            if len(asked) > 1:
                raise FileNotFoundError("no map")
            return one_hot(np.arange(len(obs)))

    with served(Missing()) as server:
        remote = connect(server)
        remote(batch(0))
        with pytest.raises(PlannerError, match="FileNotFoundError: no map"):
            remote(batch(0))
        assert remote.restarts["lost"] == 0
        assert server.counts.failed == 1


def test_one_connection_takes_no_turns() -> None:
    """Several workers would mix their questions up; a memory would miss some."""
    with served(Echo()) as server:
        remote = connect(server)
        with pytest.raises(ConfigError, match="one connection"):
            planner_port(remote, workers=2)
    with pytest.raises(ConfigError, match="take turns"):
        planner_port(Counting(), 2, virtual=True, workers=2)
