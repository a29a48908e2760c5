"""The front door: names in, an agent, an executor and its file out."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.evaluation import evaluate_policy

import agentkd
from agentkd import Agent, Executor, Runtime, env_spec, initial, write_bundle
from agentkd.deploy.contract import Contract
from agentkd.distillation.progress import Progress, show
from agentkd.errors import BundleError, ConfigError, NumbersError, SpecError, WriteError
from agentkd.executors.native import compiler
from agentkd.runtime.connect import AgentOptions
from agentkd.spec import flatten_one
from agentkd.types import Categorical, Floats
from tests.waiting import ENOUGH

HERE = "tests.test_front"


def spec_of(name: str) -> agentkd.Spec:
    """The spec of a registered environment."""
    return env_spec(gym.make(name))


class Upright:
    """Pushes where the pole falls, which balances it."""

    def __call__(self, obs: Floats) -> Any:
        """Answer with actions, as a plain function would."""
        return (obs[:, 2] + 0.3 * obs[:, 3] > 0).astype(np.int64)


def act_until_it_learns(agent: Agent) -> None:
    """Act until labels have reached the distiller."""
    end = time.monotonic() + ENOUGH
    while agent.metrics()["labels_learnt_total"] == 0:
        assert time.monotonic() < end, agent.metrics()
        agent.act(np.zeros(4))
        time.sleep(0.005)


def balance(obs: Floats) -> Categorical:
    """Do the same with a distribution."""
    right = obs[:, 2] + 0.3 * obs[:, 3] > 0
    return Categorical(np.stack([~right * 5.0, right * 5.0], 1).astype(np.float32))


def make() -> Upright:
    """Make a planner."""
    return Upright()


def test_agent_and_runtime_share_their_arguments() -> None:
    """What one takes the other takes, with the same defaults."""
    agent = inspect.signature(Agent).parameters
    assert set(AgentOptions.__annotations__) == set(agent) - {"executor", "spec", "period"}
    runtime = inspect.signature(Runtime).parameters
    assert list(runtime)[:2] == list(agent)[:2] == ["executor", "spec"]
    assert not set(AgentOptions.__annotations__) & set(runtime)


@pytest.mark.parametrize("name", ["Upright", "make", "balance"])
def test_a_planner_named_by_text_teaches_the_executor(name: str) -> None:
    """A class, a function that makes one and a function itself are planners by name."""
    env = gym.make("CartPole-v1")
    agent = Agent("mlp:8", env_spec(env), planner=f"{HERE}:{name}", learn=True)
    with agent:
        agent.await_ready()
        act_until_it_learns(agent)
    assert agent.metrics()["planner_errors_total"] == 0


def test_the_agents_clock_ticks_and_ends() -> None:
    """It ticks as often as was asked, skips what it missed, and ends when stopped."""
    agent = Agent("mlp:8", spec_of("CartPole-v1"), period=0.001)
    ticks = 0
    while agent.tick(ticks=20):
        agent.act(np.zeros(4))
        ticks += 1
    assert ticks == 20
    assert agent.metrics()["tick_lateness_us"]["count"] == 20
    agent.stop()
    assert not agent.tick()
    with pytest.raises(ConfigError, match="period"):
        Agent("mlp:8", spec_of("CartPole-v1")).tick()


def test_run_under_the_virtual_clock_is_exact() -> None:
    """A policy at hand, never late, balances; the same seed gives the same run."""
    env = gym.make("CartPole-v1")
    runs = [
        Agent("mlp:8", env_spec(env), planner=balance).run(
            env, clock="virtual", episodes=2, seed=seed
        )
        for seed in (0, 0, 1)
    ]
    assert runs[0].returns == runs[1].returns == (500.0, 500.0)
    assert runs[2].ticks == 1000


def test_run_needs_an_end_and_happens_once() -> None:
    """Without an end, or a second time, it says so."""
    env = gym.make("CartPole-v1")
    agent = Agent("mlp:8", env_spec(env))
    with pytest.raises(ConfigError, match="end"):
        agent.run(env)
    agent.run(env, clock="virtual", ticks=3)
    with pytest.raises(ConfigError, match="once"):
        agent.run(env, clock="virtual", ticks=3)


def test_a_policy_that_would_hold_up_the_tick_is_refused_at_the_start() -> None:
    """It suits a virtual clock only; on the wall clock the remedy is named."""
    agent = Agent("mlp:8", spec_of("CartPole-v1"), planner=balance)
    with pytest.raises(ConfigError, match="Process"):
        agent.start()


@pytest.mark.parametrize(
    ("executor", "words"),
    [("mlp:8", "env_spec"), (3, "int is not an executor"), ("nothing.akd", "No such file")],
)
def test_what_is_no_executor_is_refused(executor: Any, words: str) -> None:
    """The message says what would be one."""
    with pytest.raises(agentkd.AgentkdError, match=words):
        Agent(executor)


def test_an_executor_for_another_environment_is_refused() -> None:
    """The spec is compared."""
    with pytest.raises(SpecError):
        Agent(initial("mlp:8", spec_of("CartPole-v1")), spec_of("Acrobot-v1"))


def test_a_loaded_executor_acts_and_is_saved_as_it_was(tmp_path: Path) -> None:
    """It is native where a compiler is, and its file is the same byte for byte."""
    initial("mlp:8,8", spec_of("CartPole-v1")).save(tmp_path / "a.akd", {"made": "here"})
    executor = agentkd.load(tmp_path / "a.akd")
    executor.save(tmp_path / "b.akd")
    assert (tmp_path / "a.akd").read_bytes() == (tmp_path / "b.akd").read_bytes()
    assert executor.about.provenance == {"made": "here"}
    for obs in (np.ones(4), [1.0, 1.0, 1.0, 1.0], np.ones(4, np.float32)):
        assert executor.act(obs) == int(np.argmax(executor.outputs(np.ones((1, 4), np.float32))))
    with pytest.raises(SpecError):
        executor.act(np.ones(3))
    with pytest.raises(NumbersError):
        executor.act(np.array([np.nan, 0, 0, 0]))


@pytest.mark.parametrize("native", [False, True])
def test_a_memory_is_inside_until_reset(native: bool) -> None:
    """One observation after another gives what the whole sequence gives."""
    executor = initial("gru:8", spec_of("CartPole-v1"), seed=3)
    if native:
        executor.compile()
    obs = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    wanted = [int(each) for each in executor.follow(obs).argmax(axis=1)]
    assert [executor.act(each) for each in obs] == wanted
    executor.reset()
    assert [executor.act(each) for each in obs] == wanted


@pytest.mark.parametrize("architecture", ["mlp:16", "gru:8"])
def test_sb3_evaluates_an_executor(architecture: str) -> None:
    """`evaluate_policy` runs it, and it acts as it does by itself."""
    env = gym.make("CartPole-v1")
    executor = initial(architecture, env_spec(env), seed=1)
    lived, _ = evaluate_policy(executor.as_sb3(), env, n_eval_episodes=1, warn=False)
    env.reset(seed=0)
    predictor, obs, state, start = executor.as_sb3(), env.reset(seed=5)[0], None, True
    for _ in range(5):
        action, state = predictor.predict(obs, state, np.array([start]))
        assert int(action) == executor.act(obs)
        obs, start = env.step(int(action))[0], False
    assert np.mean(lived) > 0


def test_sb3s_predict_takes_batches_and_dictionaries() -> None:
    """A vectorised environment's observations come back as as many actions."""
    inside = gym.spaces.Dict({"a": gym.spaces.Box(-1, 1, (2, 2)), "b": gym.spaces.Discrete(3)})
    space = gym.Env[Any, Any]()
    space.observation_space, space.action_space = inside, gym.spaces.Box(-1, 1, (2,))
    executor = initial("mlp:8", env_spec(space))
    inside.seed(0)
    one = inside.sample()
    many = {"a": np.stack([one["a"]] * 3), "b": np.stack([one["b"]] * 3)}
    single, _ = executor.as_sb3().predict(one)
    batch, state = executor.as_sb3().predict(many)
    assert single.shape == (2,)
    assert batch.shape == (3, 2)
    assert state is None
    assert np.allclose(batch, single)
    flat = flatten_one(executor.spec.obs, one)
    assert np.allclose(executor.act(one), executor.act(flat))


