"""A planner behind TCP: the same answers, late when the line breaks, safe to use."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.errors import ConfigError, PlannerError, WireError
from agentkd.planners import Planner, load_planner
from agentkd.planners.remote.client import RemotePlanner
from agentkd.planners.remote.server import PlannerServer
from agentkd.planners.remote.wire import Line, address_of, proven, read_token
from agentkd.runtime import Agent, Goals, StrategyOptions, ThreadPlanner
from agentkd.runtime.codec import Seen
from agentkd.runtime.connect import planner_port
from agentkd.spec import BoxSpec, Spec, to_json
from agentkd.types import Categorical, Floats, Gaussian, Guidance
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
    """An anytime planner's answers come one by one; leaving early hurts nobody."""
    with served(Anytime(3)) as server:
        remote: Any = connect(server)
        found = [each.logits.argmax(axis=1)[0] for each in remote.improve(batch(1))]
        assert found == [0, 1, 2]
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


@pytest.mark.parametrize(("mine", "theirs"), [("", "secret"), ("guess", "secret"), ("secret", "")])
def test_who_does_not_know_the_token_gets_nothing(mine: str, theirs: str) -> None:
    """A wrong token is refused by either end, without being sent."""
    with served(Echo(), token=theirs) as server:
        with pytest.raises(PlannerError, match="token"):
            connect(server, token=mine)
        assert connect(server, token=theirs)(batch(1)).logits.argmax() == 1
        wait_for(lambda: server.counts.refused == 1)


def test_end_that_cannot_prove_itself_is_not_believed() -> None:
    """Whoever poses as the planner without its token is not asked anything."""
    listener = socket.create_server(("127.0.0.1", 0))

    def pose() -> None:
        connection, _ = listener.accept()
        line = Line(connection)
        line.send({"type": "hello", "protocol": 1, "nonce": "00"})
        line.receive()
        line.send({"type": "welcome", "proof": "00" * 32, "spec": to_json(SPEC)})
        line.close()

    thread = threading.Thread(target=pose)
    thread.start()
    port = listener.getsockname()[1]
    with pytest.raises(PlannerError, match="does not prove"):
        RemotePlanner(f"tcp://127.0.0.1:{port}", token="secret", patience=0)
    thread.join()
    listener.close()


def test_planner_for_something_else_is_refused() -> None:
    """Both ends know the environment; another one ends the connection with words."""
    with served(Echo()) as server, pytest.raises(PlannerError, match="is for"):
        connect(server, spec=BOX)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"AKD1" + struct.pack("<IQ", 2**31, 0),
        b"AKD1" + struct.pack("<IQ", 2, 2**60) + b"{}",
        b"AKD1" + struct.pack("<IQ", 2, 0) + b"{}",
        b"AKD1" + struct.pack("<IQ", 3, 0) + b"\xff\xff\xff",
        b"AKD1" + struct.pack("<IQ", 18, 4) + b'{"shapes": [[-1]]}' + b"1234",
        b"AKD1" + struct.pack("<IQ", 17, 8) + b'{"shapes": [[1]]}' + b"12345678",
        b"AKD1",
    ],
)
def test_garbage_ends_its_own_connection_only(garbage: bytes) -> None:
    """What is no message is refused before memory is taken for it."""
    with served(Echo()) as server:
        good = connect(server)
        host, port = address_of(server.address)
        with socket.create_connection((host, port), timeout=ENOUGH) as bad:
            bad.sendall(garbage)
            with contextlib.suppress(OSError):
                # The server may have closed it already.
                bad.shutdown(socket.SHUT_WR)
            while bad.recv(4096):
                pass
        assert good(batch(2)).logits.argmax() == 2


def test_reply_to_another_question_is_never_taken() -> None:
    """A reply with a wrong number or episode ends the connection."""

    def once(mistake: dict[str, int]) -> None:
        listener = socket.create_server(("127.0.0.1", 0))

        def answer() -> None:
            with served(Echo()) as real:
                front = Line(listener.accept()[0])
                back = Line(socket.create_connection(address_of(real.address)))
                front.send(back.receive().header)
                back.send(front.receive().header)
                front.send(back.receive().header)
                question = front.receive()
                back.send(question.header, question.arrays)
                reply = back.receive()
                header = dict(reply.header)
                for name, more in mistake.items():
                    header[name] += more
                front.send(header, reply.arrays)
                front.close()
                back.close()

        thread = threading.Thread(target=answer)
        thread.start()
        remote = kept(RemotePlanner(f"tcp://127.0.0.1:{listener.getsockname()[1]}", patience=0))
        remote.episode = 4
        with pytest.raises(WireError, match="answered question"):
            remote(batch(1))
        assert remote._line is None
        thread.join()
        listener.close()

    once({"id": 1})
    once({"episode": -1})


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
    wire = remote._line._socket
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.close()


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
            first._put(0.0, method, [batch(1)])
            assert asked.wait(ENOUGH)
        vanish(first)
        go_on.set()
        wait_for(lambda: not server.counts.open)
        assert connect(server)(batch(2)).logits.argmax() == 2


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="Linux has it")
def test_silent_peers_are_asked_for_a_sign_of_life() -> None:
    """One that is cut off without a word is noticed after a minute, not two hours."""
    with served(Echo()) as server:
        connect(server)
        (line,) = server._served
        wire = line._socket
        assert wire.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        told = [
            wire.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        ]
        assert told[0] + told[1] * told[2] == 60


