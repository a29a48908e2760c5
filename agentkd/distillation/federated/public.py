"""Public states, what executors answer there, and labels that are made of a consensus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from agentkd import dists
from agentkd.distillation.distiller import Distiller, DistillerOptions
from agentkd.distillation.sequences import links_of
from agentkd.errors import LoadError, SpecError
from agentkd.executors.executor import Executor, distribution
from agentkd.planners.ensemble import probabilities
from agentkd.spec import BoxSpec, DiscreteSpec, MultiBinarySpec, MultiDiscreteSpec, Spec
from agentkd.types import ActionDist, Bernoulli, Categorical, Floats, MultiCategorical, Point

_LEAST = 1e-6
"""The smallest probability that a consensus has."""


@final
class PublicStates:
    """States that server and clients both know, as episodes one after another.

    Attributes:
        obs: The observations, (states, obs).
        lengths: How many of them each episode has, (episodes,).
    """

    def __init__(self, obs: Floats, lengths: NDArray[np.int64]) -> None:
        """Check that the episodes are made of the observations.

        Raises:
            SpecError: If they are not, or there is no state.
        """
        wrong = (lengths < 1).any() or (lengths > len(obs)).any()  # a sum of large ones overflows
        if obs.ndim != 2 or not len(obs) or wrong or int(lengths.sum()) != len(obs):
            raise SpecError(
                f"Public states of {obs.shape} in episodes of {lengths.tolist()!r:.60}; "
                "(states, obs) is needed, and lengths that add up to the states."
            )
        if not np.isfinite(obs).all():
            raise SpecError("Public states hold NaN or infinity.")
        self.obs, self.lengths = obs, lengths

    @classmethod
    def of(cls, episodes: Floats | Sequence[Floats]) -> PublicStates:
        """Make them of episodes, (ticks, obs) each, or of one array."""
        several = [episodes] if isinstance(episodes, np.ndarray) else list(episodes)
        lengths = np.array([len(each) for each in several], np.int64)
        obs = np.concatenate(several) if several else np.zeros((0, 0))
        return cls(np.asarray(obs, np.float32), lengths)

    def answers(self, executor: Executor) -> Floats:
        """Return what an executor answers, (states, width): probabilities, or actions of boxes."""
        if executor.memory:
            cuts = np.cumsum(self.lengths)[:-1]
            outputs = np.concatenate([executor.follow(e) for e in np.split(self.obs, cuts)])
        else:
            outputs = executor.outputs(self.obs)
        dist = distribution(executor.head, outputs, executor.spec)
        return dist.action if isinstance(dist, Point) else probabilities(dist, None)

    def distil(
        self,
        consensus: Floats,
        executor: Executor,
        options: DistillerOptions,
        steps: int,
        span: tuple[float, float],
    ) -> Executor:
        """Distil a consensus, (states, width), into an executor; the arguments are as `learn`'s."""
        least = min(options.least, len(self.obs))
        distiller = Distiller(executor, replace(options, least=least, normalise=False))
        episodes = np.repeat(np.arange(len(self.lengths)), self.lengths)
        distiller.add(self.obs, _of_answers(consensus, executor.spec), links_of(episodes))
        return learn(distiller, executor, steps, span)


def learn(
    distiller: Distiller, executor: Executor, steps: int, span: tuple[float, float]
) -> Executor:
    """Take gradient steps from an executor's weights on; `span` is their part of the schedule.

    The optimiser goes on from its own state: begun anew in each round, Adam loses much of a round.
    """
    distiller.warm_start(executor.vector(), afresh=False)
    begin, end = span
    for step in range(steps):
        distiller.schedule(begin + (end - begin) * step / steps)
        distiller.step()
    return distiller.freeze(executor.version)


def answer_width(spec: Spec) -> int:
    """Return how many numbers an answer to one state has."""
    return dists.action_size(spec.action)


def check_answers(answers: Floats, spec: Spec) -> None:
    """Check that answers are probabilities, or actions within the bounds of their box.

    Raises:
        LoadError: If they are not.
    """
    low, high = np.zeros(1, np.float32), np.ones(1, np.float32)
    if isinstance(spec.action, BoxSpec):
        low, high = dists.bounds(spec.action)
        # A network that ends in a clip may answer beyond.
        margin = np.where(np.isfinite(high - low), high - low, np.float32(0.0))
        low, high = low - margin, high + margin
    slack = np.float32(1e-3)
    if not ((answers >= low - slack) & (answers <= high + slack)).all():
        raise LoadError(f"answers from {answers.min():.3g} to {answers.max():.3g}")


def _of_answers(answers: Floats, spec: Spec) -> ActionDist:
    """Return the distributions of which `answers` are, or are a mean or median."""
    action = spec.action
    if isinstance(action, BoxSpec):
        return Point(answers)
    some = np.clip(answers, _LEAST, 1.0).astype(np.float32)
    match action:
        case DiscreteSpec():
            return Categorical(np.log(some))
        case MultiDiscreteSpec(sizes):
            return MultiCategorical(np.log(some), sizes)
        case MultiBinarySpec():
            some = np.minimum(some, np.float32(1.0 - _LEAST))
            return Bernoulli(np.log(some) - np.log1p(-some))
