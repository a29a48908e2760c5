"""A world that changes: labels of the old one are put away, and come back with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agentkd import dists
from agentkd.distillation.buffer import LabelBuffer
from agentkd.distillation.change import ChangeOptions, Past
from agentkd.distillation.distiller import Distiller, DistillerOptions
from agentkd.distillation.live import LiveDistiller, LiveOptions
from agentkd.errors import ConfigError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.runtime import Agent, InlineDistiller
from agentkd.types import Floats, Labels, Point
from tests.test_distill_live import BOX, Drift, rule, states, steer

FAST = DistillerOptions(batch=64, learning_rate=1e-2)
BEFORE = 80 * 16
"""Labels before a change can be told, and some more."""


def noticed(errors: list[float]) -> list[int]:
    """Over which windows a jump is seen at the end of errors, one for each run."""
    past = Past()
    past.errors.extend(errors)
    return [window for window in (4, 8, 16) if past.jumped(window, 3.0)]


def test_a_jump_above_all_that_was_seen_is_a_change() -> None:
    """Whatever came before at least once is none; a small jump takes longer to show."""
    random = np.random.default_rng(0)
    usual = random.uniform(0.01, 0.05, 200).tolist()
    assert noticed(usual) == []
    assert noticed([*usual, 0.3, 0.3]) == [4]
    assert noticed([*usual, *[0.5] * 4]) == [4, 8]
    assert noticed([*usual, 9.0]) == []
    falls = [*usual[:100], *[0.3] * 4, *usual[100:]]
    assert noticed([*falls, *[0.5] * 4]) == []
    assert noticed([*falls, *[0.5] * 16]) == [16]


def test_there_has_to_be_a_past() -> None:
    """Few labels tell no jump, nor do errors that are as good as none."""
    assert noticed([*[0.01] * 40, *[1.0] * 8]) == []
    assert noticed([*[1e-4] * 200, *[0.015] * 8]) == []
    past = LiveDistiller(initial("mlp:4", BOX), untaught=True).world.past
    past.errors.extend([*[0.01] * 100, *[1.0] * 4])
    assert past.jumped(4, 3.0) == 0
    past.errors.extend([*[0.01] * 200, *[9.0] * 4])
    assert past.jumped(4, 3.0) == 4


def test_learning_from_nothing_is_no_change() -> None:
    """Errors that fall, and rise again to a part of what they were, are one world."""
    falling = (6.0 * 0.97 ** np.arange(300)).tolist()
    assert noticed(falling) == []
    assert noticed([*falling, *[1.0] * 16]) == []


@pytest.mark.parametrize(
    "options", [{"factor": 1.0}, {"windows": ()}, {"windows": (1,)}, {"shelf": -1}]
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    """What could never work is refused."""
    with pytest.raises(ConfigError):
        ChangeOptions(**options)


@pytest.mark.parametrize("added", [5, 8, 13])
def test_a_buffer_forgets_its_newest_labels(added: int) -> None:
    """However it wrapped; what comes then follows on what is left."""
    buffer = LabelBuffer(8)

    def add(first: int, count: int) -> None:
        rows = np.arange(first, first + count, dtype=np.float32)[:, None]
        buffer.add(rows, Point(rows))

    for index in range(added):
        add(index, 1)
    buffer.forget(3)
    first = max(0, added - 8)
    assert sorted(buffer.all()[0][:, 0]) == list(range(first, added - 3))
    add(100, 2)
    assert sorted(buffer.all()[0][:, 0]) == [*range(first, added - 3), 100, 101]
    buffer.forget(50)
    assert len(buffer) == 0


def good(sign: int = 1) -> Executor:
    """Distil the rule, or another one, well."""
    distiller = Distiller(initial("mlp:32", BOX, seed=1), FAST)
    obs = states(4096, seed=1)
    distiller.add(obs, rule("squashed")(sign * obs))
    for _ in range(400):
        distiller.step()
    return distiller.freeze()


def feed(distiller: LiveDistiller, labels: int, sign: int, seed: int) -> Iterator[Floats | None]:
    """Give labels as a run does, of the rule with a sign; yield snapshots."""
    for index in range(labels // 32):
        obs = states(32, seed=1000 * seed + index)
        distiller.add(obs, rule("squashed")(sign * obs))
        for _ in range(3):
            distiller.step()
        yield distiller.snapshot()


def error(executor: Executor | None, sign: int) -> float:
    """How far an executor's actions are from a rule's, in the mean square."""
    assert executor is not None
    obs = states(1024, seed=9)
    mine = dists.mode(executor(obs), BOX.action)
    right = dists.mode(rule("squashed")(sign * obs), BOX.action)
    return float(np.square(mine - right).mean())


def test_it_learns_anew_and_goes_back() -> None:
    """A change drops old labels, kept ones too; when the world is as before, so is who acts."""
    executor, obs = good(), states(512, seed=3)
    kept = Labels(obs, rule("squashed")(obs))
    distiller = LiveDistiller(executor, FAST, kept=kept)
    list(feed(distiller, BEFORE, 1, seed=1))
    first, before = distiller.world, distiller.world.acting
    assert (distiller.changes(), error(before, 1) < 0.01) == ({}, True)
    list(feed(distiller, 128, -1, seed=2))
    assert distiller.changes() == {"new": 1}
    assert len(distiller.distiller.buffer) <= 128
    # The old world's labels and executor are as they were.
    obs, packed = first.distiller.buffer.all()
    wanted = dists.pack(rule("squashed")(np.ascontiguousarray(obs)))
    assert np.allclose(packed, wanted, atol=1e-5)
    list(feed(distiller, 1280, -1, seed=3))
    assert distiller.refused().get("kept", 0) == 0
    assert error(distiller.world.acting, -1) < 0.05
    *_, last = feed(distiller, 128, 1, seed=4)
    assert distiller.changes() == {"new": 1, "back": 1}
    assert distiller.world is first
    assert before is not None
    assert last is not None
    assert np.array_equal(last, before.vector())


def test_a_third_world_is_new_and_the_second_is_remembered() -> None:
    """Each world has its own labels; the shelf holds so many."""
    executor = good()
    distiller = LiveDistiller(executor, FAST)
    list(feed(distiller, BEFORE, 1, seed=1))
    list(feed(distiller, BEFORE, -1, seed=2))
    second = distiller.world
    list(feed(distiller, 256, 1, seed=3))
    list(feed(distiller, 256, -1, seed=4))
    assert distiller.changes() == {"new": 1, "back": 2}
    assert distiller.world is second
    empty = LiveDistiller(executor, FAST, live=LiveOptions(change=ChangeOptions(shelf=0)))
    list(feed(empty, BEFORE, 1, seed=1))
    list(feed(empty, BEFORE, -1, seed=2))
    list(feed(empty, 256, 1, seed=3))
    assert empty.shelf == []
    assert empty.changes()["new"] >= 1


def test_old_labels_would_hold_it_back() -> None:
    """Without noticing, kept and buffered labels of the old world are learnt and judged by."""
    executor, obs = good(), states(512, seed=3)
    kept = Labels(obs, rule("squashed")(obs))
    reached = {}
    for name, change in (("noticing", ChangeOptions()), ("not", None)):
        distiller = LiveDistiller(executor, FAST, kept=kept, live=LiveOptions(change=change))
        list(feed(distiller, BEFORE, 1, seed=1))
        list(feed(distiller, 640, -1, seed=2))
        reached[name] = error(distiller.world.acting, -1)
    assert reached["noticing"] < 0.2 * reached["not"]


@pytest.mark.parametrize("taught", [False, True])
def test_in_one_world_no_change_is_noticed(taught: bool) -> None:
    """Neither with a good executor nor with one that learns to steer from nothing."""
    executor = initial("mlp:16", BOX, seed=1)
    if taught:
        distiller = Distiller(executor, FAST)
        obs = 1.5 * states(2048, seed=1)
        distiller.add(obs, steer(obs))
        for _ in range(300):
            distiller.step()
        executor = distiller.freeze()
    slow = replace(FAST, learning_rate=2e-3)
    live = LiveDistiller(executor, slow, untaught=not taught)
    port = InlineDistiller(live, swap_every=25)
    robot = Drift(0)
    with Agent(executor, planner=steer, planner_latency=1, distiller=port) as agent:
        seen = robot.x
        for tick in range(4000):
            seen, _ = robot.step(agent.act(seen))
            if tick % 500 == 499:
                robot.x = np.zeros(3, np.float32)
        assert agent.metrics()["changes_total"] == {}
    assert live.changes() == {}


def test_an_agent_counts_changes() -> None:
    """They are in its metrics, and the old executor's weights are swapped in again."""
    executor = good()
    live = LiveDistiller(executor, FAST)
    sign = 1

    def planner(obs: Floats) -> Any:
        return rule("squashed")(sign * obs)

    port = InlineDistiller(live, swap_every=25, steps_per_tick=1)
    with Agent(executor, planner=planner, planner_latency=0, distiller=port) as agent:
        for tick in range(BEFORE + 1200):
            sign = -1 if BEFORE <= tick < BEFORE + 800 else 1
            agent.act(states(1, seed=tick)[0])
        assert agent.metrics()["changes_total"] == {"new": 1, "back": 1}
        assert error(agent.executor, 1) < 0.01


