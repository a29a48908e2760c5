"""Rounds of federated distillation: what the server sends, what it takes and what it learns."""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, final, get_args

import numpy as np

from agentkd.distillation.engine import DistillerOptions
from agentkd.distillation.federated.client import Client, Clients, InMemory
from agentkd.distillation.federated.kept import Kept, Round, read_kept, write_kept
from agentkd.distillation.federated.messages import (
    Request,
    form_of,
    read_reply,
    weights_of,
    with_weights,
    write_request,
)
from agentkd.distillation.federated.public import PublicStates
from agentkd.distillation.moments import is_neutral, normaliser
from agentkd.errors import AgentkdError, ConfigError, LoadError, check_range, did_you_mean
from agentkd.executors.executor import Executor
from agentkd.extras import needing
from agentkd.printable import logger
from agentkd.types import Floats
from agentkd.views import pick

log = logger(__name__)

Mode = Literal["weights", "answers", "consensus"]
Normaliser = Literal["personal", "shared"]
_LATE = "it did not reply in time"


@dataclass(frozen=True, slots=True)
class Federated:
    """The result of a federated distillation.

    Attributes:
        executor: The shared executor. Its normaliser is that of public states, or of the executor
            that was given. Without either it has none, and needs a device's own: `Client.own`.
        rounds: What happened in each round.
    """

    executor: Executor
    rounds: tuple[Round, ...]

    @property
    def refused(self) -> Mapping[str, int]:
        """In how many rounds each client was refused; only those that were."""
        return Counter(name for each in self.rounds for name in each.refused)

    @property
    def sent(self) -> int:
        """Bytes sent to clients in all."""
        return sum(each.sent for each in self.rounds)

    @property
    def received(self) -> int:
        """Bytes received from clients in all."""
        return sum(each.received for each in self.rounds)


