"""Flower as the engine: its strategies, and a `Grid` that is neither Ray nor a network.

It is the only module that imports Flower. Messages between server and clients are our own; Flower
sees the arrays that came of them.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

# Nothing that is used here sends telemetry; imported from here, Flower sends none at all.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"

from flwr.app import Array, ArrayRecord, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from agentkd.errors import ConfigError
from agentkd.types import Floats

Exchange = Callable[[Floats, Sequence[str]], Mapping[str, tuple[Floats, int] | str]]
"""Does a round: takes an array and clients; gives arrays and labels, or reasons, by client."""
_KEY = "numbers"
_REFUSED = 1
_OWN = {"server-round"}
"""What every strategy tells clients, which is told them otherwise."""
_NEEDS = ("min_available_nodes", "min_train_nodes")
_Grid: Any = Grid


class _Rounds(_Grid):  # type: ignore[misc]
    """Does a round for each batch of messages of a strategy. It is a `flwr.serverapp.Grid`."""

    def __init__(self, exchange: Exchange, names: Sequence[str], seed: int, begun: int) -> None:
        self._exchange, self._names = exchange, tuple(names)
        self._seed, self._done = seed, begun

    def set_run(self, run: Any) -> None:
        """Do nothing; there is one run only."""

    @property
    def run(self) -> Any:
        """There is none."""
        raise NotImplementedError

    def create_message(self, *_: Any, **__: Any) -> Any:
        """Strategies make their messages themselves."""
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Any]) -> Iterable[str]:
        """Strategies send and receive at once."""
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Any]:
        """As `push_messages`."""
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        """Return a number for each client, right before a strategy draws some of them."""
        # By the round, so that a run that goes on draws as one that was never interrupted.
        random.seed(f"{self._seed} {self._done}")
        return range(1, len(self._names) + 1)

    def send_and_receive(
        self, messages: Iterable[Any], *, timeout: float | None = None
    ) -> Iterable[Any]:
        """Do a round of training. Evaluation is not asked of clients: their returns stay there."""
        del timeout  # Flower's own default; `federate` has one
        asked = {each.metadata.dst_node_id: each for each in messages}
        training = [each.metadata.message_type == MessageType.TRAIN for each in asked.values()]
        if not any(training):
            return []
        content = next(iter(asked.values())).content
        told = {key for record in content.config_records.values() for key in record}
        if not told <= _OWN:
            raise ConfigError(
                f"The strategy tells clients {sorted(told - _OWN)}, which they do not know; take "
                "one that works on the server alone, such as FedAvg, FedMedian or MultiKrum."
            )
        (arrays,) = content.array_records.values()
        # In the clients' order, so that sums are the same with the same seed.
        names = {self._names[node - 1]: asked[node] for node in sorted(asked)}
        self._done += 1
        found = self._exchange(np.asarray(arrays[_KEY].numpy(), np.float32), tuple(names))
        return [_reply(message, found[name]) for name, message in names.items()]


def _reply(message: Any, found: tuple[Floats, int] | str) -> Any:
    if isinstance(found, str):
        return Message(error=Error(_REFUSED, found), reply_to=message)
    numbers, labels = found
    arrays = ArrayRecord({_KEY: Array(numbers)})
    content = {"arrays": arrays, "metrics": MetricRecord({"num-examples": labels})}
    return Message(content=RecordDict(content), reply_to=message)


def run(
    exchange: Exchange,
    initial: Floats,
    rounds: int,
    names: Sequence[str],
    strategy: Any = None,
    seed: int = 0,
    begun: int = 0,
) -> Floats | None:
    """Let a strategy of Flower's do some rounds.

    Args:
        exchange: Does a round.
        initial: The array to begin with, float32.
        rounds: How many are left.
        names: The clients.
        strategy: The strategy; None for FedAvg.
        seed: For which clients it draws, where it takes a part of them.
        begun: How many rounds are over.

    Returns:
        What the strategy made of the last round that had replies; None if none had.

    Raises:
        ConfigError: If the strategy does not fit.
    """
    if strategy is None:
        strategy = FedAvg(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)
    if not callable(getattr(strategy, "start", None)):
        raise ConfigError(
            f"strategy is a {type(strategy).__name__}; give one of flwr.serverapp.strategy."
        )
    inner = strategy
    while inner is not None:
        needed = max(getattr(inner, each, 0) for each in _NEEDS)
        if needed > len(names):
            # Flower would wait for them for ever.
            raise ConfigError(
                f"{type(inner).__name__} needs {needed} clients and there are {len(names)}: set "
                f"{' and '.join(_NEEDS)}."
            )
        inner = getattr(inner, "strategy", None)
    with _identity(), _quiet(), _drawing():
        arrays = ArrayRecord({_KEY: Array(initial)})
        result = strategy.start(
            grid=_Rounds(exchange, names, seed, begun), initial_arrays=arrays, num_rounds=rounds
        )
    if _KEY not in result.arrays:
        return None
    return np.asarray(result.arrays[_KEY].numpy(), np.float32)


@contextmanager
def _identity() -> Iterator[None]:
    """Give this process the numbers that a message of Flower's carries; Flower's own are private.

    Raises:
        ConfigError: If this Flower keeps them elsewhere.
    """
    names = ("_run_id", "_node_id", "_task_id")
    try:
        from flwr.supercore.task_identity import TaskIdentity

        before = {name: getattr(TaskIdentity, name) for name in names}
    except (ImportError, AttributeError) as error:
        from importlib.metadata import version

        raise ConfigError(
            f"flwr {version('flwr')} is not the one that agentkd knows ({error}): "
            'pip install "agentkd[federated]".'
        ) from error
    try:
        for name in names:
            setattr(TaskIdentity, name, 1)
        yield
    finally:
        for name, value in before.items():
            setattr(TaskIdentity, name, value)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Flower's account of its rounds out of the output; `federate` has its own."""
    log = logging.getLogger("flwr")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


@contextmanager
def _drawing() -> Iterator[None]:
    """Give the generator with which Flower draws clients back as it was."""
    before = random.getstate()
    try:
        yield
    finally:
        random.setstate(before)
