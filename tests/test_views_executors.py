"""Executors that see a part of the observation, or a stack, learn, are kept and act."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import agentkd
from agentkd import Agent, env_spec, load_planner
from agentkd.deploy.bundle import read_bundle
from agentkd.distillation.buffer import LabelBuffer
from agentkd.distillation.distiller import Distiller, DistillerOptions
from agentkd.distillation.history import Histories
from agentkd.distillation.loop import run_distillation as distill
from agentkd.distillation.service import build
from agentkd.distillation.task import open_task
from agentkd.errors import ConfigError, SpecError
from agentkd.executors.architecture import initial, view_of
from agentkd.executors.layers import Conv, Stack
from agentkd.executors.past import past_layer
from agentkd.executors.plan import normaliser
from agentkd.planners.torch_view import opened
from agentkd.runtime import InlineDistiller, InlinePlanner
from agentkd.runtime.codec import decode_executor, encode_executor
from agentkd.spec import DiscreteSpec, ObsSpec, Part, Spec, obs_spec
from agentkd.spec_json import to_json
from agentkd.testing import check_policy
from agentkd.types import Categorical, Floats, Labels
from agentkd.views import whole
from tests.views_robot import ROBOT, VECTOR, Robot, observation, regulate


def sequence(executor: Any, rows: int = 9) -> Floats:
    """Draw observations of the whole, (rows, size)."""
    random = np.random.default_rng(5)
    size = whole(executor.spec.obs).size
    return random.standard_normal((rows, size)).astype(np.float32)


def test_a_stack_holds_the_last_observations() -> None:
    """Oldest first, zeros before the first, cleared by a reset."""
    executor = initial("linear", VECTOR, sees="0:2,stack:3", seed=1)
    assert (executor.memory, executor.parameters) == (4, 4 * 6 + 4)
    obs = sequence(executor)
    rows = np.concatenate([np.zeros((2, 2), np.float32), obs[:, :2]])
    stacks = np.concatenate([rows[:-2], rows[1:-1], rows[2:]], axis=1)
    last: Any = executor.layers[-1]
    assert np.allclose(executor.follow(obs), stacks @ last.weight.T + last.bias, atol=1e-6)
    wanted = executor.follow(obs).argmax(1).tolist()
    assert [executor.act(each) for each in obs] == wanted
    executor.reset()
    assert [executor.act(each) for each in obs] == wanted
    assert executor.compile().act(obs[0]) in range(4)


def test_a_file_keeps_the_view(tmp_path: Path) -> None:
    """What was saved acts alike, from whole observations and from what is seen."""
    executor = initial("mlp:8", ROBOT, sees="joints,stack:2", seed=1)
    executor.save(tmp_path / "executor.akd")
    found = agentkd.load(tmp_path / "executor.akd")
    assert found.spec == executor.spec
    assert view_of(found) == ["stack:2", "joints"]
    obs = observation()
    first = found.act(obs)
    found.reset()
    assert np.allclose(found.act({"joints": obs["joints"]}), first)
    executor.reset()
    assert np.allclose(executor.act(obs), first, atol=1e-6)


def test_predict_takes_one_or_many() -> None:
    """Stable-Baselines3's interface is given the environment's observations."""
    executor = initial("mlp:8", ROBOT, sees="joints", seed=1)
    model, obs = executor.as_sb3(), observation()
    one, _ = model.predict(obs)
    batch = {name: np.stack([each, each]) for name, each in obs.items()}
    many, _ = model.predict(batch)
    assert one.shape == (1,)
    assert np.allclose(many, [one, one])
    check_policy(executor, executor.spec)
    check_policy(executor, ROBOT)


def test_a_stack_is_for_executors_without_a_memory() -> None:
    """Others remember by themselves."""
    with pytest.raises(ConfigError, match="stack:4 is for mlp"):
        initial("gru:8", VECTOR, sees="stack:4")


@pytest.mark.parametrize(
    ("shape", "size", "first"),
    [((9, 7), (9, 7, 20), 63), ((9, 7, 1), (9, 7, 20), 63), ((2, 9, 7), (9, 7, 40), 126)],
)
def test_a_stack_of_images_makes_channels(
    shape: tuple[int, ...], size: tuple[int, ...], first: int
) -> None:
    """The oldest image's come first, however many there are."""
    spec = Spec(ObsSpec((Part("", "box", shape, "uint8"),)), DiscreteSpec(3))
    executor = initial("cnn:4x3/2,8", spec, sees="stack:20", seed=1)
    stack, conv = executor.layers[:2]
    assert stack == Stack(20, first)
    assert isinstance(conv, Conv)
    assert (conv.shape, conv.channels_first) == (size, True)