def test_lost_connection_makes_the_planner_late_and_nothing_else() -> None:
    """When the server goes and comes back, the executor acts on and answers return."""
    server = PlannerServer(planner(Echo()))
    server.__enter__()
    host, port = address_of(server.address)
    remote = connect(server, patience=ENOUGH)
    with Agent(constant(2), planner=remote) as agent:
        assert isinstance(agent._planner, ThreadPlanner)
        act_until(agent, answered(2))
        server.__exit__(None, None, None)
        act_until(agent, lambda m: m["planner_restarts_total"]["lost"] >= 1)
        answers = agent.metrics()["planner_answers_total"]
        for i in range(100):
            assert agent.act(see(i)) in range(4)
        with served(Echo(), host=host, port=port):
            act_until(agent, answered(answers + 2))
        metrics = agent.metrics()
    assert metrics["planner_errors_total"] == 0


def test_another_planner_at_the_same_address_is_noticed() -> None:
    """What comes back has to be what went away."""
    with served(Echo()) as server:
        host, port = address_of(server.address)
        remote = connect(server, patience=ENOUGH)
        remote(batch(1))
    with (
        served(Ahead(3), host=host, port=port),
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


def test_address_is_a_reference_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tcp://…` loads as a planner, with the token of the environment."""
    with served(Echo(), token="secret") as server:
        monkeypatch.setenv("AGENTKD_TOKEN", "secret")
        known = load_planner(server.address, SPEC)
        assert isinstance(known.policy, RemotePlanner)
        kept(known.policy)
        assert known.parameters == 7
        assert "a stub at tcp://" in known.name
        monkeypatch.delenv("AGENTKD_TOKEN")
        file = tmp_path / "token"
        file.write_text("secret\n")
        monkeypatch.setenv("AGENTKD_TOKEN_FILE", str(file))
        again = load_planner(server.address, SPEC)
        assert isinstance(again.policy, RemotePlanner)
        assert kept(again.policy).spec == SPEC
    file.write_text("")
    with pytest.raises(ConfigError, match="empty"):
        read_token(file)
    with pytest.raises(ConfigError, match="No such file"):
        read_token(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tcp://10.0.0.7:99", ("10.0.0.7", 99)),
        ("robot:99", ("robot", 99)),
        ("tcp://robot", ("robot", 4750)),
        ("tcp://[::1]:99", ("::1", 99)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    """Host and port, the scheme and the port left out at will."""
    assert address_of(text) == expected


def test_what_cannot_be_meant_is_refused() -> None:
    """Open to everybody without a token, or a port that is taken: refused."""
    for text in ("tcp://", "tcp://host:x", "tcp://host:99999"):
        with pytest.raises(ConfigError, match="no address"):
            address_of(text)
    with pytest.raises(ConfigError, match="everybody"):
        PlannerServer(planner(Echo()), host="0.0.0.0")
    with served(Echo()) as server:
        _, port = address_of(server.address)
        with pytest.raises(ConfigError, match="cannot be had"):
            PlannerServer(planner(Echo()), port=port)
    with pytest.raises(PlannerError, match="cannot be reached"):
        RemotePlanner(f"tcp://127.0.0.1:{port}", patience=0)


def test_serve_command_serves_until_it_is_told_to_end() -> None:
    """`agentkd serve` prints its address, answers, and ends on Ctrl-C with a count."""
    command = [sys.executable, "-m", "agentkd", "serve", "tests.cli_planners:balance"]
    child = subprocess.Popen(
        [*command, "--env", "CartPole-v1", "--port", "0", "--token-file", "-"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child, child.stdin, child.stdout:
        child.stdin.write("secret\n")
        child.stdin.close()
        line = ""
        while "tcp://" not in line:
            line = child.stdout.readline()
            assert line, "it said nothing"
        address = line[line.index("tcp://") :].split()[0]
        remote = kept(RemotePlanner(address, token="secret", patience=ENOUGH))
        answer = remote(np.array([[0, 0, 0.2, 0]], np.float32))
        assert answer.logits.argmax() == 1
        child.send_signal(signal.SIGINT)
        rest = child.stdout.read()
        assert "1 question" in rest
        assert child.wait(ENOUGH) == 0


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


def test_a_proof_beyond_ascii_is_only_wrong() -> None:
    """It is compared, not raised about."""
    assert not proven("token", "client", ["a", "b"], "\u00e9\ud800")


def test_one_connection_takes_no_turns() -> None:
    """Several workers would mix their questions up; a memory would miss some."""
    with served(Echo()) as server:
        remote = connect(server)
        with pytest.raises(ConfigError, match="one connection"):
            planner_port(remote, workers=2)
    with pytest.raises(ConfigError, match="take turns"):
        planner_port(Counting(), 2, virtual=True, workers=2)
