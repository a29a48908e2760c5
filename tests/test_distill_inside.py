"""Terms that look into the planner: attention, slopes, and what opens it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO, SAC, TD3
from torch import Tensor, nn

from agentkd import dists
from agentkd.distillation.distiller import Distiller, DistillerOptions
from agentkd.distillation.terms import Weighted, parse_terms, to_text
from agentkd.distillation.terms.answers import Match
from agentkd.distillation.terms.inside import Attention, Cache, Slopes, jacobian, log_relations
from agentkd.distillation.terms.term import Batch, Ground, Loss, Objective, Term
from agentkd.errors import ConfigError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.executors.network import Network
from agentkd.planners import load_planner
from agentkd.planners.adapt import from_module
from agentkd.planners.sb3.live import from_model
from agentkd.planners.torch_view import Opened, opened
from agentkd.spec import BoxSpec, DiscreteSpec, ObsSpec, Part, Spec

OBS = ObsSpec((Part("", "box", (8,), "float32"),))
CHOICE = Spec(OBS, DiscreteSpec(3))
BOX = Spec(OBS, BoxSpec((-2.0, 0.0), (2.0, 1.0), (2,)))
SEEN = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))


def grown(architecture: str, spec: Spec = CHOICE, seed: int = 0) -> Executor:
    """Make an executor with weights that mean something."""
    sketch = initial(architecture, spec, seed=seed)
    vector = sketch.vector()
    random = np.random.default_rng(seed)
    vector[16:] += 0.3 * random.standard_normal(len(vector) - 16).astype(np.float32)
    return sketch.with_vector(vector, 0)


def built(term: Term, executor: Executor, planner: Any) -> tuple[Loss, Batch]:
    """Make a loss beside `match`, and a batch of what was seen."""
    network = Network(executor)
    answer = planner(SEEN.numpy())
    place = Ground(
        kind=dists.kind_of(answer),
        head=executor.head,
        action=executor.spec.action,
        obs=8,
        network=network,
        planner=planner,
    )
    whole = Objective((Weighted(Match()), Weighted(term)), place)
    packed = torch.from_numpy(dists.pack(answer))
    batch = Batch(SEEN, network(SEEN), packed, network.forward)
    whole.base(batch)
    (_, loss) = whole._others[0]
    return loss, batch


@pytest.mark.parametrize(
    ("term", "architecture", "spec"),
    [
        (Attention(), "attention:8/2/2", CHOICE),
        (Attention(of="attention"), "attention:8/2/1", BOX),
        (Slopes(), "mlp:6,tanh", CHOICE),
        (Slopes(projections=3), "attention:8/2/1", BOX),
    ],
)
def test_there_is_nothing_to_learn_from_oneself(term: Term, architecture: str, spec: Spec) -> None:
    """An executor that is the planner itself has a loss of 0; another one has not."""
    planner = grown(architecture, spec)
    loss, batch = built(term, planner, planner)
    assert loss(batch).abs().max().item() < 1e-5
    other, batch = built(term, grown(architecture, spec, seed=1), planner)
    found = other(batch)
    assert found.shape == (6,)
    assert found.min().item() > 1e-6
    assert other.numbers()["apart"] == pytest.approx(found.mean().item())
    assert other.numbers()["looked"] == 6


def test_heads_blocks_and_widths_may_differ() -> None:
    """Four heads of a width of 16 teach two of 8: both are cut into four."""
    loss, batch = built(Attention(), grown("attention:8/2/1"), grown("attention:16/4/3"))
    assert loss.heads == 4
    loss(batch).sum().backward()
    loss, _ = built(
        Attention(heads=8, block=0), grown("attention:8/2/1"), grown("attention:16/4/3")
    )
    assert loss.heads == 8
    loss, _ = built(Attention(), grown("attention:6/3/1"), grown("attention:8/4/1"))
    assert loss.heads == 2


def test_relations_do_not_know_the_axes_of_their_head() -> None:
    """A rotation within each relation head changes nothing, one across them does."""
    block: Any = torch.randn(3, 5, 2, 4, 4).unbind(0)
    drawn = torch.linalg.qr(torch.randn(4, 4)).Q
    turned = tuple(each @ drawn for each in block)
    before = log_relations(block, 2, "alike")
    assert torch.allclose(log_relations(turned, 2, "alike"), before, atol=1e-4)
    halves = log_relations(block, 4, "alike")
    assert not torch.allclose(log_relations(turned, 4, "alike"), halves, atol=1e-2)
    assert torch.allclose(before.exp().sum(-1), torch.ones(before.shape[:-1]))


def test_attention_is_what_the_executor_computes_with() -> None:
    """of=attention with its own heads is softmax(Q Kᵀ / √width) by hand."""
    query, key, value = torch.randn(3, 1, 2, 3, 4).unbind(0)
    found = log_relations((query, key, value), 2, "attention")[0, 0, 1].exp()
    by_hand = torch.softmax(query[0, 1] @ key[0, 1].T / 2.0, 1)
    assert torch.allclose(found, by_hand, atol=1e-6)


@pytest.mark.parametrize("spec", [CHOICE, BOX])
def test_slopes_are_those_of_finite_differences(spec: Spec) -> None:
    """The planner's Jacobian agrees with small steps to either side."""
    found = opened(grown("mlp:8,tanh", spec), "test")
    slopes = jacobian(found, SEEN)
    step = 1e-2
    for i in range(8):
        aside = torch.zeros(8)
        aside[i] = step
        ahead, behind = (found.answer(SEEN + aside, None), found.answer(SEEN - aside, None))
        assert torch.allclose(slopes[:, :, i], (ahead - behind) / (2 * step), atol=5e-3)


