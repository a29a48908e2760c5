"""Executors with a stack or a delay that learn live: from what they were shown, and no less."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd import Agent, dists, env_spec, load_planner
from agentkd.deploy.bundle import read_bundle, write_bundle
from agentkd.distillation.distiller import Distiller, DistillerOptions
from agentkd.distillation.gate import Gate, GateOptions
from agentkd.distillation.live import LiveDistiller
from agentkd.distillation.service import build
from agentkd.errors import ConfigError, SpecError
from agentkd.executors.acting import form
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.executors.past import Window, carried, outputs_at, past_layer, past_words
from agentkd.runtime import InlineDistiller, InlinePlanner
from agentkd.runtime.codec import Seen, SeenCodec
from agentkd.spec import BoxSpec
from agentkd.spec_json import to_json
from agentkd.types import AnyDist, Floats, Labels, Point
from tests.deploy_executors import lively
from tests.views_robot import Robot, regulate
from tests.waiting import ENOUGH, wait_for

BOX = BoxSpec((-1.0, -2.0), (1.0, 3.0), (2,))
PASTS = ["mlp:6,tanh stack:4", "mlp:6,tanh 0:3,stack:2,delay:2", "mlp:6,tanh actions:3"]


def window_of(executor: Executor) -> Window:
    """Make the window of an executor."""
    past = past_layer(executor)
    assert past is not None
    return Window(past)


def rows_for(executor: Executor, count: int, seed: int = 0) -> Floats:
    """Draw what an executor sees, with an action before each where it sees them."""
    random = np.random.default_rng(seed)
    return random.standard_normal((count, executor.spec.obs.size)).astype(np.float32)


class Notebook:
    """A distiller that keeps its labels and learns nothing."""

    def __init__(self) -> None:
        self.obs: list[Floats] = []
        self.answers: list[Floats] = []

    def add(self, obs: Floats, dist: AnyDist) -> None:
        self.obs += list(obs)
        self.answers += list(dists.pack(dist))

    def step(self) -> Mapping[str, float]:
        return {}

    def snapshot(self) -> Floats | None:
        return None


def live(agent: Agent, env: Any, ticks: int) -> list[tuple[Any, Any]]:
    """Let an agent act; return what was observed and done, None where an episode begins."""
    obs, _ = env.reset(seed=1)
    told: list[tuple[Any, Any]] = [(None, None)]
    for _ in range(ticks):
        action = agent.act(obs)
        told.append((obs, action))
        obs, *_, ended, _ = env.step(action)
        if ended:
            obs, _ = env.reset()
            agent.reset()
            told.append((None, None))
    return told


@pytest.mark.parametrize("words", PASTS)
def test_a_window_is_what_an_executor_is_shown(words: str) -> None:
    """It answers the same there as tick by tick, from an episode's first tick on."""
    executor = lively(words, BOX)
    window = window_of(executor)
    for seed in range(2):
        obs = rows_for(executor, 9, seed)
        shown = np.stack([window.tick(row) for row in obs])
        window.reset()
        assert shown.shape == (9, window.size)
        assert np.isnan(shown[0]).any()
        assert np.isfinite(shown[-1]).all()
        assert np.allclose(outputs_at(executor, shown), executor.follow(obs), atol=1e-5)


@pytest.mark.parametrize("native", [False, pytest.param(True, marks=pytest.mark.needs("cc"))])
@pytest.mark.parametrize("begun", [0, 1, 2, 20])
@pytest.mark.parametrize("words", PASTS)
def test_an_executor_that_is_swapped_in_knows_the_past(
    words: str, begun: int, native: bool
) -> None:
    """It acts as if it had seen all of the episode, whatever its normaliser's units."""
    before, after = lively(words, BOX, seed=2), lively(words, BOX, seed=5)
    obs = rows_for(before, begun + 6)
    first, second = form(before, native=native), form(after, native=native)
    for row in obs[:begun]:
        first.obs[:] = row
        assert not first.run()
    second.memory[:] = carried(first.memory, before, after)
    wanted = after.follow(obs)[begun:]
    state = second.memory[None].copy()
    for row, want in zip(obs[begun:], wanted, strict=True):
        got, state = after.advance(row[None], state)
        assert np.allclose(got[0], want, atol=1e-4)


