"""Executors that see what was true some ticks ago, and what was done since."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agentkd
from agentkd import Agent, dists, env_spec
from agentkd.deploy.bundle import read_bundle
from agentkd.deploy.onnx import to_onnx
from agentkd.errors import ConfigError, LoadError, PlannerError, SpecError
from agentkd.executors.architecture import for_late_sensors, initial, past_of, view_of
from agentkd.executors.executor import Executor
from agentkd.executors.layers import Past
from agentkd.executors.past import unrolled
from agentkd.measure.evaluate import evaluate, record
from agentkd.planners import load_planner
from agentkd.runtime import InlinePlanner
from agentkd.runtime.codec import decode_executor, encode_executor
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
from agentkd.spec_json import from_json, to_json
from agentkd.types import Floats
from agentkd.views import View, columns, parse_view, pick, whole
from tests.deploy_executors import lively
from tests.views_robot import ROBOT, VECTOR, Robot, observation

BOX = BoxSpec((-1.0, -2.0), (1.0, 3.0), (2,))


def test_a_view_of_the_past_is_what_its_words_say() -> None:
    """A delay brings the actions since; their number may be said."""
    assert parse_view("0:2,delay:3") == View(("0:2",), delay=3, actions=3)
    assert parse_view("delay:3,actions:1,stack:2") == View((), stack=2, delay=3, actions=1)
    assert parse_view("actions:2") == View((), actions=2)
    for text in ("delay:3", "stack:2,delay:3,actions:1", "actions:2", "stack:4"):
        assert view_of(initial("mlp:3", VECTOR, sees=text)) == text.split(",")


@pytest.mark.parametrize(
    ("sees", "words"),
    [
        ("delay:2,delay:3", "delay stands twice"),
        ("stack:2,delay:1,stack:2", "stack stands twice"),
        ("delay:99999", "Give a number, such as delay:2"),
        ("actions:-1", "Give a number, such as actions:2"),
        ("stack:", "Give a number, such as stack:2"),
        ("stack:x", "'stack:x' in the view 'stack:x': 'x' is no number of ticks"),
        ("0:2,delay:two", "'two' is no number of ticks. Give a number, such as delay:2"),
        ("actions:x", "'x' is no number of ticks. Give a number, such as actions:2"),
    ],
)
def test_words_of_the_past_are_read_or_refused(sees: str, words: str) -> None:
    """None is silently the last of two, or taken for a place."""
    with pytest.raises(ConfigError, match=words):
        parse_view(sees)


def test_a_reference_may_stand_beside_the_past(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it names is seen, as long ago as is said beside it."""
    monkeypatch.setattr("tests.views_robot.SEES", "joints,stack:2", raising=False)
    view = parse_view("tests.views_robot:SEES,delay:1", ROBOT.obs)
    assert view == View(("joints",), stack=2, delay=1, actions=1)


@pytest.mark.parametrize(
    ("action", "done", "wanted"),
    [
        (DiscreteSpec(3, -1), [-1, 1], [[1, 0, 0], [0, 0, 1]]),
        (MultiDiscreteSpec((2, 3)), [[1, 0], [0, 2]], [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]),
        (MultiBinarySpec(2), [[1, 0], [0, 1]], [[1, 0], [0, 1]]),
        (BoxSpec((-9.0,) * 2, (9.0,) * 2, (2, 1)), [[[0.5], [7]], [[1], [2]]], [[0.5, 7], [1, 2]]),
    ],
)
def test_an_action_is_observed_in_its_own_units(
    action: ActionSpec, done: Any, wanted: list[list[float]]
) -> None:
    """Choices are one-hot; as many numbers as the last layer has."""
    rows = dists.coded(np.array(done), action)
    assert rows.dtype == np.float32
    assert rows.tolist() == wanted
    assert rows.shape[1] == dists.action_size(action)


