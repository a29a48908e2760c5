"""The words of agentkd as types: action distributions, strategies, decisions, policies.

All values are frozen; functions on them live in `agentkd.dists`. Arrays are batched, (batch, …),
and float32. This module needs NumPy only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Actions = NDArray[Any]
"""Batched actions in the environment's own units and dtype."""


@dataclass(frozen=True, slots=True)
class Categorical:
    """One choice out of n: unnormalised log-probabilities, shape (batch, n)."""

    logits: Floats


@dataclass(frozen=True, slots=True)
class QValues:
    """One choice out of n by action values, shape (batch, n), in units of return.

    It becomes a distribution only with a temperature, which the distiller chooses from the gap
    between the best two values.
    """

    values: Floats


@dataclass(frozen=True, slots=True)
class MultiCategorical:
    """Several choices: the logits of all of them side by side, (batch, sum(sizes))."""

    logits: Floats
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Bernoulli:
    """Several yes/no choices: the log-odds of yes, shape (batch, n)."""

    logits: Floats


@dataclass(frozen=True, slots=True)
class Gaussian:
    """A diagonal Gaussian in the environment's units, both (batch, d).

    An action is clipped to the bounds of its box.
    """

    mean: Floats
    log_std: Floats


@dataclass(frozen=True, slots=True)
class SquashedGaussian:
    """A diagonal Gaussian before tanh, both (batch, d).

    tanh brings it to [-1, 1], and the bounds of the box to the environment's units.
    """

    mean: Floats
    log_std: Floats


@dataclass(frozen=True, slots=True)
class Point:
    """Exactly this action, in the environment's units, shape (batch, d)."""

    action: Floats


ActionDist = (
    Categorical | QValues | MultiCategorical | Bernoulli | Gaussian | SquashedGaussian | Point
)

Kind = Literal[
    "categorical", "qvalues", "multicategorical", "bernoulli", "gaussian", "squashed", "point"
]


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch of distributions of one kind as it travels; `agentkd.dists` says how rows lie."""

    kind: Kind
    rows: Floats


AnyDist = ActionDist | Packed

State = tuple[Floats, ...]
"""A recurrent policy's memory; each array is (batch, …)."""


@runtime_checkable
class Policy(Protocol):
    """Planner, executor, ensemble, remote, ONNX session, compiled C: one type."""

    def __call__(self, obs: Floats, /) -> ActionDist:
        """Answer for a batch of observations, shape (batch, size)."""


@runtime_checkable
class RecurrentPolicy(Protocol):
    """A policy with an explicit memory; resetting it is the caller's, row by row."""

    def initial_state(self, batch: int) -> State:
        """Give the memory that an episode starts with."""

    def __call__(self, obs: Floats, state: State, /) -> tuple[ActionDist, State]:
        """Answer for a batch of observations and give the memory that follows."""


class Labels(NamedTuple):
    """Observations with the planner's answers, in the order in which they came.

    Attributes:
        obs: (batch, obs).
        dist: The planner's answers; packed where they come from another process.
        link: How many labels before it the one of the tick before came, (batch,); 0 where there is
            none, and a memory begins afresh. None where it is unknown.
    """

    obs: Floats
    dist: AnyDist
    link: NDArray[np.int32] | None = None


@runtime_checkable
class GuidingPolicy(Protocol):
    """A policy whose answers may be more than distributions."""

    def __call__(self, obs: Floats, /) -> ActionDist | Guidance:
        """Answer for a batch of observations, shape (batch, size)."""


@runtime_checkable
class AnytimePolicy(Protocol):
    """A policy that has a first answer soon, and a better one the longer it thinks."""

    def __call__(self, obs: Floats, /) -> ActionDist | Guidance:
        """Answer for a batch of observations, shape (batch, size), thinking it over."""

    def improve(self, obs: Floats, /) -> Iterator[ActionDist | Guidance]:
        """Answer one observation, (1, size), again and again; the last answer counts.

        It is left in the middle when the episode that it thinks about is over.
        """


@runtime_checkable
class Disagreeing(Protocol):
    """A policy of several minds, which can tell how far they are apart."""

    def disagreement(self, obs: Floats, /) -> Floats:
        """Give a number from 0 up for each observation (batch, size): (batch,)."""