def test_the_suffix_decides_what_is_exported(tmp_path: Path) -> None:
    """C with its header, integers, akx and ONNX; another suffix is refused by name."""
    executor = initial("mlp:8", spec_of("CartPole-v1"))
    for name in ("e.c", "f.int8.c", "g.akx", "h.onnx"):
        executor.export(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 400
    assert (tmp_path / "e.h").exists()
    assert b"int8_t" in (tmp_path / "f.int8.c").read_bytes()
    with pytest.raises(ConfigError, match=r"\.onnx"):
        executor.export(tmp_path / "e.txt")
    with pytest.raises(ConfigError, match="colour"):
        executor.export(tmp_path / "e.c", colour="red")
    if compiler():
        subprocess.run(
            [str(compiler()), "-c", "e.c", "-o", "e.o"], cwd=tmp_path, check=True, timeout=600
        )


def test_learn_goes_on_from_an_executor_in_memory() -> None:
    """Its folder lasts as long as the agent."""
    env = gym.make("CartPole-v1")
    executor: Executor = initial("mlp:8", env_spec(env), seed=2)
    agent = Agent(executor, planner=f"{HERE}:balance", learn=True)
    with agent:
        agent.await_ready()
        act_until_it_learns(agent)
    with pytest.raises(ConfigError, match="learns from a planner"):
        Agent(executor, learn=True)


def test_an_executor_that_was_changed_writes_what_it_is_now(tmp_path: Path) -> None:
    """Only an unchanged executor writes the file it came from; its contract stays."""
    spec = spec_of("CartPole-v1")
    names = Contract(obs_names=("x", "v", "angle", "spin"))
    write_bundle(tmp_path / "a.akd", initial("mlp:8", spec), contract=names)
    loaded = agentkd.load(tmp_path / "a.akd")
    changed = replace(loaded, version=7)
    changed.save(tmp_path / "b.akd")
    assert agentkd.load(tmp_path / "b.akd").version == 7
    vector = loaded.vector() + np.float32(0.5)
    loaded.with_vector(vector, 9).save(tmp_path / "c.akd")
    again = agentkd.load(tmp_path / "c.akd")
    assert np.array_equal(again.vector(), vector)
    assert again.about.contract == names
    loaded.save(tmp_path / "d.akd", {"note": 1})
    noted = agentkd.load(tmp_path / "d.akd")
    assert noted.about.provenance == {"note": 1}
    assert np.array_equal(noted.about.bundle.golden["obs"], loaded.about.bundle.golden["obs"])
    with pytest.raises(BundleError):
        loaded.save(tmp_path / "e.akd", {"note": object()})


def test_an_executor_that_acts_is_pickled_and_copied() -> None:
    """A copy has a memory of its own and acts as the original does."""
    executor = initial("gru:8", spec_of("CartPole-v1"), seed=1).compile()
    obs = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    wanted = [executor.act(each) for each in obs]
    for other in (pickle.loads(pickle.dumps(executor)), copy.copy(executor)):
        assert [other.act(each) for each in obs] == wanted
    executor.reset()
    executor.act(obs[0])
    executor.compile()
    assert [executor.act(each) for each in obs[1:]] == wanted[1:]


def test_a_swap_before_a_run_and_the_period_are_kept() -> None:
    """`run` goes on with what was asked for before it."""
    env = gym.make("CartPole-v1")
    executor = initial("mlp:8", env_spec(env))
    agent = Agent(executor, planner=balance, period=0.1)
    agent.swap(replace(executor, version=5))
    result = agent.run(env, clock="virtual", seconds=2, seed=0)
    assert result.ticks == 20
    assert agent.executor.version == 5
    with pytest.raises(ConfigError, match="hz"):
        Agent(executor).run(env, clock="virtual", hz=0, ticks=1)
    with Agent(executor) as started, pytest.raises(ConfigError, match="with block"):
        started.run(env, ticks=1)


def test_stop_ends_a_run() -> None:
    """From the environment itself as from any thread."""

    class Stopping(gym.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> Any:
            agent.stop()
            return super().step(action)

    env = Stopping(gym.make("CartPole-v1"))
    agent = Agent("mlp:8", env_spec(env))
    assert agent.run(env, clock="virtual", ticks=100).ticks == 1


@pytest.mark.parametrize("name", ["own.h", "own.c"])
def test_an_export_loses_nothing(name: str, tmp_path: Path) -> None:
    """A header that agentkd did not write stays, and so does a folder."""
    executor = initial("mlp:8", spec_of("CartPole-v1"))
    (tmp_path / "own.h").write_text("mine")
    with pytest.raises(ConfigError):
        executor.export(tmp_path / name, to="c")
    assert (tmp_path / "own.h").read_text() == "mine"
    with pytest.raises(ConfigError, match="folder"):
        executor.export(tmp_path, to="akx")
    with pytest.raises(WriteError, match="null byte"):
        executor.export(tmp_path / "no\0pe.c")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"spec": gym.make("CartPole-v1")}, "env_spec"),
        ({"executor": "gru:8", "planner": "a:b", "learn": True}, "memory"),
        ({"planner": "a:b", "learn": True, "distiller": object()}, "leave"),
        ({"learn": True}, "planner"),
    ],
)
def test_arguments_that_do_not_go_together(arguments: dict[str, Any], words: str) -> None:
    """They are refused when the agent is made."""
    given = {"executor": "mlp:8", "spec": spec_of("CartPole-v1"), **arguments}
    with pytest.raises(ConfigError, match=words):
        Agent(**given)