def shown(obs: Floats, done: Floats, past: Past) -> Floats:
    """Say what an executor is shown, normalised, at each tick of an episode, (ticks, …)."""
    out = []
    for tick in range(len(obs)):
        places = range(tick - past.lag - past.count + 1, tick - past.lag + 1)
        seen = [obs[i] if i >= 0 else np.zeros(past.size) for i in places]
        # Row i of `done` is what was executed before tick i.
        places = range(tick - past.actions + 1, tick + 1)
        acted = [done[i] if i >= 0 else np.zeros(past.width) for i in places]
        out.append(np.concatenate([*seen, *acted]))
    return np.stack(out)


def lived(executor: Executor, obs: Floats, executed: Callable[[int, Any], Any]) -> Floats:
    """Say what an executor does where something else is executed, by its definition."""
    past, action = executor.layers[0], executor.spec.action
    assert isinstance(past, Past)
    # An executor behind what it is shown.
    behind = replace(unrolled(executor), clip=executor.clip)
    normal = (obs - executor.mean[: past.size]) * executor.scale[: past.size]
    normal = np.clip(normal, -executor.clip, executor.clip)
    done = np.zeros((len(obs), past.width), np.float32)
    out = []
    for tick in range(len(obs)):
        acts = np.clip(
            (done - executor.mean[past.size :]) * executor.scale[past.size :],
            -executor.clip,
            executor.clip,
        )
        row = shown(normal, acts, past)[tick]
        raw = row / np.where(behind.scale == 0, 1, behind.scale) + behind.mean
        found = dists.mode(behind(raw[None].astype(np.float32)), action)[0]
        out.append(found)
        if tick + 1 < len(obs):
            done[tick + 1] = dists.coded(np.array([executed(tick, found)]), action)[0]
    return np.array(out)


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(
    "sees", ["0:3,stack:2,delay:2", "delay:1", "actions:3", "delay:2,actions:1"]
)
@pytest.mark.parametrize("action", [BOX, DiscreteSpec(3, 1)], ids=["box", "discrete"])
def test_it_sees_what_was_and_what_was_done(action: ActionSpec, sees: str, native: bool) -> None:
    """Its own actions, or what is said was executed; a reset forgets both."""
    executor = lively(f"mlp:6,tanh {sees}", action)
    if native:
        executor.compile()
    random = np.random.default_rng(0)
    size = executor.spec.obs.size - executor.spec.obs.taken
    obs = random.standard_normal((60, size)).astype(np.float32)
    own = lived(executor, obs, lambda _, mine: mine)
    found = [executor.act(each) for each in obs]
    assert np.allclose(found, own, atol=1e-4)
    executor.reset()
    fixed = np.array([0.5, -1.5], np.float32) if isinstance(action, BoxSpec) else 3
    others = lived(executor, obs, lambda tick, mine: fixed if tick % 3 else mine)
    found = []
    for tick, each in enumerate(obs):
        found.append(executor.act(each))
        if tick % 3:
            executor.executed(fixed)
    assert np.allclose(found, others, atol=1e-4)
    assert not np.allclose(own, others, atol=1e-4)


def test_a_compiled_executor_goes_on_where_it_was() -> None:
    """The action that was executed last is kept, too."""
    executor = lively("mlp:6,tanh delay:1", BOX)
    obs = np.random.default_rng(0).standard_normal((6, 7)).astype(np.float32)
    wanted = [executor.act(each) for each in obs]
    executor.reset()
    found = [executor.act(each) for each in obs[:3]]
    executor.compile()
    found += [executor.act(each) for each in obs[3:]]
    assert np.allclose(found, wanted, atol=1e-4)


def test_files_and_messages_keep_it(tmp_path: Path) -> None:
    """What was saved or sent sees the same; a file in which the parts do not fit is refused."""
    executor = initial("mlp:8", ROBOT, sees="joints,delay:2", seed=1)
    executor.save(tmp_path / "executor.akd")
    found = agentkd.load(tmp_path / "executor.akd")
    assert found.spec == executor.spec == from_json(to_json(executor.spec))
    assert view_of(found) == ["delay:2", "joints"]
    assert found.layers[0] == executor.layers[0]
    obs = observation()
    assert np.allclose(found.act({"joints": obs["joints"]}), executor.act(obs), atol=1e-6)
    sent = decode_executor(encode_executor(executor), executor.vector())
    assert (sent.spec, sent.layers[0]) == (executor.spec, executor.layers[0])
    with pytest.raises(SpecError, match="given 0 numbers of the last action"):
        replace(executor, spec=Spec(ObsSpec((Part("", "box", (7,), "float32"),)), ROBOT.action))


