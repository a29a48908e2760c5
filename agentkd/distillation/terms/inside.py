"""Terms that look into the planner: attention transfer, and derivatives as more of each label."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any, Literal, final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from agentkd.distillation.terms.answers import Soft, SoftLabels, blocks
from agentkd.distillation.terms.term import Batch, BoxUnits, Ground, Loss, Term
from agentkd.errors import ConfigError, check_range
from agentkd.executors.network import Network, Trace
from agentkd.planners.torch_view import Opened, opened

_MOST = 64_000_000
"""Numbers that a cache holds at most; then the older half is forgotten."""
_KEY = 16
_KEYS_NUMBERS = 40
"""The cost of a key in numbers: its bytes, and its place in a table."""
_MOST_PROJECTIONS = 4096
"""Random projections in one step; more would make a step last minutes."""

Relations = Sequence[tuple[Tensor, Tensor, Tensor]]
"""Queries, keys and values of each block, each (batch, heads, tokens, width)."""


@final
class Cache:
    """A function of single observations that is asked about each only once.

    A label is learnt from many times, and what lies inside the planner for it stays the same.

    Args:
        compute: Gives for observations (batch, obs) as many rows, (batch, …).
    """

    def __init__(self, compute: Callable[[Tensor], Tensor]) -> None:
        self._compute = compute
        self._places: dict[bytes, int] = {}
        self._held: Tensor | None = None
        self.asked = 0

    def __call__(self, obs: Tensor) -> Tensor:
        """Give the rows of observations (batch, obs): (batch, …)."""
        whole = np.ascontiguousarray(obs.detach().numpy())
        keys = [blake2b(row.tobytes(), digest_size=_KEY).digest() for row in whole]
        places = self._places
        new = {key: at for at, key in enumerate(keys) if key not in places}
        if new:
            made = self._compute(obs[list(new.values())].detach()).detach()
            self.asked += len(made)
            most = _MOST // (made[0].numel() + _KEYS_NUMBERS)
            if len(places) + len(new) > most:
                self._forget([key for key in keys if key not in new], most // 2)
            self._keep(made, len(places))
            for key in new:
                places[key] = len(places)
        assert self._held is not None
        return self._held[[places[key] for key in keys]]

    def _forget(self, needed: list[bytes], most: int) -> None:
        """Keep what is needed now, and of the rest the newest."""
        newest = list(self._places)[-most:] if most else []
        stay = list(dict.fromkeys([*newest, *needed]))
        if self._held is not None:
            self._held = self._held[[self._places[key] for key in stay]]
        self._places.clear()
        self._places.update({key: at for at, key in enumerate(stay)})

    def _keep(self, made: Tensor, taken: int) -> None:
        needed = taken + len(made)
        if self._held is None or len(self._held) < needed:
            larger = made.new_empty((2 * needed, *made.shape[1:]))
            if self._held is not None:
                larger[:taken] = self._held[:taken]
            self._held = larger
        self._held[taken:needed] = made


class _Inside(Loss):
    """A loss whose planner's side is remembered for each observation."""

    def __init__(self, compute: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._planner = Cache(compute)

    def _show(self, rows: Tensor) -> Tensor:
        self.shown["apart"] = rows.detach().mean().item()
        self.shown["looked"] = float(self._planner.asked)
        return rows


@dataclass(frozen=True, slots=True)
class Attention(Term):
    """KL between relations of tokens, the planner's and the executor's.

    The relation of X and Y is softmax(X Yᵀ / √width) over tokens, in each relation head: the
    attention heads are laid side by side and cut into a common number, so that neither heads nor
    widths have to be alike. With of=alike X and Y are queries and queries, keys and keys, values
    and values (Wang et al. 2021, "MiniLMv2", eq. 4 to 6); with of=attention queries and keys, which
    is attention itself, and values and values (Wang et al. 2020, "MiniLM", eq. 6 to 9).

    Attributes:
        of: Whose relations.
        heads: Relation heads; left out, as many as the larger of both networks has, or what divides
            both widths.
        block: The planner's block, the first being 0; -1 is the last. The executor's is its last.
    """

    of: Literal["alike", "attention"] = "alike"
    heads: int | None = None
    block: int = -1

    def __post_init__(self) -> None:
        check_range("heads", self.heads, least=1, whole=True)
        check_range("block", self.block, whole=True)

    def build(self, ground: Ground) -> Loss:
        """Look into both networks once, and make the loss.

        Raises:
            ConfigError: If planner or executor have no attention, or cut observations into
                different numbers of tokens.
        """
        nothing = torch.zeros(1, ground.obs)
        mine = _own(ground.network, nothing)
        if not mine:
            raise ConfigError(
                "The term 'attention' needs an executor with attention, such as "
                "attention:16/2/1. For others there is 'slopes'."
            )
        planner = opened(ground.planner, "The term 'attention'")
        with torch.no_grad():
            theirs = planner.trace(nothing).relations
        if not theirs:
            raise ConfigError(
                "The term 'attention' needs a planner with attention, such as "
                "policies/transformer; this one has none. For others there is "
                "'slopes'."
            )
        if not -len(theirs) <= self.block < len(theirs):
            raise ConfigError(f"block is {self.block}; the planner has {len(theirs)} of attention.")
        here, there = mine[-1][0].shape, theirs[self.block][0].shape
        if here[2] != there[2]:
            raise ConfigError(
                f"The executor cuts an observation into {here[2]} tokens, the planner "
                f"into {there[2]}; 'attention' compares token by token. Use 'slopes'."
            )
        return _Relating(self, ground, planner, self._heads(here, there))

    def _heads(self, here: torch.Size, there: torch.Size) -> int:
        """Relation heads for queries (batch, heads, tokens, width) of both networks."""
        own, width = here[1] * here[3], there[1] * there[3]
        if self.heads is None:
            most = max(here[1], there[1])
            return most if own % most == 0 == width % most else math.gcd(own, width)
        if own % self.heads or width % self.heads:
            raise ConfigError(
                f"heads is {self.heads}; it has to divide both widths, {own} and {width}."
            )
        return self.heads


@final
class _Relating(_Inside):
    """`Attention` at work."""

    def __init__(self, term: Attention, ground: Ground, planner: Opened, heads: int) -> None:
        @torch.no_grad()
        def relations(obs: Tensor) -> Tensor:
            return log_relations(planner.trace(obs).relations[term.block], heads, term.of)

        super().__init__(relations)
        self.heads = heads
        self._term, self._ground = term, ground

    def forward(self, batch: Batch) -> Tensor:
        """Give KL(planner || executor) of each label, mean over relations' rows."""
        theirs = self._planner(batch.obs)
        mine = log_relations(_own(self._ground.network, batch.obs)[-1], self.heads, self._term.of)
        apart = (theirs.exp() * (theirs - mine)).sum(-1)
        return self._show(apart.flatten(2).mean(2).sum(1))


def _own(network: Any, obs: Tensor) -> Relations:
    if not isinstance(network, Network) or network.memory:
        return ()
    trace = Trace()
    network.from_normalised(network.normalise(obs), trace)
    return trace.relations


def log_relations(
    block: tuple[Tensor, Tensor, Tensor], heads: int, of: Literal["alike", "attention"]
) -> Tensor:
    """Logarithms of a block's relations, (batch, kinds, heads, tokens, tokens).

    Args:
        block: Queries, keys and values, each (batch, attention heads, tokens, width).
        heads: Relation heads.
        of: As in `Attention`.
    """
    query, key, value = (_regrouped(each, heads) for each in block)
    pairs = [(query, query), (key, key), (value, value)]
    if of == "attention":
        pairs = [(query, key), (value, value)]
    found = [
        functional.log_softmax(x @ y.transpose(-1, -2) / math.sqrt(x.shape[-1]), -1)
        for x, y in pairs
    ]
    return torch.stack(found, 1)


def _regrouped(x: Tensor, heads: int) -> Tensor:
    """Lay attention heads side by side and cut them anew: (batch, heads, tokens, …)."""
    batch, _, tokens, _ = x.shape
    wide = x.transpose(1, 2).reshape(batch, tokens, heads, -1)
    return wide.transpose(1, 2)


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
        check_range("projections", self.projections, least=1, most=_MOST_PROJECTIONS, whole=True)

    def build(self, ground: Ground) -> Loss:
        """Look into the planner once, and make the loss.

        Raises:
            ConfigError: If the planner's gradient is not at hand, or the executor has a memory.
        """
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
        try:
            jacobian(planner, torch.zeros(1, ground.obs))
        except (RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"The term 'slopes' needs the planner's gradient: {error} Let the "
                "module answer with tensors that it computed in torch."
            ) from error
        return _Jacobians(self, ground, planner)


@final
class _Jacobians(_Inside):
    """`Slopes` at work."""

    def __init__(self, term: Slopes, ground: Ground, planner: Opened) -> None:
        units = ground.units()
        # Of boxes only the means are compared.
        width = None if units is None else units.size
        super().__init__(partial(jacobian, planner, width=width))
        self._term, self._ground, self._units = term, ground, units
        self._soft: SoftLabels | None = None
        self._mine = True
        if units is None:
            base = ground.base.modules() if ground.base is not None else ()
            found = [each for each in base if isinstance(each, SoftLabels)]
            self._mine = not found
            self._soft = found[0] if found else SoftLabels(Soft(), ground)
        self._random = ground.generator()

    def forward(self, batch: Batch) -> Tensor:
        """Give the squared distance at each observation, (batch,)."""
        if self._soft is not None and self._mine:
            self._soft.observe(batch.planner)
        obs = batch.obs.detach().requires_grad_()
        # Torch's fast attention has no second gradient.
        with sdpa_kernel(SDPBackend.MATH):
            outputs = batch.forward(obs)
        packed = self._planner(batch.obs)
        if self._units is not None:
            answers = self._units.executor(outputs)
            weights, theirs = _of_box(self._units, batch.planner, packed)
        else:
            answers, weights, theirs = self._of_choices(outputs, batch.planner, packed)
        unit = self._ground.spread()
        found = []
        for _ in range(self._term.projections):
            drawn = torch.randn(answers.shape, generator=self._random) * weights
            (slope,) = torch.autograd.grad(answers, obs, drawn, create_graph=True)
            wanted = (drawn.unsqueeze(1) @ theirs).squeeze(1)
            found.append(((slope - wanted) * unit).square().sum(1))
        return self._show(torch.stack(found).mean(0))

    def _of_choices(
        self, outputs: Tensor, planner: Tensor, packed: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The executor's log probabilities, weights, and the planner's Jacobian of the same.

        (batch, n), (batch, n) and (batch, n, obs). What was remembered, `packed`, is of the packed
        numbers; the chain rule gives the rest.
        """
        assert self._soft is not None
        cut = partial(blocks, self._ground.kind, self._ground.action)
        tau = self._soft.tau
        mine = tau if self._soft.both else 1.0
        answers = [functional.log_softmax(z / mine, 1) for z in cut(outputs)]
        columns = [cut(packed[:, :, i]) for i in range(packed.shape[2])]
        jacobians = [torch.stack(block, 2) for block in zip(*columns, strict=True)]
        weights, slopes = [], []
        for z, each in zip(cut(planner), jacobians, strict=True):
            p = torch.softmax(z / tau, 1)
            weights.append(p.sqrt())
            slopes.append((each - p.unsqueeze(1) @ each) / tau)
        return torch.cat(answers, 1), torch.cat(weights, 1), torch.cat(slopes, 1)


def _of_box(units: BoxUnits, said: Tensor, packed: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (batch, n), and the planner's Jacobian in halves of the box, (batch, n, obs)."""
    action = said[:, : units.size].detach().requires_grad_()
    (factor,) = torch.autograd.grad(units.planner(action).sum(), action)
    # Where the planner is clipped, so is the executor: it may be steep there.
    return units.free(said).to(factor.dtype), factor.unsqueeze(2) * packed


def jacobian(planner: Opened, obs: Tensor, width: int | None = None) -> Tensor:
    """A planner's Jacobian of its packed numbers, or of the first `width`: (batch, width, obs).

    It goes back once for each of them. `obs` is (batch, obs).
    """
    here = obs.detach().requires_grad_()
    nothing = torch.zeros_like(here)
    found = []
    with torch.enable_grad():
        for column in planner.answer(here, None)[:, :width].unbind(1):
            slope: Tensor | None = None
            if column.requires_grad:
                (slope,) = torch.autograd.grad(
                    column.sum(), here, retain_graph=True, allow_unused=True
                )
            found.append(nothing if slope is None else slope)
    return torch.stack(found, 1)
