"""From a policy's last hidden numbers to its action distribution, as SB3 does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from agentkd.dists import unsquash
from agentkd.planners.sb3.network import Linear, Perceptron
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec, MultiDiscreteSpec
from agentkd.types import (
    ActionDist,
    Bernoulli,
    Categorical,
    Floats,
    Gaussian,
    MultiCategorical,
    Point,
    QValues,
    SquashedGaussian,
)

Head = Callable[[Floats], ActionDist]

_EPSILON = np.float32(1e-6)
_LOG_STD = (-20.0, 2.0)


@dataclass(frozen=True, slots=True, eq=False)
class Choices:
    """Logits of one or several choices, or log-odds of yes."""

    layer: Linear | Perceptron
    action: ActionSpec

    def __call__(self, latent: Floats) -> ActionDist:
        """Give the distribution for (batch, width)."""
        logits = self.layer(latent)
        match self.action:
            case DiscreteSpec():
                return Categorical(logits)
            case MultiDiscreteSpec(sizes):
                return MultiCategorical(logits, sizes)
            case _:
                return Bernoulli(logits)


@dataclass(frozen=True, slots=True, eq=False)
class Diagonal:
    """A Gaussian whose deviation is the same for every observation: log_std (d,)."""

    layer: Linear
    log_std: Floats

    def __call__(self, latent: Floats) -> ActionDist:
        """Give the distribution for (batch, width)."""
        mean = self.layer(latent)
        return Gaussian(mean, np.broadcast_to(self.log_std, mean.shape))


@dataclass(frozen=True, slots=True, eq=False)
class StateDependent:
    """Generalised state-dependent exploration (gSDE), arXiv:2005.05719, equation 9.

    The variance is latent² @ std² + 1e-6.

    Attributes:
        layer: Gives the mean.
        log_std: (width, d), or (width, 1) where the dimensions share it.
        use_expln: Whether the deviation grows like a logarithm above one.
        squash: Whether tanh follows.
        limit: The mean stays within [-limit, limit].
    """

    layer: Linear
    log_std: Floats
    use_expln: bool
    squash: bool
    limit: float

    def deviation(self) -> Floats:
        """The standard deviations of the exploration's weights."""
        if not self.use_expln:
            return np.exp(self.log_std)
        above = np.log1p(np.maximum(self.log_std, 0.0) + _EPSILON) + 1.0
        below = np.exp(np.minimum(self.log_std, 0.0))
        return np.where(self.log_std > 0, above, below)

    def __call__(self, latent: Floats) -> ActionDist:
        """Give the distribution for (batch, width)."""
        mean = self.layer(latent)
        if np.isfinite(self.limit):
            mean = np.clip(mean, -self.limit, self.limit)
        variance = np.square(latent) @ np.square(self.deviation()) + _EPSILON
        log_std: Floats = np.broadcast_to(0.5 * np.log(variance), mean.shape)
        return (SquashedGaussian if self.squash else Gaussian)(mean, log_std)


@dataclass(frozen=True, slots=True, eq=False)
class Squashed:
    """SAC's and TQC's Gaussian before tanh, whose deviation a layer gives."""

    layer: Linear
    deviation: Linear

    def __call__(self, latent: Floats) -> ActionDist:
        """Give the distribution for (batch, width)."""
        log_std = np.clip(self.deviation(latent), *_LOG_STD)
        return SquashedGaussian(self.layer(latent), log_std)


@dataclass(frozen=True, slots=True, eq=False)
class Deterministic:
    """One action in the environment's units, through tanh or clipped."""

    layers: Perceptron
    action: BoxSpec
    squash: bool

    def __call__(self, features: Floats) -> ActionDist:
        """Give the action for (batch, features)."""
        out = self.layers(features)
        if self.squash:
            return Point(unsquash(np.tanh(out), self.action))
        low, high = np.array([self.action.low, self.action.high], np.float32)
        return Point(np.clip(out, low, high))


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """One value for each choice; of quantiles, their mean."""

    layers: Perceptron
    choices: int

    def __call__(self, features: Floats) -> ActionDist:
        """Give the values for (batch, features)."""
        out = self.layers(features)
        if out.shape[1] == self.choices:
            return QValues(out)
        return QValues(out.reshape(len(out), -1, self.choices).mean(axis=1))
