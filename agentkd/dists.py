"""Functions on action distributions, with NumPy only.

A distribution also has a packed form, a kind and float32 rows of fixed width, which is how it lies
in a label buffer, a file or shared memory.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, get_args, overload

import numpy as np

from agentkd.errors import NumbersError, SpecError
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec, MultiBinarySpec, MultiDiscreteSpec
from agentkd.types import (
    ActionDist,
    Actions,
    AnyDist,
    Bernoulli,
    Categorical,
    Floats,
    Gaussian,
    Kind,
    MultiCategorical,
    Packed,
    Point,
    QValues,
    SquashedGaussian,
)

_KIND_OF: dict[type[Any], Kind] = {
    Categorical: "categorical",
    QValues: "qvalues",
    MultiCategorical: "multicategorical",
    Bernoulli: "bernoulli",
    Gaussian: "gaussian",
    SquashedGaussian: "squashed",
    Point: "point",
}
_CLASS_OF: dict[Kind, Any] = {kind: each for each, kind in _KIND_OF.items()}
_KINDS_FOR: dict[type[Any], tuple[Kind, ...]] = {
    DiscreteSpec: ("categorical", "qvalues"),
    MultiDiscreteSpec: ("multicategorical",),
    MultiBinarySpec: ("bernoulli",),
    BoxSpec: ("gaussian", "squashed", "point"),
}
_PAIRS = ("gaussian", "squashed")
"""Kinds of two numbers for each of an action's."""
KINDS: tuple[Kind, ...] = get_args(Kind)


def kind_of(dist: AnyDist) -> Kind:
    """Name the kind of a distribution.

    Raises:
        SpecError: If it is none.
    """
    if isinstance(dist, Packed):
        return dist.kind
    kind = _KIND_OF.get(type(dist))
    if kind is None:
        found = (known for each, known in _KIND_OF.items() if isinstance(dist, each))
        kind = next(found, None)
    if kind is None:
        raise SpecError(
            f"The policy answered with a {type(dist).__name__}; an action distribution such as "
            "agentkd.types.Categorical is needed."
        )
    return kind


def pack(dist: AnyDist) -> Floats:
    """Lay a batch of distributions out as rows, shape (batch, width(kind, action))."""
    match dist:
        case Packed(_, rows):
            return rows
        case Categorical(logits) | MultiCategorical(logits, _) | Bernoulli(logits):
            return logits
        case QValues(values):
            return values
        case Gaussian(mean, log_std) | SquashedGaussian(mean, log_std):
            return np.concatenate([mean, np.broadcast_to(log_std, mean.shape)], axis=1)
        case Point(action):
            return action


def packed(dist: AnyDist) -> Packed:
    """Pack a batch of distributions, with its kind, as float32."""
    if isinstance(dist, Packed):
        return dist
    return Packed(kind_of(dist), np.asarray(pack(dist), np.float32))


def opened(dist: AnyDist, action: ActionSpec) -> ActionDist:
    """Return the distributions that were packed, as they are if they were not."""
    if isinstance(dist, Packed):
        return unpack(dist.kind, dist.rows, action)
    return dist


def action_size(action: ActionSpec) -> int:
    """How many numbers an executor's last layer has for these actions."""
    match action:
        case DiscreteSpec(n, _) | MultiBinarySpec(n):
            return n
        case MultiDiscreteSpec(sizes):
            return sum(sizes)
        case BoxSpec(low, _, _):
            return len(low)


def width(kind: Kind, action: ActionSpec) -> int:
    """How many numbers one packed distribution takes."""
    return action_size(action) * (2 if kind in _PAIRS else 1)


def unpack(kind: Kind, rows: Floats, action: ActionSpec) -> ActionDist:
    """Read what `pack` laid out.

    Raises:
        SpecError: If the kind and the actions do not fit.
    """
    parts: tuple[Any, ...] = (rows,)
    if kind in _PAIRS:
        half = rows.shape[1] // 2
        parts = rows[:, :half], rows[:, half:]
    elif kind == "multicategorical":
        if not isinstance(action, MultiDiscreteSpec):
            raise SpecError(f"A multicategorical needs MultiDiscrete, not {action}")
        parts = rows, action.sizes
    dist: ActionDist = _CLASS_OF[kind](*parts)
    return dist


def action_width(action: ActionSpec) -> int:
    """Return how many numbers an action takes."""
    match action:
        case DiscreteSpec():
            return 1
        case MultiDiscreteSpec(sizes):
            return len(sizes)
        case MultiBinarySpec(n):
            return n
        case BoxSpec(low, _, _):
            return len(low)


def check_kind(kind: Kind, action: ActionSpec) -> None:
    """Make sure that a kind of distribution fits the actions.

    Raises:
        SpecError: If it does not.
    """
    if kind not in _KINDS_FOR[type(action)]:
        raise SpecError(
            f"The policy answered with a {kind} distribution; {action} takes "
            f"{' or '.join(_KINDS_FOR[type(action)])}. It was probably made for "
            "another environment."
        )


