"""Looking ahead in a MuJoCo environment's own simulation, and planners rolled out in it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agentkd import Agent, dists, env_spec
from agentkd.cli.main import main
from agentkd.cli.run_options import StrategyChoice, look_ahead
from agentkd.deploy.bundle import write_bundle
from agentkd.errors import ConfigError, PlannerError, SpecError
from agentkd.executors.architecture import initial
from agentkd.planners import Planner, load_planner
from agentkd.planners.rolled import build, rolled_out
from agentkd.planners.search.twin import twin
from agentkd.runtime import InlinePlanner, RollForward, StrategyOptions
from agentkd.spec_json import to_json
from agentkd.types import Floats, Point
from tests.cli_reports import report, undocumented

POLE = "InvertedPendulum-v5"
STEADY = "tests.test_planners_twin:steady"


def steady(obs: Floats) -> Point:
    """Keep an inverted pendulum up."""
    push = 1.2 * obs[:, :1] + 18.0 * obs[:, 1:2] + 1.5 * obs[:, 2:3] + 2.5 * obs[:, 3:4]
    return Point(np.clip(push, -3, 3).astype(np.float32))


def still(obs: Floats) -> Point:
    """Let a hopper stand."""
    return Point(np.zeros((len(obs), 3), np.float32))


class Noisy(gym.Wrapper[Any, Any, Any, Any]):
    """A robot in a wind that nobody sees."""

    def __init__(self) -> None:
        super().__init__(gym.make("HalfCheetah-v5"))

    def step(self, action: Any) -> Any:
        robot: Any = self.unwrapped
        robot.data.qvel[0] += 0.1 * robot.np_random.normal()
        return self.env.step(action)


class Scaled(gym.ObservationWrapper[Any, Any, Any]):
    """A robot that observes itself in other units."""

    def __init__(self) -> None:
        super().__init__(gym.make("HalfCheetah-v5"))

    def observation(self, observation: Any) -> Any:
        return 2 * observation


@pytest.mark.parametrize(
    "name",
    ["HalfCheetah-v5", "Hopper-v5", "Swimmer-v5", "Ant-v5", POLE, 'Walker2d-v5{"frame_skip": 2}'],
)
def test_it_observes_what_the_robot_will(name: str) -> None:
    """Rolled forward over three actions, an observation is the one that comes."""
    from agentkd import environments

    env = environments.make(name)
    obs, _ = env.reset(seed=1)
    env.action_space.seed(0)
    before = obs.astype(np.float32)
    actions = [0.3 * env.action_space.sample() for _ in range(3)]
    for action in actions:
        obs, *_ = env.step(action)
    model = twin(name)
    found = model(before, actions)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, obs, atol=1e-3)
    assert model(before, []) is before
    state = model.placed(before)
    for action in actions:
        state, seen = model.moved(state, action)
    np.testing.assert_allclose(seen, found, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("CartPole-v1", "no MuJoCo environment"),
        ("Reacher-v5", "do not begin with its 4 positions"),
        ("envs.hidden:agentkd/HopperHidden-v0", "observes 5 numbers|wrapper"),
        ("envs.changing:agentkd/ChangingHalfCheetah-v0", "wrapper"),
        ("tests.test_planners_twin:Scaled", "not reproduced"),
        ("tests.test_planners_twin:Noisy", "not reproduced"),
    ],
)
def test_what_is_not_reproduced_is_refused(name: str, why: str) -> None:
    """With the reason: other worlds, hidden positions, wrappers, noise."""
    with pytest.raises(SpecError, match=why):
        twin(name)


def test_a_planner_rolls_itself_out() -> None:
    """Each row is what it would do at the state that the rows before lead to, which it tells."""
    env = gym.make(POLE)
    known = load_planner(STEADY, env_spec(env))
    made = rolled_out(known, POLE, 5)
    policy: Any = made.policy
    obs, _ = env.reset(seed=3)
    seen = [obs.astype(np.float32)]
    for _ in range(4):
        obs, *_ = env.step(steady(obs[None].astype(np.float32)).action[0])
        seen.append(obs.astype(np.float32))
    answer = policy(np.stack([seen[0], seen[2]]))
    np.testing.assert_allclose(answer.expected[:5], np.stack(seen), atol=1e-3)
    np.testing.assert_allclose(answer.expected[5:8], np.stack(seen[2:]), atol=1e-3)
    rows = answer.rows.action.reshape(2, 5, 1)
    assert policy.horizon == 5
    np.testing.assert_allclose(rows[0], steady(np.stack(seen)).action, atol=1e-3)
    np.testing.assert_allclose(rows[1, :3], rows[0, 2:], atol=1e-3)
    assert policy.at(1) is known.policy
    assert len(policy.at(3)(seen[0][None]).rows.action) == 3
    same: Any = build(STEADY, to_json(known.spec), POLE, 5)
    assert np.array_equal(same(seen[0][None]).rows.action, rows[0])
    assert "5 rows" in made.name


def test_a_simulation_that_diverges_predicts_nothing() -> None:
    """MuJoCo would begin anew in silence, with the robot in its first pose."""
    hopper, wild = twin("Hopper-v5"), np.full(11, 1e6, np.float32)
    assert not np.isfinite(hopper(wild, [np.zeros(3, np.float32)])).all()
    assert np.isfinite(hopper(np.zeros(11, np.float32), [np.zeros(3, np.float32)])).all()
    made = rolled_out(Planner(still, hopper.spec, "still", 0, ""), "Hopper-v5", 3)
    with pytest.raises(PlannerError, match="simulation diverged"):
        made.policy(wild[None])  # type: ignore[call-arg]


def test_what_cannot_be_rolled_out_is_refused() -> None:
    """Several rows already, none or half of one, another world or one without a simulation."""
    spec = env_spec(gym.make(POLE))
    known = load_planner(STEADY, spec)
    with pytest.raises(PlannerError, match="one row"):
        rolled_out(rolled_out(known, POLE, 2), POLE, 2)
    for rows in (0, 1.5, "2"):
        wrong: Any = rows
        with pytest.raises(ConfigError, match="rows"):
            rolled_out(known, POLE, wrong)
    with pytest.raises(SpecError, match=r"is for Spec.*; Hopper-v5 has"):
        rolled_out(known, "Hopper-v5", 2)
    with pytest.raises(SpecError, match="CartPole-v1"):
        rolled_out(Planner(steady, spec, "steady", 0, ""), "CartPole-v1", 2)


@pytest.mark.parametrize("model", ["HalfCheetah", "policies.mpc.ahead", ""])
def test_a_model_is_a_reference_or_an_environment(model: str) -> None:
    """Other text is refused at once."""
    with pytest.raises(ConfigError, match="an environment's name"):
        RollForward(model)
    assert RollForward("envs.mine:Mine-v0").as_references()["model"] == "envs.mine:Mine-v0"


def test_an_agent_looks_ahead_by_the_name_of_its_environment() -> None:
    """Three ticks late, the planner acts with rows for the states that come."""
    env = gym.make(POLE)
    spec = env_spec(env)
    policy = rolled_out(load_planner(STEADY, spec), POLE, 12).policy
    strategies = StrategyOptions(roll_forward=RollForward(POLE))
    executor = initial("mlp:8", spec, seed=1)
    late = InlinePlanner(policy, latency_ticks=3)
    with Agent(executor, planner=late, strategies=strategies, mode="planner") as agent:
        obs, _ = env.reset(seed=1)
        for _ in range(200):
            obs, _, terminated, _, _ = env.step(agent.act(obs))
            assert not terminated
        assert agent.metrics()["lead_ticks"] == 3


def run(tmp_path: Path, env: str, *more: str) -> dict[str, Any]:
    """Run the command for an executor that was never taught."""
    file = tmp_path / "e.akd"
    write_bundle(file, initial("mlp:8", env_spec(gym.make(env)), seed=1))
    out = tmp_path / "out"
    words = ["run", env, "--executor", str(file), "--clock", "virtual", "--planner-latency", "2"]
    words += ["--ticks", "60", "--arms", "runtime", "--overwrite", "--out", str(out), *more]
    assert main(words) == 0
    data: dict[str, Any] = report(out)
    assert undocumented(data) == []
    return data


def test_the_command_looks_ahead_by_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With several rows and an exact simulation; it says so, and a flag turns it off."""
    rows = ["--planner", STEADY, "--planner-rows", "8"]
    data = run(tmp_path, POLE, *rows)
    assert data["arms"]["runtime"]["metrics"]["lead_ticks"] == 2
    assert data["roll_forward"] == POLE
    said = " ".join(capsys.readouterr().out.split())
    assert "exact on 64 random transitions" in said
    data = run(tmp_path, POLE, *rows, "--roll-forward", "off")
    assert data["arms"]["runtime"]["metrics"]["lead_ticks"] == 0
    assert data["roll_forward"] is None
    data = run(tmp_path, POLE, "--planner", STEADY)
    assert data["roll_forward"] is None


