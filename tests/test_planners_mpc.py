"""Sampling-based control: plans get better, are remembered, and fit the robots."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkd import dists
from agentkd.errors import ConfigError, PlannerError, SpecError
from agentkd.planners import load_planner
from agentkd.planners.search.mpc import Method, MpcOptions, SamplingControl, choose, weigh
from agentkd.planners.search.physics import Physics
from agentkd.planners.search.worlds import Doubles
from agentkd.spec import env_spec
from agentkd.testing import check_policy
from agentkd.types import Floats
from policies import mpc

METHODS: tuple[Method, ...] = ("mppi", "cem")


class Rail:
    """A mass without friction; its state is (place, speed), and 0 is where to be."""

    low = np.array([-1.0])
    high = np.array([3.0])

    def __init__(self) -> None:
        self.rolled = 0

    def restore(self, obs: Floats, /) -> Doubles:
        return obs.astype(float)

    def roll(self, state: Doubles, actions: Doubles, /) -> tuple[Doubles, Doubles]:
        count, ticks, _ = actions.shape
        self.rolled += count
        place, speed = np.repeat(state[:, None], count, axis=1)
        states = np.empty((count, ticks, 2))
        for tick in range(ticks):
            speed = speed + 0.1 * actions[:, tick, 0]
            place = place + 0.1 * speed
            states[:, tick] = np.stack([place, speed], axis=1)
        cost = np.square(states[..., 0]) + 0.1 * np.square(actions[..., 0])
        return -cost, states

    def features(self, states: Doubles, /) -> Doubles:
        return states


class Target(Rail):
    """Pays for being near 1.2 with each tick's action, whatever the state."""

    def roll(self, state: Doubles, actions: Doubles, /) -> tuple[Doubles, Doubles]:
        _, states = super().roll(state, actions)
        return -np.square(actions[..., 0] - 1.2), states


HERE = np.array([[1.0, 0.0]], np.float32)


@pytest.mark.parametrize("method", METHODS)
def test_it_finds_the_best_action(method: Method) -> None:
    """Both methods come near it, at each tick of the answer, in the box's units."""
    options = MpcOptions(method, ticks=4, knots=4, horizon=4, iterations=12)
    answer = SamplingControl(Target(), options)(HERE)
    assert answer.mean.shape == answer.log_std.shape == (4, 1)
    np.testing.assert_allclose(answer.mean, 1.2, atol=0.25)


def test_cem_grows_surer() -> None:
    """The deviation of what counts shrinks with the iterations."""
    options = MpcOptions("cem", ticks=4, knots=4, iterations=6)
    stds = [
        float(np.exp(each.log_std[0, 0]))
        for each in SamplingControl(Target(), options).improve(HERE)
    ]
    assert stds[-1] < 0.5 * stds[0]


@pytest.mark.parametrize("method", METHODS)
def test_each_partial_plan_is_at_least_as_good(method: Method) -> None:
    """The value never falls, and it is what the model says of the answer."""
    world = Rail()
    control = SamplingControl(world, MpcOptions(method, iterations=6, horizon=25))
    plans = list(control.plans(HERE))
    values = [plan.value for plan in plans]
    assert len(values) == 6
    assert all(sooner <= later for sooner, later in pairwise(values))
    actions = list(SamplingControl(world, control.options).improve(HERE))[-1].mean
    rewards, _ = world.roll(HERE[0].astype(float), actions[None].astype(float))
    assert rewards.sum() == pytest.approx(values[-1], rel=1e-5)


def test_a_plan_is_gone_on_with() -> None:
    """Some ticks later it starts from what is left of its plan, not from rest."""
    world = Rail()
    options = MpcOptions("cem", iterations=8, horizon=25, knots=25)
    control = SamplingControl(world, options)
    plan = control(HERE).mean
    state = HERE[0].astype(float)
    _, states = world.roll(state, plan[None].astype(float))
    later = states[0, 2].astype(np.float32)
    start = control._begin(control.rollouts.restore(later))
    np.testing.assert_allclose(start.knots[:22, 0], (plan[3:, 0] - 1) / 2, atol=1e-5)
    fresh = SamplingControl(world, options)._begin(later.astype(float))
    assert start.value > fresh.value


