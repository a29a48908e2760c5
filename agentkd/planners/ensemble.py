"""Several planners as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agentkd.dists import unsquash
from agentkd.errors import ConfigError, SpecError
from agentkd.planners.network import sigmoid
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


def _softmax(logits: Floats) -> Floats:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: Floats = raised / raised.sum(axis=1, keepdims=True)
    return result


def _blocks(probability: Floats, action: ActionSpec) -> list[Floats]:
    """Split probabilities into one distribution over choices after another."""
    if isinstance(action, MultiDiscreteSpec):
        return list(np.split(probability, np.cumsum(action.sizes)[:-1], axis=1))
    if isinstance(action, MultiBinarySpec):
        columns = np.split(probability, action.n, axis=1)
        return [np.concatenate([1.0 - yes, yes], axis=1) for yes in columns]
    return [probability]


def probabilities(dist: ActionDist, temperature: float | None) -> Floats:
    """The probabilities of a distribution over choices, side by side.

    Args:
        dist: A Categorical, QValues, MultiCategorical or Bernoulli.
        temperature: Divides the logits or values. None is 1 for logits, and for values
            their own standard deviation over the choices, row by row, so that the
            units of the return do not matter.

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
            return sigmoid(logits / heat)
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


def _matched(moments: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """Mean and variance of the mixture: the means' spread adds to the variances."""
    means = np.stack([mean for mean, _ in moments])
    variances = np.stack([np.broadcast_to(var, mean.shape) for mean, var in moments])
    return means.mean(axis=0), variances.mean(axis=0) + means.var(axis=0)


@dataclass(frozen=True, slots=True, eq=False)
class Ensemble:
    """Several policies as one. It is a `Policy`.

    Choices: the mean of the members' probabilities, so that members with logits and
    members with values mix. Boxes: one Gaussian with the mixture's mean and variance
    (moment matching), before tanh where every member is a squashed Gaussian.

    Attributes:
        members: The policies.
        spec: The environment.
        temperatures: One for each member; None, or None in a place, for its own.
    """

    members: tuple[Policy, ...]
    spec: Spec
    temperatures: tuple[float | None, ...] | None = None

    def __post_init__(self) -> None:
        """Check that there are members, without memory, and temperatures for them."""
        if not self.members:
            raise ConfigError("An ensemble needs at least one planner.")
        if any(hasattr(member, "initial_state") for member in self.members):
            raise ConfigError("A recurrent planner cannot be a member of an ensemble.")
        given = self.temperatures
        if given is not None and len(given) != len(self.members):
            raise ConfigError(
                f"{len(given)} temperatures for {len(self.members)} members."
            )
        if any(each is not None and each <= 0 for each in given or ()):
            raise ConfigError(f"Temperatures must be above 0; they are {given}.")

    def _probabilities(self, obs: Floats) -> list[Floats]:
        heats = self.temperatures or (None,) * len(self.members)
        pairs = zip(self.members, heats, strict=True)
        return [probabilities(member(obs), heat) for member, heat in pairs]

    def __call__(self, obs: Floats, /) -> ActionDist:
        """Give the action distribution for flat observations (batch, size)."""
        action = self.spec.action
        if isinstance(action, BoxSpec):
            return self._continuous([member(obs) for member in self.members])
        mean = np.mean(self._probabilities(obs), axis=0, dtype=np.float32)
        mean = np.clip(mean, _TINY, 1.0)
        if isinstance(action, MultiDiscreteSpec):
            return MultiCategorical(np.log(mean), action.sizes)
        if isinstance(action, MultiBinarySpec):
            no = np.clip(1.0 - mean, _TINY, 1.0)
            return Bernoulli(np.log(mean) - np.log(no))
        return Categorical(np.log(mean))

    def _continuous(self, found: Sequence[ActionDist]) -> ActionDist:
        squashed = [each for each in found if isinstance(each, SquashedGaussian)]
        if len(squashed) == len(found):
            pairs = [(each.mean, np.exp(2.0 * each.log_std)) for each in squashed]
            mean, variance = _matched(pairs)
            return SquashedGaussian(mean, 0.5 * np.log(variance + _TINY))
        mean, variance = _matched([_in_units(each, self.spec.action) for each in found])
        return Gaussian(mean, np.log(np.sqrt(variance) + _LEAST_STD))

    def disagreement(self, obs: Floats) -> Floats:
        """How far the members are apart, for each observation, shape (batch,).

        Choices: the mutual information between the action and the member, in nats,
        between 0 and the logarithm of how many members there are, summed over the
        choices. Boxes: the standard deviation of the members' mean actions, in the
        environment's units, averaged over the dimensions.
        """
        action = self.spec.action
        if isinstance(action, BoxSpec):
            moments = [_in_units(member(obs), action)[0] for member in self.members]
            apart: Floats = np.stack(moments).std(axis=0).mean(axis=1)
            return apart
        each = [_blocks(p, action) for p in self._probabilities(obs)]
        total = np.zeros(len(obs), np.float32)
        for block in zip(*each, strict=True):
            single = np.mean([_entropy(p) for p in block], axis=0)
            total += _entropy(np.mean(block, axis=0)) - single
        result: Floats = np.maximum(total, 0.0)
        return result


def _entropy(probability: Floats) -> Floats:
    kept = np.clip(probability, _TINY, 1.0)
    result: Floats = -(kept * np.log(kept)).sum(axis=1)
    return result
