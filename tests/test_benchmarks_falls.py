"""Falls beside swaps: what is replayed is what was lived, and counts are compared fairly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agentkd import env_spec, read_bundle
from agentkd.deploy.bundle import write_bundle
from agentkd.executors.architecture import initial
from agentkd.types import Labels
from benchmarks import falls
from benchmarks.falls import Lived, Options, chance, findings, lesson, rate, replayed, taught
from benchmarks.live_learning import ROBOTS, Robot, environment
from tests.cli_reports import undocumented

ROBOT = "pendulum"


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    """A robot that learns from another executor, and falls in about half of its windows."""
    monkeypatch.setitem(ROBOTS, ROBOT, Robot("Pendulum-v1", "planner.akd"))
    monkeypatch.setattr(falls, "executor_of", lambda *_: tmp_path / "pupil.akd")
    spec = env_spec(environment(ROBOTS[ROBOT]))
    planner, pupil = initial("mlp:8", spec, seed=1), initial("mlp:8", spec, seed=2)
    # Large actions, so that what is learnt shows.
    planner = planner.with_vector(8 * planner.vector(), 0)
    obs = np.random.default_rng(0).standard_normal((400, 3)).astype(np.float32)
    write_bundle(tmp_path / "planner.akd", planner)
    write_bundle(tmp_path / "pupil.akd", pupil, labels=Labels(obs, planner(obs)))
    return Options(
        planners=tmp_path, robot=ROBOT, ticks=1200, window=25, floor=-120.0, steps=4, repeats=1
    )


def test_a_replay_is_the_live_run(options: Options, tmp_path: Path) -> None:
    """From the same start the replayed swaps give the same falls; without them others."""
    lived, swaps = taught(options, 0)
    assert len(swaps) > 1
    assert lived.ticks + options.window * lived.falls == options.ticks
    first = read_bundle(tmp_path / "pupil.akd").executor
    env = environment(ROBOTS[ROBOT])
    assert replayed(env, first, swaps, 0, options) == lived
    assert replayed(env, first, {}, 0, options) != lived


def test_a_lesson_counts_every_arm(options: Options) -> None:
    """Its result is what the report's documentation names."""
    found = lesson(0, options)
    for arm in ("alone", "swaps", "last", "live"):
        assert found[arm]["ticks"] + options.window * found[arm]["falls"] == options.ticks
    assert undocumented(found) == []


def test_rates_have_exact_intervals() -> None:
    """Known values of the Poisson and the binomial distribution."""
    assert rate(Lived(100_000, 0)) == pytest.approx((0.0, 0.0, 3.689), abs=1e-3)
    assert rate(Lived(200_000, 10)) == pytest.approx((5.0, 2.398, 9.195), abs=1e-3)
    assert chance(Lived(1000, 5), Lived(1000, 0)) == pytest.approx(1 / 32)
    assert chance(Lived(1000, 0), Lived(1000, 5)) == 1.0
    assert chance(Lived(1000, 0), Lived(1000, 0)) == 1.0


def test_an_arm_that_falls_more_often_is_found(options: Options) -> None:
    """Ten falls against one in as many ticks are no chance; three are."""
    arms = {arm: {"ticks": 1000, "falls": 1} for arm in ("alone", "swaps", "last", "live")}
    assert findings(options, [{**arms, "swaps": {"ticks": 1000, "falls": 3}}]).passed
    assert not findings(options, [{**arms, "swaps": {"ticks": 1000, "falls": 10}}]).passed