def test_projected_slopes_are_the_whole_distance_on_average() -> None:
    """Many projections give Σ p |∇log p − ∇log q|², taken apart by hand."""
    executor, planner = grown("mlp:6,tanh", seed=1), grown("mlp:6,tanh")
    loss, batch = built(Slopes(projections=4000), executor, planner)
    sides = []
    for one in (planner, executor):
        packed = opened(one, "test")

        def log(obs: Tensor, trace: Any, packed: Opened = packed) -> Tensor:
            return torch.log_softmax(packed.answer(obs, trace), 1)

        sides.append(jacobian(Opened("categorical", log), SEEN))
    p = torch.softmax(batch.planner, 1)
    whole = (p * (sides[0] - sides[1]).square().sum(2)).sum(1)
    assert torch.allclose(loss(batch), whole, rtol=0.1)


def test_slopes_ignore_what_is_clipped() -> None:
    """Beyond the box the planner does not move, and the executor may."""
    module = nn.Linear(8, 2)
    nn.init.constant_(module.bias, 50.0)
    loss, batch = built(Slopes(), grown("mlp:4", BOX), from_module(module, BOX))
    assert loss(batch).abs().max().item() == 0.0


def test_slopes_ignore_labels_at_the_bounds() -> None:
    """A planner that clips for itself answers with the bound, and no further."""

    class Clipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 2)

        def forward(self, obs: Tensor) -> Tensor:
            return torch.clamp(self.layer(obs) + 50.0, max=torch.tensor([2.0, 1.0]))

    loss, batch = built(Slopes(), grown("mlp:4", BOX), from_module(Clipping(), BOX))
    assert loss(batch).abs().max().item() == 0.0


def test_a_module_without_a_gradient_is_refused_at_once() -> None:
    """What is computed in NumPy inside has none, and that is said before learning."""

    class Outside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 3)

        def forward(self, obs: Tensor) -> Tensor:
            return torch.from_numpy(self.layer(obs).numpy())

    with pytest.raises(ConfigError, match="gradient"):
        built(Slopes(), grown("mlp:4"), from_module(Outside(), CHOICE))


def test_the_planner_is_looked_into_once_for_each_label() -> None:
    """What is known is not computed again; rows come back in their order."""
    asked: list[int] = []

    def double(obs: Tensor) -> Tensor:
        asked.append(len(obs))
        return 2 * obs

    memory = Cache(double)
    assert torch.equal(memory(SEEN[[0, 1, 0]]), 2 * SEEN[[0, 1, 0]])
    assert torch.equal(memory(SEEN[[3, 1, 2, 0]]), 2 * SEEN[[3, 1, 2, 0]])
    assert (asked, memory.asked) == ([2, 2], 4)