def check(dist: AnyDist, action: ActionSpec, batch: int) -> Packed:
    """Check that a policy's answer fits the actions and the batch, and is finite; packs it.

    Raises:
        SpecError: If the kind or the shape does not fit.
        NumbersError: If a number is NaN or infinite.
    """
    found = packed(dist)
    kind, rows = found.kind, found.rows
    check_kind(kind, action)
    expected = (batch, width(kind, action))
    if rows.shape != expected:
        raise SpecError(
            f"The policy's {kind} distribution has shape {rows.shape}; {expected} was "
            f"expected for {batch} observations and {action}."
        )
    if isinstance(dist, MultiCategorical) and dist.sizes != getattr(action, "sizes", None):
        raise SpecError(f"The policy chooses out of {dist.sizes}, the environment out of {action}.")
    if kind == "squashed" and not (isinstance(action, BoxSpec) and action.bounded):
        raise SpecError(f"A squashed Gaussian needs finite bounds; they are {action}.")
    finite = np.isfinite(rows)
    if not finite.all():
        bad = int((~finite.all(axis=1)).sum())
        raise NumbersError(f"The policy's answer holds NaN or infinity in {bad} of {batch} rows.")
    return found


@functools.lru_cache(maxsize=64)
def bounds(action: ActionSpec) -> tuple[Floats, Floats]:
    """The bounds of a box in float32, (d,) each, rounded inwards; read-only.

    To the nearest, 0.1 would become 0.10000000149, outside of a box that is kept in float64.

    Raises:
        SpecError: If the actions are not a box.
    """
    if not isinstance(action, BoxSpec):
        raise SpecError(f"Continuous actions need a Box, not {action}.")
    low, high = np.asarray(action.low, np.float64), np.asarray(action.high, np.float64)
    with np.errstate(over="ignore"):
        near_low, near_high = low.astype(np.float32), high.astype(np.float32)
        up = np.nextafter(near_low, np.float32(np.inf))
        down = np.nextafter(near_high, np.float32(-np.inf))
    inside_low = np.where(near_low < low, up, near_low)
    inside_high = np.where(near_high > high, down, near_high)
    # Bounds that are nearer than neighbouring float32 leave none between them.
    none = inside_low > inside_high
    found = (np.where(none, near_low, inside_low), np.where(none, near_low, inside_high))
    for each in found:
        each.flags.writeable = False
    return found


def unsquash(squashed: Floats, action: ActionSpec) -> Floats:
    """Scale numbers in [-1, 1] to the bounds of the box, both (batch, d)."""
    low, high = bounds(action)
    return low + 0.5 * (squashed + 1.0) * (high - low)


def _boxed(flat: Floats, action: ActionSpec) -> Actions:
    low, high = bounds(action)
    shape = action.shape if isinstance(action, BoxSpec) else ()
    return np.clip(flat, low, high).reshape(len(flat), *shape)


def _start(action: ActionSpec) -> int:
    return action.start if isinstance(action, DiscreteSpec) else 0


def mode(dist: AnyDist, action: ActionSpec) -> Actions:
    """The most probable actions, in the environment's units: (batch, …).

    Ties between choices go to the lowest index.
    """
    match dist:
        case Packed():
            return mode(opened(dist, action), action)
        case Categorical(scores) | QValues(scores):
            return np.asarray(scores.argmax(axis=1) + _start(action))
        case MultiCategorical(logits, sizes):
            pieces = np.split(logits, np.cumsum(sizes)[:-1], axis=1)
            return np.stack([piece.argmax(axis=1) for piece in pieces], axis=1)
        case Bernoulli(logits):
            return (logits > 0).astype(np.int8)
        case Gaussian(mean, _):
            return _boxed(mean, action)
        case SquashedGaussian(mean, _):
            return _boxed(unsquash(np.tanh(mean), action), action)
        case Point(point):
            return _boxed(point, action)


def coded(actions: Any, action: ActionSpec) -> Floats:
    """Write actions, (batch, …), as an executor that sees past ones observes them.

    Numbers as they are, in the environment's units; a choice as a one-hot vector; yes and no as 1
    and 0.

    Returns:
        (batch, action_size), float32.
    """
    flat = np.reshape(actions, (len(actions), -1))
    match action:
        case DiscreteSpec(n, _):
            sizes: tuple[int, ...] = (n,)
        case MultiDiscreteSpec(found):
            sizes = found
        case _:
            return flat.astype(np.float32)
    places = flat.astype(np.intp) - _start(action) + np.cumsum([0, *sizes[:-1]])
    out = np.zeros((len(flat), sum(sizes)), np.float32)
    out[np.arange(len(flat))[:, None], places] = 1.0
    return out


