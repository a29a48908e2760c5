"""report.json, as `agentkd eval` compares with it."""

from __future__ import annotations

import math
from pathlib import Path

from agentkd.report.comparison import Candidate, saved
from tests.fuzz import mutate
from tests.fuzz.draw import Draw
from tests.fuzz.target import Files, Target

_ENV = "CartPole-v1"
_SEED = {
    "schema": 1,
    "argv": ["agentkd", "distill"],
    "versions": {"agentkd": "0.1.0"},
    "env": _ENV,
    "seed": 3,
    "eval_seed": 1000,
    "planner_parameters": 4000,
    "executor_parameters": 100,
    "returns": {"planner": [500.0, 499.0], "executor": [498.0, 500], "random": [20.0]},
    "arms": {"runtime": {"returns": [1.0, 2.0]}},
    "policies": [{"ref": "a.zip", "returns": [1.0, 2.5], "parameters": 7}],
}


def build(draw: Draw) -> Files:
    """Make a report."""
    return {"report.json": mutate.document(draw, _SEED)}


def read(folder: Path) -> list[Candidate]:
    """Read the returns that it holds."""
    return saved(folder / "report.json", "report.json", _ENV)


def work(found: list[Candidate]) -> None:
    """Compare by them: they are numbers."""
    for each in found:
        assert all(math.isfinite(value) for value in each.returns)
        assert each.parameters >= 0


TARGET = Target("report", build, read, work)
