"""Observations a little off, by chance or on purpose, within a ball around the true."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Way = Literal["noise", "fgsm", "pgd"]
_REACH = 2.5
"""How far all steps together reach, in radii: twice across the ball and back."""
_ONE = 1.25
"""The same of a single step from a random start (Wong et al. 2020)."""


def perturbed(
    loss: Callable[[Tensor], Tensor],
    obs: Tensor,
    unit: Tensor,
    *,
    by: Way,
    eps: float,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Move observations, (batch, obs), in the environment's units, so that a loss grows.

    "noise" is Gaussian with a standard deviation of `eps`, and asks no loss. "pgd" starts anywhere
    in the ball |δ| ≤ eps (the greatest of its numbers) and takes steps along the sign of the loss's
    gradient, back into the ball after each (Madry et al. 2018, "Towards deep learning models
    resistant to adversarial attacks"). "fgsm" is one such step (Goodfellow et al. 2015), from a
    random start (Wong et al. 2020, "Fast is better than free"): at δ = 0 the distance to one's own
    answer has no gradient.

    The loss gives a number for each row, (batch,). `eps` is how far at most, counted in `unit`, the
    spread of each number of an observation; `steps` are those of "pgd".
    """
    if by == "noise":
        return obs + eps * unit * torch.randn(obs.shape, generator=generator)
    start = torch.rand(obs.shape, generator=generator) * 2 - 1
    stride = _ONE if by == "fgsm" else _REACH / steps
    delta = eps * start
    for _ in range(1 if by == "fgsm" else steps):
        delta.requires_grad_()
        total = loss(obs + delta * unit).sum()
        (slope,) = torch.autograd.grad(total, delta)
        moved = delta.detach() + stride * eps * slope.sign()
        delta = moved.clamp(-eps, eps)
    return obs + delta * unit
