"""The measuring of one cell, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentkd.bench.cells import Cell
from agentkd.bench.orders import Order, done_of, order_of, words_of
from agentkd.bench.work import carry_out, measure
from agentkd.deploy.bundle import from_bytes
from agentkd.errors import WorkerError

ACTING: dict[str, Any] = {
    "env": "tests.bench_methods:Stroll",
    "planner": "tests.bench_methods:forward",
    "executor": "mlp:4",
    "method": "fresh",
    "reference": "tests.bench_methods:fresh",
    "labels": 10,
    "episodes": 2,
}


def test_an_executor_is_made_once_and_known_afterwards() -> None:
    """The same figures, whether it was made here or read."""
    made: list[bytes] = []
    first = measure(Cell(arm="executor", **ACTING), None, made.append)
    (known,) = made
    again = measure(Cell(arm="executor", **ACTING), known, made.append)
    assert made == [known]
    assert (again.returns, again.parameters, again.making) == (first.returns, first.parameters, 0)


def test_an_executor_that_sees_less_is_measured_as_any() -> None:
    """Alone, in integers and beside a late planner."""
    made: list[bytes] = []
    for arm in ("executor", "int8", "runtime"):
        cell = Cell(arm=arm, executor_sees="0:1", latency=1, **ACTING)
        assert len(measure(cell, made[0] if made else None, made.append).returns) == 2
    (known,) = made
    assert from_bytes(known).executor.spec.obs.parts[0].seen is not None


def test_a_planner_that_is_late_acts_late() -> None:
    """An episode of 3 steps that pays 2 a step pays less when the first answer comes late."""
    alone = {"env": ACTING["env"], "planner": ACTING["planner"], "episodes": 1}
    first = measure(Cell(arm="planner", **alone), None, lambda _: None)
    late = measure(Cell(arm="planner", latency=2, **alone), None, lambda _: None)
    assert first.returns == (6.0,)
    assert late.returns == (2.0,)


def test_an_executor_is_kept_although_its_cell_fails(tmp_path: Path) -> None:
    """It was made before it was measured."""
    file = tmp_path / "executor.akd"
    cell = Cell(arm="executor", **{**ACTING, "env": "tests.bench_envs:Walk", "first_seed": 1})
    done = carry_out(Order("k", cell, str(file)))
    assert not done.error, done.error
    broken = Cell(arm="runtime", **ACTING, guard="tests.bench_methods:gone")
    file.unlink()
    done = carry_out(Order("k", broken, str(file)))
    assert "'gone'" in done.error
    assert file.exists()


def test_what_workers_are_told_and_say_is_read_back() -> None:
    """Exactly; anything else is an error of ours."""
    order = Order("k", Cell(arm="executor", **ACTING, options={"scale": 0.1}), "x.akd")
    from dataclasses import asdict
    from json import dumps

    assert order_of(dumps(asdict(order)).encode()) == order
    done = carry_out(Order("k", Cell(arm="random", env=ACTING["env"], episodes=2), ""))
    assert done_of(words_of(done)) == done
    for words in (b"", b"[]", b'{"key": "k"}'):
        with pytest.raises(WorkerError):
            done_of(words)