class DistillerLike(Protocol):
    """Whatever turns labels into executor weights."""

    def add(self, obs: Floats, dist: AnyDist, /) -> None:
        """Take labels: observations (batch, size) and the planner's answer to them.

        Of an executor with a stack or a delay they are what it was shown
        (`agentkd.executors.past.Window`). `agentkd.dists.opened` makes a distribution of it.
        """

    def step(self) -> Mapping[str, float]:
        """Learn for some milliseconds; gives numbers to show, {} for nothing to do."""

    def snapshot(self) -> Floats | None:
        """Return the executor's numbers as `Executor.vector` lays them out.

        None if they should not replace the executor that acts.
        """


@runtime_checkable
class Gated(Protocol):
    """A distiller that compares its weights with the executor that acts."""

    def follow(self, weights: Floats | None, /) -> None:
        """Take note of an executor that acts and is not from `snapshot`; go on from it.

        It is told at the start, and after a swap or rollback that the distiller did not cause. The
        weights are laid out as by `Executor.vector`; None is an executor of another architecture.
        """

    def refused(self) -> Mapping[str, int]:
        """Return how many snapshots were refused, by reason."""


@runtime_checkable
class Noticing(Protocol):
    """A distiller that notices when the planner's labels are of another world than before."""

    def changes(self) -> Mapping[str, int]:
        """Return how often the world changed: to a "new" one, "back" to an earlier one."""


@dataclass(frozen=True, slots=True)
class Guidance:
    """A planner's answer that is more than a distribution.

    Attributes:
        rows: As many rows of the action distribution for each observation as the planner's horizon,
            or None where it gives goals only.
        goal: A vector for each observation that conditions the executor, (batch, size), or None.
        expected: What the planner expects to be observed at each row's tick, (batch · horizon,
            obs), or None.
    """

    rows: AnyDist | None = None
    goal: Floats | None = None
    expected: Floats | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Strategy:
    """What a planner hands the runtime: rows for the ticks `obs_tick + k`, k = 0, 1, ….

    Attributes:
        id: The number of the request that it answers.
        episode: The episode it belongs to; a reset begins a new one.
        obs_tick: The tick that row 0 is for: that of the observation, or the one that it was rolled
            forward to.
        ready_tick: The tick at which it arrived.
        valid_until: The last tick that it may serve.
        rows: One row of the action distribution for each tick, or None.
        goal: A vector that conditions the executor, shape (1, size), or None.
        partial: Whether the planner was still improving it.
        expected: What the planner expects to be observed at each row's tick, (rows, obs), or None.
        doubt: How far the planner's members were apart; NaN if it has none.
        actions: The most probable action of each row, (rows, …); None without rows.
        start: The first tick that it may serve.
        origin: The tick of the observation.
        part: Counts the answers to one request.
        assumed: The actions that the planner counted on from `origin` to the tick of row 0, flat;
            one more where the executor acts: its own at that tick.
        predicted: The observation that row 0 is for, (obs,), if it was predicted.
    """

    id: int
    episode: int
    obs_tick: int
    ready_tick: int
    valid_until: int
    rows: ActionDist | None
    goal: Floats | None = None
    partial: bool = False
    expected: Floats | None = None
    doubt: float = math.nan
    actions: Any = None
    start: int = 0
    origin: int = 0
    part: int = 0
    assumed: Floats | None = None
    predicted: Floats | None = None

    @property
    def horizon(self) -> int:
        """How many rows it has."""
        return 0 if self.actions is None else len(self.actions)


Source = Literal["strategy", "executor", "hold", "default"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What was done at a tick, by whom, and why.

    Attributes:
        action: In the environment's units; an int for Discrete, else an array.
        source: Who decided.
        reason: Why it was this source, in one word ("fresh", "late", "nan", …).
        tick: The tick's index since the clock started.
        version: The executor's version that stood by at that tick.
        latency: Seconds from the observation's arrival to the action.
    """

    action: Any
    source: Source
    reason: str
    tick: int
    version: int
    latency: float