def test_a_stack_does_not_mix_channels() -> None:
    """Images whose channels come last are refused."""
    spec = Spec(ObsSpec((Part("", "box", (9, 7, 3), "uint8"),)), DiscreteSpec(3))
    with pytest.raises(ConfigError, match="come last"):
        initial("cnn:4x3/2,8", spec, sees="stack:2")


def test_a_stack_of_images_learns_what_moves() -> None:
    """Which way a line goes stands in no image; two tell, with one mean for all pixels."""
    spec = Spec(ObsSpec((Part("", "box", (5, 8), "uint8"),)), DiscreteSpec(2))
    random = np.random.default_rng(0)
    count = 2000
    link = np.where(np.arange(count) % 20 == 0, 0, 1).astype(np.int32)
    way = np.repeat(random.choice([-1, 1], count // 20), 20)
    place = (np.repeat(random.integers(8, size=count // 20), 20) + way * np.arange(count)) % 8
    obs = np.zeros((count, 5, 8), np.float32)
    obs[np.arange(count), :, place] = 255
    flat = obs.reshape(count, -1)
    learner = Distiller(
        initial("cnn:4x3,8", spec, sees="stack:2", seed=0), DistillerOptions(batch=64)
    )
    learner.add(flat, Categorical(8.0 * np.stack([-way, way], 1).astype(np.float32)), link)
    for _ in range(200):
        learner.step()
    learnt = learner.freeze()
    assert len(set(learnt.mean.tolist())) == len(set(learnt.scale.tolist())) == 1
    assert normaliser(learnt).mean.shape == (1,)
    answers = learnt.follow(flat[:20]).argmax(1)
    assert (answers == (way[:20] > 0))[1:].all()


def labels(count: int, episodes: int) -> Labels:
    """Make labels that tell which they are: the number of each, and of its episode."""
    number = np.arange(count)
    obs = np.stack([number, number % episodes], axis=1).astype(np.float32)
    link = np.where(number < episodes, 0, episodes).astype(np.int32)
    return Labels(obs, Categorical(np.zeros((count, 2), np.float32)), link)


def test_histories_are_of_one_episode() -> None:
    """Each label comes with those before it; what a full buffer lost is not drawn."""
    buffer = LabelBuffer(60, linked=True)
    given = labels(200, 3)
    for at in range(0, 200, 10):
        part = slice(at, at + 10)
        assert given.link is not None
        buffer.add(given.obs[part], Categorical(given.dist.logits[part]), given.link[part])  # type: ignore[union-attr]
    histories = Histories(buffer, Stack(4, 2))
    histories.blank = np.full(2, -1, np.float32)
    obs, packed = histories.draw(500, np.random.default_rng(0))
    assert packed.shape == (500, 2)
    stacks = obs.reshape(500, 4, 2)
    steps = np.diff(stacks[..., 0], axis=1)
    assert (steps == 3).all()
    assert (stacks[..., 0] >= 140).all()


def test_a_history_begins_with_a_blank() -> None:
    """Before the first tick there is nothing."""
    buffer = LabelBuffer(60, linked=True)
    given = labels(12, 3)
    buffer.add(*given)
    histories = Histories(buffer, Stack(3, 2))
    histories.blank = np.full(2, -1, np.float32)
    obs, _ = histories.draw(300, np.random.default_rng(0))
    stacks = obs.reshape(300, 3, 2)[..., 0]
    firsts = stacks[stacks[:, -1] < 3]
    assert len(firsts)
    assert (firsts[:, :-1] == -1).all()
    seconds = stacks[(stacks[:, -1] >= 3) & (stacks[:, -1] < 6)]
    assert (seconds[:, 0] == -1).all()
    assert (seconds[:, 1] == seconds[:, 2] - 3).all()


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_a_stack_learns_from_any_label(engine: Any) -> None:
    """The answer is in the past observation; both engines find it."""
    spec = Spec(ObsSpec((Part("", "box", (1,), "float32"),)), DiscreteSpec(2))
    executor = initial("mlp:16", spec, sees="stack:3", seed=0)
    distiller = Distiller(executor, DistillerOptions(engine=engine, batch=128))
    random = np.random.default_rng(0)
    obs = random.standard_normal((3000, 1)).astype(np.float32)
    before = np.concatenate([np.zeros((2, 1), np.float32), obs[:-2]])
    link = np.ones(3000, np.int32)
    link[0] = 0
    distiller.add(obs, Categorical(np.concatenate([8 * before, -8 * before], axis=1)), link)
    for _ in range(400):
        distiller.step()
    learnt = distiller.freeze()
    assert past_layer(learnt) == Stack(3, 1)
    answers = learnt.follow(obs[:500]).argmax(1)
    assert (answers == (before[:500, 0] < 0))[3:].mean() > 0.9
    assert distiller.agreement(500) > 0.9
    state = {**distiller.state()}
    again = Distiller(executor, DistillerOptions(engine=engine, batch=128))
    again.restore(state)
    assert np.allclose(again.snapshot(), distiller.snapshot(), atol=1e-6)


def test_a_privileged_planner_teaches_an_executor_with_sensors() -> None:
    """The planner sees the speed; the executor sees the last places and gets it from them."""
    how: Any = {"labels": 12_000, "steps_per_label": 0.1, "episodes": 20, "progress": False}
    shown: dict[str, float] = {}
    for sees in ("sensors", "sensors,stack:4"):
        made = distill(
            Robot, regulate, "mlp:32", planner_sees="state", executor_sees=sees, seed=1, **how
        )
        assert made.returns is not None
        assert made.executor.spec.obs.size == 1
        shown[sees] = made.returns.retention.mean
    assert shown["sensors,stack:4"] > 0.97
    assert shown["sensors,stack:4"] > shown["sensors"] + 0.05


def test_a_new_view_is_for_a_new_executor() -> None:
    """An executor that is there has its own."""
    executor = initial("mlp:8", env_spec(Robot()), sees="sensors")
    task = open_task(Robot, regulate, sees="state", executor_sees="state")
    with pytest.raises(ConfigError, match="its own view"):
        task.executor(executor)
    plain = open_task(Robot, regulate, sees="state")
    assert plain.executor(executor) is executor


def test_an_agent_is_given_whole_observations() -> None:
    """The planner is asked about its part, and the executor acts on its own."""
    env = Robot()
    spec = env_spec(env)
    executor = initial("mlp:8", spec, sees="sensors,stack:2", seed=2)
    planner = load_planner("tests.views_robot:regulate", spec, sees="state").policy
    port = InlinePlanner(planner, latency_ticks=2)
    with Agent(executor, spec, planner=port, mode="executor") as agent:
        assert agent.spec == spec
        obs, _ = env.reset(seed=1)
        acted, seen = [], []
        for _ in range(20):
            seen.append(obs)
            acted.append(agent.act(obs))
            obs, *_ = env.step(acted[-1])
        assert agent.metrics()["planner_answers_total"] > 5
    executor.reset()
    alone_there = [executor.act(each) for each in seen]
    assert np.allclose(acted, alone_there, atol=1e-5)
    with Agent(executor) as agent:
        agent.reset()
        only = [agent.act({"sensors": each["sensors"]}) for each in seen]
    assert np.allclose(only, alone_there, atol=1e-5)


@pytest.mark.needs("cc")
def test_an_executor_learns_live_from_what_it_sees() -> None:
    """Labels come whole; it keeps its own part of them."""
    env = Robot()
    spec = env_spec(env)
    executor = initial("mlp:16", spec, sees="sensors", seed=2)
    planner = load_planner("tests.views_robot:regulate", spec, sees="state").policy
    learning = build("mlp:16", to_json(executor.spec), seed=2, batch=32)
    how: Any = {
        "planner": InlinePlanner(planner, latency_ticks=1),
        "distiller": InlineDistiller(learning, steps_per_tick=2, swap_every=20),
    }
    with Agent(executor, spec, **how) as agent:
        obs, _ = env.reset(seed=1)
        for _ in range(600):
            obs, *_, ended, _ = env.step(agent.act(obs))
            if ended:
                obs, _ = env.reset()
                agent.reset()
        assert agent.metrics()["swaps_total"] >= 1
        assert agent.executor.spec == executor.spec


def test_an_agent_names_views_that_cannot_be() -> None:
    """Views are for what is named or made."""
    spec = env_spec(Robot())
    executor = initial("mlp:8", spec, sees="sensors")
    with pytest.raises(ConfigError, match="its own view"):
        Agent(executor, executor_sees="state")
    with pytest.raises(ConfigError, match="planner that is named"):
        Agent(executor, planner=InlinePlanner(regulate, latency_ticks=1), planner_sees="state")
    assert Agent("mlp:8", spec, executor_sees="sensors").executor.spec == executor.spec


@pytest.mark.parametrize("whole", [True, False])
def test_a_planner_is_not_shown_what_is_not_finite(whole: bool) -> None:
    """Where the executor does not see the NaN, it acts and the planner is left alone."""
    spec = env_spec(Robot())
    shown: list[Floats] = []

    def planner(obs: Floats) -> Any:
        shown.append(obs.copy())
        return regulate(obs)

    task = open_task(Robot, planner, sees="state")
    port = InlinePlanner(task.planner.policy, latency_ticks=1)
    executor = initial("mlp:8", spec, sees="sensors")
    shown.clear()
    with Agent(executor, spec, planner=port) as agent:
        for tick in range(4):
            state = np.array([0.5, np.nan if tick % 2 else 0.1], np.float32)
            place = state[1:] if whole else state[:1]
            agent.act({"state": state, "sensors": place})
        counts = agent.metrics()
    assert shown
    assert all(np.isfinite(each).all() for each in shown)
    assert counts["nan_observations_total"] == 2


def test_a_stack_is_not_swapped_for_another_memory() -> None:
    """Numbers that mean something else are not carried over."""
    spec = env_spec(Robot())
    agent = Agent(initial("mlp:8", spec, sees="sensors,stack:4"))
    with pytest.raises(SpecError, match="remembers"):
        agent.swap(initial("gru:3", spec, sees="sensors"))


def test_an_executor_travels_with_its_spec() -> None:
    """Names in it are never looked up; a stack may be as long as its file says."""
    spec = Spec(
        ObsSpec(
            (Part("math:sin", "box", (3,), "float32"), Part(" b", "box", (2,), "float32")), "dict"
        ),
        DiscreteSpec(2),
    )
    executor = initial("mlp:4", spec, sees=["math:sin", "stack:3"])
    told = json.loads(json.dumps(encode_executor(executor)))
    again = decode_executor(told, executor.vector())
    assert again.spec == executor.spec
    assert again.layers[0] == executor.layers[0]


def test_what_looks_into_a_planner_is_told_of_its_view() -> None:
    """A term that opens the planner would show it the wrong numbers."""
    task = open_task(Robot, regulate, sees="state")
    with pytest.raises(ConfigError, match="planner_sees"):
        opened(task.planner.policy, "The term 'attention'")


def test_a_swap_to_another_view_is_refused() -> None:
    """It would be handed other numbers under the same names."""
    there = Spec(obs_spec(gym.spaces.Box(-1, 1, (4,), np.float32)), DiscreteSpec(2))
    agent = Agent(initial("mlp:4", there, sees="0:2"))
    with pytest.raises(SpecError, match="does not fit"):
        agent.swap(initial("mlp:4", there, sees="1:3"))
    agent.swap(initial("mlp:4", there, sees="0:2", seed=4))


def test_a_flat_environment_is_measured_and_recorded(tmp_path: Path) -> None:
    """The file's golden vectors are of what the executor sees."""
    from agentkd.cli.main import main

    out = tmp_path / "out"
    words = ["distill", "CartPole-v1", "--planner", "tests.cli_planners:balance", "--labels", "400"]
    words += ["--executor", "mlp:8", "--executor-sees", "0,2,stack:2", "--episodes", "2"]
    assert main([*words, "--out", str(out)]) == 0
    found = read_bundle(out / "executor.akd")
    assert found.golden["obs"].shape[1] == 2
    assert main(["export", str(out / "executor.akd"), "-o", str(tmp_path / "x.int8.c")]) == 0


@pytest.mark.parametrize(
    ("architecture", "sees", "numbers", "views"),
    [
        ("mlp:8", "sensors", 1, ["sensors"]),
        ("mlp:8", "sensors,stack:3", 1, ["stack:3", "sensors"]),
        ("mlp:8", "sensors,delay:2", 2, ["delay:2", "sensors"]),
        ("gru:8", "sensors", 1, ["sensors"]),
    ],
)
def test_every_command_takes_views(
    architecture: str,
    sees: str,
    numbers: int,
    views: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is written sees what was said, in each of them; `numbers` are those of a tick."""
    from agentkd.cli.main import main

    monkeypatch.chdir(Path(__file__).parents[1])
    robot = "tests.views_robot:Robot"
    planner = ["--planner", "tests.views_robot:regulate", "--planner-sees", "state"]
    executor = ["--executor", architecture, "--executor-sees", sees, "--episodes", "1"]
    out, data, again = (tmp_path / name for name in ("out", "data", "again"))
    file = out / "executor.akd"
    live = ["--clock", "virtual", "--ticks", "80", "--film", "off", "--out", str(tmp_path / "run")]
    for words in (
        ["distill", robot, *planner, *executor, "--labels", "300", "--out", str(out)],
        ["record", robot, *planner, "--labels", "200", "--out", str(data)],
        ["distill", robot, "--data", str(data), *executor, "--steps", "9", "--out", str(again)],
        ["run", robot, *planner, "--executor", str(file), *live],
        ["eval", robot, str(file), "--episodes", "1"],
        ["export", str(file), "-o", str(tmp_path / "x.onnx")],
    ):
        assert main([str(each) for each in words]) == 0, words
    for folder in (out, again):
        found = read_bundle(folder / "executor.akd")
        assert view_of(found.executor) == views
        assert found.golden["obs"].shape[1] == numbers
        assert found.manifest["contract"]["observation"]["size"] == numbers
    capsys.readouterr()
    words = ["reinforce", robot, *planner, "--executor", str(file), "--steps", "64"]
    assert main([*words, "--out", str(tmp_path / "reinforced")]) == 2
    said = capsys.readouterr().err
    assert ("sees " + ",".join(views) if architecture != "gru:8" else "Use an mlp") in said