def test_a_robot_whose_sensors_are_late_holds_nothing_back() -> None:
    """It does on old observations what the other did on new ones."""
    executor = lively("mlp:6,tanh delay:2", BOX)
    late = for_late_sensors(executor)
    assert view_of(late) == ["actions:2"]
    obs = np.random.default_rng(0).standard_normal((9, 7)).astype(np.float32)
    wanted = [executor.act(each) for each in obs]
    # Nothing came yet at the first two ticks: the normaliser's mean.
    seen = [late.mean[:7], late.mean[:7], *obs[:-2]]
    assert np.allclose([late.act(each) for each in seen], wanted, atol=1e-5)
    with pytest.raises(ConfigError, match="no delay to leave out"):
        for_late_sensors(late)


REFUSED = [
    ("gru:8", "delay:2", "delay:2 is for mlp"),
    ("attention:8/2/1", "actions:2", "actions:2 is for mlp"),
]


@pytest.mark.parametrize(("architecture", "sees", "why"), REFUSED)
def test_what_cannot_be_behind_it_is_named(architecture: str, sees: str, why: str) -> None:
    """The remedy is an executor without a memory of its own."""
    with pytest.raises(ConfigError, match=why):
        initial(architecture, VECTOR, sees=sees)


def test_a_planner_has_no_delay() -> None:
    """Its environment shows the past."""
    with pytest.raises(PlannerError, match="delay:2 is for executors"):
        load_planner("tests.views_robot:regulate", env_spec(Robot()), sees="state,delay:2")


def test_observations_without_the_action_are_named() -> None:
    """Batches say what was executed; the environment does not show it."""
    executor = initial("mlp:4", VECTOR, sees="0:3,delay:1")
    with pytest.raises(SpecError, match="the last 4 the action executed before"):
        pick(executor.spec.obs, np.zeros((2, 8), np.float32))
    rows = np.arange(24, dtype=np.float32).reshape(2, 12)
    assert pick(executor.spec.obs, rows)[0].tolist() == [0, 1, 2, 8, 9, 10, 11]
    found = columns(executor.spec.obs)
    assert found is not None
    assert found.tolist() == [0, 1, 2]
    assert whole(executor.spec.obs) == VECTOR.obs


def test_game_engines_have_no_place_for_an_action() -> None:
    """Their flavours are refused by name."""
    pytest.importorskip("onnx")
    executor = initial("mlp:4", VECTOR, sees="delay:1")
    for flavour in ("ml-agents", "godot-rl", "rsl-rl"):
        with pytest.raises(ConfigError, match="action that was executed before"):
            to_onnx(executor, flavour)


def test_one_way_of_acting_is_all() -> None:
    """`act`, a policy, a crowd, SB3's `predict` and what is recorded are the same decisions."""
    env = Robot()
    executor = initial("mlp:8", env_spec(env), sees="state,delay:2", seed=2)
    executor = executor.with_vector(executor.vector() * 3, 1)
    seen, acted, total = [], [], 0.0
    obs, _ = env.reset(seed=5)
    ended = False
    while not ended:
        seen.append(obs)
        acted.append(executor.act(obs))
        obs, reward, _, ended, _ = env.step(acted[-1])
        total += reward
    found = evaluate(Robot, executor.policy, episodes=1, seed=5, spec=executor.spec)
    assert found.returns[0] == pytest.approx(total, abs=1e-3)
    robot, spec = "tests.views_robot:Robot", executor.spec
    (rows,) = record(robot, executor.policy, steps=40, seed=5, spec=spec)
    assert np.allclose(rows[:, :2], [each["state"] for each in seen], atol=1e-4)
    assert np.allclose(rows[1:, 2:], acted[:-1], atol=1e-4)
    assert (rows[0, 2:] == 0).all()
    crowd, model, state = executor.crowd(2), executor.as_sb3(), None
    for each, action in zip(seen, acted, strict=True):
        many = {name: np.stack([part, part]) for name, part in each.items()}
        assert np.allclose(crowd.act(many), [action, action], atol=1e-4)
        one, state = model.predict(each, state)
        assert np.allclose(one, action, atol=1e-4)


