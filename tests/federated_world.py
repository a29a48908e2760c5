"""Clients of a small world without an environment: marked observations, and a rule for labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from agentkd import initial
from agentkd.distillation import DistillerOptions
from agentkd.distillation.federated import Client, Clients, InMemory
from agentkd.executors.executor import Executor
from agentkd.spec import ActionSpec, DiscreteSpec, ObsSpec, Part, Spec
from agentkd.types import Categorical, Floats, Labels, Point

MARK = np.float32(123.4567)
"""One number of each observation of each client, and so of their means."""
OBS = ObsSpec((Part("", "box", (3,), "float32"),))
CHOICES = Spec(OBS, DiscreteSpec(2))


def rule(obs: Floats) -> Categorical:
    """Choose by the sign of the last number."""
    return Categorical(np.stack([-4 * obs[:, 2], 4 * obs[:, 2]], axis=1))


def aim(obs: Floats) -> Point:
    """Answer a box of one action."""
    return Point(np.tanh(obs[:, 2:]))


class Marked:
    """A `Source` of random observations around `centre`, the first number of which is a mark."""

    restarts = dropped = 0

    def __init__(self, seed: int, spec: Spec = CHOICES, centre: float = 0.0) -> None:
        self.random = np.random.default_rng(seed)
        self.given: list[Floats] = []
        self.centre, self.answer = centre, rule if spec == CHOICES else aim

    def take(self) -> list[Labels]:
        obs = self.random.normal(self.centre, 1.0, (32, 3)).astype(np.float32)
        obs[:, 0] = MARK
        self.given.append(obs)
        return [
            Labels(
                obs,
                self.answer(obs - np.float32(self.centre)),
                (np.arange(32) > 0).astype(np.int32),
            )
        ]

    def update(self, executor: Executor, share: float) -> None:
        assert 0 <= share <= 1

    def returns(self) -> Sequence[float]:
        return ()

    def close(self) -> None:
        pass


class Recording:
    """`Clients` in memory of which every byte is kept, and whose replies may be changed."""

    def __init__(
        self, clients: Mapping[str, Client], change: Callable[[str, bytes], bytes | str | None]
    ) -> None:
        self.inner, self.change = InMemory(clients), change
        self.requests: list[bytes] = []
        self.replies: list[bytes] = []

    @property
    def names(self) -> Sequence[str]:
        return self.inner.names

    def ask(
        self, requests: Mapping[str, bytes], timeout: float | None
    ) -> Mapping[str, bytes | str]:
        self.requests += requests.values()
        replies = self.inner.ask(requests, timeout)
        self.replies += [each for each in replies.values() if isinstance(each, bytes)]
        found = {}
        for name, reply in replies.items():
            changed = reply if isinstance(reply, str) else self.change(name, reply)
            if changed is not None:
                found[name] = changed
        return found


def start(action: ActionSpec | None = None, architecture: str = "mlp:8", seed: int = 0) -> Executor:
    """An executor to begin with."""
    return initial(architecture, Spec(OBS, action or DiscreteSpec(2)), seed=seed)


def client(seed: int, executor: Executor | None = None, centre: float = 0.0) -> Client:
    """A client with its own labels."""
    begun = executor or start()
    options = DistillerOptions(seed=seed, batch=32, warmup=5)
    return Client(Marked(seed, begun.spec, centre), begun, options)


def marked(client: Client) -> Marked:
    """Where a client's labels come from."""
    source = client._source
    assert isinstance(source, Marked)
    return source


def secrets(clients: Mapping[str, Client]) -> list[bytes]:
    """What must not be in a message: each row of a client's, the mark, and the means."""
    found = [np.float32(MARK).tobytes(), np.float64(MARK).tobytes(), b"123.45"]
    for each in clients.values():
        rows = np.concatenate(marked(each).given)
        for kind in (np.float32, np.float64):
            # Two numbers in a row: four bytes alone occur by chance.
            found += [row[1:].astype(kind).tobytes() for row in rows]
            found.append(rows[:, 1:].mean(axis=0).astype(kind).tobytes())
    return found


def recorded(
    clients: Mapping[str, Client], change: Callable[[str, bytes], bytes | str | None] | None = None
) -> Recording:
    """Clients whose messages are kept."""
    found = Recording(clients, change or (lambda _, reply: reply))
    checked: Clients = found
    assert checked.names
    return found
