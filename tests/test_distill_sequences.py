"""Executors with a memory learn from sequences; images and tokens like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from agentkd.distillation.buffer import LabelBuffer
from agentkd.distillation.collector import Collector
from agentkd.distillation.distiller import Distiller, DistillerOptions
from agentkd.distillation.sequences import CUT, HOLE, links_of, walk_back
from agentkd.distillation.service import build
from agentkd.errors import ConfigError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.executors.network import Network
from agentkd.spec import DiscreteSpec, ObsSpec, Part, Spec
from agentkd.spec_json import to_json
from agentkd.types import Categorical, Floats
from tests.deploy_executors import lively

SPEC = Spec(ObsSpec((Part("", "box", (2,), "float32"),)), DiscreteSpec(2))


def numbered(count: int, first: int = 0) -> Floats:
    """Observations that say which label they belong to."""
    rows = np.zeros((count, 2), np.float32)
    rows[:, 0] = np.arange(first, first + count)
    return rows


def flat(count: int) -> Categorical:
    return Categorical(np.zeros((count, 2), np.float32))


def test_links_lead_to_the_last_of_the_same_stream() -> None:
    """0 for the first, else how far back it lies."""
    assert links_of(np.array([5, 7, 5, 5, 7, 9])).tolist() == [0, 0, 2, 1, 3, 0]


def test_a_walk_follows_one_stream_to_its_beginning() -> None:
    """Two streams in turns; the one that began later is shorter and padded."""
    links = np.array([0, 0, 2, 2, 2, 0], np.int32)
    places, length, begins = walk_back(links, np.array([4, 5]), 4, oldest=0)
    assert places[:, 0].tolist() == [0, 2, 4, 4]
    assert places[:, 1].tolist() == [5, 5, 5, 5]
    assert length.tolist() == [3, 1]
    assert begins.tolist() == [True, True]


def test_a_sequence_that_is_cut_begins_amid_an_episode() -> None:
    """Nothing is learnt from its burn-in; from an episode's true beginning it is."""
    buffer = LabelBuffer(100, linked=True)
    link = np.array([0, *[1] * 9], np.int32)
    buffer.add(numbered(10), flat(10), link)
    found = buffer.draw_sequences(64, 4, np.random.default_rng(0), burn_in=2)
    for column in range(64):
        learnt, obs = found.learnt[:, column], found.obs[:, column, 0]
        steps = np.diff(obs)
        assert set(steps.tolist()) <= {0.0, 1.0}
        if obs[0] == 0:
            assert learnt.tolist() == [True, *(steps == 1).tolist()]
        else:
            assert learnt.tolist() == [False, False, True, True]


def test_a_full_ring_cuts_what_was_overwritten() -> None:
    """No sequence goes back beyond the oldest label that is held."""
    buffer = LabelBuffer(8, linked=True)
    for start in range(0, 21, 3):
        link = np.ones(3, np.int32)
        link[0] = int(start > 0)
        buffer.add(numbered(3, start), flat(3), link)
    found = buffer.draw_sequences(50, 8, np.random.default_rng(1))
    assert found.obs[..., 0].min() == 13.0
    for column in found.obs[..., 0].T:
        assert (np.diff(column[: len(set(column.tolist()))]) == 1).all()


def test_a_label_that_is_no_number_breaks_a_sequence() -> None:
    """It keeps its place, and nothing is learnt from it or across it."""
    buffer = LabelBuffer(20, linked=True)
    obs = numbered(6)
    obs[3, 1] = np.nan
    buffer.add(obs, flat(6), np.array([0, 1, 1, 1, 1, 1], np.int32))
    assert (buffer.seen, buffer.refused) == (5, 1)
    found = buffer.draw_sequences(40, 6, np.random.default_rng(0))
    for column, learnt in zip(found.obs[..., 0].T, found.learnt.T, strict=True):
        kept = column[learnt].tolist()
        assert kept == list(range(3))[: len(kept)] or set(kept) <= {4.0, 5.0}
    assert HOLE == -1


def test_links_survive_a_file(tmp_path: Path) -> None:
    """What was saved from a full ring gives the same sequences, oldest first."""
    buffer = LabelBuffer(8, linked=True)
    buffer.add(numbered(11), flat(11), np.array([0, *[1] * 10], np.int32))
    buffer.save(tmp_path / "labels.npz")
    again = LabelBuffer(8, linked=True)
    again.load(tmp_path / "labels.npz")
    one = buffer.draw_sequences(9, 5, np.random.default_rng(3))
    two = again.draw_sequences(9, 5, np.random.default_rng(3))
    assert (one.obs == two.obs).all()
    assert (one.learnt == two.learnt).all()


@pytest.mark.parametrize("architecture", ["gru:6", "lstm:5"])
def test_torchs_own_loop_is_ours(architecture: str) -> None:
    """Where nothing starts afresh, the quick way gives the same numbers."""
    network = Network(lively(architecture, DiscreteSpec(3)))
    obs = torch.randn(9, 4, 7, generator=torch.Generator().manual_seed(0))
    never = torch.zeros((9, 4), dtype=torch.bool)
    with torch.no_grad():
        slow, fast = network.follow(obs, never), network.follow(obs)
    for left, right in zip(slow, fast, strict=True):
        assert torch.allclose(left, right, atol=1e-5)