def test_an_agent_tells_its_executor_who_did_what() -> None:
    """Where the planner's rows act, the executor sees the planner's actions."""
    env = Robot()
    spec = env_spec(env)
    executor = initial("mlp:8", spec, sees="sensors,delay:2", seed=2)
    executor = executor.with_vector(executor.vector() * 3, 1)
    planner = load_planner("tests.views_robot:regulate", spec, sees="state").policy
    with Agent(executor, spec, planner=InlinePlanner(planner, latency_ticks=0)) as agent:
        alone = replace(executor)
        sources, obs = set(), env.reset(seed=1)[0]
        for tick in range(40):
            # Now and then the planner sees nothing, and the executor acts.
            blind = {**obs, "state": np.full(2, np.nan, np.float32)} if tick % 3 else obs
            decision = agent.decide(blind)
            mine = alone.act(obs)
            sources.add(decision.source)
            if decision.source == "executor":
                assert np.allclose(decision.action, mine, atol=1e-5)
            alone.executed(decision.action)
            obs, *_ = env.step(decision.action)
            if tick == 25:
                agent.reset()
                alone.reset()
                obs, _ = env.reset()
            if tick == 30:
                # The same numbers go on with what was remembered.
                agent.swap(executor.with_vector(executor.vector(), 2))
        assert sources == {"strategy", "executor"}


def test_an_agent_that_is_only_an_executor_knows_its_own_actions() -> None:
    """It takes the whole, or what is seen; a reset forgets."""
    spec = env_spec(Robot())
    executor = initial("mlp:8", spec, sees="sensors,delay:1", seed=2)
    executor = executor.with_vector(executor.vector() * 3, 1)
    env = Robot()
    obs = [env.reset(seed=1)[0], *(env.step([0.3])[0] for _ in range(9))]
    wanted = [executor.act(each) for each in obs]
    with Agent(executor) as agent:
        for part in (False, True):
            given = [{"sensors": each["sensors"]} if part else each for each in obs]
            assert np.allclose([agent.act(each) for each in given], wanted, atol=1e-5)
            agent.reset()


def test_the_command_distils_and_exports_it(tmp_path: Path) -> None:
    """From an environment to integers in C; the file's golden vectors hold the actions."""
    from agentkd.cli.main import main

    out = tmp_path / "out"
    words = ["distill", "CartPole-v1", "--planner", "tests.cli_planners:balance", "--labels", "400"]
    words += ["--executor", "mlp:8", "--executor-sees", "0,2,delay:2", "--episodes", "2"]
    assert main([*words, "--out", str(out)]) == 0
    found = read_bundle(out / "executor.akd")
    assert past_of(found.executor) == View(delay=2, actions=2)
    assert found.golden["obs"].shape[1] == 4
    assert set(np.unique(found.golden["obs"][:, 2:])) == {0.0, 1.0}
    for name in ("x.c", "x.int8.c", "x.akx", "x.onnx"):
        assert main(["export", str(out / "executor.akd"), "-o", str(tmp_path / name)]) == 0
    assert "Its last 2 numbers are the action" in (tmp_path / "x.h").read_text()


def test_a_hostile_file_of_the_past_is_refused() -> None:
    """Sizes that do not fit, or are too large, are named."""
    with pytest.raises((SpecError, LoadError)):
        replace(lively("mlp:4 delay:1", BOX), layers=(Past(7, 1, 1 << 30, 2, 1),))
    with pytest.raises(SpecError, match="numbers of an action"):
        ObsSpec((Part("", "box", (8,), "float32"),), taken=-1)
    spec = Spec(ObsSpec((Part("", "box", (8,), "float32"),), taken=3), DiscreteSpec(4))
    assert spec.obs.size == 11
