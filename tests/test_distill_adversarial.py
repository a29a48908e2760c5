"""The adversary: what it can push, what it learns, what it pays."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from agentkd.distillation.terms import parse_terms
from agentkd.distillation.terms.adversarial import Adversarial, Adversary
from agentkd.distillation.terms.term import Batch, Ground, Objective
from agentkd.errors import ConfigError
from agentkd.executors.architecture import initial
from agentkd.executors.network import Network
from agentkd.spec import BoxSpec, DiscreteSpec, ObsSpec, Part, Spec
from agentkd.types import Kind

OBS = ObsSpec((Part("", "box", (2,), "float32"),))
CHOICE = Spec(OBS, DiscreteSpec(3))
BOX = Spec(OBS, BoxSpec((-2.0,), (2.0,), (1,)))


def ground(spec: Spec = CHOICE, kind: Kind = "categorical", seed: int = 0) -> Ground:
    """Make a ground on a small network."""
    executor = initial("mlp:8", spec)
    return Ground(kind, executor.head, spec.action, 2, Network(executor), seed)


def adversary(term: Adversarial, place: Ground | None = None) -> Adversary:
    """Make an adversary."""
    made = term.build(place or ground())
    assert isinstance(made, Adversary)
    return made


def batch(outputs: Tensor, planner: Tensor, progress: float = 0.0) -> Batch:
    """Make a batch at observations drawn with a fixed seed."""
    random = torch.Generator().manual_seed(1)
    obs = torch.randn(len(outputs), 2, generator=random)
    return Batch(obs, outputs, planner, lambda x: x, progress)


def test_the_floor_keeps_the_planners_choice() -> None:
    """Whatever a smooth adversary wants, it moves probabilities by at most weight/2.

    At the minimum of KL(p || q) + w softplus(-D(q)) over logits, q - p = w s Jᵀ∇D
    with s = sigmoid(-D), |J| ≤ 1/2 (softmax) and |∇D| ≤ 1 (spectral norms), so that
    |q - p| ≤ w/2; and the best choice stays where it leads by more than √2 of that.
    """
    weight = 0.2
    term = Adversarial(rate=0.01)
    enemy = adversary(term)
    said = torch.tensor([[0.5, 0.3, 0.2], [0.25, 0.6, 0.15]]).repeat(32, 1)
    wrong = torch.tensor([[0.0, 0.0, 1.0]]).repeat(64, 1)
    # It is taught to want the planner's worst choice, as firmly as it can.
    pair = batch(said.log(), wrong.log().clamp_min(-30))
    for _ in range(300):
        enemy(pair)
    enemy.eval()
    enemy.requires_grad_(requires_grad=False)
    logits = said.log().clone().requires_grad_()
    adam = torch.optim.Adam([logits], 0.02)
    for _ in range(1500):
        answer = torch.log_softmax(logits, 1)
        floor = (said * (said.log() - answer)).sum(1)
        push = functional.softplus(-enemy.logits(pair.obs, answer.exp()))
        adam.zero_grad()
        (floor + weight * push).sum().backward()
        adam.step()
    moved = (torch.softmax(logits, 1) - said).norm(dim=1)
    assert 1e-3 < moved.max() < weight / 2 * 1.02
    assert torch.equal(logits.argmax(1), said.argmax(1))


def test_a_spectral_discriminator_changes_no_more_than_its_input() -> None:
    """|D(x) - D(y)| ≤ |x - y|, also after it has learnt for long."""
    enemy = adversary(Adversarial(rate=0.05))
    random = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 256, 3, generator=random)
    for _ in range(200):
        enemy(batch(first, second))
    enemy.eval()
    obs = torch.zeros(256, 2)
    apart = (enemy.logits(obs, first) - enemy.logits(obs, second)).abs()
    assert (apart <= (first - second).norm(dim=1) * 1.02).all()


def test_a_discriminator_tells_apart_what_differs() -> None:
    """It finds an executor that answers otherwise, and not one that answers alike."""
    obs = batch(torch.zeros(256, 3), torch.zeros(256, 3)).obs
    logits = 2 * obs @ torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, -1.0]])
    told = {}
    for name, outputs in (("alike", logits), ("otherwise", -logits)):
        enemy = adversary(Adversarial(rate=0.01))
        for _ in range(400):
            enemy(batch(outputs, logits))
        told[name] = enemy.numbers()["told"]
    assert told["otherwise"] > 0.9
    assert told["alike"] == pytest.approx(0.5)


def test_who_cannot_be_told_apart_pays_ln_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """At D = 0 the executor's loss is softplus(0)."""
    enemy = adversary(Adversarial())
    logits = enemy.logits
    monkeypatch.setattr(enemy, "logits", lambda *pair: 0.0 * logits(*pair))
    loss = enemy(batch(torch.zeros(4, 3), torch.ones(4, 3)))
    assert torch.allclose(loss, torch.full((4,), math.log(2.0)), atol=1e-5)


def test_it_fades() -> None:
    """From `until` on it costs nothing and learns nothing; half way it costs half."""
    enemy = adversary(Adversarial(until=0.5, rate=1e-12))
    outputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    whole, half, none = (enemy(batch(outputs, -outputs, progress)) for progress in (0.0, 0.25, 0.5))
    assert torch.allclose(half, whole / 2, rtol=1e-3)
    assert not none.any()


def test_it_goes_on_where_it_was() -> None:
    """State and optimiser come back, so that the next loss is the same."""
    outputs = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    pair = batch(outputs, -outputs)
    one, two = adversary(Adversarial()), adversary(Adversarial(), ground(seed=5))
    for _ in range(20):
        one(pair)
    two.load_state_dict(one.state_dict())
    for _ in range(3):
        assert torch.equal(one(pair), two(pair))


def test_the_seed_alone_decides_it() -> None:
    """Nothing is drawn from torch's own generator."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    pair = batch(torch.zeros(4, 3), torch.ones(4, 3))
    same, again = adversary(Adversarial())(pair), adversary(Adversarial())(pair)
    other = adversary(Adversarial(), ground(seed=1))(pair)
    assert torch.equal(same, again)
    assert not torch.equal(same, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_in_a_box_it_pulls_towards_the_planner() -> None:
    """The gradient at the executor's action points to where the planner's are."""
    enemy = adversary(Adversarial(rate=0.02), ground(BOX, "point"))
    outputs = torch.full((64, 1), -0.5)
    pair = batch(outputs, torch.full((64, 1), 1.0))
    for _ in range(200):
        enemy(pair)
    outputs.requires_grad_()
    (slope,) = torch.autograd.grad(enemy(pair).sum(), outputs)
    assert (slope < 0).all()


def test_what_does_not_go_together_is_refused() -> None:
    """Alone it holds nothing; options have bounds."""
    with pytest.raises(ConfigError, match=r"Write 'match \+ 0.1 adversarial'"):
        Objective(parse_terms("0.1 adversarial"), ground())
    for options in ({"until": 0.0}, {"until": 1.1}, {"width": 0}, {"rate": 0.0}):
        with pytest.raises(ConfigError):
            Adversarial(**options)
