"""The planner of the cheetah with drawn physics."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentkd import environments
from agentkd.measure.evaluate import evaluate
from agentkd.planners import load_planner
from agentkd.spec import env_spec
from agentkd.testing import check_policy

pytest.importorskip("mujoco", reason="mujoco is not installed")
ENV = "envs.cheetah:agentkd/CheetahDrawn-v0"
PLANNER = Path(__file__).parents[1] / "policies" / "cheetah"


def test_it_runs_whatever_is_drawn() -> None:
    """Each of three cheetahs gets far; the planner is asked about joints, physics and speeds."""
    spec = env_spec(environments.make(ENV))
    planner = load_planner(str(PLANNER), spec, sees="joints,physics,speeds")
    assert planner.parameters == 20_620
    check_policy(planner.policy, spec)
    seen = evaluate(ENV, planner.policy, episodes=3, seed=1000, spec=spec)
    assert min(seen.returns) > 2000
