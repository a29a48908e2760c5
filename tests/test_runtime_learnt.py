"""Learnt weights are swapped in by stages, between ticks."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd import dists
from agentkd.deploy.bundle import load, read_bundle, write_bundle
from agentkd.errors import BundleError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.runtime import Agent, swaps
from agentkd.runtime.distiller import DistillerCounts, DistillerPort
from agentkd.runtime.workers.channels import LabelRing
from agentkd.types import Floats, Labels
from tests.runtime_children import BOX, constant, one_hot
from tests.test_runtime_swaps import see, start
from tests.waiting import ENOUGH


class Learnt(DistillerPort):
    """A distiller whose weights are given by hand."""

    def __init__(self) -> None:
        self.fresh: list[Floats] = []
        self.followed: list[Executor] = []

    def open(self, executor: Executor) -> LabelRing:
        return LabelRing(executor.spec)

    def weights(self) -> Floats | None:
        return self.fresh.pop() if self.fresh else None

    def follow(self, executor: Executor) -> None:
        self.followed.append(executor)

    def counts(self) -> DistillerCounts:
        return DistillerCounts()

    def close(self) -> None:
        """Give nothing more."""


def learning() -> tuple[Agent, Learnt]:
    """Start an agent whose weights come by hand, without a thread."""
    port = Learnt()
    return start(Agent(constant(0), distiller=port)), port


def test_learnt_weights_act_after_the_last_stage_only() -> None:
    """A swap is made ready in stages; until the last one the former executor acts."""
    agent, port = learning()
    port.fresh.append(constant(1).vector())
    stages = 0
    for _ in agent._swaps.learn():
        stages += 1
        assert agent.act(see(0)) == 0
    assert agent.act(see(0)) == 1
    assert stages >= 4
    assert agent.metrics()["swaps_total"] == 1
    assert agent.executor.version == 1
    agent.close()


def test_weights_learnt_before_another_swap_are_dropped_at_any_stage() -> None:
    """An executor that is swapped in by hand between two stages is not replaced."""
    agent, port = learning()
    port.fresh.append(constant(1).vector())
    staged = agent._swaps.learn()
    next(staged)
    next(staged)
    agent.swap(constant(2))
    for _ in staged:
        pass
    assert agent.act(see(0)) == 2
    metrics = agent.metrics()
    assert (metrics["swaps_total"], metrics["swaps_refused_total"]) == (1, {"stale": 1})
    agent.close()


def test_weights_that_fail_at_a_stage_leave_the_executor() -> None:
    """NaN is refused and counted, and the distiller goes on from the executor that acts."""
    agent, port = learning()
    port.fresh.append(np.full_like(constant(1).vector(), np.nan))
    for _ in agent._swaps.learn():
        pass
    assert agent.act(see(0)) == 0
    assert agent.metrics()["swaps_refused_total"] == {"numbers": 1}
    assert [each.version for each in port.followed] == [agent.executor.version]
    agent.close()


def test_weights_taken_before_the_end_are_swapped_in_at_the_end() -> None:
    """A swap that was begun between two ticks is finished when the agent closes."""
    agent, port = learning()
    port.fresh.append(constant(1).vector())
    chore = next(each for each in agent.chores._chores if each.name == "weights")
    assert not chore.step()
    agent.close()
    assert agent.executor.version == 1


def test_a_swap_that_takes_long_holds_no_tick_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """While another thread reads a file to swap in, learnt weights are swapped in between ticks."""
    reads, go = threading.Event(), threading.Event()

    def slow(path: Any, **options: Any) -> Any:
        reads.set()
        go.wait(ENOUGH)
        raise BundleError(f"{path} is gone")

    monkeypatch.setattr(swaps, "read_bundle", slow)
    agent, port = learning()
    port.fresh.append(constant(1).vector())
    refused: list[BaseException] = []

    def swap() -> None:
        try:
            agent.swap("other.akd")
        except BundleError as error:
            refused.append(error)

    thread = threading.Thread(target=swap)
    thread.start()
    reads.wait(ENOUGH)
    for _ in agent._swaps.learn():
        pass
    assert agent.act(see(0)) == 1
    go.set()
    thread.join()
    assert refused
    assert agent.act(see(0)) == 1
    agent.close()


def test_weights_are_not_taken_while_another_swap_tells_the_distiller() -> None:
    """What was learnt before does not replace an executor that acts already."""
    agent, port = learning()
    telling, tell, asked = threading.Event(), threading.Event(), threading.Event()
    weights = port.weights

    def follow(executor: Executor) -> None:
        del executor
        telling.set()
        assert tell.wait(ENOUGH)
        port.fresh.clear()

    def take() -> Floats | None:
        asked.set()
        return weights()

    port.follow, port.weights = follow, take  # type: ignore[method-assign]
    port.fresh.append(constant(1).vector())
    threads = [threading.Thread(target=agent.swap, args=(constant(2),))]
    threads[0].start()
    assert telling.wait(ENOUGH)
    threads.append(threading.Thread(target=agent._swaps.take_learnt))
    threads[1].start()
    asked.wait(0.2)  # without a lock it would be asked now
    tell.set()
    for thread in threads:
        thread.join()
    assert agent.act(see(0)) == 2
    agent.close()


def test_an_executor_in_memory_brings_the_labels_of_its_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Loaded or read, it is learnt from with them; a warning says where there are none."""
    obs = np.arange(30, dtype=np.float32).reshape(10, 3)
    write_bundle(tmp_path / "kept.akd", constant(0), labels=Labels(obs, one_hot(range(10))))
    read = read_bundle(tmp_path / "kept.akd").executor
    for executor in (read, load(tmp_path / "kept.akd")):
        owner = Agent(executor)
        distiller, _ = swaps.distiller_for(executor, executor, owner)
        found = read_bundle(distiller.arguments["executor"]).labels
        assert found is not None
        assert np.array_equal(found.obs, obs)
    assert not caplog.records
    swaps.distiller_for(constant(0), constant(0), owner)
    assert "no kept labels" in caplog.text


def test_each_action_is_that_of_the_executor_named_while_others_are_swapped_in() -> None:
    """Swaps from another thread never mix the numbers of two executors."""
    known = [replace(initial("mlp:8", BOX, seed=seed), version=seed) for seed in range(6)]
    agent, ended = Agent(known[0]), threading.Event()

    def swap() -> None:
        while not ended.is_set():
            for each in known:
                agent.swap(each)

    thread = threading.Thread(target=swap)
    thread.start()
    random = np.random.default_rng(0)
    versions: set[int] = set()
    try:
        while len(versions) < len(known):
            obs = random.standard_normal(3).astype(np.float32)
            found = agent.decide(obs)
            versions.add(found.version)
            wanted = dists.mode(known[found.version](obs[None]), BOX.action)[0]
            assert np.allclose(found.action, wanted, atol=1e-5)
    finally:
        ended.set()
        thread.join()
