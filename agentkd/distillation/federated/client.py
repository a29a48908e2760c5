"""A client: a device with its own environment, planner and labels, which it keeps to itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, final

from agentkd.distillation.distiller import Distiller
from agentkd.distillation.engine import DistillerOptions
from agentkd.distillation.federated.messages import (
    Request,
    read_request,
    weights_of,
    with_normaliser,
    with_weights,
    write_reply,
)
from agentkd.distillation.federated.public import PublicStates, learn
from agentkd.distillation.moments import is_neutral, normaliser
from agentkd.distillation.sources import CollectionOptions, LocalSource, Source, longest
from agentkd.distillation.task import Task, open_task
from agentkd.errors import ConfigError
from agentkd.executors.executor import Executor
from agentkd.files import reason


class Clients(Protocol):
    """How the server reaches its clients; a transport over a network is another one of these."""

    @property
    def names(self) -> Sequence[str]:
        """The clients' names, always in the same order."""

    def ask(
        self, requests: Mapping[str, bytes], timeout: float | None
    ) -> Mapping[str, bytes | str]:
        """Send each client its request and wait for the replies, at most `timeout` seconds.

        Returns:
            By client, the bytes of its reply, or a text that says why there is none. A client that
            did not reply in time is missing.
        """


@final
class InMemory:
    """Clients in this process, asked one after another. It is a `Clients`.

    Args:
        clients: The clients by name.
    """

    def __init__(self, clients: Mapping[str, Client]) -> None:
        """Take the clients; the caller closes them."""
        self._clients = dict(clients)

    @property
    def names(self) -> Sequence[str]:
        """The clients' names."""
        return tuple(self._clients)

    def ask(
        self, requests: Mapping[str, bytes], timeout: float | None
    ) -> Mapping[str, bytes | str]:
        """Let each client answer; what one raises ends its round only."""
        del timeout  # they run in this thread
        found: dict[str, bytes | str] = {}
        for name, request in requests.items():
            try:
                found[name] = self._clients[name].answer(request)
            except Exception as error:  # a client's environment may raise anything
                found[name] = reason(error)
        return found


@final
class Client:
    """Distils its own planner in its own environment, round by round.

    Its labels stay here. What leaves is in `answer`'s reply: weights, or answers to public states.
    Unless the server gives a shared normaliser, the client keeps its own, of the labels of its
    first round; an executor that has one already keeps that.

    Args:
        source: Where its labels come from; `close` closes it.
        executor: What it begins with.
        options: How it learns. `normalise` has no meaning here.
        collection: Who drives.

    Attributes:
        executor: What it has learnt so far, with its own normaliser.
        labels: How many labels it has made.
    """

    def __init__(
        self,
        source: Source,
        executor: Executor,
        options: DistillerOptions | None = None,
        collection: CollectionOptions | None = None,
    ) -> None:
        """Begin without labels."""
        self.executor = executor
        self.labels = 0
        self._source, self._way = source, collection or CollectionOptions()
        self._options = replace(options or DistillerOptions(), normalise=False)
        self._distiller = Distiller(executor, self._options)
        self._public: PublicStates | None = None

    def answer(self, request: bytes) -> bytes:
        """Do a round: take what the server sent, collect, learn, and reply.

        Raises:
            LoadError: If the request is damaged or for another executor.
            AgentkdError: If environment or planner fail.
        """
        asked = read_request(request, self.executor)
        self._take(asked)
        before = self.labels
        self._collect(asked.labels)
        if is_neutral(self.executor):
            mean, scale = normaliser(self.executor, self._distiller.buffer.all()[0])
            self.executor = replace(self.executor, mean=mean, scale=scale)
        span = (asked.number - 1) / asked.rounds, asked.number / asked.rounds
        self.executor = learn(self._distiller, self.executor, asked.steps, span)
        made = min(asked.labels, self.labels - before)
        if not asked.answers:
            return write_reply(made, "weights", weights_of(self.executor))
        assert self._public is not None
        return write_reply(made, "answers", self._public.answers(self.executor))

    def own(self, shared: Executor) -> Executor:
        """Return the shared executor with this client's normaliser."""
        return replace(shared, mean=self.executor.mean, scale=self.executor.scale)

    def close(self) -> None:
        """Close the environments."""
        self._source.close()

    def _take(self, asked: Request) -> None:
        """Go on from what the server sent."""
        if asked.public is not None:
            self._public = asked.public
        if asked.normaliser is not None:
            self.executor = with_normaliser(self.executor, asked.normaliser)
        if asked.weights is not None:
            self.executor = with_weights(self.executor, asked.weights)
        public = self._public
        if (asked.answers or asked.consensus is not None) and public is None:
            raise ConfigError("The public states were not sent to this client.")
        if asked.consensus is not None and public is not None:
            begin = (asked.number - 1) / asked.rounds
            self.executor = public.distil(
                asked.consensus, self.executor, self._options, asked.steps, (begin, begin)
            )

    def _collect(self, labels: int) -> None:
        """Collect so many labels, or a few more where they come in batches."""
        options = self._distiller.options
        self._distiller.options = replace(options, least=min(options.least, labels))
        if self.labels:
            self._source.update(self.executor, self._way.share(self.labels))
        until = self.labels + labels
        while self.labels < until:
            for obs, dist, link in self._source.take():
                self._distiller.add(obs, dist, link)
                self.labels += len(obs)


def open_client(
    env: Any,
    planner: Any = None,
    executor: str | Path | Executor = "mlp:64,64",
    *,
    seed: int = 0,
    options: DistillerOptions | None = None,
    collection: CollectionOptions | None = None,
    **access: Any,
) -> Client:
    """Open a client: an environment and a planner that fit each other.

    Args:
        env: The environment, as `agentkd.distillation.open_task` takes it, or a `Task`.
        planner: The planner, as `open_task` takes it.
        executor: An architecture, or an executor or its file. Clients and server need the same one,
            except in the mode "consensus".
        seed: For resets, drivers and draws; give each client its own.
        options: How it learns; by default with this seed.
        collection: Who drives.
        access: Further options of `open_task`.

    Raises:
        ConfigError: If an option is invalid.
        LoadError: If the planner cannot be loaded.
        SpecError: If planner, executor and environment do not fit.
    """
    task = env if isinstance(env, Task) else open_task(env, planner, **access)
    way = collection or CollectionOptions()
    begun = task.executor(executor, seed)
    source = LocalSource(task.collector(way, seed), begun, ticks=longest(way.environments))
    return Client(source, begun, options or DistillerOptions(seed=seed), way)
