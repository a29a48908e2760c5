"""Several planners as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agentkd.dists import unsquash
from agentkd.errors import ConfigError, SpecError
from agentkd.spec import ActionSpec, BoxSpec, MultiBinarySpec, MultiDiscreteSpec, Spec
from agentkd.types import (
    ActionDist,
    Bernoulli,
    Categorical,
    Floats,
    Gaussian,
    MultiCategorical,
    Point,
    Policy,
    QValues,
    SquashedGaussian,
)

_TINY = np.float32(1e-8)
_LEAST_STD = np.float32(1e-3)

Doubles = NDArray[np.float64]


def _softmax(logits: Floats) -> Floats:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: Floats = raised / raised.sum(axis=1, keepdims=True)
    return result


def blocks(probability: Floats, action: ActionSpec) -> list[Floats]:
    """Split probabilities into one distribution over choices after another."""
    if isinstance(action, MultiDiscreteSpec):
        return list(np.split(probability, np.cumsum(action.sizes)[:-1], axis=1))
    if isinstance(action, MultiBinarySpec):
        columns = np.split(probability, action.n, axis=1)
        return [np.concatenate([1.0 - yes, yes], axis=1) for yes in columns]
    return [probability]


def probabilities(dist: ActionDist, temperature: float | None) -> Floats:
    """The probabilities of a distribution over choices, side by side.

    The temperature divides the logits or values. None is 1 for logits, and for values their own
    standard deviation over the choices, row by row, so that the units of the return do not matter.

    Raises:
        SpecError: If it is a distribution over boxes.
    """
    heat = np.float32(temperature or 1.0)
    match dist:
        case Categorical(logits):
            return _softmax(logits / heat)
        case QValues(values):
            spread = values.std(axis=1, keepdims=True) + _TINY
            return _softmax(values / (spread if temperature is None else heat))
        case MultiCategorical(logits, sizes):
            pieces = np.split(logits / heat, np.cumsum(sizes)[:-1], axis=1)
            return np.concatenate([_softmax(each) for each in pieces], axis=1)
        case Bernoulli(logits):
            # Without overflow.
            return np.asarray(0.5 * (np.tanh(0.5 * logits / heat) + 1.0), np.float32)
    raise SpecError(f"{type(dist).__name__} and choices cannot be members of one.")


def _in_units(dist: ActionDist, action: ActionSpec) -> tuple[Floats, Floats]:
    """Mean and variance in the environment's units; through tanh by its slope."""
    match dist:
        case Point(point):
            return point, np.zeros_like(point)
        case Gaussian(mean, log_std):
            return mean, np.exp(2.0 * log_std)
        case SquashedGaussian(mean, log_std):
            bent = np.tanh(mean)
            one = np.ones_like(bent)
            half = 0.5 * (unsquash(one, action) - unsquash(-one, action))
            slope = (1.0 - np.square(bent)) * half
            return unsquash(bent, action), np.square(slope) * np.exp(2.0 * log_std)
    raise SpecError(f"{type(dist).__name__} and boxes cannot be members of one.")


Moments = Sequence[tuple[Floats, Floats]]
"""A mean and a variance of each member, (batch, d) each."""


def matched(moments: Moments, weights: Floats) -> tuple[Floats, Floats]:
    """Mean and variance of the mixture: the means' spread adds to the variances.

    μ = Σ w μₖ and σ² = Σ w (σₖ² + μₖ²) - μ², the Gaussian nearest to the mixture in KL. The
    weights, (members,), have a sum of 1.
    """
    means, variances = _stacked(moments)
    mean = np.einsum("k,kbd->bd", weights, means)
    spread = np.einsum("k,kbd->bd", weights, variances + np.square(means - mean))
    return mean.astype(np.float32), spread.astype(np.float32)


def _average(each: Sequence[Floats], weights: Floats) -> Floats:
    result: Floats = np.einsum("k,k...->...", weights, np.stack(each), dtype=np.float32)
    return result