def test_what_was_remembered_may_be_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory would grow too large the newest half stays; answers do, too."""
    from agentkd.distillation.terms import inside

    # Room for three.
    monkeypatch.setattr(inside, "_MOST", 3 * (8 + 40))
    memory = Cache(lambda obs: 2 * obs)
    for rows, asked in (([0, 1], 2), ([2, 3], 4), ([0, 3], 5), ([3, 0], 5)):
        assert torch.equal(memory(SEEN[rows]), 2 * SEEN[rows])
        assert memory.asked == asked


@pytest.mark.parametrize("algorithm", [DQN, PPO, SAC, TD3])
def test_an_sb3_policy_is_opened_as_it_answers(algorithm: Any) -> None:
    """The numbers in torch are those of the planner, and they have a gradient."""
    env = "CartPole-v1" if algorithm in (DQN, PPO) else "Pendulum-v1"
    extra = {} if algorithm is PPO else {"buffer_size": 10}
    kwargs = {"net_arch": [8]}
    model = algorithm("MlpPolicy", env, policy_kwargs=kwargs, seed=0, **extra)
    planner = from_model(model)
    obs = np.random.default_rng(0).standard_normal((5, planner.spec.obs.size))
    seen = obs.astype(np.float32)
    found = opened(planner.policy, "test")
    packed = found.answer(torch.from_numpy(seen), None)
    policy: Any = planner.policy
    answer = policy(seen)
    assert found.kind == dists.kind_of(answer)
    assert np.allclose(packed.numpy(), dists.pack(answer), atol=1e-5)
    assert jacobian(found, torch.from_numpy(seen)).abs().max().item() > 0


class Answers(nn.Module):
    """A linear layer whose answer is put into words."""

    def __init__(self, size: int, say: Any) -> None:
        super().__init__()
        self.layer, self.say = nn.Linear(8, size), say

    def forward(self, obs: Tensor) -> Any:
        return self.say(self.layer(obs))


@pytest.mark.parametrize(
    ("spec", "say"),
    [
        (CHOICE, lambda z: z),
        (CHOICE, lambda z: torch.distributions.Categorical(logits=z)),
        (BOX, lambda z: z),
        (BOX, lambda z: (z, torch.zeros(2))),
        (BOX, lambda z: torch.distributions.Normal(z, torch.ones(2))),
    ],
)
def test_a_module_is_opened_as_it_answers(spec: Spec, say: Any) -> None:
    """Tensors, pairs and torch distributions, packed as the labels are."""
    size = dists.action_size(spec.action)
    policy = from_module(Answers(size, say), spec)
    answer = policy(SEEN.numpy())
    found = opened(policy, "test")
    packed = found.answer(SEEN, None).detach().numpy()
    assert found.kind == dists.kind_of(answer)
    assert np.allclose(packed, dists.pack(answer), atol=1e-6)
    assert jacobian(found, SEEN).abs().max().item() > 0


def test_what_cannot_be_looked_into_is_refused() -> None:
    """Each message says what is missing and what to take instead."""
    executor = grown("attention:8/2/1")
    plain = grown("mlp:8")

    def box(obs: Any) -> Any:
        return plain(obs)

    for term in (Attention(), Slopes()):
        with pytest.raises(ConfigError, match="shows only its answers"):
            built(term, executor, box)
    with pytest.raises(ConfigError, match="executor with attention"):
        built(Attention(), plain, executor)
    with pytest.raises(ConfigError, match="planner with attention"):
        built(Attention(), executor, plain)
    with pytest.raises(ConfigError, match="has to divide both widths"):
        built(Attention(heads=3), executor, executor)
    with pytest.raises(ConfigError, match="the planner has 1"):
        built(Attention(block=1), executor, executor)
    remembering = Distiller(
        initial("gru:4", CHOICE), DistillerOptions(terms="match + slopes"), plain
    )
    with pytest.raises(ConfigError, match="without a memory"):
        remembering.expect("categorical")
    alone = Distiller(executor, DistillerOptions(terms="match + slopes"))
    with pytest.raises(ConfigError, match="no planner is at hand"):
        alone.expect("categorical")


def test_tokens_have_to_be_the_same() -> None:
    """A planner that cuts observations otherwise is refused, with both numbers."""

    class Other:
        """Has four tokens."""

        def __call__(self, obs: Any) -> Any:
            return grown("mlp:4")(obs)

        def opened(self) -> Opened:
            def answer(obs: Tensor, trace: Any) -> Tensor:
                shown = torch.zeros(len(obs), 2, 4, 4)
                trace.relations.append((shown, shown, shown))
                return torch.zeros(len(obs), 3)

            return Opened("categorical", answer)

    with pytest.raises(ConfigError, match="8 tokens, the planner into 4"):
        built(Attention(), grown("attention:8/2/1"), Other())


def test_they_are_read_and_written() -> None:
    """As text and back."""
    text = "match + 0.1 attention:of=attention,heads=2 + 0.02 slopes"
    terms = parse_terms(text)
    assert terms[1].term == Attention("attention", 2)
    assert parse_terms(to_text(terms)) == terms
    for bad in ("match + attention:heads=0", "match + slopes:projections=0"):
        with pytest.raises(ConfigError, match="is 0"):
            parse_terms(bad)


def test_a_distiller_learns_with_them(tmp_path: Any) -> None:
    """Through the loop: the relations come nearer, and numbers are shown."""
    planner = grown("attention:8/4/2")
    options = DistillerOptions(terms="match + attention + 0.1 slopes", batch=32)
    distiller = Distiller(initial("attention:8/2/1", CHOICE), options, planner)
    obs = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)
    distiller.add(obs, planner(obs))
    first, *_, last = [distiller.step() for _ in range(60)]
    assert last["attention.apart"] < 0.5 * first["attention.apart"]
    assert last["slopes.looked"] <= 200


def test_a_folder_may_hold_an_executor_as_planner(tmp_path: Any) -> None:
    """planner.akd in a folder is found, and can be opened."""
    from agentkd.deploy.bundle import write_bundle

    write_bundle(tmp_path / "planner.akd", grown("attention:8/2/1"))
    assert opened(load_planner(str(tmp_path)).policy, "test").kind == "categorical"
