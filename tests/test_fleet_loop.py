"""The closed loop of examples/fleet: what devices found hard makes the next executor."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from agentkd import dists, load
from agentkd.fleet.sharing import LEDGER
from agentkd.measure.evaluate import evaluate
from examples.fleet.closed_loop import calm, live, planner, wild
from tests.virtual_loop import run_virtually

pytest.importorskip("tuf")
pytest.importorskip("torch")


def test_the_next_executor_is_better_where_the_devices_are(tmp_path: Path) -> None:
    """A few of the states that they met are enough; and it is as good where it was before."""
    told = run_virtually(live(tmp_path, 3, 600))
    first, second = load(told.first), load(told.second)
    wanted = planner(told.met).action
    errors = [
        float(np.mean(np.abs(dists.mode(each(told.met), each.spec.action) - wanted)))
        for each in (first, second)
    ]
    assert errors[1] < errors[0] / 2
    far = [np.mean(evaluate(wild, each, episodes=5, seed=9).returns) for each in (first, second)]
    best = float(np.mean(evaluate(wild, planner, episodes=5, seed=9).returns))
    # What it lost against the planner it has mostly made up for.
    assert far[1] > best + (far[0] - best) / 2
    near = [np.mean(evaluate(calm, each, episodes=5, seed=9).returns) for each in (first, second)]
    assert near[1] > near[0] - 0.1
    # Three devices, three stretches each, sixteen observations of a stretch.
    assert told.sent == 3 * 3 * 16
    assert all((tmp_path / f"device-{each}" / LEDGER).exists() for each in range(3))
    assert told.active == {hashlib.sha256(told.second.read_bytes()).hexdigest()}