def test_a_plan_that_was_not_followed_is_not_gone_on_with() -> None:
    """Where doing nothing is better, it starts from that."""
    control = SamplingControl(Rail(), MpcOptions("cem", iterations=8))
    control(HERE)
    # At rest in the middle: what is left of any push is worse.
    start = control._begin(np.zeros(2))
    assert start.value == pytest.approx(0.0)
    assert not start.knots.all() or np.allclose(start.knots, -0.5)


def test_remembered_plans_are_bounded() -> None:
    """The oldest make room."""
    control = SamplingControl(Rail(), MpcOptions(iterations=1, remembered=3))
    control(np.repeat(HERE, 7, axis=0))
    assert len(control._plans) == 3


@pytest.mark.parametrize("method", METHODS)
def test_without_memory_it_keeps_the_contract(method: Method) -> None:
    """Asked again, or in another batch, it answers the same."""
    world = gym.make("Pendulum-v1")
    options = MpcOptions(method, remembered=0, iterations=2, samples=16)
    check_policy(SamplingControl(mpc.Pendulum(), options), env_spec(world))


class Cliff(Rail):
    """Where the first action is above 1, nothing is a number any more."""

    everywhere = False

    def roll(self, state: Doubles, actions: Doubles, /) -> tuple[Doubles, Doubles]:
        rewards, states = super().roll(state, actions)
        over = (actions[:, 0, 0] > 1.0) | self.everywhere
        rewards[over] = np.nan
        states[over] = np.nan
        return rewards, states


@pytest.mark.parametrize("method", METHODS)
def test_futures_that_are_no_numbers_are_avoided(method: Method) -> None:
    """They count nothing; where there are only such, it says so."""
    world = Cliff()
    control = SamplingControl(world, MpcOptions(method, iterations=3))
    assert control(HERE).mean[0, 0] <= 1.0
    assert control(HERE).mean[0, 0] <= 1.0
    world.everywhere = True
    with pytest.raises(PlannerError, match="NaN or infinity"):
        control(HERE)


def test_a_model_that_raises_is_a_planners_error() -> None:
    """With what it was asked about."""
    control = SamplingControl(Rail())
    with pytest.raises(PlannerError, match=r"observation of \(3,\)"):
        control(np.zeros((1, 3), np.float32))


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20), st.floats(0.01, 10))
def test_better_plans_count_more(returns: list[float], temperature: float) -> None:
    """Weights add up to 1, follow the returns, and do not depend on their unit."""
    values = np.array([*returns, -np.inf])
    weights = weigh(values, temperature)
    assert weights.sum() == pytest.approx(1)
    assert weights[-1] == 0
    order = np.argsort(values, kind="stable")
    assert (np.diff(weights[order]) >= -1e-12).all()
    if np.ptp(returns) > 1e-3:
        np.testing.assert_allclose(weigh(8 * values, temperature), weights, atol=1e-6)


def test_mppi_weights_by_hand() -> None:
    """exp((R − max R) / (λ std R)), normalised."""
    raised = np.exp(np.array([-2.0, 0.0]) / (0.5 * 1.0))
    np.testing.assert_allclose(weigh(np.array([1.0, 3.0]), 0.5), raised / raised.sum())


def test_cem_weights_by_hand() -> None:
    """The best share counts alike."""
    returns = np.array([3.0, 1.0, -np.inf, 5.0, 4.0, 0.0])
    assert choose(returns, 0.5).tolist() == pytest.approx([1 / 3, 0, 0, 1 / 3, 1 / 3, 0])
    # What is no number never counts, even among the best.
    assert choose(np.array([1.0, -np.inf, -np.inf]), 1.0).tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "mpi"}, "mean 'mppi'"),
        ({"samples": 1}, "samples is 1"),
        ({"knots": 30}, "knots is 30; a plan has 25"),
        ({"horizon": 26}, "horizon is 26"),
        ({"spread": 0.0}, "spread is 0.0"),
        ({"temperature": np.inf}, "temperature is inf"),
        ({"elites": 1.5}, "elites is 1.5"),
    ],
)
def test_options_that_cannot_be_are_refused(options: Any, message: str) -> None:
    """With their name, and what was probably meant."""
    with pytest.raises(ConfigError, match=message):
        MpcOptions(**options)


WORLDS: dict[str, Any] = {
    "HalfCheetah-v5": mpc.half_cheetah_world,
    "Swimmer-v5": mpc.swimmer_world,
    "Pendulum-v1": mpc.Pendulum,
}