def test_a_memory_in_the_same_units_is_kept_as_it_is() -> None:
    """Nothing is rounded where the normaliser stays, nor changed in a memory of another kind."""
    for words in ("mlp:6,tanh stack:4", "gru:5"):
        one, other = lively(words, BOX, seed=2), lively(words, BOX, seed=5)
        memory = np.random.default_rng(0).standard_normal(one.memory).astype(np.float32)
        if past_layer(one) is not None:
            other = replace(other, mean=one.mean.copy(), scale=one.scale.copy())
        assert carried(memory, one, other) is memory


def test_an_agent_hands_the_past_over_at_a_swap() -> None:
    """After a swap in the middle of an episode it does what the new executor would have done."""
    before, after = (lively("mlp:6,tanh stack:4", BOX, seed=seed) for seed in (2, 5))
    obs = rows_for(before, 10)
    agent = Agent(before, native=False)
    for row in obs[:5]:
        agent.act(row)
    agent.swap(after)
    found = [agent.act(row) for row in obs[5:]]
    alone = replace(after)
    wanted = [alone.act(row) for row in obs][5:]
    assert np.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("begun", [0, 1, 3, 9])
@pytest.mark.parametrize("words", PASTS)
def test_a_window_knows_what_an_executor_would_remember(words: str, begun: int) -> None:
    """Bit by bit, as if that executor had seen the episode."""
    executor = lively(words, BOX)
    window, known = window_of(executor), form(executor, native=False)
    for row in rows_for(executor, begun):
        window.tick(row)
        known.obs[:] = row
        assert not known.run()
    assert np.array_equal(window.remembered(executor), known.memory)


def test_a_swap_while_learning_loses_nothing_of_the_past() -> None:
    """Neither an observation equal to the old mean, which looks like none, nor what was clipped."""
    before, after = (lively("mlp:6,tanh stack:4", BOX, seed=seed) for seed in (2, 5))
    before = replace(before, scale=before.scale * 100)
    obs = rows_for(before, 6)
    obs[0] = before.mean
    port = InlinePlanner(lambda rows: Point(np.zeros((len(rows), 2), np.float32)))
    how: Any = {"planner": port, "distiller": InlineDistiller(Notebook()), "mode": "executor"}
    for begun in (1, 3):
        with Agent(before, native=False, **how) as agent:
            for row in obs[:begun]:
                agent.act(row)
            agent.swap(after)
            found = [agent.act(row) for row in obs[begun:]]
        alone = replace(after)
        wanted = [alone.act(row) for row in obs][begun:]
        assert np.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("sees", ["sensors,stack:3", "sensors,delay:2", "stack:2,actions:2"])
@pytest.mark.parametrize("workers", [1, 2])
def test_labels_are_of_what_was_shown_although_few_are_labelled(sees: str, workers: int) -> None:
    """A planner that answers each fifth tick leaves no gap in what its labels hold."""
    env = Robot()
    spec = env_spec(env)
    executor = initial("mlp:8", spec, sees=sees, seed=2)
    planner = load_planner("tests.views_robot:regulate", spec, sees="state").policy
    notebook = Notebook()
    port: Any = InlinePlanner(planner, latency_ticks=5, backlog=0)
    if workers == 2:
        from agentkd.runtime.round_robin import Staggered

        port = Staggered(
            [InlinePlanner(planner, latency_ticks=5, backlog=0) for _ in range(2)], backlog=1
        )
    how: Any = {"planner": port, "distiller": InlineDistiller(notebook)}
    with Agent(executor, spec, **how) as agent:
        told = live(agent, env, 100)
    window, known = window_of(executor), defaultdict(list)
    done: Any = np.zeros(1, np.float32)
    for obs, action in told:
        if obs is None:
            window.reset()
            done = np.zeros(1, np.float32)
            continue
        whole = np.concatenate([obs["sensors"], obs["state"]])
        seen = whole[:1] if "sensors" in sees else whole
        if executor.spec.obs.taken:
            seen = np.concatenate([seen, dists.coded(done[None], spec.action)[0]])
        answer = regulate(obs["state"][None]).action[0]
        known[window.tick(seen.astype(np.float32)).tobytes()].append(answer)
        done = action
    assert 10 < len(notebook.obs) < 70
    for label, answer in zip(notebook.obs, notebook.answers, strict=True):
        # With a delay, all episodes begin alike.
        assert min(abs(each - answer).max() for each in known[label.tobytes()]) < 1e-6
    assert np.isnan(np.stack(notebook.obs)).any()