def federate(
    clients: Clients | Mapping[str, Client],
    executor: Executor,
    *,
    mode: Mode = "weights",
    rounds: int = 10,
    labels: int = 2000,
    steps: int = 300,
    strategy: Any = None,
    normaliser: Normaliser = "personal",
    public: Floats | Sequence[Floats] | None = None,
    seed: int = 0,
    options: DistillerOptions | None = None,
    timeout: float | None = None,
    watch: Callable[[Round, Executor], None] | None = None,
    keep: str | Path | None = None,
) -> Federated:
    """Distil the planners of many devices into one executor; their observations stay with them.

    In each round every client collects labels from its own planner in its own environment and
    learns from them. Then it replies, and Flower's strategy makes one of the replies.

    * "weights": the server sends the shared weights, clients learn from there and send theirs back
      (McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized
      Data").
    * "answers": clients send their executors' action distributions on public states; the server
      distils what the strategy makes of them into the shared executor, whose weights go back. So
      does FedDF (Lin et al. 2020, "Ensemble Distillation for Robust Model Fusion in Federated
      Learning"), in which clients send weights and the server makes the answers.
    * "consensus": that consensus goes back instead of weights, and each client distils it into its
      own executor, which may have any architecture: FedHPD (arXiv 2502.00870).

    Args:
        clients: The clients by name, or how to reach them.
        executor: What to begin with. Its architecture is that of the clients.
        mode: What is exchanged.
        rounds: How many rounds.
        labels: Labels that each client collects in a round.
        steps: Gradient steps that each client takes in a round; on a consensus as many again, and
            as many the server.
        strategy: A strategy of `flwr.serverapp.strategy` that aggregates: FedAvg, FedMedian,
            FedTrimmedAvg, Krum, MultiKrum, … FedAvg if it is None.
        normaliser: "personal", each client its own, and weights are shared in normalised
            coordinates; or "shared", that of `executor`, or of the public states where it has none.
        public: Public states: an array (states, obs), or episodes (ticks, obs) for executors with a
            memory. They are sent to all clients.
        seed: For the server's draws.
        options: How the server learns a consensus.
        timeout: Seconds that a round may take; a client that is later is counted as refused.
        watch: Called after each round, with the shared executor as it is then.
        keep: A file in which the end of each round is kept. If it is there, its run goes on: the
            round that a kill interrupted is done again, and with the same options and replies the
            result is the same. A strategy that remembers rounds, such as FedAdam, forgets them.

    Returns:
        The shared executor, and who replied, who was refused and why, and the bytes of each round.
        A reply that is damaged, of another shape, NaN, infinite or huge is refused; the round goes
        on with the others, and without any the former executor stays.

    Raises:
        ConfigError: If an option is invalid, Flower is missing or of another version, the strategy
            needs more clients than there are, or `keep` is of a run with other options.
        LoadError: If `keep` is damaged.
        WriteError: If it cannot be written.
        AgentkdError: If no reply of any round could be used.
    """
    known = clients if not isinstance(clients, Mapping) else InMemory(clients)
    for name, value in (("rounds", rounds), ("labels", labels), ("steps", steps)):
        check_range(name, value, least=1, whole=True)
    for choice, named, words in (
        (mode, "mode", get_args(Mode)),
        (normaliser, "normaliser", get_args(Normaliser)),
    ):
        if choice not in words:
            raise ConfigError(f"{named} is {choice!r}.{did_you_mean(choice, words)}")
    if not known.names:
        raise ConfigError("There are no clients.")
    states = None
    if public is not None:
        whole = PublicStates.of(public)
        states = PublicStates(pick(executor.spec.obs, whole.obs), whole.lengths)
    if states is None and mode != "weights":
        raise ConfigError(f"mode={mode!r} needs public states: give public=.")
    with needing("federate"):
        from agentkd.distillation.federated import grid
    server = _Server(
        known,
        _begun(executor, states, normaliser),
        options or DistillerOptions(seed=seed),
        Request(1, rounds, labels, steps, answers=mode != "weights", run=secrets.randbits(62)),
        mode,
        normaliser,
        states,
        timeout,
        watch,
        None if keep is None else Path(keep),
    )
    begin = server.resume(strategy, seed)
    done = len(server.rounds)
    final: Floats | None = begin
    if done < rounds:
        final = grid.run(server.exchange, begin, rounds - done, known.names, strategy, seed, done)
    if final is None:
        reasons = "; ".join(f"{k}: {v}" for k, v in server.rounds[-1].refused.items())
        raise AgentkdError(f"No client's reply could be used: {reasons}")
    server.keep(final)
    shared = server.learnt(final, rounds)
    if watch is not None:
        watch(server.rounds[-1], shared)
    return Federated(replace(shared, version=executor.version + rounds), tuple(server.rounds))


def _begun(executor: Executor, states: PublicStates | None, choice: Normaliser) -> Executor:
    """Return the executor to begin with, with a normaliser where there is one."""
    if states is not None and is_neutral(executor):
        mean, scale = normaliser(executor, states.obs)
        return replace(executor, mean=mean, scale=scale)
    if choice == "shared" and is_neutral(executor):
        raise ConfigError(
            "The executor has no normaliser to share: give public states, an executor that was "
            'distilled before, or normaliser="personal".'
        )
    return executor