def sample(dist: ActionDist, action: ActionSpec, random: np.random.Generator) -> Actions:
    """Draw actions, in the environment's units: (batch, …).

    Action values and points are exact: they give their mode.
    """
    match dist:
        case Categorical(logits):
            noise = random.gumbel(size=logits.shape)
            return np.asarray((logits + noise).argmax(axis=1) + _start(action))
        case MultiCategorical(logits, sizes):
            noisy = (logits + random.gumbel(size=logits.shape)).astype(np.float32)
            return mode(MultiCategorical(noisy, sizes), action)
        case Bernoulli(logits):
            noisy = (logits + random.logistic(size=logits.shape)).astype(np.float32)
            return mode(Bernoulli(noisy), action)
        case Gaussian(mean, log_std) | SquashedGaussian(mean, log_std):
            noise = random.standard_normal(mean.shape).astype(np.float32)
            drawn: Floats = (mean + np.exp(log_std) * noise).astype(np.float32)
            return mode(type(dist)(drawn, log_std), action)
        case QValues() | Point():
            return mode(dist, action)


@overload
def rows(dist: Packed, index: Any) -> Packed: ...
@overload
def rows(dist: ActionDist, index: Any) -> ActionDist: ...
@overload
def rows(dist: AnyDist, index: Any) -> AnyDist: ...
def rows(dist: AnyDist, index: Any) -> AnyDist:
    """Take some rows of a batch; `index` is a slice, an index array or a mask."""
    match dist:
        case Packed(kind, every):
            return Packed(kind, every[index])
        case MultiCategorical(logits, sizes):
            return MultiCategorical(logits[index], sizes)
        case Gaussian(mean, log_std) | SquashedGaussian(mean, log_std):
            wide = np.broadcast_to(log_std, mean.shape)
            return type(dist)(mean[index], wide[index])
        case _:
            return type(dist)(pack(dist)[index])


def stack(dists: Sequence[AnyDist], action: ActionSpec) -> ActionDist:
    """Join batches of the same kind, one after another.

    Raises:
        SpecError: If they are of several kinds.
    """
    kinds = {kind_of(dist) for dist in dists}
    if len(kinds) != 1:
        raise SpecError(f"Distributions of {sorted(kinds)} cannot be joined.")
    return unpack(kinds.pop(), np.concatenate([pack(d) for d in dists]), action)


def entropy(dist: ActionDist, action: ActionSpec) -> Floats:
    """The entropy of each distribution of a batch in nats, (batch,).

    Several choices: the sum. Gaussians: the differential entropy, before tanh where they are
    squashed. Action values: of their softmax in units of their own standard deviation over the
    choices, as in an ensemble.

    Raises:
        SpecError: For points, which have none.
    """
    match dist:
        case Categorical(logits):
            return _entropy_of(logits)
        case QValues(values):
            spread = values.std(axis=1, keepdims=True) + np.float32(1e-8)
            return _entropy_of(values / spread)
        case MultiCategorical(logits, sizes):
            pieces = np.split(logits, np.cumsum(sizes)[:-1], axis=1)
            total: Floats = np.sum([_entropy_of(each) for each in pieces], axis=0)
            return total
        case Bernoulli(logits):
            pairs = np.stack([logits, np.zeros_like(logits)], axis=2)
            flat = _entropy_of(pairs.reshape(-1, 2)).reshape(logits.shape)
            return np.asarray(flat.sum(axis=1), np.float32)
        case Gaussian(mean, log_std) | SquashedGaussian(mean, log_std):
            wide = np.broadcast_to(log_std, mean.shape)
            each = wide + np.float32(0.5 * math.log(2 * math.pi * math.e))
            return np.asarray(each.sum(axis=1), np.float32)
        case Point():
            raise SpecError(
                f"A point has no entropy, and executors answer points for {action}. "
                "Measure how far several executors are apart instead."
            )


def _entropy_of(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    raised = np.exp(shifted)
    total = raised.sum(axis=1)
    # −Σ p log p, with log p = shifted − log total.
    out = np.log(total) - (raised * shifted).sum(axis=1) / total
    return np.asarray(np.maximum(out, 0.0), np.float32)


def agreement(left: Actions, right: Actions, action: ActionSpec) -> Floats:
    """How far two batches of actions agree, 0 to 1 for each row, shape (batch,).

    Choices: the share that is equal. Boxes: one minus the mean absolute difference in units of the
    bounds' distance (of 2, where a bound is infinite), not below 0.
    """
    first = np.reshape(left, (len(left), -1))
    second = np.reshape(right, (len(right), -1))
    if not isinstance(action, BoxSpec):
        return np.asarray((first == second).mean(axis=1), np.float32)
    low, high = bounds(action)
    distance = high - low
    span = np.where(np.isfinite(distance) & (distance > 0), distance, 2.0)
    apart = np.abs(first - second) / span
    return np.asarray(np.clip(1.0 - apart.mean(axis=1), 0.0, 1.0), np.float32)