def test_predict_refuses_what_act_refuses() -> None:
    """Numbers that are not finite, a missing part, a memory of another batch."""
    executor = initial("gru:8", spec_of("CartPole-v1"))
    predictor = executor.as_sb3()
    with pytest.raises(NumbersError):
        predictor.predict(np.array([np.nan, 0, 0, 0]))
    with pytest.raises(SpecError):
        predictor.predict(np.zeros((2, 4)), (np.zeros((3, 8), np.float32),))


def test_planners_at_hand_and_by_path_are_asked(tmp_path: Path) -> None:
    """A path of a file works as its text does, and several are an ensemble."""
    env = gym.make("CartPole-v1")
    initial("mlp:8", env_spec(env), seed=3).save(tmp_path / "p.akd")
    planners: list[Any] = [tmp_path / "p.akd", [tmp_path / "p.akd", tmp_path / "p.akd"]]
    for planner in planners:
        agent = Agent("mlp:8", env_spec(env), planner=planner)
        result = agent.run(env, clock="virtual", ticks=20)
        assert result.metrics["decisions_total"]["strategy"]


def test_progress_leaves_out_what_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    """The line says nothing of agreement and return before there are any."""
    look = Progress(1.0, 0.25, 500, 60, 1.0, 1.0, np.nan, np.nan, np.nan, 1.0, 1e-3, 0)
    show(look)
    early = capsys.readouterr().err
    assert "25%" in early
    assert "nan" not in early
    show(replace(look, agreement=0.5, executor_return=12.0))
    assert "agreement 0.500  return 12.0" in capsys.readouterr().err
