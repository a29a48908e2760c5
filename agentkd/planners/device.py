"""Where a torch planner answers: on the processor or on a GPU."""

from __future__ import annotations

import sys
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from agentkd import dists
from agentkd.errors import ConfigError, check_choice
from agentkd.planners.adapt import ModulePolicy
from agentkd.printable import logger
from agentkd.spec import Spec
from agentkd.testing import example_observations

if TYPE_CHECKING:
    import torch

    from agentkd.planners.sb3.build import Head, Sb3Policy
    from agentkd.planners.sb3.network import Linear, Perceptron

log = logger(__name__)

Device = Literal["auto", "cpu", "cuda"]
_WORTH_IT = 20_000_000
"""Multiplications of one answer from which on "auto" takes a GPU. On a core of 2026 they take about
a millisecond; launching layers and moving rows to a GPU and back takes a few tenths of one."""
_ASKED = 16
"""Observations that are asked about on both devices."""
_TOLERANCE = 1e-2
"""Largest difference of their answers, relative to 1 + the largest number: GPUs round otherwise."""


def check_device(device: str) -> None:
    """Check a device's name, and that it is there.

    Raises:
        ConfigError: If it is not.
    """
    check_choice("device", device, get_args(Device))
    if device == "cuda" and not _has_gpu():
        raise ConfigError(
            "device is cuda, but torch finds no GPU here. Give cpu or auto, or install a torch "
            "for your GPU."
        )


def on_device(policy: Any, device: Device, rows: int, spec: Spec) -> Any:
    """Return a planner's policy, or a copy of it that answers on a GPU.

    The copy has to answer some observations as the policy does. Otherwise "auto" keeps the policy
    where it is, and says so.

    Args:
        policy: A torch module's policy or a feed-forward SB3 policy; others answer where they are.
        device: "auto" takes a GPU where one is there and the planner is large for `rows`.
        rows: How many observations it is asked about at a time.
        spec: The environment's.

    Raises:
        ConfigError: If "cuda" is wanted and there is none, or it is another kind of planner, or it
            answers otherwise there.
    """
    check_device(device)
    if device == "cpu":
        return policy
    size = _parameters(policy)
    if size is None:
        if device == "cuda":
            raise ConfigError(
                f"device is cuda, but a {type(policy).__name__} answers where it was made: only "
                "torch modules and feed-forward SB3 policies without images are moved. Give auto."
            )
        return policy
    if device == "auto" and (size * rows < _WORTH_IT or not _has_gpu()):
        return policy
    there, trouble = _tried(policy, spec)
    if not trouble:
        return there
    if device == "cuda":
        raise ConfigError(
            f"device is cuda, but there the planner {trouble}. Give cpu or auto; a module's "
            "constants move with it where they are buffers (register_buffer)."
        )
    log.warning("The planner answers on the processor: on the GPU it %s", trouble)
    return policy


def _tried(policy: Any, spec: Spec) -> tuple[Any, str]:
    """Copy a policy to the GPU and compare; return the copy, and what is wrong with it."""
    import torch

    obs = example_observations(spec.obs, _ASKED)
    try:
        there = moved(policy, torch.device("cuda"))
        wanted, found = (np.asarray(dists.pack(each(obs))) for each in (policy, there))
    except Exception as error:  # a user's module may raise anything
        return None, f"raises {type(error).__name__}: {error}"
    if found.shape != wanted.shape:
        return None, f"answers with shape {found.shape} instead of {wanted.shape}"
    numbers = np.abs(wanted[np.isfinite(wanted)])
    most = _TOLERANCE * (1.0 + numbers.max(initial=0.0))
    if not np.allclose(found, wanted, rtol=0.0, atol=most, equal_nan=True):
        row, column = np.unravel_index(np.nanargmax(np.abs(found - wanted)), wanted.shape)
        return None, f"answers {found[row, column]:.4g} instead of {wanted[row, column]:.4g}"
    return there, ""


def _has_gpu() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def _sb3(policy: Any) -> bool:
    # Without torch there are none.
    build = sys.modules.get("agentkd.planners.sb3.build")
    return build is not None and isinstance(policy, build.Sb3Policy)


def _parameters(policy: Any) -> int | None:
    """How many numbers a policy multiplies by; None for those that are not moved."""
    if isinstance(policy, ModulePolicy):
        return policy.parameters
    if _sb3(policy) and not policy.inputs.features:
        towers = (policy.trunk, policy.head.tower, policy.head.deviation)
        layers = [layer for tower in towers if tower is not None for layer in tower.layers]
        return int(sum(layer.weight.numel() for layer in layers))
    return None


def moved(policy: Any, device: torch.device) -> Any:
    """Copy a policy to a device."""
    if isinstance(policy, ModulePolicy):
        return replace(policy, module=deepcopy(policy.module).to(device))
    return _moved_sb3(policy, device)


def _moved_sb3(policy: Sb3Policy, device: torch.device) -> Sb3Policy:
    head: Head = policy.head
    there = replace(
        head,
        tower=_moved_layers(head.tower, device),
        deviation=None if head.deviation is None else _moved_layers(head.deviation, device),
        log_std=None if head.log_std is None else head.log_std.to(device),
    )
    return replace(policy, trunk=_moved_layers(policy.trunk, device), head=there, device=device)


def _moved_layers(found: Perceptron, device: torch.device) -> Perceptron:
    def one(layer: Linear) -> Linear:
        bias = None if layer.bias is None else layer.bias.to(device)
        return replace(layer, weight=layer.weight.to(device), bias=bias)

    return replace(found, layers=tuple(map(one, found.layers)))
