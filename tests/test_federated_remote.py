"""Federated distillation whose clients are elsewhere. `make federated` runs these tests."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from agentkd import load as load_executor
from agentkd.distillation.federated import Client, Clients, Member, Remote, federate
from agentkd.errors import ConfigError
from agentkd.transport.memory import Hub
from tests.brokers import Mosquitto
from tests.federated_world import client, secrets, start
from tests.test_federated_line import whole
from tests.waiting import ENOUGH, wait_for

with warnings.catch_warnings():
    # Flower imports an old command line library, which the newest click warns of.
    warnings.simplefilter("ignore")
    if find_spec("flwr") is None:
        pytest.skip("needs flwr; make federated runs these tests", allow_module_level=True)
    # Before anything else imports Flower, which reads then whether to send telemetry.
    from agentkd.distillation.federated import grid  # noqa: F401

    # isort: split
    from flwr.serverapp.strategy import FedAvg

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "federated.py"
PUBLIC = np.random.default_rng(9).normal(size=(40, 3)).astype(np.float32)
SMALL: dict[str, Any] = {"rounds": 3, "labels": 64, "steps": 20}


class Lying:
    """A client whose weights are changed on their way out."""

    def __init__(self, inner: Client, change: Callable[[Any], Any]) -> None:
        self._inner, self._change = inner, change

    def answer(self, request: bytes, /) -> bytes:
        held = load(self._inner.answer(request))
        return save({**held, "weights": self._change(held["weights"])})


@contextmanager
def remote(clients: Mapping[str, Any], said: list[bytes] | None = None) -> Iterator[Remote]:
    """Clients that are reached over a hub, in the loop of the server's line."""

    def connect(*filters: str, will: Any = None) -> Any:
        hub = Hub()
        if said is not None:
            tap = hub.line("akd/#")

            async def listen() -> None:
                async for each in tap.receive():
                    said.append(each.payload)

            kept.append(asyncio.create_task(listen()))
        for name, each in clients.items():
            member = Member(each, hub.line, "plant", name, chunk=128)
            kept.append(asyncio.create_task(member.run()))
        return hub.line(*filters, will=will)

    kept: list[asyncio.Task[None]] = []
    with Remote(connect, "plant", tuple(clients), patience=ENOUGH) as found:
        yield found


def crowd() -> dict[str, Client]:
    """Three clients with labels of their own."""
    return {f"robot-{i}": client(i, centre=float(i)) for i in range(3)}


@pytest.mark.parametrize("mode", ["weights", "answers", "consensus"])
def test_rounds_over_a_line_are_those_in_one_process(mode: Any) -> None:
    """The same executor to the last bit; and nothing that travelled is an observation."""
    how: dict[str, Any] = {"mode": mode, "public": PUBLIC, **SMALL}
    near = federate(crowd(), start(), **how)
    clients, said = crowd(), list[bytes]()
    with remote(clients, said) as lines:
        checked: Clients = lines
        far = federate(checked, start(), timeout=ENOUGH, **how)
    assert (far.executor.vector() == near.executor.vector()).all()
    assert (far.sent, far.received) == (near.sent, near.received)
    assert not far.refused
    joined = whole(said)
    assert len(joined) >= 3 * 3 + 3
    for payload in (*said, *joined):
        assert not [each for each in secrets(clients) if each in payload]