@final
@dataclass(slots=True)
class _Server:
    """The shared executor and what is sent of it."""

    clients: Clients
    executor: Executor
    options: DistillerOptions
    task: Request
    mode: Mode
    normaliser: Normaliser
    public: PublicStates | None
    timeout: float | None
    watch: Callable[[Round, Executor], None] | None
    kept: Path | None = None
    rounds: list[Round] = field(default_factory=list)
    _told: set[str] = field(default_factory=set)
    """Who knows the public states."""
    _agreed: bool = False
    """Whether there is a consensus."""
    _same: dict[str, Any] = field(default_factory=dict)
    """What has to be the same for a run to go on."""

    def resume(self, strategy: Any, seed: int) -> Floats:
        """Return what the strategy goes on from: what was kept, or what it begins with."""
        numbers = self._initial()
        if self.kept is None:
            return numbers
        task, public = self.task, b"" if self.public is None else self.public.obs.tobytes()
        self._same = {
            "mode": self.mode,
            "rounds": task.rounds,
            "labels": task.labels,
            "steps": task.steps,
            "strategy": "FedAvg" if strategy is None else type(strategy).__name__,
            "normaliser": self.normaliser,
            "seed": seed,
            "clients": list(self.clients.names),
            "executor": form_of(self.executor).tobytes().hex(),
            "public": hashlib.sha256(public).hexdigest()[:16],
        }
        size = len(self.executor.vector())
        found = read_kept(self.kept, self._same, numbers.shape, size)
        if found is None:
            return numbers
        log.info("%s: going on after round %d.", self.kept, len(found.rounds))
        self.task = replace(task, run=found.run)
        self.executor = self.executor.with_vector(found.vector, self.executor.version)
        self.rounds, self._told, self._agreed = list(found.rounds), set(found.told), found.agreed
        return found.numbers

    def keep(self, numbers: Floats) -> None:
        """Keep what the strategy made of the last round, before anything is learnt from it."""
        if self.kept is not None:
            kept = Kept(
                self.task.run,
                numbers,
                self.executor.vector(),
                tuple(self.rounds),
                frozenset(self._told),
                self._agreed,
            )
            write_kept(self.kept, kept, self._same)

    def _initial(self) -> Floats:
        """Return what the strategy begins with."""
        if self.public is not None and self.mode != "weights":
            return self.public.answers(self.executor)
        return weights_of(self.executor)

    def learnt(self, numbers: Floats, number: int) -> Executor:
        """Make the shared executor of what came of a round: weights, or a consensus."""
        if self.mode == "weights":
            self.executor = with_weights(self.executor, numbers)
        elif self._agreed and self.public is not None:
            span = (number - 1) / self.task.rounds, number / self.task.rounds
            self.executor = self.public.distil(
                numbers, self.executor, self.options, self.task.steps, span
            )
        return self.executor

    def exchange(
        self, numbers: Floats, names: Sequence[str]
    ) -> Mapping[str, tuple[Floats, int] | str]:
        """Do a round with some clients.

        Args:
            numbers: What the strategy made of the round before.
            names: The clients that it chose.

        Returns:
            What each client replied and how many labels it learnt, or why that is refused.
        """
        self.keep(numbers)
        number = len(self.rounds) + 1
        shared = self.learnt(numbers, number - 1)
        if self.watch is not None and self.rounds:
            self.watch(self.rounds[-1], shared)
        requests, raw = {}, {}
        for name in names:
            requests[name] = self._request(number, numbers, name)
            raw[name] = write_request(requests[name], shared)
        replies = self.clients.ask(raw, self.timeout)
        found: dict[str, tuple[Floats, int] | str] = {}
        good, refused, received = list[str](), dict[str, str](), 0
        states = 0 if self.public is None else len(self.public.obs)
        for name in names:
            reply = replies.get(name, _LATE)
            received += len(reply) if isinstance(reply, bytes) else 0
            try:
                found[name] = (
                    reply
                    if isinstance(reply, str)
                    else read_reply(reply, shared, requests[name], states, name)
                )
            except LoadError as error:
                found[name] = str(error)
            if isinstance(why := found[name], str):
                refused[name] = why
                log.warning("Round %d goes on without %s: %s", number, name, why)
            else:
                good.append(name)
        # A client that failed may have been started anew.
        self._told = (self._told | set(good)) - set(refused)
        self._agreed = self._agreed or bool(good)
        sent = sum(map(len, raw.values()))
        self.rounds.append(Round(number, tuple(good), refused, sent, received))
        return found

    def _request(self, number: int, numbers: Floats, name: str) -> Request:
        """Return what a client is asked for."""
        shared, sends_weights = self.executor, self.mode != "consensus"
        return replace(
            self.task,
            number=number,
            weights=weights_of(shared) if sends_weights else None,
            normaliser=(
                np.concatenate([shared.mean, shared.scale]) if self.normaliser == "shared" else None
            ),
            public=self.public if self.task.answers and name not in self._told else None,
            consensus=numbers if self.mode == "consensus" and self._agreed else None,
        )