def test_a_window_travels_with_its_observation() -> None:
    """It comes out of shared memory as it went in, behind actions of any number."""
    spec = env_spec(Robot())
    codec = SeenCodec(spec, ahead=3, shown=4)
    window = np.array([np.nan, 1, 2, 3], np.float32)
    for committed in (None, np.ones((2, 1), np.float32)):
        seen = Seen(1, 2, 3, np.ones(3, np.float32), 0, committed, window=window)
        again = codec.decode(bytes(codec.encode(seen)))
        assert again.window is not None
        assert np.array_equal(again.window, window, equal_nan=True)
        assert again.committed is not None
        assert len(again.committed) == (0 if committed is None else 2)
    assert (
        SeenCodec(spec).decode(bytes(SeenCodec(spec).encode(seen._replace(window=None))))
        is not None
    )


def learnt_live(sees: str, ticks: int = 2000) -> tuple[Executor, Mapping[str, Any]]:
    """Learn from nothing, on the virtual clock."""
    env = Robot()
    spec = env_spec(env)
    executor = initial("mlp:32", spec, sees=sees, seed=2)
    planner = load_planner("tests.views_robot:regulate", spec, sees="state").policy
    learning = build("mlp:32", to_json(executor.spec), past=past_words(executor), seed=2, batch=64)
    how: Any = {
        "planner": InlinePlanner(planner, latency_ticks=2),
        "distiller": InlineDistiller(learning, steps_per_tick=1, swap_every=50),
    }
    with Agent(executor, spec, native=False, **how) as agent:
        live(agent, env, ticks)
        return agent.executor, agent.metrics()


def off(executor: Executor) -> float:
    """How far an executor that acts alone is from the planner, in the mean square."""
    env, apart = Robot(), []
    for seed in range(20):
        obs, _ = env.reset(seed=seed)
        executor.reset()
        for _ in range(40):
            action = executor.act(obs)
            apart.append(action - regulate(obs["state"][None]).action[0])
            obs, *_ = env.step(action)
    return float(np.square(apart).mean())


@pytest.mark.needs("cc")
def test_hidden_speeds_are_learnt_live_from_a_stack() -> None:
    """On the virtual clock a stack tells how fast the robot goes; the present alone does not."""
    stacked, counts = learnt_live("sensors,stack:4")
    assert counts["swaps_total"] > 3
    assert counts["distiller_errors_total"] == 0
    alone, _ = learnt_live("sensors")
    late, counts = learnt_live("sensors,stack:4,delay:1")
    assert counts["swaps_total"] > 3
    assert stacked.mean.any()
    assert off(stacked) < 0.25 * off(alone)
    assert off(late) < 0.5 * off(alone)


def stacked_labels(count: int, seed: int = 3) -> tuple[Floats, Floats]:
    """Draw steps of a number, and its change as the answer: hidden from one observation."""
    obs = np.random.default_rng(seed).standard_normal((count, 1)).astype(np.float32)
    before = np.roll(obs, 1, axis=0)
    before[::40] = 0
    return obs, np.clip(obs - before, -1, 1)


def taught(steps: int, sign: int = 1) -> tuple[Executor, Distiller]:
    """Distil the change of a number, with links, by an executor with a stack."""
    spec = replace(lively("mlp:6 0:1", BoxSpec((-1.0,), (1.0,), (1,))).spec)
    executor = initial("mlp:16", spec, sees="0:1,stack:2", seed=1, squashed=False)
    distiller = Distiller(executor, DistillerOptions(batch=128, learning_rate=1e-2))
    obs, change = stacked_labels(2000)
    link = np.ones(2000, np.int32)
    link[::40] = 0
    distiller.add(obs, Point(sign * change), link)
    for _ in range(steps):
        distiller.step()
    return distiller.freeze(), distiller