@pytest.mark.parametrize("env", WORLDS)
def test_a_world_pays_what_the_environment_pays(env: str) -> None:
    """From what is observed alone, the next ticks are as the environment lives them."""
    real = gym.make(env)
    spec = env_spec(real)
    world = WORLDS[env]()
    obs, _ = real.reset(seed=3)
    random = np.random.default_rng(0)
    actions = random.uniform(world.low, world.high, (12, len(world.low)))
    for action in actions[:4]:
        obs, *_ = real.step(action.astype(real.action_space.dtype))
    state = world.restore(np.asarray(obs, np.float32))
    rewards, states = world.roll(state, actions[None, 4:])
    paid = []
    for action in actions[4:]:
        obs, reward, *_ = real.step(action.astype(real.action_space.dtype))
        paid.append(float(reward))
    # What is observed is rounded to float32.
    np.testing.assert_allclose(rewards[0], paid, atol=2e-3)
    apart = world.features(states[0, -1]) - world.features(
        world.restore(np.asarray(obs, np.float32))
    )
    assert spec.obs.size == len(obs)
    assert np.abs(apart).max() < 2e-3


def test_a_pendulum_is_swung_up() -> None:
    """From hanging down it stands upright within five seconds, and stays."""
    env = gym.make("Pendulum-v1")
    spec = env_spec(env)
    planner = load_planner("policies.mpc:planner", spec)
    assert planner.name == "MPC pendulum"
    control: Any = planner.policy
    once = control.at(1)
    obs, _ = env.reset(seed=0)
    rewards = []
    for _ in range(120):
        answer = once(np.asarray(obs, np.float32)[None])
        obs, reward, *_ = env.step(dists.mode(answer, spec.action)[0])
        rewards.append(float(reward))
    assert np.mean(rewards[-20:]) > -0.1


def test_after_an_end_nothing_is_paid() -> None:
    """The tick in which it falls still is, and the pendulum of MuJoCo does fall."""
    world = mpc.inverted_pendulum_world()
    state = world.restore(np.array([0.0, 0.15, 0.0, 0.5], np.float32))
    rewards, states = world.roll(state, np.zeros((1, 20, 1)))
    fallen = np.abs(states[0, :, 2]) > 0.2
    first = int(fallen.argmax())
    assert 0 < first < 10
    assert (rewards[0, :first] > 0).all()
    assert rewards[0, first] < 0
    assert (rewards[0, first + 1 :] == 0).all()


def test_a_state_that_does_not_fit_is_refused() -> None:
    """So is a reward of another shape, and an actuator without a range."""
    import mujoco

    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><joint name='j' type='slide'/><geom size='1'/>"
        "</body></worldbody><actuator><motor joint='j' ctrlrange='-1 1' "
        "ctrllimited='true'/></actuator></mujoco>"
    )

    def restore(obs: Floats) -> tuple[Any, Any]:
        return obs, obs[:1]

    world = Physics(model, 1, restore, lambda moves: moves.qpos)
    with pytest.raises(SpecError, match=r"qpos \(2,\)"):
        world.restore(np.zeros(2, np.float32))
    state = world.restore(np.zeros(1, np.float32))
    with pytest.raises(PlannerError, match=r"\(1, 5, 1\)"):
        world.roll(state, np.zeros((1, 5, 1)))
    with pytest.raises(ConfigError, match="skip is 0"):
        Physics(model, 0, restore, lambda moves: moves.qpos)
    model.actuator_ctrllimited[:] = False
    with pytest.raises(ConfigError, match="ctrlrange"):
        Physics(model, 1, restore, lambda moves: moves.qpos)


def test_threads_change_nothing() -> None:
    """Two threads give the same futures as none."""
    actions = np.random.default_rng(1).uniform(-1, 1, (8, 5, 6))
    one, two = (
        Physics(
            mpc._model("half_cheetah"),
            5,
            mpc._without_x(9),
            mpc._forward,
            anywhere=(0,),
            threads=threads,
        )
        for threads in (0, 2)
    )
    state = one.restore(np.zeros(17, np.float32))
    np.testing.assert_array_equal(one.roll(state, actions)[1], two.roll(state, actions)[1])


def test_a_robot_that_is_not_known_is_named() -> None:
    """With how to write a world for it."""
    with pytest.raises(SpecError, match="observes 4 numbers"):
        load_planner("policies.mpc:planner", env_spec(gym.make("CartPole-v1")))
