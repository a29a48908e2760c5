"""Policies under attack: what they are shown, and that it does harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agentkd import dists
from agentkd.cli import eval as command
from agentkd.cli.main import main
from agentkd.deploy.bundle import write_bundle
from agentkd.distillation.attack import Attack, Attacked, units
from agentkd.errors import ConfigError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.measure.perturb import Way
from agentkd.spec import (
    ActionSpec,
    BoxSpec,
    DiscreteSpec,
    MultiBinarySpec,
    MultiDiscreteSpec,
    ObsSpec,
    Part,
    Spec,
)
from agentkd.types import Categorical, Floats
from tests.cli_reports import report, undocumented

OBS = ObsSpec((Part("", "box", (3,), "float32"),))
UNIT = np.array([1.0, 10.0, 0.0], np.float32)
WAYS: tuple[Way, ...] = ("noise", "fgsm", "pgd")
ACTIONS: list[ActionSpec] = [
    DiscreteSpec(3, 2),
    MultiDiscreteSpec((2, 3)),
    MultiBinarySpec(2),
    BoxSpec((-1.0, -3.0), (2.0, 3.0), (2,)),
]


def states(count: int = 64) -> Floats:
    """Draw observations."""
    random = np.random.default_rng(0)
    return random.standard_normal((count, 3)).astype(np.float32) * np.array([1, 10, 1], np.float32)


def lively(spec: Spec, *, squashed: bool = True) -> Executor:
    """Make an executor whose outputs are not all near zero."""
    executor = initial("mlp:8", spec, seed=1, squashed=squashed)
    noise = np.random.default_rng(2).standard_normal(executor.vector().shape)
    return executor.with_vector(executor.vector() + 0.3 * noise.astype(np.float32), 1)


@pytest.mark.parametrize("action", ACTIONS, ids=str)
@pytest.mark.parametrize("by", WAYS)
def test_what_is_shown_is_near_what_is(by: Way, action: ActionSpec) -> None:
    """At most eps in each number's own unit, not at all where that is 0; noise: on average."""
    obs = np.asarray(states(), np.float32)
    policy = Attacked(lively(Spec(OBS, action)), Attack(by, 0.2, 5), UNIT)
    off = policy.shown(obs) - obs
    assert not off[:, 2].any()
    scaled = np.abs(off[:, :2] / UNIT[:2])
    if by == "noise":
        assert scaled.max() < 1.0
        assert np.sqrt(np.square(scaled).mean()) == pytest.approx(0.2, rel=0.15)
    else:
        assert scaled.max() == pytest.approx(0.2, rel=1e-4)
    dists.check(policy(obs), action, len(obs))


@pytest.mark.parametrize("action", ACTIONS, ids=str)
@pytest.mark.parametrize("squashed", [True, False])
def test_a_search_does_more_harm_than_chance(action: ActionSpec, *, squashed: bool) -> None:
    """Than a corner of the same bounds, by the measure that the search has."""
    many = ObsSpec((Part("", "box", (6,), "float32"),))
    executor = lively(Spec(many, action), squashed=squashed)
    obs = np.random.default_rng(0).standard_normal((256, 6)).astype(np.float32)
    policy = Attacked(executor, Attack("pgd", 0.1), np.ones(6, np.float32))
    network, apart = policy._network, policy._apart
    assert network is not None

    def harm(seen: Floats) -> float:
        with torch.no_grad():
            true, after = (network(torch.from_numpy(each)) for each in (obs, seen))
            return float(apart(true, after).mean())

    sign = np.random.default_rng(3).choice([-1, 1], obs.shape)
    corner = (obs + 0.1 * sign).astype(np.float32)
    assert harm(policy.shown(obs)) > 2 * harm(corner)


def test_on_a_line_the_worst_is_known() -> None:
    """One weight of 1 on a box: the answer moves by eps, as far as it can."""
    spec = Spec(ObsSpec((Part("", "box", (1,), "float32"),)), BoxSpec((-9,), (9,), (1,)))
    executor = initial("linear", spec, squashed=False)
    executor = executor.with_vector(np.array([0, 1, 1, 0], np.float32), 1)
    obs = np.array([[0.5], [-2.0]], np.float32)
    np.testing.assert_allclose(dists.pack(executor(obs)), obs, atol=1e-6)
    one = np.ones(1, np.float32)
    moved = dists.pack(Attacked(executor, Attack("pgd", 0.25), one)(obs)) - obs
    np.testing.assert_allclose(np.abs(moved), [[0.25], [0.25]], rtol=1e-4)