def test_kept_labels_hold_the_past(tmp_path: Path) -> None:
    """A file has them, each once and with what was before it; what learns on keeps to them."""
    executor, distiller = taught(150)
    labels = distiller.sample(100_000)
    assert labels is not None
    assert labels.obs.shape[1] == 2
    assert len(labels.obs) > 900
    apart = np.clip(outputs_at(executor, labels.obs), -1, 1) - dists.pack(labels.dist)
    assert np.square(apart).mean() < 0.02
    bundle = write_bundle(tmp_path / "kept.akd", executor, labels=labels)
    read = read_bundle(tmp_path / "kept.akd").labels
    assert read is not None
    assert np.array_equal(read.obs, labels.obs)
    bundle.executor.save(tmp_path / "again.akd")
    assert read_bundle(tmp_path / "again.akd").labels is not None
    with pytest.raises(SpecError, match="observations of shape"):
        write_bundle(tmp_path / "bad.akd", executor, labels=Labels(labels.obs[:, :1], labels.dist))
    gate = Gate(executor, read, GateOptions())
    other, _ = taught(150, sign=-1)
    obs, change = stacked_labels(600, seed=4)
    shown = np.concatenate([np.roll(obs, 1, axis=0), obs], axis=1)
    shown[::40, 0] = np.nan
    gate.add(shown, Point(-change))
    assert gate.judge(other, executor) == "kept"
    assert Gate(executor).judge(other, executor) == "few"


@pytest.mark.needs("cc")
def test_live_learning_begins_from_what_a_file_holds(tmp_path: Path) -> None:
    """With kept labels, without any, and with those of a dataset: its past is in each of them."""
    executor, distiller = taught(60)
    labels = distiller.sample(50_000)
    assert labels is not None
    write_bundle(tmp_path / "kept.akd", executor, labels=labels)
    write_bundle(tmp_path / "bare.akd", executor)
    learners = [build(str(tmp_path / f"{name}.akd"), batch=64) for name in ("kept", "bare")]
    obs, change = stacked_labels(4000, seed=4)
    shown = np.concatenate([np.roll(obs, 1, axis=0), obs], axis=1)
    shown[::40, 0] = np.nan
    for learner in learners:
        assert isinstance(learner, LiveDistiller)
        learner.add(shown, Point(change))
        for _ in range(300):
            assert learner.step()
        weights = learner.snapshot()
        assert weights is not None, learner.refused()
        better = executor.with_vector(weights, 1)
        found = [np.clip(outputs_at(each, shown), -1, 1) for each in (better, executor)]
        assert np.square(found[0] - change).mean() < np.square(found[1] - change).mean()


def test_an_architecture_with_a_past_is_made_again() -> None:
    """In the distiller's process it has the same numbers, and what it sees."""
    spec = env_spec(Robot())
    for sees in ("sensors,stack:4", "delay:2", "sensors,actions:2", "sensors"):
        executor = initial("mlp:8", spec, sees=sees)
        learner = build("mlp:8", to_json(executor.spec), past=past_words(executor))
        acting = learner.world.acting
        assert acting is not None
        assert acting.spec == executor.spec
        assert np.array_equal(acting.vector(), executor.vector())
    with pytest.raises(ConfigError, match="whole sequences"):
        build("gru:4", to_json(spec))
    with pytest.raises(ConfigError, match="whole sequences"):
        Agent("gru:4", spec, planner="tests.views_robot:regulate", learn=True)


@pytest.mark.needs("cc")
def test_planner_and_distiller_in_processes_know_the_past() -> None:
    """On the wall clock too: labels come with their windows, and better weights act."""
    spec, env = env_spec(Robot()), Robot()
    how: Any = {"planner": "tests.views_robot:regulate", "planner_sees": "state", "learn": True}
    with Agent("mlp:16", spec, executor_sees="sensors,stack:3", **how) as agent:
        agent.await_ready(ENOUGH)

        def better() -> bool:
            live(agent, env, 20)
            return bool(agent.metrics()["swaps_total"])

        wait_for(better)
        counts = agent.metrics()
    assert counts["distiller_errors_total"] == counts["planner_errors_total"] == 0
