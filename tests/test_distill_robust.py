"""Attacks stay in their ball and do harm; the terms against them are what they say."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from agentkd.distillation.terms import Weighted
from agentkd.distillation.terms.answers import Match
from agentkd.distillation.terms.robust import Robust
from agentkd.distillation.terms.term import Batch, Ground, Loss, Objective, Term
from agentkd.errors import ConfigError
from agentkd.measure.perturb import Way, perturbed
from agentkd.spec import ActionSpec, BoxSpec, DiscreteSpec
from agentkd.types import Kind

BOX = BoxSpec((-1.0, -1.0), (1.0, 1.0), (2,))


class Linear(nn.Module):
    """An executor without layers: outputs = weight (obs - mean) scale."""

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.register_buffer("mean", torch.zeros(len(scale)))
        self.register_buffer("scale", scale)
        self.unit = scale

    def forward(self, obs: Tensor) -> Tensor:
        return obs * self.unit @ self.weight.T


WEIGHT = torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, 3.0]])
NETWORK = Linear(WEIGHT, torch.tensor([0.1, 1.0, 10.0]))


def obs(count: int = 64, seed: int = 0) -> Tensor:
    """Draw observations of unlike scales."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, generator=random) / NETWORK.unit


def built(term: Term, action: ActionSpec = BOX, kind: Kind = "point") -> tuple[Objective, Loss]:
    """Make a term beside `match`, on the linear executor."""
    head = "clipped" if isinstance(action, BoxSpec) else "categorical"
    whole = Objective(
        (Weighted(Match()), Weighted(term)),
        Ground(kind, head, action, 3, NETWORK),  # type: ignore[arg-type]
    )
    (loss,) = whole.others
    assert isinstance(loss, Loss)
    return whole, loss


def asked(seen: Tensor, planner: Tensor) -> Batch:
    """Make a batch of what the executor says."""
    return Batch(seen, NETWORK(seen), planner, NETWORK)


@pytest.mark.parametrize("by", ["fgsm", "pgd"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_an_attack_never_leaves_the_ball(by: Way, steps: int) -> None:
    """Each number moves by at most eps units, and by all of it if it pays."""
    unit = 1.0 / NETWORK.unit
    seen = obs()
    moved = perturbed(
        lambda x: NETWORK(x).sum(1),
        seen,
        unit,
        by=by,
        eps=0.3,
        steps=steps,
        generator=torch.Generator().manual_seed(1),
    )
    apart = ((moved - seen) / unit).detach()
    assert apart.abs().max() <= 0.3 * (1 + 1e-5)
    # The loss is a plane: its best corner is the sign of its slope.
    slope = WEIGHT.sum(0)
    gain = (apart @ slope).mean() / (0.3 * slope.abs().sum())
    assert gain > (0.99 if by == "pgd" else 0.7)


def test_noise_has_the_spread_that_is_asked() -> None:
    """Its standard deviation is eps units, and it asks no gradient."""
    seen = obs(20_000)

    def refused(_: Tensor) -> Tensor:
        raise AssertionError

    moved = perturbed(
        refused,
        seen,
        1.0 / NETWORK.unit,
        by="noise",
        eps=0.3,
        steps=1,
        generator=torch.Generator().manual_seed(1),
    )
    spread = ((moved - seen) * NETWORK.unit).std(0)
    assert torch.allclose(spread, torch.tensor(0.3), rtol=0.02)


def test_a_stronger_search_does_no_less_harm() -> None:
    """The loss grows from the true observation by noise, by fgsm, and by pgd."""
    seen = obs(512)
    planner = NETWORK(seen).detach().clamp(-1, 1)
    harm = {}
    for by in ("noise", "fgsm", "pgd"):
        term = Robust(by, eps=0.2, steps=5)
        _, loss = built(term)
        harm[by] = loss(asked(seen, planner)).mean().item()
    base, _ = built(Robust())
    clean = base.base(asked(seen, planner)).mean().item()
    assert clean < harm["noise"] < harm["fgsm"] <= harm["pgd"] * 1.01


def test_to_itself_needs_no_label() -> None:
    """The labels may say anything: the executor's own answer has to hold."""
    seen = obs()
    term = Robust(to="itself")
    found = []
    for planner in (torch.zeros(64, 2), torch.ones(64, 2)):
        _, loss = built(term)
        found.append(loss(asked(seen, planner)).detach())
    assert torch.equal(*found)
    _, other = built(Robust())
    assert not torch.equal(other(asked(seen, torch.ones(64, 2))), found[0])


def test_an_executor_that_does_not_look_is_robust() -> None:
    """With weights of zero nothing near is different, for choices as for boxes."""
    seen = obs(8)
    blind = Linear(torch.zeros(2, 3), torch.ones(3))
    for action, kind in ((BOX, "point"), (DiscreteSpec(2), "categorical")):
        _, loss = built(Robust(to="itself"), action, kind)  # type: ignore[arg-type]
        batch = Batch(seen, blind(seen), torch.zeros(8, 2), blind)
        assert loss(batch).abs().max() < 1e-9


def test_what_cannot_be_meant_is_refused() -> None:
    """A ball has a radius, a search has steps."""
    for options in ({"eps": 0.0}, {"eps": math.nan}, {"eps": math.inf}, {"steps": 0}):
        with pytest.raises(ConfigError, match="it has to be"):
            Robust(**options)
