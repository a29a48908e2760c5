"""Models of CleanRL, written by modules of the form that its scripts have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from agentkd import dists
from agentkd.errors import SpecError
from agentkd.planners import load_planner
from agentkd.planners.files.network import own_spec
from agentkd.spec import BoxSpec
from agentkd.types import Categorical, Point, QValues, SquashedGaussian
from tests.policy_files import chain, load, saved

OBS = np.random.default_rng(0).standard_normal((1000, 5)).astype(np.float32)


class Ppo(nn.Module):
    """As in cleanrl/ppo_continuous_action.py, smaller."""

    def __init__(self) -> None:
        """Make an actor and a critic."""
        super().__init__()
        self.critic = chain(5, 8, 8, 1, between=nn.Tanh)
        self.actor_mean = chain(5, 8, 8, 3, between=nn.Tanh)
        self.actor_logstd = nn.Parameter(torch.randn(1, 3))


class OffPolicy(nn.Module):
    """As the actors in cleanrl/td3_continuous_action.py and sac_continuous_action.py, smaller."""

    def __init__(self, *last: str) -> None:
        """Make an actor with these last layers."""
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(5, 8), nn.Linear(8, 8)
        for name in last:
            setattr(self, name, nn.Linear(8, 3))
        self.register_buffer("action_scale", torch.tensor([2.0, 1.0, 0.5]))
        self.register_buffer("action_bias", torch.tensor([1.0, 0.0, 0.25]))

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """What the last layers get."""
        return torch.relu(self.fc2(torch.relu(self.fc1(x))))


BOX = BoxSpec((-1.0, -1.0, -0.25), (3.0, 1.0, 0.75), (3,))


def test_cleanrl_ppo_answers_a_gaussian(tmp_path: Path) -> None:
    """The statistics of its environment's normaliser are not in the file, which is said."""
    agent = Ppo()
    path = saved(tmp_path, agent.state_dict())
    with pytest.warns(UserWarning, match="NormalizeObservation and does not save"):
        policy: Any = load_planner(str(path)).policy
    answer = policy(OBS)
    with torch.no_grad():
        mean = agent.actor_mean(torch.from_numpy(OBS)).numpy()
    np.testing.assert_allclose(answer.mean, mean, atol=1e-5)
    np.testing.assert_allclose(answer.log_std[0], agent.actor_logstd.detach()[0], atol=1e-6)


def test_cleanrl_choices_are_logits_or_action_values(tmp_path: Path) -> None:
    """PPO's actor gives logits, DQN's network action values, with their own activations."""
    ppo, dqn = chain(5, 8, 4, between=nn.Tanh), chain(5, 8, 6, 4, between=nn.ReLU)
    held = {f"actor.{k}": v for k, v in ppo.state_dict().items()}
    first: Any = load(saved(tmp_path, held)).policy
    second: Any = load(saved(tmp_path, {f"network.{k}": v for k, v in dqn.state_dict().items()}))
    with torch.no_grad():
        logits, values = (net(torch.from_numpy(OBS)).numpy() for net in (ppo, dqn))
    answer, other = first(OBS), second.policy(OBS)
    assert isinstance(answer, Categorical)
    assert isinstance(other, QValues)
    np.testing.assert_allclose(answer.logits, logits, atol=1e-5)
    np.testing.assert_allclose(other.values, values, atol=1e-5)


@pytest.mark.parametrize(
    ("part", "script", "usual"), [("actor", "ppo", "tanh"), ("network", "dqn", "relu")]
)
def test_a_network_taken_for_cleanrls_is_announced_with_its_activation(
    part: str, script: str, usual: str, tmp_path: Path
) -> None:
    """Anyone's network may have these names; the activation is then the user's."""
    net = chain(5, 8, 4, between=nn.ELU)
    path = saved(tmp_path, {f"{part}.{k}": v for k, v in net.state_dict().items()}, "mine.pt")
    said = rf"it is of CleanRL's {script}, by its weights' names; activation={usual}"
    with pytest.warns(UserWarning, match=said):
        load_planner(str(path))
    with pytest.warns(UserWarning, match=f"CleanRL's {script}, by its weights' names") as heard:
        planner: Any = load_planner(str(path), args={"activation": "elu"})
    assert "activation=" not in str(heard[0].message)
    answer = planner.policy(OBS)
    with torch.no_grad():
        wanted = net(torch.from_numpy(OBS)).numpy()
    found = answer.logits if script == "ppo" else answer.values
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_cleanrl_td3_and_sac_act_within_their_own_bounds(tmp_path: Path) -> None:
    """Bounds are in the file; an environment with others is refused."""
    td3, sac = OffPolicy("fc_mu"), OffPolicy("fc_mean", "fc_logstd")
    one: Any = load(saved(tmp_path, (td3.state_dict(), {}, {})), own_spec(5, BOX))
    two: Any = load(saved(tmp_path, sac.state_dict(), "y.cleanrl_model"))
    with torch.no_grad():
        x = td3.hidden(torch.from_numpy(OBS))
        point = torch.tanh(td3.fc_mu(x)) * td3.action_scale + td3.action_bias
        x = sac.hidden(torch.from_numpy(OBS))
        mean, log_std = sac.fc_mean(x), -5 + 3.5 * (torch.tanh(sac.fc_logstd(x)) + 1)
        mode = torch.tanh(mean) * sac.action_scale + sac.action_bias
    answer, other = one.policy(OBS), two.policy(OBS)
    assert isinstance(answer, Point)
    assert isinstance(other, SquashedGaussian)
    np.testing.assert_allclose(answer.action, point, atol=1e-5)
    np.testing.assert_allclose(other.mean, mean, atol=1e-5)
    np.testing.assert_allclose(other.log_std, log_std, atol=1e-5)
    np.testing.assert_allclose(dists.mode(other, two.spec.action), mode, atol=1e-5)
    with pytest.raises(SpecError, match="RescaleAction"):
        load(tmp_path / "y.cleanrl_model", own_spec(5, BoxSpec((-1.0,) * 3, (1.0,) * 3, (3,))))