def test_the_command_says_why_it_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A world without a simulation of its own keeps late rows as they are."""
    data = run(tmp_path, "CartPole-v1", "--planner", "tests.test_planners_twin:several")
    assert data["roll_forward"] is None
    said = " ".join(capsys.readouterr().out.split())
    assert "No roll-forward: CartPole-v1 is no MuJoCo environment" in said


class Several:
    """A planner of three rows."""

    horizon = 3

    def __call__(self, obs: Floats) -> Any:
        """Push towards the lean."""
        from tests.cli_planners import balance

        answer = balance(obs)
        return dists.rows(answer, np.repeat(np.arange(len(obs)), 3))


several = Several()


def test_threads_share_a_simulation() -> None:
    """Several agents of one process look ahead at once, and each sees what is so."""
    model, random = twin("HalfCheetah-v5"), np.random.default_rng(0)
    asked = [
        (random.normal(size=17).astype(np.float32), list(random.uniform(-1, 1, (8, 6))))
        for _ in range(64)
    ]
    wanted = [model(*each) for each in asked]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda each: model(*each), asked * 4))
    assert all(np.array_equal(*pair) for pair in zip(found, wanted * 4, strict=True))


def test_an_environment_by_reference_is_not_taken_for_a_model() -> None:
    """`module:function` would be called as the model, so there is no roll-forward by default."""
    many: Any = type("Many", (), {"horizon": 4})()
    options, said = look_ahead(StrategyChoice(), StrategyOptions(), "mine:make", many)
    assert options.roll_forward is None
    assert "by its id" in said
