"""From torch's tensors and distributions to action distributions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from agentkd.dists import action_size
from agentkd.errors import SpecError
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec, MultiDiscreteSpec
from agentkd.types import (
    ActionDist,
    Bernoulli,
    Categorical,
    Floats,
    Gaussian,
    MultiCategorical,
    Point,
    SquashedGaussian,
)

if TYPE_CHECKING:
    import torch


def tensors(*values: torch.Tensor) -> list[Floats]:
    """Copy tensors to float32 arrays."""
    import torch

    return [np.array(value.detach().to("cpu", torch.float32).numpy()) for value in values]


def _pair(mean: Any, log_std: Any, *, squashed: bool = False) -> ActionDist:
    first, second = tensors(mean, log_std)
    if second.ndim > 1 and second.shape != first.shape:
        raise SpecError(
            f"A torch module answered with a pair of shapes {first.shape} and "
            f"{second.shape}. A pair is (mean, log_std), with log_std of the mean's "
            f"shape or {first.shape[1:]}."
        )
    wide = np.broadcast_to(second, first.shape)
    return (SquashedGaussian if squashed else Gaussian)(first, wide)


def distribution(found: Any, action: ActionSpec, *, squashed: bool = False) -> ActionDist:
    """Read what a torch module answered, through the action spec.

    Args:
        found: A torch distribution (Categorical, Bernoulli, Normal, Independent of these, a list of
            Categoricals); a pair (mean, log_std); or a tensor: logits
            for choices, the action in the environment's units for boxes.
        action: The environment's actions.
        squashed: Whether a Gaussian is one before tanh.

    Raises:
        SpecError: If it is anything else.
    """
    import torch
    from torch import distributions

    if isinstance(found, distributions.Independent):
        return distribution(found.base_dist, action, squashed=squashed)
    if isinstance(found, distributions.Categorical):
        return Categorical(*tensors(found.logits))
    if isinstance(found, distributions.Bernoulli):
        return Bernoulli(*tensors(found.logits))
    if isinstance(found, distributions.Normal):
        return _pair(found.mean, found.stddev.log(), squashed=squashed)
    pieces = isinstance(found, (list, tuple)) and len(found) > 0
    if pieces and isinstance(found[0], distributions.Categorical):
        sizes = tuple(int(each.logits.shape[-1]) for each in found)
        logits = np.concatenate(tensors(*(each.logits for each in found)), axis=1)
        return MultiCategorical(logits, sizes)
    if pieces and len(found) == 2 and isinstance(action, BoxSpec):
        return _pair(*found, squashed=squashed)
    if isinstance(found, torch.Tensor):
        return _plain(tensors(found)[0], action)
    raise SpecError(
        f"A torch module answered with a {type(found).__name__}. Let it return an "
        "ActionDist, a torch distribution, a tensor of logits or actions, or, for "
        "boxes, a pair (mean, log_std)."
    )


def _plain(values: Floats, action: ActionSpec) -> ActionDist:
    flat = values.reshape(len(values), -1) if values.ndim else values.reshape(1, 1)
    size = action_size(action)
    if flat.shape[1] != size:
        raise SpecError(
            f"A torch module answered with shape {values.shape}; (batch, {size}) was "
            f"expected for {action}."
        )
    match action:
        case DiscreteSpec():
            return Categorical(flat)
        case MultiDiscreteSpec(sizes):
            return MultiCategorical(flat, sizes)
        case BoxSpec():
            return Point(flat)
        case _:
            return Bernoulli(flat)
