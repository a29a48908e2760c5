"""Policies of LeRobot and openpi as served planners: their chunks become rows of strategies."""

from __future__ import annotations

import runpy
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from websockets.sync.server import serve

from agentkd import dists
from agentkd.errors import ConfigError
from agentkd.planners import load_planner
from agentkd.planners.adapt import from_object
from agentkd.planners.remote.server import PlannerServer
from agentkd.spec import BoxSpec, ObsSpec, Part, Spec

EXAMPLES = Path(__file__).parents[1] / "examples"
ACTION = BoxSpec((-1.0,) * 2, (1.0,) * 2, (2,))
STATE = Part("observation/state", "box", (3,), "float32")
IMAGE = Part("observation/image", "box", (2, 2, 3), "uint8")
BOTH = Spec(ObsSpec((STATE, IMAGE), "dict"), ACTION)
ALONE = Spec(ObsSpec((Part("", "box", (3,), "float32"),)), ACTION)


def example(name: str) -> dict[str, Any]:
    """What an example defines."""
    return runpy.run_path(str(EXAMPLES / name))


def chunk_of(state: Any) -> Any:
    """The chunk that the stand-ins answer with: the state's first number, tick after tick."""
    return np.stack([np.full(2, 0.1 * tick, np.float32) + float(state[0]) for tick in range(4)])


def module(monkeypatch: pytest.MonkeyPatch, name: str, **held: Any) -> None:
    """Put a module in the place of one that may be missing."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        made = ModuleType(".".join(parts[:count]))
        monkeypatch.setitem(sys.modules, made.__name__, made)
    for key, value in held.items():
        setattr(sys.modules[name], key, value)


def served(policy: Any, spec: Spec) -> tuple[int, Any]:
    """The horizon, and the rows for two observations, as a robot gets them."""
    obs = np.zeros((2, spec.obs.size), np.float32)
    obs[:, 0] = (0.25, -0.5)
    with PlannerServer(from_object(policy, "it", spec)) as server:
        remote: Any = load_planner(server.address, spec).policy
        try:
            return remote.horizon, dists.mode(remote(obs), spec.action)
        finally:
            remote.interrupt()


@pytest.mark.parametrize("spec", [BOTH, ALONE])
def test_openpi_s_chunks_become_rows(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client is asked with openpi's keys, an image in bytes, and the prompt."""
    asked: list[dict[str, Any]] = []

    class Client:
        def __init__(self, host: str, port: int) -> None:
            assert (host, port) == ("10.0.0.7", 8000)

        def infer(self, observed: dict[str, Any]) -> dict[str, Any]:
            asked.append(observed)
            return {"actions": chunk_of(observed["observation/state"])}

    module(monkeypatch, "openpi_client.websocket_client_policy", WebsocketClientPolicy=Client)
    monkeypatch.setenv("OPENPI", "10.0.0.7:8000")
    monkeypatch.setenv("OPENPI_PROMPT", "fold")
    horizon, rows = served(example("openpi_planner.py")["planner"](spec), spec)
    assert horizon == 4
    wanted = np.concatenate([chunk_of([0.25]), chunk_of([-0.5])])
    np.testing.assert_allclose(rows, wanted, atol=1e-6)
    assert asked[-1]["prompt"] == "fold"
    assert asked[-1]["observation/state"].shape == (3,)
    if spec is BOTH:
        image = asked[-1]["observation/image"]
        assert (image.shape, image.dtype) == ((2, 2, 3), np.uint8)