def test_a_swap_by_hand_is_no_change() -> None:
    """How far off the former executor was says nothing of the one that was put in."""
    executor, obs = good(), states(512, seed=3)
    kept = Labels(obs, rule("squashed")(obs))
    distiller = LiveDistiller(executor, FAST, kept=kept)
    list(feed(distiller, BEFORE, 1, seed=1))
    distiller.follow(good(-1).vector())
    list(feed(distiller, 480, 1, seed=2))
    assert distiller.changes() == {}
    assert distiller.world.gate is not None


def test_what_was_put_in_by_hand_stays() -> None:
    """An executor of an earlier world does not replace it."""
    distiller = LiveDistiller(good(), FAST)
    list(feed(distiller, BEFORE, 1, seed=1))
    list(feed(distiller, 640, -1, seed=2))
    assert distiller.changes() == {"new": 1}
    assert distiller.shelf
    distiller.follow(good().vector())
    assert not distiller.shelf


def test_a_planner_that_is_stopped_is_no_world() -> None:
    """The same answer in every state, as in an outage, is not learnt without the gate."""
    executor, obs = good(), states(512, seed=3)
    kept = Labels(obs, rule("squashed")(obs))
    distiller = LiveDistiller(executor, FAST, kept=kept)
    list(feed(distiller, BEFORE, 1, seed=1))
    for index in range(24):
        obs = states(32, seed=7000 + index)
        same = dists.rows(dists.packed(rule("squashed")(obs)), np.zeros(len(obs), int))
        distiller.add(obs, same)
        for _ in range(3):
            distiller.step()
        distiller.snapshot()
    assert distiller.changes() == {}
    assert error(distiller.world.acting, 1) < 0.05