def _stacked(moments: Moments) -> tuple[Doubles, Doubles]:
    means = np.stack([mean for mean, _ in moments]).astype(np.float64)
    variances = [np.broadcast_to(var, means.shape[1:]) for _, var in moments]
    return means, np.stack(variances).astype(np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Ensemble:
    """Several policies as one. It is a `Policy`, and `Disagreeing`.

    Choices: the mean of the members' probabilities, so that members with logits and members with
    values mix. Boxes: one Gaussian, of the mixture's moments; before tanh where every member is a
    squashed Gaussian.

    Attributes:
        members: The policies.
        spec: The environment.
        temperatures: One for each member; None, or None in a place, for its own.
        weights: How much each member counts; None for all alike.
    """

    members: tuple[Policy, ...]
    spec: Spec
    temperatures: tuple[float | None, ...] | None = None
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Check that there are members, without memory, and numbers for each."""
        if not self.members:
            raise ConfigError("An ensemble needs at least one planner.")
        if any(hasattr(member, "initial_state") for member in self.members):
            raise ConfigError("A recurrent planner cannot be a member of an ensemble.")
        for given, what in ((self.temperatures, "temperatures"), (self.weights, "weights")):
            if given is not None and len(given) != len(self.members):
                raise ConfigError(f"{len(given)} {what} for {len(self.members)} members.")
            if any(each is not None and not 0 < each < np.inf for each in given or ()):
                raise ConfigError(f"The {what} must be above 0; they are {given}.")

    def __call__(self, obs: Floats, /) -> ActionDist:
        """Give the action distribution for flat observations (batch, size)."""
        return self._together([member(obs) for member in self.members])

    def disagreement(self, obs: Floats, /) -> Floats:
        """How far the members are apart, for each observation, shape (batch,).

        Choices: the mutual information between the action and the member, in nats, between 0 and
        the logarithm of how many members there are, summed over the choices. Boxes: the standard
        deviation of the members' mean actions, in the environment's units, averaged over the
        dimensions.
        """
        return self._apart([member(obs) for member in self.members])

    def answer_and_disagreement(self, obs: Floats, /) -> tuple[ActionDist, Floats]:
        """Give answer and disagreement, asking each member once."""
        found = [member(obs) for member in self.members]
        return self._together(found), self._apart(found)

    def _weights(self) -> Floats:
        given = self.weights or (1.0,) * len(self.members)
        return np.asarray(given, np.float32) / np.float32(sum(given))

    def _probabilities(self, found: Sequence[ActionDist]) -> list[Floats]:
        heats = self.temperatures or (None,) * len(self.members)
        return [probabilities(dist, heat) for dist, heat in zip(found, heats, strict=True)]

    def _together(self, found: Sequence[ActionDist]) -> ActionDist:
        action = self.spec.action
        if isinstance(action, BoxSpec):
            return self._continuous(found, action)
        each = self._probabilities(found)
        mean = np.clip(_average(each, self._weights()), _TINY, 1.0)
        if isinstance(action, MultiDiscreteSpec):
            return MultiCategorical(np.log(mean), action.sizes)
        if isinstance(action, MultiBinarySpec):
            no = np.clip(1.0 - mean, _TINY, 1.0)
            return Bernoulli(np.log(mean) - np.log(no))
        return Categorical(np.log(mean))

    def _continuous(self, found: Sequence[ActionDist], box: BoxSpec) -> ActionDist:
        squashed = [each for each in found if isinstance(each, SquashedGaussian)]
        if len(squashed) == len(found):
            pairs = [(each.mean, np.exp(2.0 * each.log_std)) for each in squashed]
            mean, variance = matched(pairs, self._weights())
            return SquashedGaussian(mean, 0.5 * np.log(variance + _TINY))
        mean, variance = matched([_in_units(each, box) for each in found], self._weights())
        return Gaussian(mean, np.log(np.sqrt(variance) + _LEAST_STD))

    def _apart(self, found: Sequence[ActionDist]) -> Floats:
        action, weights = self.spec.action, self._weights()
        if isinstance(action, BoxSpec):
            means = [_in_units(each, action)[0] for each in found]
            moments = [(mean, np.zeros_like(mean)) for mean in means]
            spread: Floats = np.sqrt(matched(moments, weights)[1])
            return np.asarray(spread.mean(axis=1), np.float32)
        each = [blocks(p, action) for p in self._probabilities(found)]
        total: Floats = np.zeros(len(each[0][0]), np.float32)
        for block in zip(*each, strict=True):
            single = _average([entropy(p) for p in block], weights)
            total = total + (entropy(_average(block, weights)) - single)
        return np.maximum(total, np.float32(0.0))


def entropy(probability: Floats) -> Floats:
    """The entropy of each row of probabilities (batch, n), in nats: (batch,)."""
    kept = np.clip(probability, _TINY, 1.0)
    result: Floats = -(kept * np.log(kept)).sum(axis=1)
    return result