@pytest.mark.parametrize("address", [None, "", "10.0.0.7", ":8000", "10.0.0.7:http"])
def test_openpi_s_server_has_to_be_named(
    address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what to set."""
    monkeypatch.delenv("OPENPI", raising=False)
    if address is not None:
        monkeypatch.setenv("OPENPI", address)
    with pytest.raises(ConfigError, match="HOST:PORT"):
        example("openpi_planner.py")["planner"](BOTH)


@contextmanager
def openpi_server() -> Iterator[int]:
    """A server that speaks as openpi's does: metadata first, then an answer to each question."""
    msgpack = pytest.importorskip("openpi_client.msgpack_numpy")

    def attend(connection: Any) -> None:
        connection.send(msgpack.packb({"name": "stand-in"}))
        for message in connection:
            state = msgpack.unpackb(message)["observation/state"]
            connection.send(msgpack.packb({"actions": chunk_of(state)}))

    with serve(attend, "127.0.0.1", 0, compression=None, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.socket.getsockname()[1]
        server.shutdown()
        thread.join()


# Its client has no end, and uses websockets as it was.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_openpi_s_own_client_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over its WebSocket, with its msgpack."""
    pytest.importorskip("openpi_client")
    with openpi_server() as port:
        monkeypatch.setenv("OPENPI", f"127.0.0.1:{port}")
        horizon, rows = served(example("openpi_planner.py")["planner"](BOTH), BOTH)
    assert horizon == 4
    np.testing.assert_allclose(rows[:4], chunk_of([0.25]), atol=1e-6)


class Act:
    """What the example uses of a LeRobot policy; it answers in its own units, tenths."""

    def __init__(self, kept: int = 1) -> None:
        self.config = SimpleNamespace(type="act", n_obs_steps=kept)
        self.asked: list[dict[str, Any]] = []

    def eval(self) -> Act:
        """Nothing drops out."""
        return self

    def predict_action_chunk(self, batch: dict[str, Any]) -> torch.Tensor:
        """(batch, ticks, numbers)."""
        self.asked.append(batch)
        return torch.from_numpy(10 * chunk_of(batch["observation.state"][0]))[None]


def lerobot(monkeypatch: pytest.MonkeyPatch, policy: Act) -> None:
    """A stand-in for the library; its processors divide and multiply."""

    def from_pretrained(path: str) -> Any:
        assert path == "some/act"
        return policy

    def processors(config: Any, pretrained_path: str) -> Any:
        assert (config, pretrained_path) == (policy.config, "some/act")

        def after(action: torch.Tensor) -> torch.Tensor:
            assert action.shape == (1, 2)
            return action / 10

        return lambda observed: observed, after

    config = SimpleNamespace(from_pretrained=lambda _: policy.config)
    module(monkeypatch, "lerobot.configs.policies", PreTrainedConfig=config)
    module(
        monkeypatch,
        "lerobot.policies.factory",
        get_policy_class=lambda kind: SimpleNamespace(from_pretrained=from_pretrained),
        make_pre_post_processors=processors,
    )
    monkeypatch.setenv("LEROBOT_POLICY", "some/act")
    monkeypatch.setenv("LEROBOT_TASK", "fold")


def test_a_lerobot_policy_s_chunks_become_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked with LeRobot's keys, images from 0 to 1, and its answers get their units."""
    parts = (
        Part("observation.state", "box", (3,), "float32"),
        Part("observation.images.front", "box", (4, 2, 3), "uint8"),
    )
    spec, policy = Spec(ObsSpec(parts, "dict"), ACTION), Act()
    lerobot(monkeypatch, policy)
    horizon, rows = served(example("lerobot_planner.py")["planner"](spec), spec)
    assert horizon == 4
    wanted = np.concatenate([chunk_of([0.25]), chunk_of([-0.5])])
    np.testing.assert_allclose(rows, wanted, atol=1e-6)
    image = policy.asked[-1]["observation.images.front"]
    assert (image.shape, image.dtype) == ((1, 3, 4, 2), torch.float32)
    assert policy.asked[-1]["observation.state"].shape == (1, 3)
    assert policy.asked[-1]["task"] == "fold"


def test_a_lerobot_policy_that_keeps_observations_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A queue of observations would be of several robots, and of ticks with gaps."""
    lerobot(monkeypatch, Act(kept=2))
    with pytest.raises(ConfigError, match="keeps 2 observations"):
        example("lerobot_planner.py")["planner"](ALONE)
