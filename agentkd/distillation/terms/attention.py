"""Attention transfer: what belongs together for the planner does for the executor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor
from torch.nn import functional

from agentkd.distillation.terms.cache import Cache
from agentkd.distillation.terms.term import Batch, Ground, Loss, Term
from agentkd.errors import ConfigError
from agentkd.executors.network import Network, Trace
from agentkd.planners.torch_view import opened

Relations = Sequence[tuple[Tensor, Tensor, Tensor]]
"""Queries, keys and values of each block, each (batch, heads, tokens, width)."""


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
        """Validate the fields."""
        if self.heads is not None and self.heads < 1:
            raise ConfigError(f"heads is {self.heads}; at least 1.")

    def build(self, ground: Ground) -> Loss:
        """Make the loss."""
        return Relating(self, ground)


@final
class Relating(Loss):
    """`Attention` at work."""

    def __init__(self, term: Attention, ground: Ground) -> None:
        """Look into both networks once."""
        super().__init__()
        network = ground.network
        nothing = torch.zeros(1, ground.obs)
        mine = _own(network, nothing)
        if not mine:
            raise ConfigError(
                "The term 'attention' needs an executor with attention, such as "
                "attention:16/2/1. For others there is 'slopes'."
            )
        planner = opened(ground.planner, "The term 'attention'")

        def inside(obs: Tensor) -> Relations:
            return planner.trace(obs).relations

        with torch.no_grad():
            theirs = inside(nothing)
        if not theirs:
            raise ConfigError(
                "The term 'attention' needs a planner with attention, such as "
                "policies/transformer; this one has none. For others there is "
                "'slopes'."
            )
        if not -len(theirs) <= term.block < len(theirs):
            raise ConfigError(f"block is {term.block}; the planner has {len(theirs)} of attention.")
        (here, there) = mine[-1][0].shape, theirs[term.block][0].shape
        if here[2] != there[2]:
            raise ConfigError(
                f"The executor cuts an observation into {here[2]} tokens, the planner "
                f"into {there[2]}; 'attention' compares token by token. Use 'slopes'."
            )
        self.heads = _heads(term, here[1], here[1] * here[3], there[1], there[3])
        self._term, self._network = term, (network,)

        @torch.no_grad()
        def relations(obs: Tensor) -> Tensor:
            return log_relations(inside(obs)[term.block], self.heads, term.of)

        self._planner = Cache(relations)

    def forward(self, batch: Batch) -> Tensor:
        """Give KL(planner || executor) of each label, mean over relations' rows."""
        theirs = self._planner(batch.obs)
        found = _own(self._network[0], batch.obs)[-1]
        mine = log_relations(found, self.heads, self._term.of)
        apart = (theirs.exp() * (theirs - mine)).sum(-1)
        rows = apart.flatten(2).mean(2).sum(1)
        self.shown["apart"] = rows.detach().mean().item()
        self.shown["looked"] = float(self._planner.asked)
        return rows


def _own(network: object, obs: Tensor) -> Relations:
    if not isinstance(network, Network) or network.memory:
        return ()
    trace = Trace()
    network.from_normalised(network.normalise(obs), trace)
    return trace.relations


def _heads(term: Attention, mine: int, own: int, theirs: int, each: int) -> int:
    """Relation heads; `own` is the executor's width, `each` of a planner's head."""
    width = theirs * each
    if term.heads is None:
        most = max(mine, theirs)
        return most if own % most == 0 == width % most else math.gcd(own, width)
    if own % term.heads or width % term.heads:
        raise ConfigError(
            f"heads is {term.heads}; it has to divide both widths, {own} and {width}."
        )
    return term.heads


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
