"""From torch's tensors and distributions to action distributions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, distributions

from agentkd import dists
from agentkd.errors import SpecError
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec, MultiDiscreteSpec
from agentkd.types import ActionDist, Floats, Kind


def array(value: Tensor) -> Floats:
    """Copy a tensor to a float32 array."""
    return np.array(value.detach().to("cpu", torch.float32).numpy())


def plain_kind(action: ActionSpec) -> Kind:
    """What a plain row of numbers is for these actions: logits, log-odds or a point."""
    match action:
        case DiscreteSpec():
            return "categorical"
        case MultiDiscreteSpec():
            return "multicategorical"
        case BoxSpec():
            return "point"
        case _:
            return "bernoulli"


def packed(found: Any, action: ActionSpec, *, squashed: bool = False) -> tuple[Kind, Tensor]:
    """Lay out what a torch module answered as `agentkd.dists.pack` does, with its gradient.

    It may be a torch distribution (Categorical, Bernoulli, Normal, Independent of these, a list of
    Categoricals); a pair (mean, log_std); or a tensor: logits for choices, the action in the
    environment's units for boxes. With `squashed`, a Gaussian is one before tanh.

    Raises:
        SpecError: If it is anything else.
    """
    if isinstance(found, distributions.Independent):
        return packed(found.base_dist, action, squashed=squashed)
    if isinstance(found, distributions.Categorical):
        return "categorical", found.logits
    if isinstance(found, distributions.Bernoulli):
        return "bernoulli", found.logits
    given = type(found).__name__
    if isinstance(found, distributions.Normal):
        found = (found.mean, found.stddev.log())
    elif isinstance(found, Tensor):
        return plain_kind(action), _plain(found, action)
    several = isinstance(found, (list, tuple)) and len(found) > 0
    if several and isinstance(found[0], distributions.Categorical):
        sizes = tuple(int(each.logits.shape[-1]) for each in found)
        if sizes != getattr(action, "sizes", None):
            raise SpecError(f"The policy chooses out of {sizes}, the environment out of {action}.")
        return "multicategorical", torch.cat([each.logits for each in found], 1)
    if several and len(found) == 2 and isinstance(action, BoxSpec):
        mean, log_std = found
        if log_std.ndim > 1 and log_std.shape != mean.shape:
            raise SpecError(
                f"A torch module answered with a pair of shapes {tuple(mean.shape)} and "
                f"{tuple(log_std.shape)}. A pair is (mean, log_std), with log_std of the mean's "
                f"shape or {tuple(mean.shape[1:])}."
            )
        if mean.ndim != 2:
            raise SpecError(
                f"A torch module answered with means of shape {tuple(mean.shape)}; one row for "
                "each observation is needed, (batch, size)."
            )
        wide = log_std.to(mean.device).expand_as(mean)
        return ("squashed" if squashed else "gaussian"), torch.cat([mean, wide], 1)
    raise SpecError(
        f"A torch module answered with a {given}. Let it return an "
        "ActionDist, a torch distribution, a tensor of logits or actions, or, for "
        "boxes, a pair (mean, log_std)."
    )


def distribution(found: Any, action: ActionSpec, *, squashed: bool = False) -> ActionDist:
    """Read what a torch module answered, through the action spec; see `packed`."""
    kind, rows = packed(found, action, squashed=squashed)
    return dists.unpack(kind, array(rows), action)


def _plain(values: Tensor, action: ActionSpec) -> Tensor:
    flat = values.reshape(len(values), -1) if values.ndim else values.reshape(1, 1)
    size = dists.action_size(action)
    if flat.shape[1] != size:
        raise SpecError(
            f"A torch module answered with shape {tuple(values.shape)}; (batch, {size}) was "
            f"expected for {action}."
        )
    return flat