LIES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "nan": (lambda weights: weights * np.float32("nan"), "NaN"),
    "shape": (lambda weights: weights[1:], "float32 of"),
    "huge": (lambda weights: weights * np.float32(1e9), "a weight of"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_client_that_lies_is_left_out_and_named(lie: str) -> None:
    """The executor is that of the others alone."""
    change, match = LIES[lie]
    clients: dict[str, Any] = crowd()
    clients["robot-1"] = Lying(clients["robot-1"], change)
    with remote(clients) as lines:
        result = federate(lines, start(), timeout=ENOUGH, **SMALL)
    assert result.refused == {"robot-1": 3}
    assert all(match in each.refused["robot-1"] for each in result.rounds)
    others = crowd()
    del others["robot-1"]
    alone = federate(others, start(), **SMALL)
    assert (result.executor.vector() == alone.executor.vector()).all()


class Killed(BaseException):
    """What a kill does to a server: nothing of it goes on."""


class Killing:
    """`Clients` whose server is killed in a round, before or after it asked."""

    def __init__(self, inner: Remote, number: int, *, asked: bool) -> None:
        self._inner, self.names = inner, inner.names
        self._number, self._asked, self._rounds = number, asked, 0

    def ask(
        self, requests: Mapping[str, bytes], timeout: float | None
    ) -> Mapping[str, bytes | str]:
        self._rounds += 1
        if self._rounds == self._number and not self._asked:
            raise Killed
        found = self._inner.ask(requests, timeout)
        if self._rounds == self._number:
            raise Killed
        return found


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("mode", ["weights", "answers", "consensus"])
def test_a_server_that_was_killed_goes_on_as_if_it_had_not_been(
    tmp_path: Path, mode: Any, asked: bool
) -> None:
    """At a round's boundary, or once replies were under way; also where clients are drawn."""
    kept = tmp_path / "kept.round"

    def how() -> dict[str, Any]:
        some = {"min_train_nodes": 2, "min_evaluate_nodes": 2, "min_available_nodes": 2}
        strategy = FedAvg(fraction_train=0.5, **some)
        return {"mode": mode, "public": PUBLIC, "strategy": strategy, "seed": 3, **SMALL}

    with remote(crowd()) as lines:
        whole_run = federate(lines, start(), **how())
    with remote(crowd()) as lines:
        with suppress(Killed):
            federate(Killing(lines, 2, asked=asked), start(), keep=kept, **how())
        result = federate(lines, start(), keep=kept, **how())
        again = federate(lines, start(), keep=kept, **how())
    assert (result.executor.vector() == whole_run.executor.vector()).all()
    assert result.rounds == whole_run.rounds
    assert len({each.replied for each in result.rounds}) > 1
    # What is over is not done again.
    assert (again.executor.vector() == result.executor.vector()).all()
    assert again.rounds == result.rounds


def test_a_run_with_other_options_does_not_go_on(tmp_path: Path) -> None:
    """What was kept stays as it is."""
    kept = tmp_path / "kept.round"
    federate(crowd(), start(), keep=kept, **SMALL)
    before = kept.read_bytes()
    for changed in ({"steps": 21}, {"mode": "answers", "public": PUBLIC}, {"seed": 1}):
        with pytest.raises(ConfigError, match="Name another file"):
            federate(crowd(), start(), keep=kept, **{**SMALL, **changed})
    with pytest.raises(ConfigError, match="clients"):
        federate({"other": client(1)}, start(), keep=kept, **SMALL)
    assert kept.read_bytes() == before


class Programs:
    """The example's programs at a broker, and what they print."""

    def __init__(self, folder: Path, broker: Mosquitto) -> None:
        self._folder, self._broker = folder, broker
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def begin(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        """Start one."""
        with (self._folder / f"{name}.log").open("ab") as output:
            found = self.running[name] = subprocess.Popen(
                [sys.executable, str(EXAMPLE), *words, "--broker", self._broker.address],
                cwd=self._folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=output,
                stderr=output,
            )
        return found

    def said(self, name: str) -> str:
        """What one printed so far."""
        return (self._folder / f"{name}.log").read_text()

    def kill(self, name: str) -> None:
        """Kill one, as a loss of power does."""
        process = self.running.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait(ENOUGH)


@pytest.mark.needs("mosquitto")
def test_programs_of_their_own_over_a_broker_survive_kills(tmp_path: Path) -> None:
    """A device and the server are killed; the round goes on without the one, then with both."""
    pytest.importorskip("aiomqtt", reason="needs aiomqtt, of the extra mqtt")
    serve = ["serve", "--rounds", "20", "--labels", "64", "--keep", "kept.round"]
    serve += ["--patience", "2", "--timeout", str(ENOUGH)]
    with Mosquitto(tmp_path) as broker:
        programs = Programs(tmp_path, broker)
        try:
            for name in ("short", "usual", "long"):
                programs.begin(name, "join", name)
            programs.begin("server", *serve)
            wait_for(lambda: "round 1: short, usual, long" in programs.said("server"))
            programs.kill("long")
            wait_for(lambda: "without long: it is not connected" in programs.said("server"))
            programs.kill("server")
            programs.begin("long", "join", "long")
            wait_for(lambda: programs.said("long").count("long is there") == 2)
            server = programs.begin("server", *serve)
            assert server.wait(ENOUGH) == 0, programs.said("server")
        finally:
            for name in list(programs.running):
                programs.kill(name)
    said = programs.said("server")
    assert re.search(r"without long.*round \d+: short, usual, long replied", said, re.DOTALL), said
    assert "round 20: " in said
    assert load_executor(tmp_path / "poles.akd").architecture == "mlp:16"
