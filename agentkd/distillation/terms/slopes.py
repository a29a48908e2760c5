"""The planner's derivatives, as more of each label."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from agentkd.distillation import divergence as d
from agentkd.distillation.terms.action import BoxUnits
from agentkd.distillation.terms.cache import Cache
from agentkd.distillation.terms.choices import Soft, SoftLabels
from agentkd.distillation.terms.term import Batch, Ground, Loss, Term
from agentkd.errors import ConfigError
from agentkd.executors.network import Network
from agentkd.planners.torch_view import Opened, opened
from agentkd.spec import BoxSpec

_MOST = 4096
"""Random projections in one step; more would make a step last minutes."""


@dataclass(frozen=True, slots=True)
class Slopes(Term):
    """Squared distance between the planner's Jacobian and the executor's.

    In units of the observations' spread; of actions in halves of the box, or of log probabilities,
    weighted by the planner's: Σ_a p_T(a) |∇ log p_T(a) − ∇ log p_S(a)|². The executor's side is
    projected at random, once a step (Czarnecki et al. 2017, "Sobolev training for neural networks",
    3). A factor e² in front is what noise of e spreads adds to the loss of boxes to second order,
    if the planner labels anew where it leads (Srinivas and Fleuret 2018, "Knowledge transfer with
    Jacobian matching", 3); for choices that is e²/2, times τ² with both sides tempered.

    Attributes:
        projections: Random projections per step, 1 to 4,096.
    """

    projections: int = 1

    def __post_init__(self) -> None:
        """Validate the fields."""
        if not 1 <= self.projections <= _MOST:
            raise ConfigError(f"projections is {self.projections}; it is 1 to {_MOST}.")

    def build(self, ground: Ground) -> Loss:
        """Make the loss."""
        return Jacobians(self, ground)


@final
class Jacobians(Loss):
    """`Slopes` at work."""

    def __init__(self, term: Slopes, ground: Ground) -> None:
        """Open the planner."""
        super().__init__()
        network = ground.network
        if isinstance(network, Network) and network.memory:
            raise ConfigError(
                "The term 'slopes' is for executors without a memory, whose answer "
                "depends on one observation, such as mlp:64,64."
            )
        planner = opened(ground.planner, "The term 'slopes'")
        if planner.kind != ground.kind:
            raise ConfigError(
                f"The labels are {ground.kind}, the planner's own answers "
                f"{planner.kind}: 'slopes' needs both to be of one planner."
            )
        self._term, self._ground = term, ground
        self._units: BoxUnits | None = None
        self._soft: SoftLabels | None = None
        self._mine = True
        if isinstance(ground.action, BoxSpec):
            self._units = BoxUnits(ground, ground.action)
        else:
            base = ground.base.modules() if ground.base is not None else ()
            found = [each for each in base if isinstance(each, SoftLabels)]
            self._mine = not found
            self._soft = found[0] if found else SoftLabels(Soft(), ground)
        # Of boxes only the means are compared.
        width = self._units.size if self._units is not None else None
        self._planner = Cache(partial(jacobian, planner, width=width))
        self._try(planner, ground.obs)
        self._random = ground.generator()

    @staticmethod
    def _try(planner: Opened, obs: int) -> None:
        """Look into the planner once, before anything is learnt."""
        try:
            jacobian(planner, torch.zeros(1, obs))
        except (RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"The term 'slopes' needs the planner's gradient: {error} Let the "
                "module answer with tensors that it computed in torch."
            ) from error

    def forward(self, batch: Batch) -> Tensor:
        """Give the squared distance at each observation, (batch,)."""
        if self._soft is not None and self._mine:
            self._soft.observe(batch.planner)
        obs = batch.obs.detach().requires_grad_()
        # Torch's fast attention has no second gradient.
        with sdpa_kernel(SDPBackend.MATH):
            answers = self._answers(batch.forward(obs))
        weights, theirs = self._theirs(batch)
        unit = self._ground.spread()
        found = []
        for _ in range(self._term.projections):
            drawn = torch.randn(answers.shape, generator=self._random) * weights
            (slope,) = torch.autograd.grad(answers, obs, drawn, create_graph=True)
            wanted = (drawn.unsqueeze(1) @ theirs).squeeze(1)
            found.append(((slope - wanted) * unit).square().sum(1))
        rows = torch.stack(found).mean(0)
        self.shown["apart"] = rows.detach().mean().item()
        self.shown["looked"] = float(self._planner.asked)
        return rows

    def _answers(self, outputs: Tensor) -> Tensor:
        """The executor's actions or log probabilities, (batch, n)."""
        if self._units is not None:
            return self._units.executor(outputs)
        assert self._soft is not None
        ground = self._ground
        tau = self._soft.tau if self._soft.both else 1.0
        choices = d.blocks(ground.kind, ground.action, outputs)
        return torch.cat([functional.log_softmax(z / tau, 1) for z in choices], 1)

    def _theirs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Weights (batch, n), and the planner's Jacobian of the same, (batch, n, obs).

        What was remembered is of the packed numbers; the chain rule gives the rest.
        """
        packed = self._planner(batch.obs)
        if self._units is not None:
            return self._boxed(batch.planner, packed)
        assert self._soft is not None
        ground, tau = self._ground, self._soft.tau
        weights, slopes = [], []
        scores = d.blocks(ground.kind, ground.action, batch.planner)
        for z, jacobian in zip(scores, self._blocks(packed), strict=True):
            p = torch.softmax(z / tau, 1)
            mean = p.unsqueeze(1) @ jacobian
            weights.append(p.sqrt())
            slopes.append((jacobian - mean) / tau)
        return torch.cat(weights, 1), torch.cat(slopes, 1)

    def _blocks(self, packed: Tensor) -> list[Tensor]:
        """Cut (batch, width, obs) as `divergence.blocks` cuts (batch, width)."""
        ground = self._ground
        columns = [
            d.blocks(ground.kind, ground.action, packed[:, :, i]) for i in range(packed.shape[2])
        ]
        return [torch.stack(block, 2) for block in zip(*columns, strict=True)]

    def _boxed(self, said: Tensor, packed: Tensor) -> tuple[Tensor, Tensor]:
        units = self._units
        assert units is not None
        action = said[:, : units.size].detach().requires_grad_()
        bounded = units.planner(action)
        (factor,) = torch.autograd.grad(bounded.sum(), action)
        # Where the planner is clipped, so is the executor: it may be steep there.
        weights = units.free(said).to(factor.dtype)
        return weights, factor.unsqueeze(2) * packed


def jacobian(planner: Opened, obs: Tensor, width: int | None = None) -> Tensor:
    """A planner's Jacobian of its packed numbers, (batch, width, obs).

    It goes back once for each of them.

    Args:
        planner: What answers.
        obs: Where, (batch, obs).
        width: Of how many of the numbers, the first ones; None for all.
    """
    here = obs.detach().requires_grad_()
    nothing = torch.zeros_like(here)
    with torch.enable_grad():
        columns = planner.answer(here, None)[:, :width].unbind(1)
        found = []
        for column in columns:
            if not column.requires_grad:
                found.append(nothing)
                continue
            slopes: tuple[Tensor | None, ...] = torch.autograd.grad(
                column.sum(), here, retain_graph=True, allow_unused=True
            )
            found.append(nothing if slopes[0] is None else slopes[0])
    return torch.stack(found, 1)
