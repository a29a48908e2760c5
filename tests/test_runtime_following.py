"""A planner hears which executor acts: at the start, between two answers, and after a restart."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentkd.errors import PlannerError, SpecError
from agentkd.executors.architecture import initial
from agentkd.executors.executor import Executor
from agentkd.runtime import Agent, InlineDistiller, Patience, Process, ProcessPlanner
from agentkd.types import ActionDist, Floats
from tests.runtime_children import BOX, SPEC, Towards, constant, one_hot
from tests.waiting import ENOUGH, wait_for

QUICK = Patience(start=ENOUGH, answer=ENOUGH, backoff=0.01, most_backoff=0.05)


class Hearing:
    """Chooses one more than the executor that it heard of, and 0 if of none.

    It writes down what each one chooses, and - for none.
    """

    def __init__(self, record: str = "") -> None:
        self.heard: Executor | None = None
        self.record = record

    def follow(self, executor: Executor | None) -> None:
        self.heard = executor
        if self.record:
            with Path(self.record).open("a") as file:
                file.write("-" if executor is None else str(executor.act(see(0))))

    def __call__(self, obs: Floats) -> ActionDist:
        if obs[:, 1].any():
            os._exit(9)
        choice = -1 if self.heard is None else int(self.heard.act(obs[0]))
        return one_hot(np.full(len(obs), choice + 1))


class Deaf(Hearing):
    """Raises when it hears of another executor."""

    def follow(self, executor: Executor | None) -> None:
        if self.heard is not None:
            raise RuntimeError("not now")
        self.heard = executor


def see(*numbers: float) -> Any:
    return np.array([*numbers, 0, 0][:3], np.float32)


def test_a_planner_here_hears_of_each_executor_before_its_next_answer() -> None:
    """At the start, after swaps and rollbacks; a swap that is refused it does not hear of."""
    with Agent(constant(0), planner=Hearing(), planner_latency=0) as agent:
        assert agent.act(see(0)) == 1
        agent.swap(constant(1))
        assert agent.act(see(1)) == 2
        with pytest.raises(SpecError):
            agent.swap(initial("linear", BOX))
        assert agent.act(see(2)) == 2
        agent.rollback()
        assert agent.act(see(3)) == 1


def test_what_is_learnt_reaches_the_planner() -> None:
    """Labels of the planner teach an executor that the planner then hears of, at the same tick in
    each run."""

    def lived() -> list[int]:
        learns = InlineDistiller(Towards(), swap_every=2)
        options: dict[str, Any] = {"planner_latency": 0, "distiller": learns}
        with Agent(constant(0), planner=Hearing(), **options) as agent:
            return [agent.act(see(number)) for number in range(12)]

    told = lived()
    assert told[0] == 1
    assert 2 in told
    assert told == lived()


def test_a_planner_that_cannot_hear_keeps_no_swap_back() -> None:
    """What it raises is counted with its errors, and the executor is swapped all the same."""
    with Agent(constant(0), planner=Deaf(), planner_latency=0) as agent:
        agent.swap(constant(2))
        assert agent.executor.act(see(0)) == 2
        assert agent.act(see(0)) == 1
        metrics = agent.metrics()
    assert metrics["planner_errors_total"] == 1
    assert "not now" in metrics["planner_error"]
    policy = Deaf()
    policy.heard = constant(0)
    agent = Agent(constant(0), planner=policy, planner_latency=0)
    with pytest.raises(PlannerError, match="not now"):
        agent.start()


def test_a_planner_that_takes_no_executor_hears_of_none() -> None:
    """Where the executor takes no part there is none to follow."""
    policy = Hearing()
    policy.heard = constant(3)
    with Agent(constant(0), planner=policy, planner_latency=0, mode="planner") as agent:
        assert agent.act(see(0)) == 0


def test_a_planner_elsewhere_hears_too_and_again_after_it_died(tmp_path: Path) -> None:
    """Numbers of the same architecture travel; of another one it hears that it is unknown."""
    record = tmp_path / "heard"
    process = Process("tests.test_runtime_following:Hearing", {"record": str(record)}, nice=0)
    port = ProcessPlanner(process, patience=QUICK)
    with Agent(constant(0), planner=port) as agent:

        def heard(text: str, fault: float = 0.0) -> None:
            def told() -> bool:
                agent.act(see(0, fault))
                return record.exists() and record.read_text() == text

            wait_for(told)

        heard("0")
        agent.swap(constant(1))
        heard("01")
        agent.swap(initial("mlp:5", SPEC))
        heard("01-")
        agent.swap(constant(2))
        heard("01-2")
        # A start that finds another architecture knows of none.
        agent.rollback()
        heard("01-2-")
        wait_for(
            lambda: (
                agent.act(see(0, 1)) in range(4)
                and agent.metrics()["planner_restarts_total"]["died"] > 0
            )
        )
        agent.swap(constant(3))
        wait_for(lambda: agent.act(see(0)) in range(4) and record.read_text().endswith("3"))
