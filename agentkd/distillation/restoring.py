"""State that is restored from files: tensors and Adam's averages, checked for fit.

Torch does not check averages: its fused Adam writes as many numbers as a parameter has, whatever
their size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from agentkd.archives import check_tensor
from agentkd.errors import LoadError


def like(found: Any, wanted: Tensor, what: str) -> Tensor:
    """Copy a tensor that has the shape and dtype of another and finite numbers.

    Raises:
        LoadError: If it differs.
    """
    if not isinstance(found, Tensor):
        raise LoadError(f"{what} is a {type(found).__name__}, not a tensor.")
    check_tensor(found, what)
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        raise LoadError(
            f"{what} is {found.dtype} of {tuple(found.shape)}, not {wanted.dtype} of "
            f"{tuple(wanted.shape)}."
        )
    if not bool(found.isfinite().all()):
        raise LoadError(f"{what} holds NaN or infinity.")
    return found.detach().clone(memory_format=torch.contiguous_format)


def all_like(found: Any, wanted: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """Copy tensors by name; each is `like` its namesake.

    Raises:
        LoadError: If names are missing or unknown, or a tensor does not fit.
    """
    if not isinstance(found, Mapping) or set(found) != set(wanted):
        raise LoadError(f"{what} does not have the tensors {sorted(wanted)[:6]}.")
    return {name: like(found[name], each, f"{what} {name}") for name, each in wanted.items()}


def restore_adam(adam: torch.optim.Adam, state: Any, what: str) -> None:
    """Give an optimiser the averages of another of the same parameters.

    Options such as the learning rate stay its own.

    Raises:
        LoadError: If an average does not fit its parameter.
    """
    held = state.get("state") if isinstance(state, Mapping) else None
    parameters: Iterable[Tensor] = [each for group in adam.param_groups for each in group["params"]]
    known = dict(enumerate(parameters))
    if not isinstance(held, Mapping) or not set(held) <= set(known):
        raise LoadError(f"{what}: the optimiser's averages are of other parameters.")
    kept = {}
    for index, averages in held.items():
        own, at = known[index], f"{what}: average {index}"
        scalar = torch.zeros((), dtype=torch.float32)
        wanted = {"step": scalar, "exp_avg": own, "exp_avg_sq": own}
        kept[index] = all_like(averages, wanted, at)
        if kept[index]["step"] < 0 or bool((kept[index]["exp_avg_sq"] < 0).any()):
            raise LoadError(f"{at} is below 0.")
    groups = adam.state_dict()["param_groups"]
    adam.load_state_dict({"state": kept, "param_groups": groups})
