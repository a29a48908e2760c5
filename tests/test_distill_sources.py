"""Where labels come from: this process, others, and several at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agentkd.distillation import CollectionOptions
from agentkd.distillation.sources import HeadStart, Several
from agentkd.errors import ConfigError, PlannerError
from agentkd.types import Labels
from tests.test_distill_collector import say


class Given:
    """A source that gives what it is told to, one batch at a `take`."""

    restarts, dropped = 3, 2

    def __init__(self, batches: list[Any]) -> None:
        """Remember the batches; an error among them is raised."""
        self.batches = batches
        self.updates = self.closed = 0

    def take(self) -> list[Any]:
        """Give the next batch, nothing when there is none."""
        batch = self.batches.pop(0) if self.batches else []
        if isinstance(batch, Exception):
            raise batch
        return [batch] if batch else []

    def update(self, executor: Any, share: float) -> None:
        """Count."""
        self.updates += 1

    def returns(self) -> list[float]:
        """Give one."""
        return [7.0]

    def close(self) -> None:
        """Count."""
        self.closed += 1


NOBODY: Any = None


def label(number: int) -> Labels:
    """A batch that carries its number."""
    return Labels(np.full((1, 1), number, np.float32), say(0)(np.zeros((1, 1), np.float32)))


class Clock:
    """A clock on which each look takes a millisecond."""

    now = 0.0

    @classmethod
    def monotonic(cls) -> float:
        cls.now += 0.001
        return cls.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    """Give the source that has a head start a clock of its own."""
    monkeypatch.setattr("agentkd.distillation.sources.time", Clock)
    return Clock


def test_labels_come_from_here_until_they_come_from_there(clock: type[Clock]) -> None:
    """Then what collected here ends, and is not asked again."""
    here = Given([label(n) for n in range(100_000)])
    there = Given([[], [], label(-1), [], label(-2)])
    source = HeadStart(lambda: here, there)
    source.update(NOBODY, 1.0)
    firsts = [source.take() for _ in range(2)]
    assert all(labels and labels[0][0][0, 0] >= 0 for labels in firsts)
    assert [float(obs[0, 0]) for obs, *_ in source.take()] == [-1.0]
    assert here.closed == 1
    assert source.take() == []
    source.update(NOBODY, 1.0)
    assert (here.updates, there.updates) == (1, 2)
    assert (source.restarts, source.dropped, source.returns()) == (3, 2, [7.0])
    source.close()
    assert (here.closed, there.closed) == (1, 1)


def test_what_fails_here_is_left_to_the_other_source(clock: type[Clock]) -> None:
    """Neither a start that fails nor a planner that raises ends anything."""
    here = Given([label(0), PlannerError("worn out")])
    source = HeadStart(lambda: here, Given([[], [], label(-1)]))
    assert len(source.take()) == 1
    assert source.take() == []
    assert here.closed == 1
    assert len(source.take()) == 1

    def failing() -> Any:
        raise OSError("no wheel")

    assert HeadStart(failing, Given([])).take() == []


def test_several_sources_are_one(clock: type[Clock]) -> None:
    """Labels come from all; what is counted is added up, and all are closed."""
    first, second = Given([label(0), []]), Given([label(1), label(2)])
    source = Several([first, second])
    assert [float(obs[0, 0]) for obs, *_ in source.take()] == [0.0, 1.0]
    assert [float(obs[0, 0]) for obs, *_ in source.take()] == [2.0]
    source.update(NOBODY, 0.5)
    assert (first.updates, second.updates) == (1, 1)
    assert (source.restarts, source.dropped, source.returns()) == (6, 4, [7.0, 7.0])
    source.close()
    assert (first.closed, second.closed) == (1, 1)
    with pytest.raises(ConfigError, match="collectors is 0"):
        CollectionOptions(collectors=0)


def test_a_slow_planner_does_not_keep_the_distiller_waiting(clock: type[Clock]) -> None:
    """After one tick that took long, the rest comes from there."""

    class Slow(Given):
        def take(self) -> list[Any]:
            clock.now += 0.15
            return super().take()

    here = Slow([label(0), label(1)])
    source = HeadStart(lambda: here, Given([]))
    assert len(source.take()) == 1
    assert source.take() == []
    assert here.closed == 1