def test_the_same_seed_shows_the_same() -> None:
    """An attack repeats itself, and another seed is another one."""
    executor, obs = lively(Spec(OBS, ACTIONS[0])), np.asarray(states(), np.float32)
    first, again, other = (
        Attacked(executor, Attack("noise", 0.1), UNIT, seed).shown(obs) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_units_are_spreads_and_leave_choices_alone() -> None:
    """A number in a one-hot choice has no half; what never moved has no spread."""
    parts = (Part("a", "box", (2,), "float32"), Part("b", "discrete", (), "int64", (2,)))
    obs = np.array([[0.0, 5.0, 1.0, 0.0], [4.0, 5.0, 0.0, 1.0]], np.float32)
    assert units(obs, ObsSpec(parts, "tuple")).tolist() == [2.0, 0.0, 0.0, 0.0]


def test_attacks_that_cannot_be() -> None:
    """Sizes that mean nothing, a planner without gradients, a memory."""
    with pytest.raises(ConfigError, match="above 0"):
        Attack("pgd", 0.0)
    with pytest.raises(ConfigError, match="above 0"):
        Attack("noise", float("nan"))

    def policy(obs: Floats, /) -> Categorical:
        return Categorical(obs)

    with pytest.raises(ConfigError, match="only executors"):
        Attacked(policy, Attack("fgsm", 0.1), UNIT)

    class Remembers:
        def initial_state(self, batch: int) -> Any:
            return (np.zeros((batch, 1)),)

    remembers: Any = Remembers()
    with pytest.raises(ConfigError, match="memory"):
        Attacked(remembers, Attack("noise", 0.1), UNIT)


# agentkd eval --attack

CARTPOLE = Spec(ObsSpec((Part("", "box", (4,), "float32"),)), DiscreteSpec(2))
BALANCE = "tests.cli_planners:balance"


@pytest.fixture
def good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An executor that is the balancing rule itself."""
    monkeypatch.setattr(command, "_SECONDS", 0.01)
    executor = initial("linear", CARTPOLE)
    rule = 4.0 * np.array([0.05, 0.1, 1.0, 0.3], np.float32)
    weight = np.stack([-rule, rule])
    numbers = np.concatenate([np.zeros(4), np.ones(4), weight.ravel(), np.zeros(2)])
    executor = executor.with_vector(numbers.astype(np.float32), 1)
    file = tmp_path / "good.akd"
    write_bundle(file, executor)
    return str(file)


def test_clean_and_attacked_stand_side_by_side(
    good: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A perfect executor keeps all without, and under a strong attack it falls."""
    out = tmp_path / "out"
    words = ["eval", "CartPole-v1", BALANCE, good, "--episodes", "3"]
    words += ["--attack", "pgd", "--epsilon", "5", "--out", str(out)]
    assert main(words) == 0
    data = report(out)
    planner, executor = data["policies"]
    assert executor["retention"] == 1.0
    assert executor["agreement"] == 1.0
    attacked = executor["attacked"]
    assert attacked["retention"] < 0.5
    assert attacked["agreement"] < 0.8
    assert len(attacked["returns"]) == 3
    assert "only executors" in planner["attacked"]["note"]
    assert data["attack"] == {"by": "pgd", "eps": 5.0, "steps": 10}
    assert undocumented(data, executor, attacked) == []
    assert "Under pgd of 5 in 10 steps" in capsys.readouterr().out


def test_noise_meets_planners_too(good: str, tmp_path: Path) -> None:
    """A little of it costs the rule nothing, nor the executor."""
    out = tmp_path / "out"
    words = ["eval", "CartPole-v1", BALANCE, good, "--episodes", "2"]
    words += ["--attack", "noise", "--epsilon", "0.01", "--out", str(out)]
    assert main(words) == 0
    found = [each["attacked"]["retention"] for each in report(out)["policies"]]
    assert found == [1.0, 1.0]


def test_without_a_planner_the_first_executor_gives_the_unit(good: str, tmp_path: Path) -> None:
    """There is no agreement then, and no retention, but a return."""
    out = tmp_path / "out"
    words = ["eval", "CartPole-v1", good, "--episodes", "2", "--out", str(out)]
    assert main([*words, "--attack", "fgsm", "--epsilon", "0.01"]) == 0
    (policy,) = report(out)["policies"]
    assert policy["attacked"]["return"] == 500.0
    assert policy["attacked"]["agreement"] is None
    assert main(["eval", "CartPole-v1", str(out), "--attack", "fgsm"]) == 2