def recalled(architecture: str, steps: int) -> float:
    """Teach an executor to say what it was shown ten ticks ago; give its agreement."""
    random = np.random.default_rng(0)
    distiller = Distiller(
        initial(architecture, SPEC, seed=0),
        DistillerOptions(seed=0, ticks=12, burn_in=0, batch=256),
    )
    for _ in range(200):
        shown = random.integers(0, 2, 8)
        obs = np.zeros((10, 8, 2), np.float32)
        obs[0, :, 0] = 2.0 * shown - 1.0
        obs[-1, :, 1] = 1.0
        wanted = np.zeros((10, 8, 2), np.float32)
        wanted[-1, np.arange(8), shown] = 4.0
        link = np.full((10, 8), 8, np.int32)
        link[0] = 0
        distiller.add(obs.reshape(80, 2), Categorical(wanted.reshape(80, 2)), link.ravel())
    for turn in range(steps):
        distiller.schedule(turn / steps)
        distiller.step()
    executor = distiller.freeze()
    right = 0
    for choice in (0, 1):
        one = np.zeros((10, 2), np.float32)
        one[0, 0], one[-1, 1] = 2.0 * choice - 1.0, 1.0
        right += int(executor.follow(one)[-1].argmax() == choice)
    return right / 2


@pytest.mark.parametrize("architecture", ["gru:8", "lstm:8"])
def test_a_memory_learns_what_no_single_observation_says(architecture: str) -> None:
    """What was shown ten ticks ago decides; without a memory it could not."""
    assert recalled(architecture, 300) == 1.0


class Blink(gym.Env[Floats, Any]):
    """Two ticks a lifetime; the second observation is always the same."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.tick = 0
        return np.array([self.np_random.choice([-1.0, 1.0]), 0.0], np.float32), {}

    def step(self, action: int) -> Any:
        self.tick += 1
        return np.array([0.0, 1.0], np.float32), 0.0, self.tick == 2, False, {}


def test_an_executor_that_drives_sees_every_state_and_forgets_in_time() -> None:
    """Its memory is what its own sequence gives, whoever drove before."""
    executor = lively_small()
    policy: Any = executor.policy
    seen: list[Floats] = []

    class Spy:
        """Passes on what the collector asks."""

        def initial_state(self, batch: int) -> Any:
            return policy.initial_state(batch)

        def __call__(self, obs: Floats, state: Any, /) -> Any:
            seen.append(np.concatenate([obs, state[0]], axis=1))
            return policy(obs, state)

    def planner(obs: Floats) -> Categorical:
        return Categorical(np.zeros((len(obs), 2), np.float32))

    collector = Collector(Blink, planner, SPEC, count=3, seed=0)
    links = [collector.step(Spy(), 0.5).labels.link for _ in range(6)]
    zero = np.zeros((3, executor.memory), np.float32)
    for tick, rows in enumerate(seen):
        if tick % 2 == 0:
            assert (rows[:, 2:] == 0).all()
        else:
            _, after = executor.advance(seen[tick - 1][:, :2], zero)
            assert (rows[:, 2:] == after).all()
    assert [each.tolist() for each in links if each is not None] == [
        [0, 0, 0] if tick % 2 == 0 else [3, 3, 3] for tick in range(6)
    ]
    collector.close()


def lively_small() -> Executor:
    executor = initial("gru:4", SPEC, seed=3)
    vector = executor.vector()
    vector += np.random.default_rng(0).standard_normal(len(vector)).astype(np.float32)
    return executor.with_vector(vector, 1)


def test_labels_without_links_teach_no_memory() -> None:
    """They are refused, and so is a live distiller with a memory."""
    distiller = Distiller(initial("gru:4", SPEC))
    with pytest.raises(ConfigError, match="link"):
        distiller.add(numbered(3), flat(3))
    with pytest.raises(ConfigError, match="agentkd distill"):
        build("gru:4", to_json(SPEC))


@pytest.mark.parametrize("architecture", ["cnn:4x3/2,8", "attention:8/2/1"])
def test_images_and_tokens_are_learnt(architecture: str) -> None:
    """Which half of an image is brighter; the normaliser is one pair a channel."""
    spec = Spec(ObsSpec((Part("", "box", (6, 6, 1), "uint8"),)), DiscreteSpec(2))
    random = np.random.default_rng(0)
    left = random.integers(0, 2, 4000).astype(bool)
    image = random.integers(60, 160, (4000, 6, 6)).astype(np.float32)
    image[:, :, :3] += np.where(left, 40, -40)[:, None, None]
    obs = image.reshape(4000, 36)
    logits = np.stack([np.where(left, 3, -3), np.where(left, -3, 3)], 1)
    distiller = Distiller(initial(architecture, spec), DistillerOptions(batch=128))
    distiller.add(obs[:3000], Categorical(logits[:3000].astype(np.float32)))
    for step in range(250):
        distiller.schedule(step / 250)
        distiller.step()
    executor = distiller.freeze()
    said = executor.outputs(obs[3000:]).argmax(1)
    assert (said == logits[3000:].argmax(1)).mean() > 0.9
    if architecture.startswith("cnn"):
        assert len(set(executor.mean.tolist())) == 1


def test_what_was_left_out_is_drawn_by_nobody() -> None:
    """A label that is no number keeps its place in a linked buffer, and no more."""
    buffer = LabelBuffer(20, linked=True)
    obs = numbered(4)
    obs[:, 1] = 1.0
    obs[2, 0] = np.nan
    buffer.add(obs, flat(4), np.array([0, 1, 1, 1], np.int32))
    drawn, _ = buffer.draw(200, np.random.default_rng(0))
    assert (drawn[:, 1] == 1.0).all()
    assert len(buffer.all()[0]) == 3


def test_a_cut_amid_an_episode_is_no_beginning() -> None:
    """Its burn-in is not learnt from."""
    buffer = LabelBuffer(20, linked=True)
    buffer.add(numbered(6), flat(6), np.array([CUT, 1, 1, 1, 1, 1], np.int32))
    found = buffer.draw_sequences(30, 6, np.random.default_rng(0), burn_in=2)
    assert not found.learnt[:2].any()
    assert found.learnt[2:].any()
